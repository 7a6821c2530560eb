"""A folder of ``llmsim measure``: its tables, the device that they make, and the collectives of its processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware_specs import CollectiveFit, load_accelerator
from hardware_specs.errors import Problem, SpecError
from hardware_specs.schema import AcceleratorSpec
from simulator.fitting.fit_collectives import fit_collective
from simulator.fitting.measured_collectives import ring_traffic, user_rows
from simulator.fitting.measured_device import device_from_rows, figures_text, system_from_rows
from simulator.fitting.noise import machine_problems, noise_problems
from simulator.measuring.machine import FILE, Machine, read_machine
from simulator.validation.kernel_kinds import KERNEL_KINDS

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "COLLECTIVES",
    "MeasuredFolder",
    "expanded",
    "fitted_collectives",
    "link_ceiling",
    "machine_files",
    "measured_folder",
]

COLLECTIVES = "collectives"
MICRO = 1e-6
NEEDED = ("device", "op", "n_gpus", "bytes", "latency_us")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredFolder:
    """What a folder holds: its machine, the device made from its rows, and its collectives (None without)."""

    machine: Machine
    keys: Mapping[str, Any]
    accelerator: AcceleratorSpec
    collectives: pd.DataFrame | None


def expanded(paths: Sequence[Path]) -> list[Path]:
    """Files to read: a folder stands for the tables of kernels in it.

    Raises
    ------
    SpecError
        If a folder has none.
    """
    out: list[Path] = []
    for path in paths:
        if not path.is_dir():
            out.append(path)
            continue
        found = [path / f"{kind}.csv" for kind in KERNEL_KINDS if (path / f"{kind}.csv").is_file()]
        if not found:
            rule = f"holds none of {', '.join(f'{kind}.csv' for kind in KERNEL_KINDS)}"
            fix = f"run llmsim measure --out {path}"
            raise SpecError([Problem(path="--data", value=str(path), rule=rule, fix=fix)])
        out += found
    return out


def measured_folder(paths: Sequence[Path], known: Mapping[str, str]) -> MeasuredFolder:
    """Make the device of the folder that was given.

    Parameters
    ----------
    paths : sequence of Path
        As ``--data`` has them: one folder, or tables of one.
    known : mapping of str to str
        Figures of the data sheet by key.

    Returns
    -------
    MeasuredFolder
        With a device whose unknown figures are ceilings of the rows.

    Raises
    ------
    SpecError
        If no folder has a machine's identity, two have different ones, rows of several machines are mixed, the
        machine was too noisy, or a figure is wrong.
    """
    import pandas as pd

    folders = list(dict.fromkeys(path if path.is_dir() else path.parent for path in paths))
    machines = [(folder, found) for folder in folders if (found := read_machine(folder)) is not None]
    if not machines:
        rule = f"is needed: no {FILE} of llmsim measure is beside the data to make a device of"
        fix = "name a device of the catalog or a YAML file, or give the folder of llmsim measure as --data"
        raise SpecError([Problem(path="--device", value="", rule=rule, fix=fix)])
    folder, machine = machines[0]
    problems = [
        Problem(
            path="--data",
            value=str(other),
            rule=f"is of machine {there.id}, {folder} of {machine.id}: two machines' rows do not belong together",
            fix="calibrate each by itself",
        )
        for other, there in machines[1:]
        if there.id != machine.id
    ]
    frames = {path.stem: pd.read_csv(path) for path in expanded(paths) if path.suffix == ".csv"}
    problems += [*machine_problems(frames), *noise_problems(frames)]
    if problems:
        raise SpecError(problems)
    table = folder / f"{COLLECTIVES}.csv"
    keys = device_from_rows(machine, frames, known)
    return MeasuredFolder(
        machine=machine,
        keys=keys,
        accelerator=load_accelerator(keys),
        collectives=_collectives(table) if table.is_file() else None,
    )


def _collectives(path: Path) -> pd.DataFrame | None:
    import pandas as pd

    frame = pd.read_csv(path)
    lacking = [name for name in NEEDED if name not in frame]
    if lacking:
        rule = f"lacks columns {', '.join(lacking)}"
        raise SpecError([Problem(path=str(path), value="", rule=rule, fix="measure into a new folder")])
    frame = frame[frame["quality"] != "noisy"] if "quality" in frame else frame
    return frame if len(frame) else None


def link_ceiling(frame: pd.DataFrame | None) -> float:
    """Largest bytes per second that a rank sends in any row [byte/s]; 0 without rows; raises nothing."""
    if frame is None:
        return 0.0
    sent, _ = ring_traffic(
        frame["op"].to_numpy(dtype=np.str_),
        frame["n_gpus"].to_numpy(dtype=np.float64),
        frame["bytes"].to_numpy(dtype=np.float64),
    )
    return float(np.max(sent / (frame["latency_us"].to_numpy(dtype=np.float64) * MICRO)))


def fitted_collectives(found: MeasuredFolder, link_bytes_per_s: float, source: str) -> CollectiveFit | None:
    """Coefficients of collectives between the processes; None where none was measured.

    Raises
    ------
    ModuleNotFoundError
        Without scipy.
    """
    if found.collectives is None:
        return None
    fit = fit_collective(user_rows(found.collectives, link_bytes_per_s), source=source)
    return CollectiveFit(
        efficiency=fit.efficiency,
        base_latency_s=fit.base_latency_s,
        step_latency_s=fit.step_latency_s,
        ramp=fit.ramp,
        # An exchange between processes of one host runs on the cores that would compute.
        compute_share=1.0 if found.accelerator.kind == "cpu" else 0.0,
        basis="measured",
        source=source,
        rows=fit.rows,
        error=fit.error,
    )


def machine_files(found: MeasuredFolder, calibration_file: str, link_bytes_per_s: float) -> dict[str, str]:
    """Texts of the files of the device and of a system of it, by name.

    Parameters
    ----------
    found : MeasuredFolder
        The folder.
    calibration_file : str
        Name of the calibration beside them.
    link_bytes_per_s : float
        Quickest collective, 0 without one [byte/s].

    Returns
    -------
    dict of str to str
        Two files.

    Raises
    ------
    SpecError
        Never for figures that a machine has.
    """
    name = found.accelerator.name
    system = system_from_rows(
        found.machine, f"{name}.yaml", calibration_file, found.accelerator, link_bytes_per_s
    )
    return {
        f"{name}.yaml": figures_text(
            found.keys, "A device as llmsim measure found it; state what its data sheet says."
        ),
        f"{name}-system.yaml": figures_text(
            system, "The machine that llmsim measure ran on, with its calibration."
        ),
    }
