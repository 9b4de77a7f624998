"""Titles of figures: whole, in lines that fit."""

import pytest

from steelyard.report.style import wrapped


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("softmax:effective_number@0.999, shift", ["softmax:", "effective_", "number@0.999,", "shift"]),
        ("softmax: no change", ["softmax: no", "change"]),
        ("lgl-inr:beta=auto:presence=1", ["lgl-inr:beta=", "auto:presence=1"]),
        ("softmax", ["softmax"]),
        ("", [""]),
        ("x" * 40, ["x" * 15, "x" * 15, "x" * 10]),
    ],
)
def test_a_title_breaks_between_words_where_it_can(text, lines):
    assert wrapped(text, 15).split("\n") == lines
