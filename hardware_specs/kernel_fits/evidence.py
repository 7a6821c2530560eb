"""What is known of fitted coefficients: where they come from, how well they hold, and where they were tried."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field

from hardware_specs.figure import Basis, Dimension, Spec

__all__ = ["EVIDENCE_FIELDS", "FitEvidence"]

Source = Annotated[str, Field(min_length=8)]
ByClass = dict[str, Annotated[float, Dimension("count")]]


class FitEvidence(Spec):
    """Base of every set of coefficients; a subclass adds the coefficients, each with its dimension.

    Attributes
    ----------
    basis, source : str
        How the numbers came about, and from which data set.
    rows : int
        Rows that the fit saw [1].
    error : mapping of str to float
        Mean error as a fraction, by size class [1]; names that end in ``_left_out`` are of rows that no
        coefficient saw.
    spread : mapping of str to float
        90 % quantile of ``|ln(predicted / measured)|`` on left-out rows, by size class [1]; "all" stands for
        the classes that are not named.
    common : float
        Standard deviation of the part of that error that all kernels of a software stack share [1].
    timing_s : float
        What the benchmark adds to each row, where it is timed from the host; a model's kernels hide it [s].
    fitted_range : mapping of str to list of float
        Smallest and largest value of each size in the rows that were fitted [1].
    """

    basis: Basis
    source: Source = Field(description="data set the coefficients were fitted on")
    rows: Annotated[int, Field(ge=0)] = Field(default=0, description="rows fitted")
    error: ByClass = Field(default_factory=dict, description="mean error as a fraction, by size class")
    spread: ByClass = Field(
        default_factory=dict, description="90 % quantile of |ln(predicted / measured)|, by size class"
    )
    common: Annotated[float, Dimension("count")] = Field(
        default=0.0, description="standard deviation of the error that all kernels of a stack share, in ln"
    )
    timing_s: Annotated[float, Dimension("s", bare=True)] = Field(
        default=0.0,
        description="what the benchmark adds to a row, timed from the host; not in a model's kernels [s]",
    )
    fitted_range: dict[str, list[float]] = Field(
        default_factory=dict, description="smallest and largest of each size in the fitted rows"
    )

    @classmethod
    def coefficient_names(cls) -> tuple[str, ...]:
        """Names of the coefficients, in the order of the class."""
        return tuple(name for name in cls.model_fields if name not in EVIDENCE_FIELDS)

    def coefficients(self) -> dict[str, float]:
        """Coefficients by name, in SI units."""
        return {name: getattr(self, name) for name in self.coefficient_names()}

    @classmethod
    def ideal(cls) -> dict[str, float]:
        """Coefficients under which a kernel takes exactly the longer of its two bounds.

        Raises NotImplementedError in a class that states none.
        """
        raise NotImplementedError(f"{cls.__name__} states no ideal coefficients")

    @classmethod
    def of(cls, coefficients: dict[str, float], **evidence: Any) -> Self:
        """A fit from plain numbers in SI units; raises ValidationError for numbers out of range."""
        return cls.model_validate({**coefficients, **evidence})


EVIDENCE_FIELDS = tuple(FitEvidence.model_fields)
