"""What makes two sweeps the same: the scenario with its axes, the version, and the files of the catalog."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from hardware_specs import list_systems
from hardware_specs.catalog import catalog_hash, list_calibrations, list_fabric_calibrations
from hardware_specs.catalog_files import catalog_file
from simulator.spaces.space import Space
from workloads.catalog import list_models, model_hash

# Values of an axis that are written out; of a longer one the digest stands for them.
LISTED_VALUES = 1000


def identity(space: Space) -> dict[str, Any]:
    """Everything that the rows of a sweep follow from.

    Parameters
    ----------
    space : Space
        From :func:`simulator.spaces.space.space_from`.

    Returns
    -------
    dict
        Plain data: version, scenario, axes, conditions, fingerprints of catalog files, and ``fingerprint``, the
        SHA-256 of all of it.

    Raises
    ------
    OSError
        If a file that the scenario names has gone.
    """
    from simulator.estimates.estimate import llmsim_version

    digest = hashlib.sha256()
    axes = []
    for axis in space.axes:
        for key, values in zip(axis.keys, axis.values, strict=True):
            digest.update(f"{key}\0{len(values)}\0".encode())
            digest.update(
                values.tobytes() if isinstance(values, np.ndarray) else _text(list(values)).encode()
            )
            listed = [v.item() if isinstance(v, np.generic) else v for v in values[:LISTED_VALUES]]
            axes.append({"key": key, "n_values": len(values), "values": listed})
    found = {
        "llmsim_version": llmsim_version(),
        "base": space.base,
        "axes": axes,
        "together": [list(axis.keys) for axis in space.axes],
        "fixed": space.fixed,
        "late": space.late,
        "where": [condition.text for condition in space.where],
        "generated": sorted(space.generated),
        "catalog": _catalog(space),
    }
    digest.update(_text(found).encode())
    plain: dict[str, Any] = json.loads(_text(found))
    return {**plain, "fingerprint": digest.hexdigest()}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _catalog(space: Space) -> dict[str, str]:
    """Fingerprints of the catalog entries and files that the scenario names, and of all calibrations."""
    calibrations = {"calibration": list_calibrations(), "fabric calibration": list_fabric_calibrations()}
    # The files as they are: to read them all would cost more than a small sweep.
    found = {
        f"{kind} {name}": _file_hash(catalog_file(kind, name))
        for kind, names in calibrations.items()
        for name in names
    }
    for section in ("model", "system"):
        values = [space.base.get(section)]
        for axis in space.axes:
            if section in axis.keys:
                values += list(axis.values[axis.keys.index(section)])
        for value in values:
            name = value.get("base") if isinstance(value, dict) else value
            if not isinstance(name, str):
                continue
            if section == "model" and name in list_models():
                found[f"model {name}"] = model_hash(name)
            elif section == "system" and name in list_systems():
                found[f"system {name}"] = catalog_hash(name)
            elif Path(name).is_file():
                found[f"{section} {name}"] = _file_hash(Path(name))
    return dict(sorted(found.items()))


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
