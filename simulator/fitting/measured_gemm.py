"""Read the measured matrix products of all devices, number formats and software stacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

import numpy as np

from hardware_specs import AcceleratorSpec, find_device, load_accelerator
from hardware_specs.kernel_fits.families import NumberFormat
from hardware_specs.schema import dense_peak_flop_per_s
from simulator.fitting.devices import of_device
from simulator.fitting.measured_kernels import Tables, read_table
from simulator.fitting.rows import BoolArray, FloatArray
from simulator.fitting.samples import KernelSamples
from simulator.kernels.size_classes import matmul_class

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "GEMM_FORMATS",
    "NARROW_SIDE",
    "TIMED_FROM_HOST",
    "GemmFormat",
    "format_key",
    "gemm_samples",
    "narrow",
    "product_figures",
    "timed_from_host",
]

NARROW_SIDE = 512  # smaller n or k are rare in a sharded language model, and half of the rows
WIDE_BYTES = 2.0  # of activations before they are quantised
# Benchmarks rotate copies of the weights so that none is found in a cache; on parts with a last cache of 96 MiB and
# more the copies of small weights fit all together: up to this part of the cache, rows read them faster than the
# memory can (up to 1.5 times its peak), beyond it they do not.
ROTATED_COPIES = 6.0
LARGE_CACHE_BYTES = 96 * 2**20
# Stacks whose rows time the pass that narrows activations together with the product.
QUANTISING = ("vllm", "sglang", "trtllm")
# vLLM's rows in block formats reused one copy of the weights, and ran from the host, which took 57 us or more for each.
TIMED_FROM_HOST = (("fp8_block", "vllm"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmFormat:
    """Bytes per element of a number format, and what it computes in.

    Attributes
    ----------
    operand_bytes : float
        Of activations as the product reads them, and as the matrix units take both operands [byte].
    weight_bytes, output_bytes : float
        Of stored weights with their scales, and of results [byte].
    compute : str
        Type whose peak counts.
    quantised : bool
        Whether serving stacks narrow 16-bit activations first, in a pass that their rows time too.
    """

    operand_bytes: float
    weight_bytes: float
    output_bytes: float
    compute: str
    quantised: bool = False


def _wide(dtype: str, size: float) -> GemmFormat:
    return GemmFormat(operand_bytes=size, weight_bytes=size, output_bytes=size, compute=dtype)


def _narrow(compute: str, size: float, weight_bytes: float | None = None) -> GemmFormat:
    """Activations narrowed to ``size``, weights too unless they have fewer scales, and 16-bit results [byte]."""
    return GemmFormat(
        operand_bytes=size, weight_bytes=weight_bytes or size, output_bytes=2, compute=compute, quantised=True
    )


FP4_BYTES = 0.5 + 1 / 16  # one byte of scale for 16 values
# By the dtype that the table says: block formats have a 32-bit scale per 128 values (fp8_block) or an 8-bit one per
# 16 (nvfp4); "sq" is SmoothQuant, whose rows time products of activations that are narrow already; "_wo" narrows
# weights only, int4 with 16 bits per 128.
GEMM_FORMATS: Mapping[str, GemmFormat] = {
    **{
        dtype: _wide(dtype, size)
        for dtype, size in (("bf16", 2), ("fp16", 2), ("fp32", 4), ("tf32", 4), ("fp64", 8))
    },
    **{dtype: _narrow(dtype, 1) for dtype in ("fp8", "int8")},
    "fp8_block": _narrow("fp8", 1 + 4 / 128, 1),
    "sq": GemmFormat(operand_bytes=1, weight_bytes=1, output_bytes=2, compute="int8"),
    **{dtype: _narrow("fp4", FP4_BYTES) for dtype in ("fp4", "nvfp4")},
    "int8_wo": GemmFormat(operand_bytes=2, weight_bytes=1, output_bytes=2, compute="bf16"),
    "int4_wo": GemmFormat(operand_bytes=2, weight_bytes=0.5 + 2 / 128, output_bytes=2, compute="bf16"),
}


def product_figures(board: AcceleratorSpec, compute: str, rows: int) -> dict[str, FloatArray]:
    """Figures of a catalog accelerator that the products' rule asks for, each of shape ``(rows,)`` [SI].

    Raises SpecError if the accelerator has no units for the type ``compute``.
    """
    units, clock = board.units.value, board.clock.value
    figures = {
        "peak_flop_per_s": dense_peak_flop_per_s(board, compute),
        "bandwidth_bytes_per_s": board.memory_bandwidth.value,
        "units": units,
        "clock_hz": clock,
    }
    return {name: np.full(rows, float(value)) for name, value in figures.items()}


def _multiplies(board: AcceleratorSpec, dtype: str) -> bool:
    """Whether a device has units for what a format of the table computes in."""
    return GEMM_FORMATS[dtype].compute in {*board.matmul_flop_per_unit_clock, *board.peak}


def _format_on(board: AcceleratorSpec, dtype: str) -> GemmFormat:
    """The format as a device runs it: without units for it, weights are stored in it and widened before use."""
    form, wide = GEMM_FORMATS[dtype], GEMM_FORMATS["bf16"]
    if _multiplies(board, dtype) or form.weight_bytes >= wide.weight_bytes:
        return form
    return replace(wide, weight_bytes=form.weight_bytes)


def format_key(board: AcceleratorSpec, dtype: str) -> str | None:
    """What a calibration calls a format of the table on a device; None where it has no name for it.

    Without units for a format, its rows are of weights that are only stored in it. Raises KeyError for an unknown
    format.
    """
    if _multiplies(board, dtype):
        return "int8" if dtype == "sq" else dtype
    stored = f"{dtype}_wo"
    return stored if stored in get_args(NumberFormat) else None


def narrow(samples: KernelSamples) -> BoolArray:
    """Rows with n or k below 512, shape ``(rows,)``; raises KeyError for samples of other families."""
    return (samples.inputs["n"] < NARROW_SIDE) | (samples.inputs["k"] < NARROW_SIDE)


def timed_from_host(frame: pd.DataFrame) -> BoolArray:
    """Rows of ``kernels_gemm`` that tell how long the host takes, shape ``(rows,)``; KeyError without the columns."""
    pairs = zip(frame.dtype, frame.framework, strict=True)
    known = np.array([pair in TIMED_FROM_HOST for pair in pairs], dtype=np.bool_)
    return known & ~frame.weights_rotated.to_numpy(dtype=np.bool_)


def _warm(frame: pd.DataFrame, weights: FloatArray, board: AcceleratorSpec) -> BoolArray:
    """Rows whose weights were in the last cache when they were timed; the bandwidth of a processor is its cache's."""
    cache_bytes = 0.0 if board.kind == "cpu" else board.l2_capacity.value
    copies = cache_bytes / ROTATED_COPIES if cache_bytes >= LARGE_CACHE_BYTES else 0.0
    rotated = frame.weights_rotated.to_numpy(dtype=np.bool_)
    return weights <= np.where(rotated, copies, cache_bytes)


def _of_board(frame: pd.DataFrame, board: AcceleratorSpec) -> pd.DataFrame:
    """Rows of a device of the catalog by any spelling, of a user's own by its name."""
    return of_device(frame, board.name) if find_device(board.name) else frame[frame.device == board.name]


def gemm_samples(
    folder: Tables,
    accelerator: AcceleratorSpec | str,
    dtype: str,
    stacks: Sequence[str] = (),
    *,
    family: str = "matmul",
) -> KernelSamples:
    """Products of one accelerator and number format.

    Parameters
    ----------
    folder : Path or mapping
        Where the tables are.
    accelerator : AcceleratorSpec or str
        The device, or its catalog name.
    dtype : str
        As the table says, a key of ``GEMM_FORMATS``.
    stacks : sequence of str, optional
        Frameworks to keep; all without.
    family : str
        "matmul" for single products, "batched_matmul" for several in one kernel.

    Returns
    -------
    KernelSamples
        Whole (n, k) pairs are groups, for batched products whole (m, n, k). Rows that beat the memory's peak
        or were timed from the host are left away. Weights that were warm do not count as moved. For quantised
        formats ``quantise_bytes`` describes the pass.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    ValueError
        If it has no such row.
    """
    board = load_accelerator(accelerator) if isinstance(accelerator, str) else accelerator
    frame = _of_board(read_table(folder, "kernels_gemm"), board)
    frame = frame[(frame.dtype == dtype) & (frame.quality != "suspect_above_hbm_peak")]
    frame = frame[frame.batch > 1 if family == "batched_matmul" else frame.batch == 1]
    frame = frame[frame.framework.isin(list(stacks))] if stacks else frame
    frame = frame[~timed_from_host(frame)]
    if not len(frame):
        raise ValueError(f"kernels_gemm has no {dtype} row of {board.name} by {', '.join(stacks) or 'any'}")
    form = _format_on(board, dtype)
    batch, m, n, k, latency = (
        frame[name].to_numpy(dtype=np.float64) for name in ("batch", "m", "n", "k", "latency_us")
    )
    weights = form.weight_bytes * n * k
    warm = _warm(frame, weights, board)
    quantises = form.quantised * frame.framework.isin(QUANTISING).to_numpy(dtype=np.float64)
    moved = form.operand_bytes * m * k + form.output_bytes * m * n + np.where(warm, 0.0, weights)
    sides = zip(m, n, k, strict=True)
    single = family == "matmul"
    return KernelSamples(
        family=family,
        inputs={
            "batch": batch,
            "m": m,
            "n": n,
            "k": k,
            "flop": 2.0 * batch * m * n * k,
            "moved_bytes": batch * moved,
            "operand_bytes": np.full_like(m, form.operand_bytes),
            "second_operand_bytes": np.full_like(m, form.weight_bytes),
            "quantise_bytes": batch * m * k * (WIDE_BYTES + form.operand_bytes) * quantises,
            **product_figures(board, form.compute, len(frame)),
        },
        measured_s=latency * 1e-6,
        stack=(frame.framework + "-" + frame.version).to_numpy(dtype=np.str_),
        size_class=matmul_class(batch, m, n, k),
        group=np.array([f"{b:.0f}x{c:.0f}" if single else f"{a:.0f}x{b:.0f}x{c:.0f}" for a, b, c in sides]),
        other_s=np.zeros_like(m),
        rounding_s=np.zeros_like(m),
        row=frame.index.to_numpy(dtype=np.int64),
    )
