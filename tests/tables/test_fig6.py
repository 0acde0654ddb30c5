"""fig6: every parameter of the model is in one part, and measuring leaves the model as it was."""
from xmodal import model
from xmodal.tables.fig6 import fig6_table


def test_fig6_counts_every_parameter_once():
    net = model.build("lesson", mixstyle=True)
    before = {name: values.clone() for name, values in net.state_dict().items()}
    table = fig6_table(net).set_index("name")
    assert table.parameters.sum() == sum(p.numel() for p in net.parameters())
    assert table.trainable.sum() == sum(p.numel() for p in net.parameters() if p.requires_grad)
    adapted = [*net.adapters.parameters(), *net.necks.parameters()]
    assert table.adapted.sum() == sum(p.numel() for p in adapted)
    assert table["shape"]["classification"] == "B x 4" and table["shape"]["lesion mask"] == "B x 32 x 32"
    feeding = {name.strip() for name in ",".join(table.inputs).split(",")} - {""}
    assert feeding <= set(table.index), "every arrow begins at a part"
    assert {"MixStyle", "alignment", "IRM", "heatmap", "conclusion"} <= set(table.index)
    assert "adapters" not in table.inputs["layer norm"], "adapters stand beside the blocks, not behind"
    for name, values in net.state_dict().items():
        assert (before[name] == values).all(), name
