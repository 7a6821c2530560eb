"""Fabric calibrations as files: of the fabrics that were measured, and by a stated rule of the others.

NVSwitch of Blackwell: Hopper's coefficients; efficiencies times the ratio of the two fractions of link bandwidth that
nccl-tests reached at 8 GiB. All others: the mean of the measured NVSwitch fabrics, without what only a switch does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hardware_specs import AlgorithmFit
from hardware_specs.calibration import Task
from simulator.fitting.efficiency_fabrics import efficiency_fabric
from simulator.fitting.efficiency_files import EFFICIENCY_MACHINES
from simulator.fitting.fit_collectives import Fits
from simulator.fitting.fit_fabrics import (
    FABRICS,
    ONE_SHOT_LIBRARIES,
    FabricSource,
    between_nodes,
    fit_library,
    fit_one_shot,
    library_rows,
    replace_source,
)
from simulator.fitting.measured_collectives import message_rows
from simulator.fitting.robust_fit import significant

__all__ = ["fabric_files", "write_fabric_files"]

CALIBRATION_DATE = "2026-11"  # of the measured tables; bump when they are replaced
EVIDENCE = ("basis", "source", "rows", "error", "spread", "common")
HOPPER_LINK_BYTES_PER_S, BLACKWELL_LINK_BYTES_PER_S = 450e9, 900e9


def _algorithm(fit: AlgorithmFit) -> dict[str, Any]:
    kept = {k: v for k, v in fit.coefficients().items() if k != "bridge_efficiency" or v < 1.0}
    return {**kept, **{name: getattr(fit, name) for name in EVIDENCE}}


def _tier(fits: Fits, share: float, source: str) -> dict[str, Any]:
    return {
        **{name: _algorithm(fit) for name, fit in fits.items()},
        "compute_share": share,
        "compute_share_source": source,
    }


def _file(
    name: str,
    serves: Mapping[str, list[str]],
    tasks: Sequence[Task],
    stack: str,
    tiers: tuple[Fits, Fits],
    share: tuple[float, str],
) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "name": name,
        **{key: list(serves.get(key, [])) for key in ("accelerators", "generations", "topologies")},
        "tasks": list(tasks),
        "stack": stack,
        "date": CALIBRATION_DATE,
        "scale_up": _tier(tiers[0], *share),
        "scale_out": _tier(tiers[1], *share),
    }


def _measured(folder: Path, source: FabricSource) -> tuple[list[dict[str, Any]], Fits]:
    """Files of one measured fabric, one per task where serving has an all-reduce of its own; and its fits."""
    rows = library_rows(folder, source)
    fits = fit_library(source, rows)
    outer = between_nodes(folder, fits["ring"].base_latency_s)
    share = (source.share, source.share_source)
    stack = ", ".join(sorted(set(rows.stack)))
    if not source.one_shot:
        return [
            _file(source.name, source.serves, ("training", "inference"), stack, (fits, outer), share)
        ], fits
    quick = message_rows(folder, source.table, ONE_SHOT_LIBRARIES)
    serving = {**fits, **fit_one_shot(quick, source, fits)}
    both = f"{stack}; all-reduce of small messages: {', '.join(sorted(set(quick.stack)))}"
    return [
        _file(f"{source.name}-training", source.serves, ("training",), stack, (fits, outer), share),
        _file(f"{source.name}-serving", source.serves, ("inference",), both, (serving, outer), share),
    ], serving


def _bus_fraction(folder: Path, accelerator: str, algorithm: str, link_bytes_per_s: float) -> float:
    """Bus bandwidth of eight ranks at 8 GiB over the link bandwidth [1], from ``micro.csv``."""
    import pandas as pd

    frame = pd.read_csv(folder / "micro.csv", low_memory=False)
    frame = frame[(frame.accelerator == accelerator) & (frame.n_devices == 8) & (frame.algo == algorithm)]
    value = frame.value[frame.message_bytes == 2.0**33].iloc[0]
    return float(value) * 1e9 / link_bytes_per_s


def _blackwell(folder: Path, hopper: Fits) -> Fits:
    """Hopper's coefficients, efficiencies scaled by what nccl-tests reached on both."""
    ratios = {
        name: _bus_fraction(folder, "B200 SXM (p6-b200)", algorithm, BLACKWELL_LINK_BYTES_PER_S)
        / _bus_fraction(folder, "H200 SXM", algorithm, HOPPER_LINK_BYTES_PER_S)
        for name, algorithm in (("ring", "Ring (NVLS off)"), ("in_switch", "NVLS"))
    }
    out = {}
    for name, fit in hopper.items():
        ratio = ratios.get(name, ratios["ring"])
        out[name] = replace_source(
            fit,
            f"coefficients of nvswitch-hopper, efficiency times {ratio:.3f}: the ratio of what nccl-tests reached on "
            "8 x B200 and 8 x H200 at 8 GiB (micro.csv, stas00/ml-engineering)",
            efficiency=significant(min(fit.efficiency * ratio, 1.0)),
        )
    return out


def _means(measured: Sequence[Fits]) -> Fits:
    rule = "mean of nvswitch-ampere and nvswitch-hopper; nothing was measured on such a fabric"
    out = {}
    for name in ("ring", "direct"):
        ones = [fits[name].coefficients() for fits in measured]
        numbers = {
            key: significant(
                float(np.exp(np.mean(np.log([o[key] for o in ones]))))
                if key.endswith("efficiency")
                else float(np.mean([o[key] for o in ones]))
            )
            for key in ones[0]
        }
        out[name] = AlgorithmFit.of(numbers, basis="assumed", source=rule)
    return out


def fabric_files(folder: Path) -> list[dict[str, Any]]:
    """All fabric calibrations as mappings in the schema's keys.

    Parameters
    ----------
    folder : Path
        Holds ``collectives.parquet`` and ``micro.csv``.

    Returns
    -------
    list of dict
        Measured ones first.

    Raises
    ------
    FileNotFoundError
        If a table is missing.
    ModuleNotFoundError
        Without scipy or pyarrow (the ``calibrate`` extra).
    """
    files: list[dict[str, Any]] = []
    fits: dict[str, Fits] = {}
    for source in FABRICS:
        made, found = _measured(folder, source)
        files += made
        fits[source.name] = found
    hopper = fits["nvswitch-hopper"]
    share = next((s.share, s.share_source) for s in FABRICS if s.name == "nvswitch-hopper")
    outer = between_nodes(folder, hopper["ring"].base_latency_s)
    blackwell = _blackwell(folder, hopper)
    plain = {name: fit for name, fit in blackwell.items() if name not in ("one_shot", "two_shot")}
    switch = {"generations": ["blackwell"], "topologies": ["switch"]}
    by_rule = "none: derived from nvswitch-hopper by rule"
    files.append(_file("nvswitch-blackwell-training", switch, ("training",), by_rule, (plain, outer), share))
    files.append(
        _file("nvswitch-blackwell-serving", switch, ("inference",), by_rule, (blackwell, outer), share)
    )
    for machine in EFFICIENCY_MACHINES:
        own = (efficiency_fabric(folder, machine), outer)
        files.append(_file(machine.fabric, {}, ("training",), machine.table.stack, own, share))
    mean = _means([fits["nvswitch-ampere"], hopper])
    by_mean = "none: derived from the measured fabrics by rule"
    # Boards on other generations of PCI Express have the same library, but nobody measured them here.
    boards = {name: replace_source(fit, f"as pcie-5: {fit.source}") for name, fit in fits["pcie-5"].items()}
    shared = next((s.share, s.share_source) for s in FABRICS if s.name == "pcie-5")
    hosts = {"topologies": ["host"]}
    files.append(_file("pcie", hosts, ("training", "inference"), "none: as pcie-5", (boards, outer), shared))
    grids = {"topologies": ["torus", "mesh"]}
    engines = (0.0, "assumed: engines of their own run the exchanges")
    everyone: tuple[Task, ...] = ("training", "inference")
    files.append(_file("torus", grids, everyone, by_mean, (mean, outer), engines))
    files.append(_file("default", {}, everyone, by_mean, (mean, outer), share))
    return files


def write_fabric_files(files: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Write ``folder/<name>.yaml`` for each and return the paths; OSError if the folder cannot be written."""
    header = "# Written by `python -m simulator.fitting.fabrics`: change the fit, not this file.\n"
    paths = []
    for file in files:
        path = folder / f"{file['name']}.yaml"
        text = yaml.safe_dump(dict(file), sort_keys=False, width=110, allow_unicode=False)
        path.write_text(header + text, encoding="utf-8")
        paths.append(path)
    return paths
