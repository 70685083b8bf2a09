"""What to try next and when to stop it: space, budget, samplers, warm starts, repeats, stopping rules."""
