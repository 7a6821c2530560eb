"""The devices that the measured tables cover: their names there, and the datasheet figures to fit against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardware_specs import device_named, find_device

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["A100", "A100_PCIE", "H100", "MEASURED_DEVICES", "MeasuredDevice", "of_device"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredDevice:
    """A device of the tables and the figures that its efficiencies are fractions of.

    Attributes
    ----------
    name : str
        Name of the calibration, such as ``"a100-sxm"``.
    applies_to : tuple of str
        Catalog accelerators that the calibration is used for: the device and its siblings.
    kernel_table, layer_table, collective_table, node_table, eager_table : str
        The device's name in the tables of GEMM and attention, layer operators, collectives, collectives of
        whole DGX nodes, and eager PyTorch kernels.
    peak_flop_per_s : mapping of dtype to float
        Dense peak [FLOP/s].
    bandwidth_bytes_per_s : float
        Memory bandwidth [byte/s].
    link_bytes_per_s, port_bytes_per_s : float
        One-way bandwidth of one device into the scale-up fabric, and of one network port of the node that
        was measured [byte/s].
    in_switch_reduction : bool
        Whether the switch that was measured adds up all-reduces.
    units, exchange_units, exchange_source : int, int, str
        Compute units (SMs) [1], those that a running NCCL collective occupies, one block per channel [1], and
        where the channels were seen.
    source : str
        Where the figures stand.
    """

    name: str
    applies_to: tuple[str, ...]
    kernel_table: str
    layer_table: str
    collective_table: str
    node_table: str
    eager_table: str
    peak_flop_per_s: Mapping[str, float]
    bandwidth_bytes_per_s: float
    link_bytes_per_s: float
    port_bytes_per_s: float
    in_switch_reduction: bool
    units: int
    exchange_units: int
    exchange_source: str
    source: str

    def __post_init__(self) -> None:
        """Every name of a table is one that the catalog's map knows; SpecError with near names otherwise."""
        for field in ("kernel_table", "layer_table", "collective_table", "node_table", "eager_table"):
            if name := getattr(self, field):
                device_named(name)


def of_device(frame: pd.DataFrame, accelerator: str) -> pd.DataFrame:
    """Rows of a measured table that ran on one accelerator of the catalog, however its sources spell it.

    Parameters
    ----------
    frame : DataFrame
        With the column ``device`` or ``accelerator``, and ``source`` where sources differ in what they mean.
    accelerator : str
        A catalog name, or any spelling that the tables use.

    Returns
    -------
    DataFrame
        The rows, in order; none if the table has no such device.

    Raises
    ------
    SpecError
        If ``accelerator`` is unknown; near names are offered.
    """
    wanted = device_named(accelerator).accelerator
    column = frame["device" if "device" in frame else "accelerator"]
    sources = frame["source"] if "source" in frame else [""] * len(frame)
    found = [find_device(str(text), str(source)) for text, source in zip(column, sources, strict=True)]
    return frame[[device is not None and device.accelerator == wanted for device in found]]


A100 = MeasuredDevice(
    name="a100-sxm",
    applies_to=("a100-sxm-40gb", "a100-sxm-80gb", "a800-sxm-80gb"),
    kernel_table="a100_sxm",
    layer_table="a100",
    collective_table="a100_sxm",
    node_table="a100_dgx",
    eager_table="NVIDIA A100-PCIE-40GB",
    peak_flop_per_s={"bf16": 312e12, "fp16": 312e12, "tf32": 156e12, "fp32": 19.5e12, "int8": 624e12},
    # The rows are of the 80 GB part: residual additions and decode GEMMs reach 1.8e12 byte/s, more than the
    # 1.555e12 of the 40 GB part.
    bandwidth_bytes_per_s=2.039e12,
    link_bytes_per_s=300e9,
    port_bytes_per_s=25e9,
    in_switch_reduction=False,
    units=108,
    exchange_units=24,
    exchange_source="NVIDIA/nccl issue 1225, DGX A100",
    source="NVIDIA A100 datasheet, 2021, table 'A100 80GB SXM'; NVIDIA DGX A100 datasheet (ConnectX-6)",
)

A100_PCIE = MeasuredDevice(
    name="a100-pcie-40gb",
    applies_to=(),
    kernel_table="NVIDIA A100-PCIE-40GB",
    layer_table="",
    collective_table="",
    node_table="",
    eager_table="NVIDIA A100-PCIE-40GB",
    peak_flop_per_s={"bf16": 312e12, "fp16": 312e12, "fp32": 19.5e12},
    bandwidth_bytes_per_s=1.555e12,
    link_bytes_per_s=32e9,
    port_bytes_per_s=0.0,
    in_switch_reduction=False,
    units=108,
    exchange_units=0,
    exchange_source="",
    source="NVIDIA A100 datasheet, 2021, table 'A100 40GB PCIe'",
)

H100 = MeasuredDevice(
    name="h100-sxm",
    applies_to=("h100-sxm", "h100-sxm-96gb", "h200-sxm", "h800-sxm", "gh200"),
    kernel_table="h100_sxm",
    layer_table="h100",
    collective_table="h100_sxm",
    node_table="h100_dgx",
    eager_table="NVIDIA H100 80GB HBM3",
    peak_flop_per_s={
        "bf16": 989.4e12,
        "fp16": 989.4e12,
        "tf32": 494.7e12,
        "fp32": 66.9e12,
        "fp8": 1978.9e12,
        "int8": 1978.9e12,
    },
    bandwidth_bytes_per_s=3.35e12,
    link_bytes_per_s=450e9,
    port_bytes_per_s=50e9,
    in_switch_reduction=True,
    units=132,
    # Of rings. No measured row says how much an exchange slows a kernel beside it.
    exchange_units=24,
    exchange_source="rings: NVIDIA/nccl issue 1259 logs at least 23; 16 when the switch adds: issue 1041",
    source="NVIDIA H100 Tensor Core GPU Architecture, v1.04, 2023, table 1 (SXM5, dense); NVIDIA DGX H100 "
    "datasheet (ConnectX-7)",
)

MEASURED_DEVICES = (A100, H100)
