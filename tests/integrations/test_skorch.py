"""skorch: rows of probabilities that sum to 1, without what loss and weights did."""

import pickle

import numpy as np
import pytest
import skorch
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.utils.data import WeightedRandomSampler

import steelyard
from steelyard.integrations.skorch import HonestNetClassifier

COUNTS = [600, 150, 50]
WEIGHTS = [1.0, 4.0, 12.0]


def _data(counts=tuple(COUNTS)):
    y = np.repeat(np.arange(len(counts)), counts)
    X = np.random.default_rng(0).normal(size=(len(y), 4)) + np.eye(4)[y]
    return X.astype(np.float32), y


class _One(nn.Module):
    """One output, with or without a dimension for it."""

    def __init__(self, flat):
        super().__init__()
        self.head, self.flat = nn.Linear(4, 1), flat

    def forward(self, x):
        return self.head(x)[:, 0] if self.flat else self.head(x)


NEWTON = {"optimizer": torch.optim.LBFGS, "lr": 1.0, "optimizer__max_iter": 60}  # one epoch is enough


def _net(module=nn.Linear, epochs=60, **options):
    torch.manual_seed(0)
    inside = {"module__in_features": 4, "module__out_features": 3} if module is nn.Linear else {}
    options = {"max_epochs": epochs, "lr": 0.5, "batch_size": 800, "train_split": None, "verbose": 0} | options
    return HonestNetClassifier(module, **inside, **options)


def test_probabilities_are_the_posterior_and_not_logits():
    X, y = _data()
    net = _net(criterion__class_weights=WEIGHTS, epochs=5).fit(X, y)
    z = net.forward(X)
    expected = torch.softmax(z - torch.tensor(WEIGHTS).log(), 1)
    torch.testing.assert_close(torch.from_numpy(net.predict_proba(X)), expected)
    assert (net.predict(X) == expected.argmax(1).numpy()).all()
    # what skorch does by itself with such a loss
    plain = skorch.NeuralNetClassifier(
        nn.Linear(4, 3), criterion=steelyard.SoftmaxLoss, train_split=None, verbose=0, max_epochs=1
    ).fit(X, y)
    np.testing.assert_array_equal(plain.predict_proba(X), plain.forward(X).numpy())


@pytest.mark.parametrize(
    "options",
    [
        {"criterion__class_weights": "inverse"},
        {"criterion__class_weights": WEIGHTS, "criterion__normalization": "count"},
        {"criterion": nn.CrossEntropyLoss, "criterion__weight": torch.tensor(WEIGHTS)},
        {"criterion": steelyard.SoftmaxLoss(logit_adjustment=steelyard.logit_adjustment(COUNTS))},
    ],
)
def test_means_are_the_class_frequencies(options):
    """A trained head of softmax has them in its training rows, weighted or not, once the weights are out, nearly."""
    X, y = _data()
    net = _net(epochs=2, **NEWTON, **options).fit(X, y)
    p = net.predict_proba(X)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(p.mean(0), np.array(COUNTS) / 800, atol=0.02)


@pytest.mark.parametrize("name", ["logistic", "focal"])
def test_every_loss_gives_rows_that_sum_to_one(name):
    X, y = _data()
    loss = steelyard.create_loss(name, class_weights=WEIGHTS)
    net = _net(criterion=loss, epochs=20).fit(X, y)
    setup = steelyard.TrainingSetup(loss)
    expected = steelyard.log_posterior(net.forward(X), setup).exp()
    torch.testing.assert_close(torch.from_numpy(net.predict_proba(X)), expected)
    np.testing.assert_allclose(expected.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("flat", [True, False])
def test_one_output_has_two_columns(flat):
    X, y = _data((600, 100))
    net = _net(
        _One,
        module__flat=flat,
        epochs=2,
        **NEWTON,
        criterion=steelyard.LogisticLoss,
        criterion__class_weights="inverse",
    )
    net.fit(X, y)
    p = net.predict_proba(X)
    z = net.forward(X).reshape(-1) - np.log(6)
    np.testing.assert_allclose(p, np.stack([torch.sigmoid(-z), torch.sigmoid(z)], 1), rtol=1e-4, atol=1e-7)
    assert p[:, 1].mean() == pytest.approx(1 / 7, abs=0.01)


def test_a_prior_of_use_moves_the_probabilities():
    X, y = _data()
    net = _net(criterion__class_weights="inverse", epochs=5).fit(X, y)
    honest = net.predict_proba(X)
    uniform = net.set_params(prior="uniform").predict_proba(X)
    expected = honest / np.array(COUNTS)
    np.testing.assert_allclose(uniform, expected / expected.sum(1, keepdims=True), rtol=1e-4)
    stated = net.set_params(prior=[1 / 3] * 3).predict_proba(X)
    np.testing.assert_allclose(stated, uniform, rtol=1e-5)


def test_schemes_are_made_of_each_fold_in_a_search():
    X, y = _data()
    grid = {"criterion__class_weights": [None, "inverse"], "lr": [0.5]}
    search = GridSearchCV(_net(epochs=3), grid, scoring="neg_log_loss", cv=2, error_score="raise").fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    net = clone(_net(criterion__class_weights="inverse", epochs=1)).fit(X, y)
    torch.testing.assert_close(net.criterion_.class_weights, steelyard.class_weights(COUNTS, "inverse"))
    net.fit(X[100:], y[100:])
    torch.testing.assert_close(net.criterion_.class_weights, steelyard.class_weights([500, 150, 50], "inverse"))


def test_validation_scores_and_pickles_see_probabilities():
    X, y = _data()
    net = _net(
        criterion__class_weights="inverse", epochs=2, train_split=skorch.dataset.ValidSplit(5, stratified=True)
    )
    net.fit(X, y)
    assert 0 < net.history[-1]["valid_acc"] <= 1
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(again.predict_proba(X), net.predict_proba(X))


def test_labels_of_a_dataset_are_counted():
    X, y = _data()
    net = _net(criterion__class_weights="inverse", epochs=1).fit(skorch.dataset.Dataset(X, y), None)
    torch.testing.assert_close(net.criterion_.class_weights, steelyard.class_weights(COUNTS, "inverse"))


def test_a_sampler_is_taken_out_where_it_is_stated():
    X, y = _data()
    sampler = WeightedRandomSampler(np.array(WEIGHTS)[y].tolist(), len(y))
    net = _net(iterator_train__sampler=sampler, epochs=1)
    with pytest.raises(ValueError, match="sampler_weights must say how a WeightedRandomSampler weighs"):
        net.fit(X, y)
    net.set_params(sampler_weights=WEIGHTS).fit(X, y)
    expected = torch.softmax(net.forward(X) - torch.tensor(WEIGHTS).log(), 1)
    torch.testing.assert_close(torch.from_numpy(net.predict_proba(X)), expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"criterion": nn.NLLLoss}, "criterion must be a loss of steelyard, CrossEntropyLoss or .*, got NLLLoss"),
        (
            {"criterion": steelyard.LGLINRLoss},
            "criterion must have a posterior of the logits alone; that of lgl-inr",
        ),
        ({"prior": "unifrom"}, "prior must be 'uniform' or class frequencies, got 'unifrom'"),
        ({"predict_nonlinearity": torch.exp}, "predict_nonlinearity must be 'auto', .*got <built-in method exp"),
        ({"predict_nonlinearity": None}, "predict_nonlinearity must be 'auto', .*got None"),
        ({"criterion__class_weights": "inverce"}, "scheme must be .*got 'inverce'"),
    ],
)
def test_what_has_no_honest_probabilities_is_refused_before_training(options, words):
    X, y = _data()
    with pytest.raises((TypeError, ValueError), match=words):
        _net(**options).fit(X, y)


def test_labels_that_are_text_are_refused_in_a_sentence():
    net = HonestNetClassifier(torch.nn.Linear(2, 2), train_split=None, verbose=0)
    with pytest.raises(
        ValueError, match="y must hold class labels 0 to K - 1, got <U3: scikit-learn's LabelEncoder"
    ):
        net.fit(np.eye(2, dtype=np.float32), np.array(["ant", "bee"]))


def test_a_scheme_without_labels_is_refused():
    with pytest.raises(ValueError, match="class_weights needs class labels 0 to K - 1 of an integer dtype in fit"):
        _net(criterion__class_weights="inverse").initialize()


def test_outputs_that_are_no_classes_of_one_sample_are_refused():
    X, y = _data()
    net = _net(criterion=nn.BCEWithLogitsLoss, epochs=1).fit(X, np.eye(3, dtype=np.float32)[y])
    with pytest.raises(ValueError, match="criterion must be a loss of class labels for 3 outputs"):
        net.predict_proba(X)
