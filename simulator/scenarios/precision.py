"""Named precision recipes, and what they mean for each class of tensors.

A *storage* type fixes bytes; a *compute* type fixes which peak a product runs at. A type that is only stored
is turned into the compute type inside the kernel that reads it, so its bytes are read once in packed form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from hardware_specs.errors import Problem, near_names

# Four-bit weights carry one 16-bit scale per group of 128 (Frantar et al., arXiv:2210.17323, section 4).
GROUP_SIZE = 128
SCALE_BYTES = 2.0
# One scale of 8 bits for 32 values (Open Compute Project, Microscaling Formats specification 1.0, table 1).
MX_BLOCK = 32
MX_SCALE_BYTES = 1.0
DTYPE_BYTES: Mapping[str, float] = {
    "fp64": 8.0,
    "fp32": 4.0,
    "tf32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "mxfp8": 1.0 + MX_SCALE_BYTES / MX_BLOCK,
    "int8": 1.0,
    "int4": 0.5 + SCALE_BYTES / GROUP_SIZE,
    "fp4": 0.5 + SCALE_BYTES / GROUP_SIZE,
}
COMPUTE_DTYPES = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "mxfp8", "int8", "fp4")
ADAM_MOMENTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Types by tensor class and by operator class.

    Attributes
    ----------
    name : str
        Recipe, or "custom".
    weights, activations, kv_cache, gradients, optimizer, communication : str
        Storage types; ``optimizer`` is that of the master copy and of both Adam moments;
        ``communication`` that of reduced gradients.
    matmul, attention : str
        Compute types of the projections and of attention.
    inference_only : bool
        Whether training with it is refused.
    """

    name: str
    weights: str
    activations: str
    kv_cache: str
    gradients: str
    optimizer: str
    communication: str
    matmul: str
    attention: str
    inference_only: bool = False

    @property
    def quantises(self) -> bool:
        """Whether activations must be turned into a narrower type before a product."""
        return DTYPE_BYTES[self.matmul] < DTYPE_BYTES[self.activations]

    @property
    def master_bytes(self) -> float:
        """A copy of the weights where they are stored in fewer bits than the states [byte per parameter]."""
        width = DTYPE_BYTES[self.optimizer]
        return width if DTYPE_BYTES[self.weights] < width else 0.0

    @property
    def optimizer_bytes(self) -> float:
        """Adam moments and the master copy [byte per parameter]."""
        return ADAM_MOMENTS * DTYPE_BYTES[self.optimizer] + self.master_bytes


def _recipe(name: str, storage: str, **others: str | bool) -> Precision:
    base = Precision(
        name=name,
        weights=storage,
        activations=storage,
        kv_cache=storage,
        gradients="fp32",
        optimizer="fp32",
        communication="fp32",
        matmul=storage,
        attention=storage,
    )
    return replace(base, **others)  # type: ignore[arg-type]


RECIPES: dict[str, Precision] = {
    "bf16": _recipe("bf16", "bf16"),
    # Loss scaling exists because these gradients are kept and reduced in 16 bits (arXiv:1710.03740).
    "fp16": _recipe("fp16", "fp16", gradients="fp16", communication="fp16"),
    "fp32": _recipe("fp32", "fp32"),
    "tf32": _recipe("tf32", "fp32", matmul="tf32", attention="tf32"),
    "fp8": _recipe("fp8", "bf16", matmul="fp8"),
    # Blocks of 32 with a scale each, as Blackwell's and CDNA 4's matrix units take them.
    "mxfp8": _recipe("mxfp8", "bf16", matmul="mxfp8"),
    "w8a8": _recipe("w8a8", "bf16", weights="int8", matmul="int8", inference_only=True),
    "w4a16": _recipe("w4a16", "bf16", weights="int4", inference_only=True),
}
NARROW_IN_INFERENCE = ("fp8", "mxfp8")
CLASSES = ("weights", "activations", "kv_cache", "gradients", "optimizer", "communication")
OPERATOR_CLASSES = ("matmul", "attention")


def precision_from(
    value: str | Mapping[str, str], *, training: bool, path: str
) -> tuple[Precision, list[Problem]]:
    """Resolve a recipe name or a mapping by class.

    Parameters
    ----------
    value : str or mapping
        A name of :data:`RECIPES`, or types by tensor class and operator class over the bf16 recipe.
    training : bool
        In inference, products in 8-bit floats have their weights stored in them.
    path : str
        Where the value stands, for messages.

    Returns
    -------
    tuple of Precision and list of Problem
        The bf16 recipe stands in where there are problems.

    Raises
    ------
    KeyError
        Never for text: unknown names become problems.
    """
    if isinstance(value, str):
        if value not in RECIPES:
            near = near_names(value, RECIPES)
            fix = f"use one of {', '.join(near or RECIPES)} or a mapping by tensor class"
            return RECIPES["bf16"], [
                Problem(path=path, value=value, rule="is not a known precision recipe", fix=fix)
            ]
        chosen = RECIPES[value]
        if value in NARROW_IN_INFERENCE and not training:
            chosen = replace(chosen, weights=value)
        return chosen, []
    problems: list[Problem] = []
    given: dict[str, str] = {}
    for key, dtype in value.items():
        known = COMPUTE_DTYPES if key in OPERATOR_CLASSES else tuple(DTYPE_BYTES)
        if key not in (*CLASSES, *OPERATOR_CLASSES):
            fix = f"classes are {', '.join((*CLASSES, *OPERATOR_CLASSES))}"
            problems.append(
                Problem(
                    path=f"{path}.{key}", value=str(dtype), rule="is not a tensor or operator class", fix=fix
                )
            )
        elif dtype not in known:
            problems.append(
                Problem(
                    path=f"{path}.{key}",
                    value=str(dtype),
                    rule="is not a known type",
                    fix=f"use one of {', '.join(known)}",
                )
            )
        else:
            given[key] = dtype
    narrow = any(given.get(c) in ("int8", "int4", "fp4") for c in ("weights", "gradients", "optimizer"))
    custom = replace(RECIPES["bf16"], name="custom", inference_only=narrow, **given)
    return custom, problems


def operand_dtypes(precision: Precision) -> tuple[float, float]:
    """Bytes per element of a product's activation and weight operands as the kernel reads them [byte]."""
    activation = min(DTYPE_BYTES[precision.activations], DTYPE_BYTES[precision.matmul])
    return activation, min(DTYPE_BYTES[precision.weights], DTYPE_BYTES[precision.matmul])
