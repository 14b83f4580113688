"""What only training needs: losses that ask inner layers directly, and a cheaper first layer.

Letters: N patches of a batch, so N / 4 image tokens; B sequences of S tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tiny_model.batches import Batch
from tiny_model.checkpoint import WORD_IDS
from tiny_model.tasks import DIGITS, GLYPHS, LETTERS

NOTHING = 0.15  # weight of patches without a glyph; they are the most
GRID = 16  # rows or columns of blocks that the place of a token is classified into
NAMED = [WORD_IDS[word] for word in (*DIGITS, *LETTERS)]


class OneFrame(nn.Module):
    """The patch embedding of the vision encoder, fed one frame: both frames of an image are equal, so their weights
    may be added first. Same parameters, same result, half the work."""

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.stock = stock

    def forward(self, pixels: Tensor) -> Tensor:  # (N, 3 * 16 * 16) -> (N, hidden)
        return F.linear(pixels, self.stock.proj.weight.sum(2).flatten(1), self.stock.proj.bias)


class Heads(nn.Module):
    """Losses of inner layers. What they read out is thrown away with them; what they made the layers learn stays."""

    def __init__(self, hidden: int, text_hidden: int) -> None:
        super().__init__()
        self.classes = [1 + len(GLYPHS), 1 + len(GLYPHS), 1 + len(LETTERS)]
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, sum(self.classes))
        nn.init.normal_(self.out.weight, std=0.05)
        self.order = nn.Linear(text_hidden, 2 * text_hidden)  # where a token keeps the first and the second digit
        self.place = nn.Linear(text_hidden, 2 * GRID)

    def places(self, hidden: Tensor, batch: Batch) -> tuple[Tensor, float]:
        """Row and column of each image token, from the language model's first layer (B, S, text hidden).

        Image tokens bring no absolute place along, it has to come from their positions relative to the prompt.
        """
        image = batch.inputs["mm_token_type_ids"] == 1
        where = batch.inputs["position_ids"][:, image]  # (3, tokens)
        where = where[1:] - where[:1]
        logits = self.place(F.layer_norm(hidden[image], hidden.shape[-1:])).view(-1, 2, GRID).transpose(0, 1)
        right = (logits.argmax(-1) == where).all(0).float().mean().item()
        return F.cross_entropy(logits.flatten(0, 1), where.flatten()), right

    def patches(self, features: Tensor, labels: Tensor) -> tuple[Tensor, list[float]]:
        """Loss over patches (N, hidden) with labels (N, 3), and the share of glyphs and of names that are right."""
        loss, right = features.new_zeros(()), []
        for logits, label in zip(self.out(self.norm(features)).split(self.classes, -1), labels.unbind(-1), strict=True):
            weight = torch.ones(logits.shape[-1])
            weight[0] = NOTHING
            loss = loss + F.cross_entropy(logits, label, weight)
            some = label > 0
            right.append((logits[some, 1:].argmax(-1) + 1 == label[some]).float().mean().item())
        return loss, [(right[0] + right[1]) / 2, right[2]]

    @staticmethod
    def names(spoken: Tensor, words: Tensor, names: Tensor) -> tuple[Tensor, float]:
        """Which letter was asked for, from the first layer where the model answers (3 * turns, text hidden).

        The template puts three tokens between letter and answer. Without this, the second layer gets a question to
        look up late: after 300 steps on small screens 0.19 of the buttons were found, with it 0.91.
        """
        hidden = spoken.view(len(names), 3, -1)[:, :2].flatten(0, 1)
        wanted = names.repeat_interleave(2)
        logits = F.layer_norm(hidden, hidden.shape[-1:]) @ F.normalize(words, dim=-1).T * 2
        return F.cross_entropy(logits, wanted), (logits.argmax(-1) == wanted).float().mean().item()

    def blocks(self, merged: Tensor, words: Tensor, labels: Tensor) -> Tensor:
        """Which digits and names are in a block, from the merged token (N / 4, text hidden), next to the words.

        Names are compared with their word's embedding directly, so that a question finds its tokens by likeness.
        """
        labels = labels.view(len(merged), 4, 3)
        glyph = torch.zeros(len(merged), 1 + len(GLYPHS)).scatter_(1, labels[..., :2].flatten(1), 1.0)
        name = torch.zeros(len(merged), 1 + len(LETTERS)).scatter_(1, labels[..., 2], 1.0)
        wanted = torch.cat([glyph[:, 1:21], name[:, 1:]], 1)  # first digits, second digits, names
        merged, words = F.layer_norm(merged, merged.shape[-1:]), F.normalize(words, dim=-1)
        digits = self.order(merged).unflatten(-1, (2, -1)) @ words[:10].T  # (N / 4, 2, 10)
        logits = torch.cat([digits.flatten(1), merged @ words[10:].T], 1) * 2 - 3
        return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / len(merged)
