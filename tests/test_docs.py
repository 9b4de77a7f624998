"""What the documentation says that the code can say by itself."""

import re
from pathlib import Path

from steelyard.losses.table import loss_table

DOCS = Path(__file__).parents[1] / "docs"


def test_table_of_losses_is_that_of_the_registry():
    """After a change: replace what stands between the marks by `steelyard losses --markdown`."""
    text = (DOCS / "losses.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- losses -->\n(.*?)\n<!-- /losses -->", text, re.DOTALL)
    assert found is not None
    assert found[1].strip() == loss_table()
