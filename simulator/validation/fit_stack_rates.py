"""Fit the rates of a software stack to whole training runs: one for products, one for attention.

Kernels that were measured alone stand below; a run of an old or untuned stack, or of a device whose clock sinks under
load, is slower, and only runs show it. No other coefficient sees a whole run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import yaml

from hardware_specs.stack_rates import RateKind
from simulator.fitting.robust_fit import significant
from simulator.fitting.rows import BoolArray, FloatArray
from simulator.measured_tables.measured_table import read_table
from simulator.validation.cases import Case
from simulator.validation.predictions import predict
from simulator.validation.training_rows import training_case

__all__ = ["STACKS", "FittedRates", "StackRuns", "fit_rates", "main", "read_runs", "stack_file"]

# Rates that are tried; between them the logarithm of a step time is smooth.
GRID: Mapping[RateKind, tuple[float, ...]] = {
    "matmul": (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2),
    "attention": (0.25, 0.4, 0.6, 0.8, 1.0),
    "compute": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
}
LEAST_HIDDEN = 4096  # smaller models run kernels that wait for the host
DATE = "2026-11-22"


@dataclass(frozen=True, slots=True, kw_only=True)
class StackRuns:
    """Which runs state the rates of a stack.

    Attributes
    ----------
    name, like, stack : str
        Of the calibration, of the one below it, and of the software, for people.
    prefix : str
        How the ids of its rows start.
    devices : tuple of str
        Accelerators as the table names them.
    rates : tuple of str
        Rates that are fitted.
    without : tuple of str
        Ids of rows that are left away, and why stands in ``reason``.
    narrow, compiled_casts, experts : bool
        Whether 8-bit runs are fitted too, whether a compiler writes the passes in front of their products, and whether
        models with experts are fitted too.
    """

    name: str
    like: str
    stack: str
    prefix: str
    devices: tuple[str, ...]
    rates: tuple[RateKind, ...]
    without: tuple[str, ...] = ()
    reason: str = ""
    narrow: bool = False
    compiled_casts: bool = False
    experts: bool = False


_FSDP = "PyTorch FSDP by llm-foundry and Composer, torch 1.13 to 2.x, Triton flash attention"
_OFFLOAD = "21-28 % slower than their neighbours, so probably with offload that the table does not show"
STACKS = (
    # The two parts differ by 13 % in the same run, and by 3 % in what their data sheets say.
    StackRuns(
        name="a100-sxm-40gb-fsdp",
        like="a100-sxm-pytorch",
        stack=_FSDP,
        prefix="lf-",
        devices=("a100_sxm_40gb",),
        rates=("matmul", "attention"),
    ),
    StackRuns(
        name="a100-sxm-80gb-fsdp",
        like="a100-sxm-pytorch",
        stack=_FSDP,
        prefix="lf-",
        devices=("a100_sxm_80gb",),
        rates=("matmul", "attention"),
        without=("lf-080",),
        reason=_OFFLOAD,
    ),
    StackRuns(
        name="h100-sxm-fsdp",
        like="h100-sxm-pytorch",
        stack=_FSDP,
        prefix="lf-",
        devices=("h100_sxm_80gb",),
        rates=("matmul", "attention"),
        without=("lf-021",),
        reason=_OFFLOAD,
    ),
    StackRuns(
        name="a100-sxm-internevo",
        like="a100-sxm-pytorch",
        stack="InternEvo of 2023 with flash attention",
        prefix="internevo-",
        devices=("a100_sxm_80gb",),
        rates=("matmul",),  # one model and one length: attention cannot be told apart
    ),
    StackRuns(
        name="a100-sxm-megatron-deepspeed",
        like="a100-sxm-pytorch",
        stack="Megatron-DeepSpeed of 2021-2022, unfused attention, pipeline engine",
        prefix="bloom-",
        devices=("a100_sxm_80gb",),
        rates=("matmul",),
        without=("bloom-031", "bloom-065", "bloom-068", "bloom-070"),
        reason="a head width of 108, for which libraries have other kernels",
    ),
    # Eager runs are left away: their pointwise kernels are others.
    StackRuns(
        name="h100-sxm-torchtitan",
        like="h100-sxm-pytorch",
        stack="torchtitan of 2024-2025 on H100 of 500 W, torch.compile, FSDP2, attention of PyTorch",
        prefix="titan-",
        devices=("h100_96gb_hbm2e_500w",),
        rates=("matmul", "attention"),
        without=("titan-001", "titan-004", "titan-023", "titan-024", "titan-029", "titan-030"),
        reason="run eagerly, or with a scale per row, whose products are other kernels",
        # At 8192 tokens alone products and attention cannot be told apart; the long runs are in fp8.
        narrow=True,
        compiled_casts=True,
    ),
    StackRuns(
        name="a100-sxm-torchtitan",
        like="a100-sxm-pytorch",
        stack="torchtitan of 2024 in bf16, FSDP2, attention of PyTorch",
        prefix="titan-",
        devices=("a100_sxm_80gb",),
        rates=("compute",),
    ),
    # The kernels below ran on one GPU of the node, the runs on all eight.
    StackRuns(
        name="b200-sxm-megatron-runs",
        like="b200-sxm-megatron",
        stack="Megatron-LM of 2026 in bf16, all GPUs of a node at work",
        prefix="simu-b200-",
        devices=("b200_sxm_180gb",),
        rates=("compute",),
        experts=True,
    ),
    StackRuns(
        name="tpu-v6e-maxtext",
        like="tpu-v5",
        stack="MaxText of 2025, XLA, splash attention",
        prefix="tpurec-",
        devices=("tpu_v6e",),
        rates=("compute",),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Runs of one stack: seconds measured, and predicted at each rate of the grid.

    ``log_ratio`` is ln(predicted / measured) of shape (rates of the first kind, of the second, rows); ``model`` names
    the shape of each run's model.
    """

    ids: tuple[str, ...]
    model: tuple[str, ...]
    axes: tuple[FloatArray, ...]
    log_ratio: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedRates:
    """Rates by kind [1], rows [1], and mean errors as fractions: of fitted rows, of models left out [1]."""

    runs: StackRuns
    rates: Mapping[RateKind, float]
    rows: int
    error: Mapping[str, float]
    common: float


def _cases(path: Path, of: StackRuns) -> list[Case]:
    read = read_table(path, None)
    chosen = []
    for row in read.rows:
        wide = (row.number_of("hidden") or 0) >= LEAST_HIDDEN
        mine = row.name.startswith(of.prefix) and row.text("accelerator") in of.devices
        if (
            mine
            and wide
            and row.name not in of.without
            and (of.experts or not row.number_of("experts"))
            and (of.narrow or "8" not in row.text("precision").removeprefix("bf16"))
        ):
            chosen.append(training_case(row, {}))
    return [case for case in chosen if case.scenario and case.quantities[0].measured and not case.reasons]


def _at(cases: Sequence[Case], of: StackRuns, rates: Mapping[RateKind, float], folder: Path) -> FloatArray:
    """ln(predicted / measured) of each case at some rates [1]; NaN where a plan is refused."""
    path = folder / ("-".join(f"{value:g}" for value in rates.values()) + ".yaml")
    path.write_text(_text(of, rates, rows=1, error={}, common=0.0), encoding="utf-8")
    named = [replace(case, scenario={**case.scenario, "system.calibration": str(path)}) for case in cases]
    seconds = [found.columns.get("step_time_s", np.nan) for found in predict(named, "calibrated")]
    measured = [case.quantities[0].measured or np.nan for case in cases]
    out: FloatArray = np.log(np.array(seconds) / np.array(measured))
    return out


def read_runs(path: Path, of: StackRuns) -> Runs:
    """Predict the runs of a stack at every rate of the grid.

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
    axes = tuple(np.array(GRID[kind]) for kind in of.rates)
    with tempfile.TemporaryDirectory() as folder:
        found = [
            _at(cases, of, dict(zip(of.rates, point, strict=True)), Path(folder)) for point in product(*axes)
        ]
    table = np.reshape(np.array(found), (*(len(axis) for axis in axes), len(cases)))
    known = np.asarray(np.all(np.isfinite(table), axis=tuple(range(len(axes)))), dtype=np.bool_)
    if not known.any():
        raise ValueError(f"no run of {of.name} can be predicted")
    model = [f"{c.scenario['model']['n_layers']}x{c.scenario['model']['hidden']}" for c in cases]
    return Runs(
        ids=tuple(c.id for c, keep in zip(cases, known, strict=True) if keep),
        model=tuple(m for m, keep in zip(model, known, strict=True) if keep),
        axes=axes,
        log_ratio=table[..., known],
    )


def _surface(runs: Runs, keep: BoolArray) -> Callable[[FloatArray], FloatArray]:
    """ln(predicted / measured) of some rows over the logarithms of the rates."""
    from scipy.interpolate import RegularGridInterpolator  # type: ignore[import-untyped]  # ships no types

    found = RegularGridInterpolator([np.log(axis) for axis in runs.axes], runs.log_ratio[..., keep])
    return lambda x: np.asarray(found(x)[0], dtype=np.float64)


def _fit(runs: Runs, keep: BoolArray) -> FloatArray:
    """Rates of least mean |ln(predicted / measured)| over some rows, within the grid [1]."""
    from scipy.optimize import minimize  # type: ignore[import-untyped]  # ships no types

    surface = _surface(runs, keep)
    low, high = (np.array([np.log(f(axis)) for axis in runs.axes]) for f in (np.min, np.max))

    def loss(x: FloatArray) -> float:
        return float(np.mean(np.abs(surface(np.clip(x, low, high)))))

    starts = [np.array(start) for start in product(*(np.log(axis[1::2]) for axis in runs.axes))]
    best = min((minimize(loss, start, method="Nelder-Mead") for start in starts), key=lambda f: float(f.fun))
    out: FloatArray = np.exp(np.clip(best.x, low, high))
    return out


def _ratio(runs: Runs, rates: FloatArray) -> FloatArray:
    return _surface(runs, np.ones(len(runs.ids), dtype=np.bool_))(np.log(rates))


def fit_rates(of: StackRuns, runs: Runs) -> FittedRates:
    """Fit the rates of a stack, and score them on each model with the rates of the others.

    Parameters
    ----------
    of : StackRuns
        The stack.
    runs : Runs
        Its runs.

    Returns
    -------
    FittedRates
        With the errors that a table of them shows. Raises nothing.
    """
    everything = np.ones(len(runs.ids), dtype=np.bool_)
    rates = _fit(runs, everything)
    here, apart = _ratio(runs, rates), np.full(len(runs.ids), np.nan)
    models = np.array(runs.model)
    for model in np.unique(models):
        others = models != model
        if others.any():
            apart[~others] = _ratio(runs, _fit(runs, others))[~others]
    error = {"before": _mean_error(_ratio(runs, np.ones(len(of.rates)))), "fitted": _mean_error(here)}
    known = apart if not np.isnan(apart).any() else here
    if known is apart:
        error["left_out"] = _mean_error(apart)
    return FittedRates(
        runs=of,
        rates={kind: significant(float(v)) for kind, v in zip(of.rates, rates, strict=True)},
        rows=len(runs.ids),
        error=error,
        common=significant(float(np.sqrt(np.mean(known**2)))),
    )


def _mean_error(log_ratio: FloatArray) -> float:
    return significant(float(np.mean(np.abs(np.expm1(log_ratio)))))


def _text(
    of: StackRuns, rates: Mapping[RateKind, float], *, rows: int, error: Mapping[str, float], common: float
) -> str:
    away = f"; without {', '.join(of.without)}: {of.reason}" if of.without else ""
    source = (
        f"training_runs {of.prefix}* on {', '.join(of.devices)}, hidden size {LEAST_HIDDEN} or more{away}"
    )
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
        },
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
    for of in STACKS:
        if options.only and of.name not in options.only:
            continue
        fitted = fit_rates(of, read_runs(options.table, of))
        rates = ", ".join(f"{kind} {value:g}" for kind, value in fitted.rates.items())
        errors = ", ".join(f"{name} {100 * value:.1f} %" for name, value in fitted.error.items())
        sys.stdout.write(f"{of.name}: {rates}; {fitted.rows} runs; {errors}\n")
        if options.out:
            (options.out / f"{of.name}.yaml").write_text(stack_file(fitted), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
