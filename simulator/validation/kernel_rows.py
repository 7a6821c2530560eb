"""Rows of single kernels: the rule of their family, under the calibration of their device and stack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware_specs import (
    CalibrationSpec,
    calibration_for,
    find_device,
    list_calibrations,
    load_accelerator,
    load_calibration,
)
from simulator.evidence import family_evidence, kernel_fit
from simulator.fitting.kernel_tables import SampledRows, sampled_rows
from simulator.kernels.models import KERNEL_MODELS
from simulator.validation.cases import Case
from simulator.validation.measured_table import Row
from simulator.validation.scoring import Score

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["kernel_scores", "stack_calibration"]

FloatArray = NDArray[np.float64]
SERVING = "-serving"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Predicted:
    """Seconds of some rows of a table and their intervals [s]."""

    numbers: NDArray[np.int64]
    seconds: FloatArray
    low_s: FloatArray
    high_s: FloatArray
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
    fits = {family: kernel_fit(calibration, family, part.dtype) for family in part.families}
    seconds = part.predict(
        {
            family: fit.coefficients() if calibrated else KERNEL_MODELS[family].fit.ideal()
            for family, (fit, _) in fits.items()
        }
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
        size_class=[
            f"{name}, left out" if out and fitted else str(name)
            for name, out in zip(part.size_class, part.left_out, strict=True)
        ],
    )


def _parts(kind: str, frame: pd.DataFrame, fidelity: str) -> Iterator[tuple[str, _Predicted]]:
    """Predictions by device and stack, with the text of the device."""
    frame = frame.assign(framework=frame.get("framework", "unstated"))
    frame["framework"] = frame["framework"].fillna("unstated")
    for (device, framework), rows in frame.groupby(["device", "framework"], sort=False):
        named = find_device(str(device))
        if named is None:
            continue
        accelerator = load_accelerator(named.accelerator)
        calibration = stack_calibration(accelerator.name, str(framework))
        for part in sampled_rows(kind, rows, accelerator):
            yield str(device), _predicted(part, calibration, fidelity)


def kernel_scores(kind: str, rows: Sequence[Row], fidelity: str) -> list[Score]:
    """Score every row of a table of kernels.

    Parameters
    ----------
    kind : str
        Key of ``KERNEL_KINDS``.
    rows : sequence of Row
        Typed rows of the table.
    fidelity : str
        "calibrated", "datasheet" or "bound": the last two use ideal coefficients.

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
    found: dict[int, tuple[float, float, float, str]] = {}
    for _, done in _parts(kind, frame, fidelity):
        values = zip(done.numbers, done.seconds, done.low_s, done.high_s, done.size_class, strict=True)
        for number, seconds, low, high, size in values:
            found[int(number)] = (float(seconds), float(low), float(high), size)
    return [_score(row, found.get(place)) for place, row in enumerate(rows)]


def _score(row: Row, found: tuple[float, float, float, str] | None) -> Score:
    measured = (row.number_of("latency_us") or 0.0) * 1e-6
    case = Case(
        id=row.name,
        source=row.text("source") or row.text("framework"),
        device=row.text("device"),
        stack=" ".join(filter(None, (row.text("framework"), row.text("version")))),
        dtype=row.text("dtype"),
        size_class=found[3] if found else "unknown",
        assumed="",
        quantities=(),
        kind="kernel",
    )
    keys: dict[str, Any] = {"case": case, "quantity": _quantity(row), "unit": "s", "measured": measured}
    if found is None:
        return Score(**keys, predicted=None, skipped_because=_why_not(row))
    low, high = (None if np.isnan(v) else v for v in found[1:3])
    return Score(**keys, predicted=found[0], skipped_because="", low=low, high=high)


def _quantity(row: Row) -> str:
    """What is timed: products, attention by kind and phase, an operator, or a whole layer of experts."""
    if "phase" in row.cells:
        return f"{row.text('kind') or 'gqa'}_{row.text('phase')}_time"
    if "topk" in row.cells:
        return "moe_layer_time"
    return f"{row.text('op')}_time" if "op" in row.cells else "gemm_time"


def _why_not(row: Row) -> str:
    if find_device(row.text("device")) is None:
        return f"device {row.text('device')!r} is not in the catalog"
    if row.text("quality").startswith("suspect"):
        return f"quality {row.text('quality')}"
    return "not clean (faster than the memory), a type without units on the device, or an operator without a model"
