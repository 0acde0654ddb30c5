"""The cost of a slide's patches, as ratios in one process.

TransMIL with Nystrom attention: the cost per patch of a large bag against that of a small one, which is 1
where the cost is linear in the number of patches, with a quarter allowed for the caches. And Nystrom
attention against torch's exact attention. Prints a table and writes build/bench_companions.json.
"""
import ratios
import torch
import torch.nn.functional as F

from xmodal.companions import nystrom
from xmodal.record import seed_everything

WIDTH = 256
HEADS = 8
LANDMARKS = 128
REPEATS = 3


def step(model, bag):
    """A pass forwards and back."""
    model(bag)[0].sum().backward()


def rows():
    seed_everything(42)
    model = nystrom.TransMIL(WIDTH, WIDTH, HEADS, LANDMARKS)
    small = torch.randn(1, 5_000, WIDTH)
    large = torch.randn(1, 20_000, WIDTH)
    q, k, v = torch.randn(3, 1, HEADS, 8_192, WIDTH // HEADS)

    def large_bag():
        return ratios.seconds(step, model, large) / 4     # it has four times as many patches

    def small_bag():
        return ratios.seconds(step, model, small)

    def approximate():
        return ratios.seconds(nystrom.nystrom, q, k, v, LANDMARKS)

    def exact():
        return ratios.seconds(F.scaled_dot_product_attention, q, k, v)

    return [
        ratios.compare("TransMIL a patch, 20,000 patches / 5,000", large_bag, small_bag, REPEATS,
                       at_most=1.25),
        ratios.compare("exact / Nystrom attention, 8,192 patches", approximate, exact, REPEATS, at_least=1),
    ]


if __name__ == "__main__":
    ratios.report(rows(), "bench_companions")
