"""Named rules of tensors that are kept outside device memory; importing this module registers them."""

from __future__ import annotations

import numpy as np

from hardware_specs.errors import Problem
from simulator.legality.registry import BoolArray, Combination, legality_rule
from simulator.per_device.optimizers import CODE
from simulator.scenarios.offload import TIERS, offload_text

__all__: list[str] = []
# Keys of a system by tier.
DECLARED = {"host": "host_memory", "nvme": "nvme"}


def _text(c: Combination) -> str:
    return offload_text({o: TIERS[int(code[0])] for o, code in c.plan.offload.items() if code[0] > 0})


def _missing(c: Combination) -> list[str]:
    return [
        tier
        for number, tier in enumerate(TIERS)
        if number and c.stores[tier][0] == 0 and any(code[0] == number for code in c.plan.offload.values())
    ]


def _tier_problem(c: Combination) -> Problem:
    missing = _missing(c)
    keys = " and ".join(f"system.{DECLARED[tier]}" for tier in missing)
    other = [t for t in TIERS[1:] if c.stores[t][0] > 0]
    instead = f", or use {' or '.join(other)}" if other else ", or use none"
    return Problem(
        path="plan.offload",
        value=_text(c),
        rule=f"the system declares no {' and no '.join(missing)} tier",
        fix=f"give {keys} (capacity, bandwidth){instead}",
    )


@legality_rule("offload has its tier", _tier_problem)
def _declared(c: Combination) -> BoolArray:
    broken = np.zeros(1, dtype=bool)
    for code in c.plan.offload.values():
        for number, tier in enumerate(TIERS):
            if number:
                broken = broken | ((code == number) & (c.stores[tier] == 0))
    return broken


@legality_rule(
    "offload is for training",
    lambda c: Problem(
        path="plan.offload",
        value=_text(c),
        rule="is modelled in training only",
        fix="leave it out of an inference plan",
    ),
)
def _trains(c: Combination) -> BoolArray:
    broken = np.zeros(1, dtype=bool)
    for code in c.plan.offload.values():
        broken = broken | ((code > 0) & (c.training == 0))
    return broken


@legality_rule(
    "a host updates what it holds",
    lambda c: Problem(
        path="plan.optimizer_step",
        value="host",
        rule="needs the optimizer's states outside the devices",
        fix="set plan.offload=optimizer, or plan.optimizer_step=device",
    ),
)
def _states_are_there(c: Combination) -> BoolArray:
    return (c.plan.update_on_host > 0) & (c.plan.offload["optimizer"] == 0) & (c.training > 0)


@legality_rule(
    "a host that updates is described",
    lambda c: Problem(
        path="plan.optimizer_step",
        value="host",
        rule="the system does not say what its host's processors and their memory do",
        fix="give system.host_memory.memory_bandwidth and system.host_memory.vector_rate, or set "
        "plan.optimizer_step=device",
    ),
)
def _host_is_known(c: Combination) -> BoolArray:
    return (c.plan.update_on_host > 0) & (c.stores["host_update"] == 0)


@legality_rule(
    "muon updates on the device",
    lambda c: Problem(
        path="plan.optimizer_step",
        value="host, with optimizer muon",
        rule="its matrix products are not modelled on a host's processors",
        fix="set plan.optimizer_step=device, or another optimizer",
    ),
)
def _products_are_here(c: Combination) -> BoolArray:
    return (c.plan.update_on_host > 0) & (c.plan.optimizer == CODE["muon"])
