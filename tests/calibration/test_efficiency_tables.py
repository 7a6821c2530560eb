"""Kernels stated as efficiencies by shape: read by hand, found back from made-up rows, and reproduced."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from hardware_specs import (
    calibration_for,
    fabric_calibration_for,
    load_accelerator,
    load_calibration,
    load_fabric_calibration,
    load_system,
    to_mapping,
)
from simulator.communication.collectives import exchange
from simulator.communication.direct_messages import all_to_all
from simulator.communication.placement import place
from simulator.fitting.efficiency_fabrics import efficiency_fabric
from simulator.fitting.efficiency_files import EFFICIENCY_MACHINES, efficiency_files
from simulator.fitting.measured_efficiencies import (
    EfficiencyTable,
    attention_efficiencies,
    collective_rate,
    grouped_efficiencies,
    product_efficiencies,
    streaming_efficiency,
)
from simulator.fitting.samples import predict_samples
from simulator.machines.device import Machines
from simulator.machines.fabric import fabric_columns
from simulator.machines.hardware_leaves import HardwareLeaves
from simulator.scenarios.precision import RECIPES

pytest.importorskip("scipy", reason="fitting needs the calibrate extra")

REPOSITORY = Path(__file__).resolve().parents[2]
MEASUREMENTS = Path(os.environ.get("LLMSIM_MEASUREMENTS", REPOSITORY.parent / "shared" / "measurements"))
measured = pytest.mark.skipif(
    not (MEASUREMENTS / "micro.csv").is_file(),
    reason=f"no measured tables in {MEASUREMENTS}; set LLMSIM_MEASUREMENTS",
)
TABLE = EfficiencyTable(source="made up", accelerator="b200-sxm", stack="a stack")
PEAK, BANDWIDTH = 2.25e15, 7.7e12  # of the B200's data sheet


def row(op, shape="", value=1000.0, m=0.0, n=0.0, k=0.0, batch=1.0, notes=""):
    sizes = {"batch": batch, "m": m, "n": n, "k": k}
    return {
        "source": "made up",
        "op": op,
        "dtype": "bf16",
        "shape": shape,
        "value": value,
        "notes": notes,
    } | sizes


def tables(*rows):
    return {"micro": pd.DataFrame(rows)}


def test_a_product_by_hand():
    shape = "b=1,m=4096,k=8192,n=1024,layout=NT,accumulate={},out_dtype={}"
    read = product_efficiencies(
        tables(
            row("matmul", shape.format(False, "bf16"), m=4096.0, n=1024.0, k=8192.0),
            row("matmul", shape.format(True, "fp32"), m=4096.0, n=1024.0, k=8192.0, value=500.0),
        ),
        TABLE,
    )
    # 2 x 4096 x 1024 x 8192 = 6.872e10 FLOP at 1e15 and 5e14 FLOP/s
    assert read.measured_s == pytest.approx([6.871947674e-5, 13.743895347e-5])
    operands = 2 * (4096 * 8192 + 1024 * 8192)
    # Two bytes written, or four read and four written.
    assert read.inputs["moved_bytes"] == pytest.approx(
        [operands + 2 * 4096 * 1024, operands + 8 * 4096 * 1024]
    )


def test_grouped_products_by_hand():
    shape = "ng=20,M=100,N=3072,K=5120,dtype=bf16,main_grad_dtype=fp32,stage={}"
    rows = [
        row("group_matmul", shape.format(s), m=100.0, n=3072.0, k=5120.0, batch=20.0)
        for s in ("fwd", "bwd_grad_w")
    ]
    read = grouped_efficiencies(tables(*rows), TABLE)
    # 20 experts x 100 rows: 2 x 2000 x 3072 x 5120 = 6.291e10 FLOP at 1e15 FLOP/s
    assert read.measured_s == pytest.approx([6.291456e-5] * 2)
    rows_moved, matrices = 2 * 2000 * (3072 + 5120), 20 * 3072 * 5120
    assert read.inputs["moved_bytes"] == pytest.approx([rows_moved + 2 * matrices, rows_moved + 8 * matrices])
    assert list(read.inputs["m"]) == [2000, 20 * 5120] and list(read.inputs["k"]) == [5120, 100]
    assert list(read.inputs["flop"]) == [2 * 2000 * 3072 * 5120] * 2


def test_attention_by_hand():
    shape = "batch=1,seq_len=4096,head_num=8,kv_head_num=2,qk_head_dim={},v_head_dim=128,qkv_contiguous=True"
    rows = [row(op, shape.format(d)) for op in ("sdp_fwd", "sdp_bwd") for d in (128, 192)]
    plain, latent = (attention_efficiencies(tables(*rows), TABLE, latent=flag) for flag in (False, True))
    assert (plain.family, latent.family) == ("attention_prefill", "mla_prefill")
    # The table counts the full square, 2 x 4096^2 x 8 x 256 = 6.872e10 forward and 2.5 times that backward.
    assert plain.measured_s == pytest.approx([6.871947674e-5, 17.179869184e-5])
    assert latent.measured_s == pytest.approx(plain.measured_s * 320 / 256)
    # The kernel computes what the mask leaves: 4096 x 4097 / 2 pairs, 2 products of 2 FLOP over a width of 128.
    assert plain.inputs["flop"] == pytest.approx([4 * 8 * 128 * 4096 * 4097 / 2 * f for f in (1, 2.5)])
    assert list(latent.inputs["head_dim"]) == [160, 160]
    # Queries and results of 8 heads, keys and values of 2; backward both and their gradients.
    stream = 2 * 4096 * (8 * 256 + 2 * 256)
    assert plain.inputs["moved_bytes"] == pytest.approx([stream, 2 * stream])


def test_streams_by_hand():
    rows = tables(
        row("membw_default", value=3850.0 * 1e9 / 2**30, notes="fitted; latency_us=30"),
        row("membw_ce", value=9e9, notes="latency_us=5"),
    )
    assert streaming_efficiency(rows, TABLE, "membw_default") == pytest.approx((0.5, 30e-6))
    assert streaming_efficiency(rows, TABLE, "membw_ce") == pytest.approx((1.0, 5e-6))
    with pytest.raises(ValueError, match="micro has no membw_permute row"):
        streaming_efficiency(rows, TABLE, "membw_permute")
    with pytest.raises(ValueError, match="states no latency_us"):
        streaming_efficiency(tables(row("membw_default")), TABLE, "membw_default")


def collective(op, value, notes):
    return {**row(op, value=value * 1e9 / 2**30, notes=notes), "source": EFFICIENCY_MACHINES[0].table.source}


COLLECTIVES = [
    collective("all_gather", 600.0, "latency_us=9 scale=1 offset=-1"),
    collective("reduce_scatter", 750.0, "latency_us=7 scale=1 offset=-1"),
    collective("all2all", 450.0, "latency_us=5 scale=1 offset=-1"),
    collective("all_reduce", 700.0, "latency_us=4 scale=2 offset=-1"),
]


def test_collectives_by_hand():
    """A latency for each of the seven exchanges of eight ranks, and the bytes of seven eighths of the message."""
    rate = collective_rate(tables(*COLLECTIVES), EFFICIENCY_MACHINES[0].table, "all_gather")
    assert rate.seconds(80e6, 8) == pytest.approx(70e6 / 600e9 + 7 * 9e-6)
    assert rate.seconds(80e6, 1) == 0.0
    whole = collective_rate(tables(*COLLECTIVES), EFFICIENCY_MACHINES[0].table, "all_reduce")
    assert whole.seconds(80e6, 8) == pytest.approx(2 * (70e6 / 700e9 + 7 * 4e-6))
    bare = tables({**COLLECTIVES[0], "notes": ""})
    with pytest.raises(ValueError, match="states no latency_us, scale and offset"):
        collective_rate(bare, EFFICIENCY_MACHINES[0].table, "all_gather")


@pytest.mark.parametrize(
    ("operation", "name", "tolerance"),
    [("all_gather", "all_gather", 0.13), ("all_to_all", "all2all", 1e-3), ("all_reduce", "all_reduce", 1e-3)],
)
def test_a_fabric_from_stated_rates_gives_them_back(tmp_path, operation, name, tolerance):
    """Through the engine, on the catalog's node; a ring is the mean of two rows that differ by 25 %."""
    machine = EFFICIENCY_MACHINES[0]
    fits = efficiency_fabric(tables(*COLLECTIVES), machine)
    tier = {key: fit.model_dump(mode="json", exclude_defaults=True) for key, fit in fits.items()}
    fabric = {**to_mapping(load_fabric_calibration(machine.fabric)), "scale_up": tier, "name": "made-up"}
    written = tmp_path / "made-up.yaml"
    written.write_text(yaml.safe_dump(fabric), encoding="utf-8")
    system = {**to_mapping(load_system("dgx-b200")), "fabric_calibration": str(written)}
    leaves = HardwareLeaves(systems=[load_system(system)], index=np.zeros(1, dtype=np.intp))
    machines = Machines(
        leaves=leaves, precisions=[RECIPES["bf16"]], precision_index=np.zeros(1, dtype=np.intp)
    )
    eight, message = np.full(1, 8.0), np.full(1, 80e6)
    columns = fabric_columns(machines, eight)
    group = place(eight, np.ones(1), eight, columns)
    done = (
        all_to_all(message, group, columns)
        if operation == "all_to_all"
        else exchange(operation, message, group, columns)
    )
    found = float(done.seconds[0])
    stated = collective_rate(tables(*COLLECTIVES), machine.table, name).seconds(80e6, 8)
    assert found == pytest.approx(stated, rel=tolerance)


def test_a_calibration_brings_the_fabric_of_its_machine():
    plain = load_system("dgx-b200")
    named = plain.model_copy(update={"calibration": "b200-sxm-megatron"})
    both = named.model_copy(update={"fabric_calibration": "default"})
    assert fabric_calibration_for(plain).name == "nvswitch-blackwell-training"
    assert fabric_calibration_for(named).name == "nvswitch-b200-megatron"
    assert fabric_calibration_for(both).name == "default"
    # The rates of whole runs stand on the same kernels and the same fabric.
    runs = plain.model_copy(update={"calibration": "b200-sxm-megatron-runs"})
    assert fabric_calibration_for(runs).name == "nvswitch-b200-megatron"


def made_up():
    """Rows of a machine whose kernels run at known shares of its peaks."""
    random, source = np.random.default_rng(3), EFFICIENCY_MACHINES[0].table.source
    rows = []
    for _ in range(200):
        m, n, k = (float(512 * random.integers(4, 40)) for _ in "mnk")
        rows.append(row("matmul", "accumulate=False,out_dtype=bf16", 0.55 * PEAK / 1e12, m, n, k))
    for each in (128, 256, 512, 1024):
        for experts in (8, 16, 32, 64):
            shape = "dtype=bf16,main_grad_dtype=fp32,stage=fwd"
            rows.append(row("group_matmul", shape, 0.4 * PEAK / 1e12, each, 4096.0, 4096.0, experts))
    for heads in (8, 16, 32, 64):
        for key in (128, 192):
            for op in ("sdp_fwd", "sdp_bwd"):
                for length in (8192, 16384, 32768):
                    layout = f"head_num={heads},kv_head_num={heads},qk_head_dim={key},v_head_dim=128"
                    shape = f"batch=1,seq_len={length},{layout}"
                    rows.append(row(op, shape, 2 * 0.5 * PEAK / 1e12))
    for operation in EFFICIENCY_MACHINES[0].streams:
        rows.append(row(operation, value=0.6 * BANDWIDTH / 2**30, notes="latency_us=20"))
    return {"micro": pd.DataFrame(rows).assign(source=source)}


def test_efficiencies_are_found_back():
    (file,) = efficiency_files(made_up())
    assert file.applies_to == () and list(file.measured_on) == ["b200-sxm"]
    kernels = file.kernels
    assert kernels["matmul"]["bf16"].coefficients()["compute_efficiency"] == pytest.approx(0.55, rel=0.03)
    assert kernels["attention_prefill"]["bf16"].error["large"] < 0.1
    pointwise = kernels["pointwise"]["any"].coefficients()
    assert pointwise["read_efficiency"] == pytest.approx(0.6) and pointwise["fixed_s"] == pytest.approx(20e-6)
    # What no row tells is the derived calibration's.
    base = calibration_for(load_accelerator("b200-sxm"), "training").kernels.by_family()
    assert kernels["optimizer"] == base["optimizer"] and kernels["matmul"]["fp8"] == base["matmul"]["fp8"]


def test_the_shipped_one_names_its_data_and_serves_by_name_only():
    shipped = load_calibration("b200-sxm-megatron")
    assert shipped.applies_to == [] and shipped.devices == ("b200-sxm",) and shipped.tasks == ["training"]
    assert calibration_for(load_accelerator("b200-sxm"), "training").name == "blackwell"
    for family in ("matmul", "grouped_matmul", "attention_prefill", "mla_prefill"):
        fit = shipped.kernels.own(family)["bf16"]
        assert fit.basis == "measured" and "SimuMax" in fit.source and fit.rows >= 20
        assert any(name.endswith("_left_out") for name in fit.error), family


@measured
def test_its_fabric_is_reproduced():
    shipped = load_fabric_calibration("nvswitch-b200-megatron").scale_up
    for name, fit in efficiency_fabric(MEASUREMENTS, EFFICIENCY_MACHINES[0]).items():
        assert getattr(shipped, name) == fit, name


@measured
def test_it_is_reproduced():
    (file,) = efficiency_files(MEASUREMENTS)
    shipped = load_calibration(file.name).kernels
    samples = product_efficiencies(MEASUREMENTS, EFFICIENCY_MACHINES[0].table)
    assert len(samples) == 514
    for family, fits in file.kernels.items():
        for dtype, fit in fits.items():
            own = shipped.own(family)[dtype]
            assert own.rows == fit.rows
            for name, value in fit.coefficients().items():
                assert getattr(own, name) == pytest.approx(value, rel=0.02, abs=1e-9), (family, dtype, name)
    times = [
        predict_samples(samples, fit.coefficients())
        for fit in (shipped.matmul["bf16"], file.kernels["matmul"]["bf16"])
    ]
    assert times[0] == pytest.approx(times[1], rel=1e-3)
