"""Typed access to the keys of a foreign configuration; collects every mistake instead of stopping at one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hardware_specs.errors import Problem, shorten
from workloads.model_rules import MAX_COUNT

__all__ = ["REQUIRED", "ConfigReader"]


class _Required:
    """Marks a key that has no default."""


REQUIRED: Final = _Required()


class ConfigReader:
    """Reads a mapping key by key into fields of `workloads.model_spec.ModelSpec`.

    Parameters
    ----------
    config : mapping
        The foreign configuration.
    prefix : str
        Text before each key in messages, such as ``"config.json: "``.

    Attributes
    ----------
    values : dict
        Field -> value, for those that were read without a mistake.
    problems : list of Problem
        The mistakes so far.
    wrong : set of str
        The fields among them.
    """

    def __init__(self, config: Mapping[str, Any], prefix: str) -> None:
        self.config = config
        self.prefix = prefix
        self.values: dict[str, Any] = {}
        self.problems: list[Problem] = []
        self.wrong: set[str] = set()
        self._keys: dict[str, str] = {}

    def path_of(self, field: str) -> str:
        """Path of the foreign key that a field was read from, or else of the field itself."""
        return self.prefix + self._keys.get(field, field)

    def fail(self, key: str, rule: str, fix: str = "") -> None:
        """Record a mistake at a foreign key."""
        value = shorten(self._find(key)) if self._has(key) else ""
        self.problems.append(Problem(path=self.prefix + key, value=value, rule=rule, fix=fix))

    def count(self, field: str, *keys: str, default: int | None | _Required = REQUIRED) -> int | None:
        """Read a positive whole number from the first of ``keys`` that is there; null means the default."""
        key = next((key for key in keys if self._has(key)), keys[0])
        self._keys[field] = key
        given = self._find(key)
        if given is None and not isinstance(default, _Required):
            self.values[field] = default
            return default
        if given is None:
            self.fail(key, "is missing")
        elif isinstance(given, bool) or not isinstance(given, int):
            self.fail(key, "must be a whole number")
        elif not 1 <= given <= MAX_COUNT:
            self.fail(key, f"must be between 1 and {MAX_COUNT}")
        else:
            self.values[field] = given
            return given
        self.wrong.add(field)
        return None

    def flag(self, key: str, default: bool) -> bool:
        """Read true or false; missing and null mean ``default``."""
        given = self._find(key)
        if given is None or isinstance(given, bool):
            return default if given is None else given
        self.fail(key, "must be true or false")
        return default

    def number(self, key: str, default: float) -> float:
        """Read a finite number that is not negative; missing and null mean ``default``."""
        given = self._find(key)
        if given is None:
            return default
        if isinstance(given, bool) or not isinstance(given, (int, float)):
            self.fail(key, "must be a number")
        elif not 0 <= given <= MAX_COUNT:  # false for NaN, and safe for whole numbers beyond float64
            self.fail(key, f"must be between 0 and {MAX_COUNT}")
        else:
            return float(given)
        return default

    def choice(self, field: str, key: str, default: str, known: Mapping[str, str]) -> None:
        """Read a name and translate it; a name that is not in ``known`` is a mistake."""
        given = self._find(key)
        name = default if given is None else given
        if isinstance(name, str) and name in known:
            self.values[field] = known[name]
        else:
            self.wrong.add(field)
            self.fail(key, "is not known here", f"known: {', '.join(known)}")

    def dropout(self, *keys: str, default: float) -> None:
        """Read the dropout of training from several keys.

        The spec holds one probability, so the largest counts: the case with more stored masks.
        """
        largest = max(self.number(key, default) for key in keys)
        if largest >= 1:
            self.fail(keys[0], "must be below 1")
        else:
            self.values["dropout"] = largest

    def _find(self, key: str) -> Any:
        value: Any = self.config
        for part in key.split("."):  # "attn_config.alibi" is a key inside a nested object
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def _has(self, key: str) -> bool:
        return self._find(key) is not None
