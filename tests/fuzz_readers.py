"""How each kind of file in fuzz_files.py is read: one function for each, which may raise `Problem`."""
import os
import threading
from functools import lru_cache

from loopback import Quiet, Threaded

from data_scripts import (
    annotations,
    bach,
    bucket,
    busi,
    camelyon,
    cbis_ddsm,
    cbis_tables,
    download,
    inbreast,
    tables as texts,
    tcga,
)
from xmodal.config import Problem
from xmodal.imaging import dicom, mammograms, regions, slides


def read_mammogram(path):
    dicom.dicom_header(path)
    mammograms.mammogram(dicom.read_dicom(path), size=16)


def read_tiles(path):
    slide, mpp = regions.open_slide(path, 1.0)
    with slide:
        slides.tiles(slide, mpp, 64 * mpp, 32, tissue=0.0, n=4)


def read_outlines(path):
    annotations.read(path)


def read_table(path):
    folder = path.parent
    match path.name:
        case "INbreast.csv":
            inbreast.read_table(folder)
        case "stages.csv":
            camelyon.read_stages(path)
        case "reference.csv":
            camelyon.read_reference(path)
        case "microscopy_ground_truth.csv":
            texts.lines(path)
        case "mpp.csv":
            slide, _ = regions.open_slide(folder / "slide.tif")
            slide.close()
        case "clinical.csv":
            tcga.clinical(folder)
        case _:
            cbis_tables.read_tables(folder)


def read_plist(path):
    if not inbreast.read_rois(path):
        raise Problem("The log says that the outlines are damaged.")


def read_series(path):
    if cbis_ddsm.find_series(path.parent)[2]:
        raise Problem("The log says that the file cannot be read.")


def read_ultrasound(path):
    rows = busi.index(path.parent)
    for row in rows.itertuples():
        busi.read_mask(row.masks, (40, 50))
    if len(rows) < 2:
        raise Problem("The log says that the image cannot be read.")


class Server:
    """A server on this machine that answers every request with `body`."""

    def __init__(self):
        self.body = b""
        listening = Threaded(("127.0.0.1", 0), Quiet)
        listening.set_app(self.answer)
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{listening.server_port}"
        os.environ["NO_PROXY"] = "*"
        download.TRIES = 1
        bach.ZENODO = cbis_ddsm.NBIA = tcga.GDC = self.url

    def answer(self, environ, start):
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start("200 fine", [("Content-Length", str(len(self.body)))])
        return [self.body]

    def read(self, path):
        """Asks the server, which answers with what is in the file, as the dataset of that answer does."""
        self.body = path.read_bytes()
        match path.name:
            case "listing":
                bucket.listing(self.url, "c/")
            case "series":
                cbis_ddsm._from_nbia(None)
            case "record":
                bach.fetch(path.parent, dry_run=True)
            case "files":
                tcga._hits("files", {}, "a", "b", tcga._file)
            case "cases":
                tcga._hits("cases", {}, "a", "b", tcga._case)


@lru_cache
def server():
    return Server()


def read_answer(path):
    server().read(path)
