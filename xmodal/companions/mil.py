"""Multiple-instance pooling and the two published readers built on it: ABMIL (slide alone) and PORPOISE (slide and expression)."""
import torch
from torch import nn


class GatedAttention(nn.Module):
    """Bag (B, N, D_p) -> (B, D): patches embedded and averaged with learned, gated weights (Ilse et al., ICML 2018, Eq. 9)."""

    def __init__(self, features, width):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(features, width), nn.ReLU())
        self.value, self.gate, self.score = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, bag, weights=False):
        """The pooled bag; with `weights` also the (B, N) attention, which sums to one."""
        x = self.embed(bag)
        a = self.score(self.value(x).tanh() * self.gate(x).sigmoid()).softmax(1)
        pooled = (a * x).sum(1)
        return (pooled, a.squeeze(-1)) if weights else pooled


class ABMIL(nn.Module):
    """Bag -> logits (B, out). The expression is not looked at."""

    def __init__(self, features, genes, width, out):
        super().__init__()
        self.pool, self.head = GatedAttention(features, width), nn.Linear(width, out)

    def forward(self, bag, expression):
        return self.head(self.pool(bag))


class PORPOISE(nn.Module):
    """Bag (B, N, D_p) and expression (B, G) -> logits (B, out): a self-normalising network reads the genes, and every product of a slide
    feature with a gene feature, both with a constant 1, is classified (Chen et al., Cancer Cell 2022; Kronecker product)."""

    def __init__(self, features, genes, width, out, fused=16):
        super().__init__()
        self.pool, self.slide = GatedAttention(features, width), nn.Sequential(nn.Linear(width, fused), nn.ReLU())
        self.genes = nn.Sequential(nn.Linear(genes, width), nn.ELU(), nn.AlphaDropout(0.25), nn.Linear(width, fused), nn.ELU())
        self.head = nn.Sequential(nn.Linear((fused + 1) ** 2, width), nn.ReLU(), nn.Dropout(0.25), nn.Linear(width, out))

    def forward(self, bag, expression):
        one = torch.ones(len(bag), 1, device=bag.device)
        s, t = torch.cat([self.slide(self.pool(bag)), one], 1), torch.cat([self.genes(expression), one], 1)
        return self.head((s[:, :, None] * t[:, None]).flatten(1))
