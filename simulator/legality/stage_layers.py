"""Named rules of the layers on each stage of a pipeline; importing this registers them."""

from __future__ import annotations

import numpy as np

from hardware_specs.errors import Problem
from simulator.arrays.columns import FloatArray
from simulator.legality.registry import BoolArray, Combination, divisors, legality_rule, nearest, one_of
from simulator.pipelines.schedules import CODE

__all__: list[str] = []


def _ends_given(c: Combination) -> tuple[FloatArray, FloatArray]:
    """Stages whose layers the plan says as those of an end, and their layers together [1]."""
    given = (c.plan.first_stage_layers, c.plan.last_stage_layers)
    stages = sum(((~np.isnan(n)).astype(np.float64) for n in given), np.zeros(1))
    return stages, sum((np.nan_to_num(n) for n in given), np.zeros(1))


def _all_given(c: Combination) -> tuple[FloatArray, FloatArray]:
    """Stages or chunks whose layers the plan says one by one, and their layers together [1]; zero where it does not."""
    given = c.plan.stage_layers.values()
    places = sum(((~np.isnan(n)).astype(np.float64) for n in given), np.zeros(1))
    return places, sum((np.nan_to_num(n) for n in given), np.zeros(1))


def _left(c: Combination) -> tuple[FloatArray, FloatArray]:
    """Layers and stages beside those that the plan says [1]."""
    stages, layers = _ends_given(c)
    return c.model.n_layers - layers, c.plan.pipeline_parallel - stages


def _uneven_problem(c: Combination) -> Problem:
    stages, chunks, layers = (
        float(x[0]) for x in (c.plan.pipeline_parallel, c.plan.virtual_pipeline, c.model.n_layers)
    )
    parts = stages * chunks
    if chunks == 1:
        by_hand = "set plan.uneven_stages"
    elif (layers + 2) % parts == 0:
        by_hand = f"set first_stage_layers and last_stage_layers to {(layers + 2) / stages - 1:g}"
    else:
        by_hand = f"write {parts:g} numbers into plan.stage_layers"
    return Problem(
        path="plan.pipeline_parallel",
        value=f"{stages:g} x {chunks:g} chunks",
        rule=f"must divide the {layers:g} layers",
        fix=f"use {divisors(layers)}, or {by_hand}",
    )


@legality_rule("layers divide into stages", _uneven_problem)
def _stages(c: Combination) -> BoolArray:
    p = c.plan
    uneven = np.mod(c.model.n_layers, p.pipeline_parallel * p.virtual_pipeline) != 0
    by_hand = (_ends_given(c)[0] > 0) | (_all_given(c)[0] > 0)
    return uneven & ((c.uneven_stages == 0) | (p.virtual_pipeline > 1)) & ~by_hand


def _said(layers: FloatArray) -> str:
    return "any" if np.isnan(layers[0]) else one_of(layers)


def _end_chunk_problem(c: Combination, path: str, chunks: float) -> Problem:
    layers = float(getattr(c.plan, path)[0])
    near = nearest(layers, [chunks * k + odd for k in range(int(layers // chunks) + 2) for odd in (0, -1)])
    end = "first" if path.startswith("first") else "last"
    return Problem(
        path=f"plan.{path}",
        value=f"{layers:g}",
        rule=f"its {chunks:g} chunks hold as many layers each, or the {end} one has one less",
        fix=f"use {near}, or say the layers of every chunk with plan.stage_layers",
    )


def _by_hand_problem(c: Combination) -> Problem:
    layers, stages = (float(x[0]) for x in _left(c))
    chunks, pipeline, whole = (
        float(x[0]) for x in (c.plan.virtual_pipeline, c.plan.pipeline_parallel, c.model.n_layers)
    )
    per = stages * chunks
    ends = [name for name in ("first_stage_layers", "last_stage_layers") if _odd(c, name)[0]]
    if pipeline < 2:
        rule = "is for pipelines, and the one stage has all layers"
        fix = "leave it out, or set plan.pipeline_parallel to 2 or more"
    elif layers >= 0 and ends:
        return _end_chunk_problem(c, ends[0], chunks)
    elif layers < 0 or per == 0:
        rule = f"makes {whole - layers:g} layers, and the model has {whole:g}"
        fix = f"give {whole:g} in all" if per == 0 else f"give at most {whole:g}"
    else:
        near = nearest(layers, [per * k for k in range(int(whole // per) + 1)])
        rule = (
            f"leaves {layers:g} of {whole:g} layers for {stages:g} stages of {chunks:g} chunks, which must share "
            "them evenly"
        )
        fix = f"leave {near} layers to them, or " + (
            "set plan.uneven_stages"
            if chunks == 1
            else "say the layers of every chunk with plan.stage_layers"
        )
    value = f"{_said(c.plan.first_stage_layers)} first, {_said(c.plan.last_stage_layers)} last"
    return Problem(path="plan.first_stage_layers", value=value, rule=rule, fix=fix)


def _odd(c: Combination, end: str) -> BoolArray:
    """Where the chunks of an end stage neither hold as many layers each nor one less on the outermost one."""
    layers, chunks = getattr(c.plan, end), c.plan.virtual_pipeline
    short = np.mod(chunks - np.mod(np.nan_to_num(layers), chunks), chunks)
    return ~np.isnan(layers) & (short > 1)


@legality_rule("layers by hand add up", _by_hand_problem)
def _by_hand_broken(c: Combination) -> BoolArray:
    p = c.plan
    given = _ends_given(c)[0] > 0
    layers, stages = _left(c)
    chunks = p.virtual_pipeline
    impossible = (p.pipeline_parallel < 2) | (layers < 0) | ((stages == 0) & (layers != 0))
    odd = _odd(c, "first_stage_layers") | _odd(c, "last_stage_layers")
    uneven = np.mod(layers, np.maximum(stages, 1.0) * chunks) != 0
    strict = (c.uneven_stages == 0) | (chunks > 1)
    return given & (impossible | odd | (uneven & strict))


def _nearest_layers(given: list[float], places: int, whole: int) -> str:
    """Layers that add up, close to those given; an even split where these are too few, too many or far off."""
    base, extra = divmod(whole, places)
    even = [base + (0 < k <= extra) for k in range(places)] if extra < places else [base] * places
    found = [int(n) for n in given]
    missing = whole - sum(found)
    if len(found) != places or abs(missing) > places:
        found = even
    for _ in range(abs(whole - sum(found))):
        if missing > 0:
            found[found.index(min(found))] += 1
        else:
            found[found.index(max(found))] -= 1
    return " ".join(str(n) for n in found)


def _every_stage_problem(c: Combination) -> Problem:
    p = c.plan
    given = [float(n[0]) for n in p.stage_layers.values() if not np.isnan(n[0])]
    stages, chunks, whole = (
        int(float(x[0])) for x in (p.pipeline_parallel, p.virtual_pipeline, c.model.n_layers)
    )
    near = _nearest_layers(given, stages * chunks, whole)
    fix = f"use `{near}`"
    of = f"{stages} stages" if chunks == 1 else f"{stages} stages of {chunks} chunks"
    if stages < 2:
        rule, fix = "is for pipelines, and the one stage has all layers", "leave it out"
        fix += f", or set plan.pipeline_parallel to {len(given)}" if len(given) > 1 else ""
    elif _ends_given(c)[0][0] > 0:
        rule = "says the layers of the ends too, and so do first_stage_layers and last_stage_layers"
        fix = "leave those out"
    elif len(given) != stages * chunks:
        rule = f"are {len(given)} numbers, and there are {of}"
    else:
        rule = f"makes {sum(given):g} layers, and the model has {whole}"
    return Problem(path="plan.stage_layers", value=" ".join(f"{n:g}" for n in given), rule=rule, fix=fix)


@legality_rule("layers of every stage add up", _every_stage_problem)
def _every_stage_broken(c: Combination) -> BoolArray:
    p = c.plan
    places, layers = _all_given(c)
    counted = (places == p.pipeline_parallel * p.virtual_pipeline) & (layers == c.model.n_layers)
    return (places > 0) & (~counted | (p.pipeline_parallel < 2) | (_ends_given(c)[0] > 0))


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
    """Layers of the first stage [1], at least; of its first chunk where a plan says those of every chunk."""
    even = np.floor(c.model.n_layers / c.plan.pipeline_parallel)
    found = np.where(np.isnan(c.plan.first_stage_layers), even, c.plan.first_stage_layers)
    if c.plan.stage_layers:
        first = c.plan.stage_layers["0"]
        found = np.where(np.isnan(first), found, first)
    return found


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
    "a V has its ends on one stage",
    lambda c: Problem(
        path="plan.first_stage_layers",
        value=f"{_said(c.plan.first_stage_layers)} first, {_said(c.plan.last_stage_layers)} last",
        rule="schedule zb_v has both ends of the model on the first stage",
        fix="say the layers of every chunk with plan.stage_layers, or use schedule zb_h1 or 1f1b",
    ),
)
def _folded(c: Combination) -> BoolArray:
    return (c.plan.schedule == CODE["zb_v"]) & (_ends_given(c)[0] > 0)
