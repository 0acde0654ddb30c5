"""Slides from their tiles: scores, AUC by slide beside AUC by tile, and FROC on CAMELYON16.

Only tiles that were drawn blind count. A slide's label is that of its file (`file_allowed`), a tile's its
own.
"""
import json

import numpy as np
from scipy import ndimage
from skimage.measure import label, regionprops

from ..cohort import malignant
from ..config import HISTOPATHOLOGY
from ..imaging.slides import tumour_mask
from ..metrics.detection import froc_score
from ..metrics.pooling import log_mean_exp, top_mean
from ..stats import auc
from .common import RUN, tidy

TOP = 2             # tiles whose mean is the score of a slide
PIXEL_UM = 8.0      # of the mask that marks are looked up in; the challenge's has 7.8
REACH_UM = 37.5     # a mark this near to a tumour hits it, and tumours twice as near to each other are one
ITC_UM = 275.0      # a tumour whose long axis is shorter is isolated tumour cells, which do not count
BY = [*RUN, "condition", "split", "domain"]
CAMELYON16 = r"camelyon/(?:normal|tumor|test)_\d+"


def tiles(predictions, table):
    """The predictions of tiles that were drawn blind, with columns slide, p = p2 + p3, y of the tile and
    y_slide (NaN where a label leaves it open), and tile_x, tile_y, slide_mpp, annotation of the cohort
    `table`."""
    of_cohort = ["sample", "file_allowed", "drawn", "tile_x", "tile_y", "slide_mpp", "annotation"]
    rows = predictions[predictions.modality == HISTOPATHOLOGY].merge(table[of_cohort], on="sample")
    rows = rows[rows.drawn == "blind"]
    slide = rows["sample"].str.rsplit("#", n=1).str[0]
    return rows.assign(slide=slide, p=rows.p2 + rows.p3, y=malignant(rows.allowed),
                       y_slide=malignant(rows.file_allowed))


def slide_scores(predictions, table, top=TOP):
    """One row a slide and run: columns of `BY`, slide, patient, y, top_mean (of the `top` highest tiles),
    log_mean_exp, tiles."""
    rows = []
    for key, group in tiles(predictions, table).groupby(BY):
        scores = {"top": top_mean(group.p, group.slide, top), "soft": log_mean_exp(group.p, group.slide)}
        for slide, own in group.groupby("slide"):
            first = own.iloc[0]
            rows.append((*key, slide, first.patient, first.y_slide, scores["top"][slide],
                         scores["soft"][slide], len(own)))
    return tidy(rows, [*BY, "slide", "patient", "y", "top_mean", "log_mean_exp", "tiles"])


def slide_aucs(predictions, table, top=TOP):
    """AUC by tile and by slide of every run: columns of `BY`, auc_tile, auc_top_mean, auc_log_mean_exp, tiles
    and slides (those whose label says malignant or not)."""
    by_slide = slide_scores(predictions, table, top)
    by_slide = by_slide[by_slide.y.notna()].groupby(BY)
    rows = []
    for key, group in tiles(predictions, table).groupby(BY):
        if key not in by_slide.groups:
            continue
        of_run = by_slide.get_group(key)
        group = group[group.y.notna()]
        rows.append((*key, auc(group.y, group.p), auc(of_run.y, of_run.top_mean),
                     auc(of_run.y, of_run.log_mean_exp), len(group), len(of_run)))
    return tidy(rows, [*BY, "auc_tile", "auc_top_mean", "auc_log_mean_exp", "tiles", "slides"])


# ---- FROC on CAMELYON16 ------------------------------------------------------------------------------------

def hits(x, y, annotation, mpp):
    """(which tumour each mark hits (N,), which tumours count): CAMELYON16's rule.

    x, y: marks in level-0 pixels. Tumours are numbered from 1; a mark that hits none has 0. Isolated tumour
    cells have a number and do not count.
    """
    polygons = [np.reshape(points, (-1, 2)) for points in json.loads(annotation or "{}").get("polygons", ())]
    if not polygons:
        return np.zeros(len(x), int), []
    scale = mpp / PIXEL_UM
    margin = (REACH_UM + 2 * PIXEL_UM) / mpp
    corner = np.min([points.min(0) for points in polygons], axis=0) - margin
    width, height = (np.max([points.max(0) for points in polygons], axis=0) + margin - corner) * scale
    moved = json.loads(annotation)
    for part in ("polygons", "exclude"):
        moved[part] = [(np.reshape(points, (-1, 2)) - corner).tolist() for points in moved.get(part, ())]
    mask = tumour_mask(json.dumps(moved), (int(np.ceil(height)), int(np.ceil(width))), scale)
    near = ndimage.distance_transform_edt(~mask) < REACH_UM / PIXEL_UM
    tumours = label(ndimage.binary_fill_holes(near), connectivity=2)
    counted = [one_of.label for one_of in regionprops(tumours)
               if one_of.axis_major_length >= ITC_UM / PIXEL_UM]
    column, row = ((np.stack([x, y]) - corner[:, None]) * scale).astype(int)
    inside = (column >= 0) & (row >= 0) & (column < tumours.shape[1]) & (row < tumours.shape[0])
    hit = np.zeros(len(x), int)
    hit[inside] = tumours[row[inside], column[inside]]
    return hit, counted


def camelyon16(predictions, table):
    """FROC on the slides of CAMELYON16 of every run, each blind tile a mark at its centre.

    Columns of `BY`, froc (mean sensitivity at 1/4, 1/2, 1, 2, 4, 8 false positives a slide), reachable (share
    of the tumours in which a tile lies at all, the most that froc can be), tumours, slides.
    """
    rows = tiles(predictions, table)
    rows = rows[rows.slide.str.fullmatch(CAMELYON16)]
    scored = [(*key, *_froc(group)) for key, group in rows.groupby(BY)]
    return tidy(scored, [*BY, "froc", "reachable", "tumours", "slides"])


def _froc(rows):
    """(FROC score, reachable, tumours, slides) of the tiles of one run."""
    false = []
    best = []
    slides = rows.groupby("slide")
    for _, own in slides:
        hit, counted = hits(own.tile_x, own.tile_y, own.annotation.iloc[0], own.slide_mpp.iloc[0])
        p = own.p.to_numpy()
        false.append(p[hit == 0])
        best += [p[hit == tumour].max(initial=0) for tumour in counted]
    reachable = np.mean(np.array(best) > 0) if best else np.nan
    return froc_score(np.concatenate(false), best, len(best), len(slides)), reachable, len(best), len(slides)
