"""From positions on the axes of a space to the columns that the engine computes with, each on the axes it needs.

Legality asks for columns while rows are still being put together: what depends on an axis that is not chosen yet is an
unknown column.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import simulator.legality.all_rules  # noqa: F401  registers the rules
from hardware_specs import SystemSpec
from hardware_specs.fabric_rules import GRIDS
from simulator.arrays.axis_tables import Factor, Level, Rows, UndecidedError
from simulator.arrays.columns import (
    DeviceColumns,
    FabricColumns,
    Inputs,
    ModelColumns,
    PlanColumns,
    TaskColumns,
    TierColumns,
    column,
)
from simulator.arrays.narrowed_columns import narrowed, needed_axes
from simulator.arrays.shared_columns import column_of, columns_of, dense, unknown_column
from simulator.legality.registry import Combination
from simulator.machines.device import Fidelity, Machines, as_executed, device_columns
from simulator.machines.fabric import fabric_columns
from simulator.machines.hardware_leaves import HardwareLeaves, Override
from simulator.per_device.optimizers import with_optimizer
from simulator.scenarios.precision import Precision
from simulator.scenarios.scenario import AXES
from simulator.spaces.conditions import DEGREES, SIZES, holds
from simulator.spaces.row_values import RowValues, renumbered
from simulator.spaces.scenario_columns import (
    layer_structure,
    model_columns,
    plan_columns,
    precision_columns,
    task_columns,
)
from simulator.spaces.space import Space
from simulator.spaces.variants import Graphical, SpaceVariants, Variants
from workloads.decoder_graph import LayerStructure
from workloads.model_spec import ModelSpec

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]
T = TypeVar("T")
# Machines of the last few chunks: most sweeps have the same ones in all.
MACHINES_KEPT = 8
KEPT_ROWS = 4096
MICRO_BATCH = "plan.micro_batch_size"


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuralChoice:
    """What decides which operators there are: one choice per partition."""

    graphical: Graphical
    layer: LayerStructure


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """Catalog entries that some rows refer to."""

    models: Sequence[ModelSpec]
    systems: Sequence[SystemSpec]
    precisions: Sequence[Precision]


class ColumnMaker:
    """Makes columns for rows of one space; what was resolved once is kept."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.variants = SpaceVariants(space)
        self._tables: dict[str, FloatArray] = {}
        self._machines: OrderedDict[Any, Any] = OrderedDict()
        self._lengths = [len(axis) for axis in space.axes]
        self._structures: dict[tuple[int, int], StructuralChoice] = {}

    def rows(self, factors: Sequence[Factor], n: int) -> Rows:
        """Rows of the space; axes that no factor has are not chosen yet."""
        return Rows(self._lengths, factors, n)

    def structure(self, graphical_code: int, model_code: int) -> StructuralChoice:
        """The structure of one combination of structural choices and model; raises what resolving raises."""
        key = (graphical_code, model_code)
        if key not in self._structures:
            graphical = self.variants.graphicals.get(graphical_code)
            layer = layer_structure(self.variants.models.get(model_code), graphical)
            self._structures[key] = StructuralChoice(graphical=graphical, layer=layer)
        return self._structures[key]

    def structures_of(
        self, positions: Sequence[IndexArray], n: int
    ) -> Iterator[tuple[StructuralChoice, IndexArray]]:
        """Structures among some rows, and the rows that have each; raises what resolving raises."""
        v = self.variants
        graphical, model = v.graphicals.codes(positions), v.models.codes(positions)
        radix = int(model.max()) + 1 if n else 1
        code = np.broadcast_to(graphical * radix + model, (n,))
        distinct, inverse = np.unique(code, return_inverse=True)
        found: dict[StructuralChoice, list[int]] = {}
        for number, one in enumerate(distinct):
            found.setdefault(self.structure(*divmod(int(one), radix)), []).append(number)
        for choice, numbers in found.items():
            yield choice, np.flatnonzero(np.isin(inverse, numbers))

    def _values(self, rows: Rows) -> RowValues:
        return RowValues(self.space, rows, self._tables)

    def _chosen(
        self, rows: Rows, group: Variants[T], within: int | None = None
    ) -> tuple[int, list[T], IndexArray]:
        """Mask, distinct values, and the index of each combination; on the axes of ``within`` where given."""
        mask, codes = rows.codes(group.axes, within)
        distinct, index = renumbered(codes)
        return mask, [group.get(code) for code in distinct], index

    def _model(self, choice: StructuralChoice, rows: Rows) -> tuple[ModelColumns, FloatArray]:
        """Sizes of the models, and 1 where positions are learned."""
        try:
            mask, models, index = self._chosen(rows, self.variants.models)
        except UndecidedError:
            unknown = _unknown(rows, self.variants.models.axes)
            return ModelColumns(**{f.name: unknown for f in fields(ModelColumns)}), unknown
        learned = np.array([float(m.positions == "learned") for m in models])[index]
        made = model_columns(models, index, choice.graphical.compression.layers_kept)
        return columns_of(rows, mask, made), column_of(rows, mask, learned)

    def _inference_only(self, choice: StructuralChoice, rows: Rows) -> FloatArray:
        try:
            mask, precisions, index = self._chosen(rows, self.variants.precisions)
        except UndecidedError:
            return _unknown(rows, self.variants.precisions.axes)
        by_compression = choice.graphical.compression.inference_only
        flags = np.array([float(p.inference_only or by_compression) for p in precisions])[index]
        found: FloatArray = column_of(rows, mask, flags)
        return found

    def combination(self, choice: StructuralChoice, rows: Rows) -> Combination:
        """Columns that legality looks at; raises what resolving raises."""
        chunk, kind = self._values(rows), choice.graphical.kind
        model, learned = self._model(choice, rows)
        task, _ = _task(chunk, choice)
        device = self._device(choice, rows)
        return Combination(
            model=model,
            task=task,
            plan=plan_columns(chunk, kind, task.batch),
            fabric=self._fabric(choice, rows),
            supported=device.supported,
            stores={
                "host": 1.0 - np.isnan(device.host_link_bytes_per_s),
                "nvme": 1.0 - np.isnan(device.nvme_link_bytes_per_s),
                "host_update": 1.0 - np.isnan(device.host_memory_bytes_per_s + device.host_vector_flop_per_s),
            },
            training=column(float(kind == "training")),
            encoder=column(float(not choice.layer.causal)),
            generates=column(float(kind in ("decode", "generation"))),
            eager=column(float(choice.graphical.eager)),
            inference_only=self._inference_only(choice, rows),
            learned_positions=learned,
            unfused=column(float(not choice.graphical.flash)),
            uneven_stages=chunk.number("plan.uneven_stages", 0.0),
            gated=column(float(choice.layer.gated_mlp)),
        )

    def recomputes_some(self) -> bool:
        """Whether any row of the space recomputes some layers only; raises nothing."""
        given, _ = self._values(self.rows([], 0)).raw("plan.recompute_layers")
        return any(n is not None for n in given)

    def layers_innermost(self) -> bool:
        """Whether tensor and context ranks are next to each other in every row of the space; raises nothing."""
        orders, _ = self._values(self.rows([], 0)).raw("plan.placement", " ".join(AXES))
        return all({*order.replace(",", " ").split()[:2]} == {*AXES[:2]} for order in orders)

    def condition(self, number: int, rows: Rows, combination: Combination) -> Any:
        """Where a condition of the sweep holds, as a column; ScenarioError if it names something that is no column."""
        return holds(self.space.where[number], self._condition_columns(rows, combination))

    def derive_micro_batch(self, choice: StructuralChoice, rows: Rows) -> int | None:
        """Add the axis of micro-batches that follow from the batch (inference); its number, or None.

        Plans with equal micro-batches share their layers, however batch and degrees came to them.
        """
        chunk = self._values(rows)
        given = chunk.number(MICRO_BATCH)
        if choice.graphical.kind == "training" or not np.any(np.isnan(given)):
            return None
        task, _ = task_columns(chunk, choice.graphical.kind)
        size = dense(plan_columns(chunk, choice.graphical.kind, task.batch).micro_batch_size)
        # Legality keeps micro-batches whole. The length must be the same in all chunks of the space.
        where = np.broadcast_to(size, (rows.n,)).astype(np.int64)
        largest = np.nanmax([1.0, *self._tables["task.batch_size"], *self._tables[MICRO_BATCH]])
        return rows.add_axis(int(largest) + 1, where)

    def inputs(
        self, choice: StructuralChoice, rows: Rows, derived: int | None
    ) -> tuple[Inputs, FloatArray, Used]:
        """Columns of legal rows, tokens to generate [1], and the entries that the rows refer to.

        ``derived`` is the axis of micro-batches that follow from others, or None. Raises nothing.
        """
        chunk, kind, v = self._values(rows), choice.graphical.kind, self.variants
        task, output = _task(chunk, choice)
        plan = plan_columns(chunk, kind, task.batch)
        if derived is not None:
            sizes = rows.occurring[derived].astype(np.float64)
            plan = replace(plan, micro_batch_size=column_of(rows, 1 << derived, sizes))
        elif kind != "training":
            plan = replace(plan, micro_batch_size=chunk.number(MICRO_BATCH))
        mask = rows.mask([*v.systems.axes, *v.precisions.axes])
        _, systems, system_index = self._chosen(rows, v.systems, mask)
        _, precisions, precision_index = self._chosen(rows, v.precisions, mask)
        # A type without units is replaced by the one that is used in its place, here as everywhere.
        executed = [as_executed(p, s, choice.graphical.fallback) for s in systems for p in precisions]
        both = system_index * len(precisions) + precision_index
        model = self._model(choice, rows)[0]
        precision = columns_of(rows, mask, precision_columns(executed, both))
        plan = _recomputing_some(plan, model.n_layers)
        inputs = Inputs(
            model=model,
            task=task,
            plan=plan,
            precision=with_optimizer(precision, plan.optimizer, model.hidden),
            device=self._device(choice, rows),
            fabric=self._fabric(choice, rows),
        )
        _, models, _ = self._chosen(rows, v.models)
        return inputs, output, Used(models=models, systems=systems, precisions=precisions)

    def _machine_axes(self) -> list[int]:
        return sorted({*self.variants.systems.axes, *(i for i, _, _ in self.variants.figure_axes.values())})

    def _device(self, choice: StructuralChoice, rows: Rows) -> DeviceColumns:
        axes = sorted({*self._machine_axes(), *self.variants.precisions.axes})
        if rows.mask(axes) & rows.unknown:
            unknown = _unknown(rows, axes)
            tables = [f.name for f in fields(DeviceColumns) if "Mapping" in str(f.type)]
            names = [f.name for f in fields(DeviceColumns) if f.name not in tables]
            made: dict[str, Any] = {**dict.fromkeys(names, unknown), **{name: {} for name in tables}}
            return DeviceColumns(**made)
        return self._made("device", choice, rows, axes, lambda machines, _: device_columns(machines))

    def _fabric(self, choice: StructuralChoice, rows: Rows) -> FabricColumns:
        axes = self._machine_axes()
        if rows.mask(axes) & rows.unknown:
            return _unknown_fabric(_unknown(rows, axes))
        _, systems, _ = self._chosen(rows, self.variants.systems)
        sliced = any(s.scale_up.topology in GRIDS for s in systems)
        if sliced:
            # The slice of a torus or mesh follows from the devices.
            _, axis = self._values(rows).raw("devices")
            axes = sorted({*axes, *([] if axis is None else [axis])})
            if rows.mask(axes) & rows.unknown:
                return _unknown_fabric(_unknown(rows, axes))
        devices = self._values(rows).number("devices")

        def make(machines: Machines, level: Level | None) -> FabricColumns:
            # Without slices the device count changes nothing; one value then keeps the columns short.
            here = devices if sliced else np.ones(1)
            return fabric_columns(machines, here if level is None else _at(here, level))

        return self._made("fabric", choice, rows, axes, make)

    def _made(
        self,
        what: str,
        choice: StructuralChoice,
        rows: Rows,
        axes: Sequence[int],
        make: Callable[[Machines, Level | None], T],
    ) -> T:
        """Columns of machines, evaluated once per distinct combination of what they depend on, and kept."""
        mask = rows.mask(axes)
        level = rows.level(mask) if mask else None
        positions = {i: rows.on_axis(i, level) for i in axes}
        key = (what, choice.graphical, *(p.tobytes() for p in positions.values()))
        if key in self._machines:
            found, needed = self._machines[key]
        else:
            found, needed = make(self._machines_at(choice, rows, mask, positions, what), level), {}
            if level is not None and level.n <= KEPT_ROWS:
                needed = needed_axes(found, positions)
            if level is None or level.n <= KEPT_ROWS:
                self._machines[key] = found, needed
            if len(self._machines) > MACHINES_KEPT:
                self._machines.popitem(last=False)
        if not needed or level is None:
            return columns_of(rows, mask, found)
        return narrowed(rows, level, found, needed)

    def _machines_at(
        self, choice: StructuralChoice, rows: Rows, mask: int, positions: dict[int, IndexArray], what: str
    ) -> Machines:
        v, graphical = self.variants, choice.graphical
        _, systems, system_index = self._chosen(rows, v.systems, mask)
        precisions: list[Precision] = []
        precision_index = np.zeros(1, dtype=np.int64)
        if what == "device":
            _, precisions, precision_index = self._chosen(rows, v.precisions, mask)
        overrides = v.overrides([positions.get(i, np.zeros(1, np.int64)) for i in range(len(self._lengths))])
        return Machines(
            leaves=HardwareLeaves(
                systems=systems,
                index=system_index,
                overrides={k: Override(value=o.value, factor=o.factor) for k, o in overrides.items()},
            ),
            precisions=precisions,
            precision_index=precision_index,
            fallback=graphical.fallback,
            fidelity=_fidelity(graphical.fidelity),
            task="training" if graphical.kind == "training" else "inference",
            eager=graphical.eager,
        )

    def _condition_columns(self, rows: Rows, c: Combination) -> dict[str, Any]:
        """Numeric inputs by dotted key, and the derived degrees by their own names."""
        out: dict[str, Any] = {}
        chunk = self._values(rows)
        for axis in self.space.axes:
            for key, values in zip(axis.keys, axis.values, strict=True):
                # Quantities and factors of figures are text, which has no place in arithmetic.
                if isinstance(values, np.ndarray) or all(
                    isinstance(v, (int, float, np.number)) for v in values
                ):
                    out[key] = chunk.number(key)
        for name in DEGREES:
            out[f"plan.{name}"] = out[name] = getattr(c.plan, name)
        out["devices"] = c.plan.devices
        out["micro_batches"] = c.task.batch / c.plan.data_parallel / c.plan.micro_batch_size
        for name in SIZES:
            out[f"model.{name}"] = getattr(c.model, name)
        return out


def _task(chunk: RowValues, choice: StructuralChoice) -> tuple[TaskColumns, FloatArray]:
    """What a step processes, and tokens to generate [1]; an encoder keeps no keys and values."""
    task, output = task_columns(chunk, choice.graphical.kind)
    return (task if choice.layer.causal else replace(task, cached_length=np.zeros(1))), output


def _recomputing_some(plan: PlanColumns, n_layers: FloatArray) -> PlanColumns:
    """The plan with its recompute switches as the share of a stage's layers that recompute [1]."""
    given = plan.recompute_layers
    if not np.any(given == given):
        return plan
    of_stage = n_layers / plan.pipeline_parallel
    share = np.where(np.isnan(given), 1.0, np.minimum(np.nan_to_num(given) / of_stage, 1.0))
    return replace(
        plan,
        recompute_core=plan.recompute_core * share,
        recompute_all=plan.recompute_all * share,
        recompute_share=share,
    )


def _at(values: Any, level: Level) -> Any:
    return values if isinstance(values, np.ndarray) else values.at(level)


def _unknown(rows: Rows, axes: Sequence[int]) -> Any:
    return unknown_column(rows, rows.mask(axes))


def _unknown_fabric(unknown: Any) -> FabricColumns:
    names = [f.name for f in fields(TierColumns) if f.name not in ("algorithms", "wired")]
    tier = TierColumns(**dict.fromkeys(names, unknown), algorithms={}, wired={})
    return FabricColumns(accelerators_per_node=unknown, max_devices=unknown, inner=tier, outer=tier)


def _fidelity(name: str) -> Fidelity:
    if name == "bound":
        return "bound"
    return "datasheet" if name == "datasheet" else "calibrated"
