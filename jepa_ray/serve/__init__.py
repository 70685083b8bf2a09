"""The programs of a cluster with settings that are safe to leave alone: `python -m jepa_ray.serve head|worker|mlflow`.

Each command checks what it was told, then becomes the real program (`ray start`, `mlflow server`), so that a container
has that as its process and signals reach it. Ray and MLflow are not imported here: only their command lines are built.

    environment.py   secrets from files, addresses, and the program to become
    nodes.py         Ray's head and workers, and the token that they ask for
    tracking.py      the MLflow server and its users
    bucket.py        the bucket where artifacts and the state of sweeps are kept
"""
