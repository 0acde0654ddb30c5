"""`python -m xmodal.predict`: mammograms and tissue of one's own in, reasoning cards and predictions out."""
import argparse
import logging
import re
import sys
from pathlib import Path

import pandas as pd

from xmodal import yours
from xmodal.config import Problem
from xmodal.predict import warning_of
from xmodal.preprocess import FORMULA
from xmodal.runtime.files import atomic, held, spelled, writing

from .card import card

log = logging.getLogger(__name__)

PREDICTIONS = "predictions.csv"
ABOUT = """\
What a trained model says of your own images: a reasoning card (PATIENT.png) and a row of predictions.csv
for each patient. Research software and no medical device; the model that comes with the package has only
seen phantoms, and every card and row says so.

Each mammogram is a patient of its own. With --tissue or --patient all files of the call belong to ONE
patient; several views are then averaged, and the card shows the one with the surest lesion.
Mammograms: DICOM, PNG, JPEG, TIFF, BMP. The side is that of the image: the chest wall is turned to the
left. Only DICOM says how large a pixel is; without it sizes are in pixels.
Tissue: whole slides (SVS, NDPI, MRXS, TIFF, ...) and photographs (PNG, JPEG, TIFF)."""
BELOW = """\
  python -m xmodal.predict left_cc.png
  python -m xmodal.predict a/*.dcm --patient A --out cards
  python -m xmodal.predict left_cc.dcm --tissue biopsy.svs --run runs/lesson/ours/bach/seed_42

A file that cannot be read is named and counted, and the others go on; the exit status is 1 if no patient
could be read. Nothing is overwritten: a patient who has a card or a row in the folder is left out."""


def arguments(command=None):
    """The command line as a namespace: mammograms, tissue, patient, mpp, run, out."""
    parser = argparse.ArgumentParser(
        prog="python -m xmodal.predict", description=ABOUT, epilog=BELOW,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mammograms", nargs="*", metavar="MAMMOGRAM", help="files; before the options")
    parser.add_argument("--tissue", nargs="+", default=[], metavar="SLIDE", help="slides or photographs")
    parser.add_argument("--patient", default="", metavar="NAME", help="name of the one patient of this call")
    parser.add_argument("--mpp", type=float, metavar="UM",
                        help="micrometres per pixel of tissue whose files do not say it")
    parser.add_argument("--run", default="", metavar="RUN",
                        help="folder of a trained run (default: the model that comes with the package)")
    parser.add_argument("--out", default="cards", metavar="FOLDER", help="where to write (default: cards)")
    given = parser.parse_args(command)
    if given.mpp is not None and not 0.05 < given.mpp < 10:
        parser.error(f"--mpp {given.mpp:g}: no microscope has such pixels; give micrometres, such as 0.5")
    return given


def write(folder, row, case):
    """Writes the card of a patient, and then the row, below those that are in predictions.csv already.

    Raises `Problem`, and writes nothing, where the folder has either for a patient of this name.
    """
    folder = Path(folder)
    picture = folder / f"{file_name(row['patient'])}.png"
    listed = folder / PREDICTIONS
    new = pd.DataFrame([row])
    texts = new.columns[[isinstance(value, str) for value in row.values()]]
    new[texts] = new[texts].map(spelled).replace(FORMULA, "'", regex=True)
    table = pd.read_csv(listed, keep_default_na=False, dtype=str) if listed.exists() else new.iloc[:0]
    if picture.exists() or (table.get("patient", ()) == new.patient[0]).any():
        raise Problem(f"{folder} has a card or a row of {row['patient']} already, which stays; "
                      "name another folder or another patient (--out, --patient).")
    if list(table.columns) != list(new.columns):
        raise Problem(f"{listed} has other columns than a table of predictions; name another folder (--out).")
    with atomic(picture) as partial:
        card(pd.Series(case)).savefig(partial, dpi=200, metadata={"Software": None})
    with atomic(listed) as partial:
        pd.concat([table, new.astype(object)]).to_csv(partial, index=False)
    return picture


def file_name(patient):
    """The name of a patient as that of a file: what is no letter, digit, dot or sign becomes "_"."""
    return re.sub(r"[^\w.+-]", "_", patient).strip(".") or "_"


def main(command=None):
    """Does what the command line says; returns the exit status: 1 where no patient could be read."""
    given = arguments(command)
    people = yours.patients(given.mammograms, given.tissue, given.patient)
    loaded = yours.load(given.run)
    done = 0
    with writing(given.out), held(given.out):
        for patient in people:
            try:
                row, case = yours.predict_patient(loaded, patient, given.mpp)
                path = write(given.out, row, case)
            except Problem as problem:
                log.warning("%s", problem)
                continue
            done += 1
            log.info("%s: %s", path, row["conclusion"])
    log.info("%d of %d patients: cards and %s in %s.", done, len(people), PREDICTIONS, given.out)
    if done and warning_of(loaded.settings):
        log.info("Mind that %s.", warning_of(loaded.settings))
    return 0 if done else 1


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        sys.exit(main())
    except Problem as problem:
        sys.exit(str(problem))
