"""Where the inputs of cost rules come from: other rules, figures of the machine, fitted coefficients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hardware_specs import Figure, fabric_calibration_for, figures, format_quantity
from simulator.machines.device import calibration_of
from simulator.rules import Record
from simulator.spaces.partition import Partition

# Inputs that the engine sums up from rules without one of its own.
SUMS: Mapping[str, str] = {
    "sum_of_stages_s": "forward and backward of one micro-batch, all stages in turn",
    "slowest_stage_s": "forward and backward of one micro-batch on the slowest stage: its operators' exposed time",
    "optimizer_s": "sum of operators.optimizer.*",
    "window_s": "pass of the last micro-batch, which the exchange may hide behind",
    "exchange_s": "all buckets of the exchange",
    "layer_j": "one micro-batch through one layer on one rank, the mean of its kinds",
    "ends_j": "one micro-batch through embedding and head on one rank",
    "per_step_j": "optimizer and exchanges of one rank, once per step",
    "parameters": "parameters of the heaviest stage on one rank",
    "per_layer_bytes": "tensors that one layer keeps for the backward pass, the mean of its kinds",
    "ends_bytes": "tensors that the embedding keeps",
    "cached_tokens": "tokens of a sequence; a layer keeps at most its window or chunk, and this is their mean",
    "attended_tokens": "keys of a sequence; a layer sees at most its window or chunk, and this is their mean",
    "rebuilt_bytes": "one layer under recomputation, or the logits if they are more",
    "moved_bytes": "every operand read once, every result written once",
    "links": "links of one rank of the group",
}
_NO_WORDS = frozenset({"per", "s", "w", "j", "hz", "bytes", "flop"})  # units, not what is measured


def numbers(value: Any) -> list[float]:
    return [float(v) for v in np.asarray(value, dtype=np.float64).reshape(-1)]


def _is_telling(value: float) -> bool:
    """Whether a number has so many digits that two equal ones are the same thing."""
    return bool(np.isfinite(value)) and float(f"{value:.7g}") != value


class Origins:
    """Where a number may come from: an earlier rule's output, a figure of the machine, a fitted coefficient."""

    def __init__(self, records: Sequence[Record], partition: Partition) -> None:
        self.records = {id(r.output): r for r in records}
        self.by_value: dict[tuple[float, ...], list[Record]] = {}
        for r in records:
            values = tuple(numbers(r.output))
            if any(_is_telling(v) for v in values):
                self.by_value.setdefault(values, []).append(r)
        self.figures = [
            (figure.value, _words(path), _figure_text(f"system.{path}", figure, dimension))
            for path, (figure, dimension) in figures(partition.systems[0]).items()
        ]
        self.coefficients: dict[tuple[str, float], str] = {}
        if partition.graphical.fidelity == "calibrated":
            kind = "training" if partition.graphical.kind == "training" else "inference"
            calibration = calibration_of(
                partition.systems[0], "training" if kind == "training" else "inference"
            )
            fabric = fabric_calibration_for(
                partition.systems[0], "training" if kind == "training" else "inference"
            )
            for source in (calibration, fabric):
                for path, (figure, _) in figures(source).items():
                    text = f"{source.name}.{path} ({figure.basis}: {figure.source})"
                    self.coefficients.setdefault((path.rsplit(".", 1)[-1], figure.value), text)

    def record(self, value: Any, path: str) -> Record | None:
        """The call whose output a value is: the array itself, else one with its digits at the same place."""
        if id(value) in self.records:
            return self.records[id(value)]
        alike = self.by_value.get(tuple(numbers(value)), [])
        near = [r for r in alike if r.path in (path, "")]
        return near[0] if near else alike[0] if len(alike) == 1 else None

    def of(self, name: str, value: Any, path: str = "") -> str:
        """Where an input of a rule that was called at ``path`` comes from; empty if it is not known."""
        found = self.record(value, path)
        if found is not None and found.path == path:
            return f"{found.rule}, below"
        if found is not None:
            return f"{found.rule} at {found.path}" if found.path else found.rule
        number = numbers(value)[0]
        if (name, number) in self.coefficients:
            return self.coefficients[name, number]
        # Equal numbers are a coincidence unless the names share a word as well.
        alike = (text for figure, words, text in self.figures if figure == number and words & _words(name))
        return next(alike, SUMS.get(name, ""))


def _words(name: str) -> frozenset[str]:
    return frozenset(name.replace(".", "_").split("_")) - _NO_WORDS


def _figure_text(path: str, figure: Figure, dimension: str) -> str:
    return f"{path} = {format_quantity(figure.value, dimension)} ({figure.basis}: {figure.source})"
