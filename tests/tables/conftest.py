"""Runs of six methods, two seeds and four held-out domains, written once and read back."""
import pytest

from xmodal import config, record
from xmodal.tables import common


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """(runs, predictions) of finished runs, as the notebook of the evaluation reads them."""
    from small_runs import write_runs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "RUNS", tmp_path_factory.mktemp("home") / "runs")
        write_runs()
        return common.runs("lesson", ["mixstyle_irm", "concat", "ours"]), record.collect("lesson")


@pytest.fixture(scope="session")
def finished(written):
    return written[0]


@pytest.fixture(scope="session")
def collected(written):
    return written[1]
