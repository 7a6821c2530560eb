"""Kernel families and the class of coefficients that each one takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeVar, get_args

from hardware_specs.errors import Problem
from hardware_specs.figure import Spec
from hardware_specs.kernel_fits.attention import DecodeAttentionFit, PrefillAttentionFit
from hardware_specs.kernel_fits.evidence import FitEvidence
from hardware_specs.kernel_fits.gemm import GemmFit
from hardware_specs.kernel_fits.grouped_gemm import GroupedGemmFit
from hardware_specs.kernel_fits.moe import MoeDispatchFit
from hardware_specs.kernel_fits.quantise import QuantiseFit
from hardware_specs.kernel_fits.scan import ScanFit
from hardware_specs.kernel_fits.streaming import StreamingFit
from hardware_specs.schema import DType

__all__ = ["OPTIONAL", "SIBLINGS", "KernelFamily", "KernelFits"]

# What a calibration has coefficients for: kernels that one closed form with one set of numbers describes.
KernelFamily = Literal[
    "matmul",
    "batched_matmul",  # of unfused attention: small sizes, one of them the width of a head
    "attention_prefill",
    "attention_decode",
    "mla_prefill",  # multi-head latent attention: keys and values differ in width, or are one latent vector
    "mla_decode",
    "pointwise",  # plain eager operations: additions, multiplications, copies
    "activation",  # of the MLP, gated or plain
    "rotary",
    "rms_norm",
    "layer_norm",
    "softmax",
    "embedding",
    "optimizer",
    "quantise",  # activations into the narrower type of a product
    "scan",  # of state-space layers and linear attention
    "grouped_matmul",  # one product for each expert of a mixture that has rows
    "moe_dispatch",  # sorting rows to experts, the experts' activation, the weighted sum
]
# A calibration without a family uses its sibling's coefficients: same closed form, similar kernel.
SIBLINGS: dict[str, KernelFamily] = {
    "batched_matmul": "matmul",
    "mla_prefill": "attention_prefill",
    "mla_decode": "attention_decode",
}
# Families that a calibration may leave out: the default calibration has them, and few models need them.
OPTIONAL: tuple[KernelFamily, ...] = ("quantise", "scan", "grouped_matmul", "moe_dispatch")

# Number formats with scales or packed weights, whose kernels are not those of the plain type.
NumberFormat = Literal[
    "fp8_block",  # fp8, a scale for each block of 128 x 128
    "int8_wo",  # weights alone in 8 bits
    "int4_wo",  # weights alone in 4 bits
    "fp8_wo",  # weights alone in fp8
    "fp8_cache",  # products in 16 bits with keys and values that are read from fp8
    "w4a16_mxfp4",
    "w4a8_mxfp4_mxfp8",
    "nvfp4",
]
F = TypeVar("F", bound=FitEvidence)
ByDtype = dict[DType | NumberFormat | Literal["any"], F]


class KernelFits(Spec):
    """Coefficients by kernel family and dtype; ``any`` stands for every dtype."""

    matmul: ByDtype[GemmFit] = {}
    batched_matmul: ByDtype[GemmFit] = {}
    attention_prefill: ByDtype[PrefillAttentionFit] = {}
    attention_decode: ByDtype[DecodeAttentionFit] = {}
    mla_prefill: ByDtype[PrefillAttentionFit] = {}
    mla_decode: ByDtype[DecodeAttentionFit] = {}
    pointwise: ByDtype[StreamingFit] = {}
    activation: ByDtype[StreamingFit] = {}
    rotary: ByDtype[StreamingFit] = {}
    rms_norm: ByDtype[StreamingFit] = {}
    layer_norm: ByDtype[StreamingFit] = {}
    softmax: ByDtype[StreamingFit] = {}
    embedding: ByDtype[StreamingFit] = {}
    optimizer: ByDtype[StreamingFit] = {}
    quantise: ByDtype[QuantiseFit] = {}
    scan: ByDtype[ScanFit] = {}
    grouped_matmul: ByDtype[GroupedGemmFit] = {}
    moe_dispatch: ByDtype[MoeDispatchFit] = {}

    def broken_rules(self) -> Iterator[Problem]:
        """Every kernel family needs a fit, but those with a sibling and the optional ones."""
        for family in get_args(KernelFamily):
            if not self.own(family) and family not in SIBLINGS and family not in OPTIONAL:
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
