"""Why a plan does not fit, in amounts, and the smallest change of the plan that does."""

from __future__ import annotations

from typing import Any

import numpy as np

from hardware_specs.errors import LlmsimError
from simulator.evaluate import Totals, evaluate, result_columns
from simulator.memory import OWNERS, STAGES
from simulator.partition import Splitter
from simulator.space import Space, space_from

GB = 1e9
# One key at a time, the gentlest change first: what costs least time if it fits.
CHANGES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("plan.sequence_parallel", (True,)),
    ("plan.recompute", ("selective", "full")),
    ("plan.zero_stage", (1, 2, 3)),
    ("plan.micro_batch_size", (64, 32, 16, 8, 4, 2, 1)),
    ("plan.tensor_parallel", (2, 4, 8, 16)),
    ("plan.pipeline_parallel", (2, 4, 8, 16, 32)),
)


def reasons(totals: Totals) -> list[str]:
    """One sentence with the amounts, the largest owners first; raises nothing."""

    def one(value: Any) -> float:
        return float(np.asarray(value).reshape(-1)[0])

    owners = sorted(((one(totals.memory[o]), o) for o in OWNERS), reverse=True)
    shown = ", ".join(f"{o.replace('_', ' ')} {size / GB:.1f}" for size, o in owners if size > 0)
    stage = STAGES[int(one(totals.heaviest_stage))]
    return [
        f"the {stage} stage needs {one(totals.peak_bytes) / GB:.1f} GB per device but there are "
        f"{one(totals.capacity_bytes) / GB:.1f} GB ({shown} GB)"
    ]


def smallest_change(space: Space) -> str | None:
    """The first single change of :data:`CHANGES` that is legal and fits, as ``key: value``, or None.

    Degrees are raised with ``data_parallel`` derived anew. Raises nothing: a change that is not legal is skipped.
    """
    base = space.scenario_mapping(0)
    for key, values in CHANGES:
        section, name = key.split(".")
        now = base.get(section, {}).get(name)
        changed = {**base, section: {**base.get(section, {})}}
        if key.endswith("_parallel") and key != "plan.sequence_parallel":
            changed[section].pop("data_parallel", None)
        smaller = [
            v
            for v in values
            if v != now and not (name == "micro_batch_size" and now is not None and v >= now)
        ]
        if not smaller:
            continue
        changed[section][name] = {"sweep": smaller}
        try:
            candidates = space_from(changed)
            split = Splitter(candidates).split(np.arange(candidates.n_rows))
        except LlmsimError:
            continue
        fits: list[int] = []
        for partition in split.partitions:
            columns = result_columns(evaluate(partition)[0], partition)
            fits += [int(r) for r in partition.rows[columns["feasible"] > 0]]
        if fits:
            value = smaller[min(fits)]
            return f"{key}: {str(value).lower() if isinstance(value, bool) else value}"
    return None
