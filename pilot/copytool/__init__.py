"""Tools that move files, found by name (``registry.load_tool``)."""
