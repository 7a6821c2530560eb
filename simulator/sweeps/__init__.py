"""Spaces evaluated chunk by chunk, written in parts, resumed, kept and asked."""
