"""From rows of a space to partitions: rows with one structure, and their numbers as columns."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware_specs import SystemSpec
from simulator.blocks import Structure
from simulator.columns import (
    Inputs,
    ModelColumns,
    PlanColumns,
    PrecisionColumns,
    TaskColumns,
    column,
    n_rows,
    take,
)
from simulator.conditions import holds
from simulator.device import Fidelity, Machines, device_columns, fabric_columns
from simulator.hardware_leaves import HardwareLeaves, Override
from simulator.legality import Combination, first_broken, redundant
from simulator.precision import DTYPE_BYTES, Precision, operand_dtypes
from simulator.scenario import Plan
from simulator.space import Space
from simulator.variants import Graphical, SpaceVariants
from workloads.decoder_graph import LayerStructure, Pass
from workloads.model_spec import ModelSpec

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]

TASK_KEYS = {
    "training": ("sequence_length", "global_batch_size"),
    "prefill": ("prompt_length", "batch_size"),
    "decode": ("context_length", "batch_size"),
    "generation": ("prompt_length", "batch_size", "output_length"),
}
EXCLUDED_BY_CONDITION, REDUNDANT = -2, -3
# Plan keys that the blocks of one micro-batch depend on; the other keys act in composition.
LAYER_PLAN_KEYS = (
    "plan.tensor_parallel",
    "plan.sequence_parallel",
    "plan.recompute",
    "plan.overlap_tensor_parallel",
)
MAX_CODE = 2**62
RECOMPUTE = {"none": (0.0, 0.0), "selective": (1.0, 0.0), "full": (1.0, 1.0)}


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


def layer_structure(model: ModelSpec, graphical: Graphical) -> LayerStructure:
    """Operators of a model's layers under the structural choices; generation starts as its prefill."""
    computation: Pass = (
        "training" if graphical.kind == "training" else "decode" if graphical.kind == "decode" else "prefill"
    )
    return LayerStructure(
        gated_mlp=model.gated_mlp,
        layer_norm=model.norm == "layer",
        qk_norm=model.qk_norm,
        rotary=model.positions == "rotary",
        learned_positions=model.positions == "learned",
        embedding_norm=model.embedding_norm,
        dropout=model.dropout > 0 and computation == "training",
        tied=model.tied_embeddings,
        qkv_bias=model.qkv_bias,
        attention_out_bias=model.attention_out_bias,
        mlp_bias=model.mlp_bias,
        norm_bias=model.norm_bias,
        head_bias=model.head_bias,
        flash_attention=graphical.flash,
        computation=computation,
    )


def model_columns(models: Sequence[ModelSpec], index: IndexArray, layers_kept: float) -> ModelColumns:
    """Sizes of the models that rows refer to; dropped layers are rounded to the nearest whole one."""

    def spread(name: str) -> FloatArray:
        return np.array([float(getattr(m, name)) for m in models])[index]

    window = np.array([np.inf if m.sliding_window is None else float(m.sliding_window) for m in models])[
        index
    ]
    return ModelColumns(
        n_layers=np.maximum(np.round(spread("n_layers") * layers_kept), 1.0),
        hidden=spread("hidden"),
        ffn=spread("ffn"),
        vocab=spread("vocab"),
        positions=spread("position_rows"),
        heads=spread("heads"),
        kv_heads=spread("kv_heads"),
        head_dim=spread("head_dim"),
        window=window,
    )


def precision_columns(precisions: Sequence[Precision], index: IndexArray) -> PrecisionColumns:
    """Bytes per element by class for the precisions that rows refer to."""

    def spread(values: list[float]) -> FloatArray:
        return np.array(values)[index]

    def width(name: str) -> FloatArray:
        return spread([DTYPE_BYTES[getattr(p, name)] for p in precisions])

    operands = [operand_dtypes(p) for p in precisions]
    return PrecisionColumns(
        weights=width("weights"),
        weights_operand=spread([w for _, w in operands]),
        activations=width("activations"),
        operand=spread([a for a, _ in operands]),
        kv_cache=width("kv_cache"),
        gradients=width("gradients"),
        optimizer=spread([p.optimizer_bytes for p in precisions]),
        gradient_communication=width("communication"),
        activation_communication=width("activations"),
        quantised=spread([float(p.quantises) for p in precisions]),
    )


@dataclass(slots=True)
class _Chunk:
    """Rows of a chunk and how to read a key of them."""

    space: Space
    rows: IndexArray
    positions: list[IndexArray]
    _where: dict[str, tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        self._where = {
            key: (i, k) for i, axis in enumerate(self.space.axes) for k, key in enumerate(axis.keys)
        }

    def raw(self, key: str, default: Any = None) -> tuple[list[Any], IndexArray | None]:
        """Distinct values of a key and the index of each row into them (None: one value for all)."""
        if key in self._where:
            i, k = self._where[key]
            return list(self.space.axes[i].values[k]), self.positions[i]
        here: Any = self.space.base
        for part in key.split("."):
            here = here.get(part) if isinstance(here, Mapping) else None
        return [default if here is None else here], None

    def number(self, key: str, default: float = np.nan) -> FloatArray:
        """A numeric key by row; booleans are 0 and 1, absent ones NaN or the default."""
        values, index = self.raw(key, default)
        table = column([default if v is None else float(v) for v in values])
        return table if index is None else table[index]


def _pair(
    chunk: _Chunk, table: Mapping[str, tuple[float, float]], key: str, default: str
) -> tuple[FloatArray, FloatArray]:
    values, index = chunk.raw(key, default)
    both = np.array([table[v] for v in values]).T
    return (both[0], both[1]) if index is None else (both[0][index], both[1][index])


def _task_columns(chunk: _Chunk, kind: str) -> tuple[TaskColumns, FloatArray]:
    length, batch = (chunk.number(f"task.{k}") for k in TASK_KEYS[kind][:2])
    output = chunk.number("task.output_length", 1.0) if kind == "generation" else np.ones(1)
    if kind == "decode":
        return TaskColumns(
            batch=batch, query_length=np.ones(1), kv_length=length + 1.0, cached_length=length + 1.0
        ), output
    # The last generated token is never read back, so it needs no place in the cache.
    cached = length + output - 1.0 if kind == "generation" else length
    return TaskColumns(batch=batch, query_length=length, kv_length=length, cached_length=cached), output


def _plan_columns(chunk: _Chunk, kind: str, batch: FloatArray) -> PlanColumns:
    def plan(key: str) -> FloatArray:
        default = Plan.model_fields[key].default
        return chunk.number(f"plan.{key}", np.nan if default is None else float(default))

    devices = chunk.number("devices")
    tensor, pipeline, given = plan("tensor_parallel"), plan("pipeline_parallel"), plan("data_parallel")
    data = np.where(np.isnan(given), devices / (tensor * pipeline), given)
    micro = plan("micro_batch_size")
    core, everything = _pair(chunk, RECOMPUTE, "plan.recompute", "none")
    return PlanColumns(
        devices=devices,
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        virtual_pipeline=plan("virtual_pipeline"),
        data_parallel=data,
        micro_batch_size=np.where(
            np.isnan(micro), 1.0 if kind == "training" else np.maximum(batch / data, 1.0), micro
        ),
        zero_stage=plan("zero_stage"),
        sequence_parallel=plan("sequence_parallel"),
        recompute_core=core,
        recompute_all=everything,
        overlap_grad_reduce=plan("overlap_grad_reduce"),
        overlap_param_gather=plan("overlap_param_gather"),
        overlap_tensor_parallel=plan("overlap_tensor_parallel"),
        overlap_pipeline_p2p=plan("overlap_pipeline_p2p"),
    )


def combined_code(parts: Sequence[FloatArray | IndexArray], n: int) -> IndexArray:
    """One whole number per row that is equal exactly where all parts are equal.

    Parts of length one do not vary and are left out. Raises nothing: codes that outgrow 64 bits are renumbered.
    """
    code, size = np.zeros(n, dtype=np.int64), 1
    for part in parts:
        if part.shape[0] == 1:
            continue
        values = part
        small = np.issubdtype(values.dtype, np.integer) or bool(np.all(values == np.floor(values)))
        top = int(np.max(values)) + 1 if values.size and small else 0
        if not small or np.min(values) < 0 or top > 2**20:
            _, inverse = np.unique(values, return_inverse=True)
            values, top = inverse, int(inverse.max()) + 1
        if size * top >= 2**62:
            _, code = np.unique(code, return_inverse=True)
            size = int(code.max()) + 1
        code, size = code * top + values.astype(np.int64), size * top
    return code


def _renumbered(codes: IndexArray) -> tuple[list[int], IndexArray]:
    """Distinct codes and each row's index into them."""
    if codes.shape[0] == 1:
        return [int(codes[0])], np.zeros(1, dtype=np.int64)
    distinct, inverse = np.unique(codes, return_inverse=True)
    return [int(c) for c in distinct], inverse.astype(np.int64)


class Splitter:
    """Splits rows of one space into partitions; catalog entries are resolved once and kept."""

    def __init__(self, space: Space, *, redundant: bool = True) -> None:
        self.space = space
        self.redundant = redundant
        self.variants = SpaceVariants(space)
        self._last: Combination | None = None

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
            chunk = _Chunk(self.space, rows[members], local)
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
            found.setdefault((g, layer_structure(self.variants.models.get(m), chosen)), []).append(number)
        for numbers in found.values():
            yield np.flatnonzero(np.isin(inverse, numbers))

    def _overrides(self, chunk: _Chunk) -> dict[str, Override]:
        return self.variants.overrides(chunk.positions)

    def _partition(self, chunk: _Chunk) -> tuple[Partition | None, NDArray[np.intp]]:
        n = chunk.rows.shape[0]
        v = self.variants
        graphical = v.graphicals.get(int(v.graphicals.codes(chunk.positions)[0]))
        model_codes, model_index = _renumbered(v.models.codes(chunk.positions))
        system_codes, system_index = _renumbered(v.systems.codes(chunk.positions))
        precision_codes, precision_index = _renumbered(v.precisions.codes(chunk.positions))
        models = [v.models.get(c) for c in model_codes]
        systems = [v.systems.get(c) for c in system_codes]
        precisions = [v.precisions.get(c) for c in precision_codes]
        task, output = _task_columns(chunk, graphical.kind)
        plan = _plan_columns(chunk, graphical.kind, task.batch)
        overrides = self._overrides(chunk)
        # Machines are evaluated once per distinct combination of what they depend on.
        machine_parts = [system_index, precision_index, *(chunk.positions[i] for i in self._machine_axes())]
        if any(s.scale_up.topology == "torus" for s in systems):
            machine_parts.append(plan.devices.astype(np.int64))
        machine_code = (
            combined_code(machine_parts, n)
            if any(p.shape[0] > 1 for p in machine_parts)
            else np.zeros(1, dtype=np.int64)
        )
        _, machine_first, machine_index = np.unique(machine_code, return_index=True, return_inverse=True)

        def pick(values: NDArray[Any]) -> NDArray[Any]:
            return values if values.shape[0] == 1 else values[machine_first]

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
        device, fabric = device_columns(machines), fabric_columns(machines, pick(plan.devices))
        if machine_index.shape[0] > 1 and len(machine_first) > 1:
            device, fabric = take(device, machine_index), take(fabric, machine_index)
        elif len(machine_first) == 1 and max(n_rows(device), n_rows(fabric)) > 1:
            device, fabric = (
                take(device, np.zeros(1, dtype=np.intp)),
                take(fabric, np.zeros(1, dtype=np.intp)),
            )
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
            context_parallel=chunk.number("plan.context_parallel", 1.0),
            expert_parallel=chunk.number("plan.expert_parallel", 1.0),
            uneven_stages=chunk.number("plan.uneven_stages", 0.0),
        )
        found = first_broken(combination, n)
        for condition in self.space.where:
            kept = holds(condition, self._condition_columns(chunk, combination), n)
            found[(found == -1) & ~kept] = EXCLUDED_BY_CONDITION
        if not self.redundant:
            found[(found == -1) & np.broadcast_to(redundant(combination), (n,))] = REDUNDANT
        legal = np.flatnonzero(found == -1)
        if legal.size == 0:
            return None, found
        inputs = Inputs(
            model=model,
            task=task,
            plan=plan,
            precision=precision_columns(precisions, precision_index),
            device=device,
            fabric=fabric,
        )
        codes, everywhere = self._layer_codes(chunk, graphical.kind, plan, systems, n)
        structure = Structure(
            layer=layer_structure(models[0], graphical),
            quantised=any(p.quantises for p in precisions),
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
                cache_key=(int(v.graphicals.codes(chunk.positions)[0]), structure.layer)
                if everywhere
                else None,
                models=models,
                systems=systems,
                precisions=precisions,
            ),
            found,
        )

    def _layer_codes(
        self, chunk: _Chunk, kind: str, plan: PlanColumns, systems: Sequence[SystemSpec], n: int
    ) -> tuple[IndexArray, bool]:
        """A number per row that is equal where blocks are, from positions on the axes that blocks depend on.

        The second value says whether the numbers are the same in all chunks.
        """
        axes = set(self._machine_axes())
        for group in (self.variants.models, self.variants.systems, self.variants.precisions):
            axes.update(group.axes)
        keys = [*(f"task.{k}" for k in TASK_KEYS[kind] if "batch" not in k), *LAYER_PLAN_KEYS]
        if any(s.scale_up.topology == "torus" for s in systems):
            keys.append("devices")
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

    def _condition_columns(self, chunk: _Chunk, c: Combination) -> dict[str, Any]:
        """Numeric inputs by dotted key, and the derived degrees by their own names."""
        out: dict[str, Any] = {}
        for axis in self.space.axes:
            for key, values in zip(axis.keys, axis.values, strict=True):
                if all(isinstance(v, (int, float, np.number)) for v in list(values)[:1]):
                    out[key] = chunk.number(key)
        for name in (
            "tensor_parallel",
            "pipeline_parallel",
            "virtual_pipeline",
            "data_parallel",
            "micro_batch_size",
            "zero_stage",
            "sequence_parallel",
        ):
            out[f"plan.{name}"] = out[name] = getattr(c.plan, name)
        out["devices"] = c.plan.devices
        out["micro_batches"] = c.task.batch / c.plan.data_parallel / c.plan.micro_batch_size
        for name in ("n_layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab"):
            out[f"model.{name}"] = getattr(c.model, name)
        return out


def _fidelity(name: str) -> Fidelity:
    if name == "bound":
        return "bound"
    return "datasheet" if name == "datasheet" else "calibrated"
