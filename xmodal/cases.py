"""The rows of Fig. 4 and Fig. 5: cases chosen by a rule, with small pictures as text, so that one CSV redraws the figure."""
import base64
import io
import json

import numpy as np

from .config import Problem


def at_quantile(rows, column, q=0.5):
    """The row at quantile q of a column (the lower one of two), so that a rule and no hand chooses a case. Ties by name."""
    ordered = rows.sort_values([column, "sample"])
    return ordered.iloc[int((len(ordered) - 1) * q)]


def to_uri(image):
    """A picture as text: uint8 (H, W) or (H, W, 3), or floats in [0, 1], -> "data:image/png;base64,..."."""
    from PIL import Image
    image = np.asarray(image)
    image = image if image.dtype == np.uint8 else np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def from_uri(text):
    """The uint8 picture in `to_uri`'s text. Raises `Problem` if there is none."""
    from PIL import Image
    try:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(text.split(",", 1)[1]))))
    except (AttributeError, IndexError, OSError, ValueError):
        raise Problem(f"A picture in a case table cannot be read ({str(text)[:40]!r}); write the table again with 06_interpret.") from None


def fig4_case(case, title, lesion_type, image, heat, truth_boxes, predicted_box, iou, dice, tiles):
    """A row of fig4e.csv. image (H, W) uint8, heat (h, w) in [0, 1], boxes [x0, y0, x1, y1] in pixels of `image` (a list of
    true ones; one predicted or None), tiles: list of (S, S, 3) uint8."""
    box = [] if predicted_box is None or np.isnan(predicted_box).any() else np.asarray(predicted_box, float).tolist()
    return {"case": case, "title": title, "lesion_type": lesion_type, "image": to_uri(image), "heat": to_uri(heat),
            "truth_boxes": json.dumps(np.asarray(truth_boxes, float).tolist()), "predicted_box": json.dumps(box),
            "iou": iou, "dice": dice, "tiles": json.dumps([to_uri(t) for t in tiles])}


def box_case(case, image, truth_boxes, boxes, iou, methods):
    """A row of fig4a.csv. image (H, W) uint8; truth_boxes: a list of [x0, y0, x1, y1] in pixels of `image`; boxes and iou:
    {method: box (4,), NaN where there is none} and {method: IoU} of those of the `methods` that have run."""
    corners = lambda box: [] if np.isnan(box).any() else np.asarray(box, float).tolist()
    row = {"case": case, "image": to_uri(image), "truth_boxes": json.dumps(np.asarray(truth_boxes, float).tolist())}
    row |= {f"box_{m}": json.dumps(corners(boxes[m])) if m in boxes else "" for m in methods}
    return row | {f"iou_{m}": iou.get(m, np.nan) for m in methods}


def fig5_case(case, truth, image, heat, tiles, weights, probabilities, conclusion, grade=-1, box=(), truth_boxes=()):
    """A row of fig5.csv. truth: class; tiles: up to five (S, S, 3) uint8 with their retrieval weights; probabilities (4,);
    grade: 0-3 as predicted, -1 unknown; box: the predicted [x0, y0, x1, y1] in pixels of `image`, or empty; truth_boxes: a list of such."""
    row = {"case": case, "truth": truth, "image": to_uri(image), "heat": to_uri(heat)}
    row |= {f"tile{i + 1}": to_uri(tiles[i]) if i < len(tiles) else "" for i in range(5)}
    row |= {f"w{i + 1}": float(weights[i]) if i < len(tiles) else np.nan for i in range(5)}
    row |= {f"p{c}": float(p) for c, p in enumerate(probabilities)}
    return row | {"predicted": int(np.argmax(probabilities)), "conclusion": conclusion, "grade": grade,
                  "box": json.dumps(np.asarray(box, float).tolist()), "truth_boxes": json.dumps(np.asarray(truth_boxes, float).tolist())}
