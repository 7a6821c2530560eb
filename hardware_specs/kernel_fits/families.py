"""Kernel families and the class of coefficients that each one takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeVar, get_args

from hardware_specs.errors import Problem
from hardware_specs.figure import Spec
from hardware_specs.kernel_fits.evidence import FitEvidence
from hardware_specs.kernel_fits.grouped_gemm import GroupedGemmFit
from hardware_specs.kernel_fits.moe import MoeDispatchFit
from hardware_specs.kernel_fits.roofline import RooflineFit
from hardware_specs.schema import DType

__all__ = ["OPTIONAL", "SIBLINGS", "KernelFamily", "KernelFits"]

# What a calibration has coefficients for: kernels that one closed form with one set of numbers describes.
KernelFamily = Literal[
    "matmul",
    "attention_prefill",
    "attention_decode",
    "pointwise",  # plain eager operations: additions, multiplications, copies
    "activation",  # of the MLP, gated or plain
    "rotary",
    "rms_norm",
    "layer_norm",
    "softmax",
    "embedding",
    "optimizer",
    "grouped_matmul",  # one product for each expert of a mixture that has rows
    "moe_dispatch",  # sorting rows to experts, the experts' activation, the weighted sum
]
# A calibration without a family uses its sibling's coefficients: same closed form, similar kernel.
SIBLINGS: dict[str, KernelFamily] = {}
# Families that a calibration may leave out: the default calibration has them, and few models need them.
OPTIONAL: tuple[KernelFamily, ...] = ("grouped_matmul", "moe_dispatch")

F = TypeVar("F", bound=FitEvidence)
ByDtype = dict[DType | Literal["any"], F]


class KernelFits(Spec):
    """Coefficients by kernel family and dtype; ``any`` stands for every dtype."""

    matmul: ByDtype[RooflineFit] = {}
    attention_prefill: ByDtype[RooflineFit] = {}
    attention_decode: ByDtype[RooflineFit] = {}
    pointwise: ByDtype[RooflineFit] = {}
    activation: ByDtype[RooflineFit] = {}
    rotary: ByDtype[RooflineFit] = {}
    rms_norm: ByDtype[RooflineFit] = {}
    layer_norm: ByDtype[RooflineFit] = {}
    softmax: ByDtype[RooflineFit] = {}
    embedding: ByDtype[RooflineFit] = {}
    optimizer: ByDtype[RooflineFit] = {}
    grouped_matmul: ByDtype[GroupedGemmFit] = {}
    moe_dispatch: ByDtype[MoeDispatchFit] = {}

    def broken_rules(self) -> Iterator[Problem]:
        """Every kernel family needs a fit, but those with a sibling and the optional ones."""
        for family in get_args(KernelFamily):
            if not self.own(family) and family not in SIBLINGS and family not in OPTIONAL:
                fix = "give a fit for each family; `any` stands for every dtype"
                yield Problem(path=family, value="", rule="is missing", fix=fix)

    def own(self, family: str) -> dict[str, FitEvidence]:
        """Fits of a family by dtype, empty where there are none; AttributeError for an unknown family."""
        return dict(getattr(self, family))

    def by_family(self) -> dict[str, dict[str, FitEvidence]]:
        """Fits by family and dtype; families without any are left out."""
        return {name: fits for name in get_args(KernelFamily) if (fits := self.own(name))}

    def of(self, family: str) -> tuple[dict[str, FitEvidence], bool]:
        """Fits of a family or of its sibling, and whether they are its own."""
        own = self.own(family)
        return (own, True) if own or family not in SIBLINGS else (self.own(SIBLINGS[family]), False)
