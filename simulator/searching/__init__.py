"""The best rows of a generated space of plans, or of an open space of machines."""
