"""What the backward pass has to run again: named modules of a layer, or what is needed beside named results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from workloads.operator_graph import FloatArray, Operator, Tensor, elements

__all__ = [
    "KEPT_WORDS",
    "MODULES",
    "RecomputedModule",
    "kept_tensors",
    "modules_run_again",
    "shares_dropped",
    "shares_run_again",
]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class RecomputedModule:
    """A part of a layer that may run again in the backward pass.

    Attributes
    ----------
    holds : callable
        Whether an operator belongs to it; the second argument says whether the layer has experts.
    gives_back : bool
        Whether its results are given back once they were read; else what others read of it stays.
    """

    holds: Callable[[Operator, bool], bool]
    gives_back: bool


def _in_mlp(op: Operator) -> bool:
    """Of the one MLP, or of the experts that all tokens pass: its norm and its residual addition are not."""
    return op.module == "mlp" and not op.name.startswith(("mlp_norm", "mlp_residual"))


# Words of Megatron-core's --recompute-modules. Its documentation says which are checkpoints, whose results stay, and
# which give their results back; norms are those in front of the branches.
MODULES: Mapping[str, RecomputedModule] = {
    "core_attn": RecomputedModule(holds=lambda op, _: op.module == "attention_core", gives_back=False),
    "layernorm": RecomputedModule(
        holds=lambda op, _: op.name.startswith(("attention_norm", "mlp_norm")), gives_back=True
    ),
    "mla_up_proj": RecomputedModule(
        holds=lambda op, _: op.name in ("query_up", "query_projection", "kv_up", "rotary"), gives_back=True
    ),
    "mlp": RecomputedModule(holds=lambda op, experts: _in_mlp(op) and not experts, gives_back=False),
    "moe": RecomputedModule(
        holds=lambda op, experts: experts and (op.module in ("router", "experts") or _in_mlp(op)),
        gives_back=False,
    ),
    "moe_act": RecomputedModule(holds=lambda op, _: op.kind == "expert_activation", gives_back=True),
    "shared_experts": RecomputedModule(holds=lambda op, experts: experts and _in_mlp(op), gives_back=False),
}


def makers(forward: Sequence[Operator]) -> dict[str, Operator]:
    """The operator that makes each tensor of a layer, by the tensor's name.

    Exchanges and passes that narrow a tensor hand on what another one made, and are there or not with other rows of a
    sweep. Raises nothing.
    """
    return {t.name: op for op in forward if op.kind not in ("collective", "quantise") for t in op.writes}


def _has_experts(forward: Sequence[Operator]) -> bool:
    return any(op.module == "experts" for op in forward)


def modules_run_again(forward: Sequence[Operator], chosen: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Share of each operator that runs a second time because a module that it belongs to does [1].

    Parameters
    ----------
    forward : sequence of Operator
        One layer in issue order, sharded or not.
    chosen : mapping of str to ndarray
        By the words of :data:`MODULES`: 1 where the module runs again, or the share of layers in which it does [1].

    Returns
    -------
    dict
        By the operator's name; zero for what no chosen module holds.

    Raises
    ------
    KeyError
        If a word is unknown.
    """
    experts = _has_experts(forward)
    again: dict[str, FloatArray] = {}
    for op in forward:
        share = NOTHING
        for word, switch in chosen.items():
            if MODULES[word].holds(op, experts):
                share = np.maximum(share, switch)
        again[op.name] = share
    return again


def shares_dropped(forward: Sequence[Operator], chosen: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Share of each kept tensor that is given up because the chosen modules make it again [1].

    A module drops what is made and kept inside modules that run again; one that gives back drops all that it makes.
    Input of a module stays, unless a module that gives back made it.

    Parameters
    ----------
    forward : sequence of Operator
        One layer in issue order, sharded or not.
    chosen : mapping of str to ndarray
        As for :func:`modules_run_again` [1].

    Returns
    -------
    dict
        By the tensor's name, of all that operators keep.

    Raises
    ------
    KeyError
        If a word is unknown.
    """
    again = modules_run_again(forward, chosen)
    back = modules_run_again(forward, {w: s for w, s in chosen.items() if MODULES[w].gives_back})
    maker = {name: op.name for name, op in makers(forward).items()}
    inside: dict[str, FloatArray] = {}
    for op in forward:
        for tensor in op.saved:
            if tensor.name in maker:
                before = inside.get(tensor.name, again[maker[tensor.name]])
                inside[tensor.name] = np.minimum(before, again[op.name])
    return {name: np.maximum(share, back[maker[name]]) for name, share in inside.items()}
