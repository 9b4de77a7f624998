"""Commands on files that are whole, and what a mutator makes of them: the inputs of the fuzz."""

import io
import json
import random
import string
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq

ROWS, NAMES = 24, ("ant", "bee", "cat")
TOKENS = [
    *(
        "=",
        "+",
        "-",
        ":",
        ",",
        "@",
        "'",
        '"',
        "\0",
        "\n",
        "\r",
        "\t",
        " ",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        "#",
        "&a",
        "*a",
        "!",
        "|",
        "%",
    ),
    *(
        "nan",
        "inf",
        "-inf",
        "NaN",
        "1e999",
        "1e-999",
        "-0",
        "9" * 40,
        "0x1p4",
        "1_0",
        "true",
        "null",
        "~",
        "None",
        "\ud800",
        "\ufeff",
        "٣",
    ),
    *(
        "../",
        "/etc/passwd",
        "~/.ssh/id_rsa",
        "http://127.0.0.1:9/x",
        "hf://datasets/a/b",
        "file:///etc/passwd",
        "\\\\host\\x",
        "$(id)",
        "`id`",
    ),
    *(
        "!!python/object/apply:os.system ['id']",
        "__import__('os').system('id')",
        "1+1",
        "(" * 30,
        "[" * 30,
        "<<: 1",
        "? ",
        "- ",
    ),
    *(
        "softmax",
        "logistic",
        "lgl-inr",
        "focal",
        "inverse",
        "power@0.5",
        "from=3",
        "beta=auto",
        "tau=1",
        "presence=1",
        "pos_weight=inverse",
    ),
]
NUMBERS = [0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]


@dataclass(frozen=True)
class Case:
    """A command (`{}` is the folder of its files) and the files, of which the first one is damaged."""

    arguments: tuple[str, ...]
    files: dict[str, bytes]


def _bytes(write) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _numbers(columns=3):
    values = np.random.default_rng(0).normal(size=(ROWS, columns)) * 2
    labels = np.arange(ROWS) % 3
    values[np.arange(ROWS), labels % columns] += 1
    return values, labels


def _ipc(table, stream):
    def write(file):
        with (pa.ipc.new_stream if stream else pa.ipc.new_file)(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=10)

    return _bytes(write)


def _npz(arrays):
    return _bytes(lambda file: np.savez(file, **arrays))


def _npy(array):
    return _bytes(lambda file: np.save(file, array))


def whole_cases() -> dict[str, Case]:
    """Return cases that succeed, by name: every format under every command that reads it."""
    values, labels = _numbers()
    words = [NAMES[k] for k in labels]
    metadata = {
        "steelyard.loss": "softmax:power@0.5",
        "steelyard.link": "softmax",
        "steelyard.class_names": "\x1f".join(NAMES),
        "steelyard.batch_size": "8",
        "steelyard.weight_decay": "0.001",
    }
    lists = pa.table({"target": labels, "logits": pa.array(values.tolist())}).replace_schema_metadata(metadata)
    wide = pa.table({"label": words} | {f"logit_{name}": values[:, k] for k, name in enumerate(NAMES)})
    coded = pa.table(
        {
            "label": pa.array(words).dictionary_encode(),
            "logits": pa.array(values.tolist(), pa.list_(pa.float32(), 3)),
        }
    )
    features, _ = _numbers(2)
    heads = pa.table({"target": labels, "features": pa.array(features.tolist())}).replace_schema_metadata(metadata)
    lines = [",".join(("label", *(f"logit_{name}" for name in NAMES)))]
    lines += [",".join((word, *(f"{x:.4f}" for x in row))) for word, row in zip(words, values, strict=True)]
    text = "\n".join(lines).encode()
    softmax = ("--loss", "softmax:inverse")
    config = json.dumps(
        {"losses": ["softmax:inverse", "lgl-inr:beta=5"], "epochs": 9, "learning_rates": [0.1, 0.3]}
    )
    yaml = b"losses: [softmax, 'focal:gamma=1']\nimbalance: exponential:10\nepochs: 9  # few\nmomentum: 0.5\n"
    table = ("audit", "{}/x.parquet")
    audited = {
        "lists.parquet": Case(table, {"x.parquet": _bytes(lambda f: pq.write_table(lists, f))}),
        "wide.parquet": Case(
            (*table, *softmax), {"x.parquet": _bytes(lambda f: pq.write_table(wide, f, compression="none"))}
        ),
        "coded.parquet": Case(
            (*table, *softmax, "--class-names", ",".join(NAMES)),
            {"x.parquet": _bytes(lambda f: pq.write_table(coded, f))},
        ),
        "lists.arrow": Case(("audit", "{}/x.arrow"), {"x.arrow": _ipc(lists, False)}),
        "wide.arrow": Case(("audit", "{}/x.arrow", *softmax), {"x.arrow": _ipc(wide, True)}),
        "wide.feather": Case(
            ("audit", "{}/x.feather", *softmax), {"x.feather": _bytes(lambda f: pa.feather.write_feather(wide, f))}
        ),
        "wide.csv": Case(("audit", "{}/x.csv", *softmax), {"x.csv": text}),
        "wide.tsv": Case(("audit", "{}/x.tsv", "--loss", "logistic"), {"x.tsv": text.replace(b",", b"\t")}),
        "arrays.npz": Case(("audit", "{}/x.npz", *softmax), {"x.npz": _npz({"logits": values, "target": labels})}),
        "logits.npy": Case(
            ("audit", "{}/x.npy", "--target", "{}/y.npy", *softmax), {"x.npy": _npy(values), "y.npy": _npy(labels)}
        ),
        "labels.npy": Case(
            ("audit", "{}/x.npy", "--target", "{}/y.npy", *softmax), {"y.npy": _npy(labels), "x.npy": _npy(values)}
        ),
    }
    others = {
        "features.parquet": Case(
            ("forecast", "{}/x.parquet", "--weights", "none,inverse"),
            {"x.parquet": _bytes(lambda f: pq.write_table(heads, f))},
        ),
        "features.npz": Case(
            ("forecast", "{}/x.npz", "--weights", "inverse"),
            {"x.npz": _npz({"features": features, "target": labels})},
        ),
        "weights.json": Case(
            ("audit", "{}/x.csv", "--loss", "softmax", "--weights", "{}/w.json"),
            {"w.json": json.dumps(dict.fromkeys(NAMES, 2)).encode(), "x.csv": text},
        ),
        "config.json": Case(("compare", "--config", "{}/c.yaml", "--epochs", "0"), {"c.yaml": config.encode()}),
        "config.yaml": Case(("compare", "--config", "{}/c.yaml", "--epochs", "0"), {"c.yaml": yaml}),
        "audit.json": Case(("report", "{}"), {"audit.json": b'{"schema": 1, "name": "x", "finished": "2026"}'}),
        "results.json": Case(("report", "{}"), {"results.json": b'{"schema": 1, "name": "x", "losses": []}'}),
    }
    return audited | others | _corrections(audited) | _decisions(values)


def _corrections(audited: dict[str, Case]) -> dict[str, Case]:
    """Return for every audit the correction of the same files, and further files that corrections read."""
    made = {}
    for name, case in audited.items():
        out = "{}/out" + name[name.index(".") :].replace(".npy", ".npz")
        made[f"correct {name}"] = Case(
            ("correct", *case.arguments[1:], "--counts", "labels", "--out", out), case.files
        )
    wide = made["correct wide.csv"]
    for option, name, data in (
        ("--prior", "prior.csv", b"class,share\nant,0.5\nbee,0.25\ncat,0.25\n"),
        ("--temperature", "held_out.csv", wide.files["x.csv"]),
        ("--training-rows", "train.csv", wide.files["x.csv"]),
    ):
        made[f"correct {name}"] = Case((*wide.arguments, option, f"{{}}/{name}"), {name: data} | wide.files)
    return made


def _decisions(values) -> dict[str, Case]:
    """Return decisions on corrected files of every format, with costs and offsets from files."""
    p = np.exp(values) / np.exp(values).sum(1, keepdims=True)
    told = {"steelyard.class_names": "\x1f".join(NAMES), "steelyard.correction": "{}"}
    lists = pa.table({"id": range(ROWS), "corrected_probabilities": pa.array(p.tolist())})
    lists = lists.replace_schema_metadata(told)
    wide = pa.table({f"corrected_probability_{name}": p[:, k] for k, name in enumerate(NAMES)})
    text = _bytes(lambda file: pa.csv.write_csv(wide, file))
    files = {
        "lists.parquet": _bytes(lambda file: pq.write_table(lists, file)),
        "lists.arrow": _ipc(lists, False),
        "wide.arrow": _ipc(wide, True),
        "wide.csv": text,
        "arrays.npz": _npz({"corrected_probabilities": p}),
    }
    made = {}
    for name, data in files.items():
        suffix = name[name.index(".") :]
        out = ("--out", f"{{}}/out{suffix}")
        made[f"decide {name}"] = Case(("decide", f"{{}}/x{suffix}", *out), {f"x{suffix}": data})
    offsets = {
        "offsets": [0.0, 0.5, -0.5], "objective": "macro-f1", "value": 0.5, "interval": [0, 1], "plain": 0.5,
        "gain": 0, "gain_interval": [0, 1], "rows": 24, "folds": 5, "recall": None, "recall_interval": None,
        "doubts": [], "kind": "classes",
    }  # fmt: skip
    for option, name, data in (
        ("--costs", "costs.csv", b",ant,bee,cat\nant,0,1,2\nbee,1,0,1\ncat,5,5,0\n"),
        ("--offsets", "offsets.json", json.dumps(offsets).encode()),
    ):
        arguments = ("decide", "{}/x.csv", option, f"{{}}/{name}", "--out", "{}/out.csv")
        made[f"decide {name}"] = Case(arguments, {name: data, "x.csv": text})
    return made


def text_cases(rng: random.Random) -> Case:
    """Return a command with a loss or weights of random text, on a file that is whole."""
    loss, weights = random_text(rng), random_text(rng)
    base = whole_cases()["wide.csv"]
    command, out = ("audit", ()) if rng.random() < 0.5 else ("correct", ("--out={}/out.csv",))
    which = rng.randrange(4)
    if which == 0:
        return Case((command, "{}/x.csv", f"--loss={loss}", *out), base.files)
    if which == 1:
        return Case(
            (
                command,
                "{}/x.csv",
                "--loss=logistic",
                *out,
                f"--{rng.choice(['weights', 'pos-weights', 'sampler', 'counts', 'corrected'])}={weights}",
            ),
            base.files,
        )
    if which == 2:
        return Case(("compare", f"--losses={loss}", "--epochs=0", f"--imbalance={weights}"), {})
    values, labels = _numbers()
    told = {
        f"steelyard.{rng.choice(['loss', 'link', 'class_names', 'batch_size', 'weight_decay', 'logit_adjustment'])}": random_text(
            rng
        )
        for _ in range(2)
    }
    told = {key: text.encode("utf-8", "replace") for key, text in told.items()}
    table = pa.table({"target": labels, "logits": pa.array(values.tolist())}).replace_schema_metadata(told)
    return Case((command, "{}/x.parquet", *out), {"x.parquet": _bytes(lambda f: pq.write_table(table, f))})


def random_text(rng: random.Random) -> str:
    parts = [
        rng.choice(TOKENS) if rng.random() < 0.6 else rng.choice(string.printable)
        for _ in range(rng.randrange(1, 9))
    ]
    return rng.choice([":", "", ",", "="]).join(parts) * (200 if rng.random() < 0.05 else 1)


def damaged(case: Case, rng: random.Random) -> Case:
    """Return a case with its first file damaged in up to four places."""
    name, *others = case.files
    data = case.files[name]
    if name.endswith(".npz") and rng.random() < 0.7:  # behind the checksums of the archive
        data = _rezipped(data, rng)
    else:
        for _ in range(rng.randrange(1, 5)):
            data = _damage(
                data, rng, is_text=not name.endswith((".parquet", ".arrow", ".feather", ".npz", ".npy"))
            )
    return Case(case.arguments, {name: data} | {other: case.files[other] for other in others})


def _rezipped(data: bytes, rng: random.Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as whole, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in whole.namelist():
            inner = whole.read(part)
            archive.writestr(part, _damage(inner, rng, False) if rng.random() < 0.7 else inner)
    return file.getvalue()


def _damage(data: bytes, rng: random.Random, is_text: bool) -> bytes:
    at = rng.randrange(len(data) + 1)
    length = min(len(data) - at, rng.choice([1, 1, 2, 4, 8, 64, 1000]))
    piece = data[at : at + length]
    how = rng.randrange(7)
    if how == 0:
        return data[:at]
    if how == 1:
        return data[:at] + data[at + length :]
    if how == 2:
        return data[:at] + piece * rng.choice([2, 3, 50]) + data[at + length :]
    if how == 3:
        other = rng.randrange(len(data) + 1)
        return data[:other] + piece + data[other + length :]
    if is_text:
        token = rng.choice(TOKENS).encode("utf-8", "surrogatepass")
        return data[:at] + token + data[at + (length if how == 4 else 0) :]
    if how == 4 and piece:
        flipped = bytes([piece[0] ^ (1 << rng.randrange(8))])
        return data[:at] + flipped + data[at + 1 :]
    width = rng.choice([1, 2, 4, 8])
    number = (rng.choice(NUMBERS) & (2 ** (8 * width) - 1)).to_bytes(width, "little")
    return data[:at] + number + data[at + width :]


def save(case: Case, folder: Path) -> list[str]:
    """Write the files of a case into a folder and return its arguments."""
    for name, data in case.files.items():
        (folder / name).write_bytes(data)
    return [part.replace("{}", str(folder)) for part in case.arguments]
