"""What notebooks show is text, whatever the names are."""

import xml.etree.ElementTree as ET

from steelyard._common.notebook import table_html
from tests.helpers import NASTY


def test_every_text_is_escaped_and_the_table_has_its_cells():
    root = ET.fromstring(table_html("a <b>", ["name", "value"], [(name, 0.5) for name in NASTY]))
    assert root.find("p/b").text == "a <b>"
    rows = root.findall("table/tbody/tr")
    assert [row.find("td").text for row in rows] == ["0.5"] * len(NASTY)
    shown = [row.find("th").text or "" for row in rows]
    assert shown == [
        "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name) for name in NASTY
    ]
    assert {element.tag for element in root.iter()} == {
        "div",
        "p",
        "b",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    }
