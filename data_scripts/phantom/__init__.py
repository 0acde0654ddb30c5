"""The phantom: patients with latent factors, and their images in the native layouts of the public datasets."""
from pathlib import Path

import pandas as pd

from xmodal.runtime.files import atomic

from . import patients
from .quirks import QUIRKS, check


def write(root, seed=42, pairs=60, singles=8, workers=2, quirks=()):
    """Writes root/{cbis_ddsm, inbreast, bach, camelyon}/ and, last, root/registry.csv, which links the native patients.

    `pairs` patients in each of the four pairs of domains and `singles` a domain with one modality only (see
    `patients.cohort`). `quirks` names traps of the real sets that the files shall have (see `quirks.QUIRKS`). The bytes
    depend on all of these but not on `workers`. Raises `Problem` if a quirk is unknown.
    """
    from . import histology_files, mammogram_files  # here, so that a worker loads what it draws and no more
    root, people, quirks = Path(root), patients.cohort(seed, pairs, singles), check(quirks)
    sites = {"cbis_ddsm": mammogram_files.write_cbis_ddsm, "inbreast": mammogram_files.write_inbreast,
             "bach": histology_files.write_bach, "camelyon": histology_files.write_camelyon}
    registry = []
    for site, write_site in sites.items():
        there = (people.mammo_domain == site) | (people.histo_domain == site)
        registry += write_site(root / site, people[there].reset_index(drop=True), seed=seed, workers=workers,
                               quirks=[name for name in quirks if name in QUIRKS[site]])
    with atomic(root / "registry.csv") as partial:
        pd.DataFrame(registry)[patients.REGISTRY].to_csv(partial, index=False)
