"""Scenarios with axes: which rows a space has, which of them are legal, and their numbers side by side."""
