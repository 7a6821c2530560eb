"""What a user asks: scenarios with types and bounds, read, checked and resolved to catalog entries."""
