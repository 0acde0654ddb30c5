"""Images of one's own: read as the cohort was read, and what a trained model says of each patient.

`python -m xmodal.predict` and 08_your_images do nothing else; `figures.yours` draws the cards. A patient has
mammograms, tissue or both. The features of several images are averaged, as everywhere (`predict.joint`).
"""
import json
import logging
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from . import explain, preprocess, record
from .cohort import index_row
from .config import CLASSES, HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES, PROFILES, Problem, Profile
from .predict import shipped, trained, trained_on, warning_of
from .tables.cards import card_columns, fig5_case

log = logging.getLogger(__name__)

ANY_CLASS = 2 ** len(CLASSES) - 1    # the label set of an image of which nothing is known
SUFFIX = re.compile(r"(?<=.)\.[A-Za-z][A-Za-z0-9]{1,5}$")    # not the last number of a file named by its UID
CASE = "an own file"                 # stands for a domain, as no reader of a dataset knows the file


# ---- the model -------------------------------------------------------------------------------------------

class Trained(NamedTuple):
    """A trained model that is ready to predict."""
    model: torch.nn.Module
    settings: dict           # its config.json
    profile: Profile         # of its training; on the processor where there is no GPU
    run: str                 # its folder, "shipped" for the one that comes with the package


def load(run=""):
    """The `Trained` model in a run folder, or without one that which comes with the package.

    Raises `Problem` for a folder that holds no finished run, or a baseline, which has no cards.
    """
    if not run:
        model, settings = shipped("lesson")
        return Trained(model, settings, profile_of(settings), "shipped")
    if not (Path(run) / "done").is_file():
        raise Problem(f"{run} holds no finished run; name a folder like runs/lesson/ours/bach/seed_42.")
    finished = record.load_run(run)
    if "switches" not in finished.config:
        raise Problem(f"The run {run} is of the baseline {finished.config['method']}, which has no cards; "
                      "take a run of one of the methods, such as ours.")
    profile = profile_of(finished.config)
    return Trained(trained(profile, finished.config, finished.state), finished.config, profile, str(run))


def profile_of(settings):
    """The `Profile` that a run with these settings was trained in, on the processor where there is no GPU."""
    saved = settings["profile"]
    if isinstance(saved, str):
        saved = {"name": saved}
    known = {field.name for field in fields(Profile)}
    given = {name: value for name, value in saved.items() if name in known}
    profile = replace(PROFILES.get(saved["name"], PROFILES["lesson"]), **given)
    return profile if torch.cuda.is_available() else replace(profile, device="cpu")


# ---- patients --------------------------------------------------------------------------------------------

class Patient(NamedTuple):
    """Whose images are read together."""
    name: str
    mammograms: list         # of paths
    tissue: list             # of paths


def patients(mammograms, tissue=(), name=""):
    """[`Patient`]: one for each mammogram; a single one of all files where there is tissue, or a name.

    They are called by their file, with a number where two would be called alike. Raises `Problem` where
    there is no file at all, and for a folder.
    """
    mammograms = list(map(str, mammograms))
    tissue = list(map(str, tissue))
    paths = mammograms + tissue
    if not paths:
        raise Problem("There is nothing to read; name at least one mammogram or slide.")
    for path in paths:
        if Path(path).is_dir():
            raise Problem(f"{path} is a folder; name the files in it, for example {Path(path) / '*.dcm'}.")
    if tissue or name:
        return [Patient(name or called(paths[0]), mammograms, tissue)]
    singles = []
    for path in mammograms:
        taken = [patient.name for patient in singles]
        singles.append(Patient(distinct(called(path), taken), [path], []))
    return singles


def called(path):
    """The name of a file without its suffix."""
    return SUFFIX.sub("", Path(path).name)


def distinct(name, taken):
    """`name`, or with "-2", "-3", ... after it where it is taken."""
    number = 1
    new = name
    while new in taken:
        number += 1
        new = f"{name}-{number}"
    return new


# ---- reading ---------------------------------------------------------------------------------------------

class Images(NamedTuple):
    """What the files of one patient gave."""
    mammograms: list         # of uint8 (S, S)
    mm_per_px: list          # of each of them; NaN where the file does not say it
    tiles: list              # of uint8 (S, S, 3), Macenko-normalised
    used: dict               # modality -> paths
    notes: list              # sentences on files that are used although something in them is missing
    left_out: list           # sentences on files that could not be read


def read_file(path, modality, profile, mpp=None, sample=""):
    """[(cohort row, image, mask or None)] of one file, by the same steps as the cohort (`preprocess.read`).

    mpp: micrometres per pixel of tissue that does not say it. sample: the name by which tiles are drawn, by
    default that of the file. Raises `Problem`, which names the file, where nothing can be read.
    """
    row = index_row(sample=sample or Path(path).name, patient="", domain=CASE, modality=modality,
                    allowed=ANY_CLASS, source=str(path))
    images, reason = preprocess.read({**row, "mpp": mpp}, profile)
    if reason:
        raise Problem(reason if str(path) in reason else f"{path}: {reason}")
    return images


def read(patient, profile, mpp=None):
    """The `Images` of a `Patient`. A file that cannot be read is logged and left out.

    Raises `Problem` where none can be read.
    """
    files = [(path, MAMMOGRAPHY) for path in patient.mammograms]
    files += [(path, HISTOPATHOLOGY) for path in patient.tissue]
    images = Images([], [], [], {modality: [] for modality in MODALITIES}, [], [])
    for path, modality in files:
        try:
            _add(images, path, modality, read_file(path, modality, profile, mpp))
        except Problem as problem:
            if len(files) == 1:
                raise
            log.warning("%s", problem)
            images.left_out.append(str(problem))
    if len(images.left_out) == len(files):
        raise Problem(f"No file of {patient.name} could be read; give others.")
    return images


def _add(images, path, modality, from_file):
    """Adds to `images` what `read_file` gave of the file at `path`."""
    images.used[modality].append(path)
    for row, pixels, _ in from_file:
        note = f"{path}: {row['note']}"
        if row["note"] and note not in images.notes:
            images.notes.append(note)
        if modality == MAMMOGRAPHY:
            images.mammograms.append(pixels)
            images.mm_per_px.append(row["mm_per_px"])
        else:
            images.tiles.append(pixels)


# ---- prediction ------------------------------------------------------------------------------------------

@torch.no_grad()
def card_of_images(model, mammograms, tiles):
    """(`explain.Card`, number of the mammogram that it shows or None) of all images of one patient.

    mammograms: a list of uint8 (S, S); tiles: a list of uint8 (S, S, 3); one of them may be empty.
    Probabilities and grade are of all images; shown is the view in which the decoder is surest of a lesion.
    """
    tiles = np.stack(tiles) if tiles else None
    if not mammograms:
        return explain.explain(model, None, tiles), None
    cards = [explain.explain(model, image, tiles) for image in mammograms]
    shown = int(np.argmax([card.mask.max() for card in cards]))
    card = cards[shown]
    if len(cards) == 1:
        return card, shown
    m = explain.stream(model, np.stack(mammograms), MAMMOGRAPHY).z.mean(0, keepdim=True)
    p = explain.stream(model, tiles, HISTOPATHOLOGY)
    out = model.joint(m, p and p.z.mean(0, keepdim=True))
    probability = out.logits.softmax(1)[0].cpu().numpy()
    grade = int((out.score[0] > model.grade.cutpoints).sum())
    conclusion = explain.conclude(probability, grade, card.box, card.read)
    return card._replace(p=probability, grade=grade, conclusion=conclusion), shown


def predict_patient(loaded, patient, mpp=None):
    """(row, case) of a `Patient` by a `Trained` model: a row of predictions.csv, and a case for
    `figures.card.card`, both dicts.

    lesion_mm is the longer side of the box, NaN where the file does not say how large a pixel is. Raises
    `Problem` where no file of the patient can be read.
    """
    images = read(patient, loaded.profile, mpp)
    card, shown = card_of_images(loaded.model, images.mammograms, images.tiles)
    size = _lesion_size(card, images, shown)
    row = {
        "patient": patient.name,
        "mammograms": "; ".join(images.used[MAMMOGRAPHY]),
        "tissue": "; ".join(images.used[HISTOPATHOLOGY]),
        **_of_card(card),
        **size,
        "tiles": len(images.tiles),
        "conclusion": card.conclusion,
        "notes": " ".join(images.notes),
        "left_out": " ".join(images.left_out),
        **{name: loaded.settings[name] for name in ("method", "held_out", "seed")},
        "run": loaded.run,
        "trained_on": trained_on(loaded.settings),
        "warning": warning_of(loaded.settings),
    }
    return row, _case(patient, card, images, shown, row)


def _of_card(card):
    """What a card says, as columns of predictions.csv."""
    probabilities = {f"p_{name.replace(' ', '_')}": round(float(p), 4) for name, p in zip(CLASSES, card.p)}
    box = [round(float(edge), 1) for edge in card.box]
    return {"read": card.read, **probabilities, "predicted": CLASSES[int(np.argmax(card.p))],
            "grade": CLASSES[card.grade], "lesion_box": json.dumps(box)}


def _lesion_size(card, images, shown):
    """The columns on the size of the outlined lesion: of which mammogram, mm per pixel of the model's image,
    longer side in mm."""
    columns = {"shown": "", "mm_per_px": float("nan"), "lesion_mm": float("nan")}
    if shown is not None:
        columns["shown"] = images.used[MAMMOGRAPHY][shown]
        columns["mm_per_px"] = images.mm_per_px[shown]
    if card.box:
        x0, y0, x1, y1 = card.box
        columns["lesion_mm"] = columns["mm_per_px"] * max(x1 - x0, y1 - y0)
    return columns


def _case(patient, card, images, shown, row):
    """The case of a patient, for `figures.card.card`."""
    mammogram = None if shown is None else images.mammograms[shown]
    tiles = np.stack(images.tiles) if images.tiles else None
    pairs = "patient" if card.read == explain.BOTH else ""
    case = fig5_case(patient.name, -1, card_columns(card, mammogram, tiles), pairs, row["trained_on"])
    millimetres = row["lesion_mm"]
    size = "size in mm unknown" if np.isnan(millimetres) else f"{millimetres:.0f} mm across"
    return {**case, "lesion_size": f" ({size})"}
