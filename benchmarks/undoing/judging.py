"""What probabilities of test rows are worth: as trained, with the weights taken out, and beside their rivals."""

import importlib.util
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from steelyard import TrainingSetup, log_posterior
from steelyard.experiments.metrics import log_probabilities
from steelyard.integrations.sklearn.power import power_of
from undoing.data import Rows
from undoing.models import Trained

PLAIN, PLAIN_T, PLAIN_S = "plain", "plain, temperature", "plain, structured"
WEIGHTED, WEIGHTED_T, WEIGHTED_S = "weighted", "weighted, temperature", "weighted, structured"
UNDONE, UNDONE_T = "undone", "undone, temperature"
POWER, POWER_T = "by power", "by power, temperature"
VARIANTS = (PLAIN, PLAIN_T, PLAIN_S, WEIGHTED, WEIGHTED_T, WEIGHTED_S, UNDONE, UNDONE_T, POWER, POWER_T)
AS_TRAINING, EQUAL = "as in training", "equal classes"
RIVALS = {"weighted": WEIGHTED, "plain": PLAIN, "plain_temperature": PLAIN_T}
FIELDS = (
    "model", "data", "treatment", "seed", "classes", "train_rows", "test_rows", "power", "power_error",
    "rate", "epochs", "no_posterior", "use", "variant", "nll", "brier", "ece", "ece_low", "ece_high",
    *(f"{name}_{rival}" for rival in RIVALS for name in ("nll_over", "error_over")),
)  # fmt: skip
_BINS, _DRAWS = 15, 200
_FLOOR = np.log(1e-15)


class Outputs(NamedTuple):
    """(N, K) log-probabilities of validation rows and of test rows."""

    validation: np.ndarray
    test: np.ndarray

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "Outputs":
        """Return what a function makes of both."""
        return Outputs(function(self.validation), function(self.test))


def judge(plain: Trained, trained: Trained, rows: Rows, seed: int) -> list[dict[str, object]]:
    """Return a row of numbers for each use and variant; what is chosen is chosen on the validation rows."""
    y, truth = rows.validation_y, rows.test_y
    read = {PLAIN: as_read(plain), WEIGHTED: as_read(trained)}
    undone, missing = taken_out(trained, read[WEIGHTED])
    effect = Outputs(read[WEIGHTED].validation - undone.validation, read[WEIGHTED].test - undone.test)
    found = power_of(read[WEIGHTED].validation, y, effect.validation)
    read[UNDONE] = undone
    read[POWER] = Outputs(*(_normal(p - found.power * e) for p, e in zip(read[WEIGHTED], effect, strict=True)))
    made = dict(read)
    for name, outputs in read.items():
        made[f"{name}, temperature"] = outputs.map(temperature(outputs.validation, y))
        if name in (PLAIN, WEIGHTED) and structured_here():
            made[f"{name}, structured"] = outputs.map(structured(outputs.validation, y))
    uniform = np.full(rows.counts.shape, 1 / len(rows.counts))
    frequency = TrainingSetup("softmax", class_counts=rows.counts)
    common = {
        "classes": len(rows.counts),
        "train_rows": len(rows.y),
        "test_rows": len(truth),
        "power": found.power,
        "power_error": found.standard_error,
        "rate": trained.rate,
        "epochs": trained.epochs,
        "no_posterior": missing,
    }
    result = []
    for use in (AS_TRAINING, EQUAL):
        judged = {}
        for name in VARIANTS:
            if name not in made or (use == EQUAL and name == WEIGHTED_T):  # its scale is that of the other use
                continue
            log_p = made[name].test
            if use == EQUAL and name != WEIGHTED:
                log_p = log_posterior(torch.from_numpy(log_p), frequency, uniform).numpy()
            judged[name] = _normal(log_p)
        ones = np.ones(len(truth)) if use == AS_TRAINING else 1 / np.bincount(truth)[truth]
        share = ones / ones.sum()
        for name, log_p in judged.items():
            numbers = metrics(log_p, truth, share, seed)
            for rival, other in RIVALS.items():
                gap, error = difference(log_p, judged[other], truth, share)
                numbers |= {f"nll_over_{rival}": gap, f"error_over_{rival}": error}
            result.append(common | {"use": use, "variant": name} | numbers)
    return result


def as_read(trained: Trained) -> Outputs:
    """Return the probabilities that people take a model's outputs for: softmax, or sigmoids, normalised."""

    def read(z: torch.Tensor) -> np.ndarray:
        if z.dim() == 1:
            z = torch.stack([torch.zeros_like(z), z], 1)
            return _normal(log_probabilities(z, "softmax").numpy())
        return _normal(log_probabilities(z, trained.setup.link).numpy())

    return Outputs(read(trained.validation), read(trained.test))


def taken_out(trained: Trained, read: Outputs) -> tuple[Outputs, float]:
    """Return the posterior, and the share of test rows without one; of these the weights alone are taken out."""
    effect = trained.setup.class_effect
    log_w = 0.0 if effect is None else effect.log().numpy()

    found, missing = [], []
    for z, p in zip((trained.validation, trained.test), read, strict=True):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*rows have no posterior")
            q = log_posterior(z, trained.setup, mean_confusion=trained.mean_confusion)
        if q.dim() == 1:
            q = torch.log_softmax(torch.stack([torch.zeros_like(q), q], 1), 1)
        none = q.isnan().any(1).numpy()[:, None]
        found.append(_normal(np.where(none, p - log_w, q.numpy())))
        missing.append(float(none.mean()))
    return Outputs(*found), missing[1]


def temperature(log_p: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that divides log-probabilities by what gives these rows their largest likelihood."""
    rows = np.arange(len(y))

    def surprise(log_scale: float) -> float:
        return -float(log_softmax(np.exp(log_scale) * log_p, axis=1)[rows, y].mean())

    scale = np.exp(minimize_scalar(surprise, bounds=(np.log(0.01), np.log(20)), method="bounded").x)
    return lambda log_q: _normal(scale * log_q)


def structured_here() -> bool:
    """Return whether probmetrics is installed."""
    return importlib.util.find_spec("probmetrics") is not None


def structured(log_p: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the structured vector scaling of probmetrics, for two classes affine, fitted on these rows."""
    from probmetrics.calibrators import get_calibrator

    fitted = get_calibrator("logistic", logistic_binary_type="affine", logistic_multiclass_type="svs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted.fit(np.exp(log_p), y)

    def scale(log_q: np.ndarray) -> np.ndarray:
        p = np.asarray(fitted.predict_proba(np.exp(log_q)), np.float64)
        return _normal(np.log(p.clip(np.exp(_FLOOR))))

    return scale


def metrics(log_p: np.ndarray, y: np.ndarray, share: np.ndarray, seed: int) -> dict[str, float]:
    """Return NLL, Brier score and ECE of the top class with its interval; rows count by their share."""
    p = np.exp(log_p)
    ece, low, high = calibration_error(p, y, share, seed)
    return {
        "nll": float(-(share * log_p[np.arange(len(y)), y]).sum()),
        "brier": float((share * ((p - np.eye(p.shape[1])[y]) ** 2).sum(1)).sum()),
        "ece": ece,
        "ece_low": low,
        "ece_high": high,
    }


def calibration_error(p: np.ndarray, y: np.ndarray, share: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Return the expected calibration error of the top class, in 15 bins, and what another draw of rows may give.

    The interval has the spread of 200 bootstrap draws about their mean, put about the estimate: the draws
    themselves lie too high, as small bins add their noise to the error.
    """
    confidence, right = p.max(1), p.argmax(1) == y
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = np.zeros((len(y), _BINS))
    gaps[np.arange(len(y)), bins] = share * (right - confidence)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(y), np.full(len(y), 1 / len(y)), _DRAWS)
    errors = np.abs(drawn @ gaps).sum(1) / (drawn @ share)
    ece = float(np.abs(gaps.sum(0)).sum())
    low, high = ece + np.quantile(errors, (0.025, 0.975)) - errors.mean()
    return ece, max(0.0, float(low)), float(high)


def difference(log_p: np.ndarray, other: np.ndarray, y: np.ndarray, share: np.ndarray) -> tuple[float, float]:
    """Return how much larger the NLL is than another's on the same rows, and its standard error over rows."""
    rows = np.arange(len(y))
    gaps = other[rows, y] - log_p[rows, y]
    mean = float((share * gaps).sum())
    return mean, float(np.sqrt((share**2 * (gaps - mean) ** 2).sum()))


def _normal(log_p: np.ndarray) -> np.ndarray:
    """Return log-probabilities over classes, none below 1e-15."""
    found: np.ndarray = log_softmax(log_softmax(log_p, axis=1).clip(min=_FLOOR), axis=1)
    return found
