"""The cost of a slide's patches, as ratios in one process: TransMIL with Nystrom attention a patch of a large bag against a patch of a
small one (linear in the number of patches: 1, with a quarter for the caches), and Nystrom attention against torch's exact attention.
Prints a table and writes build/bench_companions.json."""
import told
import torch
import torch.nn.functional as F

from xmodal.companions import nystrom
from xmodal.record import seed_everything

WIDTH, HEADS, LANDMARKS, REPEATS = 256, 8, 128, 3


def step(model, bag):
    """A pass forwards and back."""
    model(bag)[0].sum().backward()


def rows():
    seed_everything(42)
    model = nystrom.TransMIL(WIDTH, WIDTH, HEADS, LANDMARKS)
    small, large = torch.randn(1, 5_000, WIDTH), torch.randn(1, 20_000, WIDTH)
    q, k, v = torch.randn(3, 1, HEADS, 8_192, WIDTH // HEADS)
    return [told.compare("TransMIL a patch, 20,000 patches / 5,000", lambda: told.seconds(step, model, large) / 4,
                         lambda: told.seconds(step, model, small), REPEATS, at_most=1.25),
            told.compare("exact / Nystrom attention, 8,192 patches", lambda: told.seconds(nystrom.nystrom, q, k, v, LANDMARKS),
                         lambda: told.seconds(F.scaled_dot_product_attention, q, k, v), REPEATS, at_least=1)]


if __name__ == "__main__":
    told.tell(rows(), "bench_companions")
