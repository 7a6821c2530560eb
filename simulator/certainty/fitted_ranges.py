"""Which kernels of a plan lie outside the sizes that their coefficients were fitted on, as columns of a sweep.

The table of one plan says it per operator (`FamilyEvidence.beyond` in `simulator.certainty.evidence`); here are the
same limits for many plans, so that a sweep can count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import DeviceColumns
from simulator.certainty.evidence import FamilyEvidence
from simulator.kernels.models import KERNEL_MODELS

if TYPE_CHECKING:
    from workloads.operator_graph import Operator

__all__ = ["outside_fit", "ranges_by_family"]

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]
ZERO: FloatArray = np.zeros(1)


def ranges_by_family(
    calibrated: bool, evidence: Sequence[Mapping[str, FamilyEvidence]], index: IndexArray
) -> dict[str, dict[str, FloatArray]]:
    """Columns of the least and the largest fitted size [1].

    Parameters
    ----------
    calibrated : bool
        Whether coefficients are used at all; without them there is nothing to be outside of.
    evidence : sequence of mapping
        By kernel family, for each kind of row.
    index : ndarray of int, shape (n,)
        Kind of each row.

    Returns
    -------
    dict of str to dict of str to ndarray
        By family, then "low m", "high m" and so on; infinite where a kind of row has no limit. Families without limits
        are left out.

    Raises
    ------
    IndexError
        If a row is of no kind.
    """
    columns: dict[str, dict[str, FloatArray]] = {}
    if not calibrated:
        return columns
    for family in evidence[0]:
        of = [known[family].fitted_range for known in evidence]
        for name in sorted({name for limits in of for name in limits}):
            sides = np.array([limits.get(name, (-np.inf, np.inf)) for limits in of], dtype=np.float64)
            own = columns.setdefault(family, {})
            own[f"low {name}"], own[f"high {name}"] = sides[:, 0][index], sides[:, 1][index]
    return columns


def outside_fit(operator: Operator, family: str, device: DeviceColumns) -> FloatArray:
    """1 where an operator that runs is larger or smaller than what its coefficients were fitted on, else 0 [1].

    Sizes broadcast; a family without fitted sizes gives 0. Raises nothing.
    """
    limits = device.fitted_ranges.get(family)
    if not limits or family not in KERNEL_MODELS:
        return ZERO
    sizes = KERNEL_MODELS[family].sizes(operator)
    out = np.zeros(1, dtype=bool)
    for name, values in sizes.items():
        if f"low {name}" in limits:
            out = out | (values < limits[f"low {name}"]) | (values > limits[f"high {name}"])
    return (out & (operator.scale > 0)).astype(np.float64)
