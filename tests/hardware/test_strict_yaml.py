"""YAML without its traps, and files that are no YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardware_specs.errors import SpecError
from hardware_specs.strict_yaml import load_yaml, parse_yaml


def test_scalars_follow_yaml_1_2() -> None:
    text = """
country: NO
switch: on
real: true
null_too: ~
big: 1e12
plain: 3.5
ten: 010
hex: 0x10
time: 12:30
date: 2024-01-01
underscore: 1_000
infinite: .inf
"""
    assert parse_yaml(text) == {
        "country": "NO",
        "switch": "on",
        "real": True,
        "null_too": None,
        "big": 1e12,
        "plain": 3.5,
        "ten": 10,
        "hex": 16,
        "time": "12:30",
        "date": "2024-01-01",
        "underscore": "1_000",
        "infinite": float("inf"),
    }


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "is empty"),
        ("# only a comment", "is empty"),
        ("- 1\n- 2", "must be a mapping"),
        ("just text", "must be a mapping"),
        ("a: [1", "line 2"),
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3", "line 5, column 3): the key c is written twice"),
        ("a: 1\n---\nb: 2", "line 2"),
        ("a: !!python/object:os.system {}", "type python/object:os.system is not read here"),
        ("a: !!binary aGk=", "type binary is not read here"),
        ("a: &x [*x]", "alias inside its own anchor"),
        ("1: a", "a key must be text"),
        ("a: {b: {true: 1}}", "a key must be text"),
        ("[a]: 1", "a key must be plain text"),
        ("a: " + "9" * 5000, "over 400 digits"),
        ("a: \x07", "not valid YAML"),
        ("\ta: 1", "line 1"),
        ("a: " + "[" * 200_000 + "]" * 200_000, "nesting deeper"),
        ("- " * 100_000 + "x", "nesting deeper"),
    ],
)
def test_bad_text_is_one_clear_error(text: str, rule: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_yaml(text, name="given.yaml")
    assert rule in str(caught.value)
    assert "given.yaml" in str(caught.value) or "key must be text" in str(caught.value)


def test_an_alias_bomb_is_refused() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for previous, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{previous}'] * 10)}]")  # 10 times the last: 1e9 in all
    with pytest.raises(SpecError, match="aliases unfold"):
        parse_yaml("\n".join(lines))


def test_plain_aliases_are_fine() -> None:
    assert parse_yaml("a: &s text\nb: *s") == {"a": "text", "b": "text"}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary, latin, huge, empty = (tmp_path / name for name in ("b.yaml", "l.yaml", "h.yaml", "e.yaml"))
    binary.write_bytes(b"PK\x03\x04\x00\x00")
    latin.write_bytes(b"a: 1\nb: \xe9t\xe9\n")
    empty.write_text("")
    with huge.open("wb") as file:
        file.truncate(200_000_000)  # sparse: nothing is written
    cases = {
        tmp_path: "is a directory",
        tmp_path / "none.yaml": "does not exist",
        binary: "is a binary file",
        latin: r"is not UTF-8 text \(line 2\)",
        huge: "has 200.0 MB, more than the 4.0 MB",
        empty: "is empty",
        Path("a\0b.yaml"): "cannot be read",
        Path("/dev/null"): "is not a regular file",
    }
    for path, rule in cases.items():
        with pytest.raises(SpecError, match=rule) as caught:
            load_yaml(path)
        assert len(caught.value.problems) == 1


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert load_yaml(path) == {"a": 1}
