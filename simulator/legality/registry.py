"""Which combinations of model, machine, task and plan make sense: named rules over arrays.

Run, sweep and search ask the same rules. A rule says where it is broken; the message is written only for rows
that are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardware_specs.errors import Problem
from simulator.arrays.columns import FabricColumns, FloatArray, ModelColumns, PlanColumns, TaskColumns
from simulator.arrays.shared_columns import dense

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """Columns that legality looks at.

    ``supported`` is 1 where the device has units for the compute types; ``tasks`` and ``inference_only`` are
    0/1: whether the task trains and whether precision or compression allow inference only; ``encoder`` and
    ``generates`` whether the model's tokens see each other and whether the task makes new ones; ``eager`` whether
    each pointwise step is a kernel of its own; ``unfused`` whether attention is several kernels; ``gated`` whether
    MLPs are;
    ``uneven_stages`` is a plan column that nothing else reads; ``stores`` has by tier for offload 1 where the system
    declares it, and "host_update" where it says what its processors and their memory do.
    """

    model: ModelColumns
    task: TaskColumns
    plan: PlanColumns
    fabric: FabricColumns
    supported: FloatArray
    training: FloatArray
    inference_only: FloatArray
    learned_positions: FloatArray
    encoder: FloatArray
    generates: FloatArray
    eager: FloatArray
    unfused: FloatArray
    uneven_stages: FloatArray
    gated: FloatArray
    stores: Mapping[str, FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class LegalityRule:
    """One rule: its name, where it is broken, and how to say so for one row."""

    name: str
    broken: Callable[[Combination], BoolArray]
    explain: Callable[[Combination], Problem]


RULES: list[LegalityRule] = []


def legality_rule(
    name: str, explain: Callable[[Combination], Problem]
) -> Callable[[Callable[[Combination], BoolArray]], Callable[[Combination], BoolArray]]:
    """Register a rule by name with its message (called with a combination of length one)."""

    def register(function: Callable[[Combination], BoolArray]) -> Callable[[Combination], BoolArray]:
        RULES.append(LegalityRule(name=name, broken=function, explain=explain))
        return function

    return register


def one_of(values: FloatArray) -> str:
    """The one value of a combination of length one, as text."""
    return f"{float(values[0]):.10g}"


def divisors(value: float, limit: int = 12) -> str:
    """Divisors of a whole number as text, at most ``limit`` of them."""
    found = [str(d) for d in range(1, int(min(value, 10**5)) + 1) if value % d == 0]
    return ", ".join(found[:limit]) + (", ..." if len(found) > limit else "")


def nearest(wanted: float, possible: Iterable[float]) -> str:
    """The possible values on both sides of a wanted one, as text; empty where there are none."""
    found = sorted(possible)
    below, above = [v for v in found if v < wanted], [v for v in found if v > wanted]
    return " or ".join(f"{v:.10g}" for v in [*below[-1:], *above[:1]])


def redundant(c: Combination, generated: Collection[str]) -> BoolArray:
    """Plans that only repeat another one: sharding over one replica, sequence parallelism on one rank.

    Only keys that a search has enumerated itself (``generated``) are looked at: what was asked for stays. Raises
    nothing.
    """
    p = c.plan
    repeats = np.zeros(1, dtype=bool)
    if "zero_stage" in generated:
        repeats = repeats | ((p.zero_stage > 0) & (p.data_parallel == 1))
    if "sequence_parallel" in generated:
        repeats = repeats | ((p.sequence_parallel > 0) & (p.tensor_parallel == 1))
    return repeats


def first_broken(
    c: Combination, n_rows: int, rules: Sequence[LegalityRule] | None = None
) -> NDArray[np.intp]:
    """Index of the first rule that each row breaks, -1 where it is legal; shape (n_rows,); raises nothing."""
    found = np.full(n_rows, -1, dtype=np.intp)
    for number, entry in enumerate(RULES if rules is None else rules):
        broken = np.broadcast_to(dense(entry.broken(c)), (n_rows,))
        found[(found < 0) & broken] = number
    return found


def problems(c: Combination) -> list[Problem]:
    """Every rule that one combination (arrays of length one) breaks, as messages."""
    return [entry.explain(c) for entry in RULES if bool(np.any(entry.broken(c)))]
