"""Time of one micro-batch on the stages of a pipeline, sharded parameters and gradients included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import Inputs
from simulator.communication.wires import Wires, exchange_wires, wire_queue, wire_wait
from simulator.composition.data_parallel import InLayer, UnitExchanges
from simulator.composition.layer_table import LayerTable
from simulator.composition.stage_kinds import ByStage, StageKind, StageKinds
from simulator.composition.streams import chain_of, layer_chain
from simulator.pipelines.schedules import SPLIT, Passes, follows

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
ZERO: FloatArray = np.zeros(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Seconds of one micro-batch by kind of stage [s], three arrays each: first, middle, last.

    ``forward_s`` and ``backward_s`` contain the exposed exchanges and copies; ``tensor_s``, ``data_s`` and
    ``offload_s`` are the parts of both passes that wait for tensor-parallel and data-parallel exchanges, and for copies
    to and from other tiers; ``weight_gradients_s`` is the part of the backward pass that computes them (zero unless a
    schedule asks), ``n_layers`` the layers [1]; ``lighter`` has forward, backward and weight gradients of the middle
    stages with fewer layers, ``number`` says how many there are of each of the four kinds [1]; ``total_s`` is forward
    and backward, ``sum_s`` that of all stages. ``first_slowest`` says where no stage is slower than the first,
    ``middle_slower`` where the last one is no slower than the middle.
    """

    forward_s: ByStage
    backward_s: ByStage
    weight_gradients_s: ByStage
    lighter: tuple[FloatArray, FloatArray, FloatArray]
    number: tuple[FloatArray, ...]
    tensor_s: ByStage
    offload_s: ByStage
    data_s: ByStage
    n_layers: ByStage
    total_s: ByStage
    sum_s: FloatArray
    first_slowest: BoolArray
    middle_slower: BoolArray

    def slowest_s(self) -> FloatArray:
        """Time of the slowest stage [s]."""
        first, middle, last = self.total_s
        return np.maximum(np.maximum(first, middle), last)

    def slowest(self) -> FloatArray:
        """Index of the slowest kind of stage, the first of equals [1]."""
        return self.at_slowest((np.zeros(1), np.ones(1), np.full(1, 2.0)))

    def at_slowest(self, values: ByStage) -> FloatArray:
        """The one of three ``values`` that belongs to the slowest stage."""
        return np.where(self.first_slowest, values[0], np.where(self.middle_slower, values[1], values[2]))

    def most(self, values: ByStage) -> FloatArray:
        """Largest of three ``values``; a stage that does not exist has none."""
        return np.maximum(np.maximum(values[0], values[1]), values[2])

    def _sum(self, values: ByStage, lighter: FloatArray) -> FloatArray:
        """Over all stages, the middle ones with fewer layers included."""
        return sum((n * v for n, v in zip(self.number, (*values, lighter), strict=True)), ZERO)

    def sums_s(self) -> tuple[FloatArray, FloatArray]:
        """Forward and backward pass of one micro-batch over all stages [s]; raises nothing."""
        there, back, _ = self.lighter
        return self._sum(self.forward_s, there), self._sum(self.backward_s, back)

    def others(self, pipeline_parallel: FloatArray) -> Passes:
        """Mean passes of the stages beside the slowest one [s]; raises nothing."""
        behind = np.maximum(pipeline_parallel - 1.0, 1.0)
        there, back = self.sums_s()
        late = self._sum(self.weight_gradients_s, self.lighter[2])
        mean = [
            np.maximum(total - self.at_slowest(own), 0.0) / behind
            for total, own in (
                (there, self.forward_s),
                (back, self.backward_s),
                (late, self.weight_gradients_s),
            )
        ]
        return Passes(
            forward_s=mean[0],
            input_gradients_s=np.maximum(mean[1] - mean[2], 0.0),
            weight_gradients_s=mean[2],
        )

    def least(self, values: ByStage) -> FloatArray:
        """Smallest of three ``values`` over the kinds of stage that exist; raises nothing."""
        there = [np.where(total > 0, v, np.inf) for total, v in zip(self.total_s, values, strict=True)]
        return np.minimum(np.minimum(there[0], there[1]), there[2])


Chain = tuple[FloatArray, FloatArray, FloatArray]


def _chains(table: LayerTable, inputs: Inputs, layer: InLayer) -> tuple[Chain, Chain]:
    """Chains of layers with their exchanges, forward and backward."""
    plan, ahead = inputs.plan, prefetched(inputs)
    switches = {"overlap_gather": ahead, "overlap_reduce": plan.overlap_grad_reduce}
    gather, again, reduce = layer.gather.seconds, layer.again.seconds, layer.reduce.seconds
    forward_s, backward_s = table.layer_forward_s, table.layer_backward_s
    queues = [ZERO, ZERO]
    if np.any(gather) or np.any(reduce):
        own, hidden = layer_wires(table), hidden_wires(layer, inputs)
        beside = again * ahead + reduce * plan.overlap_grad_reduce
        queues = [wire_queue(gather * ahead, hidden[0], own[0]), wire_queue(beside, hidden[1], own[1])]
        forward_s = forward_s + wire_wait(own[0], hidden[0], forward_s)
        backward_s = backward_s + wire_wait(own[1], hidden[1], backward_s)
    return (
        layer_chain(forward_s, gather, ZERO, queue_s=queues[0], **switches),
        layer_chain(backward_s, again, reduce, queue_s=queues[1], **switches),
    )


def layer_wires(table: LayerTable) -> tuple[Wires, Wires]:
    """How long a layer's own exchanges occupy the wires, forward and backward [s]."""
    return (
        Wires(inside_s=table.layer_forward_inside_wire_s, across_s=table.layer_forward_across_wire_s),
        Wires(inside_s=table.layer_backward_inside_wire_s, across_s=table.layer_backward_across_wire_s),
    )


def hidden_wires(layer: InLayer, inputs: Inputs) -> tuple[Wires, Wires]:
    """How long the exchanges of a layer's parameters and gradients do beside its kernels, forward and backward [s]."""
    fabric, ahead = inputs.fabric, prefetched(inputs)
    gather, again = (exchange_wires(done, fabric).times(ahead) for done in (layer.gather, layer.again))
    return gather, again + exchange_wires(layer.reduce, fabric).times(inputs.plan.overlap_grad_reduce)


def prefetched(inputs: Inputs) -> FloatArray:
    """1 where weights of a layer are gathered beside the layer in front of it [1].

    One layer ahead is enough: layers are alike and exchanges follow each other on one stream. Raises nothing.
    """
    return inputs.plan.overlap_param_gather * (inputs.plan.prefetch_layers > 0)


def _exposed(
    n_layers: FloatArray, chain: Chain, layer_s: FloatArray, exchange_s: FloatArray, inputs: Inputs
) -> FloatArray:
    """What the exchanges of ``n_layers`` layers add to their own time [s]: waiting, and units taken from kernels."""
    if not np.any(exchange_s):
        return ZERO
    # Without an exchange the difference is rounding, and would show as a row of the operator table.
    waiting = np.where(exchange_s > 0, np.maximum(chain_of(n_layers, chain) - n_layers * layer_s, 0.0), 0.0)
    hidden = np.maximum(n_layers * exchange_s - waiting, 0.0)
    return waiting + inputs.fabric.inner.compute_share * hidden


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ends:
    """Exposed seconds of the embedding's and the head's own exchanges, forward and backward [s]."""

    embedding_forward: FloatArray
    embedding_backward: FloatArray
    head_forward: FloatArray
    head_backward: FloatArray


def _beside(
    exchange_s: FloatArray, window_s: FloatArray, overlap: FloatArray, share: FloatArray
) -> FloatArray:
    """What an exchange beside ``window_s`` of compute adds: the rest, and the units it takes meanwhile [s]."""
    waiting = exchange_s - overlap * np.minimum(exchange_s, window_s)
    return waiting + share * (exchange_s - waiting)


def _ends(table: LayerTable, inputs: Inputs, units: UnitExchanges) -> _Ends:
    """The embedding is gathered in the open and its gradients scattered at the very end.

    The head is gathered beside the last layer, whose own exchange is over by then, and its gradients scattered beside
    that layer's backward pass, while the layers' exchanges leave the network free. The weights of the head serve both
    its passes, and the embedding's backward pass needs none.
    """
    layer, embedding, head = units
    plan, ahead, share = inputs.plan, prefetched(inputs), inputs.fabric.inner.compute_share
    busy_s = ahead * layer.again.seconds + plan.overlap_grad_reduce * layer.reduce.seconds
    free_s = np.maximum(table.layer_backward_s - busy_s, 0.0)
    return _Ends(
        embedding_forward=embedding.gather.seconds,
        embedding_backward=embedding.reduce.seconds,
        head_forward=_beside(head.gather.seconds, table.layer_forward_s, ahead, share),
        head_backward=_beside(head.reduce.seconds, free_s, plan.overlap_grad_reduce, share),
    )


# What copies to and from other tiers add to the passes of one micro-batch on a stage, from the passes without [s].
PassCopies = Callable[[StageKind, FloatArray, FloatArray], tuple[FloatArray, FloatArray]]


def no_copies(
    kind: StageKind, forward_s: FloatArray, backward_s: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Everything stays on the device; raises nothing."""
    return ZERO, ZERO


def stage_times(
    table: LayerTable,
    inputs: Inputs,
    kinds: StageKinds,
    units: UnitExchanges,
    *,
    training: bool,
    copies: PassCopies = no_copies,
) -> StageTimes:
    """Times of one micro-batch on each kind of stage.

    Parameters
    ----------
    table : LayerTable
        Gathered to the rows of ``inputs``.
    inputs : Inputs
        Rows.
    kinds : StageKinds
        Layers and ends by kind of stage [1].
    units : UnitExchanges
        In-layer exchanges of a layer, of the embedding and of the head.
    training : bool
        Whether there is a backward pass.
    copies : callable
        What copies to and from other tiers add to both passes of a kind of stage [s].

    Returns
    -------
    StageTimes
        Seconds; ``sum_s`` over all stages, a stage that does not exist counts nothing.

    Raises
    ------
    ValueError
        If shapes do not broadcast.
    """
    layer, split = units[0], bool(np.any(follows(inputs.plan, *SPLIT)))
    chains, gather_s = _chains(table, inputs, layer), layer.gather.seconds
    backward_exchange_s = layer.again.seconds + layer.reduce.seconds
    ends = _ends(table, inputs, units)
    rows: list[tuple[FloatArray, ...]] = []
    for kind in (*kinds, kinds.lighter):
        n_layers, first, last = kind.layers, kind.embedding, kind.head
        data_forward = _exposed(n_layers, chains[0], table.layer_forward_s, gather_s, inputs)
        data_backward = (
            _exposed(n_layers, chains[1], table.layer_backward_s, backward_exchange_s, inputs)
            if training
            else ZERO
        )
        data_forward = data_forward + first * ends.embedding_forward + last * ends.head_forward
        data_backward = data_backward + first * ends.embedding_backward + last * ends.head_backward
        forward = (
            n_layers * table.layer_forward_s + first * table.embedding_forward_s + last * table.head_forward_s
        )
        backward = (
            n_layers * table.layer_backward_s
            + first * table.embedding_backward_s
            + last * table.head_backward_s
        )
        tensor = (
            n_layers * table.layer_exchange_s
            + first * table.embedding_exchange_s
            + last * table.head_exchange_s
        )
        late = (
            n_layers * table.layer_weight_gradients_s
            + first * table.embedding_weight_gradients_s
            + last * table.head_weight_gradients_s
            if split
            else ZERO
        )
        copied = copies(kind, forward + data_forward, backward + data_backward)
        rows.append(
            (
                forward + data_forward + copied[0],
                backward + data_backward + copied[1],
                tensor,
                data_forward + data_backward,
                late,
                copied[0] + copied[1],
            )
        )
    forward, backward, tensor, data, late, offload = zip(*rows, strict=True)
    total = [there + back for there, back in zip(forward, backward, strict=True)]
    counts = tuple(kind.number for kind in (*kinds, kinds.lighter))
    return StageTimes(
        forward_s=forward[:3],
        backward_s=backward[:3],
        weight_gradients_s=late[:3],
        lighter=(forward[3], backward[3], late[3]),
        number=counts,
        tensor_s=tensor[:3],
        offload_s=offload[:3],
        data_s=data[:3],
        n_layers=kinds.by_stage("layers"),
        total_s=(total[0], total[1], total[2]),
        sum_s=sum((c * t for c, t in zip(counts, total, strict=True)), ZERO),
        first_slowest=total[0] >= np.maximum(total[1], total[2]),
        middle_slower=total[1] >= total[2],
    )
