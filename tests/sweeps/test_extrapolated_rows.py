"""Rows of a sweep say how many of their kernels nobody measured at such sizes, as the table of one plan does."""

from __future__ import annotations

import pytest

from simulator import simulate
from simulator.spaces.space import space_from
from simulator.sweeps.sweeping import run_space

MODEL = {"model": ["llama-3.1-8b", "llama-3.1-70b"], "devices": 8}
SPACES = {
    "training": {
        "task": {"kind": "training", "sequence_length": [2048, 131072], "global_batch_size": 8},
        "system": ["dgx-h100", "dgx-a100-80gb"],
        "plan": {"tensor_parallel": [1, 8], "recompute": ["none", "full"], "sequence_parallel": True},
    },
    "prefill": {
        "task": {"kind": "prefill", "batch_size": [8, 64], "prompt_length": [128, 131072]},
        "system": "dgx-h100",
        "plan": {"tensor_parallel": [1, 8], "precision": ["bf16", "fp8"]},
    },
    "decode": {
        "task": {"kind": "decode", "batch_size": [8, 4096], "context_length": [512, 131072]},
        "system": ["dgx-h100", "mi300x-8"],
        "plan": {"tensor_parallel": [1, 8]},
    },
}


@pytest.mark.parametrize("kind", SPACES)
def test_rows_count_what_the_operator_table_names(kind: str) -> None:
    space = space_from({**MODEL, **SPACES[kind]})
    result = run_space(space)
    counted = result.columns["extrapolated_kernels"]
    for place, row in enumerate(result.rows):
        operators = simulate(space.scenario_mapping(int(row))).operators
        assert counted[place] == (operators["beyond"] != "").sum(), int(row)
    assert len(set(counted)) > 2 and counted.max() > 0


def test_without_coefficients_nothing_is_extrapolated() -> None:
    space = space_from({**MODEL, **SPACES["training"], "fidelity": ["bound", "datasheet", "calibrated"]})
    result = run_space(space)
    fidelity = result.keys()["fidelity"]
    counted = result.columns["extrapolated_kernels"]
    assert counted[fidelity != "calibrated"].max() == 0 < counted[fidelity == "calibrated"].max()
