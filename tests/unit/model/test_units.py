"""Figures as people read them."""

from __future__ import annotations

import pytest

from broker.model.units import format_number

FIGURES = [
    ("a thousand has its comma", 12040.4, 4, "12,040"),
    ("what rounds up to an exponent too", 9999.9, 4, "10,000"),
    ("a small one its decimals", 3.456, 3, "3.46"),
    ("none", 0.0, 4, "0"),
]


@pytest.mark.parametrize(("value", "digits", "text"), [f[1:] for f in FIGURES], ids=[f[0] for f in FIGURES])
def test_a_figure_never_has_an_exponent(value: float, digits: int, text: str) -> None:
    assert format_number(value, digits) == text
