"""table1: the terms and weights of the loss object."""
from xmodal.methods import Method
from xmodal.objective import Objective
from xmodal.tables.table1 import table1_table


def test_table1_comes_from_the_objective():
    table = table1_table(Objective(8, 3, Method(align=.25, irm=1.)))
    assert list(table.columns) == ["component", "objective", "equation", "supervision", "weight"]
    assert table.set_index("component").weight["Cross-modal alignment"] == .25 and len(table) == 6
