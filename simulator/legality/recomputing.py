"""Named rules of what runs again in the backward pass; importing this module registers them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from hardware_specs.errors import Problem
from simulator.arrays.columns import FloatArray
from simulator.legality.registry import BoolArray, Combination, legality_rule, one_of
from simulator.legality.training_options import recompute_word
from workloads.rematerialisation import KEPT_WORDS, MODULES

__all__: list[str] = []


@legality_rule(
    "kept results need recompute: needed",
    lambda c: Problem(
        path="plan.recompute_keeps",
        value=f"given, with recompute {recompute_word(c)}",
        rule="is read where recompute is needed only",
        fix="set plan.recompute=needed, or leave recompute_keeps out",
    ),
)
def _keeps_something(c: Combination) -> BoolArray:
    return (c.plan.recompute_kept > 0) & (c.plan.recompute_needed == 0)


def _modules_problem(c: Combination) -> Problem:
    if c.plan.recompute_named[0]:
        return Problem(
            path="plan.recompute_modules",
            value="names none, with recompute modules",
            rule="says which parts of a layer run again",
            fix=f"name some of {', '.join(MODULES)}, or set plan.recompute=none",
        )
    return Problem(
        path="plan.recompute_modules",
        value=f"given, with recompute {recompute_word(c)}",
        rule="is read where recompute is modules only",
        fix="set plan.recompute=modules, or leave recompute_modules out",
    )


@legality_rule("named modules need recompute: modules", _modules_problem)
def _names_something(c: Combination) -> BoolArray:
    return (c.plan.recompute_modules > 0) != (c.plan.recompute_named > 0)


def _given(codes: FloatArray, words: Collection[str], word: str) -> BoolArray:
    """Whether a word is among those of a sum of 2^i."""
    return np.mod(np.floor(codes / 2.0 ** list(words).index(word)), 2.0) > 0


def _has_plain_layers(c: Combination) -> BoolArray:
    """Whether some layers have the one MLP."""
    m = c.model
    return (m.experts == 0) | (m.first_dense > 0) | (m.experts_every > 1)


def _absent_modules(c: Combination) -> dict[str, BoolArray]:
    """Where a model lacks what a word of the modules stands for."""
    m = c.model
    return {
        "mla_up_proj": m.kv_rank == 0,
        "mlp": ~_has_plain_layers(c),
        "moe": m.experts == 0,
        "moe_act": m.experts == 0,
        "shared_experts": m.shared_ffn == 0,
    }


def _absent_results(c: Combination) -> dict[str, BoolArray]:
    """Where a model lacks what a word of the kept results stands for: experts' rows have no word."""
    no_mlp = ~_has_plain_layers(c) & (c.model.shared_ffn == 0)
    return {"gate": no_mlp | (c.gated == 0), "up": no_mlp, "mlp_out": no_mlp}


WHY: Mapping[str, str] = {
    "mla_up_proj": "has no latent attention",
    "mlp": "has experts in every layer",
    "moe": "has no experts",
    "moe_act": "has no experts",
    "shared_experts": "has no shared experts",
    "gate": "has no MLP with a gate",
    "up": "has experts in every layer",
    "mlp_out": "has experts in every layer",
}


def _missing(codes: FloatArray, words: Collection[str], absent: Mapping[str, BoolArray]) -> list[str]:
    return [w for w in words if w in absent and bool((absent[w] & _given(codes, words, w))[0])]


def _broken(codes: FloatArray, words: Collection[str], absent: Mapping[str, BoolArray]) -> BoolArray:
    broken = np.zeros(1, dtype=bool)
    for word, lacking in absent.items():
        broken = broken | (lacking & _given(codes, words, word))
    return broken


def _absent_problem(
    path: str, codes: FloatArray, words: Collection[str], absent: Mapping[str, BoolArray]
) -> Problem:
    missing = _missing(codes, words, absent)
    left = [w for w in words if not (w in absent and absent[w][0])]
    return Problem(
        path=path,
        value=" ".join(missing),
        rule=f"the model {' and '.join(dict.fromkeys(WHY[w] for w in missing))}",
        fix=f"leave {'them' if len(missing) > 1 else 'it'} out; this model has {', '.join(left)}",
    )


@legality_rule(
    "recomputed modules are in the model",
    lambda c: _absent_problem(
        "plan.recompute_modules", c.plan.recompute_modules, MODULES, _absent_modules(c)
    ),
)
def _modules_exist(c: Combination) -> BoolArray:
    return _broken(c.plan.recompute_modules, MODULES, _absent_modules(c))


@legality_rule(
    "kept results are in the model",
    lambda c: _absent_problem("plan.recompute_keeps", c.plan.recompute_kept, KEPT_WORDS, _absent_results(c)),
)
def _results_exist(c: Combination) -> BoolArray:
    return _broken(c.plan.recompute_kept, KEPT_WORDS, _absent_results(c))


@legality_rule(
    "layers that recompute have a way to",
    lambda c: Problem(
        path="plan.recompute_layers",
        value=one_of(c.plan.recompute_layers),
        rule=f"layers of a stage recompute in some way, not {recompute_word(c)}",
        fix="set plan.recompute to another word than none, or leave recompute_layers out",
    ),
)
def _some_layers(c: Combination) -> BoolArray:
    given = ~np.isnan(c.plan.recompute_layers)
    return given & (c.plan.recompute_core == 0) & (c.plan.recompute_named == 0)
