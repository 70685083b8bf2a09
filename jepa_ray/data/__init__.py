"""Trajectories on disk -> windows in memory. No model, no training, no Ray.

A *trajectory* (episode) of L rows has L - 1 transitions: `action[t]` moves row t to row t + 1. Trajectories
are read once into a memory-mapped cache (`cache`) that every worker on a node shares, split by
trajectory, and gathered by index (`dataset`).
"""
