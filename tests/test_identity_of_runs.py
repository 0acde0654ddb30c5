"""Which finished runs count: those of the usual seeds, and of the code as it is."""
from dataclasses import asdict

from test_record import write

from xmodal import record
from xmodal.config import PROFILES


def test_an_unfinished_run_and_a_seed_beyond_the_usual_are_named_and_left_out(home, caplog):
    for seed in (42, 1234, 7):
        write(seed=seed)
    (write("coral") / "done").unlink()
    table = record.collect("lesson")
    assert set(zip(table.method, table.seed)) == {("erm", 42), ("erm", 1234)}
    unfinished, extra = caplog.messages
    assert "not finished" in unfinished and unfinished.endswith("coral/bach/seed_42.")
    assert "Runs of seed_7 are left out: results are over the seeds 42, 1234, 5678" in extra


def test_where_no_usual_seed_has_a_run_the_others_count(home, caplog):
    write(seed=7)
    assert set(record.collect("lesson").seed) == {7} and not caplog.messages


def test_a_finished_run_of_other_code_is_not_done_and_named(home, caplog):
    settings = {"profile": asdict(PROFILES["lesson"]), "method": "erm", "held_out": "bach", "seed": 42}
    folder = write(config=settings | {"code": {"xmodal.losses": "a"}})
    assert record.is_done(folder, settings | {"code": {"xmodal.losses": "a"}}) and not caplog.messages
    assert not record.is_done(folder, settings | {"code": {"xmodal.losses": "b"}})
    says = f"The result in {folder} was made with other code of xmodal.losses and is made anew."
    assert caplog.messages == [says]
