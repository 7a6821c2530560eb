"""Named rules of devices and how degrees fill them; importing this module registers them."""

from __future__ import annotations

import numpy as np

from hardware_specs.errors import Problem
from simulator.arrays.columns import FloatArray
from simulator.communication.collective_algorithms import ALGORITHMS
from simulator.legality.registry import BoolArray, Combination, divisors, legality_rule, one_of

IN_SWITCH = float(ALGORITHMS.index("in_switch"))
__all__: list[str] = []


def _degrees(c: Combination) -> Problem:
    p = c.plan
    context = float(p.context_parallel[0])
    inner = float((p.tensor_parallel * p.pipeline_parallel)[0]) * context
    devices, data = float(p.devices[0]), float(p.data_parallel[0])
    written = f"{one_of(p.tensor_parallel)} tensor x {one_of(p.pipeline_parallel)} pipeline"
    written += f" x {context:g} context" if context > 1 else ""
    if devices % inner == 0:
        rule = f"the degrees multiply to {inner * data:g}, not to the {devices:g} devices"
        fix = f"set data_parallel to {devices / inner:g} or leave it out"
        return Problem(path="plan", value=f"{written} x {data:g} data", rule=rule, fix=fix)
    rule = f"the degrees must multiply to the {devices:g} devices, and {inner:g} does not divide them"
    fix = f"use degrees whose product is one of {divisors(devices)}, or other devices"
    return Problem(path="plan", value=written, rule=rule, fix=fix)


@legality_rule("degrees multiply to devices", _degrees)
def _degrees_broken(c: Combination) -> BoolArray:
    p = c.plan
    product = p.tensor_parallel * p.pipeline_parallel * p.gradient_ranks
    return (product != p.devices) | (p.data_parallel != np.floor(p.data_parallel))


@legality_rule(
    "devices fill whole nodes",
    lambda c: Problem(
        path="devices",
        value=one_of(c.plan.devices),
        rule=f"must be part of one node or whole nodes of {one_of(c.fabric.accelerators_per_node)}",
        fix=f"use at most {one_of(c.fabric.accelerators_per_node)}, or a multiple of it",
    ),
)
def _whole_nodes(c: Combination) -> BoolArray:
    node = c.fabric.accelerators_per_node
    return (c.plan.devices > node) & (np.mod(c.plan.devices, node) != 0)


@legality_rule(
    "system has the devices",
    lambda c: Problem(
        path="devices",
        value=one_of(c.plan.devices),
        rule=f"is more than the {one_of(c.fabric.max_devices)} that the system joins",
        fix="use fewer, or another system",
    ),
)
def _enough_devices(c: Combination) -> BoolArray:
    return c.plan.devices > c.fabric.max_devices


@legality_rule(
    "switch adds up",
    lambda c: Problem(
        path="plan.collective_algorithm",
        value="in_switch",
        rule="needs a switch that adds up, and that of the system's nodes does not",
        fix="use auto or another algorithm, or set system.scale_up.in_switch_reduction",
    ),
)
def _in_switch(c: Combination) -> BoolArray:
    return (c.plan.collective_algorithm == IN_SWITCH) & (c.fabric.inner.in_switch == 0)


@legality_rule(
    "tiers join whole domains",
    lambda c: Problem(
        path="system.scale_out.domain",
        value=one_of(c.fabric.outer.domain),
        rule="is no multiple of what the tier inside joins, or that of a further tier is no multiple of this one",
        fix="use domains that divide each other",
    ),
)
def _domains(c: Combination) -> BoolArray:
    # False, but unknown as long as the fabric is: rows that grow axis by axis ask again then.
    broken: BoolArray = c.fabric.outer.domain < 0
    if not c.fabric.beyond:
        return broken
    sizes: list[FloatArray] = [*c.fabric.units, np.full(1, np.inf)]
    for inside, domain, beyond in zip(sizes, sizes[1:], sizes[2:], strict=False):
        # A domain that holds all accelerators is the outermost: nothing joins it.
        joined = np.isfinite(beyond) | (domain < c.fabric.max_devices)
        broken = broken | (joined & (np.mod(domain, inside) != 0))
    return broken


@legality_rule(
    "torus slice is listed",
    lambda c: Problem(
        path="devices",
        value=one_of(c.plan.devices),
        rule="is not the size of a listed slice of this torus",
        fix="use a listed slice (llmsim show SYSTEM) or set system.scale_up.shape",
    ),
)
def _slice(c: Combination) -> BoolArray:
    return np.isnan(c.fabric.inner.axis_0)
