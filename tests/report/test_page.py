"""The report's page, from made-up results: many classes, hostile names, one seed, empty groups."""

import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from steelyard.experiments import compare
from steelyard.experiments.config import make_config
from steelyard.experiments.metrics import METRICS
from steelyard.report import write_forecast_page, write_report
from steelyard.report.compare_findings import best_of
from steelyard.report.figures import Series, balance_figure, confusion_figure, recall_figure
from steelyard.report.results import Metric, Summary
from steelyard.report.style import Classes, shown
from tests.helpers import NASTY
from tests.report.browser import check_page, check_scripts
from tests.report.forecasts import make_forecast


def make_run(folder, names, *, seeds=2, losses=("softmax", "softmax:inverse", "lgl-inr"), few=True):
    """A run folder with random results of the right shape."""
    random, size = np.random.default_rng(0), len(names)
    folder.mkdir(exist_ok=True)
    counts = [max(1, int(500 * 0.5 ** (10 * k / size))) for k in range(size)]
    groups = {"many": [0], "medium": list(range(1, size // 2)), "few": list(range(size // 2, size)) if few else []}

    def summary(key):
        if key == "recall_few" and not few:
            return None
        mean = random.uniform(0.3, 0.9)
        return (
            {"mean": mean, "low": mean - 0.05, "high": mean + 0.05, "n": seeds}
            if seeds > 1
            else {"mean": mean, "low": None, "high": None, "n": 1}
        )

    def run(slug, seed):
        (folder / slug / f"seed-{seed}").mkdir(parents=True)
        P = random.dirichlet(np.full(size, 0.2), size) * 0.5 + 0.5 * np.eye(size)
        P[-1] = np.nan
        np.savez(folder / slug / f"seed-{seed}" / "mean_confusion.npz", test=P, train=P)
        sides = {side: random.uniform(0, 0.1, size).tolist() for side in ("pull_up", "push_down")}
        history = [
            {"epoch": e, "train_loss": 1 / e, "validation_balanced_accuracy": 1 - 0.5 / e, "lr": 0.1}
            for e in range(1, 9)
        ]
        return {
            "seed": seed,
            "folder": f"{slug}/seed-{seed}",
            "metrics": {"accuracy": random.uniform(0, 1)},
            "recall": [None, *random.uniform(0, 1, size - 1)],
            "history": history,
            "law": sides | {"relative_residual": [0.0] * size},
            "seconds": 1.0,
        }

    results = {
        "schema": 1,
        "name": "made-up",
        "finished": "2026-01-01T00:00:00+00:00",
        "seconds": 12.5,
        "config": {
            "dataset": "made <up>",
            "imbalance": "exponential:50",
            "losses": list(losses),
            "seeds": seeds,
            "epochs": 8,
            "learning_rates": [0.1, 0.3],
        },
        "environment": {"steelyard": "0", "torch": "0", "python": "0", "machine": "none"},
        "data": {
            "class_names": names,
            "train_counts": counts,
            "validation_counts": counts,
            "test_counts": counts,
            "groups": groups,
        },
        "metrics": [metric.to_dict() for metric in METRICS],
        "losses": [
            {
                "label": label,
                "slug": (slug := label.replace(":", "-")),
                "loss": "softmax",
                "link": "softmax",
                "options": {},
                "law": "a P = a",
                "class_weights": None,
                "lr": 0.1,
                "lr_search": [{"lr": 0.1, "balanced_accuracy": 0.8}, {"lr": 0.3, "balanced_accuracy": None}],
                "summary": {m.key: summary(m.key) for m in METRICS},
                "runs": [run(slug, seed) for seed in range(seeds)],
            }
            for label in losses
        ],
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


CASES = {
    "ten classes": {"names": [str(k) for k in range(10)]},
    "hostile names": {"names": NASTY},
    "two classes, one seed, no few-shot": {
        "names": ["no", "yes"],
        "seeds": 1,
        "few": False,
        "losses": ("softmax",),
    },
    "hundred classes": {
        "names": [f"class number {k}" for k in range(100)],
        "losses": tuple(f"lgl-inr:beta={b}" for b in range(5)),
    },
    "thousand classes": {"names": [f"class number {k}" for k in range(1000)]},
    "thousand classes, eight losses": {
        "names": [f"class number {k}" for k in range(1000)],
        "losses": tuple(f"lgl-inr:beta={b}" for b in range(8)),
    },
}


_SLOW = ("hundred classes", "thousand classes", "thousand classes, eight losses")


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] * (c in _SLOW)) for c in CASES])
def test_page_opens_without_a_word_and_every_figure_has_marks(tmp_path, case):
    page = write_report(make_run(tmp_path, **CASES[case]))
    check_page(page)
    assert page.stat().st_size < 1.5e6


FORECASTS = {
    "ten classes": {"names": [str(k) for k in range(10)]},
    "hostile names": {"names": NASTY, "losses": ("softmax", "logistic")},
    "no weights": {"names": ["a", "b"], "weights": ("none",)},
    "hundred classes, thirty heads": {
        "names": [f"class number {k}" for k in range(99)],
        "losses": ("softmax", "softmax:tau=1", "focal", "focal:gamma=1", "poly", "logistic"),
    },
    "thousand classes": {"names": [f"class number {k}" for k in range(1000)]},
    "thousand classes, two losses": {
        "names": [f"class number {k}" for k in range(1000)],
        "losses": ("softmax", "logistic"),
    },
}


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] * (len(f["names"]) > 90)) for c, f in FORECASTS.items()]
)
def test_page_of_a_forecast_opens_without_a_word_and_is_small(tmp_path, case):
    page = write_forecast_page(make_forecast(tmp_path, **FORECASTS[case]))
    assert "explorer-data" in page.read_text()
    check_page(page, least=4, figures=2)
    assert page.stat().st_size < 1.5e6


def test_page_of_a_real_run(tmp_path):
    config = make_config(
        losses=["softmax", "logistic", "lgl-inr"],
        imbalance="exponential:50",
        seeds=2,
        epochs=1,
        learning_rates=[0.1],
    )
    compare(config, tmp_path / "run")
    check_page(tmp_path / "run" / "report.html")


def test_names_are_escaped_and_control_characters_replaced(tmp_path):
    text = write_report(make_run(tmp_path, NASTY)).read_text()
    check_scripts(text)
    assert "&lt;script&gt;" in text
    assert "made &lt;up&gt;" in text
    assert not any(ord(c) < 32 and c not in "\n\t" for c in text)
    assert "x" * 100 not in text
    assert "$x^2$" in text


@pytest.mark.parametrize(
    ("means", "half", "seeds", "marked"),
    [
        ([0.5, 0.6, 0.7], 0.04, 5, [2]),
        ([0.5, 0.6, 0.7], 0.06, 5, []),  # the best overlaps with the second
        ([0.5, 0.6, 0.7], 0.04, 3, []),  # too few seeds for an interval
        ([0.7, 0.7, 0.5], 0.01, 4, []),
        ([0.7, 0.7, 0.5], 0.0, 4, []),
    ],
)
@pytest.mark.parametrize("better", ["higher", "lower"])
def test_best_is_marked_where_intervals_tell_it(means, half, seeds, marked, better):
    if better == "lower":
        means = [1 - mean for mean in means]
    summaries = [Summary(mean, mean - half, mean + half, seeds) for mean in means]
    best = best_of(summaries, Metric("a", "A", "%", better))
    assert [k for k, one in enumerate(summaries) if one is best] == marked
    assert best_of([None, *summaries], Metric("a", "A", "%", better)) is best
    assert best_of(summaries[:1], Metric("a", "A", "%", better)) is None


def test_a_link_in_place_of_the_page_is_not_followed(tmp_path):
    folder, precious = make_run(tmp_path, ["a", "b"]), tmp_path / "precious"
    precious.write_text("mine")
    for name in ("report.html", "report.html.tmp"):
        (folder / name).symlink_to(precious)
    assert not write_report(folder).is_symlink()
    assert precious.read_text() == "mine"


def test_page_says_what_it_shows(tmp_path):
    text = " ".join(
        write_report(make_run(tmp_path, **CASES["two classes, one seed, no few-shot"])).read_text().split()
    )
    assert "one has no interval, and no best is marked" in text
    assert "<td>–</td>" in text
    assert "0.1: 80.0; 0.3: diverged" in text
    assert "(at an edge of those tried)" in text
    assert "default-src 'none'" in text


def test_the_same_results_make_the_same_page(tmp_path):
    folder = make_run(tmp_path, **CASES["ten classes"])
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, FileNotFoundError, "holds no finished run"),
        ("{", ValueError, "is not JSON"),
        ("[]", ValueError, "is not a comparison's results of schema 1"),
        ('{"schema": 2}', ValueError, "is not a comparison's results of schema 1"),
    ],
)
def test_folder_that_cannot_be_read_is_one_sentence(tmp_path, text, error, message):
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(error, match=message):
        write_report(tmp_path)


def test_missing_confusion_is_named_and_the_old_page_kept(tmp_path):
    folder = make_run(tmp_path, **CASES["ten classes"])
    before = write_report(folder).read_bytes()
    (folder / "softmax" / "seed-0" / "mean_confusion.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"seed-0/mean_confusion.npz is missing"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == before


def test_figures_are_well_formed_and_their_ids_their_own():
    classes = Classes(NASTY, [10] * 10)
    recall = recall_figure([Series("a", np.random.default_rng(0).random((3, 10)))], classes, title='"<&')
    balance = balance_figure([("a", np.ones(10), np.zeros(10))], classes, title="b")
    confusion = confusion_figure([("a", np.eye(10))], classes, title="c")
    ids = [{e.get("id") for e in ET.fromstring(svg).iter() if e.get("id")} for svg in (recall, balance, confusion)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert not ids[1] & ids[2]
    for drawn in (balance_figure([("a", np.ones(9), np.ones(9))] * 3, Classes(NASTY[:9], [1] * 9), title="b"),
                  confusion_figure([("a", np.eye(9))] * 3, Classes(NASTY[:9], [1] * 9), title="c")):  # fmt: skip
        own = [
            {e.get("id") for e in panel.iter() if e.get("id")}
            for panel in ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}svg")
        ]
        assert len(own) == 3, "several panels are drawn once each, not for two widths"
        assert sum(map(len, own)) == len(set.union(*own)) > 0


@pytest.mark.parametrize("at", range(4))
def test_a_side_that_is_nothing_has_no_marker_and_the_others_their_values(at):
    pull = np.array([0.002, 0.0004, 0.03, 0.001])
    pull[at] = 0
    text = balance_figure(
        [("a", pull, np.ones(4)), ("b", np.ones(4), pull)], Classes(list("wxyz"), [9] * 4), title="b"
    )
    told = re.findall("<title>([w-z]), pull up: ([^<]*)</title>", text)
    assert told == [(name, f"{v:.3g}") for name, v in zip("wxyz", pull, strict=True) if v > 0] + [
        (n, "1") for n in "wxyz"
    ]


def test_long_and_hostile_names_are_shown_short_and_clean():
    assert shown("x" * 300) == "x" * 17 + "…"
    assert shown("\x1b[31mred") == "\N{REPLACEMENT CHARACTER}[31mred"
