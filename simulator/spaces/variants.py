"""The named things that rows of a space refer to: models, systems, precisions, structures; each resolved once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from hardware_specs import SystemSpec, parse_override
from hardware_specs.errors import ScenarioError
from hardware_specs.figure_table import figure_dimension
from simulator.machines.hardware_leaves import Override
from simulator.scenarios.precision import Precision, precision_from
from simulator.scenarios.resolving import Compression, resolve_compression, resolve_model, resolve_system
from simulator.spaces.space import Space, is_figure
from workloads.decoder_graph import Logits
from workloads.model_spec import ModelSpec

IndexArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Graphical:
    """Choices that decide which operators there are."""

    kind: str
    flash: bool
    eager: bool
    logits: Logits
    compression: Compression
    fidelity: str
    fallback: bool


@dataclass(slots=True)
class Variants(Generic[T]):
    """Distinct values of one group of keys, made when a row first asks for them.

    ``axes`` are the positions of the axes that touch the group; the code of a row is the mixed-radix number of
    its positions on them.
    """

    space: Space
    owns: Callable[[str], bool]
    make: Callable[[Mapping[str, Any]], T]
    axes: list[int] = field(default_factory=list)
    made: dict[int, T] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.axes = [i for i, axis in enumerate(self.space.axes) if any(self.owns(k) for k in axis.keys)]

    def codes(self, positions: Sequence[IndexArray] | Mapping[int, IndexArray]) -> IndexArray:
        """Code of each row, length one where no axis touches the group."""
        code = np.zeros(1, dtype=np.int64)
        for i in self.axes:
            code = code * len(self.space.axes[i]) + positions[i]
        return code

    def get(self, code: int) -> T:
        """The value of a code; raises what ``make`` raises."""
        if code not in self.made:
            rest, position = code, {}
            for i in reversed(self.axes):
                rest, position[i] = divmod(rest, len(self.space.axes[i]))
            changes = {
                key: values[position[i]]
                for i in self.axes
                for key, values in zip(self.space.axes[i].keys, self.space.axes[i].values, strict=True)
                if self.owns(key)
            }
            self.made[code] = self.make(changes)
        return self.made[code]


def _section(space: Space, name: str, changes: Mapping[str, Any]) -> Any:
    return space.with_changes(changes).get(name)


def _model(space: Space) -> Callable[[Mapping[str, Any]], ModelSpec]:
    return lambda changes: resolve_model(_section(space, "model", changes))


def _precision(space: Space) -> Callable[[Mapping[str, Any]], Precision]:
    def make(changes: Mapping[str, Any]) -> Precision:
        plan = _section(space, "plan", changes) or {}
        training = (_section(space, "task", changes) or {}).get("kind") == "training"
        precision, found = precision_from(
            plan.get("precision", "bf16"), training=training, path="plan.precision"
        )
        if found:
            raise ScenarioError(found)
        return precision

    return make


def _graphical(space: Space) -> Callable[[Mapping[str, Any]], Graphical]:
    def make(changes: Mapping[str, Any]) -> Graphical:
        plan, task = _section(space, "plan", changes) or {}, _section(space, "task", changes) or {}
        return Graphical(
            kind=task["kind"],
            flash=plan.get("attention_kernel", "flash") == "flash",
            eager=plan.get("kernel_fusion", "fused") == "eager",
            logits=task.get("logits", "last"),
            compression=resolve_compression(plan.get("compression", [])),
            fidelity=_section(space, "fidelity", changes) or "calibrated",
            fallback=plan.get("fallback", "forbid") == "allow",
        )

    return make


GRAPHICAL_KEYS = (
    "task.kind",
    "task.logits",
    "plan.attention_kernel",
    "plan.kernel_fusion",
    "plan.compression",
    "plan.fallback",
    "fidelity",
)


@dataclass(slots=True)
class SpaceVariants:
    """All groups of one space."""

    space: Space
    models: Variants[ModelSpec] = field(init=False)
    systems: Variants[SystemSpec] = field(init=False)
    precisions: Variants[Precision] = field(init=False)
    graphicals: Variants[Graphical] = field(init=False)
    figure_axes: dict[str, tuple[int, FloatArray, FloatArray]] = field(init=False)

    def __post_init__(self) -> None:
        space = self.space
        self.models = Variants(space, lambda k: k.split(".")[0] == "model", _model(space))
        self.systems = Variants(
            space,
            lambda k: k.split(".")[0] == "system" and not is_figure(k),
            lambda changes: resolve_system(_section(space, "system", changes)),
        )
        self.precisions = Variants(
            space, lambda k: k.startswith("plan.precision") or k == "task.kind", _precision(space)
        )
        self.graphicals = Variants(space, lambda k: k in GRAPHICAL_KEYS, _graphical(space))
        self.figure_axes = {
            key: (i, *_figure_arrays(key, values))
            for i, axis in enumerate(space.axes)
            for key, values in zip(axis.keys, axis.values, strict=True)
            if is_figure(key)
        }

    def overrides(self, positions: Sequence[IndexArray]) -> dict[str, Override]:
        """Overrides of hardware figures by row."""
        out = {
            key.removeprefix("system."): Override(value=values[positions[i]], factor=factors[positions[i]])
            for key, (i, values, factors) in self.figure_axes.items()
        }
        for key, value in self.space.fixed.items():
            arrays = _figure_arrays(key, [value])
            out[key.removeprefix("system.")] = Override(value=arrays[0], factor=arrays[1])
        return out


def _figure_arrays(key: str, values: Sequence[Any]) -> tuple[FloatArray, FloatArray]:
    """Values and factors of a figure axis, NaN where the other one is given."""
    if isinstance(values, np.ndarray):
        return values.astype(np.float64), np.full(len(values), np.nan)
    dimension = figure_dimension(SystemSpec, key.removeprefix("system."))
    parsed = [parse_override(value, dimension) for value in values]
    number = np.array([float(n) for _, n in parsed])
    is_set = np.array([how == "set" for how, _ in parsed])
    return np.where(is_set, number, np.nan), np.where(is_set, np.nan, number)
