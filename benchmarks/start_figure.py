"""The picture of README.md and docs/start.md: two networks on digits, audited against the same class weights.

    python benchmarks/start_figure.py docs/figures/start.svg

Both were meant to be trained with inverse class weights; one of them never got them. It takes half a minute.
"""

import argparse
import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from sklearn.datasets import load_digits
from torch import Tensor, nn

import steelyard
from steelyard._common.files import write_text
from steelyard.auditing import AuditReport
from steelyard.report.style import STYLE

IMBALANCE, EPOCHS = 30, 300
GREY = "#757575"  # readable on a white ground and on a dark one: the picture has none of its own
_COLOURED = ("text.color", "axes.labelcolor", "axes.titlecolor", "axes.edgecolor")
COLOURS = dict.fromkeys(
    (*_COLOURED, *(f"{side}tick.{part}" for side in "xy" for part in ("color", "labelcolor"))), GREY
)


def digits() -> tuple[Tensor, Tensor]:
    """Return digits of which class k has 30 ** (k / 9) times fewer samples than class 0."""
    data = load_digits()
    labels = torch.from_numpy(data.target)
    most = int(torch.bincount(labels).min())
    kept = [(labels == k).nonzero()[:, 0][: round(most * IMBALANCE ** (-k / 9))] for k in range(10)]
    rows = torch.cat(kept)
    return torch.from_numpy(data.data[rows.numpy()]).float() / 16, labels[rows]


def trained(inputs: Tensor, labels: Tensor, loss: nn.Module) -> Tensor:
    """Return the logits that a network gives its own training samples."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            loss(network(inputs[rows]), labels[rows]).backward()
            optimizer.step()
        schedule.step()
    return network(inputs).detach()


def draw(reports: dict[str, AuditReport], weights: Tensor) -> str:
    """Return the figure as SVG text: for each class the weight that was stated, and the one that it behaves by."""
    stated = weights.numpy()
    with mpl.rc_context(STYLE | COLOURS | {"svg.hashsalt": "steelyard", "font.size": 11}):
        figure = Figure(figsize=(9.2, 4.3), layout="constrained")
        axes = figure.subplots(1, 2, sharex=True, sharey=True)
        for ax, (name, report), colour in zip(axes, reports.items(), ("#2A86C2", "#D55E00"), strict=True):
            ratio = report.implied_over_stated
            power = report.findings[0].measure
            assert ratio is not None
            assert power is not None
            implied = stated * ratio.numpy()
            implied *= np.exp(np.log(stated).mean() - np.log(implied).mean())  # of weights only ratios count
            line = np.array([stated.min(), stated.max()])
            ax.plot(line, line, color=GREY, linewidth=1, linestyle="--", zorder=1)
            ax.annotate(
                "as stated", (line[1], line[1]), (-14, -8), textcoords="offset points", ha="right", color=GREY
            )
            ax.scatter(stated, implied, s=42, color=colour, zorder=2)
            for k in (0, 9):
                ax.annotate(
                    f"digit {k}", (stated[k], implied[k]), (8, -13), textcoords="offset points", color=GREY
                )
            ax.set(xscale="log", yscale="log", xlabel="weight that was stated")
            ax.margins(y=0.1)  # room for a name below the lowest point
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_locator(FixedLocator([0.1, 0.3, 1, 3]))
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.set_minor_locator(NullLocator())
            said = report.headline.split(":")[0].rstrip(".")
            ax.set_title(
                f"{name}\n“{said}.”\nPower {power.value:.2f} [{power.low:.2f}, {power.high:.2f}]", loc="left"
            )
        axes[0].set_ylabel("weight that the model\nbehaves as if trained with")
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    inputs, labels = digits()
    counts = steelyard.class_counts(labels, num_classes=10)
    weights = steelyard.class_weights(counts, "inverse")
    loss = nn.CrossEntropyLoss(weight=weights)
    reports = {
        "Trained with inverse weights": steelyard.audit(trained(inputs, labels, loss), labels, loss),
        "The weights never reached the loss": steelyard.audit(
            trained(inputs, labels, nn.CrossEntropyLoss()), labels, loss
        ),
    }
    for name, report in reports.items():
        print(f"{name}\n{report}\n{report.numbers.power}\n")
    write_text(out, draw(reports, weights))


if __name__ == "__main__":
    main()
