"""Figure 6 reads the rows that reproduce_mls.py writes, by the names that they have."""

from pathlib import Path

import pytest
from draw_mls import draw, main, read
from experiments import DIVERGED
from mls_rows import ROWS
from results import Results, Row

from qpipe.errors import QpipeError
from qpipe.reporting.style import drawing

GRID = {(exponent, mantissa) for exponent in (0, 1, 2) for mantissa in (1, 2, 3, 4)}


def rows() -> list[Row]:
    """Of every row of the reproduction a count that its place in the list gives; the coarsest diverges."""
    counts: list[Row] = []
    for index, row in enumerate(ROWS):
        diverged = row.name.startswith("⟨0,1⟩ none")
        top1, low_bit = (DIVERGED, None) if diverged else (50.0 + index / 4, float(index))
        counts.append({"network": row.name, "top-1": top1, "low-bit": low_bit})
    return counts


def test_the_grid_is_found_by_its_names() -> None:
    by_name = {row["network"]: row for row in rows()}
    for column in ("top-1", "low-bit"):
        found = read(rows(), "scratch", 2, column)
        assert list(found.cells) == ["none", "nc Mg 1"]
        assert all(cells.keys() == GRID for cells in found.cells.values())
        assert found.cells["nc Mg 1"][2, 1] == by_name["⟨2,1⟩ nc Mg 1, scratch, 2 epochs"][column]
        assert found.cells["none"][1, 3] == by_name["⟨1,3⟩ none, scratch, 2 epochs"][column]
        assert found.cells["none"][0, 1] is None
        assert found.float_top1 == by_name["float, scratch, 2 epochs"]["top-1"]


def test_a_row_of_another_start_length_or_overflow_is_another() -> None:
    found = read(rows(), "pretrained", 10, "top-1")
    assert {groups: cells.keys() for groups, cells in found.cells.items()} == {
        "nc Mg 1": {(2, 1), (1, 2), (0, 4), (0, 2)}
    }
    clipped: list[Row] = [{"network": "⟨2,4⟩ nc Mg 1, overflow clip, scratch, 2 epochs", "top-1": 1.0}]
    assert clipped[0]["network"] in {row.name for row in ROWS}
    with pytest.raises(QpipeError, match="no row of a format, scratch, 2 epochs"):
        read(clipped, "scratch", 2, "top-1")


def test_it_draws_what_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = Results("mls_cifar10")
    results.add("resnet20 on CIFAR-10, top-1", rows()[:5])
    results.save()
    main(tmp_path / "figure6.svg")
    text = (tmp_path / "figure6.svg").read_text(encoding="utf-8")
    for words in ("Mx, bits of the mantissa", "top-1 in percent, with the low-bit forward", "from scratch, 2 epochs"):
        assert words in text
    with pytest.raises(QpipeError, match="--column: 'low', expected low-bit or top-1"):
        main(tmp_path / "figure6.svg", column="low")


def test_nothing_but_what_diverged() -> None:
    found = read([{"network": "⟨0,1⟩ none, scratch, 2 epochs", "top-1": DIVERGED}], "scratch", 2, "top-1")
    with drawing(3.0) as figure:
        draw(figure, found, "from scratch, 2 epochs", "top-1")
        assert [axes.get_title(loc="left") for axes in figure.axes] == ["No groups; from scratch, 2 epochs"]
        assert figure.axes[0].get_ylabel() == "top-1 in percent, of the float file"
