"""Pointwise work as eager PyTorch runs it: each step is a kernel that reads and writes whole tensors.

Compilers and fused kernels join such steps; the fused operators of the other modules stand for that. The steps here are
those of the reference implementations in Hugging Face transformers (``modeling_bert``, ``modeling_gpt2``,
``modeling_llama``) and of ``torch.matmul``, which copies operands whose heads are not contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence

from workloads.operator_graph import Extent, GraphBuilder, Operator, Tensor

__all__ = [
    "add_dropout",
    "add_gated_steps",
    "add_rms_norm_steps",
    "add_rotary_steps",
    "add_step",
    "add_tanh_gelu_steps",
]


def add_step(
    build: GraphBuilder,
    name: str,
    module: str,
    sources: Sequence[Tensor],
    *,
    kind: str = "pointwise",
    saved: Sequence[Tensor] = (),
    keeps_result: bool = False,
    extents: tuple[Extent, ...] | None = None,
) -> Tensor:
    """Add one pointwise kernel.

    Parameters
    ----------
    build : GraphBuilder
        Graph under construction.
    name, module : str
        Of the operator; its result is called ``<name>_out``.
    sources : sequence of Tensor
        What it reads.
    kind : str
        A kind of the family of pointwise kernels.
    saved : sequence of Tensor
        What the backward pass needs of the operands.
    keeps_result : bool
        Whether the backward pass needs the result.
    extents : tuple of Extent, optional
        Shape of the result; that of the first source where it is not given [1].

    Returns
    -------
    Tensor
        The result.

    Raises
    ------
    ValueError
        If the name is taken.
    """
    out = Tensor(f"{name}_out", "activations", sources[0].extents if extents is None else extents)
    build.add(
        Operator(
            name=name,
            kind=kind,
            module=module,
            reads=tuple(sources),
            writes=(out,),
            saved=(*saved, out) if keeps_result else tuple(saved),
        )
    )
    return out


def add_dropout(build: GraphBuilder, name: str, module: str, source: Tensor) -> Tensor:
    """Add dropout as a kernel of its own, which writes the mask beside the result; ValueError for a taken name."""
    mask = Tensor(f"{name}_mask", "mask", source.extents)
    out = Tensor(f"{name}_out", "activations", source.extents)
    build.add(
        Operator(
            name=name, kind="pointwise", module=module, reads=(source,), writes=(out, mask), saved=(mask,)
        )
    )
    return out


def add_tanh_gelu_steps(build: GraphBuilder, source: Tensor) -> Tensor:
    """Add 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) as eight kernels; ValueError for taken names."""

    def step(name: str, *sources: Tensor, saved: Sequence[Tensor] = (), kind: str = "pointwise") -> Tensor:
        return add_step(build, f"mlp_activation_{name}", "mlp", sources, saved=saved, kind=kind)

    cube = step("cube", source, saved=(source,), kind="power")
    inner = step("add", source, step("scale_cube", cube), kind="residual")
    bent = add_step(build, "mlp_activation_tanh", "mlp", (step("scale_inner", inner),), keeps_result=True)
    one_plus, half = step("one_plus", bent), step("half", source)
    return step("multiply", half, one_plus, saved=(half, one_plus))


def add_gated_steps(build: GraphBuilder, gate: Tensor, up: Tensor) -> Tensor:
    """Add the activation of the gate and its product with the other projection; ValueError for taken names."""
    bent = add_step(build, "mlp_activation", "mlp", (gate,), kind="activation", saved=(gate,))
    return add_step(build, "mlp_activation_multiply", "mlp", (bent, up), saved=(bent, up))


def add_rms_norm_steps(build: GraphBuilder, name: str, module: str, source: Tensor, weight: Tensor) -> Tensor:
    """Add square, mean, division by the root and multiplication by the weight; ValueError for taken names."""
    squared = add_step(build, f"{name}_square", module, (source,), saved=(source,))
    rows = source.extents[:-1]
    mean = Tensor(f"{name}_mean_out", "statistics", rows)
    build.add(
        Operator(name=f"{name}_mean", kind="pointwise", module=module, reads=(squared,), writes=(mean,))
    )
    scaled = add_step(build, f"{name}_divide", module, (source, mean), saved=(source, mean))
    out = Tensor(f"{name}_out", "activations", source.extents)
    build.add(
        Operator(
            name=name,
            kind="pointwise",
            module=module,
            reads=(scaled, weight),
            writes=(out,),
            saved=(scaled,),
        )
    )
    return out


def add_rotary_steps(build: GraphBuilder, source: Tensor) -> Tensor:
    """Add x cos + turned(x) sin: a copy with halves exchanged, two products and a sum; ValueError for taken names."""
    name = f"{source.name}_rotary"
    turned = add_step(build, f"{name}_exchange", "attention", (source,))
    cosine = add_step(build, f"{name}_cosine", "attention", (source,))
    sine = add_step(build, f"{name}_sine", "attention", (turned,))
    return add_step(build, f"{name}_add", "attention", (cosine, sine), kind="residual")
