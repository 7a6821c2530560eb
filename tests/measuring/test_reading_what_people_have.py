"""Profiler traces, FLOP counts and nccl-tests logs: made here by hand and by PyTorch, and files that are none."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from simulator.measuring.flop_counter_file import flop_by_operator
from simulator.measuring.kineto_trace import class_of, read_trace, trace_operators
from simulator.measuring.nccl_tests_log import collectives_of_log

LOG = """\
# nThread 1 nGpus 2 minBytes 8 maxBytes 134217728 step: 2(factor) warmup iters: 5 iters: 20
#
# Using devices
#  Rank  0 Group  0 Pid  1234 on   host device  0 [0x07] NVIDIA A100-SXM4-80GB
#  Rank  1 Group  0 Pid  1234 on   host device  1 [0x0a] NVIDIA A100-SXM4-80GB
NCCL version 2.21.5+cuda12.4
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
           8             2     float     sum      -1    12.50    0.00    0.00      0    12.40    0.00    0.00      0
     1048576        262144     float     sum      -1    30.00   34.95   34.95      0    29.00   36.16   36.16      0
     2097152        524288     float     sum      -1    50.00   41.94   41.94      3    49.00   42.80   42.80      0
# Avg bus bandwidth    : 18.5
"""
SCENARIO = """\
model: {n_layers: 2, hidden: 256, heads: 4, ffn: 1024, vocab: 2048, max_positions: 64, gated_mlp: false,
        norm: layer, positions: learned, separate_qkv: true}
task: {kind: training, sequence_length: 64, global_batch_size: 2}
system: dgx-a100-80gb
devices: 1
plan: {precision: fp32, micro_batch_size: 2}
"""


def event(name: str, start: float, length: float, **more: object) -> dict:
    return {"ph": "X", "cat": "cpu_op", "name": name, "pid": 1, "tid": 1, "ts": start, "dur": length, **more}


def test_self_times_and_phases_by_hand(tmp_path: Path) -> None:
    """A linear of 10 us of which its product is 8; a backward product of 5; Adam of 3; two steps of it all."""
    one = [
        event("ProfilerStep#1", 0, 30, cat="user_annotation"),
        event("aten::linear", 0, 10),
        event("aten::mm", 1, 8, args={"Input Dims": [[4, 8], [8, 2]], "Input type": ["float", "float"]}),
        event("autograd::engine::evaluate_function: MmBackward0", 12, 6),
        event("aten::mm", 12.5, 5),
        event("Optimizer.step#AdamW.step", 20, 4, cat="user_annotation"),
        event("aten::_fused_adamw_", 20.5, 3),
    ]
    two = [{**e, "ts": e["ts"] + 100, "name": e["name"].replace("#1", "#2")} for e in one]
    path = tmp_path / "trace.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": [*two, *one]}).encode()))
    found, steps = trace_operators(read_trace(path))
    assert steps == 2
    seconds = {(op.name, op.phase): pytest.approx(op.seconds * 1e6) for op in found}
    assert seconds["aten::linear", "forward"] == 4
    assert seconds["aten::mm", "forward"] == 16
    assert seconds["aten::mm", "backward"] == 10
    assert seconds["aten::_fused_adamw_", "optimizer"] == 6
    assert next(op.dims for op in found if op.phase == "forward" and op.name == "aten::mm") == "4x8 8x2"


def test_kernels_count_where_a_device_ran_them(tmp_path: Path) -> None:
    """The host took 10 us to launch what the device did in 40."""
    events = [
        event("aten::mm", 0, 10, args={"External id": 7}),
        {"ph": "X", "cat": "kernel", "name": "gemm", "ts": 30, "dur": 40, "args": {"External id": 7}},
    ]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": events}))
    (found,), _ = trace_operators(read_trace(path))
    assert found.seconds == pytest.approx(40e-6) and found.group == "product"


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("aten::addmm", "product"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::native_layer_norm_backward", "norm"),
        ("aten::_log_softmax", "loss"),
        ("aten::add_", "pointwise"),
        ("aten::_fused_adamw_", "optimizer"),
        ("aten::view", "other"),
    ],
)
def test_classes(name: str, group: str) -> None:
    assert class_of(name) == group


def test_a_trace_of_this_torch_stands_beside_the_simulated_graph(tmp_path: Path, llmsim) -> None:
    torch = pytest.importorskip("torch")
    from simulator.measuring.run_tasks import DecoderSize
    from simulator.measuring.transformer import Decoder

    size = DecoderSize(n_layers=2, hidden=256, heads=4, ffn=1024, vocab=2048)
    model, tokens = Decoder(size, 64), torch.randint(0, 2048, (2, 64))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as made:
        model(tokens).sum().backward()
    made.export_chrome_trace(str(tmp_path / "trace.json"))
    (tmp_path / "s.yaml").write_text(SCENARIO)
    done = llmsim(
        "read", tmp_path / "trace.json", "--scenario", tmp_path / "s.yaml", "--out", tmp_path / "out"
    )
    assert done.status == 0, done.err
    with (tmp_path / "out" / "aligned.csv").open() as file:
        rows = {(row["phase"], row["group"]): row for row in csv.DictReader(file)}
    for key in (
        ("forward", "product"),
        ("backward", "product"),
        ("forward", "attention"),
        ("forward", "norm"),
    ):
        assert float(rows[key]["measured"]) > 0 and float(rows[key]["predicted"]) > 0
    gaps = [abs(float(row["difference"])) for row in rows.values()]
    assert gaps == sorted(gaps, reverse=True)


def test_flop_counts_are_those_of_the_graph(tmp_path: Path, llmsim) -> None:
    """Products of a step, by hand: 2 layers of 12 h^2 and the head, 2 FLOP, 3 passes, 128 tokens."""
    pytest.importorskip("torch")
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from simulator.measuring.run_tasks import DecoderSize
    from simulator.measuring.transformer import Decoder

    size = DecoderSize(n_layers=2, hidden=256, heads=4, ffn=1024, vocab=2048)
    with FlopCounterMode(display=False) as counter:
        Decoder(size, 64)(torch.randint(0, 2048, (2, 64))).sum().backward()
    path = tmp_path / "flop.json"
    path.write_text(json.dumps({str(k): v for k, v in counter.get_flop_counts()["Global"].items()}))
    by_hand = 2 * 3 * 128 * (2 * 12 * 256**2 + 256 * 2048)
    assert flop_by_operator(path)["aten.mm"] == by_hand
    (tmp_path / "s.yaml").write_text(SCENARIO)
    done = llmsim("read", path, "--scenario", tmp_path / "s.yaml", "--out", tmp_path / "out")
    assert done.status == 0, done.err
    with (tmp_path / "out" / "aligned_flop.csv").open() as file:
        rows = {row["group"]: row for row in csv.DictReader(file)}
    assert float(rows["product"]["predicted"]) == by_hand and float(rows["product"]["difference"]) == 0


def test_the_printed_table_of_flop_counts(tmp_path: Path) -> None:
    path = tmp_path / "flop.txt"
    path.write_text(
        "Module             FLOP    % Total\n-----------------  ------  ---------\n"
        "Decoder            1.500G    100.00%\n"
        " - aten.mm         1.200G     80.00%\n - aten.addmm      0.300G     20.00%\n Decoder.layers    1.0G  66.67%\n"
        "  - aten.mm        1.000G     66.67%\n"
    )
    assert flop_by_operator(path) == {"aten.mm": 1.2e9, "aten.addmm": 0.3e9}


def test_a_log_of_nccl_tests(tmp_path: Path, llmsim) -> None:
    path = tmp_path / "all_reduce_perf.log"
    path.write_text(LOG)
    rows = collectives_of_log(path, "")
    assert [row["bytes"] for row in rows] == [8, 1048576, 2097152]
    assert rows[1] == {
        "device": "NVIDIA A100-SXM4-80GB",
        "impl": "NCCL",
        "version": "2.21.5",
        "op": "all_reduce",
        "n_gpus": 2,
        "source": path.name,
        "bytes": 1048576,
        "dtype": "fp32",
        "latency_us": 30.0,
        "busbw_GBps": 34.95,
        "quality": "ok",
    }
    assert rows[2]["quality"] == "suspect_wrong_results"
    done = llmsim("read", path, "--device", "a100-sxm-80gb", "--out", tmp_path / "out")
    assert done.status == 0 and "3 sizes of all_reduce on 2 ranks" in done.out
    assert (tmp_path / "out" / "collectives.csv").read_text().count("a100-sxm-80gb") == 3
    (tmp_path / "unnamed.log").write_text(LOG)
    done = llmsim("read", tmp_path / "unnamed.log")
    assert done.status == 2 and "--operation" in done.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"traceEvents": []}', "none of its 0 events"),
        ('{"traceEvents": [{"ph": "X", "cat": "gpu", "name": "x", "ts": 0, "dur": 1}]}', "another format"),
        ('{"spans": []}', "it has no traceEvents"),
        ('{"traceEvents": [', "neither JSON"),
        ("hello", "is of another format"),
        ("# nThread 1\n# Rank\nbusbw\n", "is no log of nccl-tests"),
        ('{"aten.mm": "many"}', "JSON without FLOP"),
    ],
)
def test_files_of_another_format_are_told(tmp_path: Path, llmsim, text: str, told: str) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    done = llmsim("read", path)
    assert done.status == 2 and told in done.err


def test_a_file_that_is_not_there(tmp_path: Path, llmsim) -> None:
    done = llmsim("read", tmp_path / "nothing.json")
    assert done.status == 2 and "cannot be read" in done.err
