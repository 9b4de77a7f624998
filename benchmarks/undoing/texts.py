"""A small text model, fine-tuned: the last layer of a sentence encoder, and a linear head on it."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evidence import frozen

TOKENS = 16  # half of the texts have no more
_STATES: dict[str, Tensor] = {}  # once a process: what the frozen layers make of a text


class FineTuned(nn.Module):
    """Logits of texts: all layers of MiniLM but the last are left as they are, the last and the head are trained.

    Takes what :func:`states` gives; pools as the encoder is used, by the mean over tokens.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        encoder = frozen.sentence_network()[1]
        self.layer = copy.deepcopy(encoder.encoder.layer[-1]).requires_grad_(True)
        self.head = nn.Linear(encoder.config.hidden_size, outputs)

    def forward(self, states: Tensor) -> Tensor:
        hidden, mask = states[..., :-1], states[..., -1:]
        tokens = int(mask.any(0).sum())  # of the longest text
        hidden, mask = hidden[:, :tokens], mask[:, :tokens]
        blocked = (1 - mask[:, None, None, :, 0]) * torch.finfo(hidden.dtype).min
        found = self.layer(hidden, blocked)
        found = found[0] if isinstance(found, tuple) else found
        # Of length 1 as in the encoder, times what gives features of unit variance.
        pooled = F.normalize((found * mask).sum(1) / mask.sum(1)) * hidden.shape[2] ** 0.5
        logits: Tensor = self.head(pooled)
        return logits


def states(texts: list[str]) -> Tensor:
    """Return (N, TOKENS, D + 1): what goes into the last layer, for the first tokens, and which are there."""
    missing = sorted({text for text in texts if text not in _STATES}, key=len)
    for start in range(0, len(missing), 128):
        part = missing[start : start + 128]
        _STATES.update(zip(part, _below(part), strict=True))
    return torch.stack([_STATES[text] for text in texts])


@torch.no_grad()
def _below(texts: list[str]) -> Tensor:
    tokenizer, encoder = frozen.sentence_network()
    tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    hidden = encoder(**tokens, output_hidden_states=True).hidden_states[-2]
    return torch.cat([hidden, tokens["attention_mask"][:, :, None].to(hidden)], 2)
