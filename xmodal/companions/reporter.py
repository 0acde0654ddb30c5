"""The report decoder of RFPMSS: a vocabulary of words, a Transformer decoder on the study's feature, greedy and beam search.

B studies, T words, V vocabulary, D width. Words are lower-case; numbers and punctuation are words of their own.
"""
import re

import torch
import torch.nn.functional as F
from torch import nn

from ..config import Problem

PAD, START, END, UNKNOWN = range(4)


def words(report):
    """A report as a list of words."""
    return re.findall(r"\d+|[a-z-]+|[^\w\s]", report.lower())


class Vocabulary:
    """Words <-> numbers. Built from training reports alone; a word that is not in them is UNKNOWN."""

    def __init__(self, reports):
        found = [words(r) for r in reports]
        if not any(found):
            raise Problem("The reports are empty, so there is no vocabulary; give each study a report.")
        self.words = ["<pad>", "<start>", "<end>", "<unknown>", *sorted({w for r in found for w in r})]
        self.number = {w: i for i, w in enumerate(self.words)}

    def __len__(self):
        return len(self.words)

    def encode(self, reports, length):
        """Reports -> (N, length) numbers: START, the words, END, then PAD; longer reports are cut."""
        rows = [[START, *(self.number.get(w, UNKNOWN) for w in words(r))][:length - 1] + [END] for r in reports]
        return torch.tensor([row + [PAD] * (length - len(row)) for row in rows])

    def decode(self, numbers):
        """A row of numbers -> list of words up to END."""
        out = []
        for n in (int(n) for n in numbers):
            if n == END:
                break
            if n not in (PAD, START):
                out.append(self.words[n])
        return out


class Decoder(nn.Module):
    """p(word t | words before t, study v): a Transformer decoder that attends to v (B, D) as its only memory token."""

    def __init__(self, vocabulary, width, heads, depth, length):
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width, padding_idx=PAD), nn.Embedding(length, width)
        for table in (self.words, self.places):                # words are also the output layer: begin near equal probabilities
            nn.init.normal_(table.weight, std=width ** -0.5)
        layer = nn.TransformerDecoderLayer(width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.layers, self.norm, self.length = nn.TransformerDecoder(layer, depth), nn.LayerNorm(width), length

    def forward(self, numbers, v):
        """(B, T) numbers, (B, D) -> logits (B, T, V) of each next word."""
        t = numbers.shape[1]
        x = self.words(numbers) + self.places.weight[:t]
        mask = torch.triu(torch.full((t, t), -torch.inf, device=x.device), 1)
        return self.norm(self.layers(x, v[:, None], tgt_mask=mask, tgt_is_causal=True)) @ self.words.weight.T


def language_loss(decoder, numbers, v):
    """Eq. 4 with its minus sign: mean over words of - log p(word | words before, v)."""
    logits = decoder(numbers[:, :-1], v)
    return F.cross_entropy(logits.flatten(0, 1), numbers[:, 1:].flatten(), ignore_index=PAD)


@torch.no_grad()
def greedy(decoder, v):
    """(B, D) -> (B, T) numbers: always the likeliest next word, until END."""
    rows = torch.full((len(v), 1), START, device=v.device)
    for _ in range(decoder.length - 1):
        following = decoder(rows, v)[:, -1].argmax(1)
        following[(rows == END).any(1)] = PAD
        rows = torch.cat([rows, following[:, None]], 1)
        if (rows == END).any(1).all():
            break
    return rows


@torch.no_grad()
def beam(decoder, v, width=3):
    """(D,) -> (T,) numbers: of the `width` likeliest beginnings kept at every step, the ending with the best mean log probability a word.

    Width 1 is greedy search.
    """
    rows, score, ended = torch.full((1, 1), START, device=v.device), torch.zeros(1, device=v.device), []
    for _ in range(decoder.length - 1):
        log_p = decoder(rows, v.expand(len(rows), -1))[:, -1].log_softmax(1)
        total = score[:, None] + log_p
        best = total.flatten().topk(min(width, total.numel()))
        from_row, word = best.indices // log_p.shape[1], best.indices % log_p.shape[1]
        rows, score = torch.cat([rows[from_row], word[:, None]], 1), best.values
        done = word == END
        ended += [(float(s) / (len(r) - 1), r) for s, r in zip(score[done], rows[done])]
        rows, score = rows[~done], score[~done]
        if not len(rows) or len(ended) >= width:
            break
    ended += [(float(s) / (len(r) - 1), r) for s, r in zip(score, rows)] if not ended else []
    return max(ended, key=lambda pair: pair[0])[1]
