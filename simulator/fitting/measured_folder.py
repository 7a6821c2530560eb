"""A folder of ``llmsim measure``: its tables, the device that they make, and the collectives of its processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware_specs import CollectiveFit, FabricCalibrationSpec, load_accelerator
from hardware_specs.errors import Problem, SpecError
from hardware_specs.kernel_fits import HostFit
from hardware_specs.schema import AcceleratorSpec
from simulator.fitting.fit_collectives import MeasuredFabric, fit_algorithms
from simulator.fitting.measured_collectives import collective_rows
from simulator.fitting.measured_device import ceiling, device_from_rows, figures_text, system_from_rows
from simulator.fitting.noise import at_one_pace, machine_problems, noise_problems, without_noise
from simulator.fitting.robust_fit import significant
from simulator.measured_tables.kernel_kinds import KERNEL_KINDS
from simulator.measuring.machine import FILE, Machine, read_machine

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "COLLECTIVES",
    "MeasuredFolder",
    "expanded",
    "fabric_fit",
    "host_fit",
    "link_ceiling",
    "machine_files",
    "measured_folder",
]

COLLECTIVES = "collectives"
HOST = "host_time.csv"
MICRO = 1e-6
SLOWNESS = 100.0  # messages between processes of a host take hundreds of microseconds
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
    frames, _ = at_one_pace(frames)
    problems += [*machine_problems(frames), *noise_problems(frames)]
    if problems:
        raise SpecError(problems)
    table = folder / f"{COLLECTIVES}.csv"
    keys = device_from_rows(machine, without_noise(frames)[0], known)
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


def host_fit(paths: Sequence[Path]) -> HostFit | None:
    """Time of the host between operators, from the rounds of ``host_time.csv`` beside the tables.

    Parameters
    ----------
    paths : sequence of Path
        As ``--data`` has them.

    Returns
    -------
    HostFit or None
        The median of the rounds at the usual pace of the machine, with their relative spread as its error; None
        where no round was measured.

    Raises
    ------
    SpecError
        If a folder has no tables of kernels.
    """
    import pandas as pd

    folders = dict.fromkeys(path if path.is_dir() else path.parent for path in paths)
    parts = [pd.read_csv(folder / HOST) for folder in folders if (folder / HOST).is_file()]
    if not parts:
        return None
    kernels = {path.stem: pd.read_csv(path) for path in expanded(paths) if path.suffix == ".csv"}
    rounds = pd.concat(parts)
    stated = [frame["reference_us"] for frame in kernels.values() if "reference_us" in frame]
    usual = float(pd.concat(stated).median()) if stated else float(rounds["reference_us"].median())
    between = rounds["between_us"].to_numpy(dtype=np.float64) * MICRO
    between = between * usual / rounds["reference_us"].to_numpy(dtype=np.float64)
    middle = float(np.median(between))
    off = float(np.mean(np.abs(between / middle - 1.0))) if middle > 0 else 0.0
    return HostFit(
        between_s=significant(middle),
        basis="measured",
        source=f"{HOST}: a chain of tiny operators less the same ones alone, median of {len(between)} rounds",
        rows=len(between),
        error={"rounds": significant(off)},
    )


def link_ceiling(frame: pd.DataFrame | None) -> float:
    """Largest bytes per second that a rank sends in any row, as a ring [byte/s]; 0 without rows; raises nothing."""
    if frame is None:
        return 0.0
    ranks = frame["n_gpus"].to_numpy(dtype=np.float64)
    passes = np.where(frame["op"].to_numpy(dtype=np.str_) == "all_reduce", 2.0, 1.0)
    sent = passes * (ranks - 1.0) / ranks * frame["bytes"].to_numpy(dtype=np.float64)
    return float(np.max(sent / (frame["latency_us"].to_numpy(dtype=np.float64) * MICRO)))


def fabric_fit(found: MeasuredFolder, link_bytes_per_s: float, source: str) -> FabricCalibrationSpec | None:
    """Coefficients of collectives between the processes.

    Parameters
    ----------
    found : MeasuredFolder
        With collectives, or without.
    link_bytes_per_s : float
        Bandwidth of one rank one way that the system will state [byte/s].
    source : str
        Written beside the coefficients.

    Returns
    -------
    FabricCalibrationSpec or None
        A ring, and direct messages as it; None where no collective was measured.

    Raises
    ------
    ModuleNotFoundError
        Without scipy.
    """
    frame = found.collectives
    if frame is None:
        return None
    impl = frame["impl"] if "impl" in frame else frame["op"].map(lambda _: "unstated")
    rows = collective_rows(
        frame["op"].to_numpy(dtype=np.str_),
        frame["n_gpus"].to_numpy(dtype=np.float64),
        frame["bytes"].to_numpy(dtype=np.float64),
        frame["latency_us"].to_numpy(dtype=np.float64) * MICRO,
        impl.to_numpy(dtype=np.str_),
    )
    fabric = MeasuredFabric(
        topology="fully_connected",
        link_bytes_per_s=link_bytes_per_s,
        accelerators_per_node=float(found.machine.processes),
    )
    free = {"ring": ("efficiency", "base_latency_s", "step_latency_s", "ramp")}
    ring = fit_algorithms(rows, fabric, free, source=source, slowness=SLOWNESS)["ring"]
    direct = ring.model_copy(update={"basis": "assumed", "source": f"as the ring: {source}", "rows": 0})
    processor = found.accelerator.kind == "cpu"
    tier = CollectiveFit(
        ring=ring,
        direct=direct,
        compute_share=1.0 if processor else 0.0,
        compute_share_source="derived: the exchange runs on the cores that would compute"
        if processor
        else "assumed: not measured",
    )
    return FabricCalibrationSpec(
        schema_version=1,
        name=f"{found.accelerator.name}-fabric",
        accelerators=[found.accelerator.name],
        stack=", ".join(sorted(set(impl.astype(str)))),
        date=date.today().isoformat(),
        scale_up=tier,
        scale_out=tier,
    )


def machine_files(
    found: MeasuredFolder, calibration_file: str, link_bytes_per_s: float, source: str
) -> dict[str, str]:
    """Texts of the files of the device and of a system of it, by name.

    Parameters
    ----------
    found : MeasuredFolder
        The folder.
    calibration_file : str
        Name of the calibration beside them.
    link_bytes_per_s : float
        Quickest collective, 0 without one [byte/s].
    source : str
        Written beside the coefficients of collectives.

    Returns
    -------
    dict of str to str
        Two files, and that of the fabric where collectives were measured.

    Raises
    ------
    SpecError
        Never for figures that a machine has.
    """
    name = found.accelerator.name
    link = ceiling(link_bytes_per_s) if link_bytes_per_s else 0.0
    fabric = fabric_fit(found, link, source) if link else None
    system = system_from_rows(found.machine, f"{name}.yaml", calibration_file, found.accelerator, link)
    if fabric is not None:
        system["fabric_calibration"] = f"{name}-fabric.yaml"
    fitted = (
        {}
        if fabric is None
        else {
            f"{name}-fabric.yaml": figures_text(
                fabric.model_dump(mode="json", exclude_defaults=True), "Written by llmsim calibrate."
            )
        }
    )
    return {
        **fitted,
        f"{name}.yaml": figures_text(
            found.keys, "A device as llmsim measure found it; state what its data sheet says."
        ),
        f"{name}-system.yaml": figures_text(
            system, "The machine that llmsim measure ran on, with its calibration."
        ),
    }
