"""The JEPA world model in pure torch: no data loading, no optimiser, no Ray.

    state s   -> state encoder phi  -> z_s --+
    action a  -> action encoder g   -> z_a --+-> transition model T -> z_hat_s' --> MSE(z_hat_s', z_s')
    next s'   -> target encoder phi_target (EMA of phi, no gradient) -> z_s' -----/

Letters in shape comments: B batch, D latent_dim_state, A width of a raw action (in `transition.py` of an action
embedding), T tokens, K roll-out steps, F encoded frames of a window, P random directions of SIGReg, C, H, W channels,
height, width of a frame.
"""
