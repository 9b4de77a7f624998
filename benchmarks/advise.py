"""Does the gain that `advise` promises come true on rows that it never saw?

    python benchmarks/advise.py docs/results/advise.csv --tables FOLDER
    python benchmarks/advise.py OUT.csv --seeds 2 --data five-classes

For each data set, model, objective and seed: `steelyard.advise` on the training rows, then the advised model and
the plain one are trained on all of them and judged on held-out rows. A finished row is not computed again. Tables
are CSV files with a header and their labels in the last column; half of the rows, at most 20,000, are held out.
About ten minutes on one core. `--markdown` prints the table of the docs.
"""

import argparse
import csv
import io
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits, make_classification
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelEncoder, StandardScaler

import steelyard
from steelyard._common.files import write_atomically
from steelyard.data import exponential, subsample
from steelyard.deciding import create_objective, train_heads
from steelyard.deciding.paired import paired

DATA = {
    # data: model, objectives
    "binary": ("heads", ("balanced-accuracy", "macro-f1", "accuracy", "min-recall:1=0.8")),
    "five-classes": ("heads", ("balanced-accuracy", "macro-f1", "accuracy")),
    "five-classes-trees": ("trees", ("balanced-accuracy", "macro-f1", "accuracy")),
    "digits": ("heads", ("balanced-accuracy", "macro-f1", "accuracy")),
    "pima": ("trees", ("balanced-accuracy", "macro-f1", "min-recall:1=0.8")),
    "satellite": ("trees", ("balanced-accuracy", "macro-f1", "min-recall:1=0.8")),
    "shuttle": ("trees", ("balanced-accuracy", "macro-f1", "accuracy")),
}
TABLES = ("pima", "satellite", "shuttle")
FIELDS = (
    "data", "model", "objective", "seed", "rows", "rarest", "advised", "plain", "gain", "low", "high",
    "test_rows", "test_plain", "test_advised", "test_gain", "test_error", "recall", "test_recall", "seconds",
)  # fmt: skip
MOST_TEST = 20_000


def rows_of(data, seed, tables):
    """Training and held-out rows and labels, of few rows in some classes."""
    if data in TABLES:
        with (tables / f"{data}.csv").open(encoding="utf-8") as file:
            lines = list(csv.reader(file))[1:]
        X, y = (
            np.array([[cell or "nan" for cell in line[:-1]] for line in lines], float),
            LabelEncoder().fit_transform([line[-1] for line in lines]),
        )
        return train_test_split(X, y, test_size=min(len(y) // 2, MOST_TEST), stratify=y, random_state=seed)
    if data == "digits":
        X, y = load_digits(return_X_y=True)
        X, X_test, y, y_test = train_test_split(X / 16, y, test_size=0.5, stratify=y, random_state=seed)
        kept = subsample(torch.from_numpy(y), exponential(20), seed=seed).numpy()
        kept_test = subsample(torch.from_numpy(y_test), exponential(20), seed=seed).numpy()
        return X[kept], X_test[kept_test], y[kept], y_test[kept_test]
    shares = [0.95] if data == "binary" else [0.62, 0.2, 0.1, 0.05]
    X, y = make_classification(
        42_000, n_informative=8, n_classes=len(shares) + 1, weights=shares, flip_y=0.02, class_sep=0.8,
        random_state=seed,
    )  # fmt: skip
    return train_test_split(X, y, train_size=2000, test_size=MOST_TEST, stratify=y, random_state=seed)


def trees(inputs, target, weights):
    """Boosted trees under softmax loss, as a function of rows to log-probabilities."""
    model = HistGradientBoostingClassifier(max_iter=50, early_stopping=False, random_state=0)
    model.fit(inputs.numpy(), target.numpy(), sample_weight=None if weights is None else weights[target].numpy())
    return lambda rows: torch.from_numpy(model.predict_proba(rows.numpy())).clamp(min=1e-300).log()


def remembered(train):
    """The same training is done once: objectives differ in what is made of its logits."""
    known = {}

    def again(inputs, target, weights):
        key = hash(inputs.numpy().tobytes()), None if weights is None else tuple(weights.tolist())
        if key not in known:
            known[key] = train(inputs, target, weights)
        return known[key]

    return again


def judged(data, objective, seed, train, rows):
    """One row of the results."""
    started = time.perf_counter()
    X, X_test, y, y_test = rows
    size = int(y.max()) + 1
    names = [str(k) for k in range(size)]
    found = steelyard.advise(X, y, objective=objective, class_names=names, train=train, seed=seed)
    plain = train(X, y, None)(X_test).argmax(1)
    advised = found.decide(train(X, y, found.class_weights)(X_test))
    aim = create_objective(objective, names)
    test = paired(torch.stack([plain, advised]), y_test, torch.zeros_like(y_test), aim.value, size, seed=seed)
    gain = float(test.values[1] - test.values[0])
    k = aim.minimum[0] if aim.minimum else None
    recall = "" if k is None else float(found.chosen.recall[k])
    test_recall = "" if k is None else float((advised[y_test == k] == k).double().mean())
    return {
        "data": data, "model": DATA[data][0], "objective": objective, "seed": seed, "rows": len(y),
        "rarest": int(torch.bincount(y).min()), "advised": found.chosen.name, "plain": found.table[0].value,
        "gain": found.chosen.gain, "low": found.chosen.interval[0], "high": found.chosen.interval[1],
        "test_rows": len(y_test), "test_plain": float(test.values[0]), "test_advised": float(test.values[1]),
        "test_gain": gain, "test_error": float((test.draws[:, 1] - test.draws[:, 0]).std()),
        "recall": recall, "test_recall": test_recall, "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip


def read(path):
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path, rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{v:.6g}" if isinstance(v := row.get(key, ""), float) else v for key in FIELDS})
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def markdown(rows):
    """The table of the docs: means over seeds."""
    print("| data, model | objective | advised | promised gain | gain on held-out rows | in its interval |")
    print("|---|---|---|---|---|---|")
    for data, objective in dict.fromkeys((row["data"], row["objective"]) for row in rows):
        mine = [row for row in rows if (row["data"], row["objective"]) == (data, objective)]
        advised = [row["advised"] for row in mine]
        names = ", ".join(f"{name} ({advised.count(name)})" for name in dict.fromkeys(advised))
        promised = statistics.mean(float(row["gain"]) for row in mine)
        true = statistics.mean(float(row["test_gain"]) for row in mine)
        within = sum(float(r["low"]) <= float(r["test_gain"]) <= float(r["high"]) for r in mine)
        print(
            f"| {data}, {mine[0]['model']} | {objective} | {names} | {promised:+.3f} | {true:+.3f} | "
            f"{within} of {len(mine)} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", default=",".join(DATA))
    parser.add_argument("--tables", type=Path, help="folder of pima.csv, satellite.csv, shuttle.csv")
    parser.add_argument("--markdown", action="store_true", help="print the table of what is there, and no more")
    given = parser.parse_args()
    rows = read(given.out)
    if given.markdown:
        markdown(rows)
        return
    done = {(row["data"], row["objective"], int(row["seed"])) for row in rows}
    for data in given.data.split(","):
        if data in TABLES and given.tables is None:
            print(f"{data}: left out, --tables names no folder")
            continue
        model, objectives = DATA[data]
        for seed in range(given.seeds):
            todo = [objective for objective in objectives if (data, objective, seed) not in done]
            if not todo:
                continue
            X, X_test, y, y_test = rows_of(data.removesuffix("-trees"), seed, given.tables)
            if model == "heads":
                scale = StandardScaler().fit(X)
                X, X_test = scale.transform(X), scale.transform(X_test)
            made = [torch.from_numpy(part) for part in (X, X_test, y, y_test)]
            train = remembered(trees if model == "trees" else train_heads(int(y.max()) + 1, weight_decay=1e-3))
            for objective in todo:
                row = judged(data, objective, seed, train, made)
                rows.append(row)
                write(given.out, rows)
                print(", ".join(f"{key} {row[key]}" for key in ("data", "objective", "seed", "advised")), end=": ")
                print(f"{row['gain']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}], test {row['test_gain']:+.4f}")


if __name__ == "__main__":
    main()
