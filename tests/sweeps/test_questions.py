"""Questions to a saved sweep: SQL, the best rows, the front and a pivot, against the same by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hardware_specs import SpecError
from simulator import sweep
from simulator.spaces.space import space_from
from simulator.sweeps.querying import pareto, pareto_front, pivot, query, top
from simulator.sweeps.saved_sweep import write_result
from simulator.sweeps.sweeping import run_space
from simulator.sweeps.sweeping_parts import swept_parts

SPACE = {
    "model": "llama-3.1-8b",
    "task": {"kind": "training", "sequence_length": 4096, "global_batch_size": 64},
    "system": "dgx-h100",
    "devices": 8,
    "plan": {
        "tensor_parallel": [1, 2, 4, 8],
        "zero_stage": [0, 1, 2, 3],
        "recompute": ["none", "selective", "full"],
    },
}


@pytest.fixture(scope="module", params=["parts", "rows.parquet", "rows.csv"])
def saved(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / request.param
    if request.param == "parts":
        with swept_parts(space_from(SPACE), path, part_rows=10):
            pass
    else:
        write_result(run_space(space_from(SPACE)), path)
    return path


def test_sql(saved: Path) -> None:
    frame = sweep(SPACE)
    found = query(saved, 'SELECT "plan.zero_stage" z, max(peak_bytes) p FROM rows GROUP BY 1 ORDER BY 1')
    by_hand = frame.groupby("plan.zero_stage")["peak_bytes"].max()
    assert found["z"].tolist() == by_hand.index.tolist()
    assert found["p"].tolist() == pytest.approx(by_hand.tolist(), rel=1e-12)


def test_top(saved: Path) -> None:
    frame = sweep(SPACE)
    fits = frame[frame["feasible"]]
    assert top(saved, k=5)["step_time_s"].tolist() == pytest.approx(
        sorted(fits["step_time_s"])[:5], rel=1e-12
    )
    fastest = top(saved, "tokens_per_s", 1, "feasible AND \"plan.recompute\" = 'full'")
    full = fits[fits["plan.recompute"] == "full"]
    assert fastest["tokens_per_s"][0] == pytest.approx(full["tokens_per_s"].max(), rel=1e-12)


def test_front(saved: Path) -> None:
    names = ["step_time_s", "memory_headroom_bytes", "energy_j"]
    frame = sweep(SPACE)
    frame["memory_headroom_bytes"] = frame["capacity_bytes"] - frame["peak_bytes"]
    fits = frame[frame["feasible"]][names].to_numpy() * np.array([1.0, -1.0, 1.0])
    beaten = [any(np.all(b <= a) and np.any(b < a) for b in fits) for a in fits]
    found = pareto(saved, names)[names].to_numpy() * np.array([1.0, -1.0, 1.0])
    by_hand = np.unique(fits[~np.array(beaten)], axis=0)
    assert found == pytest.approx(by_hand, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(arrays(float, st.tuples(st.integers(0, 40), st.integers(1, 4)), elements=st.integers(0, 6).map(float)))
def test_a_front_is_what_no_row_beats(costs: np.ndarray) -> None:
    front = pareto_front(costs).tolist()
    by_hand = [
        i
        for i, a in enumerate(costs)
        if not any(np.all(b <= a) and (np.any(b < a) or j < i) for j, b in enumerate(costs))
    ]
    assert front == by_hand


def test_pivot(saved: Path) -> None:
    frame = sweep(SPACE)
    fits = frame[frame["feasible"]]
    by_hand = fits.pivot_table(
        index="plan.tensor_parallel", columns="plan.zero_stage", values="step_time_s", aggfunc="min"
    )
    pd.testing.assert_frame_equal(pivot(saved, "tensor_parallel", "zero_stage"), by_hand, check_names=False)


def test_questions_that_are_not_understood(tmp_path: Path, saved: Path) -> None:
    for ask, words in (
        (lambda: query(saved, "SELEC 1"), "is not understood"),
        (lambda: query(saved, "SELECT nothing FROM rows"), "nothing"),
        (lambda: top(saved, "step_tim_s"), "did you mean step_time_s"),
        (lambda: query(tmp_path / "none.parquet", "SELECT 1"), "does not exist"),
        (lambda: query(tmp_path, "SELECT 1"), "has no parts of a sweep"),
    ):
        with pytest.raises(SpecError, match=words):
            ask()
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(SpecError, match="cannot be read"):
        query(tmp_path / "text.parquet", "SELECT 1")
