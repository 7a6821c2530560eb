"""Tables of measured rows in their committed schemas: which kind a file is, and its cells as typed values."""
