"""From rows of a space to partitions: rows with one structure, and their numbers as columns."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardware_specs import SystemSpec
from simulator.arrays.axis_tables import Factor, Rows
from simulator.arrays.columns import Inputs
from simulator.arrays.shared_columns import dense
from simulator.legality.registry import Combination, first_broken, redundant
from simulator.machines.device import as_executed
from simulator.per_device.structure import Structure
from simulator.scenarios.precision import Precision
from simulator.spaces.row_columns import ColumnMaker, StructuralChoice
from simulator.spaces.scenario_columns import TASK_KEYS
from simulator.spaces.space import Space
from simulator.spaces.variants import Graphical
from workloads.model_spec import ModelSpec

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]

EXCLUDED_BY_CONDITION, REDUNDANT = -2, -3
# Keys that the blocks of one micro-batch depend on; the other keys act in composition. The number of devices
# decides which groups straddle nodes.
LAYER_PLAN_KEYS = (
    "devices",
    "plan.tensor_parallel",
    "plan.context_parallel",
    "plan.context_parallel_kind",
    "plan.context_zigzag",
    "plan.expert_parallel",
    "plan.expert_tensor_parallel",
    "plan.expert_imbalance",
    "plan.expert_capacity",
    "plan.expert_padding",
    "plan.expert_dispatch",
    "plan.expert_node_limit",
    "plan.placement",
    "plan.collective_algorithm",
    "plan.sequence_parallel",
    "plan.recompute",
    "plan.recompute_keeps",
    "plan.recompute_modules",
    "plan.overlap_tensor_parallel",
    "plan.tensor_parallel_split",
    "plan.tensor_parallel_chunks",
    "plan.overlap_expert_parallel",
    "plan.overlap_shared_experts",
    "plan.recompute_layers",
    "plan.optimizer",
)
MAX_CODE = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKey:
    """What the blocks of some rows depend on.

    Attributes
    ----------
    axes : tuple of int
        Axes of the space, and the derived one of micro-batches where there is one.
    cache_key : hashable or None
        Under which codes are the same for all chunks of the space; None where they outgrow 64 bits.
    """

    axes: tuple[int, ...]
    cache_key: Hashable | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """Legal rows of one structure.

    Attributes
    ----------
    numbers : ndarray of int
        Row numbers in the space.
    rows : Rows
        Their positions on the axes.
    choice : StructuralChoice
        What ``graphical`` and ``structure`` came from.
    graphical : Graphical
        Task kind, compression and the other structural choices.
    structure : Structure
        Operators.
    inputs : Inputs
        Columns over ``rows`` (or of length one).
    output_length : ndarray
        Tokens to generate [1]; 1 but in generation.
    layer_key : LayerKey
        Rows that agree there share their blocks.
    models, systems, precisions : sequences
        What the rows refer to.
    """

    numbers: IndexArray
    rows: Rows
    choice: StructuralChoice
    graphical: Graphical
    structure: Structure
    inputs: Inputs
    output_length: FloatArray
    layer_key: LayerKey
    models: Sequence[ModelSpec]
    systems: Sequence[SystemSpec]
    precisions: Sequence[Precision]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """What became of some rows: partitions of the legal ones, and the broken rule of each other row.

    ``broken`` holds, per row, the index of the first legality rule that it breaks, -1 where it is
    legal, ``EXCLUDED_BY_CONDITION`` and ``REDUNDANT`` where it is left out for those reasons.
    """

    partitions: Sequence[Partition]
    broken: NDArray[np.intp]


class Splitter:
    """Splits rows of one space into partitions; catalog entries are resolved once and kept."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.maker = ColumnMaker(space)
        self.variants = self.maker.variants
        self._last: Combination | None = None

    def combination(self, numbers: IndexArray) -> Combination:
        """Columns that legality looked at for the last structure of some rows, for messages."""
        self.split(numbers)
        if self._last is None:
            raise IndexError("no rows")
        return self._last

    def split(self, numbers: IndexArray) -> Split:
        """Split row numbers of the space.

        Parameters
        ----------
        numbers : ndarray of int, shape (n,)
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
        positions = self.space.positions(numbers)
        broken = np.full(numbers.shape[0], -1, dtype=np.intp)
        partitions = []
        for choice, members in self.maker.structures_of(positions, numbers.shape[0]):
            local = [p[members] for p in positions]
            found = self._broken(choice, self.maker.rows([Factor(range(len(local)), local)], len(members)))
            broken[members] = found
            legal = np.flatnonzero(found == -1)
            if legal.size:
                whole = Factor(range(len(local)), [p[legal] for p in local])
                partitions.append(self.partition(choice, numbers[members[legal]], [whole]))
        return Split(partitions=partitions, broken=broken)

    def _broken(self, choice: StructuralChoice, rows: Rows) -> NDArray[np.intp]:
        self._last = combination = self.maker.combination(choice, rows)
        found = first_broken(combination, rows.n)
        for number in range(len(self.space.where)):
            kept = dense(self.maker.condition(number, rows, combination))
            found[(found == -1) & ~np.broadcast_to(kept, (rows.n,))] = EXCLUDED_BY_CONDITION
        if self.space.generated:
            repeats = np.broadcast_to(dense(redundant(combination, self.space.generated)), (rows.n,))
            found[(found == -1) & repeats] = REDUNDANT
        return found

    def partition(
        self, choice: StructuralChoice, numbers: IndexArray, factors: Sequence[Factor]
    ) -> Partition:
        """The partition of legal rows of one structure, by row number and by position on the axes; raises nothing."""
        maker = self.maker
        rows = maker.rows(factors, len(numbers))
        derived = maker.derive_micro_batch(choice, rows)
        inputs, output, used = maker.inputs(choice, rows, derived)
        executed = [
            as_executed(p, s, choice.graphical.fallback) for s in used.systems for p in used.precisions
        ]
        structure = Structure(
            layer=choice.layer,
            quantised=any(p.quantises for p in executed),
            rewrites=choice.graphical.compression.rewrites,
        )
        axes = self._layer_axes(choice, derived)
        size = 1
        for axis in axes:
            size *= rows.lengths[axis]
        key = (choice.graphical, structure.layer, structure.quantised) if size < MAX_CODE else None
        return Partition(
            numbers=numbers,
            rows=rows,
            choice=choice,
            graphical=choice.graphical,
            structure=structure,
            inputs=inputs,
            output_length=output,
            layer_key=LayerKey(axes=axes, cache_key=key),
            models=used.models,
            systems=used.systems,
            precisions=used.precisions,
        )

    def restricted(self, partition: Partition, rows: IndexArray) -> Partition:
        """The partition of some of a partition's rows, by their places in it; raises nothing."""
        own = [f for f in partition.rows.factors if max(f.axes, default=0) < len(self.space.axes)]
        factors = [f.restricted(rows) for f in own]
        return self.partition(partition.choice, partition.numbers[rows], factors)

    def _layer_axes(self, choice: StructuralChoice, derived: int | None) -> tuple[int, ...]:
        """Axes that blocks depend on, those of the hardware included."""
        kind = choice.graphical.kind
        axes = {i for i, _, _ in self.variants.figure_axes.values()}
        for group in (self.variants.models, self.variants.systems, self.variants.precisions):
            axes.update(group.axes)
        keys = [*(f"task.{k}" for k in TASK_KEYS[kind] if "batch" not in k), *LAYER_PLAN_KEYS]
        if choice.graphical.eager:  # whether gradients accumulate depends on the number of micro-batches
            keys += ["task.global_batch_size", "plan.data_parallel", "plan.pipeline_parallel"]
        if self.maker.recomputes_some():  # of a stage's layers
            keys.append("plan.pipeline_parallel")
        if not self.maker.layers_innermost():  # its neighbours are then as far apart as other degrees say
            keys += ["plan.data_parallel", "plan.pipeline_parallel"]
        if derived is None:
            keys.append("plan.micro_batch_size")
        else:
            axes.add(derived)
        axes.update(i for i, axis in enumerate(self.space.axes) if any(k in axis.keys for k in keys))
        return tuple(sorted(axes))
