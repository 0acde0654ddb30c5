"""The dials of the phantom: how hard it is, and in what way, each with its unit.

The defaults are the phantom of the lesson. `07_controls` turns one dial at a time.
"""
from dataclasses import dataclass


@dataclass(frozen=True)
class Dials:
    """Settings of a phantom cohort."""
    # correlation, over patients, of what each modality shows of a factor with the factor itself: 0 to 1
    link: float = 0.97
    # distance between the styles of the sites: 0 all sites look alike, 1 as in `STYLES`
    style: float = 1.0
    # correlation of a mark of the site (`marks`) with malignancy at the sources: -1 to 1
    shortcut: float = 0.0
    # the same at the target
    shortcut_at_target: float = 0.0
    # share of malignant patients at the target, instead of the dataset's own; NaN leaves it
    prevalence: float = float("nan")
    # standard deviation by which outlines are displaced, millimetres
    outline_error: float = 0.0
    # share of the patients whose label is that of a neighbouring class
    label_noise: float = 0.0
    # patients with both modalities in each pair of domains
    pairs: int = 60
