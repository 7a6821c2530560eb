"""All attention families of a device and some stacks, as in a calibration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hardware_specs import load_accelerator
from hardware_specs.calibration import Task
from hardware_specs.kernel_fits import FitEvidence
from simulator.fitting.fit_attention import FittedAttention, fit_attention_rows
from simulator.fitting.measured_attention import ATTENTION_DEVICES, AttentionRows, stacks_of
from simulator.fitting.rows import Families

__all__ = ["attention_families", "fit_attention_of"]

# Training starts at about 1024 tokens; shorter prompts, limited by latency, would bend the curve.
TRAINING_SHORTEST = 512
PHASES = ("prefill", "decode")
# Latent attention of several stacks: vLLM's is launched from the host, in 0.1 ms and more, and SGLang's prompts attend
# to latent vectors, others to keys of each head.
LATENT_STACKS = {"prefill": ("trtllm",), "decode": ("sglang", "trtllm")}
# Type of the products and of the cache.
TYPES = (("bf16", "bf16"), ("fp8", "fp8"), ("bf16", "fp8"))


def _wanted(
    device: str, phase: str, dtype: str, kv_dtype: str, stacks: Sequence[str], latent: bool
) -> AttentionRows:
    of = next(d for d in ATTENTION_DEVICES if d.table == device)
    if latent and len(stacks) > 1:
        stacks = LATENT_STACKS[phase]
    elif (phase, dtype, kv_dtype) == ("prefill", "bf16", "fp8") and len(stacks) > 1:
        # Others widen the cache; TensorRT-LLM narrows the queries, which is attention in 8 bits.
        stacks = [name for name in stacks if name != "trtllm"]
    return AttentionRows(
        device=of, phase=phase, dtype=dtype, kv_dtype=kv_dtype, stacks=tuple(stacks), latent=latent
    )


def _is_useful(rows: AttentionRows) -> bool:
    """Whether a calibration has a place for these: prompts by the type they compute in, tokens by that of the cache."""
    narrow = rows.dtype == "fp8"
    if rows.phase == "decode":
        return not narrow
    has = load_accelerator(rows.device.accelerator).matmul_flop_per_unit_clock
    return "fp8" in has if narrow else rows.compute_dtype == "bf16"


def fit_attention_of(folder: Path, device: str, stacks: Sequence[str], task: Task) -> list[FittedAttention]:
    """Fit every phase and type that some stacks of a device have rows of.

    Parameters
    ----------
    folder : Path
        Where the tables are.
    device : str
        Name in the table.
    stacks : sequence of str
        Frameworks, fitted together with the same say; those without rows count for nothing.
    task : str
        Training leaves short prompts away and needs no cache in 8 bits.

    Returns
    -------
    list of FittedAttention
        Prompts first; latent attention last.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    StopIteration
        If the device is not one of ``ATTENTION_DEVICES``.
    """
    fitted = []
    for latent in (False, True):
        for phase in PHASES:
            for dtype, kv_dtype in TYPES:
                rows = _wanted(device, phase, dtype, kv_dtype, stacks, latent)
                if task == "training" and (kv_dtype == "fp8" or (latent and phase == "decode")):
                    continue
                if task == "training" and phase == "prefill":
                    rows = AttentionRows(
                        device=rows.device,
                        phase=phase,
                        dtype=dtype,
                        kv_dtype=kv_dtype,
                        stacks=rows.stacks,
                        latent=latent,
                        shortest=TRAINING_SHORTEST,
                    )
                if _is_useful(rows) and stacks_of(folder, rows):
                    fitted.append(fit_attention_rows(folder, rows))
    return fitted


def attention_families(fitted: Sequence[FittedAttention]) -> Families:
    """Fits by family and type; fp16 is as bf16, and "any" is bf16 without rows of its own. Raises nothing."""
    families: Families = {}
    for item in fitted:
        families.setdefault(item.family, {})[item.dtype] = item.fit
    for fits in families.values():
        wide = fits["bf16"]
        fits["fp16"] = wide.model_copy(update={"source": f"as bf16, same units and rate: {wide.source}"})
        fits["any"] = _borrowed(wide, "coefficients of bf16; no row of another type")
    return families


def _borrowed(fit: FitEvidence, why: str) -> FitEvidence:
    return type(fit).of(fit.coefficients(), basis="assumed", source=why)
