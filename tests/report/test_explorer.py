"""The explorer: what a page holds, and in Chromium numbers that are those of Python."""

import importlib.util
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from steelyard import TrainingSetup, decide
from steelyard.deciding import create_objective
from steelyard.deciding.search import confusion_of
from steelyard.report import write_explorer
from steelyard.report.explorer import Model, decide_packed, explorer_of, exponent_of, pack_rows, read_rows, undo_of
from steelyard.report.results import HeldOutRows
from tests.helpers import NASTY
from tests.report.browser import opened

NAMES = ["plane", "car", "bird", "cat", "deer"]


def make_rows(size, rows, seed=0):
    random = np.random.default_rng(seed)
    share = np.logspace(0, -1.5, size)
    target = random.choice(size, rows, p=share / share.sum())
    target[:size] = np.arange(size)
    scores = random.normal(0, 1.5, (rows, size)) + 2.5 * np.eye(size)[target] + np.log(share)
    return scores, target


def make_outputs(rows=500):
    random = np.random.default_rng(0)
    truth = (random.random((rows, 4)) < [0.5, 0.2, 0.1, 0.03]).astype(int)
    return random.normal(0, 1.5, truth.shape) + 3 * truth - 2, truth


def test_rare_classes_are_kept_whole_and_the_same_rows_drawn_again():
    scores, target = make_rows(20, 9000)
    found = pack_rows([Model("a", scores, target)], 20)
    one, held_out = found.models[0], np.bincount(target)
    assert one.held_out == held_out.tolist()
    assert sum(one.kept) <= 4000
    assert sum(one.kept) > 3980
    most = max(one.kept)
    assert one.kept == np.minimum(held_out, most).tolist()
    assert pack_rows([Model("a", scores, target)], 20).models == found.models


def test_unpacked_scores_are_the_rows_to_a_small_step():
    scores, target = make_rows(6, 300)
    one = pack_rows([Model("a", scores, target)], 6).models[0]
    rows = one.unpack(6)
    assert one.kept == np.bincount(target).tolist()
    assert np.bincount(rows.target).tolist() == one.kept
    below = np.sort((scores.max(1, keepdims=True) - scores)[np.argsort(target, kind="stable")], axis=0)
    assert np.abs(np.sort(one.values(rows.steps), axis=0) - below).max() < 1e-3
    assert one.bits == 16
    assert one.sampling == one.rounding == one.differ == 0  # all rows are there


def spoiled(scores, how):
    """Scores of another scale: of all, of one row, or of every row its own."""
    row = np.arange(len(scores))[:, None]
    return {
        "tiny": scores * 1e-3,
        "huge": scores * 1e4,
        "a huge row among tiny ones": np.where(row == 5, scores * 1e4, scores * 1e-3),
        "a huge row": np.where(row == 5, scores * 1e9, scores),
        "a huge class": scores + np.where(np.arange(scores.shape[1]) == 1, -1e4, 0.0),
        "of all sizes": scores * 10.0 ** np.random.default_rng(0).uniform(-3, 4, (len(scores), 1)),
        "none": np.zeros_like(scores),
    }[how]


HOW = ("tiny", "huge", "a huge row among tiny ones", "a huge row", "a huge class", "of all sizes", "none")


@pytest.mark.parametrize("how", HOW)
def test_no_scale_of_the_scores_makes_decisions_wrong(how):
    """Rare classes have few rows, where one wrong decision is many points of recall."""
    random = np.random.default_rng(3)
    target = np.repeat(np.arange(7), [3000, 500, 300, 150, 30, 6, 3])
    scores = random.normal(0, 1, (len(target), 7)) + np.eye(7)[target]
    scores = spoiled(scores, how)
    one = pack_rows([Model("a", scores, target)], 7).models[0]
    rows, factor = one.unpack(7), np.log(len(target) / 7 / np.bincount(target))
    order = np.argsort(target, kind="stable")
    assert sum(one.kept) == len(target)
    assert one.differ <= 2
    apart = []
    for exponent in np.arange(-1, 2.01, 0.1):  # the whole slider, also between the exponents that were measured
        shift = exponent * factor
        told = np.sort(7 * rows.target + decide_packed(one, rows, shift))
        exact = np.sort(7 * target[order] + (scores[order] + shift).argmax(1))
        apart.append(int((np.bincount(told, minlength=49) != np.bincount(exact, minlength=49)).sum()))
    assert max(apart) <= 4, f"cells of the confusion that differ: {apart}"
    assert sum(apart) <= 12
    decided = decide_packed(one, rows, np.zeros(7))
    assert (np.bincount(decided, minlength=7) == np.bincount(scores.argmax(1), minlength=7)).all()


@pytest.mark.parametrize("how", HOW)
def test_no_scale_of_outputs_makes_decisions_wrong(how):
    scores, truth = make_outputs(3000)
    scores = spoiled(scores, how)
    one = pack_rows([Model("a", scores, truth)], 4).models[0]
    rows = one.unpack(4, outputs=True)
    found = one.values(rows.steps.astype(np.int64) - 32768)
    assert one.differ <= 6
    for k in range(4):
        assert (found[:, k] > 0).sum() == (scores[:, k] > 0).sum(), "no decision at 0 may move"
        ends = np.sort(scores[:, k])
        assert np.sort(found[:, k]) == pytest.approx(ends, rel=1e-3, abs=1e-3 * np.median(np.abs(scores)))


def test_a_page_says_what_its_packing_costs(tmp_path):
    scores, target = make_rows(5, 400)
    text = write_explorer(tmp_path / "page.html", scores, target).read_text()
    assert "every decision is that of the exact scores" in text
    rows = pack_rows([Model("a", *make_rows(10, 10_000))], 10, budget=70_000)
    page, one = explorer_of(rows, ["x"] * 10, [1] * 10), rows.models[0]
    assert page["differ"] == one.differ > 0
    assert page["decisions"] == f"{sum(one.kept):,}"
    assert float(page["rounding"]) >= 100 * one.rounding > 0
    text = write_explorer(tmp_path / "page.html", *make_outputs()).read_text()
    notes = text[text.index("x-notes") :]
    assert "exponent" not in notes[: notes.index("</p>")]
    assert "thresholds from 0.00005 to 0.99995" in notes


def test_what_packing_costs_is_what_it_costs():
    """The measured differences hold for the decisions that a page makes."""
    scores, target = make_rows(60, 9000)
    found = pack_rows([Model("a", scores, target)], 60, budget=120_000)
    one, held_out = found.models[0], np.bincount(target)
    assert one.choices < 60 or sum(one.kept) < 4000
    rows, log_w = one.unpack(60), np.log(9000 / 60 / held_out)
    decided = decide_packed(one, rows, 0.5 * log_w)
    page = np.mean([(decided[rows.target == k] == k).mean() for k in range(60)])
    exact = (scores + 0.5 * log_w).argmax(1)
    assert abs(page - np.mean([(exact[target == k] == k).mean() for k in range(60)])) <= one.sampling + 1e-12
    assert one.sampling < 0.05
    assert len(one.words) <= 120_000


def test_more_classes_than_room_give_no_rows():
    scores, target = make_rows(200, 400)
    assert pack_rows([Model("a", scores, target)], 200, budget=1000) is None
    with pytest.raises(ValueError, match="logits of 200 classes are more than a page has room for"):
        raise_if_no_room(scores, target)


def raise_if_no_room(scores, target):
    from steelyard.report import explorer_page

    kept, explorer_page.pack_rows = explorer_page.pack_rows, lambda models, size, train_counts: None
    try:
        write_explorer("/nowhere", scores, target)
    finally:
        explorer_page.pack_rows = kept


def test_scores_that_are_no_numbers_are_refused():
    scores, target = make_rows(3, 50)
    scores[4, 1] = np.nan
    with pytest.raises(ValueError, match="scores of a must not be NaN"):
        pack_rows([Model("a", scores, target)], 3)
    scores[4, 1] = -np.inf
    assert pack_rows([Model("a", scores, target)], 3).models[0].unpack(3).steps.max() == 65535
    scores[4] = -np.inf
    with pytest.raises(ValueError, match="scores of a must not be minus infinity for every class of a row"):
        pack_rows([Model("a", scores, target)], 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": "no base64!"}, "words are damaged"),
        ({"words": "AAAA"}, "words are damaged"),
        ({"kept": [1, 1, 1]}, "words must hold 12 numbers"),
        ({"kept": [10**9, 1, 1]}, "kept must be at most held_out"),
        ({"choices": 4}, "choices must be 1 to 3"),
        ({"unit": 0.0}, "scale and unit must be positive, got"),
        ({"undo": [0.0]}, "undo must have 3 entries"),
    ],
)
def test_rows_that_were_edited_are_refused(tmp_path, change, message):
    value = pack_rows([Model("a", *make_rows(3, 50))], 3).to_dict()
    (tmp_path / "explorer.json").write_text(json.dumps(value))
    assert read_rows(tmp_path, 3) == HeldOutRows.from_dict(value)
    with pytest.raises(ValueError, match="must be of 4 classes, got 3"):
        read_rows(tmp_path, 4)
    value["models"][0] |= change
    (tmp_path / "explorer.json").write_text(json.dumps(value))
    with pytest.raises(ValueError, match=message):
        read_rows(tmp_path, 3)


def test_exponent_is_that_of_the_counts():
    assert exponent_of(None, [3, 4]) == 0
    assert exponent_of([2.0, 2.0], [7, 7]) == 0
    assert exponent_of([1 / 8, 1.0, 1 / 2], [64, 1, 4]) == pytest.approx(0.5)
    assert exponent_of([1.0, 5.0, 1.0], [64, 1, 4]) is None
    assert exponent_of([1.0, None], [64, 1]) is None


def test_undo_is_what_makes_log_probabilities():
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    weighted = undo_of(logits, TrainingSetup("softmax", class_weights=[1.0, 2.0, 4.0]))
    expected = -torch.tensor([1.0, 2.0, 4.0]).log()
    assert torch.tensor(weighted) == pytest.approx((expected - expected.mean()).numpy(), abs=1e-6)
    assert undo_of(logits, TrainingSetup("logistic")) is None
    assert undo_of(logits, TrainingSetup("focal")) is None


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of five classes, with what was packed into it."""
    scores, target = make_rows(5, 1200)
    path = write_explorer(
        tmp_path_factory.mktemp("explorer") / "page.html", scores, target,
        class_names=NAMES, class_counts=[5000, 2000, 700, 300, 100],
    )  # fmt: skip
    block = re.search(r'id="explorer-data">(.*?)</script>', path.read_text(), re.DOTALL)[1]
    return path, json.loads(block)


SET = """([id, value]) => { const field = document.getElementById(id); field.value = value;
    field.dispatchEvent(new Event(field.tagName === "SELECT" ? "change" : "input", { bubbles: true })); }"""


def set_to(page, *settings):
    for name, value in settings:
        if name.startswith(("Shift of", "Cost of")):
            page.get_by_label(name, exact=True).fill(str(value))
        elif name == "click":
            page.click(f"#{value}")
        else:
            page.evaluate(SET, [name, value])
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    cards = dict(
        zip(
            page.locator("#x-numbers dt").all_text_contents(),
            page.locator("#x-numbers dd").all_text_contents(),
            strict=True,
        )
    )
    rows = page.locator("#x-classes > li").all()
    values = [[v.text_content() for v in row.locator(".x-value").all()] for row in rows]
    table = [
        [c.text_content() for c in row.locator("td").all()] for row in page.locator("#x-matrix tbody tr").all()
    ]
    return cards, values, table, page.text_content("#x-code")


SETTINGS = {
    "as trained": ((), lambda log_w: 0 * log_w, None, [1, 1, 1, 1, 1]),
    "an exponent": ((("x-exponent", 0.5),), lambda log_w: 0.5 * log_w, None, [1, 1, 1, 1, 1]),
    "an exponent, a class and costs": (
        (
            ("x-exponent-number", 0.3), ("Shift of deer, as a number", 1.25),
            ("Cost of missing deer", 7), ("Cost of missing car", 0.5),
        ),
        lambda log_w: np.array([*0.3 * log_w[:4], 1.25]), None, [1, 0.5, 1, 1, 7],
    ),
    "uniform": ((("x-share", 1),), lambda log_w: 0 * log_w, 1.0, [1, 1, 1, 1, 1]),
    "between, least cost": (
        (("x-exponent", 1), ("x-share", 0.4), ("Cost of missing bird", 4), ("click", "x-cheapest")),
        None, 0.4, [1, 1, 4, 1, 1],
    ),
}  # fmt: skip


def test_numbers_of_the_page_are_those_of_python(page):
    path, data = page
    with opened(path) as (ask, said):
        ask(lambda p: p.wait_for_selector("#explorer[data-ready]"))
        for case, (settings, shifted, share, cost) in SETTINGS.items():
            shown = ask(lambda p, settings=settings: set_to(p, ("click", "x-reset"), *settings))
            check_numbers(case, data, shown, shifted, share, cost)
    assert said == []


def check_numbers(case, data, shown, shifted, share, cost):
    cards, values, table, _ = shown
    one = HeldOutRows.from_dict(
        {"finished": "", "schema": 2, "kind": "classes", "size": 5, "models": data["models"]}
    ).models[0]
    rows, train = one.unpack(5), np.asarray(data["train"], dtype=float)
    scores, target = torch.from_numpy(-one.values(rows.steps)), torch.from_numpy(rows.target.astype(np.int64))
    prior = np.asarray(one.held_out, dtype=float) if share is None else train ** (1 - share)
    prior /= prior.sum()
    if shifted is None:  # the decision of least expected cost, by steelyard.decide under the prior of use
        moved = scores + torch.from_numpy(np.log(prior / (train / train.sum())))
        decided = decide(torch.log_softmax(moved, 1), cost)
    else:
        decided = (scores + torch.from_numpy(shifted(np.log(train.sum() / 5 / train)))).argmax(1)
    counts = confusion_of(target, decided, 5)
    shares = (counts / counts.sum(1, keepdim=True)).numpy()
    whole = torch.from_numpy(shares * prior[:, None])  # objectives take counts of rows, so a million
    recall, precision = shares.diagonal(), (whole.diagonal() / whole.sum(0)).numpy()
    percent = lambda value: "–" if np.isnan(value) else f"{100 * value:.1f}%"  # noqa: E731
    for title, objective in (("balanced accuracy", "balanced-accuracy"), ("accuracy", "accuracy")):
        assert cards[title].startswith(percent(float(create_objective(objective, NAMES).value(1e6 * whole)))), (
            f"{case}: {title}"
        )
    f1 = 2 * whole.diagonal() / (whole.sum(0) + whole.sum(1))
    assert cards["macro-F1"].startswith(percent(float(f1.mean())))
    mean_cost = float((prior * np.asarray(cost) * (1 - recall)).sum())
    assert float(re.match(r"[\d.]+", cards["mean cost of a row"])[0].rstrip("a")) == pytest.approx(
        mean_cost, rel=6e-3
    )
    for k in range(5):
        assert values[k][0].startswith("recall" + percent(recall[k])), f"{case}: {NAMES[k]}"
        assert values[k][1] == "precision" + percent(precision[k])
        assert [float(cell) for cell in table[k]] == pytest.approx(100 * shares[k], abs=0.0501)


def test_numbers_are_the_same_to_the_last_digit(page):
    """The script's own numbers, for shifts at random, with and without scores left out."""
    scores, target = make_rows(60, 3000)
    dense = pack_rows([Model("a", scores, target)], 60)
    sparse = pack_rows([Model("a", scores, target)], 60, budget=60_000)
    assert dense.models[0].choices == 60
    assert sparse.models[0].choices < 60
    shift = np.random.default_rng(1).normal(0, 1.5, 60)
    with opened(page[0]) as (ask, _):
        for found in (dense, sparse):
            one = found.models[0]
            rows = one.unpack(60)
            decided = ask(
                lambda p, one=one: p.evaluate(
                    """async ([model, shift]) => {
                        const rows = await explorerNumbers.unpack(model, 60, false);
                        const decided = Array.from(explorerNumbers.decide(rows, shift, new Uint16Array(rows.n)));
                        const { recall, precision, macro } = explorerNumbers.worth(rows, decided,
                            explorerNumbers.normal(model.held_out), new Float64Array(60).fill(1));
                        return [decided, Array.from(recall), Array.from(precision), macro];
                    }""",
                    [one.to_dict(), shift.tolist()],
                )
            )
            expected = decide_packed(one, rows, shift)
            assert decided[0] == expected.tolist()
            weight = (np.asarray(one.held_out) / np.asarray(one.kept))[rows.target]
            right = np.bincount(rows.target, weight * (expected == rows.target), minlength=60)
            told = np.bincount(expected, weight, minlength=60)
            assert decided[1] == pytest.approx(right / one.held_out)
            assert decided[2] == pytest.approx(right / np.where(told > 0, told, np.nan), nan_ok=True)
            assert decided[3] == pytest.approx((2 * right / (told + one.held_out)).mean())


def test_the_code_does_what_the_page_shows(page):
    with opened(page[0]) as (ask, _):
        settings = ("x-exponent", 0.7), ("Shift of cat, as a number", -0.5)
        ask(lambda p: p.wait_for_selector("#explorer[data-ready]"))
        for library in ("torch", "sklearn-shift", "xgboost", "torch-weights", "sklearn", "xgboost-weights"):
            code = ask(lambda p, library=library: set_to(p, *settings, ("x-library", library)))[3]
            check_code(library, code)


def check_code(library, code):
    train = np.array([5000, 2000, 700, 300, 100])
    shift = 0.7 * np.log(train.sum() / 5 / train)
    shift[3] = -0.5
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given = {}

    class Net:
        classes_ = np.array(NAMES)

        def predict_proba(self, X):
            return logits.softmax(1).numpy()

        def predict(self, X, output_margin):
            return logits.numpy()

        def fit(self, X, y, sample_weight):
            given["weights"] = sample_weight

    def regression(class_weight):
        given["weights"] = np.array([class_weight[name] for name in NAMES])

    names = {"torch": torch, "np": np, "logits": logits, "model": Net(), "X": None, "y": np.arange(5)}
    names["LogisticRegression"] = regression
    exec(code, names)
    if "weights" in library or library == "sklearn":
        weights = given.get("weights", names.get("loss") and names["loss"].weight.numpy())
        assert weights == pytest.approx(np.exp(shift) / np.exp(shift).mean(), rel=1e-5)
    else:
        decided = np.asarray(names["decided"])
        expected = (logits + torch.from_numpy(shift)).argmax(1).numpy()
        assert (decided == (np.array(NAMES)[expected] if library == "sklearn-shift" else expected)).all()


def test_two_classes_have_a_threshold(tmp_path):
    scores, target = make_rows(2, 600)
    path = write_explorer(tmp_path / "page.html", scores, target, class_names=["fine", "fraud"])
    with opened(path) as (ask, said):
        ask(lambda p: p.wait_for_selector("#explorer[data-ready]"))
        _, values, _, _ = ask(lambda p: set_to(p, ("x-cut-number", 0.2)))
        shown = ask("document.querySelector('#x-pr circle title').textContent")
    told = scores[:, 1] - scores[:, 0] > np.log(0.2 / 0.8)
    recall, precision = told[target == 1].mean(), (target[told] == 1).mean()
    assert values[1][0].startswith(f"recall{100 * recall:.1f}%")
    assert shown == f"recall {100 * recall:.1f}%, precision {100 * precision:.1f}%"
    assert said == []


def test_outputs_have_thresholds(tmp_path):
    scores, truth = make_outputs()
    path = write_explorer(tmp_path / "page.html", scores, truth, class_names=["a", "b", "c", "d"])
    with opened(path, width=390) as (ask, said):
        ask(lambda p: p.wait_for_selector("#explorer[data-ready]"))
        ask(lambda p: p.get_by_label("Threshold of b, as a probability", exact=True).fill("0.8"))
        ask(lambda p: p.wait_for_timeout(100))
        values = ask(
            "[...document.querySelectorAll('#x-classes li')].map(e => [...e.querySelectorAll('.x-value')].map(v => v.textContent))"
        )
        micro, code = ask(
            "[document.querySelectorAll('#x-numbers dd')[1].textContent, document.getElementById('x-code').textContent]"
        )
    told = scores > np.array([0, np.log(4), 0, 0])
    own = truth > 0
    for j in range(4):
        assert values[j][0].startswith(f"recall{100 * told[own[:, j], j].mean():.1f}%")
        assert values[j][1] == f"precision{100 * own[told[:, j], j].mean():.1f}%"
    assert micro.startswith(f"{100 * 2 * (told & own).sum() / (told.sum() + own.sum()):.1f}%")
    names = {"torch": torch, "logits": torch.from_numpy(scores)}
    exec(code, names)
    assert (names["decided"].numpy() == (scores > np.array([0, np.log(4), 0, 0]))).all()
    assert said == []


def test_keys_move_a_slider_and_the_numbers_are_said_once(page):
    with opened(page[0]) as (ask, _):
        ask(lambda p: p.wait_for_selector("#explorer[data-ready]"))
        assert ask("document.getElementById('x-said').textContent") == ""
        ask(lambda p: p.focus("#x-exponent"))
        for _ in range(5):
            ask(lambda p: p.keyboard.press("ArrowRight"))
        assert ask("document.getElementById('x-exponent-number').value") == "0.05"
        ask(lambda p: p.get_by_role("status").get_by_text("Balanced accuracy").wait_for(state="attached"))
        ask(lambda p: p.click("#x-reset"))
        assert ask("document.getElementById('x-exponent').value") == "0"


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 10, 100, 1000])
@pytest.mark.parametrize(("width", "dark"), [(390, True), (1400, False)])
def test_pages_of_all_sizes_are_quiet_and_fit(tmp_path, size, width, dark):
    scores, target = make_rows(size, 6000)
    names = [NASTY[k % len(NASTY)] + f" {k}" for k in range(size)]
    path = write_explorer(tmp_path / "page.html", scores, target, class_names=names)
    assert path.stat().st_size < 1.5e6
    with opened(path, width=width, dark=dark) as (ask, said):
        ask(lambda p: p.wait_for_selector("#explorer[data-ready]"))
        assert ask("document.documentElement.scrollWidth - window.innerWidth") <= 0
        assert ask("document.querySelectorAll('#x-classes li').length") == min(size, 12)
        if size > 12:
            ask(lambda p: p.fill("#x-search", f" {size - 1}"))
            ask(lambda p: p.wait_for_timeout(200))
            assert ask("document.querySelectorAll('#x-classes li').length") == 1
    assert said == []


@pytest.mark.slow
def test_a_hundred_classes_follow_within_50_ms(tmp_path):
    scores, target = make_rows(100, 20000)
    path = write_explorer(tmp_path / "page.html", scores, target)
    with opened(path) as (ask, _):
        ask(lambda p: p.wait_for_selector("#explorer[data-ready]"))
        times = ask("""async () => {
            const slider = document.getElementById("x-exponent"), times = [];
            for (let i = 0; i < 30; i++) {
                slider.value = i / 30;
                slider.dispatchEvent(new Event("input"));
                await new Promise((done) => requestAnimationFrame((start) => { setTimeout(() => { times.push(performance.now() - start); done(); }); }));
            }
            return times.sort((a, b) => a - b);
        }""")
    assert times[5] < 50, times  # of 30, as other work of the machine makes some longer


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classes", "many", "two", "outputs"])
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_violation(tmp_path, kind, dark):
    package = importlib.util.find_spec("axe_playwright_python")
    if package is None and not os.environ.get("CI"):
        pytest.skip("axe-playwright-python is not installed")
    axe = next(Path(package.submodule_search_locations[0]).rglob("axe.min.js")).read_text(encoding="utf-8")
    rows = make_outputs() if kind == "outputs" else make_rows({"classes": 6, "many": 40, "two": 2}[kind], 800)
    with opened(write_explorer(tmp_path / "page.html", *rows), width=900, dark=dark) as (ask, _):
        ask(lambda p: p.wait_for_selector("#explorer[data-ready]"))
        ask(lambda p: p.evaluate(axe))
        found = ask(
            "axe.run(document).then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html.slice(0, 200))]))"
        )
    assert found == []
