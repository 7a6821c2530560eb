"""A trace beside the simulated graph: time by class of operator and phase, the largest disagreement first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulator.measuring.kineto_trace import TraceOperator

__all__ = ["Aligned", "aligned_flop", "aligned_times"]

# Kinds of simulated operators by the class that a trace knows them as.
KINDS: Mapping[str, str] = {
    "matmul": "product",
    "wide_matmul": "product",
    "batched_matmul": "product",
    "grouped_matmul": "product",
    "attention": "attention",
    "attention_backward": "attention",
    "attention_decode": "attention",
    "layer_norm": "norm",
    "rms_norm": "norm",
    "softmax": "softmax",
    "cross_entropy": "loss",
    "activation": "activation",
    "embedding": "embedding",
    "position_embedding": "pointwise",
    "optimizer": "optimizer",
}
PHASES: Mapping[str, str] = {"forward": "forward", "recompute": "backward", "optimizer": "optimizer"}
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "send_recv", "all_to_all")
# FLOP counters name operators of ATen; the simulated graph has kinds.
COUNTED: Mapping[str, str] = {"product": "product", "attention": "attention"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """One class in one phase: measured and predicted, in seconds or FLOP, and their difference."""

    phase: str
    group: str
    measured: float
    predicted: float

    @property
    def difference(self) -> float:
        """Predicted less measured, in their unit."""
        return self.predicted - self.measured


def _class(row: Mapping[str, Any]) -> str:
    kind = str(row["kind"])
    if kind in COLLECTIVES or row["phase"] == "communication":
        return "collective"
    return KINDS.get(kind, "pointwise")


def _phase(row: Mapping[str, Any]) -> str:
    phase = str(row["phase"])
    return PHASES.get(phase, "backward" if phase == "backward" else phase)


def _sorted(
    measured: Mapping[tuple[str, str], float], predicted: Mapping[tuple[str, str], float]
) -> list[Aligned]:
    keys = dict.fromkeys([*measured, *predicted])
    rows = [
        Aligned(phase=p, group=g, measured=measured.get((p, g), 0.0), predicted=predicted.get((p, g), 0.0))
        for p, g in keys
    ]
    return sorted(rows, key=lambda row: -abs(row.difference))


def aligned_times(
    found: Iterable[TraceOperator], steps: int, operators: Sequence[Mapping[str, Any]]
) -> list[Aligned]:
    """Seconds of one step by phase and class.

    Parameters
    ----------
    found : iterable of TraceOperator
        Of ``steps`` steps.
    steps : int
        Steps of the trace [1].
    operators : sequence of mapping
        Rows of an estimate's operator table; bubbles are left away.

    Returns
    -------
    list of Aligned
        The largest difference first [s]. Raises nothing.
    """
    measured: dict[tuple[str, str], float] = {}
    for op in found:
        key = (op.phase, op.group)
        measured[key] = measured.get(key, 0.0) + op.seconds / steps
    predicted: dict[tuple[str, str], float] = {}
    for row in operators:
        if row["phase"] != "bubble":
            key = (_phase(row), _class(row))
            predicted[key] = predicted.get(key, 0.0) + float(row["busy_s"])
    return _sorted(measured, predicted)


def aligned_flop(counts: Mapping[str, float], operators: Sequence[Mapping[str, Any]]) -> list[Aligned]:
    """FLOP of one step by class: what a counter counted against what the graph counts.

    Parameters
    ----------
    counts : mapping of str to float
        From `simulator.measuring.flop_counter_file.flop_by_operator` [FLOP].
    operators : sequence of mapping
        Rows of an estimate's operator table.

    Returns
    -------
    list of Aligned
        The largest difference first [FLOP]; attention differs where one counts the mask and the other does not, and
        counters know no pointwise operators. Raises nothing.
    """
    from simulator.measuring.kineto_trace import class_of

    measured: dict[tuple[str, str], float] = {}
    for name, flop in counts.items():
        group = class_of(name.replace(".", "::"))
        measured["all", group] = measured.get(("all", group), 0.0) + flop
    predicted: dict[tuple[str, str], float] = {}
    for row in operators:
        group = _class(row)
        if group in COUNTED:
            predicted["all", group] = predicted.get(("all", group), 0.0) + float(row["flop"])
    return _sorted(measured, predicted)
