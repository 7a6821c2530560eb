"""Which combinations make sense: named rules over arrays."""
