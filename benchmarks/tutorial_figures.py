"""The figures and numbers of docs/tutorial.md, from a run folder of `compare`.

    steelyard compare --dataset path/to/fashion_mnist --imbalance exponential:100 --epochs 8 \\
        --learning-rates 0.03 --seeds 3 --losses softmax,softmax:sqrt_inverse,softmax:inverse --out RUN
    python benchmarks/tutorial_figures.py RUN docs/figures
"""

import argparse
import json
from pathlib import Path

import numpy as np

from steelyard.commands.audit import audit_file
from steelyard.report.figures import Series, misfit_figure, recall_figure, trades_figure, weights_figure
from steelyard.report.style import Classes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    run, out = arguments.run, arguments.out
    out.mkdir(parents=True, exist_ok=True)
    results = json.loads((run / "results.json").read_text())
    classes = Classes(results["data"]["class_names"], results["data"]["train_counts"])

    recall = [
        Series(loss["label"], np.array([r["recall"] for r in loss["runs"]], dtype=np.float64))
        for loss in results["losses"]
        if loss["label"] in ("softmax", "softmax:inverse")
    ]
    (out / "recall.svg").write_text(recall_figure(recall, classes, title="Recall of each class"))
    for slug in ("softmax", "softmax-inverse"):
        file = run / slug / "seed-0" / "train_predictions.parquet"
        found = audit_file(file, weights="inverse").to_dict()
        print(f"\n{slug}, stated: inverse")
        for verdict in found["verdicts"]:
            print(f"  {verdict['topic']}: {verdict['text']}")
        misfits = [(h["text"], h["misfit"], h["error"]) for h in found["hypotheses"]]
        (out / f"misfit-{slug}.svg").write_text(misfit_figure(misfits, title=f"Misfit of hypotheses about {slug}"))
    implied = found["implied_weights"]
    figure = weights_figure(
        np.array(found["implied_over_stated"]),
        np.array(implied["log_error"]),
        classes,
        label="implied over stated\nclass weight",
        reference=True,
        title="Implied over stated weights of the network trained with inverse weights",
    )
    (out / "weights.svg").write_text(figure)
    misplaced = sum(found["residual"]["push_down"]) / 100
    trades = [
        (*(classes.names[k] for k in t["classes"]), t["there"] / misplaced, t["back"] / misplaced)
        for t in found["trades"]
    ]
    (out / "trades.svg").write_text(trades_figure(trades, title="Which classes trade with which"))


if __name__ == "__main__":
    main()
