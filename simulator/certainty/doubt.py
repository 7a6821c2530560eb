"""How far off the time of an operator may be: the errors of its calibration, per row and size class."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import DeviceColumns
from simulator.kernels.models import KERNEL_MODELS
from simulator.kernels.size_classes import LARGE_MESSAGE_BYTES, SMALL_MESSAGE_BYTES, class_index
from workloads.operator_graph import Operator

__all__ = ["Doubt", "exchange_doubt", "kernel_doubt"]

FloatArray = NDArray[np.float64]
ZERO: FloatArray = np.zeros(1)
Doubt = tuple[FloatArray, FloatArray]
"""Relative standard deviations of a time [1]: its own, and what all kernels of a stack share."""


def kernel_doubt(operator: Operator, family: str, device: DeviceColumns) -> Doubt:
    """Doubt of one kernel.

    Parameters
    ----------
    operator : Operator
        Its sizes pick the size class.
    family : str
        Kernel family; one without coefficients (a view) has no doubt.
    device : DeviceColumns
        Errors by family and class.

    Returns
    -------
    Doubt
        Relative standard deviations [1], broadcast shape.

    Raises
    ------
    KeyError
        If a class has no column.
    """
    if family not in device.doubts:
        return ZERO, ZERO
    known = device.doubts[family]
    index = class_index(family, KERNEL_MODELS[family].sizes(operator))
    return _picked(known, index), known["common"]


def _picked(known: Mapping[str, FloatArray], index: tuple[tuple[str, ...], FloatArray]) -> FloatArray:
    names, position = index
    if len(names) == 1:
        return known[names[0]]
    if position.size == 1:
        return known[names[int(position.item())]]
    return np.select(
        [position == i for i in range(len(names) - 1)], [known[n] for n in names[:-1]], known[names[-1]]
    )


def exchange_doubt(message_bytes: FloatArray, leaves: NDArray[np.bool_], device: DeviceColumns) -> Doubt:
    """Doubt of a collective with whole buffers of a size [byte]: that of the outer tier where it leaves the node.

    Broadcasts; raises nothing.
    """
    known = [device.doubts[f"collective_{side}"] for side in ("inner", "outer")]
    at_least = (message_bytes > SMALL_MESSAGE_BYTES).astype(np.float64) + (
        message_bytes >= LARGE_MESSAGE_BYTES
    )
    inner, outer = (_picked(one, (("small", "middle", "large"), at_least)) for one in known)
    return (
        np.where(leaves, outer, inner),
        np.where(leaves, known[1]["common"], known[0]["common"]),
    )
