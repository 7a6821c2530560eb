"""Which tensors a plan keeps outside device memory, and where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TIERS = ("none", "host", "nvme")
OFFLOADED = ("weights", "gradients", "optimizer", "activations")


def offload_tiers(value: Any) -> dict[str, str]:
    """Tier by owner from what a plan says: "none", words such as "optimizer activations:nvme", or a mapping.

    A word without a tier means the host.

    Raises
    ------
    ValueError
        If an owner or a tier is not known, or an owner is named twice.
    """
    pairs: list[tuple[str, str]] = []
    if isinstance(value, Mapping):
        pairs = [(str(owner), str(tier)) for owner, tier in value.items()]
    elif value is None or value == "":
        raise ValueError("is empty; write none")
    elif value != "none":
        for word in str(value).replace(",", " ").split():
            owner, _, tier = word.partition(":")
            pairs.append((owner, tier or "host"))
        if not pairs:
            raise ValueError("is empty; write none")
    for owner, tier in pairs:
        if owner not in OFFLOADED:
            raise ValueError(f"{owner} is no owner: write some of {', '.join(OFFLOADED)}, or none")
        if tier not in TIERS:
            raise ValueError(f"{tier} is no tier: write one of {', '.join(TIERS)}")
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("names an owner twice")
    return {owner: tier for owner, tier in found.items() if tier != "none"}


def offload_text(tiers: Mapping[str, str]) -> str:
    """Tiers by owner as a plan writes them; raises nothing."""
    words = [f"{o}:{tiers[o]}" for o in OFFLOADED if o in tiers]
    return " ".join(words) or "none"
