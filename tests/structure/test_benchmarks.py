"""The benchmark runs, in its quick form, and measures what it says; no speed is asserted on an unknown machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "benchmarks" / "run.py"


def test_the_quick_form(tmp_path: Path) -> None:
    written = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--json", str(written)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(written.read_text(encoding="utf-8"))
    assert {"date", "processor", "cores", "python", "numpy"} <= results["circumstances"].keys()
    assert 0 < results["warm_call"]["median_s"] < results["cold_run"]["median_s"]
    for name in ("plans", "hardware"):
        figure = results[name]
        assert figure["rows"] == figure["legal"] + sum(figure["excluded"].values())
        assert 0 < figure["distinct_layers"] <= figure["legal"]
        assert figure["values_compared"] > 100
        assert figure["largest_difference"] <= 1e-12, f"{name}: vector and scalar differ"
    assert results["plans"]["distinct_layers"] < results["plans"]["legal"] / 10
    assert results["hardware"]["distinct_layers"] == results["hardware"]["rows"]
    assert "legal plans/s" in done.stdout


def test_the_quick_form_of_sweeps(tmp_path: Path) -> None:
    written = tmp_path / "results.json"
    script = REPOSITORY / "benchmarks" / "sweeps.py"
    done = subprocess.run(
        [sys.executable, str(script), "--quick", "--json", str(written)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(written.read_text(encoding="utf-8"))
    for name in ("training", "experts", "decode", "search"):
        figure = results[name]
        assert 0 < figure["legal"] <= figure["rows"]
        assert figure["cpu_s"] > 0 and figure["wall_s"] > 0
    found = results["search"]
    assert 0 < found["timed"] <= found["fit"] <= found["legal"]
    assert abs(found["step_time_s"] / found["again_s"] - 1) <= 1e-12
    linear = results["linear"]
    assert linear["10000"]["legal"] == results["query"]["rows"] > 0
    assert {"fixed_cpu_s", "per_million_cpu_s", "off_the_line", "slowest_over_fastest"} <= linear.keys()
    assert results["workers"]["1"]["legal"] == results["workers"]["2"]["legal"]
    assert results["query"]["top_rows"] == 100 and results["query"]["front_rows"] > 0


def test_other_tools_that_are_not_here_are_named() -> None:
    script = REPOSITORY / "benchmarks" / "peers.py"
    done = subprocess.run([sys.executable, "-S", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"tool": "llm-analysis", "missing": "llm_analysis"}
