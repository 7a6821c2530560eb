"""Times in another unit than the column's name says: a thousandfold shows against what the device can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hardware_specs.errors import Problem
from hardware_specs.schema import AcceleratorSpec, dense_peak_flop_per_s

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BYTES", "least_seconds", "table_in_another_unit", "unit_problems"]

FloatArray = NDArray[np.float64]
MICRO = 1e-6
BYTES: Mapping[str, float] = {
    "fp64": 8.0,
    "fp32": 4.0,
    "tf32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "fp8_block": 1.0,
    "int8": 1.0,
    "sq": 1.0,
    "int8_wo": 1.0,
    "int4_wo": 0.5,
    "w4a16_mxfp4": 0.5,
    "fp4": 0.5,
    "nvfp4": 0.5,
    "w4a8_mxfp4_mxfp8": 0.5,
}
# The longest kernels of clean tables take 1.2 to 5 times the roofline (0.3 where a loop
# stayed in a cache): a thousandth or a thousandfold lies far outside.
TOO_SHORT, TOO_LONG = 0.05, 30.0
LAUNCH_S = 100e-6  # more than any launch: short kernels may take any multiple of their roofline
SHORTEST_S = 0.3e-6  # no kernel is over sooner
A_MILLION_TIMES = 3e-5
# One row may stay in a cache or wait for the machine; beyond these it is in another unit than the rows beside it.
ROW_TOO_SHORT, ROW_TOO_LONG = 0.02, 1000.0
LONGEST = 0.75  # short kernels are all fixed cost, whatever the unit


def least_seconds(kind: str, frame: pd.DataFrame, accelerator: AcceleratorSpec) -> FloatArray:
    """A plain lower bound of each row [s], shape ``(rows,)``: the peak of its type, else the fastest, and its bytes.

    Raises KeyError for a type that is not one of ``BYTES``.
    """
    peaks = {
        str(dtype): dense_peak_flop_per_s(accelerator, dtype)
        for dtype in {*accelerator.matmul_flop_per_unit_clock, *accelerator.peak}
    }
    fastest = max(peaks.values())
    peak = np.array([peaks.get(str(dtype), fastest) for dtype in frame["dtype"]])
    width = np.array([BYTES[str(dtype)] for dtype in frame["dtype"]])

    def column(name: str) -> FloatArray:
        if name not in frame:
            return np.ones(len(frame))
        return frame[name].fillna(1).to_numpy(dtype=np.float64)

    if kind == "kernels_gemm":
        m, n, k, batch = (column(name) for name in ("m", "n", "k", "batch"))
        flop, moved = 2.0 * batch * m * n * k, batch * width * (n * k + m * k)
    elif kind == "kernels_attention":
        queries, keys, size = column("q_len"), column("kv_len"), column("batch") * column("head_dim")
        flop = 2.0 * size * column("heads") * queries * keys
        # A cache may be narrower than its queries.
        moved = size * (keys * column("kv_heads") + queries * column("heads"))
    elif kind == "kernels_moe":
        ranks, tokens = column("moe_ep"), column("tokens")
        matrix = column("hidden") * column("inter") / column("moe_tp")
        flop = 4.0 * tokens * column("topk") * matrix / ranks
        moved = width * matrix
    else:
        flop, moved = np.zeros(len(frame)), 2.0 * width * column("rows") * column("cols")
    return np.maximum(flop / peak, moved / accelerator.memory_bandwidth.value)


def unit_problems(label: str, kind: str, frame: pd.DataFrame, accelerator: AcceleratorSpec) -> list[Problem]:
    """What is wrong with the unit of ``latency_us`` in rows of one file and stack; raises nothing.

    Parameters
    ----------
    label : str
        The file, for the message.
    kind : str
        Of table.
    frame : DataFrame
        Rows of the device, with ``row`` numbers.
    accelerator : AcceleratorSpec
        Which it is.

    Returns
    -------
    list of Problem
        None; one for all rows: milliseconds, seconds or nanoseconds under a name in microseconds; or one for
        each row that is so among rows that are not.
    """
    whole = table_in_another_unit(label, kind, frame, accelerator)
    if whole is not None:
        return [whole]
    least, measured = least_seconds(kind, frame, accelerator), _measured(frame)
    return _row_problems(label, frame, measured, least, accelerator)


def _measured(frame: pd.DataFrame) -> FloatArray:
    return frame["latency_us"].to_numpy(dtype=np.float64) * MICRO


def table_in_another_unit(
    label: str, kind: str, frame: pd.DataFrame, accelerator: AcceleratorSpec
) -> Problem | None:
    """The one mistake of all rows of a file and stack, or None; as `unit_problems`, which looks at each row too.

    Raises KeyError for a type that is not one of ``BYTES``.
    """
    least, measured = least_seconds(kind, frame, accelerator), _measured(frame)
    long = least >= np.quantile(least, LONGEST)
    ratio = float(np.median(measured[long] / least[long]))
    above = float(np.median(measured[long] / (least[long] + LAUNCH_S)))
    short = ratio < TOO_SHORT or float(np.median(measured)) < SHORTEST_S
    if not short and above <= TOO_LONG:
        return None
    worst = int(np.flatnonzero(long)[np.argmax(least[long])])
    row, value = int(frame["row"].iloc[worst]), frame["latency_us"].iloc[worst]
    if short:
        unit, times = ("seconds", "a million") if ratio < A_MILLION_TIMES else ("milliseconds", "1000")
        rule = (
            f"is about {times} times too short: the longest kernels take {ratio:.2g} of the least time that "
            f"{accelerator.name} needs (median), so these look like {unit} read as microseconds"
        )
        fix = f"multiply the column by {'1e6' if times != '1000' else '1000'}, or check --device"
    else:
        rule = (
            f"is about 1000 times too long: the longest kernels take {ratio:.2g} of the least time that "
            f"{accelerator.name} needs (median), so these look like nanoseconds read as microseconds"
        )
        fix = "divide the column by 1000, or check --device"
    path = f"{label}, column latency_us (such as row {row})"
    return Problem(path=path, value=f"{value:g}", rule=rule, fix=fix)


def _row_problems(
    label: str, frame: pd.DataFrame, measured: FloatArray, least: FloatArray, accelerator: AcceleratorSpec
) -> list[Problem]:
    """Rows in another unit than most: no median shows them."""
    short = (measured < SHORTEST_S) | (measured < ROW_TOO_SHORT * least)
    long = measured > ROW_TOO_LONG * (least + LAUNCH_S)
    times = measured / np.where(long, least + LAUNCH_S, np.maximum(least, SHORTEST_S))
    return [
        Problem(
            path=f"{label}, row {int(frame['row'].iloc[index])}, column latency_us",
            value=f"{frame['latency_us'].iloc[index]:g}",
            rule=f"is {times[index]:.2g} of the least time that {accelerator.name} needs: "
            f"another unit than the other rows?",
            fix="write microseconds in every row, or leave the row out",
        )
        for index in np.flatnonzero(short | long)
    ]
