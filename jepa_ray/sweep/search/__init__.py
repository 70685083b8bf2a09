"""Which trial to train next and when to stop it: space, budget, samplers, warm starts, repeats, stopping rules."""
