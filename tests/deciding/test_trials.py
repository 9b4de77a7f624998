"""Advice: known optima are found, nothing is advised that is not surely better, bad input is one sentence."""

import math

import pytest
import torch

import steelyard
from steelyard.deciding import advise, train_heads

NORMAL = torch.distributions.Normal(0.0, 1.0)


def _two_normals(counts, distance, seed=0):
    """Rows of two classes with the same spread, so that a linear head can give their posterior."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.repeat_interleave(torch.arange(2), torch.tensor(counts))
    features = torch.randn(len(target), 2, generator=generator, dtype=torch.float64)
    features[:, 0] += distance * target
    return features, target


def test_posterior_over_prior_is_advised_where_it_is_the_optimum():
    """The best balanced accuracy of two normals at a distance d is that of the middle between them: Phi(d / 2)."""
    features, target = _two_normals((1800, 200), 2.0)
    found = advise(features, target, objective="balanced-accuracy", weight_decay=1e-6)
    best = float(NORMAL.cdf(torch.tensor(1.0)))
    assert found.chosen.name == "shift by inverse"
    assert abs(found.chosen.value - best) < 0.02
    assert found.class_weights is None
    torch.testing.assert_close(found.offsets, torch.tensor([-1.0, 1.0]).double() * math.log(9) / 2)
    assert found.sentence.startswith(
        "Train without class weights and add the log of the weights of inverse to the logits, which is posterior "
        "over prior: balanced accuracy 0."
    )
    assert "no class weights surely beat that (the best, weights " in found.sentence
    fresh, labels = _two_normals((10_000, 10_000), 2.0, seed=1)
    head = train_heads(2, weight_decay=1e-6)(features, target, None)
    right = (found.decide(head(fresh)) == labels).double().mean()
    assert abs(float(right) - best) < 0.01


def test_plain_training_is_advised_for_accuracy():
    features, target = _two_normals((900, 100), 2.0)
    found = advise(features, target, objective="accuracy")
    assert found.chosen is found.table[0]
    assert (found.chosen.gain, found.class_weights, found.offsets) == (0.0, None, None)
    assert found.sentence.startswith(
        "Train without class weights and take the class of the largest logit: accuracy 0.9"
    )
    assert "; nothing that was tried is surely better (the best, " in found.sentence


def test_the_least_expected_cost_is_advised_where_it_is_the_optimum():
    features, target = _two_normals((900, 100), 2.0)
    found = advise(features, target, costs=[[0.0, 1.0], [20.0, 0.0]], weight_decay=1e-6)
    assert found.chosen.name == "costs"
    head = train_heads(2, weight_decay=1e-6)(features, target, None)
    torch.testing.assert_close(
        found.decide(head(features)), steelyard.decide(head(features).log_softmax(1), [[0.0, 1.0], [20.0, 0.0]])
    )
    assert ": mean cost 0." in found.sentence


def test_thresholds_keep_a_minimal_recall():
    features, target = _two_normals((1800, 200), 2.0)
    found = advise(features, target, objective="min-recall:rare=0.9", class_names=["common", "rare"])
    assert found.chosen.rule in ("thresholds", "shift")
    assert float(found.chosen.recall[1]) >= 0.9
    assert not found.table[0].allowed  # plain training finds half of them
    assert "precision of rare 0." in found.sentence
    assert "where plain training and argmax have precision" in found.sentence


def test_log_posteriors_alone_are_shifted_and_not_weighted():
    features, target = _two_normals((1800, 200), 2.0)
    head = train_heads(2)(features, target, None)
    fresh, labels = _two_normals((1800, 200), 2.0, seed=1)
    found = advise(head(fresh).log_softmax(1), labels, train="none")
    assert found.chosen.name == "shift by inverse"
    assert all(way.class_weights is None for way in found.table)
    assert found.rival is None
    assert found.notes == (
        "Weights were not tried: that takes features or a learner, these are outputs of one training.",
    )


def test_training_counts_make_the_shift_of_log_posteriors():
    features, target = _two_normals((100, 100), 2.0)
    log_p = (features[:, :1] * torch.tensor([[-1.0, 1.0]]).double()).log_softmax(1)
    found = advise(log_p, target, train="none", class_counts=[4, 1])
    shift = next(way for way in found.table if way.name == "shift by inverse")
    torch.testing.assert_close(shift.offsets, torch.tensor([-1.0, 1.0]).double() * math.log(4) / 2)


def test_a_training_never_sees_the_rows_that_it_is_judged_on():
    target = torch.arange(60) % 3
    rows = torch.arange(60)
    seen = []

    def train(inputs, labels, weights):
        assert torch.equal(labels, target[inputs])

        def model(asked):
            assert not set(asked.tolist()) & set(inputs.tolist())
            seen.append(None if weights is None else len(weights))
            return torch.nn.functional.one_hot(target[asked], 3).double()

        return model

    found = advise(rows, target, train=train, schemes={"mine": [1.0, 2.0, 3.0]}, folds=4)
    assert seen == [None, 3] * 4
    assert [way.name for way in found.table] == [
        "plain", "shift by mine", "thresholds", "weights mine", "weights mine + thresholds"
    ]  # fmt: skip
    assert found.chosen.name == "plain"  # all are right
    torch.testing.assert_close(found.table[3].class_weights, torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64))


def test_schemes_that_are_multiples_of_each_other_are_tried_once():
    features, target = _two_normals((90, 30), 2.0)
    tried = {way.scheme for way in advise(features, target).table}
    assert tried == {None, "inverse", "sqrt_inverse", "effective_number"}
    even = advise(*_two_normals((50, 50), 2.0))
    assert [way.name for way in even.table] == ["plain", "thresholds"]  # no weights but 1
    assert even.rival is None


def test_weights_are_taken_out_before_thresholds():
    """The offsets of a weighted model are for its own logits: with those of its weights in them."""
    features, target = _two_normals((900, 100), 2.0)
    found = advise(features, target, weight_decay=1e-6)
    plain, weighted = (
        next(way for way in found.table if way.name == name)
        for name in ("thresholds", "weights inverse + thresholds")
    )
    torch.testing.assert_close(
        weighted.offsets, plain.offsets - torch.tensor([-1.0, 1.0]).double() * math.log(9) / 2, rtol=0, atol=0.4
    )


def test_to_dict_is_plain():
    features, target = _two_normals((90, 30), 2.0)
    found = advise(features, target).to_dict()
    assert found["ways"][0]["name"] == "plain"
    assert found["ways"][0]["interval"] == (0.0, 0.0)
    assert isinstance(found["ways"][1]["offsets"], list)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"folds": 1}, "folds must be an int >= 2, got 1"),
        ({"objective": "macro-f2"}, "unknown objective 'macro-f2'"),
        ({"class_names": ["a", "b", "c"]}, "target must have two rows of each class at least"),
        ({"class_counts": [1, 2]}, "class_counts belong to train='none'"),
        ({"train": "head"}, "train must be one of"),
        ({"schemes": {"odd": [0.0, 1.0]}}, "odd"),
        ({"schemes": "inverse"}, "schemes must be a sequence of names, got the text 'inverse'"),
        ({"train": lambda *_: lambda rows: rows[:, :1]}, r"train must give finite logits \(\d+, 2\)"),
    ],
)
def test_bad_input_is_one_sentence(changes, said):
    features, target = _two_normals((90, 30), 2.0)
    with pytest.raises((TypeError, ValueError), match=said):
        advise(features, target, **changes)


def test_a_class_with_one_row_is_refused():
    features, target = _two_normals((90, 1), 2.0)
    with pytest.raises(ValueError, match="got fewer of rare: drop these classes or join them"):
        advise(features, target, class_names=["common", "rare"])


def test_logits_of_another_width_are_refused():
    found = advise(*_two_normals((90, 30), 2.0))
    with pytest.raises(ValueError, match=r"logits must have shape \(N, 2\), got \(5, 3\)"):
        found.decide(torch.zeros(5, 3))


def test_weights_are_advised_where_only_a_weighted_model_learns_anything():
    def train(rows, labels, weights):
        if weights is None:
            return lambda rows: torch.tensor([1.0, -1.0], dtype=rows.dtype).expand(len(rows), 2)
        shift = torch.stack([torch.zeros_like(weights[0]), (weights[1] / weights[0]).log()])
        return lambda rows: torch.stack([torch.zeros(len(rows)).to(rows), 6 * rows[:, 0] - 9], 1) + shift

    found = advise(*_two_normals((400, 100), 3.0), objective="balanced-accuracy", train=train)
    assert found.class_weights is not None
    assert found.sentence.endswith("without class weights nothing that was tried beats plain training.")
