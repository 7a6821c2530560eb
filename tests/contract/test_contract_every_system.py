"""Every system of the catalog runs a model, on one accelerator and on as many as belong together."""

from __future__ import annotations

import math

import pytest

from hardware_specs import SystemSpec, dense_peak_flop_per_s, list_systems, load_system
from simulator import simulate

# What a user would ask for: bf16 where there are units for it, else the next type that has a recipe.
RECIPES = ("bf16", "fp16", "fp32")


def sizes(system: SystemSpec) -> list[int]:
    """The smallest and the node-sized number of accelerators that can be allocated."""
    if system.slices:
        return sorted(part.devices for part in system.slices)[:2]
    return sorted({1, int(system.accelerators_per_node.value)})


@pytest.mark.parametrize("name", list_systems())
def test_a_step_on_every_system(name: str) -> None:
    system = load_system(name)
    recipe = next(r for r in RECIPES if r in system.accelerator.matmul_flop_per_unit_clock)
    times = {}
    for devices in sizes(system):
        scenario = {
            "model": "gpt2-xl",
            "task": {"kind": "prefill", "batch_size": devices, "prompt_length": 512},
            "system": name,
            "devices": devices,
            "plan": {"precision": recipe},
        }
        estimate = simulate(scenario)
        least = simulate({**scenario, "fidelity": "bound"}).step_time_s
        assert math.isfinite(estimate.step_time_s) and estimate.energy_j > 0
        # One sequence each: at least the products' FLOP at the dense peak.
        flop = 2 * 1.4e9 * 512
        assert flop / dense_peak_flop_per_s(system.accelerator, recipe) < least <= estimate.step_time_s
        times[devices] = estimate.step_time_s
    # Replicas without exchange take as long as one of them.
    assert max(times.values()) == pytest.approx(min(times.values()), rel=1e-12)
