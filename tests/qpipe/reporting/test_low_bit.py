import re

from qpipe.reporting.low_bit import draw_group_maxima, draw_relative_errors, mean_table, questions, share_table
from qpipe.reporting.record import LowBitRecord
from support.report_runs import low_bit

FOUND = LowBitRecord.model_validate(low_bit())


def words_of(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_the_formats_are_the_rows_of_figure_3() -> None:
    assert questions(FOUND.formats) == {
        "⟨0, 3⟩, groups": {"none": 0, "n": 1, "c": 2, "nc": 3},
        "no groups": {"⟨0, 3⟩": 0, "⟨1, 3⟩": 4, "⟨2, 3⟩": 5, "⟨3, 3⟩": 6},
        "groups nc": {"⟨0, 3⟩": 3, "⟨1, 3⟩": 7, "⟨2, 3⟩": 8, "⟨3, 3⟩": 9},
    }
    assert list(questions(FOUND.formats[1:2])) == ["⟨0, 3⟩, groups"]


def test_figure_3_has_its_columns_and_lines() -> None:
    words = words_of(draw_relative_errors(FOUND, "errors"))
    assert {"Weights", "Activations", "Errors", "average relative error", "layer"} <= set(words)
    assert {"⟨0, 3⟩, groups", "no groups", "groups nc", "none", "n", "c", "nc"} <= set(words)
    assert words.count("⟨3, 3⟩") == 2


def test_figure_5_has_its_panels_whatever_is_unknown_or_zero() -> None:
    words = words_of(draw_group_maxima(FOUND, "maxima"))
    for panel in ("Activations by channel", "Activations by sample", "Errors by channel", "Errors by sample"):
        assert words.count(panel) == 1
    assert {"of each group", "of all", "half of it", "Errors: groups below half of the largest, %"} <= set(words)


def test_the_numbers_of_the_figures_are_tables_too() -> None:
    rows = mean_table(FOUND)
    assert [row["format"] for row in rows[:5]] == ["⟨0, 3⟩", "⟨0, 3⟩, n", "⟨0, 3⟩, c", "⟨0, 3⟩, nc", "⟨1, 3⟩"]
    assert rows[1]["means"] == [0.2] * 6
    unknown = LowBitRecord.model_validate(low_bit(layers=1))
    assert mean_table(unknown)[0]["means"] == [0.4, 0.4, 0.4, 0.4, None, None]
    assert share_table(FOUND)[2] == {"layer": "layer2", "shares": [0.75] * 6}
