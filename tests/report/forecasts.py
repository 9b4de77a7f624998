"""Forecasts with random results of the right shape: heads of many classes take too long to fit."""

import numpy as np

from steelyard._common.files import write_json
from steelyard.report.explorer import Model, pack_rows
from steelyard.report.results import ForecastResults


def make_forecast(folder, names, *, losses=("softmax",), weights=("none", "sqrt_inverse", "inverse"), rows=4000):
    """Return a folder of a forecast on so many held-out rows, with an explorer."""
    random, size = np.random.default_rng(0), len(names)
    counts = [max(1, int(500 * 0.5 ** (10 * k / size))) for k in range(size)]
    target = np.concatenate([np.arange(size), random.integers(0, size, max(0, rows - size))])
    confusions, models = {}, []

    def ends(value):
        return max(0.0, value - 0.05), min(1.0, value + 0.05)

    def scores(label):
        P = random.dirichlet(np.full(size, 0.2), size) * 0.5 + 0.5 * np.eye(size)
        P[-1] = np.nan
        confusions[label] = P
        recall, precision = ([None, *random.uniform(0, 1, size - 1).tolist()] for _ in range(2))
        one = dict(zip(("accuracy", "balanced_accuracy", "nll", "ece"), random.uniform(0.2, 0.9, 4), strict=True))
        by_class = {"recall": recall, "precision": precision}
        intervals = {key: ends(value) for key, value in one.items()} | {
            key: [(None, None) if v is None else ends(v) for v in values] for key, values in by_class.items()
        }
        return one | by_class | {"intervals": intervals}

    found = {"no_change": [], "forecasts": []}
    for loss in losses:
        found["no_change"].append({"loss": loss} | scores(f"{loss}: no change"))
        logits = random.normal(0, 1.5, (len(target), size)) + 4 * np.eye(size)[target]
        models.append(Model(loss, logits, target, None))
        for power, name in enumerate(weights):
            w = (np.asarray(counts, dtype=float) ** (-0.5 * power)).tolist()
            one = {
                "loss": loss,
                "name": name,
                "class_weights": w,
                "class_loss": random.uniform(0, 3, size).tolist(),
            }
            law = {"gradient": 1e-9, "misfit": 1e-9, "binary_ratio": None}
            shift = scores(f"{loss}:{name}, shift")
            found["forecasts"].append(one | law | {"shift": shift} | scores(f"{loss}:{name}"))
    known = {
        "schema": ForecastResults.SCHEMA,
        "name": "made-up",
        "judged_by": "held_out.parquet",
        "folds": None,
        "finished": "2026-01-01T00:00:00+00:00",
        "version": "0",
        "command": "steelyard forecast made-up",
        "class_names": names,
        "class_counts": counts,
        "weight_decay": 0.0005,
        "features": 64,
        "features_per_sample": 0.1,
        "features_per_rarest": 64.0,
        "guarantee": "None.",
        "caution": "Made up.",
        "gains": [],
    }
    rows_of = ForecastResults.from_dict(known | found).tables
    gains = [
        {"row": row.label, "over": other.label, "gain": 0.1, "low": 0.05, "high": 0.15}
        for row in rows_of
        for other in rows_of
        if row is not other
    ]
    folder.mkdir(exist_ok=True)
    write_json(folder / ForecastResults.FILE, known | found | {"gains": gains})
    np.savez(folder / "mean_confusion.npz", **{row.label: confusions[row.label] for row in rows_of})
    packed = pack_rows(models, size, train_counts=counts)
    if packed is not None:
        write_json(folder / packed.FILE, packed.to_dict())
    return folder
