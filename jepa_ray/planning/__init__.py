"""Goal-conditioned model-predictive control in latent space, and its success rate.

    frame, goal --> encoder --> z, z_goal --+
    candidate actions ----------------------+-> roll-out --> distance to z_goal --> planner --> next actions

planners.py      search for the cheapest action sequence
goal.py          the cost of an action sequence: its distance to the goal
environment.py   the environments in which plans are carried out
success.py       the protocol, and the success rate
picture.py       pictures of planned episodes

A model plans from frames only; it never sees the state of the environment.

Letters in shape comments: E episodes, N candidate plans of each, H planned actions, T steps = H x action_block,
A width of an action, S width of an environment's state, D latent_dim_state.
"""
