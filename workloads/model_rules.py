"""Rules that the shapes of a model must keep among themselves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeGuard

from hardware_specs.errors import Problem, shorten

__all__ = ["MAX_COUNT", "consistency_problems", "is_count"]

MAX_COUNT = 2**31 - 1  # a dimension beyond this is a slip; products of dimensions are taken in float64


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value is a positive whole number, as every dimension must be."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def consistency_problems(
    values: Mapping[str, Any], wrong: Collection[str], path_of: Callable[[str], str]
) -> list[Problem]:
    """Rules that span several keys of a model, checked where all their keys are there.

    Parameters
    ----------
    values : mapping
        Field name -> value; a field that is absent has its default.
    wrong : collection of str
        Fields that are known to be wrong by themselves; no rule is applied to them.
    path_of : callable
        Gives the path to print for a field, which differs between our keys and those of other formats.

    Returns
    -------
    list of Problem
        Empty if the shapes agree with each other.
    """

    def problem(key: str, rule: str, fix: str) -> Problem:
        return Problem(path=path_of(key), value=shorten(values[key]), rule=rule, fix=fix)

    def sound(*keys: str) -> bool:
        return not any(key in wrong for key in keys)

    problems = []
    hidden, heads, kv_heads = (values.get(key) for key in ("hidden", "heads", "kv_heads"))
    head_dim, positions = values.get("head_dim"), values.get("positions", "rotary")
    if head_dim is None and sound("head_dim") and is_count(hidden) and is_count(heads) and hidden % heads:
        rule = f"must be a multiple of {path_of('heads')} = {heads} unless {path_of('head_dim')} is given"
        fix = f"the nearest multiple is {_nearest_multiple(hidden, heads)}"
        problems.append(problem("hidden", rule, fix))
    if sound("heads", "kv_heads") and is_count(heads) and is_count(kv_heads) and heads % kv_heads:
        divisors = [str(n) for n in range(1, min(heads, 4096) + 1) if heads % n == 0]
        fix = f"use one of {', '.join(divisors[:12])}"
        problems.append(problem("kv_heads", f"must divide the {heads} heads", fix))
    if sound("positions", "head_dim") and positions == "rotary" and is_count(head_dim) and head_dim % 2:
        problems.append(problem("head_dim", "must be even, since rotary positions turn pairs of values", ""))
    if sound("norm") and values.get("norm", "rms") == "rms" and values.get("norm_bias") is True:
        problems.append(problem("norm_bias", "an RMS norm has no bias", "set it to false, or norm to layer"))
    if sound("positions") and positions != "learned" and is_count(values.get("position_offset")):
        rule = "counts rows of a learned position table, and there is none"
        problems.append(problem("position_offset", rule, "leave it out, or set positions to learned"))
    if sound("causal", "sliding_window") and values.get("causal") is False and values.get("sliding_window"):
        rule = "is a window over the tokens before, and an encoder's tokens see each other"
        problems.append(problem("sliding_window", rule, "leave it out, or set causal to true"))
    for key, rule, fix in _expert_problems(values):
        if sound(key, "experts"):
            problems.append(problem(key, rule, fix))
    for key, rule, fix in _latent_problems(values):
        if sound(key, "kv_lora_rank", "head_dim"):
            problems.append(problem(key, rule, fix))
    return problems


def _latent_problems(values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Key, rule and way out of each mistake about latent attention."""
    if not is_count(values.get("kv_lora_rank", 0)):
        for key in ("q_lora_rank", "rope_head_dim", "value_head_dim"):
            if is_count(values.get(key)):
                yield key, "is about latent attention, and there is none", "leave it out, or set kv_lora_rank"
        return
    rope, width = values.get("rope_head_dim", 0), values.get("head_dim")
    if not is_count(values.get("value_head_dim", 0)):
        yield "kv_lora_rank", "needs value_head_dim, the width of a value", "set value_head_dim"
    if not is_count(rope) or (is_count(width) and rope >= width):
        fix = "set rope_head_dim, and head_dim to the sum of both parts of a key"
        yield "kv_lora_rank", f"needs a rope_head_dim below the head_dim {width}", fix
    for key in ("qk_norm", "qkv_bias", "separate_qkv"):
        if values.get(key) is True:
            yield key, "is not known beside latent attention", "set it to false"
    if values.get("positions", "rotary") != "rotary":
        yield "kv_lora_rank", "needs rotary positions", "set positions to rotary"


def _expert_problems(values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Key, rule and way out of each mistake about experts."""
    experts, topk = values.get("experts", 0), values.get("topk", 0)
    if not is_count(experts):
        for key in ("topk", "moe_ffn", "shared_experts", "first_dense_layers"):
            if is_count(values.get(key)):
                yield key, "is about experts, and there are none", "leave it out, or set experts"
        return
    if topk == 0:
        yield "experts", "needs topk, how many of them a token is sent to", "set topk"
    elif is_count(topk) and topk > experts:
        yield "topk", f"must be at most the {experts} experts", f"use 1 to {experts}"
    layers, dense = values.get("n_layers"), values.get("first_dense_layers", 0)
    if is_count(dense) and is_count(layers) and dense >= layers:
        yield "first_dense_layers", f"must be below the {layers} layers", "leave layers with experts"
    if values.get("mlp_bias") is True:
        yield "mlp_bias", "experts with biases are not known here", "set it to false"


def _nearest_multiple(value: int, step: int) -> int:
    return max(step, round(value / step) * step)
