"""Labels and groups become numbers."""

import numpy as np
import pytest

from steelyard.data.making import code_labels, place_labels


def test_labels_that_differ_by_a_last_nul_are_two_classes():
    """Arrays of numpy's own texts drop a NUL at the end of a text."""
    values = np.array(["be", "be\0", "be", "c"] * 3, dtype=object)
    places, names, classes = code_labels("y", values)
    assert names == ("be", "be\0", "c")
    assert places.tolist() == [0, 1, 0, 2] * 3
    assert place_labels("y", values[:3], classes).tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="must hold one of the classes"):
        place_labels("y", np.array(["c\0"], dtype=object), classes)
