"""Goal-conditioned model-predictive control in latent space, and the success rate it reaches.

    frame, goal --> encoder --> z, z_goal --+
    candidate actions ----------------------+-> roll-out --> distance to z_goal --> planner --> next actions

What plans (`planners`), what a plan costs (`goal`), where it is carried out (`environment`) and what comes of it
(`success`, `picture`) don't know each other's insides. The planner sees frames, never the environment's state.

Legend of the shape comments: E episodes, N candidate plans of each, H planned actions, T steps = H x action_block,
A width of an action, S width of an environment's state, D latent_dim_state.
"""
