"""Why one row of a space is left out, in words: the rules it breaks, with the names that the rules do not know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hardware_specs.errors import LlmsimError, Problem
from simulator.legality import registry as legality
from simulator.machines.device import compute_dtype
from simulator.spaces.nearest_plans import nearest_plans
from simulator.spaces.partition import EXCLUDED_BY_CONDITION, Splitter
from simulator.spaces.space import Space


def _with_names(problem: Problem, splitter: Splitter, positions: list[np.ndarray]) -> Problem:
    """The problem of a precision with its name, the type that is missing, and those that the device has."""
    if problem.path != "plan.precision":
        return problem
    v = splitter.variants
    system = v.systems.get(int(v.systems.codes(positions)[0]))
    precision = v.precisions.get(int(v.precisions.codes(positions)[0]))
    device = system.accelerator
    has = sorted({*device.matmul_flop_per_unit_clock, *device.peak})
    wanted = [d for d in (precision.matmul, precision.attention) if compute_dtype(system, d, False) is None]
    if not wanted or "no units" not in problem.rule:
        return replace(problem, value=precision.name)
    return replace(
        problem,
        value=precision.name,
        rule=f"{device.name} has no units for {wanted[0]}",
        fix=f"use a type it has ({', '.join(has)}), or set plan.fallback: allow",
    )


def refusals(splitter: Splitter, row: int) -> list[Problem]:
    """Every rule and condition that a row breaks; empty if it is legal.

    Parameters
    ----------
    splitter : Splitter
        Of the space.
    row : int
        Row number.

    Returns
    -------
    list of Problem
        With names, values and ways out. Raises nothing: what does not resolve is among them.
    """
    rows = np.array([row], dtype=np.int64)
    try:
        broken = int(splitter.split(rows).broken[0])
        combination = splitter.combination(rows)
    except LlmsimError as error:
        return list(error.problems)
    positions = splitter.space.positions(rows)
    found = [_with_names(p, splitter, positions) for p in legality.problems(combination)]
    if broken == EXCLUDED_BY_CONDITION:
        conditions = "; ".join(c.text for c in splitter.space.where)
        rule, fix = "leaves this scenario out", "loosen the condition, or change the scenario"
        found.append(Problem(path="where", value=conditions, rule=rule, fix=fix))
    return found


def way_out(space: Space) -> str:
    """The nearest legal plans to the first row of a space in one line; empty where none is near. Raises nothing.

    Nor is any named where the user has conditions: what they leave out need not be illegal, nor what is near let in.
    """
    found = [] if space.where else nearest_plans(space)
    if not found:
        return ""
    numbered = "; ".join(f"({number}) {plan}" for number, plan in enumerate(found, start=1))
    return f"nearest legal plan{'s' if len(found) > 1 else ''}: {numbered}"
