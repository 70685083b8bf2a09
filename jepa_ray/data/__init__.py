"""Trajectories on disk -> windows in memory. This package contains no model, no training and no Ray.

A *trajectory* (episode) of L rows has L - 1 transitions: `action[t]` moves row t to row t + 1. Trajectories
are read once into a memory-mapped cache (`cache`) that all workers on a node share. `dataset` splits them by
trajectory into training and validation data, and gathers batches by index.
"""
