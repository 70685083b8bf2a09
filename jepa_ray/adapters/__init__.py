"""Our models behind other libraries' interfaces. Adapters follow a protocol and import none of these libraries."""
