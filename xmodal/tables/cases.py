"""Cases that a rule chooses, and their pictures as text, so that one CSV redraws a figure of cases."""
import base64
import io

import numpy as np

from ..config import CLASSES, Problem

PROBABILITIES = [f"p{c}" for c in range(len(CLASSES))]


def at_quantile(rows, column, q=0.5):
    """The row at quantile q of a column (the lower one of two), so that a rule and no hand chooses a case.

    Ties by name.
    """
    ordered = rows.sort_values([column, "sample"])
    return ordered.iloc[int((len(ordered) - 1) * q)]


def to_uri(image):
    """A picture as text: uint8 (H, W) or (H, W, 3), or floats in [0, 1], -> "data:image/png;base64,..."."""
    from PIL import Image
    image = np.asarray(image)
    if image.dtype != np.uint8:
        image = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def from_uri(text):
    """The uint8 picture that `to_uri` wrote as `text`. Raises `Problem` if it is no such picture."""
    from PIL import Image
    try:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(text.split(",", 1)[1]))))
    except (AttributeError, IndexError, OSError, ValueError):
        raise Problem(f"A picture in a case table cannot be read ({str(text)[:40]!r}); "
                      "write the table again with 06_interpret.") from None
