"""A software stack as rates over another calibration: how fast whole runs of it were, beside its kernels alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from hardware_specs.calibration import CalibrationSpec, Task
from hardware_specs.figure import Basis, Dimension, Spec
from hardware_specs.kernel_fits import FitEvidence, HostFit, KernelFits
from hardware_specs.schema import Name

__all__ = ["FAMILIES_OF_RATE", "RateKind", "StackRate", "StackRatesSpec", "rated"]

RateKind = Literal["matmul", "attention", "compute"]
# Kernel families that a rate slows down.
FAMILIES_OF_RATE: Mapping[RateKind, tuple[str, ...]] = {
    "matmul": ("matmul", "batched_matmul", "grouped_matmul"),
    "attention": ("attention_prefill", "mla_prefill"),
    # One rate for both: a clock under load, or runs that cannot tell them apart.
    "compute": ("matmul", "batched_matmul", "grouped_matmul", "attention_prefill", "mla_prefill"),
}
# Clocks of a unit: they grow as the rate falls.
_CLOCKS = ("score_clocks", "mask_clocks")


class StackRate(Spec):
    """One rate with its evidence."""

    value: Annotated[float, Field(gt=0.0), Dimension("count")] = Field(
        description="rate over that of the kernels of the calibration below; efficiencies stay at most 1"
    )
    basis: Basis
    source: str = Field(min_length=8, description="whole runs it was fitted on")


class StackRatesSpec(Spec):
    """Rates of the kernels of a stack in whole runs, over a calibration of kernels that were measured alone.

    Old kernels, untuned libraries and clocks that sink under load slow a run, and no table of single kernels of
    today shows it. So few numbers are fitted to whole runs: at most two of a rate of products, one of attention, and
    the time of a host that waits for each kernel.
    """

    schema_version: Literal[1]
    name: Name
    like: Name = Field(description="calibration whose kernels these are")
    tasks: list[Task] = Field(min_length=1)
    applies_to: list[Name] = Field(
        default_factory=list, max_length=0, description="none: it is asked for by name"
    )
    stack: str = Field(min_length=1, description="software of the runs, with versions")
    date: str = Field(min_length=4)
    rates: dict[RateKind, StackRate] = Field(min_length=1)
    host: HostFit | None = Field(
        None, description="time of the host between operators, where it waits for each kernel"
    )
    compiled_casts: bool = Field(
        False,
        description="whether a compiler writes the passes that narrow activations: they stream as pointwise kernels do",
    )
    rows: int = Field(ge=1, description="whole runs fitted")
    error: dict[str, Annotated[float, Dimension("count")]] = Field(
        description="mean error of the step time as a fraction: of the fitted rows, and of models left out"
    )
    common: Annotated[float, Field(ge=0.0), Dimension("count")] = Field(
        description="standard deviation of ln(predicted / measured) over models left out"
    )


def _slower(fit: FitEvidence, rate: StackRate, spec: StackRatesSpec) -> FitEvidence:
    """A family's fit at another rate, in its units; the doubt of whole runs is common to all kernels."""
    update: dict[str, object] = {
        "compute_efficiency": min(1.0, fit.coefficients()["compute_efficiency"] * rate.value),
        "source": f"{fit.source}; x {rate.value:g} in whole runs: {rate.source}",
        "common": max(fit.common, spec.common),
    }
    known = fit.coefficients()
    update |= {name: known[name] / rate.value for name in _CLOCKS if name in known}
    return fit.model_copy(update=update)


def _streaming(kernels: Mapping[str, dict[str, FitEvidence]]) -> dict[str, FitEvidence]:
    """Passes that narrow activations as pointwise kernels: no row waits for its scale."""
    pointwise = kernels["pointwise"]["any"].coefficients()
    found = {
        "fixed_s": pointwise["fixed_s"],
        "memory_efficiency": min(pointwise["read_efficiency"], pointwise["write_efficiency"]),
        "row_unit_s": 0.0,
    }
    source = "compiled: a pointwise kernel of this calibration"
    return {
        key: fit.model_copy(update={**found, "source": source}) for key, fit in kernels["quantise"].items()
    }


def rated(base: CalibrationSpec, spec: StackRatesSpec) -> CalibrationSpec:
    """The calibration of a stack.

    Parameters
    ----------
    base : CalibrationSpec
        The one that ``spec.like`` names.
    spec : StackRatesSpec
        Rates [1].

    Returns
    -------
    CalibrationSpec
        As ``base`` with slower products and attention, under the name and the stack of ``spec``. Raises nothing.
    """
    kernels: dict[str, dict[str, FitEvidence]] = {
        name: dict(getattr(base.kernels, name)) for name in KernelFits.model_fields
    }
    for kind, rate in spec.rates.items():
        for family in FAMILIES_OF_RATE[kind]:
            kernels[family] = {key: _slower(fit, rate, spec) for key, fit in kernels[family].items()}
    if spec.compiled_casts:
        kernels["quantise"] = _streaming(kernels)
    return base.model_copy(
        update={
            "name": spec.name,
            "applies_to": [],
            "measured_on": base.measured_on or base.applies_to,
            "tasks": spec.tasks,
            "stack": f"{spec.stack}; kernels of {base.stack}",
            "date": spec.date,
            "kernels": base.kernels.model_copy(update=kernels),
            "host": spec.host or base.host,
        }
    )
