"""The claims' experiments, small: they run, go on, say what they found, and their pages open."""

import csv
import json
import math
import random

import pytest

from steelyard.claims import CLAIMS, c2, claim_folder, read_claim_config, reproduce
from steelyard.experiments.statistics import holm, p_value
from steelyard.report import write_claim_page
from tests.helpers import run_command
from tests.report.browser import check_page
from tests.report.test_behaviour import violations

SMALL = {
    "c1": {"weights": [0.25, 4.0], "ratios": [1.0, 10.0], "weight_decays": [5e-4], "seeds": 1, "epochs": 3},
    "c2": {"seeds": 1, "epochs": 3, "limit_train": 200},
    "c3": {"seeds": 2, "epochs": 3, "losses": ["logistic", "lgl-inr", "softmax"]},
    "c4": {
        "seeds": 2,
        "epochs": 2,
        "imbalances": ["none", "step:10"],
        "losses": ["softmax", "logistic", "lgl-inr"],
        "learning_rates": [0.03],
    },
    "leaderboard": {
        "seeds": 2,
        "epochs": 2,
        "tasks": ["digits", "digits-rotated"],
        "losses": ["softmax:tau=1", "lgl-inr:tau=1", "logistic"],
        "learning_rates": [0.1],
        "weight_decays": [5e-4, 5e-3],
    },
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_configurations_that_ship_are_good(claim):
    config = read_claim_config(claim)
    assert config.dataset == "digits"
    jobs = CLAIMS[claim].jobs(config)
    assert len(jobs) >= config.seeds
    assert all(name == name.strip() and "/" not in name for name in jobs)
    full = read_claim_config(claim, full=True, seeds=7)
    assert full.seeds == 7
    assert len(CLAIMS[claim].jobs(full)) > 0
    assert (full.dataset, full.tasks) != (config.dataset, config.tasks)


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS)
def test_claim_runs_to_its_page_and_again_in_no_time(tmp_path, claim):
    config = read_claim_config(claim, **SMALL[claim])
    told = {}
    result = reproduce(claim, config, tmp_path / claim, command="<c>", on_done=told.__setitem__)
    assert set(told.values()) == {"done"}
    assert result.held in ("yes", "no", "partly", "undecided")
    assert "nan" not in result.verdict
    json.dumps(result.to_dict(), allow_nan=False)
    assert json.loads((tmp_path / claim / "claim.json").read_text())["verdict"] == result.verdict
    rows = list(csv.DictReader((tmp_path / claim / "rows.csv").read_text().splitlines()))
    assert len(rows) == len(told)
    page = tmp_path / claim / "report.html"
    check_page(page, figures=1)
    assert [found for dark in (False, True) for found in violations(page, 390, dark)] == []
    assert "&lt;c&gt;" in page.read_text()
    again = reproduce(claim, config, tmp_path / claim, on_done=told.__setitem__)
    assert set(told.values()) == {"was finished"}
    assert again.numbers == result.numbers
    for key in ("finished", "seconds", "environment", "command"):
        assert getattr(again, key) == getattr(result, key)
    assert write_claim_page(tmp_path / claim) == page
    older = json.loads((tmp_path / claim / "claim.json").read_text())  # as it was before there were these
    del older["environment"]["commit"]
    for row in (row for table in older.get("tables", []) for row in table["rows"]):
        for key in (
            *("diverged", "decay", "ahead", "worst_recall", "uniform_accuracy", "nll", "ece", "chosen_epoch"),
        ):
            del row[key]
    (tmp_path / claim / "claim.json").write_text(json.dumps(older))
    assert write_claim_page(tmp_path / claim) == page
    with pytest.raises(ValueError, match="is of another run: epochs is"):
        reproduce(claim, read_claim_config(claim, **SMALL[claim] | {"epochs": 4}), tmp_path / claim)


def _records(ours, other, groups=("none",)):
    base = {"learning_rate": 0.1, "fewest": 9, "accuracy": [0.5] * 4, "rare_recall": [0.5] * 4}
    return [
        base | {"imbalance": group, "loss": loss, "balanced_accuracy": values}
        for group in groups
        for loss, values in (("lgl-inr", ours), ("logistic", other), ("softmax", other))
    ]


@pytest.mark.parametrize(
    ("ours", "held"),
    [
        ([0.90, 0.91, 0.92, 0.905], "yes"),
        ([0.70, 0.71, 0.72, 0.705], "no"),
        ([0.80, 0.83, 0.80, 0.81], "partly"),  # noise
        ([0.80, 0.81, 0.82, 0.80], "partly"),  # the same
    ],
)
def test_verdict_of_c4(ours, held):
    config = read_claim_config("c4", losses=["softmax", "logistic", "lgl-inr"], seeds=4)
    result = CLAIMS["c4"].conclude(_records(ours, [0.80, 0.81, 0.82, 0.80]), config)
    assert result.held == held
    assert result.verdict.startswith("Of 2 comparisons")


@pytest.mark.parametrize("claim", ["c4", "leaderboard"])
def test_one_seed_decides_nothing_and_speaks_of_no_interval(claim):
    config = read_claim_config(
        claim,
        seeds=1,
        losses=["softmax", "logistic", "lgl-inr"],
        tasks=["digits"],
        reference="softmax",
        candidate="lgl-inr",
    )
    records = [r | {"dataset": "digits"} for r in _records([0.9], [0.8])]
    result = CLAIMS[claim].conclude(records, config)
    assert result.held == "undecided"
    assert result.verdict.startswith("One seed decides nothing")
    assert "+10.0" in result.verdict
    assert "95%" not in result.verdict
    without = CLAIMS[claim].conclude(records, config.model_copy(update={"losses": ["softmax"]}))
    assert without.held == "undecided"
    assert "without" in without.verdict


def test_ahead_of_softmax_alone_does_not_say_that_logistic_is_improved():
    config = read_claim_config("c4", losses=["softmax", "lgl-inr"], seeds=4)
    records = _records([0.90, 0.91, 0.92, 0.905], [0.80, 0.81, 0.82, 0.80])
    assert CLAIMS["c4"].conclude([r for r in records if r["loss"] != "logistic"], config).held == "partly"


@pytest.mark.parametrize(
    ("ratio", "largest", "held", "words"),
    [
        ([8.0, 8.1, 8.2], [0.30, 0.31, 0.29], "yes", "out less from the average, and its false probability is lower."),
        ([8.0, 8.1, 8.2], [0.10, 0.11, 0.09], "partly", "out less from the average, and its false probability is higher."),
        ([8.0, 8.1, 8.2], [0.30, 0.11, 0.19], "partly", "false probability is neither surely lower nor surely higher."),
        ([1.0, 1.1, 1.2], [0.30, 0.31, 0.29], "no", "out more from the average, and its false probability is lower."),
        ([8.0], [0.3], "undecided", "neither surely less nor surely more from the average"),
    ],
)  # fmt: skip
def test_verdict_of_c3_says_what_the_seeds_tell(ratio, largest, held, words):
    config = read_claim_config("c3", losses=["logistic", "lgl-inr"], seeds=len(ratio))
    base = {"average": [0.1], "averaged_away": 0, "balanced_accuracy": 0.9}
    records = [
        base | {"loss": "logistic", "ratio": r, "hardest": [h]} for r, h in zip(ratio, largest, strict=True)
    ]
    records += [base | {"loss": "lgl-inr", "ratio": 4.0, "hardest": [0.2]} for _ in ratio]
    result = CLAIMS["c3"].conclude(records, config)
    assert result.held == held
    assert words in result.verdict


def test_orders_of_c2_are_called_what_they_are():
    rarest = {order: int(c2._ordered(order, 10, 0)[-1]) for order in c2._RARE}
    assert rarest["first"] == 9
    assert c2._RARE["first"] == "rare classes last"
    assert rarest["last"] == 0
    assert c2._RARE["last"] == "rare classes first"


@pytest.mark.parametrize(("apart", "noise", "held"), [(0.2, 0.01, "yes"), (0.0, 0.05, "partly")])
def test_verdict_of_c2_is_not_of_noise(apart, noise, held):
    generator = random.Random(0)
    plain = {"misfit": 0.01, "polished_misfit": 1e-9, "largest_rise_of_own_loss": -0.1}
    plain |= {"own_fell": 0, "raised": 10, "others_rose": 0, "others": 90}
    records = [
        plain
        | {"scheme": scheme, "order": order, "seed": seed}
        | {"own_by_rank": [0.5 + apart * i + generator.gauss(0, noise) for _ in range(10)]}
        for scheme in ("none", "inverse")
        for i, order in enumerate(("first", "last", "shuffled"))
        for seed in range(3)
    ]
    result = CLAIMS["c2"].conclude(records, read_claim_config("c2", seeds=3))
    assert result.held == held
    assert "between seeds of one assignment" in result.verdict


@pytest.mark.parametrize(
    ("power", "noise", "held"), [(1.0, 0.01, "yes"), (1.0, 3.0, "partly"), (0.5, 0.01, "partly")]
)
def test_verdict_of_c1(power, noise, held):
    generator = random.Random(0)
    records = [
        {"law": law, "measured": law**power * math.exp(generator.gauss(0, noise)), "polished": law}
        | {"weight_decay": 0.0, "ratio": 1.0}
        for law in (0.01, 0.1, 1.0, 10.0)
        for _ in range(3)
    ]
    config = read_claim_config("c1", weight_decays=[0.0])
    assert CLAIMS["c1"].conclude(records, config).held == held
    wrong = [record | {"polished": 1.1 * record["law"]} for record in records]
    assert CLAIMS["c1"].conclude(wrong, config).held == "no"
    same = CLAIMS["c1"].conclude(records[:3], config)  # one law: no power of it
    assert same.held == "partly"
    json.dumps(same.to_dict(), allow_nan=False)


def test_a_seed_that_diverged_is_left_out_of_the_pairs():
    config = read_claim_config("c4", losses=["softmax", "logistic", "lgl-inr"], seeds=4)
    result = CLAIMS["c4"].conclude(_records([0.90, None, 0.92, 0.905], [0.80, 0.81, 0.82, 0.80]), config)
    row = next(row for row in result.tables[0].rows if row.loss == "lgl-inr")
    assert row.diverged == 1
    assert row.balanced_accuracy[0] == pytest.approx((0.90 + 0.92 + 0.905) / 3)
    assert "+10.2" in result.verdict


@pytest.mark.parametrize(
    ("ours", "held", "words"),
    [
        ([0.82, 0.83, 0.83, 0.82], "yes", "less than a point behind in 1,"),
        ([0.70, 0.95, 0.60, 0.99], "undecided", "4 seeds do not tell. On average"),  # of noise, behind
        ([0.70, 0.99, 0.70, 0.99], "undecided", "in 1 of 1 tasks"),  # of noise, ahead
        ([0.70, 0.71, 0.70, 0.72], "no", "surely worse, or diverges more often, in 1 "),
        ([None, None, 0.95, 0.95], "no", "Diverged: lgl-inr in 2 of 4 seeds (digits)."),
        ([None] * 4, "no", "Diverged: lgl-inr in 4 of 4 seeds (digits)."),
    ],
)
def test_verdict_of_the_leaderboard(ours, held, words):
    config = read_claim_config(
        "leaderboard",
        losses=["softmax", "lgl-inr"],
        tasks=["digits"],
        reference="softmax",
        candidate="lgl-inr",
        seeds=4,
    )
    records = [r | {"dataset": "digits"} for r in _records(ours, [0.80, 0.81, 0.82, 0.80])]
    result = CLAIMS["leaderboard"].conclude([r for r in records if r["loss"] != "logistic"], config)
    assert result.held == held
    assert words in result.verdict
    json.dumps(result.to_dict(), allow_nan=False)


def test_weights_of_c3_start_when_they_are_said_to():
    config = read_claim_config(
        "c3", losses=["softmax:inverse", "softmax:inverse:from=1"], epochs=2, seeds=1, limit_train=200
    )
    always, late = (CLAIMS["c3"].work(job)["ratio"] for job in CLAIMS["c3"].jobs(config).values())
    assert always != late


def test_without_out_every_configuration_has_a_folder_of_its_own(tmp_path):
    def folder(**changes):
        return claim_folder(tmp_path, "c4", read_claim_config("c4", **changes)).name

    assert folder() == "c4"
    (tmp_path / "c4").mkdir()
    assert folder(seeds=1) == "c4"  # nothing was begun there
    given = {"claim": "c4"} | read_claim_config("c4").model_dump()
    (tmp_path / "c4" / "config.json").write_text(json.dumps(given))
    assert folder() == "c4"
    assert folder(seeds=1) == "c4-2"
    (tmp_path / "c4-2").mkdir()
    (tmp_path / "c4-2" / "config.json").write_text(json.dumps(given | {"seeds": 1}))
    assert (folder(), folder(seeds=1), folder(seeds=2)) == ("c4", "c4-2", "c4-3")


def test_folders_that_cannot_be_read_are_left_out(tmp_path):
    config, told = read_claim_config("c4"), []
    given = {"claim": "c4"} | config.model_dump()
    for name, text in (("c4", json.dumps(given)), ("c4-2", "[1]"), ("c4-3", "{"), ("c4-4", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / ("notes.txt" if text is None else "config.json")).write_text(text or "mine")
    assert claim_folder(tmp_path, "c4", config, told.append) == tmp_path / "c4"
    assert [text.split(":")[0] for text in told] == [f"{tmp_path / f'c4-{k}'} is left out" for k in (4, 3, 2)]
    with pytest.raises(FileExistsError, match=r"holds other files, such as notes\.txt; name another"):
        reproduce("c4", config, tmp_path / "c4-4")


def test_jobs_that_six_digits_do_not_tell_apart_are_all_done():
    config = read_claim_config("c1", weights=[1.0, 1.0000001], ratios=[1.0], weight_decays=[0.0], seeds=1)
    assert list(CLAIMS["c1"].jobs(config)) == ["w1-i1-d0-s0", "w1.0000001-i1-d0-s0"]
    config = read_claim_config("leaderboard", tasks=["./a b", "./a-b"])
    with pytest.raises(ValueError, match=r"names must differ in letters and numbers, got ./a b, ./a-b"):
        CLAIMS["leaderboard"].jobs(config)


def test_without_an_imbalance_the_leaderboard_leaves_a_table_as_it_is(tmp_path):
    lines = ["x,label", *(f"{i},{name}" for name, many in (("a", 60), ("b", 30), ("c", 10)) for i in range(many))]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    config = read_claim_config(
        "leaderboard",
        tasks=[str(tmp_path / "table.csv")],
        imbalance="none",
        losses=["softmax"],
        seeds=1,
        epochs=1,
        learning_rates=[0.1],
        weight_decays=[5e-4],
    )
    (job,) = CLAIMS["leaderboard"].jobs(config).values()
    found = CLAIMS["leaderboard"].work(job)
    assert found["most"] > 5 * found["fewest"] > 25  # without the test and the validation samples
    with pytest.raises(ValueError, match="seeds must be 1 for learner linear without an imbalance"):
        read_claim_config("leaderboard", imbalance="none", learner="linear", seeds=2)
    with pytest.raises(ValueError, match="limit_train must not be given without an imbalance"):
        CLAIMS["leaderboard"].work(job | {"limit_train": 20})


def test_data_are_looked_at_before_anything_is_written(tmp_path):
    config = read_claim_config("c3", imbalance="exponential:100000", seeds=1, epochs=1)
    with pytest.raises(ValueError, match="imbalance"):
        reproduce("c3", config, tmp_path / "c3")
    assert not (tmp_path / "c3" / "config.json").exists()


def test_p_values_and_their_correction():
    assert p_value([0.0, 0.0]) == 1
    assert p_value([0.25, 0.25]) == 0.5
    assert p_value([-0.25] * 5) == 2 * 0.5**5
    assert p_value([1.0, 2.0, 3.0]) == pytest.approx(0.0742, abs=1e-4)
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]


@pytest.mark.slow
def test_what_is_exact_is_exact(tmp_path):
    """Polished heads are on the laws, and the guarantee holds, whatever training left."""
    numbers = {}
    for claim in ("c1", "c2"):
        result = reproduce(claim, read_claim_config(claim, **SMALL[claim]), tmp_path / claim, workers=2)
        numbers |= {n.name: n.value for n in result.numbers}
    assert numbers["largest relative error, head polished"] <= 1e-6
    assert numbers["largest misfit, head polished"] <= 1e-6
    assert numbers["largest relative rise of a class's own mean loss"] <= 1e-6
    assert numbers["degrees of freedom"] == 81
    assert math.isfinite(numbers["power of the law in the measured ratio, as trained"])


@pytest.mark.slow
def test_command(capsys, tmp_path):
    """With a worker a core."""
    out = str(tmp_path)
    given = ("reproduce", "c3", "--epochs", "2", "--seeds", "2", "--limit-train", "200", "--out", out)
    code, text, err = run_command(capsys, *given, "--imbalance", "step:2")
    assert code == 0, err
    assert text.startswith("c3 ")
    assert text.strip().endswith(f"report: {tmp_path / 'c3' / 'report.html'}")
    assert "c3 logistic-s0: done" in err
    code, text, _ = run_command(capsys, "report", str(tmp_path / "c3"))
    assert code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("c9",), "claim must be one of c1, c2, c3, c4, leaderboard or all, got 'c9'"),
        (("c1", "--seeds", "0"), "seeds: input should be greater than or equal to 1, got 0"),
        (("c1", "--imbalance", "step:3"), "c1 has imbalances and a loss of its own"),
        (("c2", "--losses", "logistic"), "c2 has a loss of its own"),
        (("all", "--losses", "logistic"), "c1 has imbalances and a loss of its own"),
        (("c3", "--imbalance", "step:3,step:9"), "only c4 takes several imbalances, got step:3,step:9 for c3"),
        (("c4", "--losses", "softmax:inverse:from=5", "--epochs", "5"), "from must be an epoch below 5"),
        (("c4", "--image-size", "3"), "image_size: input should be greater than or equal to 8, got 3"),
        (("c2", "--imbalance", "exp:3"), "imbalance must be none, exponential:RATIO"),
    ],
)
def test_bad_input(capsys, tmp_path, arguments, message):
    code, _, err = run_command(capsys, "reproduce", *arguments, "--out", str(tmp_path / "x"))
    assert code == 2
    assert message in err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "vgg"}, "^backbone must be one of linear, mlp, mlp-cosine, small-cnn, resnet32, timm:NAME"),
        ({"epochs": 0}, "^epochs: input should be greater than or equal to 1, got 0$"),
    ],
)
def test_bad_setting_is_refused_before_any_training(changes, message):
    with pytest.raises(ValueError, match=message):
        read_claim_config("c1", **changes)
