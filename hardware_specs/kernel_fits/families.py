"""Kernel families and the class of coefficients that each one takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeVar, get_args

from hardware_specs.errors import Problem
from hardware_specs.figure import Spec
from hardware_specs.kernel_fits.evidence import FitEvidence
from hardware_specs.kernel_fits.roofline import RooflineFit
from hardware_specs.kernel_fits.scan import ScanFit
from hardware_specs.kernel_fits.streaming import StreamingFit
from hardware_specs.schema import DType

__all__ = ["BORROWING", "SIBLINGS", "KernelFamily", "KernelFits"]

# What a calibration has coefficients for: kernels that one closed form with one set of numbers describes.
KernelFamily = Literal[
    "matmul",
    "batched_matmul",  # of unfused attention: small sizes, one of them the width of a head
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
    "scan",  # of state-space layers and linear attention
]
# A calibration without a family uses its sibling's coefficients: same closed form, similar kernel.
SIBLINGS: dict[str, KernelFamily] = {"batched_matmul": "matmul"}
# Families without coefficients of their own in most calibrations; a scan borrows from two.
BORROWING: tuple[str, ...] = (*SIBLINGS, "scan")

F = TypeVar("F", bound=FitEvidence)
ByDtype = dict[DType | Literal["any"], F]


class KernelFits(Spec):
    """Coefficients by kernel family and dtype; ``any`` stands for every dtype."""

    matmul: ByDtype[RooflineFit] = {}
    batched_matmul: ByDtype[RooflineFit] = {}
    attention_prefill: ByDtype[RooflineFit] = {}
    attention_decode: ByDtype[RooflineFit] = {}
    pointwise: ByDtype[StreamingFit] = {}
    activation: ByDtype[StreamingFit] = {}
    rotary: ByDtype[StreamingFit] = {}
    rms_norm: ByDtype[StreamingFit] = {}
    layer_norm: ByDtype[StreamingFit] = {}
    softmax: ByDtype[StreamingFit] = {}
    embedding: ByDtype[StreamingFit] = {}
    optimizer: ByDtype[StreamingFit] = {}
    scan: ByDtype[ScanFit] = {}

    def broken_rules(self) -> Iterator[Problem]:
        """Every kernel family without a sibling needs a fit."""
        for family in get_args(KernelFamily):
            if not self.own(family) and family not in BORROWING:
                fix = "give a fit for each family; `any` stands for every dtype"
                yield Problem(path=family, value="", rule="is missing", fix=fix)

    def _scan(self) -> ScanFit:
        """Assumed coefficients of scans, from prefill attention and plain streaming kernels."""
        products, plain = (
            next(iter(fits.values())).coefficients() for fits in (self.attention_prefill, self.pointwise)
        )
        return ScanFit.of_siblings(
            compute_efficiency=products["compute_efficiency"],
            memory_efficiency=plain["read_efficiency"],
            fixed_s=plain["fixed_s"],
            why="no scan was measured: compute efficiency of attention_prefill, the rest of pointwise",
        )

    def own(self, family: str) -> dict[str, FitEvidence]:
        """Fits of a family by dtype, empty where there are none; AttributeError for an unknown family."""
        return dict(getattr(self, family))

    def by_family(self) -> dict[str, dict[str, FitEvidence]]:
        """Fits by family and dtype; families without any are left out."""
        return {name: fits for name in get_args(KernelFamily) if (fits := self.own(name))}

    def of(self, family: str) -> tuple[dict[str, FitEvidence], bool]:
        """Fits of a family or of its sibling, and whether they are its own; a scan has two siblings."""
        own = self.own(family)
        if family == "scan" and not own:
            return {"any": self._scan()}, False
        return (own, True) if own or family not in SIBLINGS else (self.own(SIBLINGS[family]), False)
