"""Which fields of a file hold the numbers, which holds the label, which are left out: one rule for every format.

The numbers are in the first of these that there is:

1. The columns that an option names, one by one or by patterns.
2. A list column called after what it holds (``logits``, ``probabilities``, ``features``).
3. Columns of a prefix and a class name or number (``logit_cat``, ``prob.0``); numbers tell the order.
4. Columns that are called as the classes are, or 0 to K - 1.
5. A single column of one binary output (``logit``, ``score``).

Other columns are never classes. Where nothing fits, one sentence says how to name the columns.
"""

import fnmatch
import glob
import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from steelyard.data.predictions.corrected import CORRECTED, choose_corrected
from steelyard.data.predictions.source import Field, Opened, list_names, told

Needed = Literal["required", "optional", "none"]
LABEL_NAMES = ("target", "label", "labels", "y", "y_true", "label_ids")
_LOGITS = ("logit", "logits")
_PROBABILITIES = ("prob", "probs", "proba", "probability", "probabilities", "predict_proba", "y_prob", "y_proba")
_SCORES = ("score", "scores", "output", "outputs", "decision_function", "y_score")
_FEATURES = ("feature", "features", "feat", "f", "x", "emb", "embedding", "embeddings")
_ARRAYS = (
    "predictions",
    "arr_0",
)  # of transformers, and of numpy.savez without names; never a single number a row
_STEMS = {  # from the most to the least telling
    "logits": (_LOGITS, _SCORES),
    "probabilities": (_PROBABILITIES, _SCORES, _LOGITS),
    "features": (_FEATURES,),
}
_SEPARATORS = r"[_.\-:/ \[(]"
_CLOSING = {"[": "]", "(": ")"}


@dataclass(frozen=True)
class Choice:
    """Which fields of a file are read, and as what.

    Attributes:
        values: what the numbers are: ``"logits"``, ``"probabilities"``, ``"corrected probabilities"`` or
            ``"features"``.
        columns: names of the columns of numbers, in the order of the classes; or the name of one list column.
        labels: name of the label column; of outputs that stand for themselves a list column, or a column for each,
            in the order of the outputs; empty where there need be none and is none.
        multi_hot: whether the labels are 0 and 1 for each output.
        left_out: names of the other fields.
        class_names: names of the classes, as the columns tell them; None for lists, single columns and features.
    """

    values: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    multi_hot: bool
    left_out: tuple[str, ...]
    class_names: tuple[str, ...] | None

    def __str__(self) -> str:
        return self.text("left out")

    def text(self, others: str) -> str:
        """Return the choice in a line; `others` says what becomes of the other fields."""
        parts = [f"{self.values}: {told(self.columns)}"]
        parts += [f"label{'s' if self.multi_hot else ''}: {told(self.labels)}"] if self.labels else []
        parts += [f"{others}: {told(self.left_out)}"] if self.left_out else []
        return "; ".join(parts)


def choose(
    file: Opened,
    *,
    values: str,
    columns: Sequence[str] | str | None = None,
    target: str | None = None,
    class_names: Sequence[str] | None = None,
    texts: Callable[[str], set[str]] | None = None,
    label: Needed = "required",
) -> Choice:
    """Return which fields hold the numbers and the label.

    Args:
        file: the opened file.
        values: what the numbers are: ``"logits"``, ``"probabilities"``, ``"corrected probabilities"`` or
            ``"features"``.
        columns: names or shell patterns of the columns of numbers, in one string with commas or in a sequence.
            Default: found by the rule.
        target: name of the label column; names or patterns of several, with commas between, for outputs that stand
            for themselves. Default: the one with a name of ``LABEL_NAMES``.
        class_names: names in the order of the classes, where they are known.
        texts: a function like ``file.texts`` for all files of a set. Default: that of the file.
        label: ``"optional"`` takes a file without one too, if `target` names none; ``"none"`` looks for none.

    Raises:
        ValueError: no fields fit, or several do; the sentence lists them.
    """
    known = tuple(class_names) if class_names else None
    return _Rule(file, values, known, texts or file.texts, label).choose(columns, target)


_Found = tuple[list[Field], tuple[str, ...] | None]  # the fields, and the classes that they are called after


def choose_label(file: Opened, target: str | None = None) -> Field:
    """Return the field of the class labels, by the rule of :func:`choose`.

    Raises:
        ValueError: no such field, several, or labels of several outputs.
    """
    found = _Rule(file, "features", None, lambda name: set()).labels(target)
    if len(found) > 1 or found[0].kind not in ("integer", "number", "bool", "text"):
        told = list_names([f.name for f in found])
        raise ValueError(
            f"{file.path} must have one label a row, integers or class names, got {told} of {found[0].type}"
        )
    return found[0]


@dataclass
class _Rule:
    """The rule for one file; `known` are the class names that the caller or the metadata gave."""

    file: Opened
    values: str
    known: tuple[str, ...] | None
    texts: Callable[[str], set[str]]
    label: Needed = "required"

    def choose(self, columns: Sequence[str] | str | None, target: str | None) -> Choice:
        labels = [] if self.label == "none" else self.labels(target)
        self.others = [f for f in self.file.fields if f not in labels]
        multi_hot = len(labels) > 1 or any(f.kind == "list" and f.width > 1 for f in labels)
        self.label_field = labels[0] if labels else Field("", "other", "none")
        if multi_hot:
            self.label_field = replace(self.label_field, kind="integer")
        is_classes = self.values != "features"
        if self.values == CORRECTED:
            found, names = choose_corrected(self.file)
        elif columns is not None:
            found = self.named(columns)
            names = self.names_of(found) if is_classes else None
        else:
            found, names = (
                self.listed() or self.prefixed(self.values) or self.bare() or self.single() or self.refuse()
            )
        found, names = self.in_order(found, names if is_classes and len(found) > 1 else None)
        if len(labels) > 1 and is_classes:
            labels, names = self.paired(labels, found, names)
        chosen = {f.name for f in (*found, *labels)}
        return Choice(
            self.values,
            tuple(f.name for f in found),
            tuple(f.name for f in labels),
            multi_hot,
            tuple(f.name for f in self.file.fields if f.name not in chosen),
            names,
        )

    def in_order(self, found: list[Field], names: tuple[str, ...] | None) -> _Found:
        """Return columns in the order of the classes, where labels are names and not positions."""
        wanted = self.known if self.label_field.kind == "text" else None
        if names is not None and {name.lower() for name in names} == {"false", "true"}:
            wanted = wanted or tuple(sorted(names, key=str.lower))
        if names is None or wanted is None or set(names) != set(wanted):
            return found, names
        return [found[names.index(name)] for name in wanted], wanted

    def labels(self, target: str | None) -> list[Field]:
        path, what, fields = self.file.path, self.file.what, self.file.fields
        names = [f.name for f in fields]
        if target is not None:
            parts = [target] if target in names else [part.strip() for part in target.split(",")]
            found = [
                self.file.field(name)
                for part in parts
                for name in ([part] if part in names else _by_number(fnmatch.filter(names, part)))
            ]
            if not found or any(part not in names and not fnmatch.filter(names, part) for part in parts):
                raise ValueError(f"{path} must have the {what} {target!r}, its {what}s are {list_names(names)}")
            if len(set(found)) < len(found):
                raise ValueError(f"target must name every {what} of labels once, got {target!r}")
            return found
        found = [f for f in fields if f.name.lower() in LABEL_NAMES]
        if not found and sorted(names) == ["arr_0", "arr_1"]:
            found = [f for f in fields if f.kind != "list"]
        if not found and self.label == "optional":
            return []
        if len(found) != 1:
            raise ValueError(
                f"{path} must have one {what} of labels ({', '.join(LABEL_NAMES)}), "
                f"got {list_names([f.name for f in found]) or 'none'}; "
                f"name it as target: its {what}s are {list_names(names)}"
            )
        return found

    def paired(self, labels: list[Field], found: list[Field], names: tuple[str, ...] | None) -> _Found:
        """Return the columns of labels in the order of those of the outputs, and what the outputs are called."""
        columns = [f.name for f in labels]
        called = _by_end(columns, names or self.known or ()) or _without_prefix(columns)
        outputs = len(found) if len(found) > 1 else found[0].width
        if len(labels) != outputs:
            raise ValueError(
                f"{self.file.path} must have a {self.file.what} of labels for each of {outputs} outputs, "
                f"got {list_names([f.name for f in labels])}"
            )
        wanted = names or (self.known if self.known and set(self.known) == set(called) else called)
        if set(wanted) != set(called):
            raise ValueError(
                f"{self.file.path} must have {self.values} and labels of the same outputs, got {self.values} of "
                f"{list_names(wanted)} and labels of {list_names(called)}"
            )
        return [labels[called.index(name)] for name in wanted], wanted

    # 1. By option

    def named(self, columns: Sequence[str] | str) -> list[Field]:
        names = [f.name for f in self.others]
        if isinstance(columns, str):
            columns = [columns] if columns in names else [part.strip() for part in columns.split(",")]
        chosen: list[str] = []
        for part in columns:
            if part not in names and part in {f.name for f in self.file.fields}:
                raise ValueError(f"{self.file.where(part)} is the label, it cannot be one of the {self.values}")
            # A name may itself hold the signs of a pattern.
            found = [part] if part in names else self.by_number(fnmatch.filter(names, part))
            if not found:
                raise ValueError(
                    f"{self.file.path} has no {self.file.what} {part!r}, "
                    f"its {self.file.what}s are {list_names(names)}"
                )
            twice = next((name for name in found if name in chosen), None)
            if twice is not None:
                raise ValueError(f"{self.file.where(twice)} is named twice")
            chosen += found
        fields = [self.file.field(name) for name in chosen]
        if len(fields) > 1 and any(f.kind == "list" for f in fields):
            raise ValueError(
                f"{self.file.path} must have one list of {self.values} or one {self.file.what} a class, "
                f"got {list_names(chosen)}"
            )
        return fields

    def by_number(self, names: list[str]) -> list[str]:
        """Return the matches of a pattern; where all end in a number after what they share, in its order."""
        parts = _numbered(names)
        if not parts:
            return names
        if self.values == "features":
            return _by_number(names)
        return [f.name for f in self.numbered({end: self.file.field(name) for end, name in parts.items()})[0]]

    def names_of(self, fields: list[Field]) -> tuple[str, ...] | None:
        """Return the classes that the columns named by option are called after."""
        if len(fields) < 2:
            return None
        bare = tuple(f.name for f in fields)
        ends = _without_prefix(bare)
        if self.known is None:
            return ends
        for names in (bare, ends):
            if set(names) == set(self.known):
                return names
            missing = [name for name in self.known if name not in names]
            if len(missing) < len(self.known) and len(names) == len(self.known):
                self.refuse_absent(missing, bare)
        return None

    # 2. A list

    def listed(self) -> _Found | None:
        lists = [f for f in self.others if f.kind == "list"]
        for stems in (*_STEMS[self.values], _ARRAYS if self.values != "features" else _ARRAYS[1:]):
            found = [f for f in lists if f.name.lower() in stems]
            if len(found) > 1:
                self.refuse_several([f.name for f in found], [found[0].name])
            if found:
                return found, None
        return None

    # 3. Prefix and class

    def prefixed(self, values: str) -> _Found | None:
        for level, stems in enumerate(_STEMS[values]):
            whole = "|".join(sorted(stems, key=len, reverse=True))
            groups: dict[tuple[str, str | None], dict[str, Field]] = {}
            for f in self.others:
                told = level == 0 and values != "features"  # then a column of text is a mistake
                if f.kind in ("integer", "number") or (told and f.kind in ("text", "bool", "other")):
                    match = re.fullmatch(
                        rf"({whole})(?:({_SEPARATORS})(.+)|(\d+))", f.name, re.IGNORECASE | re.DOTALL
                    )
                    if match:
                        end = (match[3] or match[4]).removesuffix(_CLOSING.get(match[2], ""))
                        ends = groups.setdefault((match[1].lower(), match[2]), {})
                        if end in ends:
                            self.refuse_several([ends[end].name, f.name], [ends[end].name])
                        ends[end] = f
            fits = [found for ends in groups.values() if (found := self.fitting(ends, values, level)) is not None]
            if len(fits) > 1:
                self.refuse_several([found[0][0].name for found in fits], [f.name for f in fits[0][0]])
            if fits:
                return fits[0]
        return None

    def fitting(self, ends: dict[str, Field], values: str, level: int) -> _Found | None:
        """Return the columns of one prefix, here by what follows it, or None where they are no classes."""
        if values == "features":
            numbered = sorted((end for end in ends if end.isdecimal()), key=int)
            return ([ends[end] for end in numbered], None) if numbered else None
        digits = [end for end in ends if end.isdecimal()]
        if self.known is not None and (found := [end for end in ends if end in self.known]):
            missing = [name for name in self.known if name not in ends]
            if missing == [self.known[0]] and len(self.known) == 2:
                return [ends[self.known[1]]], None  # one output, of the second class
            if missing:
                self.refuse_absent(missing, [f.name for f in ends.values()])
            return self.matched(ends, found)
        if self.known is not None and not digits:
            return None
        if digits and len(digits) < len(ends):
            odd = next(end for end in ends if end not in digits)
            raise ValueError(
                f"{self.file.path} numbers some {self.file.what}s ({ends[digits[0]].name}) and not others "
                f"({ends[odd].name}); {self.how_to_name([f.name for f in ends.values()])}"
            )
        if len(ends) < 2:
            return None
        if digits:
            return self.numbered(ends)
        # Nobody but the labels could say whether score_mean and score_max are classes.
        is_told = level == 0 or self.label_field.kind in ("text", "bool")
        return (list(ends.values()), tuple(ends)) if is_told else None

    def numbered(self, ends: dict[str, Field]) -> _Found:
        """Return columns by the number at their end, which must be 0 to K - 1."""
        order = sorted(ends, key=int)
        numbers = [int(end) for end in order]
        if numbers != list(range(len(numbers))):
            gap = next(k for k, number in enumerate([*numbers, -1]) if k != number)
            name = ends[order[0]].name
            raise ValueError(
                f"{self.file.path} must number its {self.values} from 0 without gaps, but of {name} and others "
                f"there is no {gap}; columns that are named one by one are taken in the order of the classes"
            )
        if self.known is not None and len(numbers) != len(self.known):
            raise ValueError(
                f"{self.file.path} has {len(numbers)} numbered {self.file.what}s of {self.values}, "
                f"but there are {len(self.known)} class names"
            )
        return [ends[end] for end in order], self.known or tuple(order)

    def matched(self, ends: dict[str, Field], names: list[str]) -> _Found:
        """Return the columns of these names; those that are numbers by their number."""
        if all(name.isdecimal() for name in names):
            names = sorted(names, key=int)
        return [ends[name] for name in names], tuple(names)

    # 4. Called as the classes are

    def bare(self) -> _Found | None:
        fields = {f.name: f for f in self.others if f.kind in ("integer", "number")}
        numbers = {name: f for name, f in fields.items() if name.isdecimal()}
        if self.values == "features":
            return self.numbered(numbers) if len(numbers) > 1 else None
        if self.known is not None and (found := [name for name in fields if name in self.known]):
            missing = [name for name in self.known if name not in fields]
            if missing:
                self.refuse_absent(missing, list(fields))
            return self.matched(fields, found)
        whole = {int(name) for name in numbers} == set(range(len(numbers)))
        if self.known is None and not (whole and len(numbers) > 1) and (found := self.called_as_labels(fields)):
            return self.matched(fields, found)
        return self.numbered(numbers) if len(numbers) > 1 else None

    def called_as_labels(self, fields: dict[str, Field]) -> list[str]:
        """Return the columns that are called as the labels are, if there is one for every label."""
        kind, name = self.label_field.kind, self.label_field.name
        labels = self.texts(name) if kind == "text" else {"False", "True"} if kind == "bool" else set()
        if not labels or not labels <= set(fields):
            return []
        found = [n for n in fields if n in labels]
        other = [f.name for f in fields.values() if f.kind == "number" and f.name not in labels]
        if other:  # a class that no row has would look the same
            raise ValueError(
                f"{self.file.path} has columns that are called as labels are ({list_names(found)}) and others of "
                f"floating numbers ({list_names(other)}), which may be classes too; {self.how_to_name(found)}"
            )
        return found

    def single(self) -> _Found | None:
        """Return the column of one binary output."""
        if self.values == "features" or (self.known is not None and len(self.known) != 2):
            return None
        for stems in _STEMS[self.values]:
            found = [f for f in self.others if f.kind in ("integer", "number") and f.name.lower() in stems]
            if len(found) > 1:
                self.refuse_several([f.name for f in found], [found[0].name])
            if found:
                return found, None
        return None

    # What does not fit

    def refuse(self) -> _Found:
        file, values = self.file, self.values
        labels = [self.label_field.name] if self.label_field.name else []
        for f in self.others:
            if f.name.lower() in _STEMS[values][0]:
                file.check([f.name], labels)  # called as it should be, it holds something else
        fields = [f"{f.name} ({f.type})" for f in self.others]
        if values == "logits":
            found = next(
                (f.name for f in self.others if f.kind == "list" and f.name.lower() in _PROBABILITIES), None
            )
            found = found or ((fits := self.prefixed("probabilities")) and fits[0][0].name) or None
            if found:
                raise ValueError(
                    f"{file.path} has probabilities by the name of its {file.what} {found!r} and no logits; "
                    "say that they are meant: --from probabilities, or values='probabilities'"
                )
        lists = [f.name for f in self.others if f.kind == "list"]
        numbers = [f.name for f in self.others if f.kind == "number" and f.name]
        numbers = numbers or [f.name for f in self.others if f.kind == "integer" and f.name]
        raise ValueError(
            f"{file.path} does not say which {file.what}s are its {values}: "
            + (f"beside the label {self.label_field.name!r} " if self.label_field.name else "")
            + f"it has {list_names(fields) or 'nothing'}"
            + (f", the class names are {list_names(self.known)}" if self.known else "")
            + (f"; {self.how_to_name(lists[:1] or numbers)}" if lists or numbers else "")
        )

    def refuse_several(self, names: Sequence[str], first: Sequence[str]) -> None:
        raise ValueError(
            f"{self.file.path} has several {self.file.what}s that may be its {self.values}: {list_names(names)}; "
            f"{self.how_to_name(first)}"
        )

    def refuse_absent(self, missing: Sequence[str], names: Sequence[str]) -> None:
        raise ValueError(
            f"{self.file.path} has no {self.file.what} of {self.values} for the class {list_names(missing)}: "
            f"there are {list_names(names)}"
        )

    def how_to_name(self, names: Sequence[str]) -> str:
        """Return how to name columns: ready to paste where they are few."""
        # a comma would part a name: a pattern stands for it
        names = [glob.escape(name).replace(",", "?") if "," in name and len(names) > 1 else name for name in names]
        text = ",".join(names if len(names) <= _PASTED else [*names[:2], "..."])
        option = "features" if self.values == "features" else "logits"
        return (
            f"name them, such as --{option} {shlex.quote(text)}, or columns=[...] in Python; patterns are allowed"
        )


_PASTED = 12


def _numbered(names: list[str]) -> dict[str, str]:
    """Return names by the number that they end in, where all end in one after what they share; else nothing."""
    parts = [part for name in names if (part := re.fullmatch(r"(.*?)(\d+)", name, re.DOTALL))]
    if len(names) < 2 or len(parts) < len(names) or len({part[1] for part in parts}) > 1:
        return {}
    return {part[2]: part[0] for part in parts}


def _by_number(names: list[str]) -> list[str]:
    ends = _numbered(names)
    return [ends[end] for end in sorted(ends, key=int)] or names


def _by_end(columns: Sequence[str], names: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names that columns end in after a separator, or None where not every name is the end of one."""
    ends = [
        [name for name in names if column == name or re.search(rf"{_SEPARATORS}{re.escape(name)}\Z", column)]
        for column in columns
    ]
    found = tuple(max(of, key=len, default="") for of in ends)
    return found if sorted(found) == sorted(names) else None


def _without_prefix(columns: Sequence[str]) -> tuple[str, ...]:
    common = os.path.commonprefix(columns)  # noqa: RUF071  characters are meant
    length = max(common.rfind(separator) for separator in "_.-: /") + 1
    names = tuple(column[length:] for column in columns)
    return names if all(names) else tuple(columns)
