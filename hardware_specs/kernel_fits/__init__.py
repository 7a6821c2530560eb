"""Coefficients of kernel models, a class for each closed form, and which family runs on which."""

from __future__ import annotations

from hardware_specs.kernel_fits.attention import DecodeAttentionFit, PrefillAttentionFit
from hardware_specs.kernel_fits.evidence import FitEvidence
from hardware_specs.kernel_fits.families import OPTIONAL, SIBLINGS, KernelFamily, KernelFits
from hardware_specs.kernel_fits.gemm import GemmFit
from hardware_specs.kernel_fits.grouped_gemm import GroupedGemmFit
from hardware_specs.kernel_fits.host import HostFit
from hardware_specs.kernel_fits.moe import MoeDispatchFit
from hardware_specs.kernel_fits.quantise import QuantiseFit
from hardware_specs.kernel_fits.scan import ScanFit
from hardware_specs.kernel_fits.streaming import StreamingFit

__all__ = [
    "OPTIONAL",
    "SIBLINGS",
    "DecodeAttentionFit",
    "FitEvidence",
    "GemmFit",
    "GroupedGemmFit",
    "HostFit",
    "KernelFamily",
    "KernelFits",
    "MoeDispatchFit",
    "PrefillAttentionFit",
    "QuantiseFit",
    "ScanFit",
    "StreamingFit",
]
