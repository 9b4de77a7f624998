"""One loss under one recipe: which trainings it needs, and what is made of those that diverge."""

import pytest

from steelyard.experiments.job import Job, Training, carry_out, in_turn
from steelyard.training import Diverged


def carried_out(job, train):
    """What came of a job alone, and its trainings in their order."""
    done = []

    def note(_, training):
        done.append(training)
        return train(training)

    return carry_out({"a": job}, in_turn(note))["a"], done


def test_rate_is_searched_beyond_the_edge():
    found, _ = carried_out(Job([0.1, 0.2], 1), lambda t: 1 - abs(t.rate - 0.75) / 2)
    assert found.rate == 0.8
    assert [trial.lr for trial in found.search] == [0.1, 0.2, 0.4, 0.8, 1.6]


def test_one_rate_is_not_tried():
    found, done = carried_out(Job([0.1], 2), lambda t: f"seed {t.seed}")
    assert done == [Training(0.1, 0), Training(0.1, 1)]
    assert (found.search, found.runs, found.diverged) == ([], ["seed 0", "seed 1"], None)


def test_weight_decays_are_tried_at_the_best_rate_and_beyond_the_upper_edge():
    def score(t):
        return f"seed {t.seed}" if not t.tuning else 1 - abs(t.rate - 0.2) - abs(t.decay - 0.05)

    job = Job([0.1, 0.2, 0.4], 2, if_diverged="keep", decays=[5e-4, 5e-3])
    found, done = carried_out(job, score)
    assert [(t.rate, t.decay) for t in done if t.tuning] == [
        *((rate, 5e-4) for rate in (0.1, 0.2, 0.4)),
        *((0.2, decay) for decay in (5e-3, 0.05)),
    ]
    assert (found.rate, found.decay, list(found.decays)) == (0.2, 0.05, [5e-4, 5e-3, 0.05])
    assert [(t.rate, t.seed, t.decay) for t in done if not t.tuning] == [(0.2, 0, 0.05), (0.2, 1, 0.05)]


def test_no_weight_decay_is_tried_below_those_that_are_given():
    found, _ = carried_out(Job([0.1], 1, decays=[5e-4, 5e-3]), lambda t: -t.decay)
    assert (found.decay, list(found.decays)) == (5e-4, [5e-4, 5e-3])


def test_no_weight_decay_is_tried_beyond_a_choice_that_has_none():
    found, _ = carried_out(Job([0.1], 1, decays=[0.0, 5e-4]), lambda t: t.decay)
    assert (found.decay, list(found.decays)) == (5e-4, [0.0, 5e-4])


def test_one_weight_decay_is_that_of_every_training():
    found, done = carried_out(Job([0.1, 0.2], 1, decays=[0.01]), lambda t: -t.rate)
    assert {t.decay for t in done} == {0.01}
    assert (found.decay, found.decays) == (0.01, {})


def _diverging(training):
    if training.tuning:
        return {0.1: 0.6, 0.2: 0.8, 0.4: 0.7}[training.rate]
    if (training.rate, training.seed) == (0.2, 1):
        raise Diverged("the loss became nan")
    return training


def test_a_seed_that_diverges_sends_all_seeds_to_the_next_rate():
    found, done = carried_out(Job([0.1, 0.2, 0.4], 3), _diverging)
    assert [(t.rate, t.seed) for t in done if not t.tuning] == [(0.2, 0), (0.2, 1), (0.4, 0), (0.4, 1), (0.4, 2)]
    assert (found.rate, found.diverged) == (0.4, None)
    assert [trial.lr for trial in found.search if trial.diverged_later] == [0.2]


def test_a_seed_that_diverges_is_a_result_where_it_is_kept():
    found, done = carried_out(Job([0.1, 0.2, 0.4], 3, if_diverged="keep"), _diverging)
    assert found.rate == 0.2
    assert found.runs == [Training(0.2, 0), None, Training(0.2, 2)]
    assert found.diverged == "the loss became nan"
    assert not any(trial.diverged_later for trial in found.search)
    assert len(done) == 6


def test_a_loss_that_diverges_at_every_rate_says_why():
    def train(training):
        raise Diverged(f"rate {training.rate:g}")

    found, done = carried_out(Job([0.1, 1.0], 2), train)
    assert found.rate == 1e-4  # where the search ends
    assert found.diverged == "rate 0.0001"
    assert [t.seed for t in done if not t.tuning] == [0]


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_jobs_together_end_as_each_alone_whatever_is_done_at_a_time(at_once):
    """Trainings of one round do not depend on one another: their order and number change nothing."""

    def do(todo):
        for name, training in reversed(todo[:at_once]):
            try:
                yield name, training, _diverging(training) if name == "a" else 1.0 - training.rate
            except Diverged as error:
                yield name, training, error

    planned = []
    found = carry_out({"a": Job([0.1, 0.2, 0.4], 3), "b": Job([0.5, 0.7], 2)}, do, planned.append)
    assert found["a"] == carried_out(Job([0.1, 0.2, 0.4], 3), _diverging)[0]
    assert found["b"] == carried_out(Job([0.5, 0.7], 2), lambda t: 1.0 - t.rate)[0]
    assert planned[0] == 3 + 3 + 2 + 2
    trials = len(found["a"].search) + len(found["b"].search)
    finals = (2 if at_once == 1 else 3) + 3 + 2
    assert sum(planned) == trials + finals or at_once == 2
