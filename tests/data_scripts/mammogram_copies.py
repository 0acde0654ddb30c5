"""Copies of CBIS-DDSM and INbreast that the phantom wrote, for tests that damage them."""
import shutil

import pandas as pd
import pytest

from data_scripts import cbis_tables
from data_scripts.phantom import mammogram_files, patients
from xmodal import cohort

SEED = 11
BENIGN = cohort.label_set(1)
MALIGNANT = cohort.label_set(2, 3)
MASS_TRAIN, MASS_TEST, CALC_TRAIN, _ = cbis_tables.TABLES


@pytest.fixture(scope="module")
def people():
    table = patients.cohort(SEED, pairs=4, singles=0)
    return {d: table[table.mammo_domain == d].reset_index(drop=True) for d in ("cbis_ddsm", "inbreast")}


@pytest.fixture(scope="module")
def written(people, tmp_path_factory):
    """The folder with both native layouts, and the registry."""
    root = tmp_path_factory.mktemp("native")
    registry = mammogram_files.write_cbis_ddsm(root / "cbis_ddsm", people["cbis_ddsm"], SEED, 1)
    registry += mammogram_files.write_inbreast(root / "inbreast", people["inbreast"], SEED, 1)
    pd.DataFrame(registry).to_csv(root / "registry.csv", index=False)
    return root


@pytest.fixture
def native(written, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(written, tmp_path / "native")


def edit(path, change, encoding="utf-8"):
    path.write_bytes(change(path.read_bytes().decode(encoding)).encode(encoding))


def line_of(root, sample, **values):
    """Changes the line of one image in INbreast.csv."""
    path = root / "INbreast.csv"
    table = pd.read_csv(path, sep=";", dtype=str, keep_default_na=False)
    here = table["File Name"] == sample.split("/")[1]
    for column, value in values.items():
        table.loc[here, "Bi-Rads" if column == "birads" else column] = value
    table.to_csv(path, sep=";", index=False, lineterminator="\r\n")
