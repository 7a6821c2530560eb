"""Types of measured rows, and which of them are held out."""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from hardware_specs.kernel_fits import FitEvidence

__all__ = ["LEFT_OUT_PERCENT", "BoolArray", "Families", "FloatArray", "TextArray", "left_out_by_group"]

Families = dict[str, dict[str, FitEvidence]]
"""Fits by kernel family and dtype, as in a calibration."""
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
TextArray = NDArray[np.str_]

LEFT_OUT_PERCENT = 30


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
