"""What holds for both datasets of mammograms: the index and `link` give back what the phantom drew."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_scripts import cbis_ddsm, cbis_tables, inbreast, link
from data_scripts.phantom import mammogram_files
from mammogram_copies import SEED
from xmodal.config import Problem
from xmodal.imaging import dicom, mammograms


@pytest.mark.parametrize("module", [cbis_ddsm, inbreast])
def test_index_and_link_give_back_the_cohort(module, written, people):
    domain = module.__name__.split(".")[1]
    rows = module.index(written / domain)
    assert len(rows) == 2 * len(people[domain]) and set(rows.domain) == {domain}
    assert rows.groupby("patient").view.agg(set).map(lambda v: v == {"CC", "MLO"}).all()
    linked = link(rows, written / "registry.csv").assign(
        patient=lambda t: t.patient.str.removeprefix("phantom/")
    )
    both = linked.merge(people[domain], on="patient", suffixes=("", "_drawn"))
    assert len(both) == len(rows)
    assert (both.truth == both.diagnosis).all() and (both.density == both.density_drawn).all()
    assert (both.laterality == both.laterality_drawn).all()
    assert (
        both.lesion_type == both.lesion_type_drawn
    ).all()
    assert all(allowed >> truth & 1 for allowed, truth in zip(both.allowed, both.truth))
    assert (both.grade == both.truth.where(both.truth < 2, -1)).all()
    np.testing.assert_allclose(both.diameter_mm, both.diameter_mm_drawn, rtol=0.12)


@pytest.mark.parametrize("module", [cbis_ddsm, inbreast])
def test_annotations_are_the_drawn_masks(module, written, people):
    domain = module.__name__.split(".")[1]
    rows = link(module.index(written / domain), written / "registry.csv")
    for row in rows.iloc[::2].itertuples():
        person = people[domain].set_index("patient").loc[row.patient.removeprefix("phantom/")]
        image, drawn = mammogram_files.picture(
            {**person.to_dict(), "patient": person.name}, row.view, domain, SEED
        )
        assert (dicom.read_dicom(row.source) == image).all()
        mask = mammograms.lesion_mask(row.annotation, image.shape)
        assert mask.any() == drawn.any()
        assert not drawn.any() or (mask & drawn).sum() / (mask | drawn).sum() > 0.85


def test_a_registry_that_does_not_fit_is_a_problem(native):
    rows = inbreast.index(native / "inbreast")
    registry = pd.read_csv(native / "registry.csv")
    registry[registry.domain == "cbis_ddsm"].to_csv(native / "other.csv", index=False)
    assert link(rows, native / "other.csv").patient.equals(rows.patient)
    pd.concat([registry, registry]).to_csv(native / "twice.csv", index=False)
    registry.drop(columns="diagnosis").to_csv(native / "short.csv", index=False)
    for name in ("twice", "short", "absent"):
        with pytest.raises(Problem, match=f"{name}.csv"):
            link(rows, native / f"{name}.csv")


@pytest.mark.filterwarnings("ignore:Expected explicit VR")
@pytest.mark.parametrize("module", [cbis_ddsm, inbreast])
def test_a_header_whose_lengths_do_not_fit_is_a_file_left_out(module, native):
    root = native / module.__name__.split(".")[1]
    source = Path(module.index(root).source[0])
    content = source.read_bytes()
    source.write_bytes(
        content[:136] + b"\6\0\0\0" + content[140:]
    )  # the first element's length is not that of its kind
    assert [path for path, _ in module.read(root).exclusions][:1] == [str(source)]


@pytest.mark.parametrize("module, names", [(cbis_ddsm, cbis_tables.TABLES), (inbreast, ["INbreast.csv"])])
def test_tables_that_went_through_other_programs_are_read_alike(module, names, native):
    """A byte-order mark, Unix line ends, the other separator, upper case, spaces, blank lines, commas at the
    end of rows."""
    root = native / module.__name__.split(".")[1]
    rows, *others = module.read(root)
    for name in names:
        table = pd.read_csv(root / name, sep=None, engine="python", dtype=str, keep_default_na=False)
        old = ";" if module is inbreast else ","
        new = {";": ",", ",": ";"}[old]
        table.columns = [f" {column.upper()} " for column in table]
        table = table.map(lambda value: f" {value} ".replace("\n ", "\n"))
        (root / name).write_text(
            "\ufeff" + table.to_csv(index=False, sep=new, lineterminator=f"{new}{new}\n\n"), encoding="utf-8"
        )
    again, *others_again = module.read(root)
    assert again.equals(rows) and others_again == others
