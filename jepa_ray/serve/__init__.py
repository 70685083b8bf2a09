"""The programs of a cluster, started with secure settings: `python -m jepa_ray.serve head|worker|mlflow|bucket`.

Each command checks its options, then replaces its own process by the real program (`ray start`, `mlflow server`), so
that a container's signals reach that program. Ray and MLflow are not imported here: only their command lines are built.

    program.py         a command line with its environment; secrets from files; addresses
    nodes.py           Ray's head and workers, and the token that protects them
    mlflow_server.py   the MLflow server and its users
    bucket.py          the bucket that stores artifacts and the state of sweeps
"""
