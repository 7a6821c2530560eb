"""Numbers as words."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import human_numbers as words


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0125, "12.5 ms"), (0.99996, "1.00 s"), (3.2e-6, "3.20 us"), (59.96, "60.0 s"), (300.0, "5.00 min"),
     (7200.0, "2.00 h"), (0, "0 s"), (None, "-"), (math.nan, "-"), (math.inf, "inf s"), (-0.0125, "-12.5 ms"),
     (1e-12, "0.00100 ns")],
)  # fmt: skip
def test_time(value: float | None, text: str) -> None:
    assert words.format_time(value) == text


def test_other_units() -> None:
    assert words.format_bytes(85_899_345_920) == "85.9 GB"  # 80 GiB in decimal units
    assert words.format_bytes(512) == "512 B" and words.format_bytes(0.5) == "0.500 B"
    assert words.format_flop_per_s(989.4e12) == "989 TFLOP/s"
    assert words.format_power(26_400) == "26.4 kW" and words.format_energy(1.8e6) == "1.80 MJ"
    assert words.format_fraction(0.4321) == "43.2 %" and words.format_fraction(1e-6) == "<0.1 %"
    assert words.format_rate(116_504.4) == "116,504 tokens/s" and words.format_rate(12.34) == "12.3 tokens/s"
    assert words.format_count(1_234_567) == "1,234,567" and words.format_count(0.5) == "0.50"


@given(st.floats(min_value=1e-9, max_value=1e20))
def test_a_written_quantity_is_right_to_three_digits(value: float) -> None:
    text, unit = words.format_si(value, "W").split()
    factor = {
        "": 1,
        "n": 1e-9,
        "u": 1e-6,
        "m": 1e-3,
        "k": 1e3,
        "M": 1e6,
        "G": 1e9,
        "T": 1e12,
        "P": 1e15,
        "E": 1e18,
    }
    assert float(text.replace(",", "")) * factor[unit[:-1]] == pytest.approx(value, rel=5.1e-3)
    assert text.isascii()


@given(st.floats(min_value=1e-9, max_value=1e17))
def test_an_axis_shows_numbers_below_a_thousand(value: float) -> None:
    factor, _ = words.axis_unit(value, "B/s" if value >= 1 else "J")
    assert 0.99 <= value / factor < 1000 * (1 + 1e-9)


def test_axis_unit() -> None:
    assert words.axis_unit(0.02, "s") == (1e-3, "ms") and words.axis_unit(5000.0, "s") == (1.0, "s")
    assert words.axis_unit(0.0, "B") == (1.0, "B") and words.axis_unit(8e10, "B") == (1e9, "GB")
