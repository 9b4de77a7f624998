"""Which inputs a network takes, and what it does with them."""

import pytest
import torch

from steelyard.training import MLP, Fitted, augment, check_takes, create_backbone


def test_features_are_taken_as_they_are():
    features = 100 + 50 * torch.randn(20, 6)
    network = create_backbone("mlp", features, 3)
    assert torch.equal(network.normalise(features), features)
    assert network(features).shape == (20, 3)
    assert network.forward_features(features).shape == (20, 256)


def test_the_head_alone_multiplies_the_inputs_themselves():
    features = torch.randn(20, 6)
    network = create_backbone("linear", features, 3, initial_bias=torch.arange(3.0))
    assert torch.equal(network.forward_features(features), features)
    assert torch.allclose(network(features), features @ network.head.weight.T + torch.arange(3.0))


def test_the_length_of_features_and_class_vectors_does_not_move_a_head_of_cosines():
    features = torch.randn(20, 6)
    network = create_backbone("mlp-cosine", features, 3, initial_bias=torch.tensor([0.5, 0.0, -2.0]))
    hidden, vectors = network.forward_features(features), network.cosines.weight.detach()
    cosines = torch.nn.functional.cosine_similarity(hidden[:, None], vectors[None], dim=2)
    before = network(features)
    assert torch.allclose(before, 30 * cosines + torch.tensor([0.5, 0.0, -2.0]), atol=1e-4)
    with torch.no_grad():
        network.cosines.weight.mul_(torch.tensor([[0.1], [1.0], [50.0]]))
        network.features[1].weight.mul_(3.0)
        network.features[1].bias.mul_(3.0)
    assert torch.allclose(network(features), before, atol=1e-4)
    assert Fitted(network, []).features(features) is None  # no linear head multiplies them
    before.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_levels_are_normalised_as_pixels_are():
    levels = torch.randint(256, (50, 6), dtype=torch.uint8)
    parts = []
    for inputs in (levels, levels[:, :, None, None]):
        torch.manual_seed(0)
        parts.append(MLP(inputs, 3)(inputs))
    assert torch.equal(*parts)
    scaled = MLP(levels, 3).normalise(levels)
    assert torch.allclose(scaled.mean(0), torch.zeros(6), atol=1e-5)
    assert torch.allclose(scaled.std(0), torch.ones(6), atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "backbone", "augmentation", "message"),
    [
        (
            (9, 4),
            "small-cnn",
            "none",
            r"small-cnn takes images \(N, C, H, W\), got features \(9, 4\); linear, mlp and mlp-cosine ta",
        ),
        ((9, 4), "resnet32", "none", "backbone resnet32 takes images"),
        ((9, 4), "transformers:vit", "none", "backbone transformers:vit takes images"),
        ((9, 4), "mlp", "crop-flip", "augmentation crop-flip takes images"),
        (
            (9, 4, 4),
            "mlp",
            "none",
            r"inputs must be images \(N, C, H, W\) or features \(N, D\), got shape \(9, 4, 4\)",
        ),
    ],
)
def test_features_are_refused_where_images_are_meant(inputs, backbone, augmentation, message):
    with pytest.raises(ValueError, match=message):
        check_takes(backbone, torch.zeros(inputs), augmentation)


def test_a_network_for_images_is_not_made_for_features():
    with pytest.raises(ValueError, match="backbone small-cnn takes images"):
        create_backbone("small-cnn", torch.zeros(9, 4), 2)
    features = torch.zeros(9, 4)
    assert augment(features, "none", seed=0, step=0) is features
