"""The machine that a measured row ran on: a catalog system, and the figures that the row states otherwise."""

from __future__ import annotations

from typing import Any

from hardware_specs import load_system
from simulator.validation.cases import RowReader
from simulator.validation.known_words import rack_of, spelling, system_of

__all__ = ["machine_keys"]

# The assumption that a row's machine is joined as the catalog says.
CATALOG = "catalog"


def _interconnect(reader: RowReader) -> dict[str, Any]:
    """The entry of the row's words about its fabric; empty where it has none or they are not understood."""
    text = reader.row.text("interconnect")
    if not text:
        return {}
    entry = spelling("interconnect", text)
    if entry is None:
        reader.skip(f"interconnect {text!r} is not in the table of spellings")
        return {}
    if "skip" in entry:
        reader.skip(f"interconnect {text!r}: {entry['skip']}")
    return entry


def machine_keys(reader: RowReader) -> dict[str, Any]:
    """Scenario keys of the machine.

    Parameters
    ----------
    reader : RowReader
        The row; notes reasons and assumptions.

    Returns
    -------
    dict
        ``system`` (a catalog name), ``devices`` [1] and overrides of figures, by dotted keys. A row of several
        nodes that says nothing of the fabric between them gets the catalog's, which is noted as an assumption.

    Raises
    ------
    SpecError
        If the catalog cannot be read.
    """
    row = reader.row
    device, devices = row.text("accelerator"), reader.need_count("n_accelerators")
    name, reason = system_of(device, row.text("source"))
    entry = _interconnect(reader)
    if name is None:
        reader.skip(reason)
        return {}
    system = load_system(name)
    of_catalog, stated = int(system.accelerators_per_node.value), row.count("accelerators_per_node")
    keys: dict[str, Any] = {"system": name, "devices": devices}
    accelerator = system.accelerator.name
    if accelerator not in entry.get("only_on", [accelerator]):
        # Such words say nothing about this machine, and nor does the node size beside them.
        text = row.text("interconnect")
        found = reader.assume("interconnect", f"interconnect {text!r} does not belong to {device}")
        if found not in (None, CATALOG):
            reader.skip(f"assume interconnect={CATALOG}, not {found}")
        return keys
    figures = dict(entry.get("figures", {}))
    rack = rack_of(name)
    if rack is not None and stated in (None, rack.tray):
        # The table's node is a tray; the catalog's is the domain of links, of which a job may leave some idle.
        if devices > of_catalog and devices % of_catalog:
            figures = {"accelerators_per_node": rack.filled, "scale_out.links": rack.filled, **figures}
    elif stated is not None and stated != of_catalog and system.scale_up.topology != "torus":
        figures["accelerators_per_node"] = stated
    if not row.text("interconnect") and devices > (stated or of_catalog):
        # The machine is named and its makers join it in one way; the row stands apart all the same.
        reader.assumed["interconnect"] = CATALOG
    return {**keys, **{f"system.{key}": value for key, value in figures.items()}}
