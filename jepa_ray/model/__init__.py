"""The JEPA world model in pure torch: no data loading, no optimiser, no Ray.

    state s   -> state encoder phi  -> z_s --+
    action a  -> action encoder g   -> z_a --+-> transition model T -> z_hat_s' --> MSE(z_hat_s', z_s')
    next s'   -> target encoder phi_target (EMA of phi, no gradient) -> z_s' -----/

Letters in shape comments: B batch, D latent_dim_state, A latent_dim_action, T tokens, K roll-out steps,
C, H, W channels, height, width of a frame.
"""
