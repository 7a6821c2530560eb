"""Sweeps and searches: how fast, how linear, how much memory; each figure in a process of its own.

``python benchmarks/sweeps.py`` prints the figures with date, machine and versions; ``--json FILE`` writes them;
``--quick`` runs small spaces in seconds; ``--figure NAME`` measures one. Seconds of the processor stand beside
seconds of the clock: on a machine that does other work only the first say how fast the engine is.

Figures
-------
training
    Every plan of GPT-3 175B on 512 A100 over the axes of Calculon's search: all results of all legal plans in memory.
experts
    Every plan of DeepSeek-V3 on 2,048 H800 over tensor, context, expert, expert-tensor and pipeline degrees, two
    precisions and three batches, and how many distinct layers they have.
decode
    Llama-3.1-70B: batch x context x machine x devices x tensor x pipeline x precision.
search
    The same axes with more values, and offload: the best plans of 28.9 million rows, the first one estimated again.
linear
    Rows per second at about 1e5, 1e6 and 1e7 rows in parts, the peak memory of each run, and the line through them.
workers
    Parts by one process and by two, and how much faster two are.
query
    The best 100 rows, and the front of three objectives, of a Parquet sweep of ten million rows.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
for place in (REPOSITORY, REPOSITORY / "benchmarks"):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

from run import MAXRSS_BYTES, circumstances  # noqa: E402  (the folder is on the path only now)

Figure = dict[str, Any]
SWITCH = [False, True]
OVERLAPS = ("overlap_grad_reduce", "overlap_param_gather", "overlap_tensor_parallel", "overlap_pipeline_p2p")


def training_space(batches: list[int], quick: bool) -> Figure:
    """Plans of GPT-3 175B on 512 A100; the data degree follows from the others."""
    return {
        "model": "gpt3-175b",
        "task": {"kind": "training", "sequence_length": 2048, "global_batch_size": batches},
        "system": "dgx-a100-80gb",
        "devices": 512,
        "plan": {
            "tensor_parallel": [4, 8] if quick else [1, 2, 4, 8, 16, 32],
            "pipeline_parallel": [8, 16] if quick else [1, 2, 4, 8, 16, 32],
            "virtual_pipeline": [1, 2] if quick else [1, 2, 3, 4, 6, 12],
            "micro_batch_size": [1, 2] if quick else [1, 2, 3, 4, 6, 8, 12, 16],
            "recompute": ["none", "selective", "full"],
            "zero_stage": [0, 1, 2, 3],
            "sequence_parallel": SWITCH,
            **({} if quick else dict.fromkeys(OVERLAPS, SWITCH)),
            "precision": "fp16",
        },
    }


def experts_space(quick: bool) -> Figure:
    """Plans of DeepSeek-V3 at the size of its pre-training (arXiv:2412.19437, sections 3.1 and 4.2)."""
    return {
        "model": "deepseek-v3",
        "task": {
            "kind": "training",
            "sequence_length": 4096,
            "global_batch_size": [15360] if quick else [7680, 15360, 30720],
        },
        "system": "dgx-h800",
        "devices": 2048,
        "plan": {
            "tensor_parallel": [1, 8] if quick else [1, 2, 4, 8],
            "context_parallel": [1] if quick else [1, 2, 4],
            "pipeline_parallel": [8, 16] if quick else [1, 2, 4, 8, 16],
            "virtual_pipeline": [1] if quick else [1, 2, 4],
            "uneven_stages": True,
            "expert_parallel": [8, 64] if quick else [1, 2, 4, 8, 16, 32, 64, 128],
            "expert_tensor_parallel": [1] if quick else [1, 2, 4],
            "micro_batch_size": [1, 2] if quick else [1, 2, 4],
            "recompute": ["none", "selective", "full"],
            "zero_stage": [0, 1, 2, 3],
            "sequence_parallel": SWITCH,
            "overlap_expert_parallel": SWITCH,
            **({} if quick else dict.fromkeys(OVERLAPS[:2] + OVERLAPS[3:], SWITCH)),
            "precision": ["bf16", "fp8"],
        },
    }


def decode_space(quick: bool) -> Figure:
    """Decode steps of Llama-3.1-70B."""
    return {
        "model": "llama-3.1-70b",
        "task": {
            "kind": "decode",
            "batch_size": [8 * k for k in range(1, 5 if quick else 129)],
            "context_length": [512 * k for k in range(1, 3 if quick else 33)],
        },
        "system": ["dgx-h100", "dgx-a100-80gb", "dgx-h200", "dgx-b200", "mi300x-8"],
        "devices": [8, 16, 32],
        "plan": {
            "tensor_parallel": [1, 2, 4, 8],
            "pipeline_parallel": [1, 2, 4],
            "precision": ["bf16", "w8a8", "w4a16", "fp8"],
            "fallback": "allow",
        },
    }


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds by the clock, seconds of the processor (children that have ended included), and the result."""
    before, start = os.times(), time.perf_counter()
    result = work()
    wall, after = time.perf_counter() - start, os.times()
    return wall, sum(after[:4]) - sum(before[:4]), result


def rates(rows: int, legal: int, wall: float, cpu: float) -> Figure:
    """Figures of one run."""
    return {
        "rows": rows,
        "legal": legal,
        "wall_s": wall,
        "cpu_s": cpu,
        "legal_per_s": legal / wall,
        "legal_per_cpu_s": legal / cpu,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES,
    }


def _swept(space: Figure, repeats: int) -> Figure:
    from simulator.spaces.space import space_from
    from simulator.sweeps.sweeping import run_space

    parsed = space_from(space)
    best: Figure = {}
    for _ in range(repeats):
        wall, cpu, result = timed(lambda: run_space(parsed))
        found = rates(parsed.n_rows, int(result.rows.size), wall, cpu)
        if not best or found["cpu_s"] < best["cpu_s"]:
            best = {**found, "distinct_layers": result.n_layers_evaluated}
        del result
    return best


def training(quick: bool) -> Figure:
    """Plans per second in memory, the best of three runs [1/s]."""
    return _swept(training_space([1536], quick), 1 if quick else 3)


def experts(quick: bool) -> Figure:
    """Plans of a model with experts per second in memory, the best of three runs [1/s]."""
    return _swept(experts_space(quick), 1 if quick else 3)


def decode(quick: bool) -> Figure:
    """Decode steps per second in memory, the best of three runs [1/s]."""
    return _swept(decode_space(quick), 1 if quick else 3)


def search(quick: bool) -> Figure:
    """An exhaustive search, its optimum estimated by itself [s]."""
    from simulator import simulate
    from simulator.searching.plan_search import search_space
    from simulator.spaces.space import space_from

    space = training_space([1536] if quick else [1536, 3072], quick)
    if not quick:
        space["plan"]["tensor_parallel"] = [1, 2, 4, 8, 16, 32, 64]
        space["plan"]["pipeline_parallel"] = [1, 2, 4, 8, 16, 32, 64]
        space["plan"]["virtual_pipeline"] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 96]
        space["plan"]["micro_batch_size"] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
        space["plan"]["offload"] = ["none", "optimizer", "activations", "optimizer activations"]
    parsed = space_from(space)
    wall, cpu, found = timed(lambda: search_space(parsed, top=10))
    alone = simulate(found.scenarios[0]).step_time_s
    return {
        **rates(parsed.n_rows, found.n_legal, wall, cpu),
        "fit": found.n_fit,
        "timed": found.n_timed,
        "step_time_s": float(found.best["step_time_s"].iloc[0]),
        "again_s": alone,
    }


def _parts(rows: int, folder: Path, workers: int = 1, part_rows: int = 2**20) -> Figure:
    from simulator.spaces.space import space_from
    from simulator.sweeps.sweeping_parts import swept_parts

    # About half of the combinations are legal.
    wanted, one = 2 * rows, space_from(training_space([1536], False)).n_rows
    batches = [768 * k for k in range(1, max(round(wanted / one), 1) + 1)]
    space = training_space(batches, False)
    for name in OVERLAPS:
        if space_from(space).n_rows > 1.5 * wanted:
            space["plan"].pop(name)
    parsed = space_from(space)
    with tempfile.TemporaryDirectory() as scratch:  # loads what is loaded once: catalog, modules
        swept = swept_parts(space_from(training_space([1536], True)), Path(scratch) / "rows")
        with swept:
            pass

    def work() -> int:
        with swept_parts(parsed, folder, workers=workers, part_rows=part_rows) as (_, about):
            return int(about["rows_kept"])

    before = os.times()
    wall, cpu, kept = timed(work)
    own, others = (sum(os.times()[i : i + 2]) - sum(before[i : i + 2]) for i in (0, 2))
    return {**rates(parsed.n_rows, kept, wall, cpu), "longest_cpu_s": max(own, others)}


def linear(quick: bool) -> Figure:
    """Rows in parts at growing sizes; each size in a process of its own, for its memory.

    A sweep costs a start (layers, the first touch of memory) and so much per row: ``fixed_cpu_s`` and
    ``per_million_cpu_s`` are the line through the smallest and the largest size, ``off_the_line`` how far the one
    between them lies from it, and ``slowest_over_fastest`` compares plain rates.
    """
    found: Figure = {}
    for rows in (10_000, 40_000, 80_000) if quick else (100_000, 1_000_000, 10_000_000):
        with tempfile.TemporaryDirectory() as folder:
            found[f"{rows:g}"] = apart("_parts", rows, str(Path(folder) / "rows"))
    small, middle, large = found.values()
    each = (large["cpu_s"] - small["cpu_s"]) / (large["legal"] - small["legal"])
    fixed = small["cpu_s"] - each * small["legal"]
    speeds = [size["legal_per_cpu_s"] for size in (small, middle, large)]
    return {
        **found,
        "fixed_cpu_s": fixed,
        "per_million_cpu_s": 1e6 * each,
        "off_the_line": middle["cpu_s"] / (fixed + each * middle["legal"]) - 1.0,
        "slowest_over_fastest": min(speeds) / max(speeds),
    }


def workers(quick: bool) -> Figure:
    """One process against two on the same parts."""
    rows, part_rows = (20_000, 10_000) if quick else (10_000_000, 2**20)
    found: Figure = {}
    for n in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            found[str(n)] = _parts(rows, Path(folder) / "rows", n, part_rows)
    return {
        **found,
        "speedup": found["1"]["wall_s"] / found["2"]["wall_s"],
        # What a machine that does nothing else would show, the other process' start included.
        "cpu_speedup": found["1"]["longest_cpu_s"] / found["2"]["longest_cpu_s"],
    }


def query(quick: bool) -> Figure:
    """Questions to a saved sweep [s]."""
    from simulator.sweeps.querying import pareto, top

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows"
        kept = _parts(20_000 if quick else 10_000_000, path)["legal"]
        top_s, top_cpu_s, best = timed(lambda: top(path, k=100))
        names = ["step_time_s", "peak_bytes", "energy_j"]
        front_s, front_cpu_s, front = timed(lambda: pareto(path, names))
        size = sum(p.stat().st_size for p in path.iterdir())
    return {
        "rows": kept,
        "file_bytes": size,
        "top_s": top_s,
        "top_cpu_s": top_cpu_s,
        "top_rows": len(best),
        "front_s": front_s,
        "front_cpu_s": front_cpu_s,
        "front_rows": len(front),
    }


FIGURES: dict[str, Callable[[bool], Figure]] = {
    "training": training,
    "experts": experts,
    "decode": decode,
    "search": search,
    "linear": linear,
    "workers": workers,
    "query": query,
}


def apart(*call: Any) -> Figure:
    """A figure, or a function of this file with arguments, in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--call", json.dumps(call)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figure: Figure = json.loads(done.stdout)
    return figure


def _called(name: str, *arguments: Any) -> Figure:
    return _parts(arguments[0], Path(arguments[1])) if name == "_parts" else FIGURES[name](*arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure sweeps and searches.")
    parser.add_argument("--quick", action="store_true", help="small spaces: seconds")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the results")
    parser.add_argument("--figure", choices=FIGURES, action="append", help="only this one; may be repeated")
    parser.add_argument("--call", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.call is not None:
        sys.stdout.write(json.dumps(_called(*json.loads(options.call))) + "\n")
        return 0
    results: Figure = {"circumstances": circumstances(), "quick": options.quick}
    for name in options.figure or FIGURES:
        results[name] = apart(name, options.quick)
        sys.stdout.write(f"{name}: {json.dumps(results[name])}\n")
        sys.stdout.flush()
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
