"""common: finished runs by name, decided images, and files that say what the data are."""
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import figures
from xmodal import config
from xmodal.config import Problem
from xmodal.tables import common
from xmodal.tables.fig3 import fig3e


def test_runs_are_found_by_name(finished, home):
    assert len(finished) == 3 * 4 * 2 and ("ours", "bach", 1234) in finished
    assert common.runs("lesson", ["ours"]) == {}, "a home without runs"


def test_decided_leaves_out_open_labels_and_joint_rows(collected):
    open_and_decided = collected.iloc[:3].assign(allowed=[6, 12, 3])
    both = collected.iloc[:1].assign(modality="both", allowed=12)
    rows = common.decided(pd.concat([open_and_decided, both]))
    assert list(rows.y) == [1, 0] and np.allclose(rows.p, rows.p2 + rows.p3)


def test_write_says_what_the_data_are(home, collected):
    path = common.write(fig3e(collected), "fig3e", "lesson")
    assert path == home / "figures" / "fig3" / "fig3e.csv" and list(path.parent.iterdir()) == [path]
    back = pd.read_csv(path)
    assert back.columns[0] == "data" and set(back["data"]) == {"phantom"}
    public = common.write(pd.DataFrame({"a": [1]}), "table1", config.PROFILES["paper"])
    assert public.read_text() == "data,a\npublic,1\n"
    with pytest.raises(Problem):
        common.write(back, "../fig3e", "lesson")
    with pytest.raises(Problem):
        common.write(back, "fig3e", "nosuch")


def test_a_real_dataset_beside_phantoms_is_named_in_tables_and_under_figures(home, monkeypatch):
    mysite = config.Dataset(config.MAMMOGRAPHY, "my site", "k", real=True)
    monkeypatch.setitem(config.DATASETS, "mysite", mysite)
    table = pd.read_csv(common.write(pd.DataFrame({"a": [1]}), "table1", "lesson"))
    assert table["data"].tolist() == ["phantom; real: mysite"]
    assert config.data_of(config.PROFILES["pilot"]) == "public"
    fig = plt.figure()
    figures.caption(fig, "text", [table])
    assert fig._supxlabel.get_text() == f"text\n{figures.PHANTOM}; real: mysite"
    plt.close(fig)


def test_runs_that_are_missing_are_named(collected):
    short = collected[(collected.method != "ours") | (collected.held_out != "bach") | (collected.seed != 42)]
    lacking = common.missing(short, ["ours", "erm", "dann"], seeds=(42, 1234))
    assert lacking == {"ours": "bach 42", "dann": "all"}
