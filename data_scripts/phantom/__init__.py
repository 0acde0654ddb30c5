"""The phantom: patients with latent factors, and their images in the native layouts of the public sets."""
from pathlib import Path

import pandas as pd

from xmodal.runtime.files import atomic

from . import patients
from .dials import Dials
from .histology_files import write_bach, write_camelyon, write_checksums
from .mammogram_files import write_cbis_ddsm, write_inbreast
from .quirks import apply, check

WRITERS = {"cbis_ddsm": write_cbis_ddsm, "inbreast": write_inbreast, "bach": write_bach,
           "camelyon": write_camelyon}


def write(root, seed=42, singles=8, workers=2, quirks=(), dials=Dials()):
    """Writes root/{cbis_ddsm, inbreast, bach, camelyon}/ and, last, root/registry.csv of the native patients.

    `dials.pairs` patients in each of the four pairs of domains and `singles` patients in each domain with one
    modality only (see `patients.cohort`). `quirks` names traps of the real sets that the files shall have
    (see `quirks.QUIRKS`); those that draw anew do so with the default `dials`. The bytes depend on all of
    these but not on `workers`. Raises `Problem` if a quirk is unknown.
    """
    root = Path(root)
    people = patients.cohort(seed, dials.pairs, singles, dials)
    names = check(quirks)
    registry = []
    for site, write_site in WRITERS.items():
        mine = patients.at_site(people, site, seed, dials)
        rows = write_site(root / site, mine, seed=seed, workers=workers, dials=dials)
        registry += apply(site, root / site, rows, names, seed)
    write_checksums(root / "camelyon")
    with atomic(root / "registry.csv") as partial:
        pd.DataFrame(registry)[patients.REGISTRY].to_csv(partial, index=False)
