"""More of a machine is never slower, more work is never faster; a bound is a bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import ENCODERS, TASKS, changed, laws, scenarios

from hardware_specs import figures, load_system
from simulator import simulate, sweep
from simulator.spaces.space import space_from
from simulator.sweeps.sweeping import run_space

ROUNDING = 1 + 1e-9
FASTER = (
    "accelerator.units",
    "accelerator.clock",
    "accelerator.memory_bandwidth",
    "accelerator.vector_flop_per_unit_clock",
    "scale_up.link_bandwidth",
    "scale_up.links",
    "scale_out.link_bandwidth",
    "scale_out.links",
)
SLOWER = ("scale_up.latency", "scale_out.latency", "scale_out.oversubscription")


def seconds(scenario):
    """Step time by way of a sweep of one row, which writes no tables."""
    return float(run_space(space_from(scenario)).columns["step_time_s"][0])


@laws(60)
@given(scenarios(), st.sampled_from(FASTER), st.floats(1.0, 8.0))
def test_more_hardware_is_never_slower(scenario, figure, factor):
    if f"{figure}" not in figures(load_system(scenario["system"])):
        return
    better = {**scenario, f"system.{figure}": f"{factor!r}x"}
    assert seconds(better) <= seconds(scenario) * ROUNDING


@pytest.mark.parametrize("figure", ["accelerator.memory_bandwidth", "accelerator.units"])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_no_step_up_where_two_stages_change_places(figure, recompute):
    """A middle stage with a layer more and a last stage with the head take about as long, but with another share of
    it in the backward pass, beside which a slow gradient exchange is hidden. Time falls along the whole axis."""
    factors = np.linspace(0.7, 0.95, 4001)
    vocabularies = [55_500, 57_000, 58_500]
    frame = sweep(
        {
            "model": "llama-3.1-8b",
            "model.vocab": vocabularies,
            "task": {"kind": "training", "sequence_length": 1024, "global_batch_size": 24},
            "system": "dgx-a100-80gb",
            "system.scale_up.link_bandwidth": "3 GB/s",
            "devices": 24,
            "plan": {"pipeline_parallel": 3, "uneven_stages": True, "recompute": recompute},
            f"system.{figure}": [f"{f!r}x" for f in factors.tolist()],
        }
    )
    seconds_of = frame["step_time_s"].to_numpy().reshape(len(vocabularies), len(factors))
    assert np.all(np.diff(seconds_of, axis=1) < 0)


@laws(40)
@given(scenarios(), st.sampled_from(SLOWER), st.floats(1.0, 8.0))
def test_worse_hardware_is_never_faster(scenario, figure, factor):
    if f"{figure}" not in figures(load_system(scenario["system"])):
        return
    worse = {**scenario, f"system.{figure}": f"{factor!r}x"}
    assert seconds(worse) >= seconds(scenario) / ROUNDING


@laws(40)
@given(scenarios(), st.integers(2, 5))
def test_more_sequences_are_never_faster(scenario, factor):
    key = "global_batch_size" if scenario["task"]["kind"] == "training" else "batch_size"
    more = changed(scenario, **{f"task__{key}": scenario["task"][key] * factor})
    assert seconds(more) >= seconds(scenario) / ROUNDING


@laws(40)
@given(scenarios())
def test_longer_sequences_are_never_faster(scenario):
    task = scenario["task"]
    key = {"training": "sequence_length", "decode": "context_length"}.get(task["kind"], "prompt_length")
    # Positions of an encoder end early.
    longer = 448 if scenario["model"] in ENCODERS else 896
    if task[key] >= longer:
        return
    assert seconds(changed(scenario, **{f"task__{key}": longer})) >= seconds(scenario) / ROUNDING


@laws(40)
@given(scenarios(), st.integers(1, 3))
def test_more_layers_are_never_faster(scenario, more):
    """The step grows by whole layers per stage and chunk, so that every stage gets more."""
    from workloads.catalog import load_model

    plan = scenario["plan"]
    step = plan["pipeline_parallel"] * plan.get("virtual_pipeline", 1)
    deeper = {**scenario, "model.n_layers": load_model(scenario["model"]).n_layers + more * step}
    assert seconds(deeper) >= seconds(scenario) / ROUNDING


@laws(40)
@given(scenarios(tasks=("generation",)), st.integers(1, 40))
def test_more_tokens_are_never_faster(scenario, more):
    task = scenario["task"]
    # Beyond the learned positions of some models.
    if task["prompt_length"] + task["output_length"] + more > 1024:
        return
    longer = changed(scenario, task__output_length=task["output_length"] + more)
    assert seconds(longer) >= seconds(scenario) / ROUNDING


@pytest.mark.parametrize("kind", TASKS)
def test_bound_is_below_datasheet_is_below_calibrated(kind):
    @laws(40)
    @given(scenarios(tasks=(kind,)))
    def law(scenario):
        bound, datasheet, calibrated = (
            seconds(changed(scenario, fidelity=f)) for f in ("bound", "datasheet", "calibrated")
        )
        assert 0 < bound <= datasheet * ROUNDING
        assert datasheet <= calibrated * ROUNDING

    law()


@laws(40)
@given(scenarios())
def test_step_is_above_the_roofline_of_its_operators(scenario):
    """Time of the slowest stage >= FLOP over the peak, and >= bytes over the bandwidth, of its own operators."""
    e = simulate(scenario).to_dict()
    rows = [r for r in e["operators"] if r["phase"] not in ("communication", "bubble")]
    products = sum(r["flop"] for r in rows if "matmul" in r["kind"])
    assert e["step_time_s"] >= products / e["peak_flop_per_s"] * (1 - 1e-12)
    moved = sum(r["bytes"] for r in rows)
    assert e["step_time_s"] >= moved / e["memory_bandwidth_bytes_per_s"] * (1 - 1e-12)
