"""Named rules of pipelines: layers on stages, schedules, chunks and micro-batches; importing this registers them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hardware_specs.errors import Problem
from simulator.arrays.columns import FloatArray
from simulator.legality.plans import BoolArray, Combination, divisors, legality_rule, one_of
from simulator.pipelines.schedules import CODE, SCHEDULES, follows, least_micro_batches

__all__: list[str] = []
CHUNKS = {"zb_v": 2.0, "gpipe": 1.0, "zb_h1": 1.0, "zb_h2": 1.0, "dualpipe": 1.0}


def _schedule(c: Combination) -> str:
    return SCHEDULES[int(c.plan.schedule[0])]


def _micro_batches(c: Combination) -> FloatArray:
    """Per replica [1]; where the replicas are no whole number, the degrees are the mistake."""
    return c.task.batch / c.plan.data_parallel / c.plan.micro_batch_size


def _whole(c: Combination) -> BoolArray:
    return c.plan.data_parallel == np.floor(c.plan.data_parallel)


def _nearest(wanted: float, possible: Iterable[float]) -> str:
    """The possible values on both sides of a wanted one, as text; empty where there are none."""
    found = sorted(possible)
    below, above = [v for v in found if v < wanted], [v for v in found if v > wanted]
    return " or ".join(f"{v:.10g}" for v in [*below[-1:], *above[:1]])


def _by_hand(c: Combination) -> tuple[FloatArray, FloatArray]:
    """Stages whose layers the plan says, and their layers together [1]."""
    given = (c.plan.first_stage_layers, c.plan.last_stage_layers)
    stages = sum(((~np.isnan(n)).astype(np.float64) for n in given), np.zeros(1))
    return stages, sum((np.nan_to_num(n) for n in given), np.zeros(1))


def _left(c: Combination) -> tuple[FloatArray, FloatArray]:
    """Layers and stages beside those that the plan says [1]."""
    stages, layers = _by_hand(c)
    return c.model.n_layers - layers, c.plan.pipeline_parallel - stages


@legality_rule(
    "layers divide into stages",
    lambda c: Problem(
        path="plan.pipeline_parallel",
        value=f"{one_of(c.plan.pipeline_parallel)} x {one_of(c.plan.virtual_pipeline)} chunks",
        rule=f"must divide the {one_of(c.model.n_layers)} layers",
        fix=f"use {divisors(float(c.model.n_layers[0]))}, or set plan.uneven_stages (without virtual_pipeline)",
    ),
)
def _stages(c: Combination) -> BoolArray:
    p = c.plan
    uneven = np.mod(c.model.n_layers, p.pipeline_parallel * p.virtual_pipeline) != 0
    return uneven & ((c.uneven_stages == 0) | (p.virtual_pipeline > 1)) & (_by_hand(c)[0] == 0)


def _said(layers: FloatArray) -> str:
    return "any" if np.isnan(layers[0]) else one_of(layers)


def _by_hand_problem(c: Combination) -> Problem:
    layers, stages = (float(x[0]) for x in _left(c))
    chunks, pipeline, whole = (
        float(x[0]) for x in (c.plan.virtual_pipeline, c.plan.pipeline_parallel, c.model.n_layers)
    )
    per = stages * chunks
    if pipeline < 2:
        rule = "is for pipelines, and the one stage has all layers"
        fix = "leave it out, or set plan.pipeline_parallel to 2 or more"
    elif layers < 0 or per == 0:
        rule = f"makes {whole - layers:g} layers, and the model has {whole:g}"
        fix = f"give {whole:g} in all" if per == 0 else f"give at most {whole:g}"
    else:
        near = _nearest(layers, [per * k for k in range(int(whole // per) + 1)])
        rule = (
            f"leaves {layers:g} of {whole:g} layers for {stages:g} stages of {chunks:g} chunks, which must share "
            "them evenly"
        )
        fix = f"leave {near} layers to them, or set plan.uneven_stages (without virtual_pipeline)"
    value = f"{_said(c.plan.first_stage_layers)} first, {_said(c.plan.last_stage_layers)} last"
    return Problem(path="plan.first_stage_layers", value=value, rule=rule, fix=fix)


@legality_rule("layers by hand add up", _by_hand_problem)
def _by_hand_broken(c: Combination) -> BoolArray:
    p = c.plan
    given = _by_hand(c)[0] > 0
    layers, stages = _left(c)
    chunks = p.virtual_pipeline
    impossible = (p.pipeline_parallel < 2) | (layers < 0) | ((stages == 0) & (layers != 0))
    ends = np.mod(np.nan_to_num(p.first_stage_layers), chunks) + np.mod(
        np.nan_to_num(p.last_stage_layers), chunks
    )
    uneven = np.mod(layers, np.maximum(stages, 1.0) * chunks) != 0
    strict = (c.uneven_stages == 0) | (chunks > 1)
    return given & (impossible | (ends > 0) | (uneven & strict))


@legality_rule(
    "the first stage holds the first dense layers",
    lambda c: Problem(
        path="plan.pipeline_parallel",
        value=one_of(c.plan.pipeline_parallel),
        rule=f"leaves {one_of(_of_first(c))} layers for the first stage, and "
        f"{one_of(c.model.first_dense)} layers without experts come first; on two stages they are not modelled",
        fix=f"use at most {one_of(np.floor(c.model.n_layers / np.maximum(c.model.first_dense, 1.0)))} stages",
    ),
)
def _first_dense(c: Combination) -> BoolArray:
    return c.model.first_dense > _of_first(c)


def _of_first(c: Combination) -> FloatArray:
    """Layers of the first stage [1], at least."""
    even = np.floor(c.model.n_layers / c.plan.pipeline_parallel)
    return np.where(np.isnan(c.plan.first_stage_layers), even, c.plan.first_stage_layers)


@legality_rule(
    "stages have layers",
    lambda c: Problem(
        path="plan.pipeline_parallel",
        value=one_of(c.plan.pipeline_parallel),
        rule=f"is more than the {one_of(c.model.n_layers)} layers",
        fix="use fewer stages",
    ),
)
def _enough_layers(c: Combination) -> BoolArray:
    return c.plan.pipeline_parallel > c.model.n_layers


@legality_rule(
    "interleaving needs stages and micro-batches",
    lambda c: Problem(
        path="plan.virtual_pipeline",
        value=one_of(c.plan.virtual_pipeline),
        rule="interleaving needs training, at least two stages, and micro-batches in multiples of the stages",
        fix=f"use 1, or a multiple of {one_of(c.plan.pipeline_parallel)} micro-batches per replica",
    ),
)
def _interleave(c: Combination) -> BoolArray:
    p = c.plan
    possible = (
        (p.pipeline_parallel > 1) & (c.training > 0) & (np.mod(_micro_batches(c), p.pipeline_parallel) == 0)
    )
    # A V takes its chunks there and back, whatever the number of micro-batches.
    return (p.virtual_pipeline > 1) & ~possible & (p.schedule == CODE["1f1b"])


@legality_rule(
    "schedules are for pipelines that train",
    lambda c: Problem(
        path="plan.schedule",
        value=_schedule(c),
        rule="needs training and at least two stages",
        fix="use 1f1b" + (", or pipeline_parallel 2 or more" if c.training[0] else ""),
    ),
)
def _trains(c: Combination) -> BoolArray:
    return (c.plan.schedule > 0) & ((c.training == 0) | (c.plan.pipeline_parallel < 2))


@legality_rule(
    "schedule has its chunks",
    lambda c: Problem(
        path="plan.virtual_pipeline",
        value=one_of(c.plan.virtual_pipeline),
        rule=f"model chunks per stage; schedule {_schedule(c)} runs {CHUNKS[_schedule(c)]:g}",
        fix=f"set plan.virtual_pipeline to {CHUNKS[_schedule(c)]:g}, or use schedule 1f1b",
    ),
)
def _chunks(c: Combination) -> BoolArray:
    broken = np.zeros(1, dtype=bool)
    for name, chunks in CHUNKS.items():
        broken = broken | ((c.plan.schedule == CODE[name]) & (c.plan.virtual_pipeline != chunks))
    return broken


def _even_problem(c: Combination) -> Problem:
    p = c.plan
    stages, micro = float(p.pipeline_parallel[0]), float(_micro_batches(c)[0])
    if stages % 2:
        layers, inner = (
            float(c.model.n_layers[0]),
            float(p.devices[0] / p.tensor_parallel[0] / p.context_parallel[0]),
        )
        legal = [d for d in range(2, int(layers) + 1, 2) if layers % d == 0 and inner % d == 0]
        near = _nearest(stages, legal)
        return Problem(
            path="plan.pipeline_parallel",
            value=f"{stages:g}",
            rule="schedule dualpipe pairs stages from both ends, so their number is even",
            fix=(f"use {near} stages, or " if near else "use ") + "schedule zb_h1 or 1f1b",
        )
    per = float((p.data_parallel * p.micro_batch_size)[0])
    return Problem(
        path="task.global_batch_size",
        value=one_of(c.task.batch),
        rule=f"gives {micro:g} micro-batches per replica, and schedule dualpipe sends half of them in at either end",
        fix=f"use {_nearest(micro * per, [(micro - 1) * per, (micro + 1) * per])} sequences, or schedule zb_h1 or 1f1b",
    )


@legality_rule("dualpipe pairs stages and micro-batches", _even_problem)
def _even(c: Combination) -> BoolArray:
    odd = (np.mod(c.plan.pipeline_parallel, 2) != 0) | (np.mod(_micro_batches(c), 2) == 1)
    return (follows(c.plan, "dualpipe") > 0) & odd & _whole(c) & (c.plan.pipeline_parallel > 1)


def _least_problem(c: Combination) -> Problem:
    least = float(least_micro_batches(c.plan)[0])
    per, micro = float((c.plan.data_parallel * c.plan.micro_batch_size)[0]), float(_micro_batches(c)[0])
    others = " or ".join(
        name for name in ("zb_h1", "1f1b") if name == "1f1b" or (micro >= c.plan.pipeline_parallel[0])
    )
    return Problem(
        path="plan.schedule",
        value=_schedule(c),
        rule=f"needs {least:g} micro-batches per replica on {one_of(c.plan.pipeline_parallel)} stages, and there are "
        f"{micro:g}",
        fix=f"use task.global_batch_size {least * per:.10g} or more, or schedule {others}",
    )


@legality_rule("schedule has its micro-batches", _least_problem)
def _least(c: Combination) -> BoolArray:
    return (c.plan.schedule > 0) & (_micro_batches(c) < least_micro_batches(c.plan)) & _whole(c)


@legality_rule(
    "both directions have equal stages",
    lambda c: Problem(
        path="plan.schedule",
        value=_schedule(c),
        rule="gives each device layers from both ends of the model, so all stages have as many layers",
        fix=f"use a number of stages that divides the {one_of(c.model.n_layers)} layers, without first_stage_layers "
        "and last_stage_layers, or schedule zb_h1 or 1f1b with uneven_stages",
    ),
)
def _equal(c: Combination) -> BoolArray:
    folded = follows(c.plan, "zb_v", "dualpipe") > 0
    uneven = np.mod(c.model.n_layers, c.plan.pipeline_parallel) != 0
    return folded & (uneven | (_by_hand(c)[0] > 0))
