"""What a fit needs of one table: counted work, measured seconds, and how rows are grouped and held out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from hardware_specs.kernel_fits import FitEvidence

__all__ = ["LEFT_OUT_PERCENT", "Families", "KernelRows", "cell_weights", "join_rows", "left_out_by_group"]

Families = dict[str, dict[str, FitEvidence]]
"""Fits by kernel family and dtype, as in a calibration."""
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
TextArray = NDArray[np.str_]

LEFT_OUT_PERCENT = 30
MODEL_SCATTER = 0.05  # relative error that four coefficients leave at best


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRows:
    """Measured kernels of one family and dtype, ready to fit; all arrays have the shape ``(rows,)``.

    Attributes
    ----------
    flop, moved_bytes : ndarray
        Work as the engine counts it [FLOP], [byte].
    peak_flop_per_s, bandwidth_bytes_per_s : ndarray
        Datasheet figures of the row's device [FLOP/s], [byte/s].
    measured_s : ndarray
        Measured time [s].
    stack : ndarray of str
        Software stack that was measured.
    size_class : ndarray of str
        Class by size; each class and stack has the same weight in a fit.
    left_out : ndarray of bool
        Rows that no coefficient sees.
    other_s : ndarray
        Known time of other kernels inside the measured interval [s].
    rounding_s : ndarray
        Standard error of the measured time from rounding [s].
    """

    flop: FloatArray
    moved_bytes: FloatArray
    peak_flop_per_s: FloatArray
    bandwidth_bytes_per_s: FloatArray
    measured_s: FloatArray
    stack: TextArray
    size_class: TextArray
    left_out: BoolArray
    other_s: FloatArray
    rounding_s: FloatArray

    def __len__(self) -> int:
        return int(self.measured_s.size)

    def where(self, keep: BoolArray) -> KernelRows:
        """Return the rows for which ``keep``, a boolean array of shape ``(rows,)``, is true."""
        return KernelRows(**{field.name: getattr(self, field.name)[keep] for field in fields(self)})


def join_rows(parts: Iterable[KernelRows]) -> KernelRows:
    """Put tables of rows one below the other."""
    tables = list(parts)
    return KernelRows(
        **{
            field.name: np.concatenate([getattr(t, field.name) for t in tables])
            for field in fields(KernelRows)
        }
    )


def left_out_by_group(group_names: Iterable[str]) -> BoolArray:
    """Hold out whole groups, such as all rows of one (n, k) pair.

    Parameters
    ----------
    group_names : iterable of str
        One name per row.

    Returns
    -------
    ndarray of bool, shape (rows,)
        True for rows of about ``LEFT_OUT_PERCENT`` of the groups. The choice is a checksum of the name, so
        it is the same on every machine and does not move when rows are added.
    """
    return np.array([crc32(name.encode()) % 100 < LEFT_OUT_PERCENT for name in group_names], dtype=np.bool_)


def cell_weights(rows: KernelRows) -> FloatArray:
    """Weights that give each (stack, size class) the same total, with mean 1; shape ``(rows,)`` [1].

    Small shapes dominate the tables' counts; without this they would decide every coefficient. Rows whose
    rounding is coarser than the scatter of a good model count for less.
    """
    cells = np.char.add(np.char.add(rows.stack, "|"), rows.size_class)
    names, index, counts = np.unique(cells, return_inverse=True, return_counts=True)
    noise = rows.rounding_s / (MODEL_SCATTER * rows.measured_s)
    weights: FloatArray = len(rows) / (len(names) * counts[index].astype(np.float64)) / (1 + noise**2)
    return weights
