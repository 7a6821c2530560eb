"""What the tables say about networks between nodes: too little to fit, enough to print."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simulator.fitting.devices import MEASURED_DEVICES
from simulator.fitting.fit_collectives import fit_collective, predict_collective
from simulator.fitting.measured_collectives import across_node_rows
from simulator.fitting.measured_kernels import read_table

__all__ = ["scale_out_table"]

LARGE_BYTES = 16e6
EFA_NODES = 4
EFA_NODE_BYTES_PER_S = 8 * 50e9  # eight ports of 400 Gbit/s in a p6-b200 node


def scale_out_table(folder: Path) -> list[str]:
    """Lines with the network efficiency that each set of rows implies; FileNotFoundError without tables."""
    lines = ["scale-out evidence (efficiency of one-way wire bandwidth)"]
    for device in MEASURED_DEVICES:
        rows = across_node_rows(folder, device)
        fit = fit_collective(rows, source="messages between two nodes", one_step_base_s=0.0)
        error = float(np.mean(np.abs(predict_collective(rows, fit) / rows.measured_s - 1)))
        lines.append(
            f"{device.node_table}, two GPUs in two nodes, {len(rows)} rows: {fit.efficiency:.2f} of a "
            f"{device.port_bytes_per_s / 1e9:.0f} GB/s port, {fit.step_latency_s * 1e6:.1f} us, "
            f"ramp {fit.ramp:.2f}, MAPE {100 * error:.1f} %"
        )
    return [*lines, _two_nodes(folder), _elastic_fabric(folder)]


def _two_nodes(folder: Path) -> str:
    frame = read_table(folder, "collectives")
    frame = frame[(frame.device == "a100_dgx") & (frame.n_gpus == 16) & (frame.bytes >= LARGE_BYTES)]
    rate = 2 * 15 / 16 * frame.bytes / (frame.latency_us * 1e-6)
    return (
        f"a100_dgx, all-reduce over 16 GPUs in two nodes, {len(frame)} rows of at least 16 MB: bus bandwidth "
        f"{rate.min() / 1e9:.0f}-{rate.max() / 1e9:.0f} GB/s of 200 GB/s in eight ports: not a rail fabric"
    )


def _elastic_fabric(folder: Path) -> str:
    import pandas as pd

    frame = pd.read_csv(folder / "micro.csv")
    frame = frame[(frame.n_devices == 32) & (frame.kind == "collective") & (frame.message_bytes >= 1e9)]
    # Bus bandwidth 2 (31/32) S / T; between four nodes 2 (3/4) S / T crosses each node's ports.
    rate = frame.value * 1e9 * (2 * (EFA_NODES - 1) / EFA_NODES) / (2 * 31 / 32)
    return (
        f"32 x B200 over EFA, all-reduce, {len(frame)} rows of at least 1 GB: "
        f"{rate.min() / EFA_NODE_BYTES_PER_S:.2f}-{rate.max() / EFA_NODE_BYTES_PER_S:.2f} "
        "of eight 50 GB/s ports"
    )
