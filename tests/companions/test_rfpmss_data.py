"""RFPMSS on a table and pictures of one's own, and the panels drawn from it; what is missing is named."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from figure_text import text_of
from PIL import Image
from test_rfpmss import SMALL

from data_scripts.phantom import studies as phantom
from figures import rfpmss as figure
from xmodal.companions import rfpmss, rfpmss_data, rfpmss_panels, rfpmss_study, rfpmss_training
from xmodal.config import Problem
from xmodal.tables import common

SHORT = replace(SMALL, epochs=1, length=8)


@pytest.fixture
def own(tmp_path):
    """Ten studies as a table and pictures on disk: (folder, table as written)."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(10):
        row = {"patient": f"p{i}", "label": ("normal", "benign", "malignant")[i % 3], "report": f"mass {i}.",
               "boxes_magnified": "[[30, 10, 60, 40]]"}
        for view in rfpmss_data.VIEWS:
            row[view] = f"{view}{i}.png"
            Image.fromarray(rng.integers(0, 255, (40, 60), dtype=np.uint8)).save(tmp_path / row[view])
        rows.append(row)
    table = pd.DataFrame(rows)
    table.to_csv(tmp_path / "studies.csv", index=False)
    return tmp_path, table


def test_studies_of_ones_own_are_read_from_a_table_and_pictures(own):
    table, pictures = rfpmss_data.load_table(own[0], size=32)
    assert table.split.value_counts().to_dict() == {"train": 6, "test": 4}
    assert table.boxes_magnified[0] == "[[16, 8, 32, 32]]"
    assert all(p.shape == (10, 32, 32) and p.dtype == np.uint8 for p in pictures.values())
    studies = rfpmss_data.read(table, pictures, SHORT)
    model, _ = rfpmss_training.train(studies, np.arange(6), SHORT, rfpmss.OURS, 0)
    out = rfpmss_study.represent(model, studies, np.arange(10))
    looked = rfpmss_panels.attention_table(studies, pictures, out, np.arange(10))
    assert len(looked) == 10 and looked.area.eq(16 * 24 / 32 ** 2).all()


@pytest.mark.parametrize("column, value, message", [
    ("report", " ", "empty report"),
    ("mammogram", "gone.png", "cannot be read"),
    ("boxes_magnified", "[[1, 2", "no list of boxes"),
    ("boxes_magnified", "[[1, 2]]", "no list of boxes"),
])
def test_what_is_wrong_with_ones_own_table_is_named(own, column, value, message):
    folder, table = own
    table.assign(**{column: value}).to_csv(folder / "studies.csv", index=False)
    with pytest.raises(Problem, match=message):
        rfpmss_data.load_table(folder)


def test_a_missing_column_and_an_unknown_label_are_named(own):
    folder, table = own
    table.drop(columns="ultrasound").to_csv(folder / "studies.csv", index=False)
    with pytest.raises(Problem, match="no column 'ultrasound'"):
        rfpmss_data.load_table(folder)
    table.assign(label="cyst").to_csv(folder / "studies.csv", index=False)
    studies = rfpmss_data.read(*rfpmss_data.load_table(folder, size=32), SHORT)
    with pytest.raises(Problem, match="no class 'cyst'"):
        rfpmss_training.train(studies, np.arange(6), SHORT, rfpmss.OURS, 0)


def test_every_panel_is_drawn_from_its_table_alone(home, own):
    table, pictures = rfpmss_data.load_table(own[0], size=32)
    rows = np.arange(10)
    studies = rfpmss_data.read(table, pictures, SHORT)
    training = rfpmss_study.Training("RFPMSS", rfpmss.OURS, SHORT, rows[:6], rows)
    bars = rfpmss_panels.summary({"RFPMSS": rfpmss_study.run("lesson", studies, training, 0)})
    model, _ = rfpmss_study.again("lesson", studies, training, 0)
    out = rfpmss_study.represent(model, studies, rows)
    shares = rfpmss_panels.anchor_shares(model, out)
    looked = rfpmss_panels.attention_table(studies, pictures, out, rows)
    tables = {
        "table1": bars, "table3": bars, "table4a": bars, "table5": bars,
        "table4b": bars.drop(columns="name").assign(anchors=6, chosen=3),
        "fig4": rfpmss_panels.spread(looked, "iou"),
        "fig5": rfpmss_panels.fig5(studies, out, rows),
        "fig5d": rfpmss_panels.fig5d(shares, table.label.to_numpy()),
        "fig7": rfpmss_panels.fig7(shares, studies, rows, pictures),
    }
    assert set(tables) == set(figure.PANELS)
    for name, panel in tables.items():
        common.write(panel, f"rfpmss_{name}", "lesson")
    shown = text_of(figure.draw())
    assert "one training of one seed" in shown and "phantom data" in shown
    assert "no finished runs" not in shown and "K 6, K' 3" in shown


def test_missing_studies_and_empty_reports_are_named(tmp_path):
    with pytest.raises(Problem, match="no phantom studies"):
        rfpmss_data.load(tmp_path)
    folder = tmp_path / "studies"
    table = phantom.write(folder, 2, size=64, workers=1)
    table.assign(report=["", *table.report[1:]]).to_parquet(folder / "studies.parquet")
    with pytest.raises(Problem, match="empty report"):
        rfpmss_data.load(tmp_path, ("studies",))
