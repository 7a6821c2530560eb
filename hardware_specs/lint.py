"""Check a hardware description: what is wrong (problems) and what looks wrong (warnings)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from hardware_specs.calibration import CalibrationSpec
from hardware_specs.catalog import (
    list_accelerators,
    load_accelerator,
    load_calibration,
    load_fabric_calibration,
    load_system,
)
from hardware_specs.errors import LlmsimError, Problem
from hardware_specs.figure_table import figures
from hardware_specs.schema import AcceleratorSpec, FabricSpec, SystemSpec, dense_peak_flop_per_s
from hardware_specs.strict_yaml import load_yaml
from hardware_specs.units import format_quantity

__all__ = ["LintWarning", "detect_kind", "lint"]

Kind = Literal["accelerator", "system", "calibration", "fabric calibration"]

_PEAK_TOLERANCE = 0.015  # datasheets round to three digits
_MATMUL_MEMORY_SHARE = 0.25  # share of the memory bandwidth that a large matmul uses
_POWER_SLACK = 1.02
_SUSPECT_RATIO = 3.9
# What links of a generation carry one way [bytes/s]: one link, and all links of one accelerator
_ONE_WAY = {
    "ampere": (25e9, 300e9),
    "hopper": (25e9, 450e9),
    "blackwell": (50e9, 900e9),
    "cdna3": (64e9, 448e9),
    "tpu-v5": (100e9, 600e9),
}
_USER_SOURCE = "given by the user"


class LintWarning(Problem):
    """Something that is legal but is often a mistake."""

    __slots__ = ()


def lint(path: str | Path) -> list[Problem]:
    """Check one accelerator, system or calibration file.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    list of Problem
        Mistakes as `Problem`, doubts as `LintWarning`; empty if there is nothing to say. Warnings are
        sought only in files without mistakes.

    Raises
    ------
    SpecError
        Never: a file that cannot be read is one of the mistakes.

    Notes
    -----
    The doubts: a peak that is twice or half the published dense one (sparse?), a link that carries what
    data sheets print for both directions, memory in GiB where products are sold in GB, energies that
    together exceed the power limit, and figures without a source.
    """
    try:
        data = load_yaml(path)
        kind = detect_kind(data)
        if kind is None:
            rule = "is not an accelerator, a system or a calibration"
            fix = "an accelerator has `memory_bandwidth`, a system `scale_up`, a calibration `kernels`"
            return [Problem(path=str(path), value="", rule=rule, fix=fix)]
        return list(_warnings(kind, Path(path)))
    except LlmsimError as error:
        return list(error.problems)


def detect_kind(data: Mapping[str, Any]) -> Kind | None:
    """Which schema a mapping follows, by the keys that only one of them has; None if none fits.

    Raises nothing.
    """
    marks: dict[Kind, set[str]] = {
        "calibration": {"kernels", "stack", "applies_to"},
        "fabric calibration": {"generations", "topologies", "accelerators", "stack"},
        "system": {"accelerator", "accelerators_per_node", "host_power", "slices", "max_devices"},
        "accelerator": {
            "memory_bandwidth",
            "memory_capacity",
            "clock",
            "matmul_flop_per_unit_clock",
            "units",
        },
    }
    scores = {kind: len(keys & set(data)) for kind, keys in marks.items()}
    best = max(scores, key=lambda kind: scores[kind])
    return best if scores[best] else None


def _warnings(kind: Kind, path: Path) -> Iterator[LintWarning]:
    if kind == "calibration":
        yield from _calibration(load_calibration(path))
        return
    if kind == "fabric calibration":
        load_fabric_calibration(path)
        return
    if kind == "accelerator":
        accelerator = load_accelerator(path)
        for check in _ACCELERATOR_CHECKS:
            yield from check(accelerator)
        yield from _sources(accelerator)
        return
    system = load_system(path)
    yield from _bandwidths(system)
    yield from _sources(system)


def _peaks(accelerator: AcceleratorSpec) -> Iterator[LintWarning]:
    """Derived peak against the published dense one."""
    for dtype, published in accelerator.datasheet_peak.items():
        ratio = dense_peak_flop_per_s(accelerator, dtype) / published.value
        if abs(ratio - 1) <= _PEAK_TOLERANCE:
            continue
        derived = format_quantity(ratio * published.value, "flop_per_s")
        rule = f"is {1 / ratio:.3g} times units x clock x FLOP per unit and clock, which is {derived}"
        fix = "correct the factors"
        if math.isclose(ratio, 0.5, rel_tol=0.05):
            fix = "is this the peak with sparsity? Give the dense one"
        elif math.isclose(ratio, 2.0, rel_tol=0.05):
            fix = "is the FLOP per unit and clock the one with sparsity, or a multiply-add counted as 4?"
        yield _warn(f"datasheet_peak.{dtype}", format_quantity(published.value, "flop_per_s"), rule, fix)


def _peak_ladder(accelerator: AcceleratorSpec) -> Iterator[LintWarning]:
    """Dense units halve the rate when they double the bits; a jump by four is a sparse number."""
    rates: dict[str, float] = {k: v.value for k, v in accelerator.matmul_flop_per_unit_clock.items()}
    for narrow, wide in (("fp8", "bf16"), ("int8", "bf16"), ("fp4", "fp8"), ("bf16", "tf32")):
        if narrow not in rates or wide not in rates:
            continue
        # where fp32 accumulation halves bf16, fp16 shows what the units can do
        base = max(rates[wide], rates.get("fp16", 0.0)) if wide == "bf16" else rates[wide]
        ratio = rates[narrow] / base
        if ratio >= _SUSPECT_RATIO:
            rule = f"is {ratio:.3g} times the rate of {wide}; half the bits usually give 2"
            key = f"matmul_flop_per_unit_clock.{narrow}"
            yield _warn(key, f"{rates[narrow]:g}", rule, "is one of them the rate with sparsity?")


def _capacity(accelerator: AcceleratorSpec) -> Iterator[LintWarning]:
    """GPU data sheets print GB; the same number as GiB is 7 % more."""
    capacity = accelerator.memory_capacity
    in_gib = capacity.value / 2**30
    from_datasheet = capacity.basis == "datasheet" and "GiB" not in capacity.source
    if accelerator.kind != "cpu" and from_datasheet and in_gib == int(in_gib):
        rule = f"is exactly {in_gib:g} GiB, {capacity.value / 1e9:.4g} GB"
        fix = f'did the data sheet say "{in_gib:g} GB"? If it means GiB, say so in the source'
        yield _warn("memory_capacity", f"{in_gib:g} GiB", rule, fix)


def _energy(accelerator: AcceleratorSpec) -> Iterator[LintWarning]:
    """Static and dynamic power at full rate against the limit."""
    limit = accelerator.power_limit.value
    idle = accelerator.idle_power.value
    memory = accelerator.memory_bandwidth.value * accelerator.energy_per_memory_byte.value
    loads = {"energy_per_memory_byte": idle + memory}
    for dtype, energy in accelerator.energy_per_flop.items():
        compute = dense_peak_flop_per_s(accelerator, dtype) * energy.value
        loads[f"energy_per_flop.{dtype}"] = idle + compute + _MATMUL_MEMORY_SHARE * memory
    for key, power in loads.items():
        if power > limit * _POWER_SLACK:
            rule = f"gives {power:.4g} W at full rate, above the power limit of {limit:g} W"
            yield _warn(key, "", rule, "lower it, or check its prefix")


_ACCELERATOR_CHECKS: tuple[Callable[[AcceleratorSpec], Iterator[LintWarning]], ...] = (
    _peaks,
    _peak_ladder,
    _capacity,
    _energy,
)


def _bandwidths(system: SystemSpec) -> Iterator[LintWarning]:
    """Numbers that data sheets print for both directions, or for all links together."""
    yield from _link(system.scale_up, system.accelerator.generation)
    out = system.scale_out
    if out is not None:
        per_accelerator = out.links.value / system.accelerators_per_node.value
        if per_accelerator >= 2 and system.accelerators_per_node.value > 1:
            rule = f"means {per_accelerator:g} NICs per accelerator"
            yield _warn("scale_out.links", f"{out.links.value:g}", rule, "NICs are counted per node")
        if out.link_bandwidth.value >= 200e9:
            shown = format_quantity(out.link_bandwidth.value, "bytes_per_s")
            rule = "is more than 1.6 Tbit/s for one NIC"
            yield _warn("scale_out.link_bandwidth", shown, rule, "bits or bytes? One NIC or all of a node?")
    yield from _beyond(system)


def _beyond(system: SystemSpec) -> Iterator[LintWarning]:
    """Tiers beyond: links of both directions, more ports than accelerators, a way that is shorter than its part."""
    tiers = list(system.tiers.items())[1:]
    for (_, inside), (path, tier) in zip(tiers, tiers[1:], strict=False):
        if tier.coefficients == "scale_up":
            yield from _link(tier, system.accelerator.generation, path, of_all=False)
        elif tier.link_bandwidth.value >= 200e9:
            shown = format_quantity(tier.link_bandwidth.value, "bytes_per_s")
            fix = "bits or bytes? Both directions, or all links together?"
            yield _warn(f"{path}.link_bandwidth", shown, "is more than 1.6 Tbit/s for one link", fix)
        held = inside.domain.value if inside.domain is not None else 1.0
        if tier.links.value >= 2 * held:
            rule = f"is more than one link for each of the {held:g} accelerators of a domain inside"
            yield _warn(f"{path}.links", f"{tier.links.value:g}", rule, "are they counted for all domains?")
        if tier.ports == "uplinks" and tier.latency.value < inside.latency.value:
            shown = format_quantity(tier.latency.value, "s")
            rule = "is shorter than that of the tier inside, which is part of the way"
            yield _warn(f"{path}.latency", shown, rule, "give the latency from end to end")


def _link(
    fabric: FabricSpec, generation: str, path: str = "scale_up", *, of_all: bool = True
) -> Iterator[LintWarning]:
    if generation not in _ONE_WAY:
        return
    link, together = _ONE_WAY[generation]
    value = fabric.link_bandwidth.value
    shown = format_quantity(value, "bytes_per_s")
    fix = f"one link carries {format_quantity(link, 'bytes_per_s')} one way"
    if math.isclose(value, 2 * link, rel_tol=0.01):
        rule = f"is what one link of {generation} carries both ways"
        yield _warn(f"{path}.link_bandwidth", shown, rule, fix)
    elif of_all and value * fabric.links.value > 1.02 * together:
        injected = format_quantity(value * fabric.links.value, "bytes_per_s")
        most = format_quantity(together, "bytes_per_s")
        rule = f"times {fabric.links.value:g} links is {injected}, above the {most} one way of {generation}"
        yield _warn(f"{path}.link_bandwidth", shown, rule, f"{fix}: both directions, or all links together?")


def _calibration(calibration: CalibrationSpec) -> Iterator[LintWarning]:
    for name in calibration.applies_to:
        if name not in list_accelerators():
            yield _warn(
                "applies_to", name, "is not in the catalog", "it will serve only a device of that name"
            )
    for path, (figure, dimension) in figures(calibration).items():
        if dimension == "s" and figure.value > 1e-3:
            shown = format_quantity(figure.value, "s")
            yield _warn(path, shown, "is longer than 1 ms for one kernel or exchange", "ms or us?")


def _sources(spec: AcceleratorSpec | SystemSpec) -> Iterator[LintWarning]:
    for path, (figure, dimension) in figures(spec, reference=True).items():
        if figure.source == _USER_SOURCE:
            shown = format_quantity(figure.value, dimension)
            fix = "write {value, basis, source} with a citation"
            yield _warn(path, shown, "has no source", fix)


def _warn(path: str, value: str, rule: str, fix: str) -> LintWarning:
    return LintWarning(path=path, value=value, rule=rule, fix=fix)
