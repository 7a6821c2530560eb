"""Scoring the engine against measured tables."""

from simulator.validation.report import Validation, validate

__all__ = ["Validation", "validate"]
