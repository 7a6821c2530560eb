"""How well the coefficients behind one scenario are known: by kernel family, for its table and its intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from hardware_specs import CalibrationSpec, CollectiveFit, FitEvidence, load_calibration
from hardware_specs.kernel_fits.families import NumberFormat
from simulator.kernels.models import KERNEL_MODELS, MATMUL_FAMILIES
from simulator.kernels.size_classes import CLASSES
from simulator.scenarios.precision import DTYPE_BYTES, Precision

__all__ = [
    "FamilyEvidence",
    "collective_evidence",
    "doubts_by_family",
    "family_evidence",
    "kernel_evidence",
    "kernel_fit",
    "kernel_format",
]

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]
DEFAULT_CALIBRATION = "default"
NUMBER_FORMATS: tuple[str, ...] = get_args(NumberFormat)
# A kernel family measured in one 16-bit type serves the other one, and the narrow ones last.
SIMILAR: dict[str, tuple[str, ...]] = {
    "bf16": ("fp16", "any"),
    "fp16": ("bf16", "any"),
    "fp8": ("int8", "any", "bf16", "fp16"),
    "mxfp8": ("fp8", "int8", "any", "bf16", "fp16"),
    "int8": ("fp8", "any", "bf16", "fp16"),
    "tf32": ("any", "bf16", "fp16", "fp32"),
    "fp32": ("any", "tf32", "bf16", "fp16"),
    "fp64": ("any", "fp32", "bf16", "fp16"),
    "fp4": ("fp8", "any", "bf16", "fp16"),
    # Formats: the type that they multiply in.
    "fp8_block": ("fp8", "int8", "any"),
    "w4a8_mxfp4_mxfp8": ("fp8", "int8", "any"),
    "nvfp4": ("fp4", "fp8", "any"),
    "int8_wo": ("bf16", "fp16", "any"),
    "int4_wo": ("bf16", "fp16", "any"),
    "fp8_wo": ("int8_wo", "bf16", "fp16", "any"),
    "fp8_cache": ("bf16", "fp16", "any"),
    "w4a16_mxfp4": ("int4_wo", "bf16", "fp16", "any"),
}
# Families with weights in them, and attention by what it reads.
WEIGHT_FAMILIES = ("matmul", "grouped_matmul")
DECODE_FAMILIES = ("attention_decode", "mla_decode")
PREFILL_FAMILIES = ("attention_prefill", "mla_prefill")
# Half-width of a central 90 % interval of a normal distribution, in standard deviations.
DEVIATIONS = 1.6448536269514722
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


def kernel_fit(calibration: CalibrationSpec, family: str, dtype: str) -> tuple[FitEvidence, bool]:
    """Coefficients of a family for a type, and whether they are those of that family and type.

    What a calibration does not hold comes from the family's sibling, and last from the default calibration.
    """
    fits, own = calibration.kernels.of(family)
    if not fits:
        fits, own = load_calibration(DEFAULT_CALIBRATION).kernels.of(family)[0], False
    for name in (dtype, *SIMILAR.get(dtype, ("any",))):
        if name in fits:
            return fits[name], own and (name == dtype or (name == "any" and dtype not in NUMBER_FORMATS))
    return next(iter(fits.values())), False


def kernel_format(family: str, ran: Precision) -> str:
    """Type or number format whose coefficients a family takes under a precision; raises nothing.

    Products with weights that are stored narrower than they multiply, and attention with a cache that is, are
    kernels of their own: they widen what they read. Attention of one token is limited by the cache, and goes by
    its type.
    """
    if family in WEIGHT_FAMILIES and DTYPE_BYTES[ran.weights] < DTYPE_BYTES[ran.matmul]:
        return f"{ran.weights}_wo"
    if family in MATMUL_FAMILIES:
        return ran.matmul
    if DTYPE_BYTES[ran.kv_cache] < DTYPE_BYTES[ran.attention]:
        if family in DECODE_FAMILIES:
            return ran.kv_cache
        if family in PREFILL_FAMILIES:
            return "fp8_cache"
    return ran.attention


def kernel_evidence(
    calibration: CalibrationSpec, ran: Precision, accelerator: str
) -> dict[str, FamilyEvidence]:
    """Evidence of every kernel family under a precision as it is executed on an accelerator.

    Raises StopIteration if neither a calibration nor the family's sibling has a fit: the schema forbids that.
    """
    found = {}
    for family in KERNEL_MODELS:
        fit, exact = kernel_fit(calibration, family, kernel_format(family, ran))
        found[family] = family_evidence(fit, exact, foreign=calibration.is_foreign(accelerator))
    return found


def family_evidence(fit: FitEvidence, exact: bool, *, foreign: bool = False) -> FamilyEvidence:
    """Evidence of one fit.

    Parameters
    ----------
    fit : FitEvidence
        Coefficients with their errors.
    exact : bool
        Whether it is of the family and type that are asked for.
    foreign : bool
        Whether all its rows ran on another accelerator: then it is a guess, however well it fitted there.

    Returns
    -------
    FamilyEvidence
        Raises nothing.
    """
    borrowed = ASSUMED_SPREAD if foreign or fit.basis == "assumed" else SIBLING_SPREAD
    fitted = fit.basis == "measured" and exact and not foreign
    return FamilyEvidence(
        label="fitted" if fitted else "assumed",
        spread=fit.spread,
        floor=0.0 if fitted and fit.spread else borrowed,
        # What is borrowed from another device or type is off alike in all kernels: it does not average out.
        common=fit.common if fitted and fit.spread else max(fit.common, borrowed / DEVIATIONS),
        fitted_range=fit.fitted_range if fit.basis == "measured" and not foreign else {},
    )


def collective_evidence(tiers: Sequence[CollectiveFit]) -> FamilyEvidence:
    """Evidence of the collectives of a scenario: that of the least known tier that it uses; raises nothing."""
    fits = [fit for tier in tiers for _, fit in tier.algorithms()]
    fitted = all(tier.ring.basis == "measured" and tier.ring.spread for tier in tiers)
    # The choice of algorithm is part of a prediction, so its worst one speaks for a class.
    spread: dict[str, float] = {}
    for fit in fits:
        for name, width in fit.spread.items():
            spread[name] = max(width, spread.get(name, 0.0))
    common = max(fit.common for fit in fits)
    return FamilyEvidence(
        label="fitted" if fitted else "assumed",
        spread=spread,
        floor=0.0 if fitted else ASSUMED_SPREAD,
        # As with kernels: what is borrowed is off alike in all exchanges.
        common=common if fitted else max(common, ASSUMED_SPREAD / DEVIATIONS),
        fitted_range={},
    )


def doubts_by_family(
    calibrated: bool, evidence: Sequence[Mapping[str, FamilyEvidence]], index: IndexArray
) -> dict[str, dict[str, FloatArray]]:
    """Columns of relative standard deviations [1].

    Parameters
    ----------
    calibrated : bool
        Whether coefficients are used at all; without them nothing is doubted.
    evidence : sequence of mapping
        By kernel family, for each kind of row.
    index : ndarray of int, shape (n,)
        Kind of each row.

    Returns
    -------
    dict of str to dict of str to ndarray
        By family, then by size class and "common": the class's own part excludes the common one.

    Raises
    ------
    IndexError
        If a row is of no kind.
    """
    columns = {}
    for family in evidence[0]:
        of = [known[family] for known in evidence]
        common = np.array([calibrated * known.common for known in of])
        columns[family] = {"common": common[index]}
        for name in CLASSES.get(family, ("all",)):
            whole = np.array([calibrated * known.half_width(name) / DEVIATIONS for known in of])
            columns[family][name] = np.sqrt(np.maximum(whole**2 - common**2, 0.0))[index]
    return columns
