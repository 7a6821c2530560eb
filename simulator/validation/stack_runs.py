"""Software stacks whose constants are fitted to whole training runs, and which runs those are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hardware_specs.stack_rates import RateKind

__all__ = ["STACKS", "Constant", "StackRuns"]

# Rates of kernels, and the time of a host that waits for each kernel.
Constant = RateKind | Literal["host"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackRuns:
    """Which runs state the rates of a stack.

    Attributes
    ----------
    name, like, stack : str
        Of the calibration, of the one below it, and of the software, for people.
    prefix : str
        How the ids of its rows start.
    devices : tuple of str
        Accelerators as the table names them.
    rates, shared : tuple of str
        Constants that are fitted to its runs, and those that it shares with the stacks of the same ``family``.
    family : str
        Name of the stacks that are fitted together; blank where it stands alone.
    notes, quality : str
        What its rows say in their notes, and their quality; blank for all.
    without : tuple of str
        Ids of rows that are left away, and why stands in ``reason``.
    narrow, compiled_casts, experts : bool
        Whether 8-bit runs are fitted too, whether a compiler writes the passes in front of their products, and whether
        models with experts are fitted too.
    """

    name: str
    like: str
    stack: str
    prefix: str
    devices: tuple[str, ...]
    rates: tuple[Constant, ...]
    shared: tuple[Constant, ...] = ()
    family: str = ""
    notes: str = ""
    quality: str = ""
    without: tuple[str, ...] = ()
    reason: str = ""
    narrow: bool = False
    compiled_casts: bool = False
    experts: bool = False

    @property
    def constants(self) -> tuple[Constant, ...]:
        """Its own constants, then the shared ones. Raises nothing."""
        return (*self.rates, *self.shared)


_FSDP = "PyTorch FSDP by llm-foundry and Composer, torch 1.13 to 2.x, Triton flash attention"
_OFFLOAD = "21-28 % slower than their neighbours, so probably with offload that the table does not show"
STACKS = (
    # Composer's mode tells the runs on A100 apart, not the part: 70B in PURE on 80 GB is as slow as runs on 40 GB. Both
    # have one attention, and only the 7B runs are long, so its rate is fitted to both.
    StackRuns(
        name="a100-sxm-fsdp",
        like="a100-sxm-pytorch",
        stack=_FSDP + ", mixed precision DEFAULT",
        prefix="lf-",
        devices=("a100_sxm_40gb", "a100_sxm_80gb"),
        rates=("matmul",),
        shared=("attention",),
        family="a100-sxm-fsdp",
        notes="mp_mode=DEFAULT",
        without=("lf-080",),
        reason=_OFFLOAD,
    ),
    StackRuns(
        name="a100-sxm-fsdp-pure",
        like="a100-sxm-pytorch",
        stack=_FSDP + ", mixed precision PURE",
        prefix="lf-",
        devices=("a100_sxm_40gb", "a100_sxm_80gb"),
        rates=("matmul",),
        shared=("attention",),
        family="a100-sxm-fsdp",
        notes="mp_mode=PURE",
    ),
    StackRuns(
        name="h100-sxm-fsdp",
        like="h100-sxm-pytorch",
        stack=_FSDP,
        prefix="lf-",
        devices=("h100_sxm_80gb",),
        rates=("matmul", "attention"),
        without=("lf-021",),
        reason=_OFFLOAD,
    ),
    StackRuns(
        name="a100-sxm-internevo",
        like="a100-sxm-pytorch",
        stack="InternEvo of 2023 with flash attention",
        prefix="internevo-",
        devices=("a100_sxm_80gb",),
        rates=("matmul",),  # one model and one length: attention cannot be told apart
    ),
    StackRuns(
        name="a100-sxm-megatron-deepspeed",
        like="a100-sxm-pytorch",
        stack="Megatron-DeepSpeed of 2021-2022, unfused attention, pipeline engine",
        prefix="bloom-",
        devices=("a100_sxm_80gb",),
        # The script of the training that followed sets CUDA_LAUNCH_BLOCKING=1 (bigscience, tr11-176B-ml.slurm), so that
        # the host waits for each kernel: small micro-batches are slower by what that takes.
        rates=("matmul", "host"),
        quality="A",  # of the others no source says how layers were spread over stages that they do not divide
        without=("bloom-031", "bloom-065", "bloom-068", "bloom-070"),
        reason="a head width of 108, for which libraries have other kernels",
    ),
    # Eager runs are left away: their pointwise kernels are others.
    StackRuns(
        name="h100-sxm-torchtitan",
        like="h100-sxm-pytorch",
        stack="torchtitan of 2024-2025 on H100 of 500 W, torch.compile, FSDP2, attention of PyTorch",
        prefix="titan-",
        devices=("h100_96gb_hbm2e_500w",),
        rates=("matmul", "attention"),
        without=("titan-001", "titan-004", "titan-023", "titan-024", "titan-029", "titan-030"),
        reason="run eagerly, or with a scale per row, whose products are other kernels",
        # At 8192 tokens alone products and attention cannot be told apart; the long runs are in fp8.
        narrow=True,
        compiled_casts=True,
    ),
    StackRuns(
        name="a100-sxm-torchtitan",
        like="a100-sxm-pytorch",
        stack="torchtitan of 2024 in bf16, FSDP2, attention of PyTorch",
        prefix="titan-",
        devices=("a100_sxm_80gb",),
        rates=("compute",),
    ),
    # The kernels below ran on one GPU of the node, the runs on all eight.
    StackRuns(
        name="b200-sxm-megatron-runs",
        like="b200-sxm-megatron",
        stack="Megatron-LM of 2026 in bf16, all GPUs of a node at work",
        prefix="simu-b200-",
        devices=("b200_sxm_180gb",),
        rates=("compute",),
        experts=True,
    ),
    StackRuns(
        name="tpu-v6e-maxtext",
        like="tpu-v5",
        stack="MaxText of 2025, XLA, splash attention",
        prefix="tpurec-",
        devices=("tpu_v6e",),
        rates=("compute",),
    ),
)
