"""Tensors kept on the host or on NVMe: what is copied each pass and each step, and what compute does not hide.

Copies run on a stream of their own, both directions at once, layer by layer, one layer ahead. The optimizer's update
runs on the device, on states that pass through, or on the host, which takes gradients and gives weights back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import DeviceColumns, Inputs
from simulator.composition.data_parallel import exposed_exchange
from simulator.composition.layer_table import LayerTable
from simulator.composition.stage_kinds import StageKind
from simulator.rules import at, rule
from simulator.scenarios.offload import OFFLOADED, TIERS

FloatArray = NDArray[np.float64]
ZERO: FloatArray = np.zeros(1)
# The layer that computes and the one that is copied are both in device memory.
LAYERS_HERE = 2.0
NVME = float(TIERS.index("nvme"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """Bytes of one stage that come in and go out over a link [byte]."""

    into: FloatArray
    out: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """What copies add to some compute [s], how long they take [s], and the bytes of both ways by tier [byte]."""

    exposed_s: FloatArray
    busy_s: FloatArray
    host_bytes: FloatArray
    nvme_bytes: FloatArray


@rule(
    symbol="Tc",
    formula="max(I, O) / W",
    unit="s",
    source="a link carries both directions at once (PCI Express, NVLink-C2C); Rajbhandari et al., arXiv:2104.07857, "
    "section 4: time is bytes over bandwidth",
)
def copy_time(*, into_bytes: FloatArray, out_bytes: FloatArray, link_bytes_per_s: FloatArray) -> FloatArray:
    """Time of copies between a device and a tier outside it [s]; bytes [byte], bandwidth one way [byte/s]; broadcasts.

    Raises nothing; nothing to copy takes no time, whatever the link.
    """
    most = np.maximum(into_bytes, out_bytes)
    return np.where(most > 0, most / np.where(most > 0, link_bytes_per_s, 1.0), 0.0)


def offloads(inputs: Inputs) -> bool:
    """Whether any row keeps anything outside device memory; raises nothing."""
    return any(bool(np.any(inputs.plan.offload[owner] > 0)) for owner in OFFLOADED)


def _link(device: DeviceColumns, tier: str) -> FloatArray:
    return device.host_link_bytes_per_s if tier == "host" else device.nvme_link_bytes_per_s


def _copies(
    copied: Mapping[str, Copied],
    window_s: FloatArray,
    parts: FloatArray,
    inputs: Inputs,
    tiers: Mapping[str, FloatArray],
) -> Copies:
    """Copies by owner beside a window of compute: tiers (codes by owner) run beside each other, owners in turn."""
    longest, moved = ZERO, {"host": ZERO, "nvme": ZERO}
    for number, tier in enumerate(TIERS):
        if number == 0:
            continue
        here = {owner: (tiers[owner] == number) * 1.0 for owner in copied}
        into = sum((here[o] * c.into for o, c in copied.items()), ZERO)
        out = sum((here[o] * c.out for o, c in copied.items()), ZERO)
        if not (np.any(into) or np.any(out)):
            continue
        link = _link(inputs.device, tier)
        longest = np.maximum(longest, copy_time(into_bytes=into, out_bytes=out, link_bytes_per_s=link))
        moved[tier] = into + out
    exposed = exposed_exchange(
        exchange_s=longest,
        window_s=window_s,
        buckets=parts,
        overlap=inputs.plan.overlap_offload,
        compute_share=ZERO,
    )
    return Copies(exposed_s=exposed, busy_s=longest, host_bytes=moved["host"], nvme_bytes=moved["nvme"])


def together(*copies: Copies) -> Copies:
    """Copies one after the other; raises nothing."""
    return Copies(**{f.name: sum((getattr(c, f.name) for c in copies), ZERO) for f in fields(Copies)})


def kept_by_micro_batch(table: LayerTable, stage: StageKind) -> FloatArray:
    """Bytes that one micro-batch keeps on a stage for the backward pass [byte]; raises nothing."""
    return stage.layers * table.layer_kept_bytes + stage.embedding * table.embedding_kept_bytes


def pass_copies(
    inputs: Inputs,
    kept_bytes: FloatArray,
    states: Mapping[str, FloatArray],
    layers: FloatArray,
    windows_s: tuple[FloatArray, FloatArray],
    micro_batches: FloatArray,
) -> tuple[Copies, Copies]:
    """Copies beside the forward and the backward pass of one micro-batch on a stage.

    Parameters
    ----------
    inputs : Inputs
        Rows.
    kept_bytes : ndarray
        Activations of one micro-batch [byte].
    states : mapping
        Bytes of weights and gradients of the stage on one device [byte].
    layers : ndarray
        Layers of the stage, one after the other beside the one that computes [1].
    windows_s : tuple of ndarray
        The stage's passes without copies [s].
    micro_batches : ndarray
        Per replica [1].

    Returns
    -------
    tuple of Copies
        Of each pass.

    Raises
    ------
    KeyError
        If a state is missing.
    """
    weights, gradients = states["weights"], states["gradients"]
    # The first micro-batch finds no gradients to add to.
    again = (micro_batches - 1.0) / micro_batches
    there = {"weights": Copied(into=weights, out=ZERO), "activations": Copied(into=ZERO, out=kept_bytes)}
    back = {
        "weights": Copied(into=weights, out=ZERO),
        "activations": Copied(into=kept_bytes, out=ZERO),
        "gradients": Copied(into=gradients * again, out=gradients),
    }
    with at("time.offload_s.passes"):
        return (
            _copies(there, windows_s[0], layers, inputs, inputs.plan.offload),
            _copies(back, windows_s[1], layers, inputs, inputs.plan.offload),
        )


def update_copies(
    inputs: Inputs,
    states: Mapping[str, FloatArray],
    layers: FloatArray,
    optimizer_s: FloatArray,
) -> Copies:
    """Copies beside an update on the device: states pass through, gradients come and new weights go.

    ``states`` are bytes of the heaviest stage on one device [byte], ``optimizer_s`` the update [s]. States on drives
    pass through the host where that updates. Raises nothing.
    """
    here, offload = 1.0 - inputs.plan.update_on_host, inputs.plan.offload
    states_move = np.where(offload["optimizer"] == NVME, 1.0, here)
    copied = {
        "optimizer": Copied(into=states_move * states["optimizer"], out=states_move * states["optimizer"]),
        "gradients": Copied(into=here * states["gradients"], out=ZERO),
        "weights": Copied(into=ZERO, out=here * states["weights"]),
    }
    with at("time.offload_s.update"):
        return _copies(copied, optimizer_s, layers, inputs, offload)


def host_update_copies(
    inputs: Inputs,
    owned: Mapping[str, FloatArray],
    layers: FloatArray,
    backward_s: FloatArray,
    optimizer_s: FloatArray,
) -> Copies:
    """Copies around an update on the host: gradients beside the last backward pass, new weights beside the update.

    ``owned`` are bytes of what a device's part of the update touches [byte], windows in seconds. What the plan keeps on
    the host anyway is not copied again. Raises nothing.
    """
    there, offload = inputs.plan.update_on_host, inputs.plan.offload
    down = {"gradients": Copied(into=ZERO, out=there * (offload["gradients"] == 0) * owned["gradients"])}
    up = {"weights": Copied(into=there * (offload["weights"] == 0) * owned["weights"], out=ZERO)}
    to_host = dict.fromkeys(("gradients", "weights"), np.full(1, float(TIERS.index("host"))))
    with at("time.offload_s.update"):
        return together(
            _copies(down, backward_s, layers, inputs, to_host),
            _copies(up, optimizer_s, layers, inputs, to_host),
        )


@rule(
    symbol="E",
    formula="H eh + V ev",
    unit="J",
    source="energy proportional to the bytes that pass a link and the memory or the drive behind it",
)
def copy_energy(
    *,
    host_copied_bytes: FloatArray,
    nvme_copied_bytes: FloatArray,
    host_j_per_byte: FloatArray,
    nvme_j_per_byte: FloatArray,
) -> FloatArray:
    """Energy of copies [J]: bytes of both ways [byte] at joules per byte [J/byte]; broadcasts; raises nothing."""
    return host_copied_bytes * host_j_per_byte + nvme_copied_bytes * nvme_j_per_byte


@dataclass(frozen=True, slots=True, kw_only=True)
class Movable:
    """Bytes of one owner that may leave the device, and what stays while they pass through [byte]."""

    total: FloatArray
    staging: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A stage's bytes by owner on the device, and those that it keeps on other tiers [byte]."""

    owners: dict[str, FloatArray]
    host: FloatArray
    nvme: FloatArray


def stored(inputs: Inputs, owners: Mapping[str, FloatArray], movable: Mapping[str, Movable]) -> Stored:
    """Owners of one stage with those that the plan keeps elsewhere moved out; what passes through is a buffer.

    Broadcasts; raises nothing.
    """
    here, elsewhere = dict(owners), {"host": ZERO, "nvme": ZERO}
    for owner, bytes_of in movable.items():
        code = inputs.plan.offload[owner]
        if not np.any(code > 0):
            continue
        for number, tier in enumerate(TIERS):
            if number:
                elsewhere[tier] = elsewhere[tier] + (code == number) * bytes_of.total
        here[owner] = here[owner] - (code > 0) * bytes_of.total
        here["buffers"] = here["buffers"] + (code > 0) * bytes_of.staging
    return Stored(owners=here, host=elsewhere["host"], nvme=elsewhere["nvme"])
