"""Kinds of layers in one model: who sees all keys, and who has experts.

Layers are counted from 1. Where some see a window or a chunk of the keys only, every ``global_every``-th sees all of
them; every ``experts_every``-th has experts, but for those in front, and the others have the one MLP.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from workloads.model_spec import ModelSpec

__all__ = [
    "KINDS",
    "LAYER",
    "LayerKind",
    "both_every",
    "dense_layers",
    "kinds_of",
    "layers_behind",
    "layers_in_front",
    "over_layers",
    "period_of_kinds",
    "spec_layers",
]


@dataclass(frozen=True, slots=True)
class LayerKind:
    """One kind of layer of a stack.

    Attributes
    ----------
    sees_all : bool
        Sees all keys in a stack where other layers see a window or a chunk of them.
    dense : bool
        Has the one MLP in a stack where other layers have experts.
    """

    sees_all: bool = False
    dense: bool = False

    @property
    def name(self) -> str:
        """Name of its block: "layer", "dense_layer", "global_layer" or "global_dense_layer"."""
        return ("global_" if self.sees_all else "") + ("dense_" if self.dense else "") + "layer"


# The only kind of a uniform stack, and the local one with experts (if there are any) of a mixed one.
LAYER = LayerKind()
KINDS: tuple[LayerKind, ...] = tuple(
    LayerKind(sees_all, dense) for sees_all in (False, True) for dense in (False, True)
)


def _of_kind(kind: LayerKind, n: Any, global_every: Any, experts_every: Any, both_every: Any) -> Any:
    """Layers of a kind among the first ``n``, were none of them in front of those with experts."""
    both = np.floor(n / both_every)
    seeing = np.floor(n / global_every) if kind.sees_all else n - np.floor(n / global_every)
    experts = both if kind.sees_all else np.floor(n / experts_every) - both
    return seeing - experts if kind.dense else experts


def layers_in_front(kind: LayerKind, model: Any) -> Any:
    """Layers of a kind in front of those with experts [1].

    ``model`` has ``n_layers``, ``first_dense``, ``global_every`` (infinite where layers do not differ in what they
    see), ``experts_every`` (1 where they do not differ in experts) and ``both_every``, the least common multiple of
    both, as numbers or as arrays that broadcast. Raises nothing.
    """
    if not kind.dense:
        return np.zeros(1)
    seeing = np.floor(model.first_dense / model.global_every)
    return seeing if kind.sees_all else model.first_dense - seeing


def layers_behind(kind: LayerKind, model: Any) -> Any:
    """Layers of a kind behind those in front [1]; ``model`` as in :func:`layers_in_front`. Raises nothing."""
    every = (model.global_every, model.experts_every, model.both_every)
    return _of_kind(kind, model.n_layers, *every) - _of_kind(kind, model.first_dense, *every)


def dense_layers(model: Any) -> Any:
    """Layers with the one MLP in a model with experts [1]; ``model`` as in :func:`layers_in_front`. Raises nothing."""
    some = np.any(model.experts_every > 1) or np.any(model.first_dense > 0)
    return (
        sum(layers_in_front(k, model) + layers_behind(k, model) for k in KINDS if k.dense)
        if some
        else np.zeros(1)
    )


def over_layers(local: Any, whole: Any, model: Any) -> Any:
    """Mean over layers of what those with a window or a chunk have, and what those that see all keys have [any].

    ``model`` as in :func:`layers_in_front`; ``local`` itself where no layer sees more than others. Raises nothing.
    """
    if not np.any(np.isfinite(model.global_every)):
        return local
    share = np.floor(model.n_layers / model.global_every) / model.n_layers
    return local + (whole - local) * share


@dataclass(frozen=True, slots=True)
class _Numbers:
    n_layers: float
    first_dense: float
    global_every: float
    experts_every: float
    both_every: float


def both_every(global_every: int | None, experts_every: int) -> float:
    """Which layers see all keys and have experts: every n-th, infinite where none sees more than others [1]."""
    return math.inf if global_every is None else float(math.lcm(global_every, experts_every))


def spec_layers(model: ModelSpec) -> dict[LayerKind, int]:
    """Layers of each kind that a model has, in the order of :data:`KINDS`; raises nothing."""
    every = model.global_attention_every
    numbers = _Numbers(
        n_layers=model.n_layers,
        first_dense=model.first_dense_layers,
        global_every=math.inf if every is None else every,
        experts_every=model.experts_every,
        both_every=both_every(every, model.experts_every),
    )
    counts = {kind: layers_in_front(kind, numbers) + layers_behind(kind, numbers) for kind in KINDS}
    return {kind: int(np.sum(n)) for kind, n in counts.items() if np.sum(n) > 0}


def kinds_of(model: ModelSpec) -> Sequence[LayerKind]:
    """Kinds of layers that a model has; raises nothing."""
    return tuple(spec_layers(model))


def period_of_kinds(model: ModelSpec) -> int:
    """Layers after which a model's kinds of layers repeat, those in front left aside; raises nothing."""
    return math.lcm(model.global_attention_every or 1, model.experts_every)
