"""How fast the engine is: the figures that the README speaks of, each measured in a process of its own.

``python benchmarks/run.py`` prints them with date, machine and versions; ``--json FILE`` writes them; ``--quick``
runs small spaces once, in seconds. Medians are over ``--repeats`` runs.

Figures
-------
cold_run
    ``llmsim run`` of the README's example as a command: interpreter start, imports, estimate, table [s].
warm_call
    ``simulate()`` of the same scenario, read from a mapping, with its operator table as a frame [s].
plans
    Every plan of GPT-3 175B on 512 A100 (tensor x pipeline x interleave x data x micro-batch x recompute x ZeRO x
    sequence parallelism x batch size; the data degree follows from the others): rows and legal plans per second,
    generation and legality included [1/s]; peak resident memory of the process [byte].
hardware
    One plan on random machines, where no two rows share a layer: rows per second [1/s].

``plans`` and ``hardware`` also turn some rows back into scenarios of their own and report the largest relative
difference of any result between the vector and the scalar [1].
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLE = REPOSITORY / "examples" / "llama-3.1-70b-training.yaml"
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

PACKAGES = ("numpy", "networkx", "pydantic", "pandas", "typer", "rich")
# resource counts kilobytes on Linux and bytes on macOS.
MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
RANDOM_SEED = 20240601
GIB = 2.0**30
Figure = dict[str, Any]


def plan_space(quick: bool) -> dict[str, Any]:
    """All plans of GPT-3 175B on 512 A100, over batch sizes that are multiples of half of GPT-3's 1536 sequences."""
    batches = [1536] if quick else [768 * k for k in range(1, 57)]
    return {
        "model": "gpt3-175b",
        "task": {"kind": "training", "sequence_length": 2048, "global_batch_size": batches},
        "system": "dgx-a100-80gb",
        "devices": 512,
        "plan": {
            "tensor_parallel": [1, 2, 4, 8, 16, 32],
            "pipeline_parallel": [1, 2, 4, 8, 16, 32, 64],
            "virtual_pipeline": [1, 2, 3, 4, 6, 8, 12],
            "micro_batch_size": [1, 2, 4, 8] if quick else [1, 2, 3, 4, 6, 8, 12, 16],
            "recompute": ["none", "selective", "full"],
            "zero_stage": [0, 1, 2, 3],
            "sequence_parallel": [False, True],
            "precision": "fp16",
        },
    }


def hardware_space(quick: bool) -> dict[str, Any]:
    """One plan on random machines: arrays of figures in SI units, changed together."""
    import numpy as np

    n, random = 2_000 if quick else 100_000, np.random.default_rng(RANDOM_SEED)
    return {
        "model": "gpt3-175b",
        "task": {"kind": "training", "sequence_length": 2048, "global_batch_size": 1536},
        "system": "dgx-a100-80gb",
        "devices": 512,
        "plan": {
            "tensor_parallel": 8,
            "pipeline_parallel": 8,
            "virtual_pipeline": 2,
            "micro_batch_size": 1,
            "recompute": "selective",
            "sequence_parallel": True,
            "zero_stage": 1,
            "precision": "fp16",
        },
        "zip": [
            {
                "system.accelerator.units": random.integers(50, 300, n).astype(float),
                "system.accelerator.clock": random.uniform(1e9, 3e9, n),
                "system.accelerator.memory_bandwidth": random.uniform(1e12, 8e12, n),
                "system.accelerator.memory_capacity": random.uniform(40e9, 200e9, n),
                "system.scale_up.link_bandwidth": random.uniform(1e10, 1e11, n),
                "system.scale_out.link_bandwidth": random.uniform(1e10, 1e11, n),
            }
        ],
    }


def _timed(repeats: int, work: Callable[[], Any]) -> tuple[list[float], Any]:
    """Seconds of each run, and the last run's result."""
    seconds, result = [], None
    for _ in range(repeats):
        result = None  # let go of the last one before the next is made
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return seconds, result


def cold_run(repeats: int, quick: bool) -> Figure:
    """``llmsim run`` of the example in a new process each time [s]."""
    command = [sys.executable, "-m", "simulator.cli", "run", str(EXAMPLE)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    def once() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)

    once()  # compiles the bytecode
    seconds, _ = _timed(repeats, once)
    return {"median_s": statistics.median(seconds), "all_s": seconds}


def warm_call(repeats: int, quick: bool) -> Figure:
    """``simulate()`` and its operator table in a process that has called it before [s]."""
    from hardware_specs import load_yaml
    from simulator import simulate

    scenario = load_yaml(EXAMPLE)
    rows = len(simulate(scenario).operators)
    seconds, _ = _timed(repeats if quick else 20 * repeats, lambda: simulate(scenario).operators)
    return {"median_s": statistics.median(seconds), "worst_s": max(seconds), "operators": rows}


def _as_scenario(space: Any, row: int) -> dict[str, Any]:
    """The scenario of one row, bare SI figures of an array written with their unit, to the last digit."""
    from hardware_specs import SystemSpec, exact_quantity, figure_dimension
    from simulator.spaces.space import is_figure

    def written(key: str, value: Any) -> Any:
        bare = is_figure(key) and isinstance(value, float)
        return (
            exact_quantity(value, figure_dimension(SystemSpec, key.removeprefix("system.")))
            if bare
            else value
        )

    return {key: written(key, value) for key, value in space.scenario_mapping(row).items()}


def vector_against_scalar(result: Any, checked: int) -> Figure:
    """Largest relative difference of any result between the sweep and ``simulate`` of its rows [1]; values compared."""
    import numpy as np

    from simulator import simulate

    chosen = np.random.default_rng(RANDOM_SEED).choice(
        result.rows.size, min(checked, result.rows.size), False
    )
    worst, compared = 0.0, 0
    for i in chosen:
        alone = simulate(_as_scenario(result.space, int(result.rows[i]))).to_dict()
        flat = {**alone["memory"], **alone["time"], **alone["energy"], **alone}
        for name, column in result.columns.items():
            if not isinstance(flat.get(name), (int, float)) or np.isnan(column[i]):
                continue
            value, single = float(column[i]), float(flat[name])
            # Parts are compared with the whole that they belong to: a difference of zeros has no relative size.
            scale = max(abs(single), abs(alone["step_time_s"]) if name in alone["time"] else 0.0)
            compared += 1
            worst = max(worst, abs(value - single) / scale if scale else abs(value - single))
    return {"largest_difference": worst, "values_compared": compared}


def _sweep_figure(space_of: Callable[[bool], dict[str, Any]], repeats: int, quick: bool) -> Figure:
    from simulator.spaces.space import space_from
    from simulator.sweeps.sweeping import run_space

    run_space(space_from(space_of(True)))  # loads what is loaded once: catalog, modules
    raw = space_of(quick)
    seconds, result = _timed(repeats, lambda: run_space(space_from(raw)))
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES
    median = statistics.median(seconds)
    return {
        "rows": result.space.n_rows,
        "legal": int(result.rows.size),
        "feasible": int(result.columns["feasible"].sum()),
        "distinct_layers": result.n_layers_evaluated,
        "median_s": median,
        "all_s": seconds,
        "rows_per_s": result.space.n_rows / median,
        "legal_per_s": result.rows.size / median,
        "peak_bytes": peak_bytes,
        "excluded": result.excluded,
        **vector_against_scalar(result, 8 if quick else 64),
    }


def plans(repeats: int, quick: bool) -> Figure:
    """Plans per second [1/s]."""
    return _sweep_figure(plan_space, repeats, quick)


def hardware(repeats: int, quick: bool) -> Figure:
    """Machines per second [1/s]."""
    return _sweep_figure(hardware_space, repeats, quick)


FIGURES: dict[str, Callable[[int, bool], Figure]] = {
    "cold_run": cold_run,
    "warm_call": warm_call,
    "plans": plans,
    "hardware": hardware,
}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n")
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def circumstances() -> Figure:
    """Date, machine and versions."""
    from simulator.estimates.estimate import llmsim_version

    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "llmsim": llmsim_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _measured_apart(name: str, options: argparse.Namespace) -> Figure:
    """One figure in a process of its own, so that its memory and caches are its own."""
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--figure",
        name,
        "--repeats",
        str(options.repeats),
    ]
    done = subprocess.run(
        [*command, *(["--quick"] if options.quick else [])], check=True, stdout=subprocess.PIPE, text=True
    )
    figure: Figure = json.loads(done.stdout)
    return figure


def _lines(results: Figure) -> list[str]:
    """What is printed."""
    about, cold, warm = results["circumstances"], results["cold_run"], results["warm_call"]
    lines = [", ".join(f"{key} {value}" for key, value in about.items()), ""]
    lines.append(f"cold run of the example: {cold['median_s']:.3f} s")
    lines.append(f"warm simulate() with {warm['operators']} operators: {warm['median_s'] * 1e3:.1f} ms")
    for name, what in (("plans", "GPT-3 175B on 512 A100"), ("hardware", "random machines")):
        f = results[name]
        lines += [
            "",
            f"{what}: {f['rows']:,} rows, {f['legal']:,} legal plans ({f['feasible']:,} fit), "
            f"{f['distinct_layers']:,} distinct layers",
            f"  {f['legal_per_s']:,.0f} legal plans/s, {f['rows_per_s']:,.0f} rows/s "
            f"(median {f['median_s']:.2f} s of {', '.join(f'{s:.2f}' for s in f['all_s'])})",
            f"  peak resident memory {f['peak_bytes'] / GIB:.2f} GiB",
            f"  largest difference between vector and scalar: {f['largest_difference']:.1e} "
            f"({f['values_compared']:,} values)",
        ]
        lines += [
            f"  left out, {rule}: {n:,}" for rule, n in sorted(f["excluded"].items(), key=lambda x: -x[1])
        ]
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure the engine.")
    parser.add_argument("--quick", action="store_true", help="small spaces, one run: seconds")
    parser.add_argument("--repeats", type=int, default=None, help="runs per figure; 5, or 1 with --quick")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the results")
    parser.add_argument("--figure", choices=FIGURES, default=None, help="one figure, as JSON")
    options = parser.parse_args(arguments)
    options.repeats = options.repeats or (1 if options.quick else 5)
    if options.figure is not None:
        sys.stdout.write(json.dumps(FIGURES[options.figure](options.repeats, options.quick)) + "\n")
        return 0
    results: Figure = {"circumstances": circumstances(), "quick": options.quick}
    for name in FIGURES:
        sys.stderr.write(f"measuring {name}\n")
        results[name] = _measured_apart(name, options)
    sys.stdout.write("\n".join(_lines(results)) + "\n")
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
