"""What the catalogs hold, as tables and text; and the linter of whichever kind of file it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hardware_specs import (
    AcceleratorSpec,
    FabricSpec,
    LintWarning,
    dense_peak_flop_per_s,
    detect_kind,
    find_device,
    format_quantity,
    list_accelerators,
    list_calibrations,
    list_fabric_calibrations,
    list_systems,
    load_accelerator,
    load_calibration,
    load_fabric_calibration,
    load_system,
    load_yaml,
    to_mapping,
)
from hardware_specs.errors import Problem, SpecError, near_names
from hardware_specs.lint import lint
from simulator.machines.device import WIDER
from simulator.scenarios.precision import RECIPES
from workloads.catalog import lint_model, list_models, load_model
from workloads.parameter_counts import parameters

MANY_COLUMNS = 8


def _models() -> tuple[list[str], list[list[str]]]:
    rows = []
    for name in list_models():
        m = load_model(name)
        rows.append(
            [
                name,
                f"{parameters(m)['total']:,}",
                str(m.n_layers),
                str(m.hidden),
                f"{m.heads}/{m.kv_heads}",
                str(m.ffn),
                str(m.vocab),
            ]
        )
    return ["model", "parameters", "layers", "hidden", "heads/kv", "ffn", "vocabulary"], rows


def _shown_dtype(accelerator: AcceleratorSpec) -> str:
    """bf16, or the type that stands in for it on a device without such units."""
    has = accelerator.matmul_flop_per_unit_clock
    return next((d for d in WIDER if d in has), next(iter(has)))


def _accelerators() -> tuple[list[str], list[list[str]]]:
    rows = []
    for name in list_accelerators():
        a = load_accelerator(name)
        rows.append(
            [
                name,
                a.generation,
                _shown_dtype(a),
                format_quantity(dense_peak_flop_per_s(a, _shown_dtype(a)), "flop_per_s"),
                format_quantity(a.memory_capacity.value, "bytes"),
                format_quantity(a.memory_bandwidth.value, "bytes_per_s"),
                format_quantity(a.power_limit.value, "w"),
            ]
        )
    return ["accelerator", "generation", "type", "dense peak", "memory", "bandwidth", "power"], rows


def _links(fabric: FabricSpec) -> str:
    return f"{fabric.links.value:g} x {format_quantity(fabric.link_bandwidth.value, 'bytes_per_s')}"


def _systems() -> tuple[list[str], list[list[str]]]:
    rows = []
    for name in list_systems():
        s = load_system(name)
        rows.append(
            [
                name,
                s.accelerator.name,
                f"{s.accelerators_per_node.value:g}",
                f"{s.scale_up.topology}, {_links(s.scale_up)}",
                ", then ".join(_links(tier) for tier in list(s.tiers.values())[1:]) or "none",
            ]
        )
    return ["system", "accelerator", "per node", "inside, one way", "across, one way"], rows


def _precisions() -> tuple[list[str], list[list[str]]]:
    names = ("weights", "activations", "kv_cache", "gradients", "optimizer", "matmul", "attention")
    return ["precision", *names], [[n, *(str(getattr(p, c)) for c in names)] for n, p in RECIPES.items()]


def _calibrations() -> tuple[list[str], list[list[str]]]:
    rows = []
    for name in list_calibrations():
        c = load_calibration(name)
        rows.append([name, ", ".join(c.applies_to) or "(generation default)", ", ".join(c.tasks), c.stack])
    for name in list_fabric_calibrations():
        f = load_fabric_calibration(name)
        serves = ", ".join([*f.accelerators, *f.generations]) or "any"
        rows.append(
            [name, f"fabric: {serves}; {', '.join(f.topologies) or 'any'}", ", ".join(f.tasks), f.stack]
        )
    return ["calibration", "for", "tasks", "software"], rows


def listing(kind: str) -> Any:
    """A rich table of one catalog: models, accelerators, systems, precisions or calibrations; KeyError otherwise."""
    from rich import box
    from rich.table import Table

    makers = {
        "models": _models,
        "accelerators": _accelerators,
        "systems": _systems,
        "precisions": _precisions,
        "calibrations": _calibrations,
    }
    heads, rows = makers[kind]()
    gap = 1 if len(heads) < MANY_COLUMNS else 0
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap, 0, 0), show_edge=False)
    for i, text in enumerate(heads):
        words = all(not row[i][:1].isdigit() for row in rows)
        table.add_column(text, justify="left" if words else "right", no_wrap=i == 0)
    for row in rows:
        table.add_row(*row)
    return table


def entry(name: str) -> str:
    """One catalog entry as YAML with values, basis and source; SpecError with near names if there is none."""
    if name in list_models():
        model = load_model(name)
        data: dict[str, Any] = {**model.model_dump(mode="json"), "parameters": parameters(model)}
    elif name in list_systems():
        data = to_mapping(load_system(name))
    elif name in list_accelerators():
        data = to_mapping(load_accelerator(name))
    elif name in list_calibrations():
        data = to_mapping(load_calibration(name))
    elif name in list_fabric_calibrations():
        data = to_mapping(load_fabric_calibration(name))
    elif name in RECIPES:
        p = RECIPES[name]
        data = {field: getattr(p, field) for field in p.__slots__}
    else:
        calibrations = [*list_calibrations(), *list_fabric_calibrations()]
        known = [*list_models(), *list_systems(), *list_accelerators(), *calibrations, *RECIPES]
        device = find_device(name)
        meant = [n for n in (device.accelerator, device.system) if n] if device else []
        near = list(dict.fromkeys([*meant, *near_names(name, known)]))[:5]
        fix = (
            f"did you mean {', '.join(near)}?"
            if near
            else "see llmsim list models|systems|accelerators|calibrations"
        )
        raise SpecError([Problem(path="show", value=name, rule="is in no catalog", fix=fix)])
    return yaml.safe_dump(data, sort_keys=False, width=110, allow_unicode=True)


def lint_file(path: Path) -> tuple[list[Problem], list[Problem]]:
    """Errors and warnings of a hardware or model file; a file that cannot be read is an error."""
    try:
        data = load_yaml(path)
    except SpecError as error:
        return list(error.problems), []
    if detect_kind(data) is None and {"n_layers", "hidden", "model_type"} & data.keys():
        return list(lint_model(path)), []
    if {"task", "plan"} & data.keys():
        fix = "llmsim run checks it before it runs"
        return [
            Problem(path=str(path), value="", rule="is a scenario, not a hardware or model file", fix=fix)
        ], []
    found = lint(path)
    warnings: list[Problem] = [p for p in found if isinstance(p, LintWarning)]
    return [p for p in found if not isinstance(p, LintWarning)], warnings
