"""Time of one micro-batch on the stages of a pipeline, sharded parameters and gradients included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

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
class StagePasses:
    """Passes of a kind of stage, of which there are ``number`` [1]; ``long`` and ``short`` are one without waits.

    Where copies or exchanges bound the backward pass, its parts may each be as long as they are alone (``long``), or
    what they add to the other part (``short``): a step that counts the first and takes the second off only grows.
    """

    number: FloatArray
    long: Passes
    short: Passes


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Seconds of one micro-batch by kind of stage [s]: first, middle, last, and further middle ones laid by hand.

    ``forward_s`` and ``backward_s`` contain the exposed exchanges and copies; ``tensor_s``, ``data_s`` and
    ``offload_s`` are the parts of both passes that wait for tensor-parallel and data-parallel exchanges, and for copies
    to and from other tiers, ``n_layers`` the layers [1]; where a schedule puts gradients of weights off,
    ``weight_gradients_s`` is how long these are computed, and ``input_gradients_s`` the backward pass without them
    (both may wait for the same copies). ``lighter`` has these four passes of the middle stages with fewer
    layers, ``number`` says how many there are of each kind, the lighter ones last [1]; ``total_s`` is
    forward and backward, ``sum_s`` that of all stages, ``end_chunks_s`` that of the first and of the last chunk of the
    model. ``slower`` says where a kind is slower than all in front of it, the second one first.
    """

    forward_s: ByStage
    backward_s: ByStage
    input_gradients_s: ByStage
    weight_gradients_s: ByStage
    lighter: tuple[FloatArray, FloatArray, FloatArray, FloatArray]
    number: tuple[FloatArray, ...]
    tensor_s: ByStage
    offload_s: ByStage
    data_s: ByStage
    n_layers: ByStage
    total_s: ByStage
    sum_s: FloatArray
    end_chunks_s: tuple[FloatArray, FloatArray]
    slower: tuple[BoolArray, ...]

    def slowest_s(self) -> FloatArray:
        """Time of the slowest stage [s]."""
        return self.most(self.total_s)

    def at_slowest(self, values: ByStage) -> FloatArray:
        """The one of ``values`` by kind that belongs to the slowest stage, the first of equals."""
        chosen = values[0]
        for slower, value in zip(self.slower, values[1:], strict=True):
            chosen = np.where(slower, value, chosen)
        return chosen

    def most(self, values: ByStage) -> FloatArray:
        """Largest of ``values`` by kind; a stage that does not exist has none."""
        return reduce(np.maximum, values)

    def _sum(self, values: ByStage, lighter: FloatArray) -> FloatArray:
        """Over all stages, the middle ones with fewer layers included."""
        return sum((n * v for n, v in zip(self.number, (*values, lighter), strict=True)), ZERO)

    def sums_s(self) -> tuple[FloatArray, FloatArray]:
        """Forward and backward pass of one micro-batch over all stages [s]; raises nothing."""
        there, back, _, _ = self.lighter
        return self._sum(self.forward_s, there), self._sum(self.backward_s, back)

    def chunks_s(self, virtual_pipeline: FloatArray) -> tuple[ByStage, FloatArray]:
        """Both passes of one micro-batch through one chunk, by kind and over all stages [s]; raises nothing.

        Of the ends it is the outermost chunk, which holds the embedding or the head.
        """
        first, middle, last, *more = (total / virtual_pipeline for total in self.total_s)
        if np.any(virtual_pipeline > 1):
            first, last = (
                np.where(virtual_pipeline > 1, chunk, whole)
                for chunk, whole in zip(self.end_chunks_s, (first, last), strict=True)
            )
        chunks = (first, middle, last, *more)
        return chunks, self._sum(chunks, (self.lighter[0] + self.lighter[1]) / virtual_pipeline)

    def passes(self) -> tuple[StagePasses, ...]:
        """Passes by kind, the lighter ones last [s]; raises nothing."""
        kinds = zip(
            self.forward_s, self.backward_s, self.input_gradients_s, self.weight_gradients_s, strict=True
        )
        return tuple(
            StagePasses(
                number=number,
                long=Passes(forward_s=there, input_gradients_s=inputs, weight_gradients_s=late),
                short=Passes(
                    forward_s=there,
                    input_gradients_s=np.maximum(back - late, 0.0),
                    weight_gradients_s=np.maximum(back - inputs, 0.0),
                ),
            )
            for (there, back, inputs, late), number in zip((*kinds, self.lighter), self.number, strict=True)
        )

    def least(self, values: ByStage) -> FloatArray:
        """Smallest of ``values`` over the kinds of stage that exist; raises nothing."""
        return reduce(
            np.minimum,
            [np.where(total > 0, v, np.inf) for total, v in zip(self.total_s, values, strict=True)],
        )


Chain = tuple[FloatArray, FloatArray, FloatArray]


def _chains(table: LayerTable, inputs: Inputs, layer: InLayer, *, split: bool) -> tuple[Chain, Chain, Chain]:
    """Chains of layers with their exchanges: forward, backward, and backward without gradients of weights."""
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
    back = layer_chain(backward_s, again, reduce, queue_s=queues[1], **switches)
    inputs_s = np.maximum(backward_s - table.layer_weight_gradients_s, 0.0)
    return (
        layer_chain(forward_s, gather, ZERO, queue_s=queues[0], **switches),
        back,
        # Gradients of weights are summed when they are there.
        layer_chain(inputs_s, again, ZERO, queue_s=queues[0], **switches) if split else back,
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


def _passes(
    kind: StageKind,
    table: LayerTable,
    inputs: Inputs,
    chains: tuple[Chain, Chain, Chain],
    ends: _Ends,
    exchanges_s: tuple[FloatArray, FloatArray, FloatArray],
    training: bool,
    split: bool,
    copies: PassCopies,
) -> tuple[FloatArray, ...]:
    """Forward and backward pass of a kind of stage, the latter's two parts, and what they wait for [s].

    That is tensor-parallel exchanges, data-parallel ones, and copies.
    """
    n_layers, first, last = kind.layers, kind.embedding, kind.head
    gather_s, again_s, reduce_s = exchanges_s

    def summed(layer: FloatArray, embedding: FloatArray, head: FloatArray) -> FloatArray:
        return n_layers * layer + first * embedding + last * head

    data_forward = _exposed(n_layers, chains[0], table.layer_forward_s, gather_s, inputs)
    data_backward = ZERO
    if training:
        data_backward = _exposed(n_layers, chains[1], table.layer_backward_s, again_s + reduce_s, inputs)
    data_forward = data_forward + first * ends.embedding_forward + last * ends.head_forward
    data_backward = data_backward + first * ends.embedding_backward + last * ends.head_backward
    forward = summed(table.layer_forward_s, table.embedding_forward_s, table.head_forward_s) + data_forward
    backward = summed(table.layer_backward_s, table.embedding_backward_s, table.head_backward_s)
    tensor = summed(table.layer_exchange_s, table.embedding_exchange_s, table.head_exchange_s)
    late = input_gradients = ZERO
    if split:
        late = summed(
            table.layer_weight_gradients_s,
            table.embedding_weight_gradients_s,
            table.head_weight_gradients_s,
        )
        layer_s = np.maximum(table.layer_backward_s - table.layer_weight_gradients_s, 0.0)
        input_gradients = np.maximum(backward - late, 0.0) + _exposed(
            n_layers, chains[2], layer_s, again_s, inputs
        )
        input_gradients = input_gradients + copies(kind, forward, input_gradients)[1]
    copied = copies(kind, forward, backward + data_backward)
    return (
        forward + copied[0],
        backward + data_backward + copied[1],
        input_gradients,
        late,
        tensor,
        data_forward + data_backward,
        copied[0] + copied[1],
    )


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
    chains, gather_s = _chains(table, inputs, layer, split=split), layer.gather.seconds
    ends = _ends(table, inputs, units)
    exchanges_s = gather_s, layer.again.seconds, layer.reduce.seconds
    kinds_and_chunks = (*kinds, kinds.lighter, *(kinds.end_chunks or ()))
    rows = [
        _passes(kind, table, inputs, chains, ends, exchanges_s, training, split, copies)
        for kind in kinds_and_chunks
    ]
    forward, backward, at_once, late, tensor, data, offload = zip(*rows, strict=True)
    n = len(tuple(kinds))
    total = tuple(there + back for there, back in zip(forward, backward, strict=True))
    counts = tuple(kind.number for kind in (*kinds, kinds.lighter))
    slowest, slower = total[0], []
    for one in total[1:n]:
        slower.append(one > slowest)
        slowest = np.maximum(slowest, one)
    return StageTimes(
        forward_s=forward[:n],
        backward_s=backward[:n],
        input_gradients_s=at_once[:n],
        weight_gradients_s=late[:n],
        lighter=(forward[n], backward[n], at_once[n], late[n]),
        number=counts,
        tensor_s=tensor[:n],
        offload_s=offload[:n],
        data_s=data[:n],
        n_layers=kinds.by_stage("layers"),
        total_s=total[:n],
        sum_s=sum((c * t for c, t in zip(counts, total, strict=False)), ZERO),
        end_chunks_s=(total[n + 1], total[n + 2]) if kinds.end_chunks else (total[0], total[2]),
        slower=tuple(slower),
    )
