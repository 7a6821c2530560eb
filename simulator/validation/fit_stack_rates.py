"""Fit the constants of a software stack to whole training runs: rates of kernels, and the time of a host that waits.

Kernels that were measured alone stand below; a run of an old or untuned stack, or of a device whose clock sinks under
load, is slower, and only runs show it. No other coefficient sees a whole run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import yaml

from simulator.fitting.rows import FloatArray
from simulator.measured_tables.measured_table import read_table
from simulator.validation.cases import Case
from simulator.validation.constants_of_runs import FittedRates, Runs, coordinate, fit_family
from simulator.validation.predictions import predict
from simulator.validation.stack_runs import STACKS, Constant, StackRuns
from simulator.validation.training_rows import training_case

__all__ = ["main", "read_runs", "stack_file"]

# Constants that are tried; between them the logarithm of a step time is smooth.
GRID: Mapping[Constant, tuple[float, ...]] = {
    "matmul": (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2),
    "attention": (0.25, 0.4, 0.6, 0.8, 1.0),
    "compute": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    "host": (0.0, 100e-6, 200e-6, 400e-6),
}
LEAST_HIDDEN = 4096  # smaller models run kernels that wait for the host
DATE = "2026-11-22"


def _cases(path: Path, of: StackRuns) -> list[Case]:
    read = read_table(path, None)
    chosen = []
    for row in read.rows:
        wide = (row.number_of("hidden") or 0) >= LEAST_HIDDEN
        mine = row.name.startswith(of.prefix) and row.text("accelerator") in of.devices
        if (
            mine
            and wide
            and of.notes in row.text("notes")
            and of.quality in row.text("quality")
            and row.name not in of.without
            and (of.experts or not row.number_of("experts"))
            and (of.narrow or "8" not in row.text("precision").removeprefix("bf16"))
        ):
            chosen.append(training_case(row, {}))
    return [case for case in chosen if case.scenario and case.quantities[0].measured and not case.reasons]


def _at(cases: Sequence[Case], of: StackRuns, rates: Mapping[Constant, float], folder: Path) -> FloatArray:
    """ln(predicted / measured) of each case with some constants [1]; NaN where a plan is refused."""
    path = folder / ("-".join(f"{value:g}" for value in rates.values()) + ".yaml")
    path.write_text(_text(of, rates, rows=1, error={}, common=0.0), encoding="utf-8")
    named = [replace(case, scenario={**case.scenario, "system.calibration": str(path)}) for case in cases]
    seconds = [found.columns.get("step_time_s", np.nan) for found in predict(named, "calibrated")]
    measured = [case.quantities[0].measured or np.nan for case in cases]
    out: FloatArray = np.log(np.array(seconds) / np.array(measured))
    return out


def read_runs(path: Path, of: StackRuns) -> Runs:
    """Predict the runs of a stack with every constant of the grid.

    Parameters
    ----------
    path : Path
        The table ``training_runs``.
    of : StackRuns
        Which rows.

    Returns
    -------
    Runs
        Rows that the engine can state.

    Raises
    ------
    ValueError
        If no row is left.
    SpecError
        If the table or the calibration below cannot be read.
    """
    cases = _cases(path, of)
    grid = [GRID[kind] for kind in of.constants]
    with tempfile.TemporaryDirectory() as folder:
        found = [
            _at(cases, of, dict(zip(of.constants, point, strict=True)), Path(folder))
            for point in product(*grid)
        ]
    table = np.reshape(np.array(found), (*(len(values) for values in grid), len(cases)))
    known = np.asarray(np.all(np.isfinite(table), axis=tuple(range(len(grid)))), dtype=np.bool_)
    if not known.any():
        raise ValueError(f"no run of {of.name} can be predicted")
    model = [f"{c.scenario['model']['n_layers']}x{c.scenario['model']['hidden']}" for c in cases]
    return Runs(
        ids=tuple(c.id for c, keep in zip(cases, known, strict=True) if keep),
        model=tuple(m for m, keep in zip(model, known, strict=True) if keep),
        device=tuple(c.device for c, keep in zip(cases, known, strict=True) if keep),
        axes=tuple(
            coordinate(kind, np.array(values)) for kind, values in zip(of.constants, grid, strict=True)
        ),
        log_ratio=table[..., known],
    )


def _host(between_s: float, source: str) -> dict[str, object]:
    return {"between_s": float(between_s), "waits": True, "basis": "measured", "source": source}


def _text(
    of: StackRuns, rates: Mapping[Constant, float], *, rows: int, error: Mapping[str, float], common: float
) -> str:
    named = "".join(f", {words}" for words in (of.notes, f"quality {of.quality}" * bool(of.quality)) if words)
    away = f"; without {', '.join(of.without)}: {of.reason}" if of.without else ""
    source = f"training_runs {of.prefix}* on {', '.join(of.devices)}, hidden size {LEAST_HIDDEN} or more{named}{away}"
    data = {
        "schema_version": 1,
        "name": of.name,
        "like": of.like,
        "applies_to": [],
        "tasks": ["training"],
        "stack": of.stack,
        "date": DATE,
        "rates": {
            kind: {"value": float(value), "basis": "measured", "source": source}
            for kind, value in rates.items()
            if kind != "host"
        },
        **({"host": _host(rates["host"], source)} if rates.get("host") else {}),
        **({"compiled_casts": True} if of.compiled_casts else {}),
        "rows": rows,
        "error": dict(error),
        "common": common,
    }
    return yaml.safe_dump(data, sort_keys=False, width=120)


def stack_file(fitted: FittedRates) -> str:
    """The YAML text of a stack's calibration; raises nothing."""
    return _text(fitted.runs, fitted.rates, rows=fitted.rows, error=fitted.error, common=fitted.common)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit all stacks; see ``--help``."""
    parser = argparse.ArgumentParser(description="Fit the rates of software stacks to whole training runs.")
    parser.add_argument("table", type=Path, help="training_runs.csv")
    parser.add_argument("--out", type=Path, default=None, help="folder for the calibration files")
    parser.add_argument("--only", nargs="*", default=[], help="stacks to fit; default: all")
    options = parser.parse_args(arguments)
    families: dict[str, list[StackRuns]] = {}
    for of in STACKS:
        families.setdefault(of.family or of.name, []).append(of)
    for members in families.values():
        if options.only and not {of.name for of in members} & set(options.only):
            continue
        for fitted in fit_family([(of, read_runs(options.table, of)) for of in members]):
            name = fitted.runs.name
            constants = ", ".join(f"{kind} {value:g}" for kind, value in fitted.rates.items())
            errors = ", ".join(f"{name} {100 * value:.1f} %" for name, value in fitted.error.items())
            sys.stdout.write(f"{name}: {constants}; {fitted.rows} runs; {errors}\n")
            if options.out:
                (options.out / f"{name}.yaml").write_text(stack_file(fitted), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
