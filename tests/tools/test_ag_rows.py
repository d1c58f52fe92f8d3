"""The rows of AG's tables are what the verbs take."""

import inspect

from ag_rows import rows_of

import qpipe
from qpipe.settings import CalibrateSettings, FinetuneSettings
from qpipe.settings.recipes import resolve

ROWS = rows_of(2, 128)


def test_names_differ_also_as_file_names() -> None:
    names = ["".join(c for c in row.name.lower() if c.isalnum()) for row in [*ROWS, *rows_of(10, 128)]]
    assert len(set(names)) == len(names) - 1, "all but that of the float network, which is no run"


def test_what_a_row_goes_on_from_is_a_row() -> None:
    names = {row.name for row in ROWS}
    assert [row.after for row in ROWS if row.after is not None]
    assert all(row.after in names for row in ROWS if row.after is not None)


def test_rows_are_arguments_of_the_verbs() -> None:
    for row in ROWS:
        inspect.signature(qpipe.calibrate).bind("model", "data", **row.calibrate)
        CalibrateSettings(**row.calibrate)
        if row.finetune is not None:
            inspect.signature(qpipe.finetune).bind("model", "data", **row.finetune)
            run = resolve(FinetuneSettings(**row.finetune))
            assert (run.epochs, run.batch_size) == (2, 128)
            falls = row.finetune.get("schedule", "linear")
            rate = 0.02 if "recipe plain" in row.name else 0.05 if row.after is None else 0.025
            papers, ours = ("adam", "step", 1e-3), ("sgd", falls, rate)
            binary = row.finetune["recipe"] == "ag-binary"
            expected = ours if "recipe" in row.name else ("adam", "step", 5e-4) if binary else papers
            assert (run.optimizer, run.schedule, run.lr) == expected
