"""Pure policies and how they are built from their declaration."""
