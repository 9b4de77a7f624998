"""Held-out rows that a page holds: scores of models, packed small, with what the packing costs."""

import base64
import binascii
import zlib
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from steelyard.report.results.records import Record, Results, check_sizes
from steelyard.report.style import Array, Indices

Words = np.ndarray[tuple[int, ...], np.dtype[np.uint16]]


class Unpacked(NamedTuple):
    """Rows as a page's script has them.

    Attributes:
        target: (n,) class of each row; of several outputs the kind of row that was drawn by.
        steps: (n, m) how far below the row's largest score, in steps; of several outputs 32768 more than steps
            above 0.
        classes: (n, m) of each score, or None where all K are there in their order.
        truth: (n, K) of 0 and 1, of several outputs; else None.
    """

    target: Words
    steps: Words
    classes: Words | None
    truth: Words | None


@dataclass(frozen=True, kw_only=True)
class PackedRows(Record):
    """Scores of one model on held-out rows.

    Attributes:
        label: of the model.
        held_out: held-out rows of each class; of several outputs, of each kind of row.
        kept: of them in the page.
        choices: how many scores of a row there are.
        scale, unit: s steps stand for scale * sinh(unit * s), so that small differences have small steps.
        bits: of a score.
        differ: the most decisions of the kept rows that differ from exact ones, as was measured.
        rounding: the most by which accuracy, balanced accuracy and macro-F1 of these rows differ by that.
        sampling: the most by which they differ from those of all held-out rows.
        undo: (K,) what makes log-probabilities of the scores, up to a number for each row; None where no vector
            does.
        words: 16-bit numbers, first their low bytes, then their high bytes, deflated, in base64: target, steps,
            then classes where scores were left out, then truth of several outputs.
    """

    label: str
    held_out: list[int]
    kept: list[int]
    choices: int
    scale: float
    unit: float
    bits: int
    differ: int
    rounding: float
    sampling: float
    undo: list[float] | None
    words: str

    def values(self, steps: Words | Indices) -> Array:
        """Return what steps stand for."""
        return np.asarray(self.scale * np.sinh(self.unit * steps.astype(np.float64)))

    def unpack(self, size: int, *, outputs: bool = False) -> Unpacked:
        """Return the rows.

        Raises:
            ValueError: the words are damaged, or fewer or more than the sizes say.
        """
        n, m = sum(self.kept), self.choices
        sparse = m < size and not outputs
        sizes = [n, n * m, n * m * sparse, n * size * outputs]
        try:
            reader = zlib.decompressobj()
            plain = reader.decompress(base64.b64decode(self.words, validate=True), 2 * sum(sizes) + 1)
        except (binascii.Error, zlib.error) as error:
            raise ValueError(f"{self.label}: words are damaged: {error}") from None
        if len(plain) != 2 * sum(sizes):
            raise ValueError(f"{self.label}: words must hold {sum(sizes)} numbers, got {len(plain) / 2:g}")
        low, high = np.frombuffer(plain, dtype=np.uint8).reshape(2, -1).astype(np.uint16)
        target, steps, index, truth = np.split(low | high << 8, np.cumsum(sizes)[:-1])
        if target.max(initial=0) >= len(self.kept) or index.max(initial=0) >= size:
            raise ValueError(f"{self.label}: words must hold classes from 0 to {size - 1}")
        return Unpacked(
            target,
            steps.reshape(n, m),
            index.reshape(n, m) if sparse else None,
            truth.reshape(n, size) if outputs else None,
        )


def pack_words(parts: list[Array | Indices | Words]) -> str:
    """Return whole numbers from 0 to 65535 as :class:`PackedRows` has them."""
    flat = np.concatenate([part.reshape(-1) for part in parts]).astype(np.uint16)
    planes = np.concatenate([flat & 255, flat >> 8]).astype(np.uint8)
    return base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode()


@dataclass(frozen=True, kw_only=True)
class HeldOutRows(Results):
    """What explorer.json holds: the rows for a page's explorer.

    Attributes:
        kind: "classes" for one class a row; "outputs" for outputs that stand for themselves.
        size: K classes or outputs.
        models: packed rows of each model.
    """

    FILE: ClassVar[str] = "explorer.json"
    SCHEMA: ClassVar[int] = 2
    KIND: ClassVar[str] = "the rows of an explorer"
    NONE: ClassVar[str] = "rows for an explorer"

    kind: Literal["classes", "outputs"]
    schema: int = 2
    size: int
    models: list[PackedRows]

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("models must hold at least one")
        for one in self.models:
            kinds = self.size + (self.kind == "outputs")
            check_sizes(self.size, {f"{one.label}: undo": one.undo})
            check_sizes(kinds, {f"{one.label}: held_out": one.held_out, f"{one.label}: kept": one.kept})
            if not (one.scale > 0 and one.unit > 0):
                raise ValueError(f"{one.label}: scale and unit must be positive, got {one.scale} and {one.unit}")
            if not 1 <= one.choices <= self.size:
                raise ValueError(f"{one.label}: choices must be 1 to {self.size}, got {one.choices}")
            if any(not 0 <= kept <= whole for kept, whole in zip(one.kept, one.held_out, strict=True)):
                raise ValueError(f"{one.label}: kept must be at most held_out")
            one.unpack(self.size, outputs=self.kind == "outputs")
