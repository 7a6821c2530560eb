"""The optimizer step over the parameters that one device owns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from workloads.operator_graph import (
    ONE,
    WEIGHT_KINDS,
    FloatArray,
    Graph,
    GraphBuilder,
    Operator,
    Tensor,
    dim,
    length,
)

__all__ = ["newton_schulz", "optimizer_step"]
# Steps of Muon's iteration that orthogonalises an update (Liu et al., arXiv:2502.16982, section 2.1).
NEWTON_SCHULZ_STEPS = 5.0
PRODUCTS = ("matmul", "wide_matmul", "grouped_matmul")
NONE: FloatArray = np.zeros(1)


def optimizer_step(
    owned_parameters: FloatArray,
    *,
    narrow_gradients: FloatArray,
    narrow_weights: FloatArray,
    factored: FloatArray = NONE,
    weights_apart: FloatArray = NONE,
) -> Graph:
    """Graph of gradient clipping and one update of mixed-precision training.

    Gradients are brought to the master's type (and unscaled), their norm is taken, they are clipped, the
    states are updated, and the working weights are written from the master copy: five passes over memory.

    Parameters
    ----------
    owned_parameters : ndarray, shape (n,) or (1,)
        Parameters whose optimizer states and reduced gradients live on the device [1].
    narrow_gradients, narrow_weights : ndarray
        1 where gradients, and working weights, are stored in fewer bits than the master copy [1].
    factored : ndarray
        1 where second moments are rows and columns (Adafactor): one more pass sums squares up, and one takes the
        root mean square of the update [1].
    weights_apart : ndarray
        1 where the states hold no copy of the weights, which are then read and written by themselves [1].

    Returns
    -------
    networkx.DiGraph
        Operators ``gradient_cast``, ``gradient_norm``, ``gradient_clip``, ``adam`` (the update, whichever it is) and
        ``weights_cast``; ``factored_moments``, ``update_norm`` and ``weights_update`` where they are asked for.

    Raises
    ------
    ValueError
        Never for the fixed names.
    """
    owned = dim("parameters", owned_parameters)
    gradients = Tensor("gradients", "gradients", (owned,))
    wide = Tensor("gradients_wide", "statistics", (owned,))
    norm = Tensor("norm", "statistics", (dim("one", 1.0),))
    states = Tensor("optimizer_states", "master", (owned,))
    master = Tensor("master_weights", "statistics", (owned,))
    weights = Tensor("weights", "weights", (owned,))
    build = GraphBuilder(inputs=(gradients, states))

    def add(
        name: str, kind: str, reads: tuple[Tensor, ...], writes: tuple[Tensor, ...], scale: FloatArray = ONE
    ) -> None:
        build.add(
            Operator(
                name=name,
                kind=kind,
                module="optimizer",
                phase="optimizer",
                reads=reads,
                writes=writes,
                scale=scale,
            )
        )

    add("gradient_cast", "optimizer", (gradients,), (wide,), narrow_gradients)
    add("gradient_norm", "optimizer", (wide,), (norm,))
    add("gradient_clip", "optimizer", (wide, norm), (wide,))
    if np.any(factored):
        add("factored_moments", "optimizer", (wide,), (norm,), factored)
        add("update_norm", "optimizer", (wide,), (norm,), factored)
    add("adam", "optimizer", (wide, states), (states,))
    if np.any(weights_apart):
        add("weights_update", "optimizer", (weights,), (weights,), weights_apart)
    add("weights_cast", "optimizer", (master,), (weights,), narrow_weights)
    build.graph.graph["kind"] = "optimizer"
    return build.graph


def newton_schulz(layer: Sequence[Operator], *, experts: bool) -> Graph:
    """Products by which Muon orthogonalises the updates of one layer's matrices, as they lie on one device.

    Each step takes A = X X^T, A A and (b A + c A A) X, X having fewer rows than columns, in the activations' type: the
    iteration runs in 16 bits whatever types a recipe has for the layers' products.

    Parameters
    ----------
    layer : sequence of Operator
        Sharded operators of a forward layer.
    experts : bool
        Matrices of experts, or all others.

    Returns
    -------
    networkx.DiGraph
        Three products for each matrix, ``NEWTON_SCHULZ_STEPS`` times; empty where there is no matrix.

    Raises
    ------
    ValueError
        If two matrices have one name.
    """
    build = GraphBuilder()
    for op in layer:
        for weight in op.reads:
            if op.kind in PRODUCTS and weight.kind in WEIGHT_KINDS:
                several = any(part.label == "experts" for extent in weight.extents for part in extent)
                # A bias is no matrix, nor are those of experts side by side.
                if several == experts and len(weight.extents) > 1 + several:
                    _add_matrix(build, weight)
    build.graph.graph["kind"] = "newton_schulz"
    return build.graph


def _add_matrix(build: GraphBuilder, weight: Tensor) -> None:
    sides = [length(extent) for extent in weight.extents[-2:]]
    short, long = dim("short", np.minimum(*sides)), dim("long", np.maximum(*sides))
    batch = weight.extents[0] if len(weight.extents) > 2 else dim("one", 1.0)
    shape = {"x": (short, long), "a": (short, short)}

    def tensor(name: str, which: str) -> Tensor:
        return Tensor(f"{weight.name}.{name}", "activations", (batch, *shape[which]))

    x, a, b, y = tensor("x", "x"), tensor("a", "a"), tensor("b", "a"), tensor("y", "x")
    products = (
        ("gram", (x,), a, short, long),
        ("square", (a,), b, short, short),
        ("update", (b, x), y, long, short),
    )
    for name, reads, written, n, k in products:
        build.add(
            Operator(
                name=f"{weight.name}.{name}",
                kind="wide_matmul",
                module="optimizer",
                phase="optimizer",
                extents={"batch": batch, "m": short, "n": n, "k": k},
                reads=reads,
                writes=(written,),
                scale=np.full(1, NEWTON_SCHULZ_STEPS),
            )
        )
