"""Columns over rows, each kept on no more axes than it depends on."""
