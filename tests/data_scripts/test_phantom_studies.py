"""Phantom studies: the same bytes again, reports that agree with pictures, ultrasound that shows a mass."""
import numpy as np
import pandas as pd
import pytest

from data_scripts.phantom import patients, studies, ultrasound


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    return folder, studies.write(folder, 2, size=64, workers=1)


def test_studies_are_the_same_bytes_again_and_say_what_they_show(drawn, tmp_path):
    folder, table = drawn
    again = studies.write(tmp_path, 2, size=64, workers=1)
    pd.testing.assert_frame_equal(table, again)
    for view in studies.VIEWS:
        file = f"images/{view}.npy"
        assert (folder / file).read_bytes() == (tmp_path / file).read_bytes()
    for row in table.itertuples():
        side = {"L": "left", "R": "right"}[row.laterality]
        assert side in row.report and studies.COMPOSITION[row.density] in row.report
        assert (row.boxes_ultrasound == "[]") == (row.label == "normal") == ("BI-RADS 1" in row.report)
        if row.label != "normal" and row.lesion_type in ("mass", "calcification"):
            assert f"{round(row.diameter_mm)} mm" in row.report


def test_the_ultrasound_of_a_mass_is_dark_inside_and_shadows_or_enhances():
    rows = patients.cohort(3, 40, 0)
    masses = rows[rows.lesion_type == "mass"]
    dark, behind = [], []
    for row in masses.to_dict("records"):
        image, mask = ultrasound.draw(row, patients.generator(1, row["patient"]))
        y, x = np.nonzero(mask)
        depth = image[y.max() + 2:y.max() + 18].astype(float)
        below = depth[:, x.min():x.max()].mean()
        beside = np.delete(depth, np.s_[max(x.min() - 6, 0):x.max() + 6], 1).mean()
        dark.append(image[mask].mean() < image[~mask].mean())
        behind.append(below - beside)
    assert np.mean(dark) > 0.95
    assert np.corrcoef(masses.spread, behind)[0, 1] < -0.4, "the more a mass spreads, the more shadow"


def test_the_assessment_never_contradicts_the_findings():
    """Read from the sentences alone: what must be, and what must not be, in a report of each category."""
    harmless = ("circumscribed margins", "parallel to the skin")
    suspicious = ("indistinct", "spiculated", "not parallel", "shadowing", "pleomorphic", "distortion")
    categories = set()
    for row in patients.cohort(5, 150, 0).to_dict("records"):
        text = studies.report(row, patients.generator(5, row["patient"]))["report"]
        findings, category = text.split(" BI-RADS ")
        category = int(category[0])
        categories.add(category)
        signs = [sign for sign in suspicious if sign in findings and f"no {sign}" not in findings]
        assert (category == 1) == (not row["lesion_type"])
        if row["lesion_type"]:
            assert (category >= 4) == bool(signs), text
        if category == 5:
            assert "spiculated" in signs and (len(signs) > 1 or "associated calcifications" in findings), text
        if row["lesion_type"] == "mass" and category == 3:
            assert all(term in findings for term in harmless), text
    assert categories == {1, 2, 3, 4, 5}
