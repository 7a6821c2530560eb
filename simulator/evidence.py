"""How well the coefficients behind one scenario are known: by kernel family, for its table and its intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardware_specs import CalibrationSpec, CollectiveFit, FitEvidence
from simulator.device import kernel_fit
from simulator.kernels.models import KERNEL_MODELS, MATMUL_FAMILIES

__all__ = ["FamilyEvidence", "collective_evidence", "kernel_evidence"]

FloatArray = NDArray[np.float64]
# 90 % half-widths, in ln, below which no borrowed coefficient goes. Fits moved to a sibling type or device are off
# by 5 to 9 % on average, to another generation by 12 to 23 %; a 90 % quantile is about twice a mean.
SIBLING_SPREAD = 0.2
ASSUMED_SPREAD = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyEvidence:
    """Evidence behind one kernel family.

    Attributes
    ----------
    label : str
        "fitted" or "assumed".
    spread : mapping of str to float
        90 % quantile of ``|ln(predicted / measured)|`` by size class, "all" for the rest [1].
    floor : float
        Least half-width, where coefficients are borrowed [1].
    common : float
        Standard deviation of the part that all kernels of a stack share, in ln [1].
    fitted_range : mapping of str to sequence of float
        Smallest and largest size that was fitted [1].
    """

    label: str
    spread: Mapping[str, float]
    floor: float
    common: float
    fitted_range: Mapping[str, Sequence[float]]

    def half_width(self, size_class: str) -> float:
        """90 % half-width of a kernel's time in ln [1]; an unknown class has the one of "all"."""
        return max(self.spread.get(size_class, self.spread.get("all", self.floor)), self.floor)

    def beyond(self, sizes: Mapping[str, FloatArray]) -> list[str]:
        """Sizes [1] outside what was fitted, each as "m 65,536 > 8,192"; raises nothing."""
        said = []
        for name, (low, high) in self.fitted_range.items():
            values = sizes.get(name)
            if values is not None and np.max(values) > high:
                said.append(f"{name} {np.max(values):,.0f} > {high:,.0f}")
            elif values is not None and np.min(values) < low:
                said.append(f"{name} {np.min(values):,.0f} < {low:,.0f}")
        return said


def kernel_evidence(calibration: CalibrationSpec, dtypes: Mapping[str, str]) -> dict[str, FamilyEvidence]:
    """Evidence of every kernel family.

    Parameters
    ----------
    calibration : CalibrationSpec
        Whose coefficients are used.
    dtypes : mapping
        Compute type under "matmul" and "attention".

    Returns
    -------
    dict of str to FamilyEvidence
        By kernel family.

    Raises
    ------
    KeyError
        If a compute type is missing.
    """
    found = {}
    for family in KERNEL_MODELS:
        dtype = dtypes["matmul" if family in MATMUL_FAMILIES else "attention"]
        fit, exact = kernel_fit(calibration, family, dtype)
        found[family] = _of(fit, exact)
    return found


def _of(fit: FitEvidence, exact: bool) -> FamilyEvidence:
    borrowed = ASSUMED_SPREAD if fit.basis == "assumed" else SIBLING_SPREAD
    fitted = fit.basis == "measured" and exact
    return FamilyEvidence(
        label="fitted" if fitted else "assumed",
        spread=fit.spread,
        floor=0.0 if fitted and fit.spread else borrowed,
        common=fit.common,
        fitted_range=fit.fitted_range if fit.basis == "measured" else {},
    )


def collective_evidence(tiers: Sequence[CollectiveFit]) -> FamilyEvidence:
    """Evidence of the collectives of a scenario: that of the least known tier that it uses; raises nothing."""
    fits = [fit for tier in tiers for _, fit in tier.algorithms()]
    fitted = all(tier.ring.basis == "measured" for tier in tiers)
    # Twice the mean error of the worst size class is about a 90 % quantile.
    known = max((2.0 * error for fit in fits for error in fit.error.values()), default=ASSUMED_SPREAD)
    return FamilyEvidence(
        label="fitted" if fitted else "assumed",
        spread={"all": known},
        floor=0.0 if fitted else ASSUMED_SPREAD,
        common=0.0,
        fitted_range={},
    )
