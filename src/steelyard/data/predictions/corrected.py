"""The columns of corrected probabilities: what they are called, and how a file that has them is told."""

from collections.abc import Mapping, Sequence

from steelyard.data.predictions.source import Array, Field, Opened

CORRECTED = "corrected probabilities"
_ONE, _OUTPUT = "corrected_probability", "corrected_output_probability"
_LISTS = {"corrected_probabilities": False, "corrected_output_probabilities": True}  # to: of independent outputs


def corrected_columns(
    values: Array, names: Sequence[str] | None, *, independent: bool, as_list: bool
) -> dict[str, Array]:
    """Return (n, K) probabilities as columns by their names, K of them or one list; for one output its column."""
    if values.shape[1] == 1:
        return {_ONE: values[:, 0]}
    if as_list:
        return {next(name for name, other in _LISTS.items() if other == independent): values}
    stem = _OUTPUT if independent else _ONE
    known = names or [str(k) for k in range(values.shape[1])]
    return {f"{stem}_{name}": values[:, k] for k, name in enumerate(known)}


def corrected_fields(file: Opened) -> list[Field]:
    """Return the fields that hold corrected probabilities, in the order of the file; none in any other file."""
    return [
        f
        for f in file.fields
        if f.name in _LISTS or f.name == _ONE or f.name.startswith((f"{_ONE}_", f"{_OUTPUT}_"))
    ]


def is_corrected(file: Opened, metadata: Mapping[str, str]) -> bool:
    return "correction" in metadata or bool(corrected_fields(file))


def are_independent(columns: Sequence[str]) -> bool:
    """Return whether columns of corrected probabilities are of outputs that stand for themselves."""
    return _LISTS.get(columns[0], columns[0].startswith(f"{_OUTPUT}_"))


def choose_corrected(file: Opened) -> tuple[list[Field], tuple[str, ...] | None]:
    """Return the fields of corrected probabilities, and the classes that they are called after.

    Raises:
        ValueError: a file without them.
    """
    found = corrected_fields(file)
    lists = [f for f in found if f.name in _LISTS or f.name == _ONE]
    if not found or (lists and len(found) > 1) or len({f.name.startswith(_OUTPUT) for f in found}) > 1:
        came = ", ".join(f.name for f in found[:10]) or "none"
        raise ValueError(
            f"{file.path} must have {CORRECTED} of one model, got {came}: `steelyard correct` makes them, also of "
            "a model without weights (--weights none)"
        )
    if lists:
        return found, None
    stem = _OUTPUT if are_independent([found[0].name]) else _ONE
    return found, tuple(f.name.removeprefix(f"{stem}_") for f in found)
