"""Read a JSON file whose top level is an object, with one clear error for whatever else it may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hardware_specs.errors import Problem, SpecError, shorten

__all__ = ["load_json"]


class _DuplicateKey(Exception):
    """Carries the key that an object holds twice."""


def load_json(path: Path, *, max_bytes: int = 4_000_000) -> dict[str, Any]:
    """Read one JSON object.

    Parameters
    ----------
    path : Path
        The file.
    max_bytes : int
        Larger files are refused unread. [byte]

    Returns
    -------
    dict
        The object.

    Raises
    ------
    SpecError
        If the file is missing, not a regular file, unreadable, empty, too large, not UTF-8, not JSON (with
        the line), holds a key twice, or is not an object.
    """
    import json  # 3 ms that a model from the catalog has no need of

    name = shorten(str(path))
    text = _read_text(path, name, max_bytes)
    if not text.strip():
        raise _refuse(name, "is empty", "a config.json starts with {")
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except _DuplicateKey as error:
        raise _refuse(name, f"holds the key {shorten(str(error))} twice in one object", "keep one") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _refuse(name, f"is not valid JSON ({where}): {error.msg}", "correct that line") from None
    except (RecursionError, ValueError) as error:  # nesting too deep, a number of thousands of digits
        raise _refuse(name, f"cannot be read as JSON: {shorten(str(error))}", "correct the text") from None
    if not isinstance(value, dict):
        rule = f"must hold a JSON object, not a {type(value).__name__}"
        raise _refuse(name, rule, "a config.json starts with {")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _DuplicateKey(key)
        result[key] = value
    return result


def _read_text(path: Path, name: str, max_bytes: int) -> str:
    try:
        if path.is_dir():
            raise _refuse(name, "is a directory", "give the path of one JSON file")
        if path.exists() and not path.is_file():
            raise _refuse(name, "is not a regular file", "give the path of one JSON file")
        size_bytes = path.stat().st_size
        if size_bytes > max_bytes:
            rule = f"has {size_bytes / 1e6:.1f} MB, more than the {max_bytes / 1e6:.1f} MB that are read"
            raise _refuse(name, rule, "give the config.json, not the weights")
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise _refuse(name, "does not exist", "check the path") from None
    except UnicodeDecodeError:
        raise _refuse(name, "is not UTF-8 text", "give a JSON text file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise _refuse(name, f"cannot be read ({reason})", "check the path and its permissions") from None


def _refuse(name: str, rule: str, fix: str) -> SpecError:
    return SpecError([Problem(path=name, value="", rule=rule, fix=fix)])
