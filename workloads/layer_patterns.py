"""Which layers of a foreign configuration differ, as "every n-th": lists of kinds, of numbers and of switches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workloads.config_reader import ConfigReader

__all__ = ["every_nth", "read_layer_types"]


def every_nth(marks: Sequence[bool]) -> int | None:
    """The n of which exactly every n-th mark is set, counted from 1; 0 where none is, None where there is no such n.

    Raises nothing.
    """
    if not any(marks):
        return 0
    n = marks.index(True) + 1
    return n if all(mark == (i % n == 0) for i, mark in enumerate(marks, start=1)) else None


def read_layer_types(
    reader: ConfigReader, local: str, limit: str, *, key: str = "layer_types", kinds: Any = None
) -> None:
    """Set who sees all keys from a list with the kind of each layer.

    Parameters
    ----------
    reader : ConfigReader
        Its key ``layer_types`` is read if there is one; mistakes are noted there.
    local : str
        Word for a layer with a limit; ``full_attention`` is the other one that is known.
    limit : str
        Field of the limit, which is cleared where no layer has it; "" where the family has none.
    key : str
        Key that messages name.
    kinds : list of str, optional
        The kinds where the file says them in another way.

    Raises
    ------
    Nothing.
    """
    kinds = reader.config.get(key) if kinds is None else kinds
    if kinds is None:
        return
    layers = reader.values.get("n_layers")
    if not isinstance(kinds, list) or not all(kind in (local, "full_attention") for kind in kinds):
        reader.fail(
            key, f"must be a list of {local} and full_attention" if limit else "must be full_attention"
        )
    elif layers and len(kinds) != layers:
        reader.fail(key, f"must name the kind of each of the {layers} layers")
    elif not limit and local in kinds:
        reader.fail(key, "layers with a window are not known here for this family")
    elif limit:
        every = every_nth([kind == "full_attention" for kind in kinds])
        if every is None:
            rule = "layers that see all keys must be every n-th one, counted from 1"
            reader.fail(key, rule, "use a model file in our own keys with the nearest global_attention_every")
        elif every == 1:
            reader.values[limit] = None
        elif every:
            reader.values["global_attention_every"] = every
