"""Backward rules of the operators of experts; importing this module registers them."""

from __future__ import annotations

from workloads.backward_pass import GradientOf, arriving_gradients, as_operand, backward_rule, operands_of
from workloads.operator_graph import WEIGHT_KINDS, Operator, Tensor, dim, length

__all__: list[str] = []


@backward_rule("grouped_matmul")
def _grouped_matmul(op: Operator, gradient_of: GradientOf) -> list[Operator]:
    """For each expert dX = dY W^T and dW = X^T dY; the rows of an expert are what its dW sums over."""
    (source,) = operands_of(op)
    weights, *biases = (t for t in op.reads if t.kind in WEIGHT_KINDS)
    arriving, e = tuple(as_operand(t) for t in arriving_gradients(op)), op.extents
    routing = {role: e[role] for role in ("tokens", "topk", "experts")}
    data = Operator(
        name=f"{op.name}.dgrad",
        kind=op.kind,
        module=op.module,
        extents={"m": e["m"], "n": e["k"], "k": e["n"], **routing},
        reads=(*arriving, weights),
        writes=(gradient_of(source),),
        attributes=op.attributes,
    )
    experts = length(e["experts"])
    # All experts' k rows of dW one below the other; each sums over its share of the routed rows.
    stacked = tuple(dim(f"experts x {part.label}", part.size * experts)[0] for part in e["k"])
    matrix = Tensor(f"d_{weights.name}", "activations", weights.extents)
    weight = Operator(
        name=f"{op.name}.wgrad",
        kind=op.kind,
        module=op.module,
        extents={"m": stacked, "n": e["n"], "k": dim("rows_of_expert", length(e["m"]) / experts), **routing},
        reads=(*arriving, source),
        writes=(matrix,),
    )
    total = Tensor(f"sum_{matrix.name}", "gradients", matrix.extents)
    add = Operator(
        name=f"{op.name}.wgrad_add",
        kind="pointwise",
        module=op.module,
        reads=(matrix, total),
        writes=(total,),
    )
    sums = [
        Operator(
            name=f"{op.name}.bgrad",
            kind="pointwise",
            module=op.module,
            reads=arriving_gradients(op),
            writes=(Tensor(f"d_{bias.name}", "gradients", bias.extents),),
        )
        for bias in biases
    ]
    return [data, weight, add, *sums]


@backward_rule("moe_dispatch")
def _dispatch(op: Operator, gradient_of: GradientOf) -> list[Operator]:
    """The gradients of a token's rows are added up; tensor ranks hold parts of them, as of the forward sum."""
    (tokens,) = operands_of(op)
    return [
        Operator(
            name=f"{op.name}.grad",
            kind="moe_combine",
            module=op.module,
            extents=op.extents,
            contracted=("ffn",),
            reads=arriving_gradients(op),
            writes=(gradient_of(tokens),),
        )
    ]


@backward_rule("expert_activation")
def _activation(op: Operator, gradient_of: GradientOf) -> list[Operator]:
    """Gradients arrive, what was saved is read again, the operand's gradient is written."""
    return [
        Operator(
            name=f"{op.name}.grad",
            kind=op.kind,
            module=op.module,
            extents=op.extents,
            reads=(*arriving_gradients(op), *op.saved),
            writes=tuple(gradient_of(t) for t in operands_of(op)),
        )
    ]


@backward_rule("moe_combine")
def _combine(op: Operator, gradient_of: GradientOf) -> list[Operator]:
    """A token's gradient goes to its rows, times their gates; a gate's is a product of rows and gradient."""
    return [
        Operator(
            name=f"{op.name}.grad",
            kind="moe_dispatch",
            module=op.module,
            extents=op.extents,
            reads=(*arriving_gradients(op), *op.saved),
            writes=tuple(gradient_of(t) for t in operands_of(op)),
        )
    ]
