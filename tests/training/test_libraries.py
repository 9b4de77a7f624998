"""Networks of other libraries: what is asked of them, and what they are refused for.

timm and torchvision need a build for each torch, which the newest torch does not always have: modules that stand in
for them accept exactly the documented calls. transformers is the real one, with tiny models made from configurations.
"""

import contextlib
import json
import socket
import sys
import types

import pytest
import torch
from torch import nn

from steelyard.losses import create_loss
from steelyard.training import Recipe, check_backbone, create_backbone, fit, predict, predict_features

IMAGES = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(40) % 4


def _body(channels):
    return nn.Sequential(nn.Conv2d(channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1))


class _Classifier(nn.Sequential):
    def __init__(self, channels=3, last=None):
        super().__init__(_body(channels), nn.Flatten(), nn.Dropout(0.1), last or nn.Linear(6, 1000))


class _Auxiliary(nn.Module):
    """As GoogLeNet: a named tuple in training, logits in evaluation, and other linear layers before the last."""

    def __init__(self):
        super().__init__()
        self.body, self.aux, self.fc = _body(3), nn.Linear(6, 1000), nn.Linear(6, 1000)

    def forward(self, x):
        x = self.body(x).flatten(1)
        return types.SimpleNamespace(logits=self.fc(x), aux_logits=self.aux(x)) if self.training else self.fc(x)


@pytest.fixture
def timm(monkeypatch):
    module = types.ModuleType("timm")
    # https://huggingface.co/docs/timm/reference/models
    module.list_models = lambda filter="", module="", pretrained=False, exclude_filters="": [
        "resnet18",
        "resnet34",
        "tokens",
    ]

    def create_model(model_name, pretrained=False, *, num_classes=1000, in_chans=3):
        assert not pretrained
        assert num_classes == 0  # pooled features
        if model_name == "tokens":
            return nn.Flatten(2)
        return _Classifier(in_chans, nn.Identity())

    module.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", module)


@pytest.fixture
def torchvision(monkeypatch):
    package, models = types.ModuleType("torchvision"), types.ModuleType("torchvision.models")
    makers = {
        "resnet18": _Classifier,
        "googlenet": _Auxiliary,
        "squeezenet1_0": lambda: _Classifier(last=nn.Unflatten(1, (6, 1))),
        "gated": lambda: nn.Sequential(nn.Linear(8, 5), _Classifier(last=nn.Identity())),
    }

    def list_models(module=None, include=None, exclude=None):
        assert module is models  # the classifiers: detection and the like are in submodules
        return sorted(makers)

    def get_model(name, **config):
        assert config == {"weights": None}
        return makers[name]()

    models.list_models, models.get_model, package.models = list_models, get_model, models
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


@pytest.fixture
def vit(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=224,
        patch_size=4,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    config.save_pretrained(tmp_path / "vit")
    return f"transformers:{tmp_path / 'vit'}"


def _check(name, images, tmp_path):
    bias = torch.linspace(-1, 1, 4)
    torch.manual_seed(0)
    assert not create_backbone(name, images, 4).head.bias.any()
    network = create_backbone(name, images, 4, initial_bias=bias)
    assert torch.equal(network.head.bias, bias)
    assert {"mean", "std", "head.weight", "head.bias"} < set(network.state_dict())
    assert all(module.training for module in network.modules())
    recipe = Recipe(epochs=1, batch_size=8, learning_rate=0.01)
    data = (images, TARGET)
    fitted = fit(network, create_loss("softmax"), data, data, recipe, seed=0, checkpoint=tmp_path / "last.ckpt")
    logits, features = predict(fitted.network, images), predict_features(fitted.network, images)
    assert features.shape == (40, network.head.in_features)
    torch.testing.assert_close(features @ network.head.weight.T + network.head.bias, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_timm(timm, tmp_path, channels):
    _check("timm:resnet18", IMAGES[:, :channels], tmp_path)


@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_torchvision(torchvision, tmp_path, name):
    _check(f"torchvision:{name}", IMAGES, tmp_path)


def test_transformers_from_a_folder_for_the_size_of_the_images(vit, tmp_path):
    _check(vit, IMAGES[:, :1], tmp_path)
    network = create_backbone(vit, IMAGES, 4)
    assert network.features.model.config.image_size == 8
    assert network.head.in_features == 16


@pytest.mark.slow
@pytest.mark.parametrize(("name", "width"), [("resnet", 2048), ("vit", 768), ("deit", 768)])
def test_transformers_by_type(name, width):
    pytest.importorskip("transformers")
    network = create_backbone(f"transformers:{name}", torch.zeros(2, 1, 32, 32, dtype=torch.uint8), 4)
    assert network.head.in_features == width
    assert network(torch.zeros(2, 1, 32, 32, dtype=torch.uint8)).shape == (2, 4)


def test_unknown_names_are_refused_with_those_near(timm, torchvision):
    with pytest.raises(
        ValueError,
        match="backbone must be one of linear, mlp, mlp-cosine, small-cnn, resnet32, timm:NAME, torchvision:NAME, transformers:NAME, got 'vgg'",
    ):
        check_backbone("vgg")
    with pytest.raises(ValueError, match=r"unknown backbone timm:resnet19; did you mean resnet18 or resnet34\?$"):
        check_backbone("timm:resnet19")
    with pytest.raises(ValueError, match=r"unknown backbone torchvision:$"):
        check_backbone("torchvision:")
    assert check_backbone("torchvision:resnet18") == "torchvision:resnet18"


def test_unknown_names_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=r"unknown backbone transformers:vitt; did you mean vit"):
        check_backbone("transformers:vitt")
    with pytest.raises(ValueError, match=r"unknown backbone transformers:$"):
        check_backbone("transformers:")
    check_backbone("transformers:google/vit-base-patch16-224")  # on the hub, which is asked when it is made
    transformers.BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match=r"cannot be made .*models of type bert are no image classifiers"):
        create_backbone(f"transformers:{tmp_path / 'bert'}", IMAGES, 4)


@pytest.mark.parametrize("where", ["", "somebody/something--"])
@pytest.mark.parametrize("kind", ["vit", "unheard-of"])
def test_code_that_a_configuration_names_is_refused(tmp_path, monkeypatch, where, kind):
    pytest.importorskip("transformers")

    def refuse(self, address):
        raise AssertionError(f"a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    names = {"AutoConfig": f"{where}code.Config", "AutoModelForImageClassification": f"{where}code.Model"}
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "patch_size": 4,
    }
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "auto_map": names, **sizes}))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    refused = pytest.raises(ValueError, match=r"backbone transformers:.* cannot be made")
    with contextlib.nullcontext() if kind == "vit" else refused as caught:  # a type that is known needs no code
        create_backbone(f"transformers:{tmp_path}", IMAGES, 4)
    assert "trust_remote_code" not in str(caught)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("library", ["timm", "torchvision", "transformers"])
def test_library_that_is_not_there(monkeypatch, library):
    for module in (library, "torchvision.models", "transformers.models.auto.modeling_auto"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ImportError, match=rf"needs {library}, which cannot be imported .*: pip install {library}$"
    ):
        create_backbone(f"{library}:resnet18", IMAGES, 4)


def test_models_without_a_last_linear_layer_and_images_that_do_not_fit(timm, torchvision):
    with pytest.raises(
        ValueError, match=r"backbone torchvision:squeezenet1_0 cannot .*\(it has no linear layer\)"
    ):
        create_backbone("torchvision:squeezenet1_0", IMAGES, 4)
    for name in ("torchvision:gated", "timm:tokens"):
        with pytest.raises(ValueError, match=f"backbone {name} does not end in a linear layer"):
            create_backbone(name, IMAGES, 4)
    with pytest.raises(ValueError, match=r"cannot be made for images of 1 x 8 x 8 \(.*3 channels.*image_mode"):
        create_backbone("torchvision:resnet18", IMAGES[:, :1], 4)
