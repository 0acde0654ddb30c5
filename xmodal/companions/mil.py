"""Multiple-instance pooling and two published networks: ABMIL (slide alone), PORPOISE (slide and genes)."""
import torch
from torch import nn


class GatedAttention(nn.Module):
    """Bag (B, N, D_p) -> (B, D): patches embedded and averaged with learned, gated weights.

    Ilse et al., ICML 2018, Eq. 9.
    """

    def __init__(self, features, width):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(features, width), nn.ReLU())
        self.value = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        self.score = nn.Linear(width, 1)

    def forward(self, bag, weights=False):
        """The pooled bag; with `weights` also the (B, N) attention, which sums to one."""
        x = self.embed(bag)
        attention = self.score(self.value(x).tanh() * self.gate(x).sigmoid()).softmax(1)
        pooled = (attention * x).sum(1)
        return (pooled, attention.squeeze(-1)) if weights else pooled


class ABMIL(nn.Module):
    """Bag -> logits (B, out). The expression is not looked at."""

    def __init__(self, features, genes, width, out):
        super().__init__()
        self.pool = GatedAttention(features, width)
        self.head = nn.Linear(width, out)

    def forward(self, bag, expression):
        return self.head(self.pool(bag))


class PORPOISE(nn.Module):
    """Bag (B, N, D_p) and expression (B, G) -> logits (B, out).

    A self-normalising network reads the genes; the classifier sees every product of a slide feature with a
    gene feature, both extended by a constant 1 (Kronecker product). Chen et al., Cancer Cell 2022.
    """

    def __init__(self, features, genes, width, out, fused=16):
        super().__init__()
        self.pool = GatedAttention(features, width)
        self.slide = nn.Sequential(nn.Linear(width, fused), nn.ReLU())
        self.genes = nn.Sequential(nn.Linear(genes, width), nn.ELU(), nn.AlphaDropout(0.25),
                                   nn.Linear(width, fused), nn.ELU())
        self.head = nn.Sequential(nn.Linear((fused + 1) ** 2, width), nn.ReLU(), nn.Dropout(0.25),
                                  nn.Linear(width, out))

    def forward(self, bag, expression):
        constant = torch.ones(len(bag), 1, device=bag.device)
        slide = torch.cat([self.slide(self.pool(bag)), constant], 1)
        genes = torch.cat([self.genes(expression), constant], 1)
        return self.head((slide[:, :, None] * genes[:, None]).flatten(1))
