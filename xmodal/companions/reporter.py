"""The report decoder of RFPMSS: a vocabulary, a Transformer decoder on the study's feature, two searches.

B studies, T tokens of a report, V vocabulary, D width. Tokens are lower-case words; numbers and punctuation
are tokens of their own.
"""
import re

import torch
import torch.nn.functional as F
from torch import nn

from ..config import Problem

PAD, START, END, UNKNOWN = range(4)


def tokenize(report):
    """A report as a list of lower-case words, numbers and punctuation marks."""
    return re.findall(r"\d+|[a-z-]+|[^\w\s]", report.lower())


class Vocabulary:
    """Tokens <-> numbers. Built from training reports alone; a token that is not in them is UNKNOWN."""

    def __init__(self, reports):
        tokens = {token for report in reports for token in tokenize(report)}
        if not tokens:
            raise Problem("The reports are empty, so there is no vocabulary; give each study a report.")
        self.tokens = ["<pad>", "<start>", "<end>", "<unknown>", *sorted(tokens)]
        self.number = {token: i for i, token in enumerate(self.tokens)}

    def __len__(self):
        return len(self.tokens)

    def encode(self, reports, length):
        """Reports -> (N, length) numbers: START, the tokens, END, then PAD; longer reports are cut."""
        rows = []
        for report in reports:
            numbers = [self.number.get(token, UNKNOWN) for token in tokenize(report)]
            row = [START, *numbers][:length - 1] + [END]
            rows.append(row + [PAD] * (length - len(row)))
        return torch.tensor(rows)

    def decode(self, numbers):
        """A row of numbers -> list of tokens up to END."""
        tokens = []
        for number in map(int, numbers):
            if number == END:
                break
            if number not in (PAD, START):
                tokens.append(self.tokens[number])
        return tokens


class Decoder(nn.Module):
    """p(token t | tokens before t, study v): a Transformer decoder with v (B, D) as its only memory token.

    vocabulary, length: numbers of words and of places; memory: D, if it is not the decoder's own width.
    """

    def __init__(self, vocabulary, width, heads, depth, length, memory=None):
        super().__init__()
        self.remember = nn.Linear(memory or width, width)
        self.words = nn.Embedding(vocabulary, width, padding_idx=PAD)
        self.places = nn.Embedding(length, width)
        for table in (self.words, self.places):                # words are also the output layer
            nn.init.normal_(table.weight, std=width ** -0.5)
        layer = nn.TransformerDecoderLayer(width, heads, 2 * width, dropout=0.0, activation="gelu",
                                           batch_first=True, norm_first=True)
        self.layers = nn.TransformerDecoder(layer, depth)
        self.norm = nn.LayerNorm(width)
        self.length = length

    def forward(self, numbers, v):
        """(B, T) numbers, (B, D) -> logits (B, T, V) of each next token."""
        t = numbers.shape[1]
        x = self.words(numbers) + self.places.weight[:t]
        mask = torch.triu(torch.full((t, t), -torch.inf, device=x.device), 1)
        x = self.layers(x, self.remember(v)[:, None], tgt_mask=mask, tgt_is_causal=True)
        return self.norm(x) @ self.words.weight.T


def language_loss(decoder, numbers, v):
    """Eq. 4 with its minus sign: mean over tokens of - log p(token | tokens before, v)."""
    numbers = numbers[:, :int((numbers != PAD).any(0).sum())]      # as long as the longest of these reports
    logits = decoder(numbers[:, :-1], v)
    return F.cross_entropy(logits.flatten(0, 1), numbers[:, 1:].flatten(), ignore_index=PAD)


@torch.no_grad()
def greedy(decoder, v):
    """(B, D) -> (B, T) numbers: always the likeliest next token, until END."""
    rows = torch.full((len(v), 1), START, device=v.device)
    for _ in range(decoder.length - 1):
        following = decoder(rows, v)[:, -1].argmax(1)
        following[(rows == END).any(1)] = PAD
        rows = torch.cat([rows, following[:, None]], 1)
        if (rows == END).any(1).all():
            break
    return rows


def _mean_score(score, row):
    """Mean log probability of the tokens after START."""
    return float(score) / (len(row) - 1)


@torch.no_grad()
def beam(decoder, v, width=3):
    """(D,) -> (T,) numbers: the ending with the best mean log probability per token.

    At every step the `width` likeliest beginnings go on. Width 1 is greedy search.
    """
    rows = torch.full((1, 1), START, device=v.device)
    score = torch.zeros(1, device=v.device)
    ended = []                                                            # (mean score, row)
    for _ in range(decoder.length - 1):
        log_p = decoder(rows, v.expand(len(rows), -1))[:, -1].log_softmax(1)
        total = score[:, None] + log_p
        best = total.flatten().topk(min(width, total.numel()))
        beginning, token = best.indices // log_p.shape[1], best.indices % log_p.shape[1]
        rows = torch.cat([rows[beginning], token[:, None]], 1)
        score = best.values
        done = token == END
        ended += [(_mean_score(s, row), row) for s, row in zip(score[done], rows[done])]
        rows = rows[~done]
        score = score[~done]
        if not len(rows) or len(ended) >= width:
            break
    if not ended:
        ended = [(_mean_score(s, row), row) for s, row in zip(score, rows)]
    return max(ended, key=lambda pair: pair[0])[1]
