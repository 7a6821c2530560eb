"""A calibration for each machine whose kernels a table states as efficiencies: its own products, attention and streams.

``python -m simulator.fitting.efficiency_files MEASUREMENTS --out FOLDER`` writes them. They are asked for by name,
since runs on the machine that the kernels come from are then calibrated, where all others are blind.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hardware_specs import calibration_for
from hardware_specs.calibration import Task
from hardware_specs.kernel_fits import FitEvidence, KernelFamily, MoeDispatchFit, StreamingFit
from simulator.fitting.fit_attention import tidy
from simulator.fitting.fit_gemm import fit_format
from simulator.fitting.fit_moe import FREE, GROUPED
from simulator.fitting.measured_efficiencies import (
    EfficiencyTable,
    attention_efficiencies,
    grouped_efficiencies,
    product_efficiencies,
    streaming_efficiency,
)
from simulator.fitting.measured_kernels import Tables
from simulator.fitting.robust_fit import significant
from simulator.fitting.rows import Families
from simulator.fitting.samples import KernelSamples, fit_samples
from simulator.fitting.user_calibration import few_coefficients
from simulator.fitting.write_calibration import CalibrationFile, write_calibration

__all__ = ["EFFICIENCY_MACHINES", "EfficiencyMachine", "efficiency_files"]

TRAINING: tuple[Task, ...] = ("training",)
WHOLE_TILES = {"granularity": 1.0}
BF16 = "bf16"
STREAMS = (
    "bandwidth and fixed time of a pass over memory in Megatron, as the source fitted them to its own benchmarks; "
    "which kernels these are it does not say"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EfficiencyMachine:
    """One machine: its rows, the calibration that gives what they do not tell, and which stream stands for what.

    Attributes
    ----------
    name : str
        Of the calibration.
    table : EfficiencyTable
        Its rows.
    streams : mapping of str to tuple of str
        Kernel families by the column ``op`` of the one row that states their bandwidth.
    fabric : str
        Name of the fabric calibration from its collectives (:mod:`simulator.fitting.efficiency_fabrics`).
    """

    name: str
    table: EfficiencyTable
    streams: Mapping[str, tuple[KernelFamily, ...]]
    fabric: str


EFFICIENCY_MACHINES = (
    EfficiencyMachine(
        name="b200-sxm-megatron",
        table=EfficiencyTable(
            source="MooreThreads/SimuMax configs/system/b200_bf16_ceperm.json",
            accelerator="b200-sxm",
            stack="Megatron-LM with Transformer Engine 2.11 and torch 2.10",
        ),
        streams={
            "membw_default": ("pointwise", "activation", "rotary", "rms_norm", "layer_norm"),
            "membw_ce_fusion": ("softmax",),
            "membw_permute_fwd": ("moe_dispatch",),
        },
        fabric="nvswitch-b200-megatron",
    ),
)


def _grouped(samples: KernelSamples, source: str) -> FitEvidence:
    """All coefficients of grouped products, which these rows time alone."""
    free = [replace(f, name=f.name.removeprefix(GROUPED)) for f in FREE if f.name.startswith(GROUPED)]
    return fit_samples(samples, free, fixed=WHOLE_TILES, source=source)


def _stream(family: KernelFamily, efficiency: float, fixed_s: float, source: str) -> FitEvidence:
    share = significant(efficiency)
    if family == "moe_dispatch":
        return MoeDispatchFit.of(
            {"fixed_s": fixed_s, "memory_efficiency": share, "foreign_share": 0.0},
            basis="derived",
            source=source,
            rows=1,
        )
    return StreamingFit.of(
        {"read_efficiency": share, "write_efficiency": share, "fixed_s": fixed_s},
        basis="derived",
        source=source,
        rows=1,
    )


def _families(folder: Tables, machine: EfficiencyMachine, base: Families) -> Families:
    """What the machine's rows tell, by family and type."""
    table = machine.table
    where = f"micro, {table.accelerator}, {BF16}: {table.stack} ({table.source})"
    found: dict[KernelFamily, FitEvidence] = {
        "matmul": fit_format(product_efficiencies(folder, table), table.board, BF16, source=where).gemm,
        "grouped_matmul": _grouped(grouped_efficiencies(folder, table), where),
    }
    for family, latent in (("attention_prefill", False), ("mla_prefill", True)):
        found[family] = few_coefficients(  # type: ignore[index]  # both are families
            attention_efficiencies(folder, table, latent=latent),
            base[family][BF16],
            f"{where}, forward and backward; the other coefficients are those of the derived calibration",
            {},
        )
    families: Families = {family: {BF16: tidy(fit)} for family, fit in found.items()}
    for operation, served in machine.streams.items():
        efficiency, fixed_s = streaming_efficiency(folder, table, operation)
        source = f"micro, {table.accelerator}, {operation}: {STREAMS} ({table.source})"
        for name in served:
            families[name] = {"any": _stream(name, efficiency, fixed_s, source)}
    return families


def _joined(base: Families, own: Families) -> Families:
    """A machine's families over those of its accelerator; a stream's one row stands for all types."""
    return {
        family: own[family] if "any" in own.get(family, {}) else {**fits, **own.get(family, {})}
        for family, fits in base.items()
    }


def efficiency_files(folder: Tables, bases: Mapping[str, Families] | None = None) -> list[CalibrationFile]:
    """Calibrations of the machines of :data:`EFFICIENCY_MACHINES`.

    Parameters
    ----------
    folder : Path or mapping
        Holds ``micro.csv``.
    bases : mapping of str to Families, optional
        Calibrations that are not written yet, by name; those of the catalog without.

    Returns
    -------
    list of CalibrationFile
        What a machine's rows do not tell is that of the calibration that its accelerator uses unasked.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    ValueError
        If it has no row of a machine.
    ModuleNotFoundError
        Without scipy (the ``calibrate`` extra).
    """
    files = []
    for machine in EFFICIENCY_MACHINES:
        used = calibration_for(machine.table.board, "training")
        base = (bases or {}).get(used.name, used.kernels.by_family())
        files.append(
            CalibrationFile(
                name=machine.name,
                applies_to=(),
                measured_on=(machine.table.accelerator,),
                tasks=TRAINING,
                stack=machine.table.stack,
                fabric=machine.fabric,
                kernels=_joined(base, _families(folder, machine, base)),
            )
        )
    return files


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, or 2 where a table or the output folder is missing."""
    parser = argparse.ArgumentParser(prog="python -m simulator.fitting.efficiency_files", description=__doc__)
    parser.add_argument("measurements", type=Path, help="folder with micro.csv")
    parser.add_argument("--out", type=Path, default=None, help="folder for the calibration files")
    options = parser.parse_args(arguments)
    if options.out is not None and not options.out.is_dir():
        sys.stderr.write(f"{options.out} is not a folder; make it first\n")
        return 2
    try:
        files = efficiency_files(options.measurements)
    except (FileNotFoundError, ModuleNotFoundError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for file in files:
        for family, fits in file.kernels.items():
            for dtype, fit in fits.items():
                if fit.rows:
                    errors = ", ".join(f"{name} {100 * value:.1f} %" for name, value in fit.error.items())
                    sys.stdout.write(f"{file.name} {family} {dtype}: {fit.rows} rows; {errors}\n")
        if options.out is not None:
            sys.stdout.write(f"wrote {write_calibration(file, options.out)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
