"""The commands of `python -m jepa_ray.data`: info, convert and collect."""
