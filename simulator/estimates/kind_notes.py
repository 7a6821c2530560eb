"""What an estimate must say of models whose layers are of several kinds."""

from __future__ import annotations

from workloads.layer_kinds import period_of_kinds
from workloads.model_spec import ModelSpec

__all__ = ["kind_notes"]


def kind_notes(model: ModelSpec, stages: float) -> list[str]:
    """Note where ``stages`` [1] hold their kinds of layers in other shares than the whole model; raises nothing."""
    period = period_of_kinds(model)
    if period == 1 or stages == 1 or (model.n_layers / stages) % period == 0:
        return []
    return [
        f"kinds of layers follow a pattern of {period} layers, which does not divide the "
        f"{model.n_layers / stages:g} of a stage: every stage is taken to hold the model's mean layer, so the fullest "
        "one may take longer and need more memory than shown"
    ]
