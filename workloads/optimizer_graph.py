"""The optimizer step over the parameters that one device owns."""

from __future__ import annotations

from workloads.operator_graph import ONE, FloatArray, Graph, GraphBuilder, Operator, Tensor, dim


def optimizer_step(
    owned_parameters: FloatArray, *, narrow_gradients: FloatArray, narrow_weights: FloatArray
) -> Graph:
    """Graph of gradient clipping and one Adam update of mixed-precision training.

    Gradients are brought to the master's type (and unscaled), their norm is taken, they are clipped, the
    states are updated, and the working weights are written from the master copy: five passes over memory.

    Parameters
    ----------
    owned_parameters : ndarray, shape (n,) or (1,)
        Parameters whose optimizer states and reduced gradients live on the device [1].
    narrow_gradients, narrow_weights : ndarray
        1 where gradients, and working weights, are stored in fewer bits than the master copy [1].

    Returns
    -------
    networkx.DiGraph
        Operators ``gradient_cast``, ``gradient_norm``, ``gradient_clip``, ``adam`` and ``weights_cast``.

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
    add("adam", "optimizer", (wide, states), (states,))
    add("weights_cast", "optimizer", (master,), (Tensor("weights", "weights", (owned,)),), narrow_weights)
    build.graph.graph["kind"] = "optimizer"
    return build.graph
