"""Tables in several files: a column is of one kind in all of them, or text where it is text in one."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard._common.text import listed
from steelyard.data.predictions.delimited import CSV_SUFFIXES
from steelyard.data.predictions.shards import suffix_of
from steelyard.data.predictions.source import check_kinds
from steelyard.data.predictions.tables import kinds_in, kinds_of, read_table
from steelyard.data.tabular import NULLS

_OWN_TYPES = ("arrow", "parquet")  # kinds of files that say of which types their columns are
_SNIFFED = ("sep", "delimiter")  # settings of CSV that the reader finds by itself


def read_tables(paths: Sequence[Path], texts: Sequence[str] = (), time: str | None = None) -> list[Any]:
    """Return the table of each file, of CSV by the rules for one file: as if all files were its first rows.

    Args:
        paths: of tables.
        texts: columns that are text, whatever they look like.
        time: a column of which dates are kept: of CSV as text, else as they are.

    Raises:
        ValueError: a column is of different kinds in two files.
    """
    kinds = {path: kinds_of(path, NULLS) for path in paths}
    csv = [path for path in paths if suffix_of(path) in CSV_SUFFIXES]
    as_text = {
        *texts,
        *(
            n
            for path in csv
            for n, kind in kinds[path].items()
            if kind == "text" or (n == time and kind == "other")
        ),
    }
    for path in csv:
        kinds[path] |= dict.fromkeys(as_text & kinds[path].keys(), "text")
    check_kinds(kinds)
    return [read_table(path, NULLS, tuple(as_text), kept=time) for path in paths]


def read_splits(builder: Any, time: str | None = None) -> Any:
    """Return the splits of a builder of ``datasets``, its values as they stand in the files, and dates of `time`.

    The library takes the types of columns from the first file and turns what later files hold into them, so that
    007 becomes 7. Here CSV is read by the rules for one file, and other kinds of files must agree.

    Raises:
        ValueError: files that differ in their columns or in the kind of one; settings that CSV is not read with.
    """
    import datasets

    kind = type(builder).__module__.rpartition(".")[2]
    files = {
        str(split): [Path(each) for each in datasets.DownloadManager().download(list(each))]
        for split, each in (builder.config.data_files or {}).items()
    }
    if kind == "csv":
        return _csv(builder, files, time)
    if kind == "json" and builder.info.features is None:
        return _json(builder, files)
    if kind in _OWN_TYPES and builder.info.features is None:
        check_kinds({path: kinds_of(path, NULLS) for paths in files.values() for path in paths})
    builder.download_and_prepare()
    return builder.as_dataset()


def _csv(builder: Any, files: Mapping[str, list[Path]], time: str | None) -> dict[str, Any]:
    import datasets
    from datasets.table import table_cast

    usual = type(builder.config)()
    given = {f.name for f in dataclasses.fields(usual)} - {
        f.name for f in dataclasses.fields(datasets.BuilderConfig)
    }
    odd = [n for n in sorted(given - {"features"}) if getattr(builder.config, n) != getattr(usual, n)]
    if odd := [n for n in odd if n not in _SNIFFED or getattr(builder.config, n) not in (",", ";", "\t")]:
        raise ValueError(f"its README sets {listed(odd)} for CSV, which is not read with settings of its own")
    for path in (path for paths in files.values() for path in paths):
        if suffix_of(path) not in CSV_SUFFIXES:
            raise ValueError(f"its CSV must be in files of {listed(list(CSV_SUFFIXES))}, got {path.name}")
    features = builder.info.features
    texts = [] if features is None else [n for n, f in features.items() if not _is_number(f)]
    tables = iter(read_tables([path for paths in files.values() for path in paths], texts, time))
    joined = {split: _join(paths, [next(tables) for _ in paths]) for split, paths in files.items()}
    if features is None:
        return {split: datasets.Dataset(table) for split, table in joined.items()}
    info = datasets.DatasetInfo(features=features)
    return {
        split: datasets.Dataset(table_cast(table.select(list(features)), features.arrow_schema), info=info)
        for split, table in joined.items()
    }


def _is_number(feature: Any) -> bool:
    import datasets

    return isinstance(feature, datasets.Value) and feature.dtype.startswith(("int", "uint", "float"))


def _json(builder: Any, files: Mapping[str, list[Path]]) -> dict[str, Any]:
    """Return splits of JSON, each file read alone and as a whole, since the library casts what comes later."""
    import datasets

    settings = {name: getattr(builder.config, name) for name in ("field", "encoding", "encoding_errors")}
    found: dict[Path, Any] = {}
    for path in (path for paths in files.values() for path in paths):
        alone = datasets.load_dataset_builder(
            "json", data_files={"train": [str(path)]}, chunksize=path.stat().st_size + 1, **settings
        )
        alone.download_and_prepare()
        found[path] = alone.as_dataset(split="train").with_format("arrow")[:].replace_schema_metadata(None)
    check_kinds({path: kinds_in(table) for path, table in found.items()})
    return {
        split: datasets.Dataset(_join(paths, [found[path] for path in paths], absent=True))
        for split, paths in files.items()
    }


def _join(paths: Sequence[Path], tables: Sequence[Any], *, absent: bool = False) -> Any:
    """Return the rows of several tables; columns that one does not have are refused, or missing in its rows."""
    import pyarrow as pa

    names = tables[0].column_names
    for path, table in zip(paths, tables, strict=True):
        differ = sorted(set(names) ^ set(table.column_names))
        if differ and not absent:
            raise ValueError(
                f"{path} must have the columns of {paths[0]}, and {differ[0]!r} is only in one of them"
            )
    return pa.concat_tables(
        [table.replace_schema_metadata(None) for table in tables], promote_options="permissive"
    )
