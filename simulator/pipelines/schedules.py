"""Pipeline schedules in closed form: what each adds to the slowest stage's own work, and what its stages hold.

Passes of one micro-batch on a stage are the forward pass F, the gradients of its inputs B and those of its weights W;
schedules that do not put W off have B + W as one. Every form is exact for uniform stages (an event replay checks it);
elsewhere the other stages count with their mean, and the stage's own passes are those with a stroke. A step is the
longest one that the forms give over all stages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import PlanColumns
from simulator.rules import rule
from simulator.scenarios.scenario import Schedule

FloatArray = NDArray[np.float64]

SCHEDULES: tuple[str, ...] = get_args(Schedule)
CODE = {name: float(number) for number, name in enumerate(SCHEDULES)}
# The gradients of weights are apart from those of inputs and may wait.
SPLIT = ("zb_h1", "zb_h2", "zb_v", "dualpipe")
# Each device has chunks from both ends of the model.
FOLDED = ("zb_v", "dualpipe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """Seconds of one micro-batch on a whole stage: forward, gradients of inputs, gradients of weights [s]."""

    forward_s: FloatArray
    input_gradients_s: FloatArray
    weight_gradients_s: FloatArray


PASSES = ("forward_s", "input_gradients_s", "weight_gradients_s")


def follows(plan: PlanColumns, *names: str) -> FloatArray:
    """1 where the plan's schedule is one of some names, 0 elsewhere [1]; raises nothing."""
    found: FloatArray = np.zeros(1)
    for name in names:
        found = found + (plan.schedule == CODE[name])
    return found


@rule(
    symbol="Tb",
    formula="sum(f) - max(f) + sum(b) - max(b) + m (max(f) + max(b) - max(f + b))",
    unit="s",
    source="Huang et al., arXiv:1811.06965, section 2.3: all forward passes, then all backward ones; each half is a "
    "flow shop of equal jobs",
)
def gpipe_bubble(
    *,
    sum_of_forward_s: FloatArray,
    sum_of_backward_s: FloatArray,
    slowest_forward_s: FloatArray,
    slowest_backward_s: FloatArray,
    slowest_stage_s: FloatArray,
    micro_batches: FloatArray,
) -> FloatArray:
    """What GPipe adds to the slowest stage's own work [s]; seconds and counts [1] broadcast; raises nothing.

    Exact for uneven stages too.
    """
    waits = sum_of_forward_s - slowest_forward_s + sum_of_backward_s - slowest_backward_s
    apart = np.maximum(slowest_forward_s + slowest_backward_s - slowest_stage_s, 0.0)
    return np.maximum(waits + micro_batches * apart, 0.0)


@rule(
    symbol="Tb",
    formula="(p - 1) max(F, B, F + B - W')",
    unit="s",
    source="Qi et al., arXiv:2401.10241, section 2.2 and table 1 (F + B - W, for passes about as long as each other)",
)
def zb_h1_bubble(
    *,
    stages: FloatArray,
    forward_s: FloatArray,
    input_gradients_s: FloatArray,
    own_weight_gradients_s: FloatArray,
) -> FloatArray:
    """What ZB-H1 adds to a stage's own work [s]: passes of the other stages and of its own [s], stages [1].

    Broadcasts; raises nothing.
    """
    longer = np.maximum(forward_s, input_gradients_s)
    return (stages - 1.0) * np.maximum(longer, forward_s + input_gradients_s - own_weight_gradients_s)


@rule(
    symbol="Tb",
    formula="(p - 1) max(0, B - F', F + B - 2 W')",
    unit="s",
    source="Qi et al., arXiv:2401.10241, section 2.3 and table 1 (F + B - 2 W); steps follow each other stage by "
    "stage, since the optimizer is validated afterwards (section 4)",
)
def zb_h2_bubble(
    *,
    stages: FloatArray,
    forward_s: FloatArray,
    input_gradients_s: FloatArray,
    own_forward_s: FloatArray,
    own_weight_gradients_s: FloatArray,
) -> FloatArray:
    """What ZB-H2 adds to a stage's own work [s]: passes of the other stages and of its own [s], stages [1].

    Broadcasts; raises nothing.
    """
    drained = np.maximum(
        input_gradients_s - own_forward_s, forward_s + input_gradients_s - 2.0 * own_weight_gradients_s
    )
    return (stages - 1.0) * np.maximum(drained, 0.0)


@rule(
    symbol="Tb",
    formula="largest of the chains of a V: 0, 2q(B-W'), q(2F-B'-W'), 2qF-(2q+1)W', (2q-1)F+B-2qW', q(B-F'), "
    "B-F'+(q-1)(W-F'), (q-1)(W-F'), (q-1)(F-B'); q = p - 1, passes of a chunk",
    unit="s",
    source="Qi et al., arXiv:2401.10241, section 6 (no bubble for equal passes); the longest paths of the order that "
    "is played in simulator/pipelines/orders.py",
)
def zb_v_bubble(
    *,
    stages: FloatArray,
    forward_s: FloatArray,
    input_gradients_s: FloatArray,
    weight_gradients_s: FloatArray,
    own_forward_s: FloatArray,
    own_input_gradients_s: FloatArray,
    own_weight_gradients_s: FloatArray,
) -> FloatArray:
    """What ZB-V adds to a stage's own work [s]: passes of the other stages and of its own [s], stages [1].

    A stage is two chunks, which take half of its time each. Broadcasts; raises nothing.
    """
    f, b, w, q = forward_s / 2.0, input_gradients_s / 2.0, weight_gradients_s / 2.0, stages - 1.0
    own_f, own_b, own_w = own_forward_s / 2.0, own_input_gradients_s / 2.0, own_weight_gradients_s / 2.0
    chains = (
        2.0 * q * (b - own_w),
        q * (2.0 * f - own_b - own_w),
        2.0 * q * f - (2.0 * q + 1.0) * own_w,
        (2.0 * q - 1.0) * f + b - 2.0 * q * own_w,
        q * (b - own_f),
        b - own_f + (q - 1.0) * (w - own_f),
        (q - 1.0) * (w - own_f),
        (q - 1.0) * (f - own_b),
    )
    longest: FloatArray = np.zeros(1)
    for chain in chains:
        longest = np.maximum(longest, chain)
    return np.where(q > 0, longest, 0.0)


@rule(
    symbol="Tb",
    formula="(p/2 - 1)(F + max(B - W', 0)) + max((p/2 - 1) F, (p/2 - 1) B - F')",
    unit="s",
    source="DeepSeek-AI, arXiv:2412.19437, section 3.2.1 and table 2 ((p/2 - 1)(F&B + B - 3 W), which it is for equal "
    "passes); the longest paths of the order that is played in simulator/pipelines/orders.py",
)
def dualpipe_bubble(
    *,
    stages: FloatArray,
    forward_s: FloatArray,
    input_gradients_s: FloatArray,
    own_forward_s: FloatArray,
    own_weight_gradients_s: FloatArray,
) -> FloatArray:
    """What DualPipe adds to a device's own work [s]: mean passes of the other devices and its own [s], stages [1].

    A forward and a backward pass side by side take the time of both here. Broadcasts; raises nothing.
    """
    half = np.maximum(stages / 2.0 - 1.0, 0.0)
    filled = half * (forward_s + np.maximum(input_gradients_s - own_weight_gradients_s, 0.0))
    return filled + np.maximum(half * forward_s, half * input_gradients_s - own_forward_s)


@rule(
    symbol="k",
    formula="gpipe m, zb_h1 p, zb_h2 2 p - 1, zb_v p, dualpipe p + 1; at most m",
    unit="1",
    source="Huang et al., arXiv:1811.06965, section 2.3; Qi et al., arXiv:2401.10241, table 1 and section 6; "
    "DeepSeek-AI, arXiv:2412.19437, table 2 (a micro-batch is held until its gradients of weights are done)",
)
def scheduled_in_flight(*, schedule: FloatArray, stages: FloatArray, micro_batches: FloatArray) -> FloatArray:
    """Micro-batches whose activations every stage holds at once under a schedule other than 1F1B [1].

    ``schedule`` is a code (:data:`SCHEDULES`), all else counts [1]; broadcasts; raises nothing.
    """
    held = np.where(schedule == CODE["gpipe"], micro_batches, stages)
    held = np.where(schedule == CODE["zb_h2"], 2.0 * stages - 1.0, held)
    held = np.where(schedule == CODE["dualpipe"], stages + 1.0, held)
    return np.minimum(held, micro_batches)


# What each form takes beside the stages: passes of the others, and those of the stage itself.
ZERO_BUBBLE_FORMS: Mapping[str, tuple[Callable[..., FloatArray], tuple[str, ...], tuple[str, ...]]] = {
    "zb_h1": (zb_h1_bubble, ("forward_s", "input_gradients_s"), ("weight_gradients_s",)),
    "zb_h2": (zb_h2_bubble, ("forward_s", "input_gradients_s"), ("forward_s", "weight_gradients_s")),
    "zb_v": (zb_v_bubble, PASSES, PASSES),
    "dualpipe": (dualpipe_bubble, ("forward_s", "input_gradients_s"), ("forward_s", "weight_gradients_s")),
}


def zero_bubble_wait(plan: PlanColumns, others: Passes, own: Passes) -> FloatArray:
    """What the plan's schedule adds to a stage's own work, where it puts gradients of weights off [s].

    ``others`` are mean passes of the other stages. What takes time off is the stage's own, which it spends anyway: so a
    step is never shorter for a longer pass of any stage. Zero under other schedules; raises nothing.
    """
    wait: FloatArray = np.zeros(1)
    for name, (form, theirs, mine) in ZERO_BUBBLE_FORMS.items():
        chosen = follows(plan, name)
        if np.any(chosen):
            added = form(
                stages=plan.pipeline_parallel,
                **{field: getattr(others, field) for field in theirs},
                **{f"own_{field}": getattr(own, field) for field in mine},
            )
            wait = wait + chosen * np.where(plan.pipeline_parallel > 1, added, 0.0)
    return wait


def least_micro_batches(plan: PlanColumns) -> FloatArray:
    """Micro-batches per replica that fill the plan's schedule [1]: below, its form does not hold; raises nothing."""
    p = plan.pipeline_parallel
    least = np.ones(1) + follows(plan, "zb_h1") * (p - 1.0)
    least = least + follows(plan, "zb_h2", "zb_v") * (2.0 * p - 2.0)
    return least + follows(plan, "dualpipe") * (2.0 * p - 1.0)
