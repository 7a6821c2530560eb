"""Memory that a model's tensors do not show: temporaries of the loss, flat copies of an engine, and fragmentation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import Inputs
from simulator.rules import at, rule

__all__ = [
    "bucket_copy",
    "bucket_copy_bytes",
    "chunked_gradients",
    "chunked_logits",
    "engine_bytes",
    "flat_copies",
    "fragmented",
    "head_kept_bytes",
    "head_working_bytes",
    "loss_temporaries",
    "narrow_logits",
    "stage_outputs",
]

FloatArray = NDArray[np.float64]
LOGIT_BYTES = 4.0
# Of DeepSpeed: the type that a step casts gradients to [byte], and the default of reduce_bucket_size [1].
MASTER_BYTES, DEEPSPEED_BUCKET = 4.0, 5e8


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
    symbol="Lc",
    formula="2^ceil(log2 ceil(T / ceil(V / h))) ceil(V / t) b",
    unit="B",
    source="Hsu et al., Liger Kernel, arXiv:2410.10989, section 3.2 (fused linear cross-entropy): tokens in chunks of "
    "a power of two, so that the logits of one are about as large as the head's input; the gradient overwrites them",
)
def chunked_logits(
    *,
    tokens: FloatArray,
    vocab: FloatArray,
    hidden: FloatArray,
    tensor_parallel: FloatArray,
    activation_bytes: FloatArray,
) -> FloatArray:
    """Logits of one chunk of tokens [byte]; counts [1], width [byte]; broadcasts; raises nothing."""
    chunk = 2.0 ** np.ceil(np.log2(np.ceil(tokens / np.ceil(vocab / hidden))))
    return np.minimum(chunk, tokens) * np.ceil(vocab / tensor_parallel) * activation_bytes


@rule(
    symbol="Gc",
    formula="(T + ceil(V / t)) h b",
    unit="B",
    source="Hsu et al., Liger Kernel, arXiv:2410.10989, section 3.2: gradients of the head's input and of its matrix "
    "are made in the forward pass and kept",
)
def chunked_gradients(
    *,
    tokens: FloatArray,
    vocab: FloatArray,
    hidden: FloatArray,
    tensor_parallel: FloatArray,
    activation_bytes: FloatArray,
) -> FloatArray:
    """What a loss in chunks keeps in place of logits [byte]; counts [1], width [byte]; broadcasts; raises nothing."""
    return (tokens + np.ceil(vocab / tensor_parallel)) * hidden * activation_bytes


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


@rule(
    symbol="Mb",
    formula="[w != g] min(N, B) w",
    unit="B",
    source="PyTorch, torch/distributed/algorithms/ddp_comm_hooks/default_hooks.py: a bucket is cast to the type that "
    "it is sent in",
)
def bucket_copy(
    *,
    parameters: FloatArray,
    bucket_elements: FloatArray,
    gradient_bytes: FloatArray,
    communication_bytes: FloatArray,
) -> FloatArray:
    """A bucket of gradients in the type that it is sent in, where that is another one [byte].

    Counts [1] and widths [byte] broadcast; raises nothing.
    """
    sent = np.minimum(parameters, bucket_elements) * communication_bytes
    return (communication_bytes != gradient_bytes) * sent


def bucket_copy_bytes(inputs: Inputs, parameters: FloatArray) -> FloatArray:
    """What a bucket of the plan's size takes beside gradients of ``parameters`` [byte]; raises nothing."""
    given = inputs.plan.gradient_bucket
    copied = bucket_copy(
        parameters=parameters,
        bucket_elements=np.nan_to_num(given),
        gradient_bytes=inputs.precision.gradients,
        communication_bytes=inputs.precision.gradient_communication,
    )
    return np.where(np.isnan(given) | (inputs.plan.gradient_ranks == 1), 0.0, copied)


def _tokens(inputs: Inputs) -> FloatArray:
    return inputs.plan.micro_batch_size * inputs.task.query_length / inputs.plan.context_parallel


def _narrow(inputs: Inputs) -> FloatArray:
    return narrow_logits(
        tokens=_tokens(inputs),
        vocab=inputs.model.vocab,
        tensor_parallel=inputs.plan.tensor_parallel,
        activation_bytes=inputs.precision.activations,
    )


def head_working_bytes(inputs: Inputs, largest_operator_bytes: FloatArray) -> FloatArray:
    """Most that head and loss hold beside what they keep [byte]; the least is one operator's set. Raises nothing."""
    plan = inputs.plan
    of_loss = loss_temporaries(
        copies=plan.loss_copies,
        tokens=_tokens(inputs),
        vocab=inputs.model.vocab,
        tensor_parallel=plan.tensor_parallel,
    )
    working = np.maximum(largest_operator_bytes, of_loss)
    if np.any(plan.loss_compiled):
        working = np.where(plan.loss_compiled > 0, _narrow(inputs), working)
    if np.any(plan.loss_chunked):
        working = np.where(plan.loss_chunked > 0, chunked_logits(**_of_head(inputs)), working)
    return working


def _of_head(inputs: Inputs) -> dict[str, FloatArray]:
    """Sizes of the head, by the names that the rules have for them."""
    return {
        "tokens": _tokens(inputs),
        "vocab": inputs.model.vocab,
        "hidden": inputs.model.hidden,
        "tensor_parallel": inputs.plan.tensor_parallel,
        "activation_bytes": inputs.precision.activations,
    }


def head_kept_bytes(inputs: Inputs, kept_bytes: FloatArray) -> FloatArray:
    """What the head keeps of one micro-batch [byte].

    A compiled loss keeps the logits as they were computed, one in chunks keeps gradients instead. Raises nothing.
    """
    plan = inputs.plan
    if not np.any(plan.loss_compiled + plan.loss_chunked):
        return kept_bytes
    with at("memory.activations_bytes"):
        narrow = _narrow(inputs)
        wide = narrow * LOGIT_BYTES / inputs.precision.activations
        kept = kept_bytes - plan.loss_compiled * (wide - narrow)
        if np.any(plan.loss_chunked):
            kept = kept - plan.loss_chunked * (wide - chunked_gradients(**_of_head(inputs)))
    return kept


def engine_bytes(inputs: Inputs, parameters: FloatArray, in_flight: FloatArray) -> FloatArray:
    """What DeepSpeed holds beside states of ``parameters`` and ``in_flight`` micro-batches [1]; else 0 [byte].

    Raises nothing.
    """
    plan, precision = inputs.plan, inputs.precision
    flat = flat_copies(
        parameters=parameters,
        gradient_bytes=precision.gradients,
        master_bytes=np.full(1, MASTER_BYTES),
        shards=np.where(plan.zero_stage >= 1, plan.zero_group, 1.0),
        bucket_elements=np.where(np.isnan(plan.gradient_bucket), DEEPSPEED_BUCKET, plan.gradient_bucket),
    )
    outputs = stage_outputs(
        in_flight=in_flight,
        tokens=_tokens(inputs),
        hidden=inputs.model.hidden,
        activation_bytes=precision.activations,
        pipeline_parallel=plan.pipeline_parallel,
    )
    return plan.deepspeed * (flat + outputs)
