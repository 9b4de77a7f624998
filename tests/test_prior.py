"""Class frequencies where a model is used: the likeliest, with intervals that cover, and doubts where there are some."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from steelyard import TrainingSetup, estimate_prior, log_posterior
from steelyard.prior import most_likely


class World:
    """Gaussian classes whose posterior under a training prior is known."""

    def __init__(self, size, apart, train=None, seed=0):
        self.train = (
            torch.full((size,), 1 / size, dtype=torch.float64)
            if train is None
            else torch.tensor(train, dtype=torch.float64)
        )
        self.mean = torch.eye(size, dtype=torch.float64) * apart
        self.random = torch.Generator().manual_seed(seed)

    def draw(self, rows, prior):
        """Return the posterior log-probabilities and labels of rows under a prior."""
        y = torch.multinomial(torch.as_tensor(prior).double(), rows, replacement=True, generator=self.random)
        x = self.mean[y] + torch.randn(rows, len(self.mean), generator=self.random, dtype=torch.float64)
        z = x @ self.mean.T - self.mean.square().sum(1) / 2 + self.train.log()
        return z.log_softmax(1), y


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 6), rows=st.integers(1, 60), apart=st.floats(0.1, 5))
def test_no_other_frequencies_are_likelier(seed, size, rows, apart):
    """Where the gradient of the likelihood is at most 1 everywhere, and 1 where a class is, is its only maximum."""
    world = World(size, apart, seed=seed)
    ratio = world.draw(rows, [1.0] * size)[0].exp() / world.train
    prior = most_likely(ratio)
    gradient = (ratio / (ratio @ prior)[:, None]).mean(0)
    assert float(gradient.max()) < 1 + 1e-8
    torch.testing.assert_close(prior * gradient, prior, rtol=0, atol=1e-10)
    torch.testing.assert_close(prior.sum().item(), 1.0)


def likeliest(size, rows, seed=0):
    """Return how far the gradient of the likelihood is from 1 at the frequencies that are found, and these."""
    random = torch.Generator().manual_seed(seed)
    mean = torch.randn(size, 64, generator=random, dtype=torch.float64) * 3 / 8
    y = torch.multinomial(torch.rand(size, generator=random).square(), rows, replacement=True, generator=random)
    x = mean[y] + torch.randn(rows, 64, generator=random, dtype=torch.float64)
    ratio = (x @ mean.T - mean.square().sum(1) / 2).softmax(1) * size
    prior = most_likely(ratio)
    gradient = (ratio / (ratio @ prior)[:, None]).mean(0)
    return float(gradient.max()) - 1, float((prior * (gradient - 1)).abs().max()), prior


@pytest.mark.parametrize("size", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_classes_take_few_steps(monkeypatch, size):
    """Newton's method on the classes that have a frequency: EM alone needs thousands of steps."""
    monkeypatch.setattr("steelyard.prior._MOST_STEPS", 8)
    over, off, prior = likeliest(size, 20 * size)
    assert over < 1e-9
    assert off < 1e-12
    assert 0 < int((prior == 0).sum()) < size / 2


def test_classes_without_a_row_and_rows_without_mass_are_nothing():
    ratio = torch.tensor([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 5.0]], dtype=torch.float64)
    assert most_likely(ratio, torch.tensor([1.0, 1.0, 0.0]).double()).tolist() == pytest.approx(
        [1, 0, 0], abs=1e-9
    )


def test_classes_told_apart_without_doubt_have_wilsons_interval():
    q = torch.eye(2, dtype=torch.float64)[[0] * 3 + [1] * 97]
    for rows in ((q + 1e-300).log(), torch.where(q[:, 1] > 0, 700.0, -700.0)):  # two columns; one output
        found = estimate_prior(rows, [1, 1])
        torch.testing.assert_close(found.prior, torch.tensor([0.03, 0.97]).double())
        wilson = binomtest(3, 100).proportion_ci(method="wilson")
        torch.testing.assert_close(found.interval[0], torch.tensor([wilson.low, wilson.high], dtype=torch.float64))
        torch.testing.assert_close(found.worth, torch.full((2,), 100.0).double())


def test_doubt_makes_rows_worth_less():
    q, _ = World(2, 1.0).draw(2000, [0.5, 0.5])
    found = estimate_prior(q, [1, 1])
    assert (found.worth < 1000).all(), found.worth
    assert (found.interval[:, 1] - found.interval[:, 0] > 0.06).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "apart", "prior", "rows"),
    [("em", 2, [9, 1], 200), ("em", 3, [90, 6, 3, 1], 300), ("em", 1, [4, 3, 2, 0], 500), ("bbse", 2, [9, 1], 300),
     ("bbse", 1, [4, 3, 2, 1], 500), ("bbse", 3, [90, 6, 3, 1], 300)],
)  # fmt: skip
def test_intervals_cover(method, apart, prior, rows):
    world = World(len(prior), apart, seed=3)
    truth = torch.tensor(prior).double() / sum(prior)
    covered, repeats = 0, 150
    for _ in range(repeats):
        q, _ = world.draw(rows, truth)
        held_out = world.draw(4000, world.train) if method == "bbse" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # some intervals are wide
            low, high = estimate_prior(q, world.train, method=method, held_out=held_out).interval.T
        covered += ((low <= truth) & (truth <= high)).double().mean().item()
    assert 0.92 <= covered / repeats <= 0.985, f"{covered / repeats:.1%} of intervals cover"


def test_bbse_needs_no_calibrated_probabilities_and_em_says_so():
    world = World(3, 2.5)
    use = [0.7, 0.2, 0.1]
    (q, _), (held, y) = world.draw(4000, use), world.draw(6000, world.train)
    warped, warped_held = (3 * q).log_softmax(1), (3 * held).log_softmax(1)
    warped = (warped - torch.tensor([0.0, 1.5, 0.0])).log_softmax(1)
    warped_held = (warped_held - torch.tensor([0.0, 1.5, 0.0])).log_softmax(1)
    truth = torch.tensor(use).double()
    found = estimate_prior(warped, [1, 1, 1], method="bbse", held_out=(warped_held, y))
    assert ((found.interval[:, 0] <= truth) & (truth <= found.interval[:, 1])).all(), found
    with pytest.warns(UserWarning, match="not calibrated enough"):
        doubtful = estimate_prior(warped, [1, 1, 1], held_out=(warped_held, y))
    assert len(doubtful.doubts) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert estimate_prior(q, [1, 1, 1], held_out=(held, y)).doubts == ()


def test_classes_that_look_the_same_are_named():
    q = World(2, 3.0).draw(300, [0.5, 0.5])[0]
    third = torch.cat([q[:, :1], q[:, 1:] - 0.6931471805599453, q[:, 1:] - 0.6931471805599453], 1)
    noise = 1e-3 * torch.randn(third.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.warns(UserWarning, match="do not tell classes (1 and 2|2 and 1) apart"):
        estimate_prior((third + noise).log_softmax(1), [2, 1, 1])


@pytest.mark.parametrize("method", ["em", "bbse"])
def test_classes_that_are_exactly_the_same_have_no_narrow_interval(method):
    """Rows that know nothing of a change are no certainty of it."""
    first = torch.linspace(0.05, 0.95, 100, dtype=torch.double)[:, None]
    q = torch.cat([first, (1 - first) / 2, (1 - first) / 2], 1).log()
    held_out = (q.repeat_interleave(3, 0), torch.arange(300) % 3)
    with pytest.warns(UserWarning, match="do not tell classes"):
        found = estimate_prior(q, [1, 1, 1], method=method, held_out=held_out if method == "bbse" else None)
    assert found.interval[1:].tolist() == [[0.0, 1.0], [0.0, 1.0]]
    assert float(found.worth[1:].max()) < 1


def test_rows_that_all_say_the_prior_of_training_say_nothing():
    q = torch.tensor([[0.7, 0.3]]).repeat(100, 1).log()
    with pytest.warns(UserWarning, match="anything from 0.00 to 1.00"):
        assert estimate_prior(q, [7, 3]).interval.tolist() == [[0.0, 1.0], [0.0, 1.0]]


def test_the_posterior_takes_the_estimated_prior():
    world = World(3, 2.0, train=[0.5, 0.3, 0.2])
    q, _ = world.draw(500, [0.1, 0.2, 0.7])
    weights = torch.tensor([1.0, 3.0, 9.0]).double()
    setup = TrainingSetup("softmax", class_weights=weights, class_counts=[500, 300, 200])
    trained = q + weights.log()
    prior = estimate_prior(q, [500, 300, 200]).prior
    torch.testing.assert_close(log_posterior(trained, setup, "estimate"), log_posterior(trained, setup, prior))
    dense = trained.reshape(5, 100, 3).movedim(-1, 1)
    torch.testing.assert_close(
        log_posterior(dense, setup, "estimate").movedim(1, -1).reshape(-1, 3), log_posterior(trained, setup, prior)
    )
    binary = TrainingSetup("logistic", pos_weight=[4.0], class_counts=[90, 10])
    z = torch.linspace(-4, 4, 50).double()
    found = estimate_prior(log_posterior(z, binary), [90, 10]).prior
    torch.testing.assert_close(log_posterior(z, binary, "estimate"), log_posterior(z, binary, found))


Q = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log()


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: estimate_prior(Q, [1, 1], method="acc"), ValueError, "method must be one of 'em', 'bbse'"),
        (lambda: estimate_prior(Q, [1, 0]), ValueError, "class_counts must be positive"),
        (lambda: estimate_prior(Q, [1, 1, 1]), ValueError, r"class_counts must have shape \(2,\)"),
        (lambda: estimate_prior(Q.exp(), [1, 1]), ValueError, "must hold log-probabilities"),
        (lambda: estimate_prior(Q * torch.nan, [1, 1]), ValueError, "must hold log-probabilities"),
        (lambda: estimate_prior(torch.tensor([1.0, torch.inf]), [1, 1]), ValueError, "got row 1"),
        (lambda: estimate_prior(Q.long(), [1, 1]), TypeError, "must be a floating tensor"),
        (lambda: estimate_prior([[0.5, 0.5]], [1, 1]), TypeError, "got list"),
        (lambda: estimate_prior(Q[:0], [1, 1]), ValueError, "must have shape"),
        (lambda: estimate_prior(Q, [1, 1], method="bbse"), ValueError, "needs held_out"),
        (lambda: estimate_prior(Q, [1, 1], held_out=Q), TypeError, "held_out must be"),
        (lambda: estimate_prior(Q, [1, 1], held_out=(Q, torch.tensor([0, 1]))), ValueError, "at least two rows"),
        (lambda: estimate_prior(Q, [1, 1], held_out=(Q, torch.tensor([0, 2]))), ValueError, "target"),
        (lambda: log_posterior(Q, TrainingSetup("softmax"), "estimate"), ValueError, "class_counts of the setup"),
        (lambda: log_posterior(Q, TrainingSetup("softmax"), "guess"), ValueError, "prior must be one of 'estimate'"),
        (
            lambda: log_posterior(Q, TrainingSetup("logistic", targets="multi-hot", class_counts=[1, 1]), "estimate"),
            ValueError,
            "multi-hot",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_a_sentence(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_an_estimate_is_plain_in_json():
    import json

    found = estimate_prior(Q.repeat(100, 1), [1, 1]).to_dict()
    assert set(json.loads(json.dumps(found))) == {"prior", "interval", "worth", "method", "rows", "doubts"}
