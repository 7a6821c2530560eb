"""The sharded blocks of a scenario, for tests that count by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from simulator.composition.activations import saved_bytes
from simulator.composition.blocks import cost_blocks
from simulator.estimates.estimate import single_partition
from simulator.spaces.space import space_from
from workloads.model_spec import ModelSpec


def partition_of(scenario: dict[str, Any]):
    """The partition of one scenario."""
    return single_partition(space_from(scenario))


def blocks_of(scenario: dict[str, Any]):
    """Costed blocks of one scenario."""
    partition = partition_of(scenario)
    return cost_blocks(partition.structure, partition.inputs)


def saved_by(scenario: dict[str, Any], block: str = "layer"):
    """Bytes that a block of one scenario saves, by recompute choice, as plain numbers."""
    partition = partition_of(scenario)
    operators = cost_blocks(partition.structure, partition.inputs).forward_operators[block]
    kept = saved_bytes(operators, partition.inputs.precision, {"core_attn": np.ones(1)})
    return {
        "none": float(kept.everything[0]),
        "selective": float((kept.everything - kept.dropped)[0]),
        "full": float(kept.block_input[0]),
    }


def training(model: str | ModelSpec, *, tensor: int = 1, batch: int = 1, length: int = 1024, **plan: Any):
    """A training step of one micro-batch on one A100 node or more."""
    return {
        "model": model,
        "task": {"kind": "training", "sequence_length": length, "global_batch_size": batch},
        "system": "dgx-a100-80gb",
        "devices": tensor,
        "plan": {"tensor_parallel": tensor, "micro_batch_size": batch, **plan},
    }


def flop_of(block, *kinds: str) -> float:
    """FLOP of the operators of some kinds in a costed block."""
    return sum(float(c.work.flop[0]) for c in block.operators if c.operator.kind in kinds)
