"""Exchanges of different axes that run at the same moment: messages between stages, and those at the end of a step.

Inside a layer the exchanges of tensor, context and expert ranks follow each other; parameters and gradients of layers
share wires with them in :mod:`simulator.composition.stages`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import Inputs
from simulator.communication.direct_messages import StageMessage
from simulator.communication.exchanges import Exchange
from simulator.communication.wires import (
    NO_WIRES,
    Wires,
    exchange_wires,
    wire_queue,
    wire_wait,
    wires_of,
)
from simulator.composition.data_parallel import InLayer
from simulator.composition.layer_table import LayerTable
from simulator.composition.stages import StageTimes, hidden_wires, layer_wires

FloatArray = NDArray[np.float64]
ZERO: FloatArray = np.zeros(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTraffic:
    """What is on the wires of the slowest stage for one micro-batch, besides messages [s].

    ``hidden`` is what kernels hide of parameters and gradients, ``own`` what layers exchange among the ranks that share
    them; the micro-batch takes ``period_s``.
    """

    hidden: Wires
    own: Wires
    period_s: FloatArray


def stage_traffic(
    table: LayerTable, stages: StageTimes, layer: InLayer, inputs: Inputs, *, training: bool
) -> StageTraffic:
    """Traffic of the layers of the slowest stage; raises nothing."""
    period_s, n_layers = stages.slowest_s(), stages.at_slowest(stages.n_layers)
    forward, backward = layer_wires(table)
    own = (forward + backward).times(n_layers)
    if not np.any(layer.gather.seconds) and not np.any(layer.reduce.seconds):
        return StageTraffic(hidden=NO_WIRES, own=own, period_s=period_s)
    forward, backward = hidden_wires(layer, inputs)
    once = forward + backward if training else forward
    return StageTraffic(hidden=once.times(n_layers), own=own, period_s=period_s)


def beside_hidden(
    sent: StageMessage, message_bytes: FloatArray, traffic: StageTraffic, inputs: Inputs
) -> tuple[StageMessage, Wires]:
    """Messages of ``message_bytes`` [byte] beside the hidden traffic of a stage, and the wires of the usual one [s].

    Raises nothing.
    """
    fabric = inputs.fabric
    inside = wires_of(message_bytes, (), fabric)
    across = wires_of(ZERO, [message_bytes] + [ZERO] * (len(fabric.across) - 1), fabric)
    usual = Wires(
        inside_s=np.where(sent.boundaries_across > 0, 0.0, inside.inside_s) * (sent.boundaries_inside > 0),
        across_s=np.where(sent.boundaries_across > 0, across.across_s, 0.0),
    )
    if traffic.hidden is NO_WIRES:
        return sent, usual
    slower = wire_wait(across, traffic.hidden, traffic.period_s)
    return (
        replace(
            sent,
            inside_s=sent.inside_s + wire_wait(inside, traffic.hidden, traffic.period_s),
            across_s=sent.across_s + slower,
            beyond=tuple((seconds + slower, count) for seconds, count in sent.beyond),
        ),
        usual,
    )


def crowded_s(messages: Wires, traffic: StageTraffic) -> FloatArray:
    """What hidden messages of one micro-batch add to a stage whose wires are full without them or with them [s]."""
    return wire_queue(traffic.period_s, messages, traffic.hidden + traffic.own)


def closing_sharing(
    table: LayerTable,
    stages: StageTimes,
    message: Wires,
    windows_s: list[FloatArray],
    exchanges: tuple[Exchange, Exchange],
    inputs: Inputs,
) -> list[dict[str, FloatArray]]:
    """Queue and wait of the exchanges of weights and gradients beside the last passes of a stage [s].

    ``exchanges`` and ``windows_s`` are those of the forward and of the backward pass [s]; of layers' exchanges the
    stage with the fewest layers counts, and one ``message`` to the next stage. Raises nothing.
    """
    fewest = stages.least(stages.n_layers)
    found = []
    for done, window_s, own in zip(exchanges, windows_s, layer_wires(table), strict=True):
        hidden, others = exchange_wires(done, inputs.fabric), own.times(fewest) + message
        found.append(
            {
                "queue_s": wire_queue(done.seconds, hidden, others),
                "wait_s": wire_wait(others, hidden, window_s),
            }
        )
    return found
