"""Memory that a model's tensors do not show: temporaries of the loss, flat copies of an engine, and fragmentation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.rules import rule

__all__ = ["flat_copies", "fragmented", "loss_temporaries", "narrow_logits", "stage_outputs"]

FloatArray = NDArray[np.float64]
LOGIT_BYTES = 4.0


@rule(
    symbol="L",
    formula="c 4 T ceil(V / t)",
    unit="B",
    source="PyTorch, torch.nn.functional.cross_entropy without a compiler: the gradient of the negative log likelihood "
    "and that of the logarithm of softmax are tensors of their own beside the kept result",
)
def loss_temporaries(
    *, copies: FloatArray, tokens: FloatArray, vocab: FloatArray, tensor_parallel: FloatArray
) -> FloatArray:
    """Copies of the logits in 32 bits that live at once beside the kept one [byte]; counts [1] broadcast.

    Raises nothing.
    """
    return copies * LOGIT_BYTES * tokens * np.ceil(vocab / tensor_parallel)


@rule(
    symbol="L16",
    formula="T ceil(V / t) b",
    unit="B",
    source="torch.compile of the loss: softmax and its gradient are one kernel each, which read and write the logits "
    "in the type they were computed in",
)
def narrow_logits(
    *, tokens: FloatArray, vocab: FloatArray, tensor_parallel: FloatArray, activation_bytes: FloatArray
) -> FloatArray:
    """Logits in the type of the activations [byte]; counts [1], width [byte]; broadcasts; raises nothing."""
    return tokens * np.ceil(vocab / tensor_parallel) * activation_bytes


@rule(
    symbol="Mf",
    formula="N (bg + bo) / d + min(N, B) bg",
    unit="B",
    source="DeepSpeed, runtime/zero/stage_1_and_2.py: the step flattens its share of the gradients and casts it to the "
    "optimizer's type, gradients are reduced in buckets of 5e8 elements; a caching allocator gives so large blocks "
    "memory of their own",
)
def flat_copies(
    *,
    parameters: FloatArray,
    gradient_bytes: FloatArray,
    master_bytes: FloatArray,
    shards: FloatArray,
    bucket_elements: FloatArray,
) -> FloatArray:
    """Flat copies of gradients, and the bucket that is reduced [byte]; counts [1], widths [byte]; raises nothing."""
    flat = parameters * (gradient_bytes + master_bytes) / shards
    return flat + np.minimum(parameters, bucket_elements) * gradient_bytes


@rule(
    symbol="Mo",
    formula="[p > 1] (k + 1) T h b",
    unit="B",
    source="DeepSpeed, runtime/pipe/engine.py and schedule.py: every buffer of a micro-batch holds the stage's output "
    "until its gradient arrives, and there is one buffer more than micro-batches in flight",
)
def stage_outputs(
    *,
    in_flight: FloatArray,
    tokens: FloatArray,
    hidden: FloatArray,
    activation_bytes: FloatArray,
    pipeline_parallel: FloatArray,
) -> FloatArray:
    """Outputs of a stage that an engine keeps for micro-batches in flight [byte]; counts [1]; raises nothing."""
    return (pipeline_parallel > 1) * (in_flight + 1.0) * tokens * hidden * activation_bytes


@rule(
    symbol="Mx",
    formula="x M",
    unit="B",
    source="PyTorch documentation, CUDA memory management: reserved against allocated memory of the caching allocator",
)
def fragmented(*, held_bytes: FloatArray, fragmentation: FloatArray) -> FloatArray:
    """What an allocator holds beyond what is in use [byte]; ``fragmentation`` [1] is a stated share; raises nothing."""
    return fragmentation * held_bytes
