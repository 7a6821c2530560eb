"""From rows of a space to partitions: rows with one structure, and their numbers as columns."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware_specs import SystemSpec
from simulator.blocks import Structure
from simulator.columns import DeviceColumns, FabricColumns, Inputs, PlanColumns, column, take
from simulator.conditions import DEGREES, SIZES, holds
from simulator.device import Fidelity, Machines, as_executed, device_columns
from simulator.fabric import fabric_columns
from simulator.hardware_leaves import HardwareLeaves, Override
from simulator.legality import Combination, first_broken, redundant
from simulator.precision import Precision
from simulator.row_values import RowValues, combined_code, renumbered
from simulator.scenario_columns import (
    TASK_KEYS,
    layer_structure,
    model_columns,
    plan_columns,
    precision_columns,
    task_columns,
)
from simulator.space import Space
from simulator.variants import Graphical, SpaceVariants
from workloads.model_spec import ModelSpec

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]

EXCLUDED_BY_CONDITION, REDUNDANT = -2, -3
# Keys that the blocks of one micro-batch depend on; the other keys act in composition. The number of devices
# decides which groups straddle nodes.
LAYER_PLAN_KEYS = (
    "devices",
    "plan.tensor_parallel",
    "plan.placement",
    "plan.collective_algorithm",
    "plan.sequence_parallel",
    "plan.recompute",
    "plan.overlap_tensor_parallel",
)
MAX_CODE = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """Legal rows of one structure.

    Attributes
    ----------
    rows : ndarray of int
        Row numbers in the space.
    graphical : Graphical
        Task kind, compression and the other structural choices.
    structure : Structure
        Operators.
    inputs : Inputs
        Columns over ``rows`` (or length one).
    output_length : ndarray
        Tokens to generate [1]; 1 but in generation.
    layer_codes : ndarray of int
        Rows with equal codes share their blocks.
    cache_key : hashable or None
        Under which codes are the same for all chunks of the space; None where they hold for this chunk only.
    models, systems, precisions : sequences
        What the rows refer to, with ``system_index`` and ``precision_index``.
    """

    rows: IndexArray
    graphical: Graphical
    structure: Structure
    inputs: Inputs
    output_length: FloatArray
    layer_codes: IndexArray
    cache_key: Hashable | None
    models: Sequence[ModelSpec]
    systems: Sequence[SystemSpec]
    precisions: Sequence[Precision]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """What became of a chunk of rows: partitions of the legal ones, and the broken rule of each other row.

    ``broken`` holds, per row of the chunk, the index of the first legality rule that it breaks, -1 where it is
    legal, ``EXCLUDED_BY_CONDITION`` and ``REDUNDANT`` where it is left out for those reasons.
    """

    partitions: Sequence[Partition]
    broken: NDArray[np.intp]


class Splitter:
    """Splits rows of one space into partitions; catalog entries are resolved once and kept."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.variants = SpaceVariants(space)
        self._last: Combination | None = None
        self._tables: dict[str, FloatArray] = {}

    def combination(self, rows: IndexArray) -> Combination:
        """Columns that legality looked at for the last structure of some rows, for messages."""
        self.split(rows)
        if self._last is None:
            raise IndexError("no rows")
        return self._last

    def split(self, rows: IndexArray) -> Split:
        """Split a chunk of row numbers.

        Parameters
        ----------
        rows : ndarray of int, shape (n,)
            Row numbers of the space.

        Returns
        -------
        Split
            Partitions of the legal rows, and the broken rule of the others.

        Raises
        ------
        ScenarioError, SpecError
            If a value of an axis does not resolve.
        """
        positions = self.space.positions(rows)
        broken = np.full(rows.shape[0], -1, dtype=np.intp)
        partitions = []
        for members in self._structures(positions, rows.shape[0]):
            local = [p[members] for p in positions]
            chunk = RowValues(self.space, rows[members], local, self._tables)
            made, found = self._partition(chunk)
            broken[members] = found
            if made is not None:
                partitions.append(made)
        return Split(partitions=partitions, broken=broken)

    def _structures(self, positions: Sequence[IndexArray], n: int) -> Iterator[IndexArray]:
        """Members of each structure: rows that agree in structural choices and in the model's operators."""
        graphical, model = self.variants.graphicals.codes(positions), self.variants.models.codes(positions)
        key = combined_code([graphical, model], n)
        distinct, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        found: dict[Any, list[int]] = {}
        for number in range(len(distinct)):
            g = int(graphical[first[number] if graphical.shape[0] > 1 else 0])
            m = int(model[first[number] if model.shape[0] > 1 else 0])
            chosen = self.variants.graphicals.get(g)
            found.setdefault((chosen, layer_structure(self.variants.models.get(m), chosen)), []).append(
                number
            )
        for numbers in found.values():
            yield np.flatnonzero(np.isin(inverse, numbers))

    def _partition(self, chunk: RowValues) -> tuple[Partition | None, NDArray[np.intp]]:
        n = chunk.rows.shape[0]
        v = self.variants
        graphical = v.graphicals.get(int(v.graphicals.codes(chunk.positions)[0]))
        model_codes, model_index = renumbered(v.models.codes(chunk.positions))
        system_codes, system_index = renumbered(v.systems.codes(chunk.positions))
        precision_codes, precision_index = renumbered(v.precisions.codes(chunk.positions))
        models = [v.models.get(c) for c in model_codes]
        systems = [v.systems.get(c) for c in system_codes]
        precisions = [v.precisions.get(c) for c in precision_codes]
        task, output = task_columns(chunk, graphical.kind)
        if not models[0].causal:
            task = replace(task, cached_length=np.zeros(1))  # an encoder keeps no keys and values
        plan = plan_columns(chunk, graphical.kind, task.batch)
        machine = self._machine(chunk, graphical, systems, system_index, precisions, precision_index, plan, n)
        device, fabric = machine
        model = model_columns(models, model_index, graphical.compression.layers_kept)
        inference_only = np.array(
            [float(p.inference_only or graphical.compression.inference_only) for p in precisions]
        )[precision_index]
        self._last = combination = Combination(
            model=model,
            task=task,
            plan=plan,
            fabric=fabric,
            supported=device.supported,
            training=column(float(graphical.kind == "training")),
            inference_only=inference_only,
            learned_positions=column(float(models[0].positions == "learned")),
            encoder=column(float(not models[0].causal)),
            generates=column(float(graphical.kind in ("decode", "generation"))),
            eager=column(float(graphical.eager)),
            context_parallel=chunk.number("plan.context_parallel", 1.0),
            expert_parallel=chunk.number("plan.expert_parallel", 1.0),
            uneven_stages=chunk.number("plan.uneven_stages", 0.0),
        )
        found = first_broken(combination, n)
        for condition in self.space.where:
            kept = holds(condition, self._condition_columns(chunk, combination), n)
            found[(found == -1) & ~kept] = EXCLUDED_BY_CONDITION
        if self.space.generated:
            repeats = np.broadcast_to(redundant(combination, self.space.generated), (n,))
            found[(found == -1) & repeats] = REDUNDANT
        legal = np.flatnonzero(found == -1)
        if legal.size == 0:
            return None, found
        # A type without units is replaced by the one that is used in its place, here as everywhere.
        executed = [as_executed(p, s, graphical.fallback) for s in systems for p in precisions]
        executed_index = system_index * len(precisions) + precision_index
        inputs = Inputs(
            model=model,
            task=task,
            plan=plan,
            precision=precision_columns(executed, executed_index),
            device=device,
            fabric=fabric,
        )
        codes, everywhere = self._layer_codes(chunk, graphical.kind, plan, n, eager=graphical.eager)
        structure = Structure(
            layer=layer_structure(models[0], graphical),
            quantised=any(p.quantises for p in executed),
            rewrites=graphical.compression.rewrites,
        )
        return (
            Partition(
                rows=chunk.rows[legal],
                graphical=graphical,
                structure=structure,
                inputs=take(inputs, legal),
                output_length=output if output.shape[0] == 1 else output[legal],
                layer_codes=codes[legal],
                cache_key=(graphical, structure.layer) if everywhere else None,
                models=models,
                systems=systems,
                precisions=precisions,
            ),
            found,
        )

    def _machine(
        self,
        chunk: RowValues,
        graphical: Graphical,
        systems: Sequence[SystemSpec],
        system_index: IndexArray,
        precisions: Sequence[Precision],
        precision_index: IndexArray,
        plan: PlanColumns,
        n: int,
    ) -> tuple[DeviceColumns, FabricColumns]:
        """Device and fabric of every row, evaluated once per distinct combination of what they depend on."""
        depends_on = [system_index, precision_index, *(chunk.positions[i] for i in self._machine_axes())]
        if any(s.scale_up.topology == "torus" for s in systems):
            depends_on.append(plan.devices.astype(np.int64))
        varies = any(part.shape[0] > 1 for part in depends_on)
        code = combined_code(depends_on, n) if varies else np.zeros(1, dtype=np.int64)
        _, first, inverse = np.unique(code, return_index=True, return_inverse=True)

        def pick(values: NDArray[Any]) -> NDArray[Any]:
            return values if values.shape[0] == 1 else values[first]

        overrides = self.variants.overrides(chunk.positions)
        machines = Machines(
            leaves=HardwareLeaves(
                systems=systems,
                index=pick(system_index),
                overrides={
                    k: Override(value=pick(o.value), factor=pick(o.factor)) for k, o in overrides.items()
                },
            ),
            precisions=precisions,
            precision_index=pick(precision_index),
            fallback=graphical.fallback,
            fidelity=_fidelity(graphical.fidelity),
            task="training" if graphical.kind == "training" else "inference",
        )
        # Without a torus the device count changes nothing; one value then keeps the columns short.
        devices = pick(plan.devices) if varies else plan.devices[:1]
        found = device_columns(machines), fabric_columns(machines, devices)
        return (take(found[0], inverse), take(found[1], inverse)) if varies else found

    def _layer_codes(
        self, chunk: RowValues, kind: str, plan: PlanColumns, n: int, *, eager: bool
    ) -> tuple[IndexArray, bool]:
        """A number per row that is equal where blocks are, from positions on the axes that blocks depend on.

        The second value says whether the numbers are the same in all chunks.
        """
        axes = set(self._machine_axes())
        for group in (self.variants.models, self.variants.systems, self.variants.precisions):
            axes.update(group.axes)
        keys = [*(f"task.{k}" for k in TASK_KEYS[kind] if "batch" not in k), *LAYER_PLAN_KEYS]
        if eager:  # whether gradients accumulate depends on the number of micro-batches
            keys += ["task.global_batch_size", "plan.data_parallel", "plan.pipeline_parallel"]
        derived_micro_batch = kind != "training" and np.any(np.isnan(chunk.number("plan.micro_batch_size")))
        axes.update(i for i, axis in enumerate(self.space.axes) if any(k in axis.keys for k in keys))
        if not derived_micro_batch:
            axes.update(i for i, axis in enumerate(self.space.axes) if "plan.micro_batch_size" in axis.keys)
        ordered = sorted(axes)
        size = math.prod(len(self.space.axes[i]) for i in ordered)
        if derived_micro_batch or size >= MAX_CODE:
            return combined_code([*(chunk.positions[i] for i in ordered), plan.micro_batch_size], n), False
        code = np.zeros(n, dtype=np.int64)
        for i in ordered:
            code = code * len(self.space.axes[i]) + chunk.positions[i]
        return code, True

    def _machine_axes(self) -> list[int]:
        return sorted({i for i, _, _ in self.variants.figure_axes.values()})

    def _condition_columns(self, chunk: RowValues, c: Combination) -> dict[str, Any]:
        """Numeric inputs by dotted key, and the derived degrees by their own names."""
        out: dict[str, Any] = {}
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


def _fidelity(name: str) -> Fidelity:
    if name == "bound":
        return "bound"
    return "datasheet" if name == "datasheet" else "calibrated"
