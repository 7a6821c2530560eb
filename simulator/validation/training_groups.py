"""Groups of measured training rows whose errors are figures of the documentation: which rows, and what was asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from simulator.measured_tables.measured_table import Row
from simulator.validation.fit_stack_rates import LEAST_HIDDEN

__all__ = ["ASSUMED", "GROUPS", "FigureGroup"]

STEP, PEAK = "step_time", "peak_memory"
ASSUMED: Mapping[str, str] = {
    "recompute": "none",
    "interconnect": "catalog",
    "zero_stage": "zero1 (distributed optimizer)",
}
# The table of MaxText does not say what becomes of residuals where tensors are split.
SHARDED_TOKENS: Mapping[str, str] = {"sequence_parallel": "true"}
# Kernels that were measured on the very machine of a group's runs.
MACHINE_KERNELS: Mapping[str, str] = {"calibration": "b200-sxm-megatron"}
MACHINE_RUNS: Mapping[str, str] = {"calibration": "b200-sxm-megatron-runs"}
# Runs 21 to 28 % slower than their neighbours, probably with offload that the table does not show.
APART = ("lf-021", "lf-080")
Test = Callable[[Row], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureGroup:
    """Rows whose error is one figure.

    Attributes
    ----------
    name : str
        For people.
    prefix : str
        How the ids of its rows start; several separated by "|".
    quantity : str
        "step_time" or "peak_memory".
    asked : float or None
        Largest mean error that was asked for, as a fraction; None: printed only.
    holds : callable
        Whether a row belongs to it.
    assume : mapping of str to str
        What is assumed of its rows, as ``--assume``.
    newest : bool
        Whether rows are left away that a newer release of the same configuration supersedes.
    left_out : tuple of str, or None
        The stack of :data:`STACKS` whose constants were fitted to such runs, and its error with a model left out of
        the fit; None where nothing was fitted to them, or one model states all of them.
    """

    name: str
    prefix: str
    asked: float | None
    quantity: str = STEP
    holds: Test = lambda row: True
    assume: Mapping[str, str] = field(default_factory=dict)
    newest: bool = False
    left_out: tuple[str, str] | None = None


def _wide(row: Row) -> bool:
    return "8" not in row.text("precision").removeprefix("bf16").removeprefix("amp_bf16")


def _of(device: str) -> Test:
    return lambda row: (
        row.text("accelerator") == device
        and _wide(row)
        and (row.number_of("hidden") or 0) >= LEAST_HIDDEN
        and row.name not in APART
    )


def _clean(row: Row) -> bool:
    return row.text("quality") == "A"


def _newest(experts: bool, devices: Sequence[str]) -> Test:
    return lambda row: (
        bool(row.cells.get("series_latest"))
        and (row.text("workload") or "pretrain") == "pretrain"
        and bool(row.number_of("experts")) == experts
        and row.text("accelerator") in devices
    )


_HERE = ("h100_sxm_80gb", "b200_sxm_180gb")
GROUPS = (
    FigureGroup(name="Megatron on one B200 node, blind", prefix="simu-b200-", asked=0.08),
    FigureGroup(
        name="Megatron on one B200 node, calibrated with kernels of that machine",
        prefix="simu-b200-",
        asked=0.04,
        assume=MACHINE_KERNELS,
    ),
    FigureGroup(
        name="Megatron on one B200 node, calibrated, and one rate fitted to these runs",
        prefix="simu-b200-",
        asked=None,
        assume=MACHINE_RUNS,
        left_out=("b200-sxm-megatron-runs", "left_out"),
    ),
    FigureGroup(name="Megatron of the papers, A100", prefix="meg-sel22-|meg-sc21-", asked=0.03, holds=_clean),
    FigureGroup(
        name="FSDP, 7B and more, A100 40 GB",
        prefix="lf-",
        asked=0.05,
        holds=_of("a100_sxm_40gb"),
        left_out=("a100-sxm-fsdp", "left_out_a100_sxm_40gb"),
    ),
    FigureGroup(
        name="FSDP, 7B and more, A100 80 GB",
        prefix="lf-",
        asked=0.05,
        holds=_of("a100_sxm_80gb"),
        left_out=("a100-sxm-fsdp", "left_out_a100_sxm_80gb"),
    ),
    FigureGroup(
        name="FSDP, 7B and more, H100",
        prefix="lf-",
        asked=0.05,
        holds=_of("h100_sxm_80gb"),
        left_out=("h100-sxm-fsdp", "left_out"),
    ),
    FigureGroup(
        name="FSDP, lf-021 and lf-080, slower than their neighbours",
        prefix="lf-",
        asked=None,
        holds=lambda row: row.name in APART,
    ),
    FigureGroup(
        name="torchtitan, bf16",
        prefix="titan-",
        asked=0.07,
        holds=lambda row: _clean(row) and _wide(row),
        left_out=("h100-sxm-torchtitan", "left_out"),
    ),
    FigureGroup(
        name="torchtitan, fp8",
        prefix="titan-",
        asked=0.12,
        holds=lambda row: _clean(row) and not _wide(row),
        left_out=("h100-sxm-torchtitan", "left_out"),
    ),
    FigureGroup(name="InternEvo", prefix="internevo-", asked=0.05, holds=_clean),
    FigureGroup(
        name="Megatron-DeepSpeed (BLOOM), head width 108 apart",
        prefix="bloom-",
        asked=0.06,
        holds=lambda row: _clean(row) and row.count("head_dim") != 108,
        left_out=("a100-sxm-megatron-deepspeed", "left_out"),
    ),
    FigureGroup(
        name="Megatron-DeepSpeed (BLOOM), head width 108",
        prefix="bloom-",
        asked=None,
        holds=lambda row: row.count("head_dim") == 108,
    ),
    FigureGroup(
        name="Megatron-Bridge, dense, newest",
        prefix="mbridge-",
        asked=0.08,
        holds=_newest(False, _HERE),
        assume=ASSUMED,
        newest=True,
    ),
    FigureGroup(
        name="Megatron-Bridge, experts, newest",
        prefix="mbridge-",
        asked=0.2,
        holds=_newest(True, _HERE),
        assume=ASSUMED,
        newest=True,
    ),
    FigureGroup(
        name="Megatron-Bridge, experts, every series of the table",
        prefix="mbridge-",
        asked=None,
        holds=_newest(True, _HERE),
        assume=ASSUMED,
    ),
    FigureGroup(
        name="Megatron-Bridge on GB200, dense, newest",
        prefix="mbridge-",
        asked=None,
        holds=_newest(False, ("gb200",)),
        assume=ASSUMED,
        newest=True,
    ),
    FigureGroup(
        name="Megatron-Bridge on GB200, experts, newest",
        prefix="mbridge-",
        asked=None,
        holds=_newest(True, ("gb200",)),
        assume=ASSUMED,
        newest=True,
    ),
    FigureGroup(
        name="MaxText on TPU v6e", prefix="tpurec-", asked=0.05, left_out=("tpu-v6e-maxtext", "left_out")
    ),
    FigureGroup(
        name="MaxText on TPU v5e, blind",
        prefix="maxtext-",
        asked=None,
        holds=lambda row: row.text("accelerator") == "tpu_v5e",
        assume=SHARDED_TOKENS,
    ),
    FigureGroup(
        name="MaxText on TPU v5p, blind",
        prefix="maxtext-",
        asked=None,
        holds=lambda row: row.text("accelerator") == "tpu_v5p",
        assume=SHARDED_TOKENS,
    ),
    FigureGroup(name="peak memory, Megatron on B200", prefix="simu-b200-", asked=0.02, quantity=PEAK),
    FigureGroup(name="peak memory, torchtitan", prefix="titan-", asked=0.06, quantity=PEAK),
    FigureGroup(name="peak memory, BLOOM", prefix="bloom-", asked=0.08, quantity=PEAK),
)
