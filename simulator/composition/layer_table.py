"""What composition needs to know of the blocks: a few columns per distinct combination, to be gathered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import Inputs
from simulator.composition.activations import saved_bytes
from simulator.composition.block_energy import block_energy
from simulator.composition.blocks import Blocks, chosen_modules, cost_blocks
from simulator.composition.kind_columns import (
    columns_of_layer,
    exchange_seconds,
    front_layers,
    mean_layer,
    weight_gradient_seconds,
)
from simulator.per_device.structure import Structure
from simulator.rules import at

FloatArray = NDArray[np.float64]
ZERO: FloatArray = np.zeros(1)
ENDS = ("embedding", "head")
# Columns of a layer that keep their names.
OF_ORTHOGONAL = ("orthogonal_s", "orthogonal_flop", "orthogonal_bytes")
OWN_NAMES = (
    "expert_parameters",
    "expert_weight_bytes",
    *(f"expert_{name}" for name in OF_ORTHOGONAL),
    "working_bytes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTable:
    """Blocks of one micro-batch on one device; ``layer`` is one decoder layer, the mean where there are several kinds.

    Layers in front of those with experts count with the embedding, since the first stage has them all; what of it is
    theirs alone is called ``front``.
    Seconds [s] of each block and pass, the part of them that waits for tensor-parallel exchanges (and, in a layer, for
    those of context and expert ranks), the part of the backward pass that computes gradients of weights, how long a
    layer's exchanges occupy the wires of a device by pass [s], what
    they may be off by (`BlockCost`, both passes) [s^2, s], parameters
    [1] per tensor-parallel rank and the bytes of their weights [byte] (``greatest`` of any layer, ``pair`` of the
    heaviest two in a row), FLOP of the forward pass that run again where
    recomputation stops at what is needed [1], bytes kept for the backward
    pass [byte], energy [J], and kernels of all blocks whose sizes lie outside what was fitted [1].
    """

    layer_forward_s: FloatArray
    layer_backward_s: FloatArray
    embedding_forward_s: FloatArray
    embedding_backward_s: FloatArray
    head_forward_s: FloatArray
    head_backward_s: FloatArray
    layer_weight_gradients_s: FloatArray
    embedding_weight_gradients_s: FloatArray
    head_weight_gradients_s: FloatArray
    layer_exchange_s: FloatArray
    embedding_exchange_s: FloatArray
    head_exchange_s: FloatArray
    layer_context_s: FloatArray
    layer_expert_s: FloatArray
    embedding_context_s: FloatArray
    layer_forward_inside_wire_s: FloatArray
    layer_forward_across_wire_s: FloatArray
    layer_backward_inside_wire_s: FloatArray
    layer_backward_across_wire_s: FloatArray
    layer_variance_s2: FloatArray
    embedding_variance_s2: FloatArray
    head_variance_s2: FloatArray
    layer_shared_s: FloatArray
    embedding_shared_s: FloatArray
    head_shared_s: FloatArray
    layer_parameters: FloatArray
    expert_parameters: FloatArray
    embedding_parameters: FloatArray
    front_parameters: FloatArray
    head_norm_parameters: FloatArray
    head_matrix_parameters: FloatArray
    layer_greatest_parameters: FloatArray
    layer_weight_bytes: FloatArray
    layer_pair_weight_bytes: FloatArray
    expert_weight_bytes: FloatArray
    embedding_weight_bytes: FloatArray
    head_norm_weight_bytes: FloatArray
    head_matrix_weight_bytes: FloatArray
    layer_run_again: FloatArray
    layer_kept_bytes: FloatArray
    layer_rebuilt_bytes: FloatArray
    embedding_kept_bytes: FloatArray
    head_kept_bytes: FloatArray
    layer_orthogonal_s: FloatArray
    front_orthogonal_s: FloatArray
    expert_orthogonal_s: FloatArray
    layer_orthogonal_flop: FloatArray
    front_orthogonal_flop: FloatArray
    expert_orthogonal_flop: FloatArray
    layer_orthogonal_bytes: FloatArray
    front_orthogonal_bytes: FloatArray
    expert_orthogonal_bytes: FloatArray
    working_bytes: FloatArray
    head_working_bytes: FloatArray
    layer_compute_j: FloatArray
    layer_memory_j: FloatArray
    layer_network_j: FloatArray
    ends_compute_j: FloatArray
    ends_memory_j: FloatArray
    ends_network_j: FloatArray
    extrapolated_kernels: FloatArray


def layer_table(structure: Structure, inputs: Inputs) -> tuple[LayerTable, Blocks]:
    """Evaluate the blocks and reduce them to the columns that composition gathers.

    Parameters
    ----------
    structure : Structure
        Key of the partition.
    inputs : Inputs
        Distinct rows.

    Returns
    -------
    tuple of LayerTable and Blocks
        Columns, and the operators behind them.

    Raises
    ------
    NotImplementedError
        If an operator kind lacks a rule.
    """
    blocks = cost_blocks(structure, inputs)
    forward, backward, held = blocks.forward, blocks.backward, blocks.parameters
    kinds = {kind: columns_of_layer(kind.name, blocks, structure, inputs) for kind in structure.layer.kinds}
    layer = mean_layer(kinds, inputs)
    once, again = layer.pop("flop_once"), layer.pop("flop_again")
    ends = {n: [forward[n], *([backward[n]] if n in backward else [])] for n in ENDS}
    with at("energy_j.ends"):
        ends_j = block_energy([*ends["embedding"], *ends["head"]], inputs)
    modules = chosen_modules(inputs.plan)
    kept = {n: saved_bytes(blocks.forward_operators[n], inputs.precision, modules) for n in ENDS}

    def seconds(name: str) -> FloatArray:
        return backward[name].seconds if name in backward else ZERO

    whole = (b for found in (forward, backward) for b in found.values())
    table = LayerTable(
        **{f"layer_{name}": values for name, values in layer.items() if name not in OWN_NAMES},
        **{name: layer[name] for name in OWN_NAMES},
        layer_run_again=again / once,
        **{f"{n}_forward_s": forward[n].seconds for n in ENDS},
        **{f"{n}_backward_s": seconds(n) for n in ENDS},
        **{f"{n}_weight_gradients_s": weight_gradient_seconds(backward.get(n)) for n in ENDS},
        **{f"{n}_exchange_s": exchange_seconds("tensor", *ends[n]) for n in ENDS},
        **{f"{n}_variance_s2": sum((b.variance_s2 for b in ends[n]), ZERO) for n in ENDS},
        **{f"{n}_shared_s": sum((b.shared_s for b in ends[n]), ZERO) for n in ENDS},
        **{f"{n}_kept_bytes": kept[n].everything for n in ENDS},
        embedding_context_s=ZERO,
        embedding_parameters=held["embedding"].count,
        front_parameters=ZERO,
        **{f"front_{name}": ZERO for name in OF_ORTHOGONAL},
        head_norm_parameters=held["head"].count - held["head_matrix"].count,
        head_matrix_parameters=held["head_matrix"].count,
        embedding_weight_bytes=held["embedding"].stored_bytes,
        head_norm_weight_bytes=held["head"].stored_bytes - held["head_matrix"].stored_bytes,
        head_matrix_weight_bytes=held["head_matrix"].stored_bytes,
        head_working_bytes=kept["head"].largest_working_set,
        ends_compute_j=ends_j[0],
        ends_memory_j=ends_j[1],
        ends_network_j=ends_j[2],
        extrapolated_kernels=sum((b.extrapolated for b in whole), ZERO),
    )
    if np.any(inputs.model.first_dense > 0):
        table = _with_layers_in_front(table, front_layers(kinds, inputs))
    return table, blocks


def _with_layers_in_front(table: LayerTable, front: Mapping[str, FloatArray]) -> LayerTable:
    """The table with the layers in front of those with experts counted to the embedding."""
    added = {
        name: getattr(table, f"embedding_{name}") + front[name]
        for name in (
            "forward_s",
            "backward_s",
            "weight_gradients_s",
            "exchange_s",
            "context_s",
            "variance_s2",
            "shared_s",
            "parameters",
            "weight_bytes",
            "kept_bytes",
        )
    }
    return replace(
        table,
        **{f"embedding_{name}": values for name, values in added.items()},
        **{
            f"ends_{name}": getattr(table, f"ends_{name}") + front[name]
            for name in ("compute_j", "memory_j", "network_j")
        },
        front_parameters=front["parameters"],
        **{f"front_{name}": front[name] for name in OF_ORTHOGONAL},
        layer_rebuilt_bytes=np.maximum(table.layer_rebuilt_bytes, front["rebuilt_bytes"]),
        working_bytes=np.maximum(table.working_bytes, front["working_bytes"]),
    )


def stacked(tables: Iterable[LayerTable], rows: Iterable[int]) -> LayerTable:
    """Tables below each other, each broadcast to its number of rows first; ValueError if there are none."""
    parts = list(zip(tables, rows, strict=True))
    return LayerTable(
        **{
            f.name: np.concatenate([np.broadcast_to(getattr(t, f.name), (n,)) for t, n in parts])
            for f in fields(LayerTable)
        }
    )
