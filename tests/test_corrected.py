"""A corrected model is exported, saved, compiled and moved as any other, with the numbers of log_posterior."""

import warnings

import pytest
import torch
from torch import nn

from steelyard import CorrectedModel, TrainingSetup, log_posterior

WEIGHTS, COUNTS, PRIOR = [0.3, 1.0, 2.5, 8.0], [700, 200, 80, 20], [0.1, 0.2, 0.3, 0.4]
SETUPS = {
    "softmax, weights": (TrainingSetup(nn.CrossEntropyLoss(torch.tensor(WEIGHTS)), class_counts=COUNTS), 4, PRIOR, 1.0),
    "softmax, smoothing": (TrainingSetup("softmax", label_smoothing=0.05, class_counts=COUNTS), 4, None, 1.0),
    "focal": (TrainingSetup("focal", gamma=2.0, class_weights=WEIGHTS, class_counts=COUNTS), 4, PRIOR, 1.5),
    "one-vs-all": (TrainingSetup("logistic", pos_weight=WEIGHTS, class_counts=COUNTS), 4, PRIOR, 1.0),
    "multi-hot": (TrainingSetup(nn.BCEWithLogitsLoss(pos_weight=torch.tensor(WEIGHTS))), 4, None, 2.0),
    "one output": (
        TrainingSetup("logistic", pos_weight=[100.0], targets="binary", class_counts=[990, 10]), 1, [0.5, 0.5], 1.0,
    ),
}  # fmt: skip


def _network(outputs, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, outputs))


def _model(name, seed=0):
    setup, outputs, prior, temperature = SETUPS[name]
    return CorrectedModel(_network(outputs, seed), setup, prior, temperature=temperature).eval()


def _rows(number=7):
    return 0.3 * torch.randn(number, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SETUPS)
def test_it_gives_what_log_posterior_gives(name):
    setup, _, prior, temperature = SETUPS[name]
    model = _model(name)
    expected = log_posterior(model.model(_rows()), setup, prior, temperature=temperature)
    assert torch.equal(model(_rows()), expected)
    assert not torch.allclose(expected, model.model(_rows()))


_QUICK = ("softmax, weights", "one output")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in _QUICK)) for name in SETUPS]
)
def test_exported_to_a_graph_and_to_onnx_the_numbers_are_the_same(name, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, path = _model(name), tmp_path / "model.onnx"
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (_rows(),), dynamic_shapes={"inputs": ({0: batch},)})
    torch.testing.assert_close(program.module()(_rows(5)), model(_rows(5)), rtol=1e-5, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own making
        torch.onnx.export(program, (_rows(),), str(path), dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(path))
    found = session.run(None, {session.get_inputs()[0].name: _rows(9).numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), model(_rows(9)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SETUPS)
def test_safetensors_bring_it_back(name, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    model, other, path = _model(name), _model(name, seed=1), tmp_path / "model.safetensors"
    safetensors.save_file(model.state_dict(), path)
    assert not torch.equal(other(_rows()), model(_rows()))
    other.load_state_dict(safetensors.load_file(path))
    assert torch.equal(other(_rows()), model(_rows()))
    third = _model(name, seed=2)
    safetensors.save_model(model, str(path))
    safetensors.load_model(third, path)
    assert torch.equal(third(_rows()), model(_rows()))


OTHERS = {
    "class_weights": (TrainingSetup("softmax", class_weights=[1.0, 1, 1, 2], class_counts=COUNTS), {}),
    "loss": (TrainingSetup("focal", gamma=2.0, class_weights=WEIGHTS, class_counts=COUNTS), {}),
    "prior": (TrainingSetup("softmax", class_weights=WEIGHTS, class_counts=COUNTS), {"prior": PRIOR[::-1]}),
    "temperature": (TrainingSetup("softmax", class_weights=WEIGHTS, class_counts=COUNTS), {"temperature": 2.0}),
    "class_counts": (TrainingSetup("softmax", class_weights=WEIGHTS, class_counts=COUNTS[::-1]), {}),
    "label_smoothing": (
        TrainingSetup("softmax", class_weights=WEIGHTS, class_counts=COUNTS, label_smoothing=0.1), {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_the_state_of_another_correction_is_refused(what):
    setup = TrainingSetup("softmax", class_weights=WEIGHTS, class_counts=COUNTS)
    state = CorrectedModel(_network(4), setup, PRIOR).state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other, options = OTHERS[what]
    model = CorrectedModel(_network(4, 1), other, **{"prior": PRIOR, **options})
    with pytest.raises(ValueError, match=f"saved with another {what}|{what}.* differ too"):
        model.load_state_dict(state)
    same = TrainingSetup("softmax", class_weights=WEIGHTS, class_counts=COUNTS)
    CorrectedModel(_network(4, 1), same, PRIOR).load_state_dict(state)


def test_a_focal_loss_of_another_gamma_is_another():
    state = CorrectedModel(_network(4), TrainingSetup("focal", gamma=2.0)).state_dict()
    with pytest.raises(ValueError, match="another loss options"):
        CorrectedModel(_network(4), TrainingSetup("focal", gamma=1.0)).load_state_dict(state)


def test_a_state_without_a_correction_is_refused():
    model = _model("softmax, weights")
    plain = {key: value for key, value in model.state_dict().items() if key.startswith("model.")}
    with pytest.raises(RuntimeError, match="_extra_state"):
        model.load_state_dict(plain)
    for bad in (torch.tensor([1, 2], dtype=torch.uint8), torch.tensor([1.5]), None, {"a": 1}):
        with pytest.raises(ValueError, match="must say what is undone"):
            model.load_state_dict(plain | {"_extra_state": bad})


@pytest.mark.parametrize("name", SETUPS)
def test_it_moves_and_computes_in_other_dtypes(name):
    model, rows = _model(name), _rows()
    expected = model(rows)
    double = model.to(torch.float64)(rows.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double, expected.double(), rtol=1e-4, atol=1e-5)
    half = model.to(torch.bfloat16)(rows.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, rtol=0.1, atol=0.1)
    assert model.to("meta").state_dict()["_extra_state"].device.type == "cpu"


@pytest.mark.slow
@pytest.mark.parametrize("name", SETUPS)
def test_it_compiles_in_one_graph(name):
    torch.compiler.reset()
    compiled = torch.compile(_model(name), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(_rows()), _model(name)(_rows()), rtol=1e-5, atol=1e-6)


class _Output(dict):
    logits = property(lambda self: self["logits"])


@pytest.mark.parametrize("wrap", [lambda z: (z, None), lambda z: {"logits": z}, lambda z: _Output(logits=z)])
def test_logits_are_found_in_what_a_model_gives(wrap):
    class Wrapped(nn.Linear):
        def forward(self, x):
            return wrap(super().forward(x))

    setup, model = SETUPS["softmax, weights"][0], Wrapped(6, 4)
    found = CorrectedModel(model, setup)(_rows())
    assert torch.equal(found, log_posterior(nn.Linear.forward(model, _rows()), setup))


def test_what_does_not_fit_is_refused():
    setup = SETUPS["softmax, weights"][0]
    with pytest.raises(ValueError, match="estimate them first from rows of use"):
        CorrectedModel(_network(4), setup, "estimate")
    with pytest.raises(ValueError, match="prior must sum to 1, got 2"):
        CorrectedModel(_network(4), setup, [0.5] * 4)
    with pytest.raises(ValueError, match=r"prior must have shape \(4,\), got \(2,\)"):
        CorrectedModel(_network(4), setup, [0.5, 0.5])
    with pytest.raises(ValueError, match="class_counts of the setup"):
        CorrectedModel(_network(4), TrainingSetup("softmax"), PRIOR)
    with pytest.raises(ValueError, match="temperature must"):
        CorrectedModel(_network(4), setup, temperature=0.0)
    with pytest.raises(TypeError, match="model must be a torch module, got function"):
        CorrectedModel(lambda x: x, setup)
    with pytest.raises(TypeError, match="setup must be a TrainingSetup, got str"):
        CorrectedModel(_network(4), "softmax")

    class Empty(nn.Module):
        def forward(self, x):
            return None

    with pytest.raises(TypeError, match="model must give logits, got NoneType"):
        CorrectedModel(Empty(), setup)(_rows())
