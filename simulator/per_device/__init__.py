"""What one device does: the sharded graph, its counts, and its exchanges with others."""
