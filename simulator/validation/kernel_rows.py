"""Rows of single kernels: the rule of their family, under the calibration of their device and stack."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware_specs import (
    CalibrationSpec,
    SystemSpec,
    calibration_for,
    find_device,
    list_calibrations,
    load_accelerator,
    load_calibration,
)
from simulator.certainty.evidence import family_evidence, kernel_fit
from simulator.fitting.kernel_tables import SampledRows, sampled_rows, with_defaults
from simulator.fitting.measured_gemm import TIMED_FROM_HOST
from simulator.fitting.measured_moe import without_false_gates
from simulator.fitting.noise import NOISY
from simulator.kernels.models import KERNEL_MODELS
from simulator.measured_tables.measured_table import Row
from simulator.validation.cases import Case
from simulator.validation.scoring import Score

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["kernel_scores", "stack_calibration"]

FloatArray = NDArray[np.float64]
# Seconds of a row (predicted, low, high, of the units alone), and its size class.
_Found = tuple[list[float], str]
SERVING = "-serving"
MEMORY_EFFICIENCIES = ("memory_efficiency", "read_efficiency", "write_efficiency")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Predicted:
    """Seconds of some rows of a table, their intervals, and under bound what the units need at their peak [s]."""

    numbers: NDArray[np.int64]
    seconds: FloatArray
    low_s: FloatArray
    high_s: FloatArray
    compute_floor_s: FloatArray
    size_class: Sequence[str]


def stack_calibration(accelerator: str, framework: str) -> CalibrationSpec:
    """The calibration of a device and a stack, else the one that its inference uses.

    Raises SpecError for an unknown accelerator.
    """
    usual = calibration_for(load_accelerator(accelerator), "inference")
    eager = ("eager",) if framework.startswith("pytorch") else ()
    for stack in (framework, *eager):
        named = f"{usual.name.removesuffix(SERVING)}-{stack}"
        if named in list_calibrations():
            return load_calibration(named)
    return usual


def _table(rows: Sequence[Row]) -> pd.DataFrame:
    import pandas as pd

    columns = dict.fromkeys(name for row in rows for name in row.cells)
    return pd.DataFrame([dict(row.cells) for row in rows], columns=list(columns))


def _predicted(part: SampledRows, calibration: CalibrationSpec, fidelity: str) -> _Predicted:
    calibrated = fidelity == "calibrated"
    ideal = {family: KERNEL_MODELS[family].fit.ideal() for family in part.families}
    fits = {family: kernel_fit(calibration, family, part.dtype) for family in part.families}
    seconds = part.predict(
        {family: fit.coefficients() if calibrated else ideal[family] for family, (fit, _) in fits.items()}
    )
    if calibrated:
        seconds = seconds + fits[part.families[0]][0].timing_s
    # A layer of experts is fitted as a whole: its families state one spread.
    known = family_evidence(*fits[part.families[0]])
    fitted = calibrated and known.label == "fitted"
    half = np.array([known.half_width(str(name)) if calibrated else np.nan for name in part.size_class])
    return _Predicted(
        numbers=part.numbers,
        seconds=seconds,
        low_s=seconds * np.exp(-half),
        high_s=seconds * np.exp(half),
        compute_floor_s=part.predict({family: _free_memory(named) for family, named in ideal.items()})
        if fidelity == "bound"
        else np.full_like(seconds, np.nan),
        size_class=[
            f"{name}, left out" if out and fitted else str(name)
            for name, out in zip(part.size_class, part.left_out, strict=True)
        ],
    )


def _free_memory(coefficients: Mapping[str, float]) -> dict[str, float]:
    """Coefficients by name under which reading and writing take no time."""
    return {name: math.inf if name in MEMORY_EFFICIENCIES else value for name, value in coefficients.items()}


def _parts(
    kind: str, frame: pd.DataFrame, fidelity: str, own: SystemSpec | None
) -> Iterator[tuple[str, _Predicted]]:
    """Predictions by device and stack, with the text of the device."""
    frame = frame.assign(framework=frame.get("framework", "unstated"))
    frame["framework"] = frame["framework"].fillna("unstated")
    if kind == "kernels_moe":
        # Rows of other stacks show which layers have no gate, so before the stacks part.
        frame = without_false_gates(with_defaults(frame))
    for (device, framework), rows in frame.groupby(["device", "framework"], sort=False):
        if own is not None and str(device) == own.accelerator.name and own.calibration:
            # Noisy rows were no part of the fit and say nothing about it.
            quiet = rows[rows["quality"] != NOISY] if "quality" in rows else rows
            for part in sampled_rows(kind, quiet, own.accelerator):
                yield str(device), _predicted(part, load_calibration(own.calibration), fidelity)
            continue
        named = find_device(str(device))
        if named is None:
            continue
        accelerator = load_accelerator(named.accelerator)
        calibration = stack_calibration(accelerator.name, str(framework))
        for part in sampled_rows(kind, rows, accelerator, clean=fidelity != "bound"):
            yield str(device), _predicted(part, calibration, fidelity)


def kernel_scores(
    kind: str, rows: Sequence[Row], fidelity: str, own: SystemSpec | None = None
) -> list[Score]:
    """Score every row of a table of kernels.

    Parameters
    ----------
    kind : str
        Key of ``KERNEL_KINDS``.
    rows : sequence of Row
        Typed rows of the table.
    fidelity : str
        "calibrated", "datasheet" or "bound": the last two use ideal coefficients.
    own : SystemSpec, optional
        System of the user's, with its calibration: rows of its accelerator are scored with it.

    Returns
    -------
    list of Score
        In the order of the file [s]. Size classes say which rows were left out of the fit. Rows of unknown
        devices, types and operators are skipped with the reason.

    Raises
    ------
    SpecError
        If a calibration cannot be read.
    ModuleNotFoundError
        Without pandas.
    """
    frame = _table(rows)
    found: dict[int, _Found] = {}
    for _, done in _parts(kind, frame, fidelity, own):
        times = np.stack([done.seconds, done.low_s, done.high_s, done.compute_floor_s], axis=1)
        for number, row_s, size in zip(done.numbers, times.tolist(), done.size_class, strict=True):
            found[int(number)] = (row_s, size)
    return [_score(row, found.get(place)) for place, row in enumerate(rows)]


def _score(row: Row, found: _Found | None) -> Score:
    measured = (row.number_of("latency_us") or 0.0) * 1e-6
    case = Case(
        id=row.name,
        source=row.text("source") or row.text("framework"),
        device=row.text("device"),
        stack=" ".join(filter(None, (row.text("framework"), row.text("version")))),
        dtype=row.text("dtype"),
        size_class=found[1] if found else "unknown",
        assumed="",
        quantities=(),
        kind="kernel",
    )
    keys: dict[str, Any] = {"case": case, "quantity": _quantity(row), "unit": "s", "measured": measured}
    if found is None:
        return Score(**keys, predicted=None, skipped_because=_why_not(row))
    predicted, *others = found[0]
    low, high, floor = (None if math.isnan(value) else value for value in others)
    return Score(**keys, predicted=predicted, skipped_because="", low=low, high=high, compute_floor_s=floor)


def _quantity(row: Row) -> str:
    """What is timed: products, attention by kind and phase, an operator, or a whole layer of experts."""
    if "phase" in row.cells:
        return f"{row.text('kind') or 'gqa'}_{row.text('phase')}_time"
    if "topk" in row.cells:
        return "moe_layer_time"
    return f"{row.text('op')}_time" if "op" in row.cells else "gemm_time"


def _why_not(row: Row) -> str:
    if row.text("quality") == NOISY:
        return "quality noisy: measured beside other work"
    if find_device(row.text("device")) is None:
        return f"device {row.text('device')!r} is not in the catalog"
    if row.text("quality").startswith("suspect"):
        return f"quality {row.text('quality')}"
    if (row.text("dtype"), row.text("framework")) in TIMED_FROM_HOST and "m" in row.cells:
        return "a product that was timed from the host, which takes longer than the product"
    return (
        "not clean (faster than the memory, or a slower repeat), a type without units on the device, "
        "or an operator without a model"
    )
