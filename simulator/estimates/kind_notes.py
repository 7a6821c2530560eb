"""What an estimate must say of models whose layers are of several kinds."""

from __future__ import annotations

from collections.abc import Sequence

from workloads.layer_kinds import period_of_kinds
from workloads.model_spec import ModelSpec

__all__ = ["kind_notes"]


def kind_notes(model: ModelSpec, stages: float, by_hand: Sequence[float] = ()) -> list[str]:
    """Note where ``stages`` [1] hold their kinds of layers in other shares than the whole model; raises nothing.

    ``by_hand`` are the layers of stages, or of their chunks, where a plan says them [1].
    """
    period, mean = period_of_kinds(model), model.n_layers / stages
    if period == 1 or stages == 1 or all(layers % period == 0 for layers in by_hand or [mean]):
        return []
    laid = "layers of some stages" if by_hand else f"{mean:g} of a stage"
    return [
        f"kinds of layers follow a pattern of {period} layers, which does not divide the {laid}: every stage is taken "
        "to hold the model's mean layer, so the fullest one may take longer and need more memory than shown"
    ]
