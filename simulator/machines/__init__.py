"""Figures of machines and fabrics as columns."""
