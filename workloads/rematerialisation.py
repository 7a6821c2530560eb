"""What the backward pass has to run again when it keeps only named results of the forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from workloads.operator_graph import FloatArray, Operator, Tensor, elements

__all__ = ["KEPT_WORDS", "kept_tensors", "shares_run_again"]

NOTHING: FloatArray = np.zeros(1)
DIFFERENTIABLE = ("activations", "operand", "statistics", "mask")
# Words of a plan, and the tensors of a layer that each one stands for, with the share of the tensor [1]: the gate and
# the up projection are one tensor where one product makes both.
KEPT_WORDS: Mapping[str, Mapping[str, float]] = {
    "query": {"query": 1.0},
    "keys": {"keys": 1.0},
    "values": {"values": 1.0},
    "context": {"attention_context": 1.0, "attention_statistics": 1.0},
    "attention_out": {"attention_out": 1.0},
    "gate": {"mlp_up_out": 0.5, "mlp_gate_out": 1.0},
    "up": {"mlp_up_out": 0.5},
    "mlp_out": {"mlp_out": 1.0},
}


def kept_tensors(words: Mapping[str, FloatArray], *, joined: bool) -> dict[str, FloatArray]:
    """Share of each tensor that is kept [1].

    Parameters
    ----------
    words : mapping of str to ndarray
        1 where a row's plan keeps what the word of :data:`KEPT_WORDS` stands for, else 0 [1].
    joined : bool
        Whether one product makes the gate and the other half of a gated MLP; else "up" is the whole tensor.

    Returns
    -------
    dict
        Shares by the tensor's name [1].

    Raises
    ------
    KeyError
        If a word is unknown.
    """
    shares: dict[str, FloatArray] = {}
    for word, switch in words.items():
        for name, share in KEPT_WORDS[word].items():
            if name == "mlp_up_out" and not joined:
                share = float(word == "up")
            shares[name] = np.minimum(shares.get(name, NOTHING) + share * switch, 1.0)
    return shares


def shares_run_again(forward: Sequence[Operator], kept: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Share of each operator that runs a second time [1].

    An operator runs again for what the backward pass, or another operator that runs again, reads of its results and
    nobody kept. What nobody reads is not made: the last product of a layer is never repeated, as in PyTorch's
    checkpoints without re-entrance and in compiled code.

    Parameters
    ----------
    forward : sequence of Operator
        One layer in issue order, not sharded.
    kept : mapping of str to ndarray
        Share of a tensor that is kept [1], by its name; others are not.

    Returns
    -------
    dict
        By the operator's name, between 0 and 1: parts of a product that makes several tensors. Raises nothing.
    """
    wanted: dict[str, FloatArray] = {}
    for op in forward:
        for tensor in op.saved:
            wanted[tensor.name] = np.ones(1)
    again: dict[str, FloatArray] = {}
    for op in reversed(forward):
        made = [t for t in op.writes if t.kind in DIFFERENTIABLE]
        share = _share(made, wanted, kept)
        again[op.name] = share
        some = (share > 0.0).astype(np.float64)
        for tensor in op.reads:
            if tensor.kind in DIFFERENTIABLE:
                wanted[tensor.name] = np.maximum(wanted.get(tensor.name, NOTHING), some)
    return again


def _share(
    made: Sequence[Tensor], wanted: Mapping[str, FloatArray], kept: Mapping[str, FloatArray]
) -> FloatArray:
    """Part of what an operator makes that is wanted and not kept, by elements [1]."""
    missing, total = NOTHING, NOTHING
    for tensor in made:
        size = elements(tensor)
        absent = wanted.get(tensor.name, NOTHING) * (1.0 - kept.get(tensor.name, NOTHING))
        missing, total = missing + size * absent, total + size
    return np.divide(missing, total, out=np.zeros(np.broadcast(missing, total).shape), where=total > 0)
