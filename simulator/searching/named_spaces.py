"""Named spaces of plans for a search: which keys it enumerates, and over which values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hardware_specs.errors import Problem, ScenarioError, near_names, shorten
from simulator.pipelines.schedules import SCHEDULES

MAX_MICRO_BATCH = 256
LARGEST_TENSOR, LARGEST_PIPELINE, LARGEST_EXPERT = 64, 256, 512
VIRTUAL = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
SWITCH = (False, True)
# From the counts of the scenario, by key, to the values of one plan key.
Values = Callable[[Mapping[str, Sequence[int]]], list[Any]]


def divisors_up_to(numbers: Sequence[int], largest: int) -> list[int]:
    """Numbers up to ``largest`` that divide one of some others [1]; raises nothing."""
    return [d for d in range(1, largest + 1) if any(n % d == 0 for n in numbers)]


def _divisors(key: str, largest: int) -> Values:
    return lambda counts: divisors_up_to(counts[key], largest)


def _list(*values: Any) -> Values:
    return lambda _: list(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSpace:
    """Plan keys to enumerate where the scenario leaves them open, in all tasks and in training only."""

    about: str
    always: Mapping[str, Values]
    training: Mapping[str, Values]


_DEGREES = {
    "tensor_parallel": _divisors("devices", LARGEST_TENSOR),
    "pipeline_parallel": _divisors("devices", LARGEST_PIPELINE),
}
_MICRO_BATCH = {"micro_batch_size": _divisors("task.global_batch_size", MAX_MICRO_BATCH)}
_PLANS = {
    "virtual_pipeline": _list(*VIRTUAL),
    **_MICRO_BATCH,
    "recompute": _list("none", "selective", "full"),
    "zero_stage": _list(0, 1, 2, 3),
    "sequence_parallel": _list(*SWITCH),
}
_OVERLAPS = {
    name: _list(*SWITCH)
    for name in (
        "overlap_grad_reduce",
        "overlap_param_gather",
        "overlap_tensor_parallel",
        "overlap_pipeline_p2p",
    )
}
NAMED_SPACES: dict[str, NamedSpace] = {
    "plans": NamedSpace(
        about="degrees, interleaving, micro-batch, recompute, ZeRO stage, sequence parallelism",
        always=_DEGREES,
        training=_PLANS,
    ),
    "overlaps": NamedSpace(
        about="plans, and what runs beside compute: gradients, parameters, tensor exchanges, point-to-point",
        always=_DEGREES,
        training={**_PLANS, **_OVERLAPS},
    ),
    "schedules": NamedSpace(
        about="plans, and every pipeline schedule",
        always=_DEGREES,
        training={**_PLANS, "schedule": _list(*SCHEDULES)},
    ),
    "offload": NamedSpace(
        about="plans, and what is kept on the host: optimizer states, activations, both or nothing",
        always=_DEGREES,
        training={
            **_PLANS,
            "offload": _list("none", "optimizer", "activations", "optimizer activations"),
        },
    ),
    "context": NamedSpace(
        about="plans, and sequences split over context ranks, the way that the plan says",
        always=_DEGREES,
        training={"context_parallel": _divisors("devices", LARGEST_TENSOR), **_PLANS},
    ),
    "experts": NamedSpace(
        about="plans, and experts split over ranks, each kept whole or split as the plan says",
        always={**_DEGREES, "expert_parallel": _divisors("devices", LARGEST_EXPERT)},
        training=_PLANS,
    ),
    "megatron": NamedSpace(
        about="plans with the optimizer sharded or not, and nothing else sharded",
        always=_DEGREES,
        training={**_PLANS, "zero_stage": _list(0, 1)},
    ),
    "fsdp": NamedSpace(
        about="one pipeline stage, gradients or parameters sharded too",
        always={"tensor_parallel": _DEGREES["tensor_parallel"], "pipeline_parallel": _list(1)},
        training={**_PLANS, "virtual_pipeline": _list(1), "zero_stage": _list(2, 3)},
    ),
}
COUNTED = {"devices": 1, "task.global_batch_size": 1}


def named_space(name: str) -> NamedSpace:
    """A space by name; ScenarioError if there is none."""
    if name not in NAMED_SPACES:
        near = near_names(name, NAMED_SPACES, n=3) or list(NAMED_SPACES)
        rule, fix = "is not a named space", f"use {' or '.join(near)}"
        raise ScenarioError([Problem(path="--space", value=shorten(name), rule=rule, fix=fix)])
    return NAMED_SPACES[name]
