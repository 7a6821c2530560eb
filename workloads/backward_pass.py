"""The backward graph of a forward graph: one registered rule per kind of operator.

A rule turns a forward operator into the operators that compute the gradients of its operands. Where a tensor
has several readers their contributions are added by an operator of its own. An operator kind without a
rule is an error, never free of charge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from workloads.operator_graph import (
    ONE,
    WEIGHT_KINDS,
    FloatArray,
    Graph,
    GraphBuilder,
    Operator,
    Tensor,
    operators,
    renamed,
)

# What a rule needs to know of the graph: how the gradient of an operand is to be named for this reader.
GradientOf = Callable[[Tensor], Tensor]
BackwardRule = Callable[[Operator, GradientOf], list[Operator]]
# The registry: backward rules by operator kind, filled by the decorator below.
BACKWARD_RULES: dict[str, BackwardRule] = {}
DIFFERENTIABLE = ("activations", "operand")


def backward_rule(*kinds: str) -> Callable[[BackwardRule], BackwardRule]:
    """Register the backward rule of some operator kinds; raises ValueError when a kind has one."""

    def register(function: BackwardRule) -> BackwardRule:
        for kind in kinds:
            if kind in BACKWARD_RULES:
                raise ValueError(f"operator kind {kind} has a backward rule already")
            BACKWARD_RULES[kind] = function
        return function

    return register


def gradient(tensor: Tensor) -> Tensor:
    """The gradient of a tensor, in the same layout."""
    kind = "activations" if tensor.kind == "operand" else tensor.kind
    return Tensor(f"d_{tensor.name}", kind, tensor.extents)


def arriving_gradients(op: Operator) -> tuple[Tensor, ...]:
    """Gradients of what the operator wrote (masks and statistics have none)."""
    return tuple(gradient(t) for t in op.writes if t.kind in DIFFERENTIABLE)


def operands_of(op: Operator) -> tuple[Tensor, ...]:
    """What an operator reads that has a gradient."""
    return tuple(t for t in op.reads if t.kind in DIFFERENTIABLE)


def as_operand(tensor: Tensor) -> Tensor:
    """The tensor as a product with narrow operands takes it."""
    return replace(tensor, kind="operand")


@backward_rule("matmul", "wide_matmul")
def _matmul(op: Operator, gradient_of: GradientOf) -> list[Operator]:
    """dX = dY W^T and dW = X^T dY: the three sizes trade places, the FLOP stay."""
    (source,) = operands_of(op)
    # Gradients are narrowed for the products whose other operands are.
    arriving = tuple(as_operand(t) if source.kind == "operand" else t for t in arriving_gradients(op))
    weights = tuple(t for t in op.reads if t.kind in WEIGHT_KINDS)
    e = op.extents
    data = Operator(
        name=f"{op.name}.dgrad",
        kind=op.kind,
        module=op.module,
        extents={"batch": e["batch"], "m": e["m"], "n": e["k"], "k": e["n"]},
        contracted=("k",),
        reads=(*arriving, *weights[:1]),
        writes=(gradient_of(source),),
        attributes=op.attributes,
    )
    matrix = Tensor(f"d_{weights[0].name}", "activations", weights[0].extents)
    weight = Operator(
        name=f"{op.name}.wgrad",
        kind=op.kind,
        module=op.module,
        extents={"batch": e["batch"], "m": e["k"], "n": e["n"], "k": e["m"]},
        reads=(*arriving, source),
        writes=(matrix,),
    )
    # The product leaves the gradient in the compute type; it is then added to the accumulator.
    total = Tensor(f"sum_{matrix.name}", "gradients", matrix.extents)
    add = Operator(
        name=f"{op.name}.wgrad_add",
        kind="gradient_sum",
        module=op.module,
        reads=(matrix, total),
        writes=(total,),
    )
    out = [data, weight, add]
    for bias in weights[1:]:
        summed = Tensor(f"d_{bias.name}", "gradients", bias.extents)
        out.append(
            Operator(
                name=f"{op.name}.bgrad",
                kind="pointwise",
                module=op.module,
                reads=arriving_gradients(op),
                writes=(summed,),
            )
        )
    return out


@backward_rule("batched_matmul")
def _batched_matmul(op: Operator, gradient_of: GradientOf) -> list[Operator]:
    """Two products, one for each operand."""
    left, right = operands_of(op)
    e = op.extents
    return [
        Operator(
            name=f"{op.name}.dgrad_left",
            kind="batched_matmul",
            module=op.module,
            extents={"batch": e["batch"], "m": e["m"], "n": e["k"], "k": e["n"]},
            reads=(*arriving_gradients(op), right),
            writes=(gradient_of(left),),
        ),
        Operator(
            name=f"{op.name}.dgrad_right",
            kind="batched_matmul",
            module=op.module,
            extents={"batch": e["batch"], "m": e["k"], "n": e["n"], "k": e["m"]},
            reads=(*arriving_gradients(op), left),
            writes=(gradient_of(right),),
        ),
    ]


@backward_rule("attention", "latent_attention")
def _attention(op: Operator, gradient_of: GradientOf) -> list[Operator]:
    """The fused backward kernel: five products instead of two, the scores among them computed again."""
    return [
        Operator(
            name=f"{op.name}.grad",
            kind=f"{op.kind}_backward",
            module=op.module,
            extents=op.extents,
            reads=(*arriving_gradients(op), *op.saved),
            writes=tuple(gradient_of(t) for t in operands_of(op)),
        )
    ]


@backward_rule("layer_norm", "rms_norm", "pointwise", "activation", "rotary", "softmax")
def _elementwise(op: Operator, gradient_of: GradientOf) -> list[Operator]:
    """Gradients arrive, what was saved is read again, the operands' gradients are written."""
    targets = operands_of(op)
    if not targets:
        return []
    return [
        Operator(
            name=f"{op.name}.grad",
            kind=op.kind,
            module=op.module,
            reads=(*arriving_gradients(op), *op.saved),
            writes=tuple(gradient_of(t) for t in targets),
        )
    ]


@backward_rule("scan")
def _scan(op: Operator, gradient_of: GradientOf) -> list[Operator]:
    """The scan runs backwards, once for its inputs and once for what steers it; what was saved is read again."""
    return [
        Operator(
            name=f"{op.name}.grad_{part}",
            kind=op.kind,
            module=op.module,
            extents=op.extents,
            reads=(*arriving_gradients(op), *op.saved),
            writes=tuple(gradient_of(t) for t in operands_of(op)) if part == "inputs" else (),
        )
        for part in ("steering", "inputs")
    ]


@backward_rule("mask_addition")
def _mask_addition(op: Operator, gradient_of: GradientOf) -> list[Operator]:
    """A constant was added: the gradient is the one that arrives."""
    return [
        Operator(
            name=f"{op.name}.grad",
            kind="view",
            module=op.module,
            reads=arriving_gradients(op),
            writes=tuple(gradient_of(t) for t in operands_of(op)),
        )
    ]


@backward_rule("power")
def _power(op: Operator, gradient_of: GradientOf) -> list[Operator]:
    """n x^(n-1) dy, which eager code takes three kernels for: power, scale, product."""
    (arriving,) = arriving_gradients(op)
    (source,) = operands_of(op)
    lower, scaled = (replace(arriving, name=f"{op.name}_{step}") for step in ("lower", "scaled"))
    steps = (("power", (source,), lower), ("scale", (lower,), scaled))
    first = [
        Operator(
            name=f"{op.name}.grad_{name}", kind="pointwise", module=op.module, reads=reads, writes=(out,)
        )
        for name, reads, out in steps
    ]
    last = Operator(
        name=f"{op.name}.grad",
        kind="pointwise",
        module=op.module,
        reads=(arriving, scaled),
        writes=(gradient_of(source),),
    )
    return [*first, last]


@backward_rule("residual")
def _residual(op: Operator, gradient_of: GradientOf) -> list[Operator]:
    """The stream's gradient passes unchanged; the branch's is masked where there was dropout."""
    branch, stream = op.reads
    (arriving,) = arriving_gradients(op)
    passed = gradient_of(stream)
    out: list[Operator] = []
    if op.saved:
        out.append(
            Operator(
                name=f"{op.name}.grad",
                kind="pointwise",
                module=op.module,
                reads=(arriving, *op.saved),
                writes=(gradient_of(branch), passed),
            )
        )
    else:
        out.append(
            Operator(
                name=f"{op.name}.grad",
                kind="view",
                module=op.module,
                reads=(arriving,),
                writes=(gradient_of(branch), passed),
            )
        )
    return out


@backward_rule("embedding")
def _embedding(op: Operator, gradient_of: GradientOf) -> list[Operator]:
    """Rows of the gradient table are read, added to and written."""
    ids, rows, _ = op.reads
    (arriving,) = arriving_gradients(op)
    sums = Tensor("d_embedding_rows", "gradients", rows.extents)
    return [
        Operator(
            name=f"{op.name}.grad",
            kind="embedding",
            module=op.module,
            reads=(arriving, ids, sums),
            writes=(sums,),
        )
    ]


@backward_rule("position_embedding")
def _position_embedding(op: Operator, gradient_of: GradientOf) -> list[Operator]:
    """The stream's gradient is summed over the batch into the table."""
    stream, table = op.reads
    (arriving,) = arriving_gradients(op)
    return [
        Operator(
            name=f"{op.name}.grad",
            kind="pointwise",
            module=op.module,
            reads=(arriving,),
            writes=(Tensor(f"d_{table.name}", "gradients", table.extents), gradient_of(stream)),
        )
    ]


@backward_rule("cross_entropy")
def _cross_entropy(op: Operator, gradient_of: GradientOf) -> list[Operator]:
    """Softmax minus one at the target."""
    return [
        Operator(
            name=f"{op.name}.grad",
            kind="pointwise",
            module=op.module,
            reads=op.saved,
            writes=tuple(gradient_of(t) for t in operands_of(op)),
        )
    ]


def _readers(forward: Graph) -> dict[str, list[str]]:
    readers: dict[str, list[str]] = {}
    for op in operators(forward):
        for tensor in operands_of(op):
            readers.setdefault(tensor.name, []).append(op.name)
    return readers


def _add_recompute(build: GraphBuilder, forward: Graph, shares: Mapping[str, FloatArray]) -> None:
    for op in operators(forward):
        scale = shares[op.name] * op.scale
        if np.any(scale):
            build.add(renamed(op, name=f"recompute.{op.name}", phase="recompute", scale=scale))


def _sum_contributions(build: GraphBuilder, tensor: Tensor, readers: list[str], module: str) -> None:
    parts = tuple(Tensor(f"d_{tensor.name}.{reader}", "activations", tensor.extents) for reader in readers)
    build.add(
        Operator(
            name=f"{tensor.name}.accumulate",
            kind="pointwise",
            module=module,
            phase="backward",
            group=f"{tensor.name}.accumulate",
            reads=parts,
            writes=(gradient(tensor),),
        )
    )


def backward(
    forward: Graph,
    *,
    run_again: Mapping[str, FloatArray] | None = None,
    accumulates: FloatArray = ONE,
) -> Graph:
    """Backward graph, the recomputation of the forward pass in front.

    Parameters
    ----------
    forward : networkx.DiGraph
        As :func:`workloads.decoder_graph.decoder_layer` returns it.
    run_again : mapping of str to ndarray, optional
        Share of each operator that runs again, by its name, each of shape (n,) or (1,) [1]. Absent: nothing is
        computed again (embedding and head).
    accumulates : ndarray, shape (n,) or (1,)
        1 where gradients of weights are added to those of the micro-batches before, 0 where they are handed over [1].

    Returns
    -------
    networkx.DiGraph
        Operators in issue order, recomputation first; phases are "recompute" and "backward".

    Raises
    ------
    NotImplementedError
        If an operator kind has no backward rule.
    KeyError
        If ``run_again`` lacks an operator.
    """
    readers = _readers(forward)
    sequence = operators(forward)
    of_weights = {f"d_{t.name}" for op in sequence for t in op.reads if t.kind in WEIGHT_KINDS}
    stored = {t.name: t for op in sequence for t in op.saved}
    # Gradients of the graph's results arrive in the layout in which those are handed on.
    arriving = (gradient(t) for t in forward.graph.get("outputs", {}).values())
    build = GraphBuilder(inputs=(*forward.graph["inputs"].values(), *stored.values(), *arriving))
    if run_again is not None:
        _add_recompute(build, forward, run_again)
        # What runs again without its reader leaves its result in the layout in which that took it.
        taken: dict[str, Tensor] = {}
        for op in sequence:
            for tensor in op.reads:
                taken.setdefault(tensor.name, tensor)
        build.graph.graph["outputs"] = taken
    for op in reversed(sequence):
        if op.kind not in BACKWARD_RULES:
            raise NotImplementedError(f"operator kind {op.kind} ({op.name}) has no backward rule")
        for tensor in op.writes:
            if len(readers.get(tensor.name, ())) > 1:
                _sum_contributions(build, tensor, readers[tensor.name], op.module)

        def gradient_of(tensor: Tensor, reader: str = op.name) -> Tensor:
            grad = gradient(tensor)
            shared = len(readers[tensor.name]) > 1
            return replace(grad, name=f"{grad.name}.{reader}") if shared else grad

        for made in BACKWARD_RULES[op.kind](op, gradient_of):
            summed = accumulates if made.kind == "gradient_sum" else ONE
            late = all(t.kind == "gradients" or t.name in of_weights for t in made.writes)
            build.add(
                replace(
                    made,
                    phase="backward",
                    group=op.name,
                    scale=op.scale * summed,
                    weight_gradient=late and bool(made.writes),
                )
            )
    for tensor in forward.graph["inputs"].values():
        if tensor.kind in DIFFERENTIABLE and len(readers.get(tensor.name, ())) > 1:
            _sum_contributions(build, tensor, readers[tensor.name], "attention")
    build.graph.graph["kind"] = f"{forward.graph['kind']}_backward"
    return build.graph
