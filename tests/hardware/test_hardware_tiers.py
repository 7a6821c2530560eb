"""Tiers beyond scale_out: what is refused with a message, and what the linter asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hardware_specs import ScenarioError, SpecError, figures, lint, load_system, to_mapping
from hardware_specs.figure_table import figure_dimension
from hardware_specs.schema import SystemSpec
from simulator import simulate, sweep

TIER = "beyond.aggregation"


def _system(**changes: Any) -> dict[str, Any]:
    """The three tiers of grand-teton-h100-24k with keys changed, or removed where None."""
    data = to_mapping(load_system("grand-teton-h100-24k"))
    for key, value in changes.items():
        *parents, last = key.split("__")
        here = data
        for name in parents:
            here = here.setdefault(name, {})
        if value is None:
            here.pop(last, None)
        else:
            here[last] = value
    return data


def _more(**keys: Any) -> dict[str, Any]:
    """A fourth tier outside."""
    plain = {"topology": "fat_tree", "links": "64", "link_bandwidth": "50 GB/s", "latency": "9 us"}
    return {**plain, "energy_per_byte": "1 nJ/B", "ports": "uplinks", **keys}


RULES: list[tuple[dict[str, Any], str]] = [
    (_system(scale_out__domain="3070"), "scale_out.domain = 3070: is no multiple of the 8 of a node"),
    (
        _system(scale_out__domain=None),
        "scale_out.domain: is needed, as beyond.aggregation joins such domains",
    ),
    (_system(scale_out__domain="30720"), "is more than max_devices, 24576"),
    (_system(scale_up__domain="8"), "accelerators_per_node says how many"),
    (_system(beyond__aggregation__domain="3072"), "must be the max_devices, 24576, in the outermost tier"),
    (_system(beyond__aggregation__ports=None), f"{TIER}.ports: is needed beyond scale_out"),
    (_system(scale_out__ports="own"), "scale_out.ports = own: is for tiers beyond scale_out"),
    (_system(beyond__aggregation__link_bandwidth="0 GB/s"), f"{TIER}.link_bandwidth"),
    (_system(beyond__aggregation__links="0"), f"{TIER}.links"),
    (_system(beyond__aggregation__topology="torus"), "joins accelerators of one node or slice, not nodes"),
    (_system(beyond__aggregation__topology="host"), "joins accelerators of one node or slice, not nodes"),
    (_system(beyond__aggregation__topology="fully_connected"), "joins accelerators of one node or slice"),
    (
        _system(beyond__aggregation__topology="rail_optimised", beyond__aggregation__rails="8"),
        "joins nodes, not domains of nodes",
    ),
    (_system(scale_out__topology="ring"), "leave from switches, and the ring inside has none"),
    (
        _system(beyond__aggregation__topology="ring", beyond__aggregation__in_switch_reduction=True),
        "a ring has no switch that could reduce",
    ),
    (_system(beyond__aggregation__topology="dragonfly"), "nodes_per_block: is needed by a dragonfly"),
    (
        _system(
            beyond__aggregation__topology="dragonfly",
            beyond__aggregation__nodes_per_block="1",
            beyond__aggregation__links="6",
        ),
        "is disconnected: 6 links of a group do not reach the 7 others",
    ),
    (_system(beyond__aggregation__bandwidth="1 GB/s"), "is an unknown key; did you mean"),
    (_system(**{"beyond__Outer Tier": _more()}), "must be lower case letters"),
    (_system(beyond__site=_more()), f"{TIER}.domain: is needed, as beyond.site joins such domains"),
    (
        _system(beyond__aggregation__domain="10000", beyond__site=_more()),
        "is no multiple of the 3072 of a domain of scale_out",
    ),
]


@pytest.mark.parametrize(("data", "rule"), RULES)
def test_each_rule_of_tiers(data: dict[str, Any], rule: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_system(data)
    messages = [str(problem) for problem in caught.value.problems]
    assert any(rule in message for message in messages), messages
    assert len(messages) == 1, messages


def test_a_tier_without_scale_out_and_all_mistakes_at_once() -> None:
    data = _system(scale_out=None, max_devices="8")
    with pytest.raises(SpecError, match="joins domains of scale_out, and there is none"):
        load_system(data)
    data = _system(
        beyond__aggregation__ports=None, beyond__aggregation__latency="-1 us", scale_up__domain="8"
    )
    with pytest.raises(SpecError) as caught:
        load_system(data)
    assert "must not be negative" in str(caught.value)


ASKED: list[tuple[dict[str, Any], str]] = [
    (_system(beyond__aggregation__link_bandwidth="400 GB/s"), "is more than 1.6 Tbit/s for one link"),
    (
        _system(beyond__aggregation__coefficients="scale_up", beyond__aggregation__link_bandwidth="50 GB/s"),
        "is what one link of hopper carries both ways",
    ),
    (_system(beyond__aggregation__links="24576"), "more than one link for each of the 3072 accelerators"),
    (_system(beyond__aggregation__latency="1 us"), "is shorter than that of the tier inside"),
]


@pytest.mark.parametrize(("data", "question"), ASKED)
def test_the_linter_asks(data: dict[str, Any], question: str, tmp_path: Path) -> None:
    file = tmp_path / "system.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    asked = [w for w in lint(file) if w.path.startswith(TIER) and "source" not in w.rule]
    assert any(question in str(w) for w in asked), asked


def test_figures_of_a_tier_are_named_by_it() -> None:
    system = load_system("grand-teton-h100-24k")
    assert figures(system)[f"{TIER}.oversubscription"][0].value == 7
    assert figure_dimension(SystemSpec, "beyond.any-name.latency") == "s"
    with pytest.raises(SpecError, match="is not a figure"):
        figure_dimension(SystemSpec, "beyond.any-name.latncy")
    assert list(system.tiers) == ["scale_up", "scale_out", TIER]
    # what is written loads again to the same
    assert load_system(to_mapping(system)) == system


def test_scenarios_that_ask_for_what_is_not_there() -> None:
    scenario = {
        "model": "llama-3.1-8b",
        "task": {"kind": "training", "sequence_length": 4096, "global_batch_size": 49152},
        "system": "grand-teton-h100-24k",
    }
    for wrong, message in (
        ({"devices": 49152}, "is more than the 24576 that the system joins"),
        ({"devices": 6144, "system.beyond.agregation.latency": "1 us"}, "beyond.agregation"),
        ({"devices": 6144, "system.scale_out.domain": "3070"}, "is no multiple of the 8"),
    ):
        with pytest.raises(ScenarioError, match=message):
            simulate({**scenario, **wrong})


SCENARIO: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "task": {"kind": "training", "sequence_length": 4096, "global_batch_size": 49152},
    "system": "grand-teton-h100-24k",
    "devices": 6144,
}


def test_figures_that_need_each_other_are_checked_together() -> None:
    """Either alone breaks a rule: 6,156 is a multiple of 12, not of 8, and a store needs both its figures."""
    nodes = {"system.accelerators_per_node": 12, "system.scale_out.domain": 6156, "devices": 12}
    assert simulate({**SCENARIO, **nodes}).step_time_s > 0
    host = {"system.host_memory.capacity": "1 TB", "system.host_memory.bandwidth": "50 GB/s"}
    bare = {**SCENARIO, "system": "hgx-h20", "devices": 8, "plan": {"offload": "optimizer"}}
    assert simulate({**bare, **host}).to_dict()["offload"]["host_bytes"] > 0
    swept = sweep({**bare, **{key: [value] for key, value in host.items()}})
    assert len(swept) == 1
    with pytest.raises(ScenarioError, match="system.host_memory.bandwidth: is missing"):
        simulate({**bare, "system.host_memory.capacity": "1 TB"})


def test_domains_on_two_axes_leave_out_the_pairs_that_do_not_divide() -> None:
    node, pod = "system.accelerators_per_node", "system.scale_out.domain"
    # 3,080 is a multiple of 8, 3,072 of 12 too.
    few = {**SCENARIO, "devices": 24, "task": {**SCENARIO["task"], "global_batch_size": 240}}
    found = sweep({**few, node: [8, 12], pod: [3072, 3080]})
    assert found.attrs["excluded"] == {"tiers join whole domains": 1}
    # 10 alone would not divide the file's 3,072.
    assert len(sweep({**few, "devices": 40, "zip": [{node: [8, 10], pod: [3072, 3080]}]})) == 2


def test_the_way_out_of_a_topology_beyond_is_one_that_is_taken() -> None:
    with pytest.raises(SpecError) as refused:
        load_system(
            _system(
                beyond__aggregation__topology="fully_connected", beyond__aggregation__oversubscription=None
            )
        )
    assert "rail_optimised" not in str(refused.value) and "fat_tree" in str(refused.value)
