"""Products that are cut with the exchange in front of them or behind: played out, by hand, never slower than whole."""

from __future__ import annotations

import numpy as np
import pytest
from blocks_of import blocks_of, partition_of
from hypothesis import given
from hypothesis import strategies as st
from law_scenarios import changed, laws
from test_law_one_engine import assert_row_is_scalar

from simulator import simulate
from simulator.composition.split_products import exposed_parts
from simulator.spaces.space import space_from
from simulator.sweeps.sweeping import run_space

MODEL = {"n_layers": 4, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn": 14336, "vocab": 32000}
SPLIT = {"overlap_tensor_parallel": True}


def step(tensor=4, tokens=4096, system="dgx-a100-80gb", **plan):
    return {
        "model": {**MODEL, "max_positions": 65536},
        "task": {"kind": "training", "sequence_length": tokens, "global_batch_size": 8},
        "system": system,
        "devices": 8,
        "plan": {"tensor_parallel": tensor, "sequence_parallel": True, **plan},
    }


def played(exchange, product, parts, pipelined):
    """Exchanges on one stream, products on the other, part by part: finish less the products [s]."""
    arrived, computed = 0.0, 0.0
    for part in range(parts):
        # In a ring a rank starts with its own part.
        if pipelined or part > 0:
            arrived += exchange
        computed = max(computed, arrived) + product
    return computed - parts * product


@laws(60)
@given(st.floats(0.0, 10.0), st.floats(0.0, 10.0), st.integers(1, 16), st.booleans())
def test_parts_played_out(exchange, product, parts, pipelined):
    found = exposed_parts(
        part_exchange_s=np.array([exchange]),
        part_product_s=np.array([product]),
        parts=np.array([float(parts)]),
        pipelined=np.array([float(pipelined)]),
    )
    assert found[0] == pytest.approx(played(exchange, product, parts, pipelined), rel=1e-9, abs=1e-9)


def forward(scenario, *names):
    block = blocks_of(scenario).forward["layer"]
    found = {c.operator.name: c for c in block.operators}
    return block, [found[name] for name in names]


@pytest.mark.parametrize(("split", "parts"), [("ring", 4), ("pipelined", 4), ("pipelined", 2)])
def test_a_pair_by_hand(split, parts):
    """The product of a part is that of a sequence a part as long; the exchange is a part, or one hop of the ring."""
    names = [n for n in (c.operator.name for c in blocks_of(step()).forward["layer"].operators)]
    gather = next(n for n in names if "all_gather" in n and "mlp_up" in n)
    cut = step(tensor_parallel_split=split, tensor_parallel_chunks=parts, **SPLIT)
    whole, (exchange, product) = forward(step(), gather, "mlp_up")
    block, (cut_exchange, cut_product) = forward(cut, gather, "mlp_up")
    _, (_, part_of) = forward(step(tokens=4096 // parts), gather, "mlp_up")
    part_s = float(part_of.busy_s[0])
    assert float(cut_product.busy_s[0]) == pytest.approx(parts * part_s, rel=1e-9)
    sent = float(cut_exchange.busy_s[0])
    each = sent / (parts - 1) if split == "ring" else sent / parts
    inputs = partition_of(cut).inputs
    # A ring's copies take one unit.
    share = 1 / inputs.device.units[0] if split == "ring" else inputs.fabric.inner.compute_share[0]
    assert 0 < share < 0.3
    open_s = played(each, part_s, parts, split == "pipelined")
    assert float(cut_exchange.exposed_s[0]) == pytest.approx(open_s + share * (sent - open_s), rel=1e-9)
    together = parts * part_s + open_s + share * (sent - open_s)
    assert together < float(exchange.busy_s[0] + product.busy_s[0])
    assert float(block.seconds[0]) < float(whole.seconds[0])
    assert sum(float(c.exposed_s[0]) for c in block.operators) == pytest.approx(float(block.seconds[0]))


@laws(25)
@given(
    st.sampled_from([2, 4, 8]),
    st.sampled_from([256, 2048, 16384]),
    st.sampled_from(["dgx-a100-80gb", "dgx-h100", "mi300x-8"]),
    st.sampled_from(["ring", "pipelined", "ring_pipelined"]),
    st.sampled_from(["none", "full"]),
)
def test_cut_products_are_never_slower_than_no_overlap(tensor, tokens, system, split, recompute):
    """Where the parts would take longer than product and exchange, they are left whole."""
    plan = step(tensor, tokens, system, recompute=recompute)
    off = simulate(plan)
    on = simulate(changed(plan, plan=plan["plan"] | SPLIT | {"tensor_parallel_split": split}))
    assert on.step_time_s <= off.step_time_s * (1 + 1e-12)
    assert on.operators["exposed_s"].sum() == pytest.approx(on.step_time_s, rel=1e-9)


def test_gathers_in_a_ring_and_sums_in_pipelined_parts():
    """Transformer Engine's usual choice: each exchange is as in the plan of its own kind."""

    def exchanges(split):
        block = blocks_of(step(tensor_parallel_split=split, **SPLIT)).forward["layer"]
        return {
            c.operator.collective + c.operator.name: float(c.busy_s[0])
            for c in block.operators
            if c.operator.axis == "tensor" and c.operator.scale[0] > 0
        }

    ring, pipelined, both = (exchanges(s) for s in ("ring", "pipelined", "ring_pipelined"))
    assert len(both) == 4
    for name, seconds in both.items():
        assert seconds == (ring if name.startswith("all_gather") else pipelined)[name]
        assert ring[name] != pipelined[name]


def test_few_rows_are_left_whole():
    """Parts of 16 rows take as long as 128 do: nothing is cut, and the times are those of the plain overlap."""
    plain = simulate(step(8, 128, **SPLIT))
    assert simulate(step(8, 128, tensor_parallel_split="ring", **SPLIT)).step_time_s == plain.step_time_s


def test_a_sweep_of_cut_products_is_the_loop_of_scalars():
    data = step()
    data["plan"] = {
        "tensor_parallel": [1, 2, 4, 8],
        "sequence_parallel": [True, False],
        "overlap_tensor_parallel": [True, False],
        "tensor_parallel_split": ["none", "ring", "pipelined", "ring_pipelined"],
        "tensor_parallel_chunks": [2, 4],
        "recompute": ["none", "full"],
    }
    result = run_space(space_from(data))
    assert len(result.rows) > 60
    for i in range(0, len(result.rows), 9):
        assert_row_is_scalar(result, i)
