from qpipe.reporting.tables import noise_tables, step_table
from support.report_runs import bare_run, diagnostics, make_run, training


def test_the_numbers_of_the_figures_are_tables_too() -> None:
    runs = [make_run(), make_run("other", training(diagnostics=diagnostics(8)))]
    rows = step_table(runs)
    assert [row["layer"] for row in rows] == ["conv1", "layer1.0/conv1", "linear"]
    assert rows[1]["runs"] == [{"bits": 4, "step": 0.2, "neuron": None}, {"bits": 8, "step": 0.4, "neuron": None}]
    tables = noise_tables(runs)
    assert [row["layer"] for row in tables["activation"]] == ["input", "conv1", "layer1.0/conv1"]
    assert tables["weight"][1]["runs"][1] == {"bits": 8, "before": 48.0, "after": 47.0}
    assert step_table([bare_run()]) == []
    assert noise_tables([bare_run()]) == {}
