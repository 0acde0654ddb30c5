"""The quirks of the public datasets: traps in their files, which the phantom has only if they are asked for.

`phantom.write(..., quirks=("scaled_mask", "point_findings"))` writes them, and the `index` of the site must
see through them: whatever the quirks, it gives back the cohort that was drawn, less what they took away. Each
was seen in the published tables and files, and `index` counts most of them under the same names as traps. A
name that several sites have is done to each.
"""
from xmodal.config import Problem

from . import bach_quirks, camelyon_quirks, cbis_quirks, inbreast_quirks
from .native import Release

# Site -> its quirks, in the order in which they are done.
FUNCTIONS = {"cbis_ddsm": cbis_quirks.QUIRKS, "inbreast": inbreast_quirks.QUIRKS, "bach": bach_quirks.QUIRKS,
             "camelyon": camelyon_quirks.QUIRKS}


def _sentences(functions):
    """{name: the first line of its docstring} of quirks."""
    return {function.__name__: function.__doc__.split("\n")[0] for function in functions}


QUIRKS = {site: _sentences(functions) for site, functions in FUNCTIONS.items()}     # what the files then hold
NAMES = tuple(dict.fromkeys(name for site in QUIRKS.values() for name in site))


def check(quirks):
    """`quirks` as a tuple. Raises `Problem` if one is unknown."""
    unknown = [name for name in quirks if name not in NAMES]
    if unknown:
        raise Problem(f"The phantom knows no quirk {unknown[0]!r}; choose among {', '.join(NAMES)}.")
    return tuple(quirks)


def apply(site, root, registry, names, seed):
    """Does to the files of a site, written under `root` with `seed`, the quirks of the site among `names`.

    `registry`: the site's rows of registry.csv. Returns them less the native patients that quirks took away,
    and with the names that quirks gave. Raises `Problem` if CAMELYON has too few slides for quirks.
    """
    chosen = [quirk for quirk in FUNCTIONS[site] if quirk.__name__ in names]
    if not chosen:
        return registry
    release = Release(root, seed, [row["native_patient"] for row in registry])
    if site == "camelyon":
        camelyon_quirks.prepare(release)
    for quirk in chosen:
        quirk(release)
    linked = []
    for row in registry:
        native = release.renamed.get(row["native_patient"], row["native_patient"])
        if native is not None:
            linked.append({**row, "native_patient": native})
    return linked
