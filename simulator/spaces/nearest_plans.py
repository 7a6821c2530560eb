"""Plans near one that breaks rules of legality and that break none: what to change, the fewest keys first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, get_args

import numpy as np

from hardware_specs.errors import LlmsimError
from simulator.scenarios.scenario import ContextKind, Plan, Schedule
from simulator.spaces.partition import Splitter
from simulator.spaces.space import Space, space_from

__all__ = ["nearest_plans"]

# Degrees are changed to the nearest of these numbers and of the divisors of the devices, and to 1.
DEGREES = (
    "tensor_parallel",
    "pipeline_parallel",
    "context_parallel",
    "expert_parallel",
    "virtual_pipeline",
    "micro_batch_size",
)
STEPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 256)
NEAR_DEGREES = 10
# Everything else is changed to another of its values.
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "sequence_parallel": (True, False),
    "context_parallel_kind": get_args(ContextKind),
    "schedule": get_args(Schedule),
    "uneven_stages": (True, False),
    "context_zigzag": (True, False),
    "zero_stage": (0, 1, 2, 3),
    "attention_kernel": ("flash",),
    "kernel_fusion": ("fused",),
    "precision": ("bf16",),
    "collective_algorithm": ("auto",),
    "recompute": ("none",),
}
# Keys that are left out again, at their default.
LEFT_OUT = (
    "expert_tensor_parallel",
    "expert_imbalance",
    "expert_capacity",
    "expert_padding",
    "expert_dispatch",
    "expert_node_limit",
    "zero_group",
    "gradient_bucket",
    "reshard_after_forward",
    "prefetch_layers",
    "recompute_layers",
    "recompute_keeps",
    "recompute_modules",
    "first_stage_layers",
    "last_stage_layers",
    "stage_layers",
    "overlap_expert_parallel",
    "overlap_shared_experts",
    "overlap_tensor_parallel",
    "tensor_parallel_split",
    "offload",
    "optimizer",
    "optimizer_step",
    "loss",
    "engine",
    "fragmentation",
    "free_gradients",
)
LEGAL = -1
# Of changes of two keys so many are tried.
PAIRS = 400
# Types make a device of their own of every row: they are not tried beside another change.
ALONE = "precision"
VALUES_OF_A_DEGREE = 2
SHOWN = ("tensor_parallel", "pipeline_parallel", "context_parallel", "expert_parallel")


@dataclass(frozen=True, slots=True)
class _Change:
    """One key, its new value, and how far that is from the old one [1]."""

    key: str
    value: Any
    distance: float


def _near_numbers(now: int, devices: int) -> list[int]:
    divisors = [d for d in range(1, min(devices, 4096) + 1) if devices % d == 0]
    others = sorted({*STEPS, *divisors} - {now}, key=lambda n: (abs(math.log2(n / now)), n))
    return others[:NEAR_DEGREES] + ([1] if 1 in others[NEAR_DEGREES:] else [])


def _changes(plan: Mapping[str, Any], devices: int) -> tuple[list[_Change], list[_Change]]:
    """Changes of degrees, and those of everything else."""
    degrees, others = [], []
    for key in DEGREES:
        now = int(plan[key] or 1)
        degrees += [_Change(key, n, abs(math.log2(n / now))) for n in _near_numbers(now, devices)]
    for key, values in CHOICES.items():
        others += [_Change(key, v, 1.0) for v in values if v != plan[key]]
    for key in LEFT_OUT:
        default = Plan.model_fields[key].default
        if plan[key] != default:
            others.append(_Change(key, default, 1.0))
    return degrees, others


def _nearest_first(sets: Iterable[tuple[_Change, ...]]) -> list[tuple[_Change, ...]]:
    return sorted(sets, key=lambda one: sum(change.distance for change in one))


def _attempts(plan: Mapping[str, Any], devices: int) -> list[list[tuple[_Change, ...]]]:
    """Sets of changes, those of one key and then those of two, the nearest first; ties by the order of the keys."""
    degrees, others = _changes(plan, devices)
    singles = [*degrees, *others]
    pairs = [(a, b) for a, b in combinations(singles, 2) if a.key != b.key and ALONE not in (a.key, b.key)]
    return [_nearest_first([(), *((one,) for one in singles)]), _nearest_first(pairs)[:PAIRS]]


def _space(base: Mapping[str, Any], plan: Mapping[str, Any], tried: Sequence[tuple[_Change, ...]]) -> Space:
    """All plans as the rows of one axis; a degree of data that was written follows the others."""
    keys = list(dict.fromkeys(change.key for changes in tried for change in changes))
    rows = [{**plan, **{change.key: change.value for change in changes}} for changes in tried]
    fixed = {k: v for k, v in base.get("plan", {}).items() if k not in keys and k != "data_parallel"}
    together = {f"plan.{key}": [row[key] for row in rows] for key in keys}
    return space_from({**base, "plan": fixed, "zip": [together]})


def _degrees_of(plan: Mapping[str, Any], devices: int) -> str:
    inner = plan["tensor_parallel"] * plan["pipeline_parallel"] * plan["context_parallel"]
    words = [f"{name.split('_')[0]} {plan[name]}" for name in SHOWN if plan[name] > 1 or name == SHOWN[0]]
    return ", ".join([*words, f"data {devices // inner}"])


def _text(plan: Mapping[str, Any], changes: Iterable[_Change], devices: int) -> str:
    changed = {**plan, **{change.key: change.value for change in changes}}
    words = {change.key: change.value for change in changes}
    inner = changed["tensor_parallel"] * changed["pipeline_parallel"] * changed["context_parallel"]
    if plan["data_parallel"] not in (None, devices // inner):
        words["data_parallel"] = devices // inner
    said = ", ".join(f"plan.{k}={_word(v)}" for k, v in words.items())
    return f"{said} ({_degrees_of(changed, devices)})"


def _word(value: Any) -> str:
    if value == "":
        return '""'
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _legal(
    base: Mapping[str, Any], plan: Mapping[str, Any], tried: Sequence[tuple[_Change, ...]]
) -> list[tuple[_Change, ...]]:
    """Those of some changes after which a plan breaks no rule."""
    space = _space(base, plan, tried)
    broken = Splitter(space).split(np.arange(space.n_rows)).broken
    return [tried[int(i)] for i in np.flatnonzero(broken == LEGAL)]


def nearest_plans(space: Space, number: int = 3) -> list[str]:
    """Changes of the first row's plan after which it breaks no rule.

    Parameters
    ----------
    space : Space
        Of which the first row is illegal.
    number : int
        The most plans to name [1].

    Returns
    -------
    list of str
        Each ``plan.key=value, ... (degrees)``, the nearest first: one key and then two, smaller steps of degrees
        first, at most two values of a degree. Empty where no change of one or two keys of the plan is enough.
        Raises nothing.
    """
    try:
        base = space.scenario_mapping(0)
        written = base.get("plan", {})
        plan = {name: field.default for name, field in Plan.model_fields.items()} | dict(written)
        devices = int(base["devices"])
        found: list[tuple[_Change, ...]] = []
        for tried in _attempts(plan, devices):
            found = found or _legal(base, plan, tried)
    except LlmsimError:
        return []
    named: list[tuple[str, ...]] = []
    texts: list[str] = []
    for changes in found:
        keys = tuple(change.key for change in changes)
        most = VALUES_OF_A_DEGREE if set(keys) <= set(DEGREES) else 1
        if named.count(keys) < most and len(texts) < number:
            named.append(keys)
            texts.append(_text(plan, changes, devices))
    return texts
