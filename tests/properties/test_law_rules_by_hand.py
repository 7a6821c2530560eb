"""Each registered cost rule against numbers worked out by hand; a rule without such a case fails."""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np
import pytest

import simulator
from simulator import RULES
from simulator.communication.placement import FULLY_CONNECTED, RING, TORUS

for module in pkgutil.iter_modules(simulator.__path__):
    if module.name not in ("cli", "__main__"):
        importlib.import_module(f"simulator.{module.name}")

SWITCH = 0.0
# 4 units at 1e9 clocks/s, 8e9 FLOP/s at efficiency 1/2: 1e9 FLOP/s a unit
GEMM = {
    "batch": 1, "m": 64, "n": 64, "k": 32, "flop": 262144, "moved_bytes": 0.0, "operand_bytes": 2,
    "second_operand_bytes": 2, "peak_flop_per_s": 8e9, "bandwidth_bytes_per_s": 1e9, "units": 4, "clock_hz": 1e9,
    "compute_efficiency": 0.5, "memory_efficiency": 0.5, "fixed_s": 1e-3, "fill_s": 0.0, "sharpness": np.inf,
    "feed_bytes_per_clock": 1e15, "tile_s": 1e-6, "split_s": 10e-6, "tail": 0.0, "memory_ramp_s": 0.0, "rereads": 0.0,
    "resident_bytes": 96.0, "row_step": 64, "least_rows": 64, "granularity": 1.0, "panel_copies": 0.0,
}  # fmt: skip
NARROWING = {
    "flop": 0.0, "moved_bytes": 8e6, "rows": 100.0, "peak_flop_per_s": 1e12, "bandwidth_bytes_per_s": 1e9, "units": 4,
    "fixed_s": 1e-3, "memory_efficiency": 0.5, "row_unit_s": 1e-4,
}  # fmt: skip
# 2 MB read and 1 MB written in 100 rows at 1 GB/s
STREAM = {
    "flop": 0.0, "read_bytes": 2e6, "written_bytes": 1e6, "shared_bytes": 0.0, "rows": 100.0, "row_bytes": 1e4,
    "peak_flop_per_s": 1e12, "bandwidth_bytes_per_s": 1e9, "read_efficiency": 0.8, "write_efficiency": 0.5,
    "fixed_s": 1e-3, "saturating_rows": 0.0, "rereads": 2.0, "resident_row_bytes": 1e4, "row_sharpness": 3.0,
    "spill": 0.0, "resident_bytes": 3e6,
}  # fmt: skip
SCAN = {
    "tokens": 1000.0, "chunk": 256.0, "flop": 3e9, "moved_bytes": 1e6, "peak_flop_per_s": 1e12,
    "bandwidth_bytes_per_s": 1e9, "compute_efficiency": 0.5, "memory_efficiency": 0.5, "fixed_s": 1e-3, "step_s": 1e-4,
}  # fmt: skip
PROMPTS = {
    "flop": 4 * 2 * 8256 * 64.0, "moved_bytes": 1e4, "batch": 1, "query_length": 128, "kv_length": 128, "kv_span": 128,
    "heads": 2, "kv_heads": 1, "head_dim": 64, "pairs": 8256, "peak_flop_per_s": 1e12, "bandwidth_bytes_per_s": 1e9,
    "units": 4, "clock_hz": 1e9, "compute_efficiency": 0.5, "memory_efficiency": 0.5, "fixed_s": 1e-6,
    "sharpness": np.inf, "score_clocks": 0.1, "mask_clocks": 0.5, "imbalance": 0.25, "query_tile": 64,
    "kv_tile": 64, "packs_groups": 0, "least_width": 1,
}  # fmt: skip
CACHE = {
    "flop": 1e6, "moved_bytes": 1e4, "batch": 4, "kv_length": 1000, "heads": 8, "kv_heads": 2, "token_bytes": 10,
    "query_bytes": 5, "peak_flop_per_s": 1e12, "bandwidth_bytes_per_s": 1e9, "units": 16, "compute_efficiency": 1,
    "memory_efficiency": 0.5, "fixed_s": 3e-6, "sharpness": np.inf, "stream_fraction": 0.125, "task_s": 1e-6,
    "row_tile_s": 0.5e-6, "split_s": 2e-6, "split_step_s": 0.1e-6, "sequence_s": 0.1e-6, "regroup_s": 5e-6,
    "kv_tile": 100, "group_limit": 1e9, "split_limit": 128,
}  # fmt: skip
LINK = {
    "ranks": 4, "stride": 1, "accelerators_per_node": 8, "topology": SWITCH, "link_bytes_per_s": 25e9, "links": 12,
    "axis_0": 4, "axis_1": 4, "axis_2": 8, "wrap": 1,
}  # fmt: skip
TRANSFER = {
    "transfer_s": 16e-3, "n_steps": 6, "base_latency_s": 10e-6, "step_latency_s": 1e-6, "ramp": 0.0,
}  # fmt: skip
KEPT = {
    "everything_bytes": 100, "dropped_bytes": 0, "input_bytes": 8, "named_bytes": 5, "recompute_all": 0,
}  # fmt: skip
CHUNKS = {"tokens": 1000, "vocab": 101, "hidden": 8, "tensor_parallel": 4, "activation_bytes": 2}
HOST_PASS = {"moved_bytes": 28e9, "host_memory_bytes_per_s": 100e9, "host_flop_per_s": 1e12}
OUTPUTS = {"in_flight": 2, "tokens": 10, "hidden": 8, "activation_bytes": 2}
FLIGHT = {"stage": 0, "pipeline_parallel": 4, "virtual_pipeline": 1, "micro_batches": 16}
MODEL = {"n_layers": 10, "heads": 8, "head_dim": 64, "attended_tokens": 100}
# passes of 3, 4 and 2 s on each of five stages
WAITS = {"forward_s": 3, "input_gradients_s": 4, "weight_gradients_s": 2}
OWN = tuple(f"own_{name}" for name in WAITS)


def waits(*names, **changed):
    """Five stages: forward passes and gradients of inputs of the others, and what else a form takes, some changed."""
    values = {"stages": 5, "forward_s": 3, "input_gradients_s": 4}
    return values | {name: WAITS[name.removeprefix("own_")] for name in names} | changed


ALL_THEN_ALL = {
    "sum_of_forward_s": 6, "sum_of_backward_s": 10, "slowest_forward_s": 3, "slowest_backward_s": 4,
    "slowest_stage_s": 6, "micro_batches": 5,
}  # fmt: skip
STATES = {"optimizer": 1, "master_bytes": 4, "moment_bytes": 4, "hidden": 8}
HELD = {"schedule": 1, "stages": 4, "micro_batches": 16}
P2P = {
    "fill_s": 3e-3, "slowest_s": 1e-3, "pipeline_parallel": 4, "virtual_pipeline": 2, "micro_batches": 5,
    "overlap": 0, "ways": 2.0,
}  # fmt: skip
WIRES = {"exchange_s": 10, "inside_s": 2, "across_s": 9, "other_inside_s": 5, "other_across_s": 3}
MEETING = {
    "busy_inside_s": 4,
    "busy_across_s": 3,
    "hidden_inside_s": 5,
    "hidden_across_s": 30,
    "period_s": 20,
}
BUCKETS = {"exchange_s": 10, "window_s": 8, "buckets": 4, "overlap": 1, "compute_share": 0}
PEAK = {"units": 108, "clock_hz": 1.41e9, "flop_per_unit_clock": 2048, "set_peak": np.nan}
# 4 units at 1e9 clocks/s, 8e9 FLOP/s at efficiency 1/2: 1e9 FLOP/s a unit
GROUPED = {
    "m": 100, "experts_hit": 10, "n": 128, "k": 100, "flop": 2.56e6, "moved_bytes": 0.0, "operand_bytes": 2,
    "peak_flop_per_s": 8e9, "bandwidth_bytes_per_s": 1e9, "units": 4, "clock_hz": 1e9,
    "compute_efficiency": 0.5, "memory_efficiency": 0.5, "sharpness": np.inf, "feed_bytes_per_clock": 1e9,
    "tile_s": 1e-6, "granularity": 1.0,
}  # fmt: skip
AROUND = {
    "flop": 0.0, "moved_bytes": 8e6, "foreign_elements": 1e6, "operand_bytes": 2, "peak_flop_per_s": 1e12,
    "bandwidth_bytes_per_s": 1e9, "fixed_s": 1e-3, "memory_efficiency": 0.5, "foreign_share": 0.5,
}  # fmt: skip
# 4 queries, 2 heads of width 4, causal: 10 of 16 pairs. A score takes 16 x 2 / 32e6 = 1 us and 1 clock of 1 us.
PROMPT = {
    "flop": 320.0, "moved_bytes": 40.0, "batch": 1, "query_length": 4, "kv_length": 4, "kv_span": 4, "heads": 2,
    "kv_heads": 1, "head_dim": 4, "pairs": 10, "peak_flop_per_s": 64e6, "bandwidth_bytes_per_s": 1e6, "units": 2,
    "clock_hz": 1e6, "compute_efficiency": 0.5, "memory_efficiency": 0.5, "fixed_s": 1e-6, "sharpness": 2.0,
    "score_clocks": 1.0, "mask_clocks": 3.0, "imbalance": 0.5, "query_tile": 2, "kv_tile": 2, "packs_groups": 0,
    "least_width": 1,
}  # fmt: skip
# 2 sequences, 2 groups of 2 query heads, 10 tiles of 100 tokens; a unit streams 0.1 byte/ns: 4 us a tile
TOKEN = {
    "flop": 42e3, "moved_bytes": 10_500.0, "batch": 2, "kv_length": 1000, "heads": 4, "kv_heads": 2,
    "token_bytes": 4, "query_bytes": 50, "peak_flop_per_s": 1e9, "bandwidth_bytes_per_s": 1e9, "units": 8,
    "compute_efficiency": 0.5, "memory_efficiency": 0.5, "fixed_s": 1e-6, "sharpness": 2.0,
    "stream_fraction": 0.1, "task_s": 1e-6, "row_tile_s": 2e-6, "split_s": 3e-6, "split_step_s": 0.5e-6,
    "sequence_s": 0.25e-6, "regroup_s": 2e-6, "kv_tile": 100, "group_limit": 1e9, "split_limit": 128,
}  # fmt: skip
ENERGY = {"micro_batches": 4, "ranks": 8, "n_layers": 10, "layer_j": 2, "ends_j": 5, "per_step_j": 100}

# (rule, inputs, value by hand)
CASES = [
    # 3e9 / (0.75e12) = 4 ms and 1.5e6 / 0.5e9 = 3 ms: hypotenuse 5 ms, 1 ms to launch
    # 0.3 s and 0.4 s at right angles are 0.5 s: a tenth of 5 s, times 1.645
    (
        "half_width",
        {"seconds": 5, "independent_s": 0.3, "shared_s": 0.4},
        0.16448536269514722,
    ),
    # one tile of 64 x 64 on one unit: 2 x 64 x 64 x 32 = 262,144 FLOP, 262.144 us; a quarter of 1 us to start it; 1 ms
    ("gemm_time", GEMM, 1262.394e-6),
    # an inner length of 32 fills an eighth of the pipeline: 80 of 640 us
    ("gemm_time", {**GEMM, "fill_s": 640e-6}, 1342.394e-6),
    # one more column is a second tile, on another unit
    ("gemm_time", {**GEMM, "n": 65}, 1262.394e-6),
    # inner length 128: four parts of 32 on four units, and 10 us to add them up
    ("gemm_time", {**GEMM, "k": 128, "flop": 1048576}, 1272.394e-6),
    # 9 tiles on 4 units: 9/4 of one tile, and half of a tile behind the others
    (
        "gemm_time",
        {**GEMM, "n": 576, "tail": 0.5, "split_s": 1.0, "flop": 9 * 262144},
        1e-3 + 2.75 * 262.394e-6,
    ),
    # half of the way from 262,144 / 4e9 = 65.536 us to 262.394 us
    ("gemm_time", {**GEMM, "granularity": 0.5}, 1163.965e-6),
    # (64 + 64) x 32 x 2 bytes at 8 bytes per clock are 1024 us; weights of one byte: (64 x 2 + 64) x 32 / 8 = 768 us
    ("gemm_time", {**GEMM, "feed_bytes_per_clock": 0.008}, 2024.25e-6),
    ("gemm_time", {**GEMM, "feed_bytes_per_clock": 0.008, "second_operand_bytes": 1}, 1768.25e-6),
    # 1 MB at half of 1 GB/s are 2 ms, and sqrt(1 ms x 1 ms) for the ramp
    ("gemm_time", {**GEMM, "moved_bytes": 1e6, "memory_ramp_s": 1e-3}, 4e-3),
    # 256 rows read 64 x 32 x 2 - 96 = 4,000 bytes again once, twice over: 1 MB in all
    (
        "gemm_time",
        {**GEMM, "m": 256, "flop": 1048576, "moved_bytes": 992e3, "rereads": 2.0},
        3e-3,
    ),
    # 64 x 32 weights of 2 bytes, brought into panels 500 times over: 2.048 MB at 1 GB/s; one row needs none
    ("gemm_time", {**GEMM, "panel_copies": 500.0}, 3048e-6),
    ("gemm_time", {**GEMM, "m": 1, "panel_copies": 500.0}, 1262.394e-6),
    ("gemm_time", {**GEMM, "m": 0, "flop": 0.0}, 0.0),
    # 8 MB at half of 1 GB/s; 25 rows a unit at 0.1 ms
    ("quantise_time", NARROWING, 17e-3),
    ("quantise_time", {**NARROWING, "moved_bytes": 5e5}, 3.5e-3),
    ("quantise_time", {**NARROWING, "moved_bytes": 0.0, "rows": 0.0}, 0.0),
    # 16 rows: 100/16 = 6.25 full tiles and 10 experts, half of the fewer filled: 13.125 x 128/64 columns over 4
    # units are 6.5625 waves of 2 x 16 x 64 x 100 FLOP = 204.8 us and 1 us: 1350.5625 us. Columns of 256:
    # 13.125 / 4 waves of 820.2 us, 2691 us; 64 rows: (1.5625 + 10 - 0.78125) x 2 / 4 of 820.2 us, more still.
    ("grouped_gemm_time", GROUPED, 1350.5625e-6),
    # half of the way from 2.56e6 / 4e9 = 640 us to that
    ("grouped_gemm_time", {**GROUPED, "granularity": 0.5}, 995.28125e-6),
    # 1 MB at half of 1 GB/s takes longer
    ("grouped_gemm_time", {**GROUPED, "moved_bytes": 1e6}, 2e-3),
    # one byte per clock into a unit: (16 + 64) x 100 x 2 / 1e9 = 16 us are hidden, 0.01 take 1600 us
    ("grouped_gemm_time", {**GROUPED, "feed_bytes_per_clock": 1.0}, 1350.5625e-6),
    (
        "grouped_gemm_time",
        {**GROUPED, "m": 1, "experts_hit": 1, "flop": 25600, "feed_bytes_per_clock": 0.01},
        1601e-6,
    ),
    ("grouped_gemm_time", {**GROUPED, "m": 0, "experts_hit": 0, "flop": 0.0}, 0.0),
    # 8 MB and half of 2 MB at half of 1 GB/s, and 1 ms
    ("moe_dispatch_time", AROUND, 19e-3),
    ("moe_dispatch_time", {**AROUND, "flop": 1e11}, 101e-3),
    ("moe_dispatch_time", {**AROUND, "moved_bytes": 0.0}, 0.0),
    # 4 rows; (2 + 2 - 2) x 4 = 8 scores on the edge, 10 + 8/2 = 14 computed. 2 heads over 2 units: 14 x 2 us + 8 x 3
    # us = 52 us, and half of the last tile of 2 x 4 scores, 8 us. 40 B at 0.5 MB/s are 80 us: hypotenuse 100 us.
    ("prefill_attention_time", PROMPT, 101e-6),
    # both heads in a tile: 8 rows, 20 + 4 = 24 scores: (48 + 24) / 2 = 36 us and 8 us; 33 us at right angles are 55
    ("prefill_attention_time", {**PROMPT, "packs_groups": 1, "moved_bytes": 16.5}, 56e-6),
    # backward: 2.5 times the products, and the clocks
    ("prefill_attention_time", {**PROMPT, "flop": 800.0, "moved_bytes": 0.0}, 151e-6),
    # no mask: all 16 scores, none on an edge: 32 us and 8 us; 30 us at right angles
    ("prefill_attention_time", {**PROMPT, "pairs": 16, "flop": 512.0, "moved_bytes": 15.0}, 51e-6),
    ("prefill_attention_time", {**PROMPT, "pairs": 0, "flop": 0.0, "moved_bytes": 0.0}, 0.0),
    # 4 tasks that start for 1 + 2 + 2 x 0.5 = 4 us: whole 44 us; halves 4 + 20 us and 3 + 2 x 0.5 to combine, 28 us;
    # quarters wait for each other. 21 us of memory, 84 us of products: 91 us. 1 + 2 x 0.25 + 2 us before.
    ("decode_attention_time", TOKEN, 94.5e-6),
    # each head alone: 8 tasks of 1.5 us and 40 us, whole
    ("decode_attention_time", {**TOKEN, "flop": 0.0, "group_limit": 1, "sharpness": np.inf}, 45e-6),
    # one sequence: 2 tasks in quarters of 3 tiles, 4 + 12 us and 3 + 4 x 0.5; nothing to regroup
    (
        "decode_attention_time",
        {**TOKEN, "batch": 1, "flop": 0.0, "moved_bytes": 5000.0, "sharpness": np.inf},
        22.25e-6,
    ),
    ("decode_attention_time", {**TOKEN, "flop": 0.0, "moved_bytes": 0.0}, 0.0),
    # one token picks 2 of 8; of two tokens the second finds 3/4 of its picks new
    ("distinct_experts", {"tokens": 1, "topk": 2, "experts": 8}, 2.0),
    ("distinct_experts", {"tokens": 2, "topk": 2, "experts": 8}, 3.5),
    # rows as long as what stays half the time: read 1 + 2 x 1/2 = 2 times, 4 MB / 0.8 = 5 ms; 1 MB / 0.5 = 2 ms; 1 ms
    ("streaming_time", STREAM, 8e-3),
    ("streaming_time", {**STREAM, "read_bytes": 0.0, "written_bytes": 0.0}, 0.0),
    # 3 MB of which half stays: 7 ms take half of twice as long again
    ("streaming_time", {**STREAM, "spill": 2.0}, 15e-3),
    # a quarter of the 400 rows that occupy the device: four times 7 ms
    ("streaming_time", {**STREAM, "saturating_rows": 400.0}, 29e-3),
    # of the 2 MB 0.8 MB are shared: 1 ms once; four times 1.2 MB twice / 0.8 = 3 ms and 2 ms; 1 ms
    ("streaming_time", {**STREAM, "saturating_rows": 400.0, "shared_bytes": 0.8e6}, 22e-3),
    # 20 GFLOP at 1 TFLOP/s are longer
    ("streaming_time", {**STREAM, "flop": 20e9}, 21e-3),
    # 5 us alone and 20 us of the host
    ("dispatched_time", {"kernel_s": 5e-6, "between_s": 20e-6}, 25e-6),
    ("dispatched_time", {"kernel_s": 0.0, "between_s": 20e-6}, 0.0),
    # 3e9 / 0.5e12 = 6 ms; 1000 tokens are 4 chunks, of which 3 wait
    ("scan_time", SCAN, 7.3e-3),
    ("scan_time", {**SCAN, "flop": 0.0, "moved_bytes": 0.0}, 0.0),
    # 8 tokens in chunks of 4: 4 (5 + 6) / 2 + 2 x 30 + 30 / 4 = 89.5 each, with 3 heads of 2 and 5 states; 2 FLOP
    (
        "scan_flop",
        {"batch": 1, "tokens": 8, "heads": 3, "head_dim": 2, "state": 5, "groups": 1, "chunk": 4},
        2 * 8 * 89.5,
    ),
    # one token: its state is changed and read
    (
        "scan_flop",
        {"batch": 1, "tokens": 1, "heads": 3, "head_dim": 2, "state": 5, "groups": 1, "chunk": 4},
        2 * 60,
    ),
    # 8 MB at half of 1 GB/s
    (
        "transfer_time",
        {"sent_bytes": 8e6, "bandwidth_bytes_per_s": 1e9, "efficiency": 0.5},
        16e-3,
    ),
    # 128 rows see (128 + 1) / 2 keys and 64 + 62 scores per row beside the mask: 16 320 computed, 16 128 on the edge.
    # A score takes 4 x 64 x 4 / 0.5e12 = 2.048 ns and 0.1 clocks, 2.148 ns; on the edge 0.5 ns more. Two heads on
    # four units: (16 320 x 2.148 + 16 128 x 0.5) / 2 ns = 21.55968 us; a quarter of a tile of 64 x 128: 4.399104 us.
    ("prefill_attention_time", PROMPTS, 1e-6 + 21.55968e-6 + 4.399104e-6),
    # products as for a head of 96: 3.072 ns and 0.1 clocks
    (
        "prefill_attention_time",
        {**PROMPTS, "least_width": 96},
        1e-6 + (16320 * 3.172e-9 + 16128 * 0.5e-9) / 2 + 0.25 * 64 * 128 * 3.172e-9,
    ),
    ("prefill_attention_time", {**PROMPTS, "flop": 0.0, "moved_bytes": 0.0}, 0.0),
    # A token takes 10 B / 0.125 GB/s = 80 ns, a query head 40 ns. Eight tasks of a group of four: 1 + 0.5 + 0.16 us
    # and the stream. Two parts of 500 tokens each fill 16 units: 1.66 + 40 us, combined in 2 + 0.2 us = 43.86 us;
    # whole 81.66 us, four parts 2 x 25.66 + 2.4 us. Fixed 3 us, four sequences 0.4 us, copies 5 us.
    ("decode_attention_time", CACHE, 43.86e-6 + 8.4e-6),
    ("decode_attention_time", {**CACHE, "split_limit": 1}, 81.66e-6 + 8.4e-6),
    ("decode_attention_time", {**CACHE, "flop": 0.0, "moved_bytes": 0.0}, 0.0),
    # latency 10 + 6 x 1 = 16 us
    ("collective_time", TRANSFER, 16.016e-3),
    # and half the root of 10e-6 x 16e-3 = 1.6e-7, which is 4e-4
    ("collective_time", {**TRANSFER, "ramp": 0.5}, 16.016e-3 + 0.5 * 4e-4),
    ("collective_time", {**TRANSFER, "transfer_s": 0.0}, 0.0),
    # 8 ranks: 7/8 of 80 MB, twice for an all-reduce
    ("ring_sent_bytes", {"message_bytes": 80e6, "ranks": 8, "passes": 1.0}, 70e6),
    ("ring_sent_bytes", {"message_bytes": 80e6, "ranks": 8, "passes": 2.0}, 140e6),
    ("ring_sent_bytes", {"message_bytes": 80e6, "ranks": 1, "passes": 2.0}, 0.0),
    ("ring_steps", {"ranks": 8, "passes": 2.0}, 14),
    ("tree_steps", {"ranks": 8}, 6),  # three levels up, three down
    ("tree_steps", {"ranks": 9}, 8),
    ("tree_steps", {"ranks": 1}, 0),
    # an inner rank: half the message up in both trees, and down to two children in one
    ("tree_sent_bytes", {"message_bytes": 80e6, "ranks": 8, "passes": 2.0}, 160e6),
    ("tree_sent_bytes", {"message_bytes": 80e6, "ranks": 1, "passes": 2.0}, 0.0),
    # 8 ranks: halve three times, double three times; 40 + 20 + 10 MB each way
    ("halving_doubling_steps", {"ranks": 8, "passes": 2.0}, 6),
    ("halving_doubling_sent_bytes", {"message_bytes": 80e6, "ranks": 8, "passes": 2.0}, 140e6),
    # 6 ranks: two hand over to four and take the result back
    ("halving_doubling_steps", {"ranks": 6, "passes": 2.0}, 6),
    ("halving_doubling_sent_bytes", {"message_bytes": 80e6, "ranks": 6, "passes": 2.0}, 280e6),
    ("one_shot_sent_bytes", {"message_bytes": 80e6, "ranks": 8}, 560e6),
    # the buffer up, and an eighth of the sum to all
    ("in_switch_sent_bytes", {"message_bytes": 80e6, "ranks": 8}, 90e6),
    ("in_switch_sent_bytes", {"message_bytes": 80e6, "ranks": 1}, 0.0),
    ("all_to_all_sent_bytes", {"message_bytes": 80e6, "ranks": 8, "skew": 1.5}, 105e6),
    # a ring of 4 with both ways: three quarters of the message over two links
    (
        "multi_ring_load",
        {"length_0": 4, "length_1": 1, "length_2": 1, "links_0": 2, "links_1": 2, "links_2": 2},
        0.375,
    ),
    # 4 x 4: halves of the message, 3/4 of one over two links, then 3/4 of a quarter of it
    (
        "multi_ring_load",
        {"length_0": 4, "length_1": 4, "length_2": 1, "links_0": 2, "links_1": 2, "links_2": 2},
        0.5 * (0.375 + 0.375 / 4),
    ),
    # pairs two apart on 6 x 4: half of the message each way round, 2 messages of a shift by 2 and 2 of the one back
    # on a link: 1/2 x (2 + 2) / 2
    (
        "off_axis_load",
        {"ranks": 2, "stride": 2, "axis_0": 6, "axis_1": 4, "axis_2": 1, "wrap": 1},
        1.0,
    ),
    # groups of 4 neighbours on an open 3 x 4: a shift by 1 moves by 1 or, carried, back by 2, both ways: 2; on the
    # second axis by 0 or 1: 2. Back by 3: nothing on the first axis, 1 on the second: 2. 3/8 x (2 + 2)
    (
        "off_axis_load",
        {"ranks": 4, "stride": 1, "axis_0": 3, "axis_1": 4, "axis_2": 1, "wrap": 0},
        1.5,
    ),
    # a ring of links of 25 GB/s both ways round: half of the bytes on each
    ("wired_bandwidth", {"link_bytes_per_s": 25e9, "width": 2}, 50e9),
    # 2 nodes of 4 share a block that has a quarter of the bandwidth to leave by
    ("block_share", {"members": 2, "nodes": 4, "oversubscription": 4, "other_groups": 0}, 0.5),
    ("block_share", {"members": 2, "nodes": 4, "oversubscription": 4, "other_groups": 2}, 0.25),
    ("block_share", {"members": 4, "nodes": 4, "oversubscription": 4, "other_groups": 0}, 1.0),
    # DGX A100: 12 links of 25 GB/s
    ("rank_bandwidth", LINK, 300e9),
    # 7 links to 7 peers: a group of 4 uses 3 of them
    ("rank_bandwidth", {**LINK, "topology": FULLY_CONNECTED, "links": 7}, 75e9),
    # 4 of a ring of 8 are a line: one link each way; all 8 have both ways round
    ("rank_bandwidth", {**LINK, "topology": RING, "axis_0": 8, "axis_1": 1, "axis_2": 1}, 25e9),
    (
        "rank_bandwidth",
        {**LINK, "topology": RING, "ranks": 8, "axis_0": 8, "axis_1": 1, "axis_2": 1},
        50e9,
    ),
    # 4 neighbours are one whole axis of 4 x 4 x 8: both ways around it
    ("rank_bandwidth", {**LINK, "topology": TORUS, "links": 6}, 50e9),
    # 128 devices are all three axes; thirds of the message start on one each. Slowest per phase: 7/8 on the axis of 8,
    # 7/8 of a quarter on it, 7/8 of a sixteenth, over two links: (0.4375 + 0.109375 + 0.02734375) / 3
    (
        "rank_bandwidth",
        {**LINK, "ranks": 128, "topology": TORUS, "links": 6},
        25e9 * 127 / 128 / (0.57421875 / 3),
    ),
    # 2 neighbours are half an axis: one link, no ring
    ("rank_bandwidth", {**LINK, "ranks": 2, "topology": TORUS, "links": 6}, 25e9),
    # 8 replicas, each of 2 devices, on nodes of 8: blocks of 16 leave 8 devices, 4 replicas, in a node
    ("ranks_per_node", {"ranks": 8, "stride": 2, "devices": 16, "accelerators_per_node": 8}, 4),
    ("ranks_per_node", {"ranks": 8, "stride": 1, "devices": 8, "accelerators_per_node": 8}, 8),
    ("ranks_per_node", {"ranks": 4, "stride": 8, "devices": 32, "accelerators_per_node": 8}, 1),
    # tensor degree 12 on nodes of 8: some group has only 4 of its ranks on one side of a border
    ("ranks_per_node", {"ranks": 12, "stride": 1, "devices": 24, "accelerators_per_node": 8}, 4),
    # 2 x 3 x 5 x 7 x 11
    ("matmul_flop", {"batch": 3, "m": 5, "n": 7, "k": 11}, 2310),
    # 2 FLOP x 2 products x 3 x 5 x 10 pairs x 64
    ("attention_flop", {"batch": 3, "heads": 5, "pairs": 10, "head_dim": 64, "products": 2.0}, 38400),
    ("kept_bytes", KEPT, 100),
    ("kept_bytes", {**KEPT, "dropped_bytes": 30}, 70),
    ("kept_bytes", {**KEPT, "recompute_all": 1}, 13),
    # 2 copies x 4 B x 10 tokens x 26 of 101 words
    ("loss_temporaries", {"copies": 2, "tokens": 10, "vocab": 101, "tensor_parallel": 4}, 2080),
    ("narrow_logits", {"tokens": 10, "vocab": 101, "tensor_parallel": 4, "activation_bytes": 2}, 520),
    # 1000 tokens in 101 / 8 = 13 parts: 77, so chunks of 128; of no more tokens than there are
    ("chunked_logits", CHUNKS, 128 * 26 * 2),
    ("chunked_logits", {**CHUNKS, "vocab": 8, "tokens": 100}, 100 * 2 * 2),
    ("chunked_gradients", CHUNKS, (1000 + 26) * 8 * 2),
    # 1000 x (2 + 4) / 4 + 100 x 2
    (
        "flat_copies",
        {"parameters": 1000, "gradient_bytes": 2, "master_bytes": 4, "shards": 4, "bucket_elements": 100},
        1700,
    ),
    ("stage_outputs", {**OUTPUTS, "pipeline_parallel": 4}, 3 * 10 * 8 * 2),
    ("stage_outputs", {**OUTPUTS, "pipeline_parallel": 1}, 0),
    ("fragmented", {"held_bytes": 200, "fragmentation": 0.14}, 28),
    ("micro_batches_in_flight", FLIGHT, 4),
    ("micro_batches_in_flight", {**FLIGHT, "stage": 3}, 1),
    ("micro_batches_in_flight", {**FLIGHT, "micro_batches": 2}, 2),
    # first of 4 stages, 2 chunks: 2 x 3 + 4 + 1 = 11 chunks = 5.5; Korthikanti: 4 (1 + 3/8) = 5.5
    ("micro_batches_in_flight", {**FLIGHT, "virtual_pipeline": 2}, 5.5),
    # 7e9 parameters, 12 bytes, 8 replicas: 10.5 GB
    ("state_bytes", {"parameters": 7e9, "bytes_per_parameter": 12, "shards": 8}, 10.5e9),
    # 3 GB beside 2 GB of activations, and none beside 5 GB; all of it where it is kept
    ("gradients_beside", {"gradients_bytes": 3e9, "activations_bytes": 2e9, "freed": 1}, 1e9),
    ("gradients_beside", {"gradients_bytes": 3e9, "activations_bytes": 5e9, "freed": 1}, 0.0),
    ("gradients_beside", {"gradients_bytes": 3e9, "activations_bytes": 2e9, "freed": 0}, 3e9),
    # 4 x (10 x 3 + 2) + 5
    (
        "activation_bytes",
        {"in_flight": 4, "layers": 10, "per_layer_bytes": 3, "ends_bytes": 2, "rebuilt_bytes": 5},
        133,
    ),
    # Llama-2-7B, one sequence of 4,096 tokens: 32 x 4096 x 2 x 32 x 128 x 2 = 2 GiB
    (
        "kv_cache_bytes",
        {
            "layers": 32,
            "sequences": 1,
            "cached_tokens": 4096,
            "kv_heads_per_rank": 32,
            "head_dim": 128,
            "bytes_per_element": 2,
        },
        2 * 2**30,
    ),  # fmt: skip
    ("switching_energy", {"amount": 2e12, "j_per_unit": 0.5e-12}, 1.0),
    # 4 stages of 3 s: the first micro-batch takes 12 s, 7 more follow 3 s apart
    (
        "pipeline_time",
        {"slowest_stage_s": 3, "micro_batches": 8, "sum_of_chunks_s": 12, "least_rest_s": 3},
        33,
    ),
    # two chunks halve the bubble of 9 s: 24 + 4.5
    (
        "pipeline_time",
        {"slowest_stage_s": 3, "micro_batches": 8, "sum_of_chunks_s": 6, "least_rest_s": 1.5},
        28.5,
    ),
    # fill 3 ms, 2 chunks x 4 further micro-batches x 1 ms, both ways: 2 x (3 + 8)
    # fill and drain of the other stages 3 + 6; the slowest each way are two stages: 7 - 6 = 1 s more, 5 times
    ("gpipe_bubble", ALL_THEN_ALL, 14),
    ("gpipe_bubble", {**ALL_THEN_ALL, "slowest_stage_s": 7}, 9),
    # 4 x (3 + 4 - 2); with own gradients of weights of 9 s the longer of 3 and 4
    ("zb_h1_bubble", waits("own_weight_gradients_s"), 20),
    ("zb_h1_bubble", waits("own_weight_gradients_s", own_weight_gradients_s=9), 16),
    # 4 x (3 + 4 - 4), 4 x (4 - 3), nothing
    ("zb_h2_bubble", waits("own_forward_s", "own_weight_gradients_s"), 12),
    ("zb_h2_bubble", waits("own_forward_s", own_weight_gradients_s=9), 4),
    ("zb_h2_bubble", waits("own_forward_s", own_weight_gradients_s=9, input_gradients_s=2), 0),
    # chunks of 1.5, 2 and 1 s: 8 x (2 - 1); of 3, 2 and 1 s: 8 x 3 - 9 x 1; equal chunks wait for nothing
    ("zb_v_bubble", waits(*OWN, "weight_gradients_s"), 8),
    ("zb_v_bubble", waits(*OWN, "weight_gradients_s", forward_s=6, own_forward_s=6), 15),
    (
        "zb_v_bubble",
        waits(*OWN, forward_s=4, own_forward_s=4, weight_gradients_s=4, own_weight_gradients_s=4),
        0,
    ),
    # a stage of its own pace: chunks of 3 s forward beside others of 1.5 s, 4 x (2 - 1) x 2 is the longest still
    ("zb_v_bubble", waits(*OWN, "weight_gradients_s", own_forward_s=6), 8),
    # 3/2 x (3 + 4 - 2) and the longer of 3/2 x 3 and 3/2 x 4 - 3
    ("dualpipe_bubble", waits("own_forward_s", "own_weight_gradients_s"), 12),
    ("dualpipe_bubble", waits("own_forward_s", "own_weight_gradients_s", stages=2), 0),
    # a device with gradients of weights of 3 s and no forward pass: 3/2 x (3 + 4 - 3) and 3/2 x 4 - 0
    ("dualpipe_bubble", waits(own_forward_s=0, own_weight_gradients_s=3), 12),
    ("scheduled_in_flight", HELD, 16),
    ("scheduled_in_flight", {**HELD, "schedule": 2}, 4),
    ("scheduled_in_flight", {**HELD, "schedule": 3}, 7),
    ("scheduled_in_flight", {**HELD, "schedule": 4}, 4),
    ("scheduled_in_flight", {**HELD, "schedule": 5}, 5),
    ("scheduled_in_flight", {**HELD, "schedule": 5, "micro_batches": 3}, 3),
    # 8 GB in beside 4 GB out at 2 GB/s; nothing to copy needs no link
    ("copy_time", {"into_bytes": 8e9, "out_bytes": 4e9, "link_bytes_per_s": 2e9}, 4),
    ("copy_time", {"into_bytes": 0, "out_bytes": 0, "link_bytes_per_s": np.nan}, 0),
    # 2 GB at 215 pJ/B and 1 GB at 3 nJ/B
    (
        "copy_energy",
        {
            "host_copied_bytes": 2e9,
            "nvme_copied_bytes": 1e9,
            "host_j_per_byte": 215e-12,
            "nvme_j_per_byte": 3e-9,
        },
        3.43,
    ),
    # 28 bytes and 12 FLOP of each of 1e9 parameters: 0.28 s of memory, 0.012 s of processors; the other way round
    ("host_pass_time", {**HOST_PASS, "flop": 12e9}, 0.28),
    ("host_pass_time", {**HOST_PASS, "flop": 12e11}, 1.2),
    # a master copy of 4 bytes, moments of 4; 2 x 1.001953125; rows and columns of a matrix with 8 rows: 2 x 4 / 8
    ("optimizer_state_bytes", STATES, 12),
    ("optimizer_state_bytes", {**STATES, "optimizer": 2}, 6.00390625),
    ("optimizer_state_bytes", {**STATES, "optimizer": 3}, 5),
    ("optimizer_state_bytes", {**STATES, "optimizer": 4}, 4),
    ("optimizer_state_bytes", {**STATES, "optimizer": 5}, 8),
    ("optimizer_state_bytes", {**STATES, "optimizer": 6, "master_bytes": 0}, 4),
    ("exposed_p2p", P2P, 22e-3),
    ("exposed_p2p", {**P2P, "overlap": 1}, 6e-3),
    ("exposed_p2p", {**P2P, "pipeline_parallel": 1}, 0.0),
    # 4 stages of 3 s: one micro-batch waits for itself (12 s), eight keep a stage busy (24 s)
    ("decode_period", {"sum_of_stages_s": 12, "slowest_stage_s": 3, "micro_batches": 1}, 12),
    ("decode_period", {"sum_of_stages_s": 12, "slowest_stage_s": 3, "micro_batches": 8}, 24),
    # 10 s in 4 buckets: the first may start after 2 of 8 s, 6 s are hidden, 4 s are not
    ("exposed_exchange", BUCKETS, 4),
    # 240 rows, a quarter more on the fullest rank; context ranks have half each, 2 of 4 tensor ranks share an expert
    (
        "rows_of_rank",
        {
            "routed_rows": 240,
            "context_parallel": 2,
            "tensor_parallel": 4,
            "expert_tensor_parallel": 2,
            "expert_imbalance": 1.25,
        },
        75,
    ),  # fmt: skip
    # four parts: three hops of 5 s beside products of 3 s; pipelined, the first exchange is in the open too
    (
        "exposed_parts",
        {"part_exchange_s": 5, "part_product_s": 3, "parts": 4, "pipelined": 0},
        6,
    ),
    (
        "exposed_parts",
        {"part_exchange_s": 2, "part_product_s": 3, "parts": 4, "pipelined": 1},
        2,
    ),
    # the layer that computes and two ahead, of three at most; all of them where they are kept
    ("unsharded_layers", {"layers": 8, "prefetch_layers": 2, "reshard_after_forward": 1}, 3),
    ("unsharded_layers", {"layers": 2, "prefetch_layers": 2, "reshard_after_forward": 1}, 2),
    ("unsharded_layers", {"layers": 8, "prefetch_layers": 2, "reshard_after_forward": 0}, 8),
    ("gradient_buckets", {"parameters": 100, "bucket_elements": 40}, 2.5),
    ("gradient_buckets", {"parameters": 10, "bucket_elements": 40}, 1),
    # 40 of 100 gradients of 4 bytes, sent in 2
    (
        "bucket_copy",
        {"parameters": 100, "bucket_elements": 40, "gradient_bytes": 4, "communication_bytes": 2},
        80,
    ),
    (
        "bucket_copy",
        {"parameters": 100, "bucket_elements": 40, "gradient_bytes": 4, "communication_bytes": 4},
        0,
    ),
    ("rows_over_mean", {"expert_imbalance": 1.5, "expert_capacity": np.nan, "expert_padding": 0}, 1.5),
    ("rows_over_mean", {"expert_imbalance": 1.5, "expert_capacity": 1.25, "expert_padding": 0}, 1.25),
    ("rows_over_mean", {"expert_imbalance": 1.1, "expert_capacity": 1.25, "expert_padding": 0}, 1.1),
    ("rows_over_mean", {"expert_imbalance": 1.1, "expert_capacity": 1.25, "expert_padding": 1}, 1.25),
    # 2 of 8 experts on 4 nodes of 2: 15 of 28 pairs miss a node, so 4 x 13/28 nodes are hit
    ("distinct_places", {"topk": 2, "experts": 8, "pool": 8, "places": 4}, 13 / 7),
    # 2 of the 4 experts of two nodes: a node is missed by one pair of 6
    ("distinct_places", {"topk": 2, "experts": 8, "pool": 4, "places": 4}, 10 / 6),
    ("dispatched_bytes", {"tokens_bytes": 8, "places_hit": 3, "places_of_domain": 4}, 18),
    ("exposed_rows", {"exchange_s": 5, "kernels_s": 3}, 2),
    ("exposed_rows", {"exchange_s": 2, "kernels_s": 3}, 0),
    # 36 pairs of 8 causal tokens; of 4 ranks the last has 7 + 8
    (
        "fullest_over_mean",
        {"pairs": 36, "last_pairs": 15, "context_parallel": 4, "masked": 1, "zigzag": 0},
        5 / 3,
    ),
    (
        "fullest_over_mean",
        {"pairs": 36, "last_pairs": 15, "context_parallel": 4, "masked": 1, "zigzag": 1},
        1,
    ),
    (
        "fullest_over_mean",
        {"pairs": 64, "last_pairs": 16, "context_parallel": 4, "masked": 0, "zigzag": 0},
        1,
    ),
    # four ranks: a sixteenth of the pairs in each of four kernels, a quarter, or all of them for fewer heads
    ("pairs_per_kernel", {"pairs": 160, "context_parallel": 4, "ring": 1, "gathered": 0}, 10),
    ("pairs_per_kernel", {"pairs": 160, "context_parallel": 4, "ring": 0, "gathered": 1}, 40),
    ("pairs_per_kernel", {"pairs": 160, "context_parallel": 4, "ring": 0, "gathered": 0}, 160),
    # three hops of 4 s beside the first three of four kernels of 3 s: each waits 1 s
    ("exposed_ring", {"exchange_s": 12, "attention_s": 12, "context_parallel": 4}, 3),
    ("exposed_ring", {"exchange_s": 12, "attention_s": 16, "context_parallel": 4}, 0),
    ("exposed_exchange", {**BUCKETS, "overlap": 0}, 10),
    # a long window: the last bucket, 2.5 s, stays
    ("exposed_exchange", {**BUCKETS, "window_s": 800}, 2.5),
    # and what is hidden, 7.5 s, costs a fifth of the units
    ("exposed_exchange", {**BUCKETS, "window_s": 800, "compute_share": 0.2}, 4),
    # others have the wires for 1.5 s of the window: 5.5 s are late; they lose 2 s of a long one behind the last bucket
    ("exposed_exchange", {**BUCKETS, "queue_s": 1.5}, 5.5),
    ("exposed_exchange", {**BUCKETS, "window_s": 800, "wait_s": 2}, 4.5),
    # 10 s of exchange have the ports for 9 s, and others for 3 s: 12 s; the links inside carry 2 + 5 s meanwhile
    ("wire_queue_seconds", WIRES, 2),
    ("wire_queue_seconds", {**WIRES, "other_across_s": 1}, 0),
    ("wire_queue_seconds", {**WIRES, "across_s": 0}, 0),
    # in 20 s the hidden exchange has the links for 5 s, a quarter, and the ports for all of it: 4/4 + 3
    ("wire_wait_seconds", MEETING, 4),
    ("wire_wait_seconds", {**MEETING, "hidden_across_s": 0}, 1),
    ("wire_wait_seconds", {**MEETING, "period_s": 0}, 0),
    # 400 W x 3 s x 8
    ("standing_energy", {"power_w": 400, "seconds": 3, "devices": 8}, 9600),
    # 4 x 8 x (10 x 2 + 5) + 100
    ("work_energy", ENERGY, 900),
    # 2 x 1e6 + 4 x 10 x 8 x 64 x 100
    ("forward_flop_per_token", {"multiplied_parameters": 1e6, **MODEL}, 2e6 + 2_048_000),
    (
        "recomputed_flop_per_token",
        {"layer_parameters": 1e5, **MODEL, "recompute_core": 1, "recompute_all": 0},
        2_048_000,
    ),
    # all: the layers' 2 x 1e5 x 10 as well
    (
        "recomputed_flop_per_token",
        {"layer_parameters": 1e5, **MODEL, "recompute_core": 1, "recompute_all": 1},
        2_048_000 + 2e6,
    ),
    # 6e15 FLOP in 2 s on 10 devices of 1 PFLOP/s
    ("flop_utilisation", {"flop": 6e15, "seconds": 2, "devices": 10, "peak_flop_per_s": 1e15}, 0.3),
    (
        "step_seconds",
        {
            "pipeline_s": 10,
            "p2p_s": 1,
            "gradients_s": 2,
            "optimizer_s": 0.5,
            "copies_s": 0.0,
            "weights_s": 0.25,
        },
        13.75,
    ),
    ("token_rate", {"tokens": 4096, "seconds": 2}, 2048),
    # A100: 108 x 1.41 GHz x 2048 = 311.87 TFLOP/s
    ("derived_peak", PEAK, 311_869_440_000_000.0),
    ("derived_peak", {**PEAK, "set_peak": 300e12}, 300e12),
]


@pytest.mark.parametrize(
    ("rule", "inputs", "by_hand"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
def test_rule_by_hand(rule, inputs, by_hand):
    arrays = {
        k: v if k in ("passes", "ways", "products") else np.array([float(v)]) for k, v in inputs.items()
    }
    value = RULES[rule].function(**arrays)
    assert np.shape(value) == (1,)
    assert float(value[0]) == pytest.approx(by_hand, rel=1e-12, abs=0.0)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_has_a_number_by_hand(rule):
    assert rule in {case[0] for case in CASES}


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_says_what_it_is(rule):
    known = RULES[rule]
    assert known.symbol and known.formula and known.unit and len(known.source) >= 10
    assert known.function.__doc__


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_takes_many_rows(rule):
    """A column of three equal rows gives three times the value of one."""
    _, inputs, by_hand = next(case for case in CASES if case[0] == rule)
    arrays = {
        k: v if k in ("passes", "ways", "products") else np.full(3, float(v)) for k, v in inputs.items()
    }
    assert RULES[rule].function(**arrays).tolist() == pytest.approx([by_hand] * 3, rel=1e-12)
