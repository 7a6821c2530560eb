"""A figure: one number of a machine, with how it is known and where it was found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from hardware_specs.errors import Problem, SpecError, shorten
from hardware_specs.units import exact_quantity, format_quantity, parse_quantity

__all__ = ["Basis", "Dimension", "Figure", "Spec"]

Basis = Literal["datasheet", "measured", "derived", "assumed"]
_USER_SOURCE = "given by the user"


class Spec(BaseModel):
    """Base of every description: frozen, strict types, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def broken_rules(self) -> Iterator[Problem]:
        """Rules across fields that do not hold; each path starts below this object."""
        return iter(())

    @model_validator(mode="after")
    def _hold_rules(self) -> Self:
        problems = list(self.broken_rules())
        if problems:
            raise ValidationError.from_exception_data(type(self).__name__, [_line(p) for p in problems])
        return self


class Figure(Spec):
    """One number with its evidence.

    Attributes
    ----------
    value : float
        In the SI unit of the field that holds the figure. [the field's dimension]
    basis : str
        ``datasheet``, ``measured``, ``derived`` (arithmetic on other figures) or ``assumed``.
    source : str
        Citation with page or table, or the arithmetic.
    note : str
        What a reader must know to use the number.
    """

    value: float
    basis: Basis
    source: Annotated[str, Field(min_length=8)]
    note: str = ""


@dataclass(frozen=True)
class Dimension:
    """What a field measures and which values are legal.

    Parameters
    ----------
    name : str
        A key of `hardware_specs.units.TIME_EXPONENT`, such as ``"bytes_per_s"``.
    minimum : float
        Smallest legal value. [SI unit of the dimension]
    positive : bool
        Whether zero is refused.
    whole : bool
        Whether the value must be a whole number.
    bare : bool
        Whether a plain number is taken as SI; only where the key itself ends in the unit.

    Notes
    -----
    Used as ``Annotated[Figure, Dimension("w")]`` or ``Annotated[float, Dimension("s")]``.
    """

    name: str
    minimum: float = 0.0
    positive: bool = False
    whole: bool = False
    bare: bool = False

    def parse(self, raw: object) -> float:
        """SI value of what was written.

        Parameters
        ----------
        raw : str or number
            Such as ``"3.35 TB/s"``.

        Returns
        -------
        float
            [SI unit of the dimension]

        Raises
        ------
        SpecError
            If the text is no quantity of this dimension or lies outside the limits.
        """
        if self.bare and isinstance(raw, (int, float)) and not isinstance(raw, bool):
            raw = exact_quantity(float(raw), self.name)
        value = parse_quantity(raw, self.name)
        self.check(value)
        return value

    def check(self, value: float) -> None:
        """Hold ``value`` [SI unit of the dimension] against the limits; SpecError if it breaks one."""
        if self.positive and value <= 0:
            raise SpecError("must be above 0")
        if value < self.minimum:
            raise SpecError(f"must be at least {format_quantity(self.minimum, self.name)}")
        if self.whole and value != int(value):
            raise SpecError("must be a whole number")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        validate = self._figure if source is Figure else self._number
        return core_schema.no_info_wrap_validator_function(validate, handler(source))

    def _number(self, raw: object, handler: Any) -> float:
        try:
            value: float = handler(self.parse(raw))
        except SpecError as error:
            raise _custom(error, raw) from None
        return value

    def _figure(self, raw: object, handler: Any) -> Figure:
        if isinstance(raw, Figure):
            try:
                self.check(raw.value)
            except SpecError as error:
                raise _custom(error, raw.value) from None
            return raw
        if not isinstance(raw, Mapping):
            try:
                return Figure(value=self.parse(raw), basis="assumed", source=_USER_SOURCE)
            except SpecError as error:
                raise _custom(error, raw) from None
        return self._sourced(dict(raw), handler)

    def _sourced(self, written: dict[str, Any], handler: Any) -> Figure:
        """Figure from a mapping; collects the faults of the value and of the other keys alike."""
        faults: list[InitErrorDetails] = []
        if "value" in written:
            raw = written["value"]
            try:
                written["value"] = self.parse(raw)
            except SpecError as error:
                faults.append(InitErrorDetails(type=_custom(error, raw), loc=("value",), input=raw))
                written["value"] = 1.0
        try:
            figure: Figure = handler(written)
        except ValidationError as error:
            if not faults:
                raise
            for found in error.errors(include_url=False):
                kind = PydanticCustomError(
                    found["type"], "{text}", {**found.get("ctx", {}), "text": found["msg"]}
                )
                faults.append(InitErrorDetails(type=kind, loc=found["loc"], input=found["input"]))
        if faults:
            raise ValidationError.from_exception_data("Figure", faults)
        return figure


def _line(problem: Problem) -> InitErrorDetails:
    context = {"value": problem.value, "rule": problem.rule, "fix": problem.fix}
    kind = PydanticCustomError("llmsim", "{rule}", context)
    return InitErrorDetails(type=kind, loc=tuple(problem.path.split(".")), input=None)


def _custom(error: SpecError, raw: object) -> PydanticCustomError:
    problem = error.problems[0]
    value = problem.value or (f'"{shorten(raw)}"' if isinstance(raw, str) else shorten(raw))
    context = {"value": value, "rule": problem.rule, "fix": problem.fix}
    return PydanticCustomError("llmsim", "{rule}", context)
