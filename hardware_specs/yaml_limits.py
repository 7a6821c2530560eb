"""Refuse YAML that is hostile: nesting that overflows a stack, aliases that unfold to billions of values."""

from __future__ import annotations

from typing import Any

import yaml

from hardware_specs.errors import shorten

__all__ = ["check_depth", "check_size"]

_MAX_NODES = 400_000  # what aliases may unfold to; a few kB of nested aliases can mean 1e9 nodes
_MAX_DEPTH = 60
_SAFE_DEPTH = 4_000  # levels that the C composer survives on a small stack
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(_TAG + kind for kind in ("map", "seq", "str", "int", "float", "bool", "null"))


def check_depth(text: str, loader: Any) -> None:
    """Refuse nesting so deep that the C composer, which recurses, would crash the process."""
    # brackets nest once each, block levels need a column or two of one line: both bound the depth
    bound = text.count("[") + text.count("{") + 2 * max(map(len, text.splitlines()))
    if bound <= _SAFE_DEPTH:
        return
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise _too_deep(event.start_mark)


def _too_deep(mark: Any) -> yaml.constructor.ConstructorError:
    message = f"nesting deeper than {_MAX_DEPTH} levels, or an alias inside its own anchor"
    return yaml.constructor.ConstructorError(None, None, message, mark)


def check_size(root: yaml.Node) -> None:
    """Refuse documents whose aliases unfold to too many nodes, recursive ones, and deep nesting."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, depth: int) -> int:
        if node.tag not in _PLAIN_TAGS:
            message = f"the type {shorten(node.tag.removeprefix(_TAG))} is not read here"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
        if depth > _MAX_DEPTH:
            raise _too_deep(node.start_mark)
        if isinstance(node, yaml.ScalarNode):
            return 1
        known = sizes.get(id(node))
        if known is None:
            children = node.value
            if isinstance(node, yaml.MappingNode):
                children = [child for pair in node.value for child in pair]
            known = 1 + sum(size(child, depth + 1) for child in children)
            sizes[id(node)] = known
        if known > _MAX_NODES:
            message = f"aliases unfold to more than {_MAX_NODES} values"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
        return known

    size(root, 0)
