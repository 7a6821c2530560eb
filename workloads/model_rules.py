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
    for key, rule, fix in _attention_problems(values):
        if sound(key):
            problems.append(problem(key, rule, fix))
    for key, rule, fix in _expert_problems(values):
        if sound(key, "experts"):
            problems.append(problem(key, rule, fix))
    for key, rule, fix in _latent_problems(values):
        if sound(key, "kv_lora_rank", "head_dim"):
            problems.append(problem(key, rule, fix))
    return problems


def _attention_problems(values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Key, rule and way out of each mistake about who sees which keys."""
    window, chunk = values.get("sliding_window"), values.get("attention_chunk")
    every = values.get("global_attention_every")
    for key, what, given in (("sliding_window", "window", window), ("attention_chunk", "chunk", chunk)):
        if values.get("causal") is False and given:
            rule = f"is a {what} over the tokens before, and an encoder's tokens see each other"
            yield key, rule, "leave it out, or set causal to true"
    if is_count(window) and is_count(chunk):
        yield "attention_chunk", f"excludes the sliding_window of {window} tokens", "leave one of them out"
    if is_count(every) and not (window or chunk):
        rule = "says which layers see all keys, and all of them do"
        yield "global_attention_every", rule, "leave it out, or set sliding_window or attention_chunk"
    if values.get("global_rotary") is False:
        if every is None:
            fix = "leave it out, or set global_attention_every"
            yield "global_rotary", "is about layers that see more keys than others, and there are none", fix
        elif values.get("positions", "rotary") != "rotary":
            rule = "is about rotary positions, and the model has others"
            yield "global_rotary", rule, "leave it out, or set positions to rotary"


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
    for key in ("qk_norm", "qkv_bias", "separate_qkv", "attention_sinks"):
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
        if is_count(values.get("experts_every")) and values["experts_every"] > 1:
            yield "experts_every", "is about experts, and there are none", "leave it out, or set experts"
        if values.get("router_bias") is True:
            yield "router_bias", "is about experts, and there are none", "set it to false, or set experts"
        return
    if topk == 0:
        yield "experts", "needs topk, how many of them a token is sent to", "set topk"
    elif is_count(topk) and topk > experts:
        yield "topk", f"must be at most the {experts} experts", f"use 1 to {experts}"
    layers, dense = values.get("n_layers"), values.get("first_dense_layers", 0)
    if is_count(dense) and is_count(layers) and dense >= layers:
        yield "first_dense_layers", f"must be below the {layers} layers", "leave layers with experts"
    every, behind = values.get("experts_every", 1), dense if isinstance(dense, int) else 0
    if is_count(every) and is_count(layers) and layers // every <= behind // every and every > 1:
        rule = f"leaves none of the {layers} layers with experts"
        yield "experts_every", rule, f"use at most {layers}, or set experts to 0"


def _nearest_multiple(value: int, step: int) -> int:
    return max(step, round(value / step) * step)
