"""The exercises of the notebooks: `check("03-1", answer)` tells right from wrong and gives no answer away.

An answer is a number, a text or a function. Of the right ones only digests are known here; a function is
called on `CASES` first. Solutions lie in `solutions/`.
"""
import hashlib

import numpy as np

from .config import Problem

DIGITS = 2      # an answer counts as right to so many decimals

# the arguments with which an exercise calls the function that it asks for
CASES = {
    "00-2": [([0.1, 0.2, 0.3, 0.4],), ([0.7, 0.1, 0.15, 0.05],), ([0.0, 0.0, 0.0, 1.0],)],
    "01-2": [(10, 10, 6), (9, 10, 6), (12, 10, 6), (2, 10, 6), (500, 10, 6), (100, 128, 256)],
    "02-2": [(["a", "a", "b"], ["c"]), (["a", "b", "b"], ["b", "b", "a", "d"]), (["a", "c"], ["c", "c"])],
    "02b-2": [([0.0, 1.0, 2.0], [0.0, 1.0, 2.0]), ([0.0, 1.0, 2.0], [1.0, 1.0, 1.0]),
              ([0.0, 4.0], [1.0, 3.0])],
    "03-2": [(1.0, 1.0), (2.0, 0.5), (0.5, 2.0), (0.81, 0.9)],
    "03b-2": [([0.9, 0.8], [0.1]), ([0.3, 0.6], [0.5, 0.2]), ([0.5, 0.7], [0.5, 0.5, 0.9])],
    "04-2": [([[0.9, 0.1], [0.1, 0.9]],), ([[0.9, 0.1], [0.9, 0.1]],), ([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]],)],
    "05-2": [(0.8, 1.0), (0.8, 2.0), (0.2, 0.5), (0.5, 3.0), (0.35, 4.0)],
    "06-2": [((0, 0, 2, 2), (0, 0, 2, 2)), ((0, 0, 2, 2), (1, 1, 3, 3)), ((0, 0, 1, 1), (2, 2, 3, 3)),
             ((0, 0, 4, 2), (1, 0, 2, 4))],
    "07-2": [(0.01, 0.03), (-0.02, 0.02), (-0.05, -0.01), (0.0, 0.04)],
}
RIGHT = {
    "00-1": "ed083b4f891f5532", "00-2": "fc160eda1215052e", "01-1": "0e34e5be480dc6d9",
    "01-2": "5828cb7865a0606c", "02-1": "8ed78beff16f5f0b", "02-2": "aa6b679fcf490d29",
    "03-1": "d922a37aa88ba3c3", "03-2": "b6a891e535bd4d4a", "02b-1": "6a3f35103bd18353",
    "02b-2": "3c4f8116b98c5efb", "03b-1": "6b536a570b740dbe", "03b-2": "f092268229881e4d",
    "04-1": "f90f68674c864099", "04-2": "73b2f2c7ad33b52c", "05-1": "9ddd918c81688fb8",
    "05-2": "f92b83cc7b7451b3", "06-1": "66e549e04eb036a2", "06-2": "077b98670826faf6",
    "07-1": "39fe08307b5082f3", "07-2": "983971c867824b3d",
}


def check(name, answer):
    """Prints whether `answer` is right for the exercise `name`; for `...`, that it is not answered yet.
    Returns True, False, or None for `...`. Raises `Problem` where there is no such exercise."""
    if name not in RIGHT:
        raise Problem(f"There is no exercise {name!r}; choose one of {', '.join(RIGHT)}.")
    if answer is ...:
        print(f"{name}: not answered yet.")
        return None
    try:
        digest = digest_of(name, answer)
    except Exception as error:      # whatever a student's function raises is an answer to explain
        print(f"{name}: not right yet; it stops with {type(error).__name__}: {error}")
        return False
    right = digest == RIGHT[name]
    print(f"{name}: {'right' if right else 'not right yet; read the text above again'}.")
    return right


def digest_of(name, answer):
    """The digest of an answer; a function is called on the exercise's cases, and must be one where it has
    some. Raises what the function raises."""
    if name in CASES:
        plain_answer = [plain(answer(*case)) for case in CASES[name]]
    else:
        plain_answer = plain(answer)
    return hashlib.sha256(f"xmodal {name} {plain_answer}".encode()).hexdigest()[:16]


def plain(value):
    """A text in small letters, or the numbers of a value, rounded."""
    if isinstance(value, str):
        return value.strip().lower()
    if hasattr(value, "detach"):
        value = value.detach()
    numbers = np.asarray(value, float).ravel()
    return [round(float(number), DIGITS) + 0.0 for number in numbers]
