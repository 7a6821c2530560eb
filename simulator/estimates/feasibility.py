"""Why a plan does not fit, in amounts, and the smallest change of the plan that does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hardware_specs.errors import LlmsimError
from simulator.arrays.columns import first_value
from simulator.composition.evaluate import Totals, evaluate, result_columns
from simulator.composition.memory import OWNERS, STAGES
from simulator.scenarios.scenario import Plan
from simulator.spaces.partition import Splitter
from simulator.spaces.space import Space, space_from

GB = 1e9
# The gentlest change first: what costs least time if it fits.
CHANGES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("plan.sequence_parallel", (True,)),
    ("plan.recompute", ("selective", "full")),
    ("plan.zero_stage", (1, 2, 3)),
    ("plan.micro_batch_size", (64, 32, 16, 8, 4, 2, 1)),
    ("plan.tensor_parallel", (2, 4, 8, 16)),
    ("plan.pipeline_parallel", (2, 4, 8, 16, 32)),
)
TRAINING_ONLY = ("plan.recompute", "plan.zero_stage")
# More devices where no change of the plan is enough.
DOUBLINGS = 8


def reasons(totals: Totals) -> list[str]:
    """One sentence with the amounts, the largest owners first; raises nothing."""
    owners = sorted(((first_value(totals.memory[o]), o) for o in OWNERS), reverse=True)
    shown = ", ".join(f"{o.replace('_', ' ')} {size / GB:.1f}" for size, o in owners if size > 0)
    stage = STAGES[int(first_value(totals.heaviest_stage))]
    found = [
        f"a device keeps {first_value(held) / GB:.1f} GB on {tier} but its share of a node's is "
        f"{first_value(room) / GB:.1f} GB"
        for tier, held, room in (
            ("host", totals.host_bytes, totals.host_capacity_bytes),
            ("nvme", totals.nvme_bytes, totals.nvme_capacity_bytes),
        )
        if first_value(held) > first_value(room)
    ]
    if first_value(totals.peak_bytes) <= first_value(totals.capacity_bytes):
        return found
    return [
        *found,
        f"the {stage} stage needs {first_value(totals.peak_bytes) / GB:.1f} GB per device but there are "
        f"{first_value(totals.capacity_bytes) / GB:.1f} GB ({shown} GB)",
    ]


def _options(base: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Values to try by key, the present one first."""
    training = base["task"]["kind"] == "training"
    out: dict[str, list[Any]] = {}
    for key, values in CHANGES:
        now = _now(base, key)
        largest = 1 if now is None and training else now
        smaller_only = key == "plan.micro_batch_size" and largest is not None
        others = [v for v in values if v != now and not (smaller_only and v >= largest)]
        if others and (training or key not in TRAINING_ONLY):
            out[key] = [now, *others]
    return out


def _now(base: Mapping[str, Any], key: str) -> Any:
    """What a scenario has at a key of its plan, its default if nothing is written."""
    name = key.removeprefix("plan.")
    return base.get("plan", {}).get(name, Plan.model_fields[name].default)


def _fitting(base: Mapping[str, Any], options: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Changes that are legal and fit, among all combinations of some options; degrees are derived anew."""
    plan = {k: v for k, v in base.get("plan", {}).items() if k != "data_parallel"}
    plan.update({key.removeprefix("plan."): {"sweep": list(values)} for key, values in options.items()})
    try:
        space = space_from({**base, "plan": plan})
        partitions = Splitter(space).split(np.arange(space.n_rows)).partitions
    except LlmsimError:
        return []
    rows: list[int] = []
    for partition in partitions:
        columns = result_columns(evaluate(partition)[0], partition)
        rows += [int(r) for r in partition.numbers[columns["feasible"] > 0]]
    chosen = [space.scenario_mapping(row) for row in sorted(rows)]
    return [{key: _now(scenario, key) for key in options} for scenario in chosen]


def _text(base: Mapping[str, Any], changes: Mapping[str, Any]) -> str:
    """``key: value, key: value``; a data_parallel that was written by hand follows the other degrees."""
    plan = base.get("plan", {})
    words = dict(changes)
    if plan.get("data_parallel") is not None:
        degrees = {**plan, **{k.removeprefix("plan."): v for k, v in changes.items()}}
        inner = (degrees.get("tensor_parallel") or 1) * (degrees.get("pipeline_parallel") or 1)
        data = int(changes.get("devices", base["devices"])) // inner
        if data != plan["data_parallel"]:
            words["plan.data_parallel"] = data
    return ", ".join(f"{k}: {str(v).lower() if isinstance(v, bool) else v}" for k, v in words.items())


def _changed(base: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in found.items() if v != _now(base, k)}


def _gentleness(changes: Mapping[str, Any]) -> tuple[float, ...]:
    """Fewer changes first, then gentler ones."""
    order = [key for key, _ in CHANGES]
    return (len(changes), *sorted((order.index(k) for k in changes), reverse=True))


def smallest_change(space: Space) -> str | None:
    """The smallest change of the plan that is legal and fits, as ``key: value, key: value``, or None.

    One key first, in the order of :data:`CHANGES`; then the fewest keys; then more devices, doubled. Raises
    nothing: a change that is not legal is skipped.
    """
    base = space.scenario_mapping(0)
    options = _options(base)
    for key, values in options.items():
        fitting = _fitting(base, {key: values[1:]})
        if fitting:
            return _text(base, fitting[0])
    for doubling in range(DOUBLINGS + 1):
        devices = int(base["devices"]) * 2**doubling
        fitting = _fitting({**base, "devices": devices}, options)
        if fitting:
            changes = min((_changed(base, f) for f in fitting), key=_gentleness)
            more = {} if doubling == 0 else {"devices": devices}
            return _text(base, {**more, **changes})
    return None
