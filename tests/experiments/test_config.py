"""Configurations from keywords and YAML."""

import pytest

from steelyard.experiments.config import dump_config, make_config, read_config


def test_yaml_round_trip(tmp_path):
    config = make_config(losses=["softmax", "lgl-inr:beta=5"], imbalance="step:10:0.5", learning_rates=[0.1])
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert read_config(tmp_path / "c.yaml") == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"loses": ["softmax"]},
            "losses is missing|unknown key 'loses' in the configuration; did you mean 'losses'",
        ),
        ({"losses": ["softmax"], "lr": 0.1}, "unknown key 'lr' in .*; did you mean 'learning_rates'"),
        ({"losses": ["softmax"], "batch-size": 3}, "unknown key 'batch-size' in .*; did you mean 'batch_size'"),
        ({"losses": ["softmax"], "network": "mlp"}, "unknown key 'network' in .*; did you mean 'backbone'"),
        ({"losses": ["softmax"], "epoch": 3}, "unknown key 'epoch' in the configuration; did you mean 'epochs'"),
        ({"losses": ["softmax"], "epochs": 0}, "epochs: input should be greater than or equal to 1, got 0"),
        ({"losses": ["softmax"], "epochs": "9"}, "epochs: input should be a valid integer, got '9'"),
        ({"losses": ["softmax"], "seeds": 2.5}, "seeds: .*integer.*, got 2.5"),
        ({"losses": []}, "losses: list should have at least 1 item"),
        ({"losses": ["sofmax"]}, "unknown loss 'sofmax' .did you mean 'softmax'"),
        ({"losses": ["softmax"], "imbalance": "exp:3"}, "imbalance must be none, exponential:RATIO"),
        ({"losses": ["softmax"], "learning_rates": [0.3, 0.1]}, "learning_rates must be rising"),
        (
            {"losses": ["softmax"], "learning_rates": [0.0]},
            "learning_rates.0: input should be greater than 0, got 0.0",
        ),
        (
            {"losses": ["softmax"], "learning_rates": [float("inf")]},
            "learning_rates.0: input should be a finite number, got inf",
        ),
        ({"losses": ["softmax"], "learning_rates": [float("nan")]}, "learning_rates.0: input should be "),
        (
            {"losses": ["softmax"], "learning_rates": [0.1, 1e300]},
            r"learning_rates.1: input should .* to 1000000000, got 1e\+300",
        ),
        (
            {"losses": ["softmax"], "weight_decay": 1e300},
            r"weight_decay: input should .* to 1000000000, got 1e\+300",
        ),
        (
            {"losses": ["softmax"], "weight_decay": float("inf")},
            "weight_decay: input should be a finite number, got inf",
        ),
        ({"losses": ["softmax"], "momentum": float("nan")}, "momentum: input should be .*, got nan"),
        (
            {"losses": ["softmax"], "epochs": 10**400},
            "epochs: input should be less than or equal to 1000000, got 1000",
        ),
        ({"losses": ["softmax"] * 201}, "losses: list should have at most 200 items"),
        ({"seeds": 0}, "^seeds: input .* got 0; losses is missing from the configuration$"),
        ({f"k{i}": i for i in range(9)}, "^unknown key 'k0' .*; unknown key 'k2'.*; and 7 more$"),
        (
            {"losses": ["softmax"], "initial_bias": "odds"},
            "initial_bias: input should be 'zero' or 'prior', got 'odds'",
        ),
        (
            {"losses": ["softmax"], "backbone": "vgg"},
            "^backbone must be one of linear, mlp, mlp-cosine, small-cnn, resnet32, timm:NAME",
        ),
        (
            {"losses": ["softmax"], "precision": "16"},
            "precision: input should be '32-true', '16-mixed' or 'bf16-mixed', got '16'",
        ),
        ({"losses": ["softmax"], "validation_fraction": 1.0}, "validation_fraction: input should be less than 1"),
    ],
)
def test_bad_value_gets_one_sentence(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_config(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "losses: [softmax]\nseeds: !!python/object/apply:os.system ['true']",
            "is not plain YAML: tags are not accepted, got 'tag:yaml.org,2002:python/object/apply:os.system'",
        ),
        ("a: &a [x, x]\nb: &b [*a, *a]\nlosses: [*b]", "is not plain YAML: aliases are not accepted"),
        ("losses: [softmax]\nlosses: [logistic]", "key 'losses' stands twice"),
        ("losses: [softmax", "is not plain YAML"),
        ("- softmax", "must hold keys and values, got list"),
        ("losses: [softmax]\nseeds: !!int '3'", "tags are not accepted"),
        ("losses: " + "[" * 50 + "]" * 50, "c.yaml is not plain YAML: at most 10 levels are accepted, line 1"),
        ("losses: " + "{a: " * 9000, "at most 10 levels are accepted"),
        ("- " * 9000, "at most 10 levels are accepted"),
        ("\n".join(" " * k + "a:" for k in range(300)), "at most 10 levels are accepted, line 10"),
        ("\n".join(f"k{i}: 1" for i in range(20_000)), "c.yaml must hold at most 65536 bytes, got 188889"),
        ("\n".join(f"k{i}: 1" for i in range(3_000)), "unknown key 'k0'.*; and 2998 more"),
        ("losses: [softmax]\nepochs: 2020-99-99", "is not plain YAML: month must be in 1..12"),
        ("losses: [softmax]\nepochs: 1" + ":59" * 400, "a value has at most 1000 characters, got 1201"),
        ("losses: [softmax]\nepochs: 0x" + "f" * 990, "epochs: input should be less than or equal to 1000000"),
        ("{}", "losses is missing"),
        ("losses: [softmax]\nsedes: 3", "c.yaml: unknown key 'sedes' in the configuration; did you mean 'seeds'"),
    ],
)
def test_yaml_that_is_not_plain_is_refused(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_config(tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a file"):
        read_config(tmp_path / "c.yaml")


def test_options_stand_in_place_of_what_the_file_says(tmp_path):
    (tmp_path / "c.yaml").write_text("seeds: 0\nepochs: 2\n")
    config = read_config(str(tmp_path / "c.yaml"), losses=["softmax"], seeds=1)
    assert (config.losses, config.seeds, config.epochs) == (["softmax"], 1, 2)
    with pytest.raises(ValueError, match=r"configuration .*c.yaml with the options given: seeds: .*got 0$"):
        read_config(tmp_path / "c.yaml", losses=["softmax"])
