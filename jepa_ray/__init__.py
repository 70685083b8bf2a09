"""jepa-ray: hyperparameter sweeps for JEPA world models, on a laptop or a Ray cluster."""

__version__ = "0.1.0"
