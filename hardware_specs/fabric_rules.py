"""Fabrics that do not join what they should: links that leave accelerators apart, tiers that do not fit together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hardware_specs.errors import Problem

if TYPE_CHECKING:
    from hardware_specs.schema import FabricSpec, SystemSpec, WireSpec

MOST_DIMENSIONS = 3
MOST_WIRED = 32
GRIDS = ("torus", "mesh")
SWITCHED = ("switch", "fat_tree", "rail_optimised", "dragonfly")
# Rows of a sweep ask it again, where several domains vary.
DOMAINS_DIVIDE = "tiers join whole domains"
BETWEEN_BLOCKS = ("fat_tree", "rail_optimised", "dragonfly")


def broken_node(system: SystemSpec) -> Iterator[Problem]:
    """Links, bridges and rails that leave accelerators out; raises nothing."""
    per_node, up = system.accelerators_per_node.value, system.scale_up
    if up.topology in GRIDS and up.shape is not None and math.prod(up.shape) > system.max_devices.value:
        product = " x ".join(map(str, up.shape))
        rule = (
            f"has {product} = {math.prod(up.shape)} places, but max_devices is {system.max_devices.value:g}"
        )
        yield _rule("scale_up.shape", str(up.shape), rule, "give sizes that multiply to the devices")
    if up.topology == "fully_connected" and up.links.value < per_node - 1:
        rule = f"is disconnected: {up.links.value:g} links of each do not reach {per_node - 1:g} peers"
        yield _rule(
            "scale_up.links", f"{up.links.value:g}", rule, "give a link per peer, or another topology"
        )
    if up.topology == "ring" and up.links.value > 2:
        rule = "is more than the two neighbours in a ring: further links would carry nothing"
        fix = "write 2, and in link_bandwidth what all links to one neighbour carry one way"
        yield _rule("scale_up.links", f"{up.links.value:g}", rule, fix)
    if up.wiring is not None:
        yield from broken_wiring(up.wiring, int(per_node), up.links.value)
    if up.topology in BETWEEN_BLOCKS and up.topology != "fat_tree":
        yield _rule(
            "scale_up.topology", up.topology, "joins nodes, not accelerators", "write it in scale_out"
        )
    bridge = up.accelerators_per_bridge
    if bridge is not None and per_node % bridge.value:
        rule = f"does not divide the {per_node:g} accelerators of a node"
        yield _rule("scale_up.accelerators_per_bridge", f"{bridge.value:g}", rule)


def broken_hierarchy(system: SystemSpec) -> Iterator[Problem]:
    """Tiers outside the node that join no nodes, or whose domains do not multiply; raises nothing."""
    if system.scale_up.domain is not None:
        rule = "accelerators_per_node says how many the innermost tier joins"
        yield _rule("scale_up.domain", f"{system.scale_up.domain.value:g}", rule, "remove it")
    if system.beyond and system.scale_out is None:
        yield _rule(
            "beyond", "{...}", "joins domains of scale_out, and there is none", "give scale_out first"
        )
        return
    tiers = list(system.tiers.items())
    for path, tier in tiers:
        yield from _misplaced_ports(path, tier)
    for path, tier in tiers[1:]:
        if tier.topology in (*GRIDS, "host", "wired", "fully_connected"):
            rule = "joins accelerators of one node or slice, not nodes"
            rails = SWITCHED if path == "scale_out" else [t for t in SWITCHED if t != "rail_optimised"]
            yield _rule(f"{path}.topology", tier.topology, rule, f"write {', '.join(rails)} or ring")
    for path, tier in tiers[2:]:
        if tier.topology == "rail_optimised":
            fix = "write it in scale_out, or fat_tree here"
            yield _rule(f"{path}.topology", tier.topology, "joins nodes, not domains of nodes", fix)
    for (_, inside), (path, tier) in zip(tiers[1:], tiers[2:], strict=False):
        if tier.ports == "uplinks" and inside.topology not in SWITCHED:
            rule = f"leave from switches, and the {inside.topology} inside has none"
            yield _rule(f"{path}.ports", "uplinks", rule, "write own")
    yield from _broken_rails(system)
    yield from _broken_domains(system)


def _misplaced_ports(path: str, tier: FabricSpec) -> Iterator[Problem]:
    beyond = path.startswith("beyond.")
    if beyond and tier.ports is None:
        rule = "is needed beyond scale_out: do accelerators have ports of their own into this tier?"
        yield _rule(
            f"{path}.ports", "", rule, "write own, or uplinks where switches of the tier inside have them"
        )
    if not beyond and tier.ports is not None:
        rule = "is for tiers beyond scale_out: here ports are the accelerators' or the node's own"
        yield _rule(f"{path}.ports", tier.ports, rule, "remove it")


def _broken_rails(system: SystemSpec) -> Iterator[Problem]:
    per_node, out = system.accelerators_per_node.value, system.scale_out
    if out is None or out.rails is None:
        return
    if out.links.value % out.rails.value or per_node % out.rails.value:
        rule = (
            f"does not divide the {out.links.value:g} NICs and the {per_node:g} accelerators of a node: each rail "
            "takes the same number of both"
        )
        yield _rule("scale_out.rails", f"{out.rails.value:g}", rule, "use a common divisor")


def _broken_domains(system: SystemSpec) -> Iterator[Problem]:
    """Domains that do not hold whole domains of the tier inside, or more than there are."""
    tiers, most = list(system.tiers.items())[1:], system.max_devices.value
    inside: float = system.slice_devices or system.accelerators_per_node.value
    what = "a slice" if system.slice_devices else "a node"
    for k, (path, tier) in enumerate(tiers):
        last = k == len(tiers) - 1
        yield from _broken_dragonfly(path, tier, (tier.domain.value if tier.domain else most) / inside)
        if tier.domain is None and not last:
            rule = f"is needed, as {tiers[k + 1][0]} joins such domains"
            yield _rule(f"{path}.domain", "", rule, "give the accelerators of one")
            return
        if tier.domain is None:
            continue
        size = tier.domain.value
        if last and size != most:
            rule = f"must be the max_devices, {most:g}, in the outermost tier"
            yield _rule(
                f"{path}.domain", f"{size:g}", rule, "remove it, or name the tier that joins such domains"
            )
        elif size % inside:
            rule = f"is no multiple of the {inside:g} of {what}: {DOMAINS_DIVIDE}"
            yield _rule(f"{path}.domain", f"{size:g}", rule, f"use a multiple of {inside:g}")
        elif size > most:
            rule = f"is more than max_devices, {most:g}"
            yield _rule(f"{path}.domain", f"{size:g}", rule, "lower it, or raise max_devices")
        inside, what = size, f"a domain of {path}"


def _broken_dragonfly(path: str, tier: FabricSpec, units: float) -> Iterator[Problem]:
    """A dragonfly whose groups have too few links to reach each other."""
    if tier.topology != "dragonfly" or tier.nodes_per_block is None:
        return
    links, others = (
        tier.links.value * tier.nodes_per_block.value,
        math.ceil(units / tier.nodes_per_block.value) - 1,
    )
    if links < others:
        rule = f"is disconnected: {links:g} links of a group do not reach the {others:g} others"
        yield _rule(
            f"{path}.links", f"{tier.links.value:g}", rule, "give more links, larger groups or fewer of them"
        )


def broken_wiring(wiring: list[WireSpec], per_node: int, links: float) -> Iterator[Problem]:
    """Ends that are not there, accelerators with too many links, and those that no link leads to."""
    path = "scale_up.wiring"
    if per_node > MOST_WIRED:
        rule = f"is for nodes of at most {MOST_WIRED} accelerators, and this one has {per_node}"
        yield _rule(path, "[...]", rule, "use another topology")
        return
    ports = dict.fromkeys(range(per_node), 0)
    island: dict[int | str, set[int | str]] = {i: {i} for i in range(per_node)}
    for k, wire in enumerate(wiring):
        one, other = wire.ends
        missing = [end for end in (one, other) if isinstance(end, int) and end not in ports]
        for end in missing:
            rule = f"is no accelerator of this node: they are 0 to {per_node - 1}"
            yield _rule(f"{path}[{k}].between", str(end), rule, "use one of these, or a name for a switch")
        if one == other:
            yield _rule(f"{path}[{k}].between", str(one), "joins a place with itself", "name two places")
        if missing:
            continue
        for place in {one, other}:
            if isinstance(place, int):
                ports[place] += wire.links
        joined = island.setdefault(one, {one}) | island.setdefault(other, {other})
        island.update(dict.fromkeys(joined, joined))
    for accelerator, used in ports.items():
        if used > links:
            rule = f"gives accelerator {accelerator} {used} links, but links are {links:g}"
            yield _rule(path, "[...]", rule, "remove some, or raise links")
    apart = [str(i) for i in range(per_node) if i not in island[0]]
    if apart:
        rule = f"is disconnected: no way from accelerator 0 to {', '.join(apart[:5])}"
        yield _rule(path, "[...]", rule, "add the links that join them")


def _rule(key: str, value: str, rule: str, fix: str = "") -> Problem:
    return Problem(path=key, value=value, rule=rule, fix=fix)
