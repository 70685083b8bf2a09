"""Adapters of trained models to the interfaces of other libraries. They do not import these libraries."""
