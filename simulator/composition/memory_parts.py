"""What the heaviest stage's activations and buffers are made of: modules of the layers, the head, working sets."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import Inputs, first_value
from simulator.composition.activations import kept_by_module
from simulator.composition.blocks import Blocks, chosen_modules, kept_by_name
from simulator.composition.kind_columns import layers_of_stage
from simulator.composition.layer_table import LayerTable
from simulator.composition.memory import (
    Memory,
    in_flight,
    rebuilt_bytes,
    working_bytes,
)
from simulator.composition.memory_overheads import bucket_copy_bytes, engine_bytes
from simulator.composition.model_states import stage_parameters, unsharded_bytes
from simulator.composition.stage_kinds import StageKind, StageKinds
from simulator.per_device.structure import Structure
from simulator.rules import unnoted
from workloads.layer_kinds import layers_in_front

__all__ = ["memory_parts"]

FloatArray = NDArray[np.float64]
Parts = dict[str, float]


def _activations(
    structure: Structure,
    inputs: Inputs,
    blocks: Blocks,
    table: LayerTable,
    stage: StageKind,
    held: FloatArray,
) -> dict[str, FloatArray]:
    """Kept for the micro-batches in flight by module, and what is made once: the rebuilt layer, or the head [byte]."""
    plan = inputs.plan
    named = kept_by_name(structure, inputs) if np.any(plan.recompute_needed) else {}

    here = held * (plan.offload["activations"] == 0)
    parts: dict[str, FloatArray] = {}
    front = table.embedding_kept_bytes
    for kind in structure.layer.kinds:
        of_layer = kept_by_module(
            blocks.forward_operators[kind.name],
            inputs.precision,
            modules=chosen_modules(plan),
            named=named,
            recompute_all=plan.recompute_all,
        )
        layers = layers_of_stage(kind, stage.layers, stage.embedding, inputs.model)
        for module, size in of_layer.items():
            parts[module] = parts.get(module, np.zeros(1)) + here * layers * size
        front = front - layers_in_front(kind, inputs.model) * sum(of_layer.values(), np.zeros(1))
    parts["embedding"] = here * stage.embedding * front
    layer, head = rebuilt_bytes(inputs, table, stage)
    parts["layer that runs again" if layer[0] > head[0] else "head and logits"] = np.maximum(layer, head)
    return parts


def _buffers(
    inputs: Inputs, table: LayerTable, stage: StageKind, held: FloatArray, found: Memory, *, tied: bool
) -> dict[str, FloatArray]:
    """Buffers by what they are for; what offload passes through is the rest [byte]."""
    plan = inputs.plan
    parts = {
        "unsharded layers": unsharded_bytes(inputs, table, stage, tied=tied),
        "largest working set": working_bytes(inputs, table, stage),
    }
    parameters = stage_parameters(table, stage.layers, first=stage.embedding, last=stage.head, tied=tied)
    if not np.all(np.isnan(plan.gradient_bucket)):
        parts["gradient bucket"] = bucket_copy_bytes(inputs, parameters)
    if np.any(plan.deepspeed):
        parts["engine"] = engine_bytes(inputs, parameters, held)
    used = found.peak_bytes - found.owners["reserved"]
    parts["fragmentation"] = used * plan.fragmentation / (1.0 + plan.fragmentation)
    if any(bool(np.any(code > 0)) for code in plan.offload.values()):
        known = sum(parts.values(), np.zeros(1))
        parts["offloaded tensors that pass through"] = found.owners["buffers"] - known
    return parts


def memory_parts(
    structure: Structure,
    inputs: Inputs,
    blocks: Blocks,
    table: LayerTable,
    kinds: StageKinds,
    micro_batches: FloatArray,
    found: Memory,
    *,
    tied: bool,
) -> Mapping[str, Parts]:
    """Parts of two owners of one training step's memory.

    Parameters
    ----------
    structure, inputs, blocks, table, kinds
        Of one plan.
    micro_batches : ndarray
        Micro-batches per replica [1].
    found : Memory
        What the plan needs.
    tied : bool
        Whether the head shares the embedding's matrix.

    Returns
    -------
    mapping of str to dict
        ``activations`` and ``buffers``: bytes of one device of the heaviest stage by part [byte]; parts sum to the
        owner, those of nothing are left out.

    Raises
    ------
    KeyError
        If a block of the structure is missing.
    """
    with unnoted():
        stage = list(kinds)[int(first_value(found.heaviest_kind))]
        held = in_flight(inputs, stage, micro_batches)
        made = {
            "activations": _activations(structure, inputs, blocks, table, stage, held),
            "buffers": _buffers(inputs, table, stage, held, found, tied=tied),
        }
    return {
        owner: {name: first_value(size) for name, size in parts.items() if first_value(size) > 0}
        for owner, parts in made.items()
    }
