"""Read YAML without its traps: YAML 1.2 scalars, no duplicate keys, no oversized or hostile files.

PyYAML follows YAML 1.1, where ``NO`` is false, ``1e12`` is text, ``12:30`` is 750 and a key written
twice silently wins the second time. Here only ``true`` and ``false`` are booleans, numbers are read
as in the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/, section 10.3), and each trap is an error.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hardware_specs.errors import Problem, SpecError, shorten
from hardware_specs.yaml_limits import check_depth, check_size

__all__ = ["load_yaml", "parse_yaml"]

if TYPE_CHECKING:
    _Base = yaml.SafeLoader
else:  # the C parser reads a catalog file ten times faster than the Python one
    _Base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _StrictLoader(_Base):
    """Safe loader with the scalars of YAML 1.2 and without duplicate keys or merge keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


def _add_scalar(tag: str, pattern: str, first_characters: str) -> None:
    _StrictLoader.add_implicit_resolver(tag, re.compile(pattern), list(first_characters))


_add_scalar("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF")
_add_scalar("tag:yaml.org,2002:int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", "-+0123456789")
_add_scalar(
    "tag:yaml.org,2002:float",
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
    "-+0123456789.",
)
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)


def _construct_int(loader: Any, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    if len(text) > 400:  # Python refuses to read thousands of digits, with a ValueError
        raise yaml.constructor.ConstructorError(
            None, None, "a whole number of over 400 digits", node.start_mark
        )
    if text.startswith(("0x", "0o")):
        return int(text, 0)
    return int(text)  # base 10: "010" is ten in YAML 1.2, not eight


def _construct_float(loader: Any, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).lower()
    if text.endswith((".inf", ".nan")):
        text = text.replace(".", "")
    return float(text)


def _construct_mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, (str, int, float, bool)) and key is not None:
            message = "a key must be plain text, not a list or a mapping"
            raise yaml.constructor.ConstructorError(None, None, message, key_node.start_mark)
        if key in mapping:
            message = f"the key {shorten(str(key))} is written twice in one mapping"
            raise yaml.constructor.ConstructorError(None, None, message, key_node.start_mark)
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _construct_float)
_StrictLoader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def load_yaml(source: str | Path, *, max_bytes: int = 4_000_000) -> dict[str, Any]:
    """Read one YAML file whose top level is a mapping.

    Parameters
    ----------
    source : str or Path
        The file.
    max_bytes : int
        Larger files are refused unread. [byte]

    Returns
    -------
    dict
        The mapping; keys are text.

    Raises
    ------
    SpecError
        If the file is missing, a directory, unreadable, empty, too large, not UTF-8, not YAML (with
        the line), holds a key twice (with the line), or is not a mapping.
    """
    path = Path(source)
    name = shorten(str(source))
    data = _read_bytes(path, name, max_bytes)
    if b"\x00" in data:
        raise _refuse(name, "is a binary file, not YAML text", "give a text file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _refuse(name, f"is not UTF-8 text (line {line})", "save it as UTF-8") from None
    return parse_yaml(text, name=name)


def parse_yaml(text: str, *, name: str = "<text>") -> dict[str, Any]:
    """Read YAML text whose top level is a mapping.

    Parameters
    ----------
    text : str
        One YAML document.
    name : str
        What messages call it.

    Returns
    -------
    dict
        The mapping; keys are text.

    Raises
    ------
    SpecError
        As `load_yaml`, apart from the reading of the file.

    Examples
    --------
    >>> parse_yaml("country: NO\\nrate: 1e12")
    {'country': 'NO', 'rate': 1000000000000.0}
    """
    if not text.strip():
        raise _refuse(name, "is empty", "write at least one key")
    try:
        value = _construct(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        what = " ".join(str(error.problem or error.context or "cannot be read").split())
        raise _refuse(name, f"is not valid YAML{where}: {what}", "correct that line") from None
    except yaml.YAMLError as error:
        raise _refuse(name, f"is not valid YAML: {shorten(str(error))}", "correct the text") from None
    except (RecursionError, ValueError, OverflowError) as error:
        raise _refuse(name, f"cannot be read as YAML: {shorten(str(error))}", "correct the text") from None
    if value is None:
        raise _refuse(name, "is empty", "write at least one key")
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else f"the value {shorten(str(value))}"
        raise _refuse(name, f"must be a mapping of keys to values at its top level, not {kind}", "")
    _check_keys(value, name)
    return value


def _construct(text: str) -> object:
    check_depth(text, _StrictLoader)
    loader = _StrictLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        check_size(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_keys(value: object, path: str) -> None:
    problems: list[Problem] = []

    def visit(item: object, where: str) -> None:
        if isinstance(item, dict):
            for key, child in item.items():
                if isinstance(key, str):
                    visit(child, f"{where}.{key}" if where else key)
                else:
                    fix = f'write "{key}" in quotes if it is meant' if key is not None else ""
                    rule = "a key must be text"
                    problems.append(Problem(path=where or path, value=shorten(str(key)), rule=rule, fix=fix))
        elif isinstance(item, list):
            for index, child in enumerate(item):
                visit(child, f"{where}[{index}]")

    visit(value, "")
    if problems:
        raise SpecError(problems)


def _read_bytes(path: Path, name: str, max_bytes: int) -> bytes:
    try:
        if path.is_dir():
            raise _refuse(name, "is a directory", "give the path of one YAML file")
        if path.exists() and not path.is_file():
            raise _refuse(name, "is not a regular file", "give the path of one YAML file")
        size_bytes = path.stat().st_size
        if size_bytes > max_bytes:
            rule = f"has {size_bytes / 1e6:.1f} MB, more than the {max_bytes / 1e6:.1f} MB that are read"
            raise _refuse(name, rule, "give a smaller file; is this really a description?")
        return path.read_bytes()
    except FileNotFoundError:
        raise _refuse(name, "does not exist", "check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise _refuse(name, f"cannot be read ({reason})", "check the path and its permissions") from None


def _refuse(name: str, rule: str, fix: str) -> SpecError:
    return SpecError([Problem(path=name, value="", rule=rule, fix=fix)])
