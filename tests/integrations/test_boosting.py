"""Objectives against the libraries' own, on tiny trainings, and their derivatives against finite differences."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from steelyard import TrainingSetup
from steelyard.integrations.boosting import audit_boosting, margins, objective
from tests.oracles import lgl_inr

catboost = pytest.importorskip("catboost")
lightgbm = pytest.importorskip("lightgbm")
xgboost = pytest.importorskip("xgboost")
pytestmark = pytest.mark.filterwarnings("ignore:Failed to import numba")  # CatBoost asks for it

WEIGHTS = np.array([1.0, 2.0, 5.0])
XGB = {
    "n_estimators": 8,
    "max_depth": 3,
    "tree_method": "exact",
    "n_jobs": 1,
}  # bins would move with weights of rows
LGB = {"n_estimators": 8, "num_leaves": 6, "n_jobs": 1, "verbose": -1}
CAT = {"iterations": 4, "depth": 2, "learning_rate": 0.3, "bootstrap_type": "No", "random_strength": 0}
CAT |= {"verbose": False, "allow_writing_files": False, "thread_count": 1}


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    X = random.normal(size=(240, 4)).astype(np.float32)
    return X, (X[:, 0] + random.normal(size=240) / 2 > 0).astype(int) + (X[:, 1] > 0.8), 1 + random.random(240)


def _same(ours, theirs, X):
    np.testing.assert_allclose(margins(ours, X), margins(theirs, X), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_xgboost_softmax_is_its_own(rows, weighted):
    X, y, s = rows
    s = s if weighted else np.ones(len(y))
    fit = {"sample_weight": s} if weighted else {}
    ours = xgboost.XGBClassifier(objective=objective("softmax", class_weights=WEIGHTS), base_score=0, **XGB)
    theirs = xgboost.XGBClassifier(objective="multi:softprob", base_score=0, **XGB)
    ours.fit(X, y, **fit), theirs.fit(X, y, sample_weight=s * WEIGHTS[y])
    _same(ours, theirs, X)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
    trees = [m.get_booster().trees_to_dataframe()[["Feature", "Split", "Yes"]] for m in (ours, theirs)]
    assert trees[0].equals(trees[1])


@pytest.mark.parametrize("loss", ["logistic", "softmax"])
def test_xgboost_of_two_classes_is_its_own(rows, loss):
    X, y, _ = rows
    ours = xgboost.XGBClassifier(objective=objective(loss, class_weights=[1.0, 3.0]), base_score=0.5, **XGB)
    theirs = xgboost.XGBClassifier(objective="binary:logistic", scale_pos_weight=3, base_score=0.5, **XGB)
    _same(ours.fit(X, y > 0), theirs.fit(X, y > 0), X)


@pytest.mark.parametrize(
    ("loss", "builtin", "weights"),
    [
        ("softmax", "multiclass", WEIGHTS),
        ("logistic", "multiclassova", WEIGHTS),
        ("logistic", "binary", [1.0, 3.0]),
    ],
)
def test_lightgbm_is_its_own(rows, loss, builtin, weights):
    X, y, s = rows
    y = y if len(weights) == 3 else (y > 0).astype(int)
    made = objective(loss, library="lightgbm", class_weights=weights)
    ours = lightgbm.LGBMClassifier(objective=made, **LGB).fit(X, y, sample_weight=s)
    theirs = lightgbm.LGBMClassifier(objective=builtin, boost_from_average=False, **LGB)
    _same(ours, theirs.fit(X, y, sample_weight=s * np.asarray(weights)[y]), X)


@pytest.mark.parametrize(
    ("loss", "builtin", "weights"),
    [
        ("softmax", "MultiClass", WEIGHTS),
        ("logistic", "MultiClassOneVsAll", WEIGHTS),
        ("logistic", "Logloss", [1, 3]),
    ],
)
def test_catboost_is_its_own(rows, loss, builtin, weights):
    X, y, s = (part[:60] for part in rows)
    y = y if len(weights) == 3 else (y > 0).astype(int)
    made = objective(loss, library="catboost")
    more = CAT | {"class_weights": list(map(float, weights))}
    ours = catboost.CatBoostClassifier(loss_function=made, eval_metric=builtin, **more).fit(X, y, sample_weight=s)
    start = {"boost_from_average": False} if builtin == "Logloss" else {}
    theirs = catboost.CatBoostClassifier(loss_function=builtin, **more, **start).fit(X, y, sample_weight=s)
    _same(ours, theirs, X)


def test_the_libraries_own_train_gives_the_same_as_their_classifiers(rows):
    X, y, s = rows
    data = xgboost.DMatrix(X, y, weight=s)
    params = {"num_class": 3, "base_score": 0, "max_depth": 3, "tree_method": "exact"}
    made = objective("focal", class_weights="inverse")
    native = xgboost.train(params | {"disable_default_eval_metric": True}, data, 8, obj=made)
    fitted = xgboost.XGBClassifier(objective=made, base_score=0, **XGB).fit(X, y, sample_weight=s)
    np.testing.assert_allclose(margins(native, data), margins(fitted, X), atol=1e-6)
    made = objective("focal", library="lightgbm", class_weights="inverse")
    params = {"objective": made, "num_class": 3, "num_leaves": 6, "verbose": -1}
    native = lightgbm.train(params, lightgbm.Dataset(X, y, weight=s), 8)
    _same(native, lightgbm.LGBMClassifier(objective=made, **LGB).fit(X, y, sample_weight=s), X)
    with pytest.raises(TypeError, match="library must be 'xgboost' for its training data, got 'lightgbm'"):
        made(np.zeros((240, 3)), data)


@pytest.mark.parametrize("detach", [False, True])
def test_lgl_inr_has_the_gradient_of_the_oracle_and_the_curvature_of_held_weights(detach):
    random = np.random.default_rng(1)
    z, y = random.normal(size=(11, 3)), np.array([0] * 6 + [1] * 4 + [2])
    made = objective("lgl-inr", beta=3.0, detach_weights=detach)
    gradient, hessian = made(y, z)
    at = torch.tensor(z, requires_grad=True)
    (expected,) = torch.autograd.grad(
        lgl_inr(at, torch.tensor(y), beta=3.0, detach_weights=detach, reduction="sum"), at
    )
    np.testing.assert_allclose(gradient, expected * 11 / 3, rtol=1e-5)
    held = objective("lgl-inr", beta=3.0, detach_weights=True)
    P = np.stack([(1 / (1 + np.exp(-z)))[y == k].mean(0) for k in range(3)])
    omega = np.exp(3 * P) * (1 - np.eye(3))
    omega /= omega.sum(0)
    share = (omega + np.eye(3))[y] / np.bincount(y)[y][:, None] * 11 / 3
    p = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(hessian, share * p * (1 - p), rtol=1e-5)
    np.testing.assert_allclose(held(y, z)[1], hessian, rtol=1e-6)
    assert (
        0.5 < np.abs(gradient).sum() / np.abs(objective("logistic", class_weights="balanced")(y, z)[0]).sum() < 2
    )


@pytest.mark.parametrize(
    ("loss", "options"), [("focal", {}), ("focal", {"link": "logistic"}), ("softmax", {"label_smoothing": 0.2})]
)
def test_hessian_is_positive_and_nowhere_below_the_true_one(loss, options):
    z, y = np.random.default_rng(2).normal(size=(40, 4)) * 3, np.arange(40) % 4
    gradient, h = objective(loss, **options)(y, z)
    module = objective(loss, **options).loss()
    for row in range(40):
        one = torch.tensor(z[row])
        value = lambda x, row=row: module.per_sample(x[None], torch.tensor([y[row]])).sum()  # noqa: E731
        np.testing.assert_allclose(gradient[row], torch.func.grad(value)(one), rtol=1e-4, atol=1e-7)
        H = torch.autograd.functional.hessian(value, one).numpy()
        assert np.linalg.eigvalsh(np.diag(h[row]) - H).min() > -1e-6
        assert (h[row] > 0).all()


def test_focal_of_catboost_gets_a_matrix_that_is_nowhere_negative():
    made = objective("focal", library="catboost", gamma=4.0)
    der1, der2 = made.calc_ders_multi(np.array([4.0, -2.0, 1.0]), 1.0, 2.0)
    gradient, _ = objective("focal", gamma=4.0)([1], np.array([[4.0, -2.0, 1.0]]), [2.0])
    np.testing.assert_allclose(der1, -gradient[0], rtol=1e-6)
    module, z = made.loss(), torch.tensor([4.0, -2.0, 1.0]).double()
    H = torch.autograd.functional.hessian(lambda x: module.per_sample(x[None], torch.tensor([1])).sum(), z)
    assert torch.linalg.eigvalsh(H).min() < -1e-3, "the example is convex here and tests nothing"
    assert np.linalg.eigvalsh(-np.array(der2)).min() > -1e-9


def test_every_library_is_audited_in_one_call(rows):
    X, y, _ = rows
    names = np.array(["ape", "bee", "cat"])[y]
    weighted = {"class_weights": WEIGHTS}
    cat = CAT | {"iterations": 10, "learning_rate": 0.6, "class_weights": list(WEIGHTS)}
    models = [
        (xgboost.XGBClassifier(objective=objective("softmax", **weighted), n_estimators=40, n_jobs=1), X, y),
        (
            lightgbm.LGBMClassifier(
                objective=objective("softmax", library="lightgbm", **weighted), **LGB | {"n_estimators": 40}
            ),
            X,
            names,
        ),
        (
            catboost.CatBoostClassifier(
                loss_function=objective("softmax", library="catboost"), eval_metric="MultiClass", **cat
            ),
            X[:60],
            names[:60],
        ),
    ]
    stated = TrainingSetup("softmax", class_weights=WEIGHTS)
    for model, X, y in models:
        model.fit(X, y)
        report = audit_boosting(model, X, y, stated)
        assert report.residual.misfit < 0.1, type(model).__name__
        assert audit_boosting(model, X, y, TrainingSetup("softmax")).residual.misfit > 0.15, type(model).__name__
        if "class_weights" in model.get_params():
            with pytest.raises(ValueError, match="setup must be given for a model with class_weights"):
                audit_boosting(model, X, y)
        else:
            assert audit_boosting(model, X, y).residual.misfit == report.residual.misfit
    with pytest.raises(ValueError, match=r"target must hold classes of the model, got .*dog"):
        audit_boosting(model, X, np.where(y == "cat", "dog", y))
    theirs = lightgbm.LGBMClassifier(**LGB).fit(X, y)
    with pytest.raises(ValueError, match="setup must say what the model was trained with"):
        audit_boosting(theirs, X, y)
    with pytest.raises(TypeError, match="model must be of xgboost, lightgbm or catboost, got dict"):
        margins({}, X)


def test_schemes_and_presets_count_the_training_rows(rows):
    _, y, _ = rows
    z = np.random.default_rng(3).normal(size=(len(y), 3))
    counted = objective("softmax", class_weights="inverse")(y, z)
    stated = objective("softmax", class_weights="inverse", class_counts=np.bincount(y))(y, z)
    np.testing.assert_array_equal(counted, stated)
    shifted = z + np.log(np.bincount(y) / len(y))
    np.testing.assert_allclose(
        objective("balanced-softmax")(y, z)[0], objective("softmax")(y, shifted)[0], atol=1e-6
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: objective("lgl-inr", library="catboost"), "catboost calls an objective row by row"),
        (
            lambda: objective("softmax", library="catboost", class_weights="inverse"),
            "class_weights must be given to catboost",
        ),
        (lambda: objective("balanced-softmax", library="catboost"), "class_counts must be given"),
        (lambda: objective("softmax", library="gbm"), "library must be one of"),
        (lambda: objective("softmax", gama=1), "has no option 'gama'"),
        (lambda: objective("softmax", reduction="mean"), "an objective takes no reduction"),
        (
            lambda: objective("softmax")([0.5], np.zeros((1, 2))),
            "labels must be whole numbers from 0 to 1, got 0.5",
        ),
        (lambda: objective("softmax")([3], np.zeros((1, 2))), "labels must be whole numbers from 0 to 1, got 3"),
        (lambda: objective("softmax")([0, 1], np.zeros((1, 2))), r"labels must have shape \(1,\)"),
        (
            lambda: objective("softmax", class_weights=[1, 1])([2], np.zeros((1, 3))),
            "class_weights must have shape",
        ),
        (lambda: objective("lgl-inr")([0, 1], np.zeros(2)), "needs one margin a class"),
        (lambda: objective("lgl-inr")([0, 1], np.zeros((2, 2)), [1, 2]), "takes no sample_weight"),
        (lambda: objective("softmax", library="catboost")([0], np.zeros((1, 2))), "and is not called"),
    ],
)
def test_what_cannot_be_had_is_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_a_part_of_the_rows_is_not_taken_for_all(monkeypatch):
    monkeypatch.setattr(xgboost.collective, "get_world_size", lambda: 2)
    for made, message in (
        (objective("lgl-inr"), "function of all rows"),
        (objective("softmax", class_weights="inverse"), "class_counts must"),
    ):
        with pytest.raises(RuntimeError, match=message):
            made([0, 1], np.zeros((2, 2)))
    objective("softmax", class_weights="inverse", class_counts=[1, 1])([0, 1], np.zeros((2, 2)))


@pytest.mark.slow
def test_example_says_what_it_shows(capsys):
    runpy.run_path(str(Path(__file__).parents[2] / "examples/xgboost_objective.py"), run_name="__main__")
    assert "The weights acted as stated." in capsys.readouterr().out


def test_a_loss_of_counts_sees_those_of_the_rows_and_one_of_batches_is_refused():
    z, y = np.zeros((6, 3), dtype=np.float32), np.array([0, 0, 0, 1, 1, 2])
    gradient, _ = objective("seesaw")(y, z)
    pairs = torch.tensor([[3.0, 2.0, 1.0]]) / torch.tensor([[3.0], [2.0], [1.0]])
    shares = pairs.clamp(max=1) ** 0.8
    expected = (shares / shares.sum(1, keepdim=True) - torch.eye(3))[torch.tensor(y)]
    np.testing.assert_allclose(gradient, expected.numpy(), atol=1e-6)
    with pytest.raises(ValueError, match="eqlv2 adds up what batches show it, and a booster has no batches"):
        objective("eqlv2")(y, z)
