"""Do probabilities of new rows get better where class weights are taken out? Estimators of many kinds.

    python benchmarks/prior_calibration.py docs/results/prior-calibration.csv
    python benchmarks/prior_calibration.py OUT.csv --seeds 2 --datasets binary --tables FOLDER

Each estimator is fitted with "balanced" class weights and judged on held-out rows by its negative log-likelihood
(NLL): as it is (weighted), with all of the weights taken out, with as much as was measured (out), and the rivals
without weights: plain, and plain with one temperature. A table is a CSV file with a header and its labels in the
last column. About ten minutes on two cores; needs xgboost and lightgbm. `--markdown` prints the table of the docs.
"""

import argparse
import csv
import io
import statistics
import warnings
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from lightgbm import LGBMClassifier
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_digits, make_classification, make_hastie_10_2
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelEncoder, StandardScaler
from xgboost import XGBClassifier

from steelyard._common.files import write_atomically
from steelyard.integrations.sklearn import PriorCalibratedClassifier

ESTIMATORS = {
    "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
    "MLP": make_pipeline(StandardScaler(), MLPClassifier(50)),
    "HistGradientBoosting": HistGradientBoostingClassifier(),
    "XGBoost, 30 rounds": XGBClassifier(n_estimators=30, n_jobs=1),
    "XGBoost, 200 rounds": XGBClassifier(n_estimators=200, n_jobs=1),
    "LightGBM, 150 rounds": LGBMClassifier(n_estimators=150, n_jobs=1, verbose=-1),
    "random forest": RandomForestClassifier(),
}
DATASETS = ("binary", "five classes", "hastie", "digits", "cancer")
VARIANTS = ("plain", "plain_temperature", "weighted", "all_out", "out")
MOST_ROWS = 2000


def rows_of(name, seed, simulated=2000):
    """Rows and labels, the labels imbalanced; of data that are simulated at will so many rows."""
    if name == "binary":
        return make_classification(
            simulated, n_informative=8, weights=[0.95], flip_y=0.02, class_sep=0.8, random_state=seed
        )
    if name == "five classes":
        return make_classification(
            simulated, n_informative=10, n_classes=5, weights=[0.55, 0.25, 0.12, 0.05], random_state=seed
        )
    if name == "hastie":
        X, y = make_hastie_10_2(12_000, random_state=seed)
        return thinned(X, (y > 0).astype(int), [1850, 150], seed)
    if name == "digits":
        return thinned(*load_digits(return_X_y=True), [int(160 * 0.1 ** (k / 9)) for k in range(10)], seed)
    X, y = load_breast_cancer(return_X_y=True)
    return thinned(X, 1 - y, [357, 60], seed)


def thinned(X, y, counts, seed):
    """So many rows of each class, drawn and in random order."""
    random = np.random.default_rng(seed)
    rows = np.concatenate([random.permutation(np.flatnonzero(y == k))[:n] for k, n in enumerate(counts)])
    rows = random.permutation(rows)
    return X[rows], y[rows]


def table_of(path, seed):
    """At most MOST_ROWS rows of a CSV file, without classes of fewer than 20."""
    with path.open(newline="") as file:
        cells = np.array(list(csv.reader(file))[1:])
    cells = np.random.default_rng(seed).permutation(cells)[:MOST_ROWS]
    labels, counts = np.unique(cells[:, -1], return_counts=True)
    cells = cells[np.isin(cells[:, -1], labels[counts >= 20])]
    return cells[:, :-1].astype(float), LabelEncoder().fit_transform(cells[:, -1])


def nll(model, X, y):
    p = model.predict_proba(X).astype(float)
    return log_loss(y, p / p.sum(1, keepdims=True))  # float32 rows sum to nearly 1


def judge(estimator, X, y, seed):
    """Held-out NLL of each variant, and the power with its error."""
    X, X_new, y, y_new = train_test_split(X, y, test_size=0.5, stratify=y, random_state=seed)
    seeded = clone(estimator)
    names = [name for name in seeded.get_params() if name.endswith("random_state")]
    seeded.set_params(**dict.fromkeys(names, seed))
    out = PriorCalibratedClassifier(seeded, class_weights="balanced").fit(X, y)
    temperature = CalibratedClassifierCV(clone(seeded), method="temperature", ensemble=False).fit(X, y)
    plain = temperature.calibrated_classifiers_[0].estimator
    found = {
        "plain": nll(plain, X_new, y_new),
        "plain_temperature": nll(temperature, X_new, y_new),
        "weighted": nll(out.estimator_, X_new, y_new),
        "out": nll(out, X_new, y_new),
        "power": out.power_,
        "power_error": out.power_error_,
    }
    out.power_ = 1.0
    return {**found, "all_out": nll(out, X_new, y_new)}


def row_of(estimator, dataset, read, source, seed):
    warnings.simplefilter("ignore", ConvergenceWarning)  # the MLP stops after 200 rounds, as it does by default
    found = judge(ESTIMATORS[estimator], *read(source, seed), seed)
    print(estimator, dataset, seed, *(f"{k} {v:.5f}" for k, v in found.items()), flush=True)
    numbers = {name: f"{found[name]:.5f}" for name in (*VARIANTS, "power", "power_error")}
    return {"estimator": estimator, "dataset": dataset, "seed": seed, **numbers}


def summary(rows):
    """Means over seeds of each estimator and data set; the gain of `out` on `weighted` with its error."""
    for key in dict.fromkeys((row["estimator"], row["dataset"]) for row in rows):
        group = [row for row in rows if (row["estimator"], row["dataset"]) == key]
        means = {name: statistics.fmean(float(row[name]) for row in group) for name in (*VARIANTS, "power")}
        gains = [float(row["weighted"]) - float(row["out"]) for row in group]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
        yield key, means, statistics.fmean(gains), error


def markdown(rows):
    """The table of the docs."""
    lines = [
        "| estimator | data | plain | plain, temperature | weighted | all taken out | as measured | gain | g |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (estimator, dataset), means, gain, error in summary(rows):
        least = min(means[name] for name in VARIANTS)
        cells = [f"**{means[v]:.3f}**" if means[v] == least else f"{means[v]:.3f}" for v in VARIANTS]
        lines.append(
            f"| {estimator} | {dataset} | {' | '.join(cells)} | {gain:+.3f} ± {error:.3f} | {means['power']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path, help="written, or read with --markdown")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=4, help="the rule was set on seeds 0 to 3")
    parser.add_argument("--datasets", default=",".join(DATASETS), help="some of them, with commas between")
    parser.add_argument("--tables", type=Path, help="folder of CSV files to judge on too")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    if arguments.markdown:
        with arguments.csv.open(newline="") as file:
            print(markdown(list(csv.DictReader(file))))
        return
    sources = [(name, rows_of, name) for name in arguments.datasets.split(",")]
    if arguments.tables is not None:
        sources += [(path.stem, table_of, path) for path in sorted(arguments.tables.glob("*.csv"))]
    names = [name for name, _, _ in sources]
    rows = Parallel(n_jobs=arguments.workers)(
        delayed(row_of)(estimator, dataset, read, source, seed)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        for estimator in ESTIMATORS
        for dataset, read, source in sources
    )
    rows.sort(key=lambda row: (list(ESTIMATORS).index(row["estimator"]), names.index(row["dataset"]), row["seed"]))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(arguments.csv, lambda file: file.write(text.getvalue().encode()))


if __name__ == "__main__":
    main()
