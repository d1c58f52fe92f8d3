import re

import pytest

from qpipe.reporting.curves import draw_curves, lowest_shown, on_test_images, on_training_images
from qpipe.reporting.record import read_training
from support.report_runs import bare_run, epochs, make_run, training


def words_of(svg: str | None) -> list[str]:
    assert svg is not None
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_three_panels_and_a_legend_for_several_runs() -> None:
    words = words_of(draw_curves([make_run("first"), make_run("second")], 0.81))
    assert {"Training loss", "Top-1 accuracy, %", "Learning rate", "first", "second", "float", "test images"} <= {
        *words
    }


def test_one_run_needs_no_legend_of_runs() -> None:
    words = words_of(draw_curves([make_run("first")]))
    assert "first" not in words
    assert "float" not in words


def test_what_no_file_tells_has_no_panel() -> None:
    old = make_run(
        "old", training(epochs=epochs(lr=None, test_accuracy=None), accuracy_after=None, accuracy_before=None)
    )
    words = words_of(draw_curves([old]))
    assert "Learning rate" not in words
    assert "test images" not in words


def test_nothing_to_draw() -> None:
    assert draw_curves([bare_run()]) is None
    assert draw_curves([make_run("short", training(epochs=epochs(1)))]) is None


def test_a_short_run_is_drawn_beside_a_long_one() -> None:
    assert "short" in words_of(draw_curves([make_run("short", training(epochs=epochs(1))), make_run("long")]))


def test_accuracies_in_percent() -> None:
    record = read_training(training())
    assert on_test_images(record)[0] == (0, 50)
    assert on_test_images(record)[-1] == (3, pytest.approx(80.3))
    assert [number for number, _ in on_training_images(record)] == [1, 2, 3]
    ends = read_training(training(epochs=epochs(test_accuracy=None)))
    assert on_test_images(ends) == [(0, 50), (3, pytest.approx(80.3))]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([[90, 91, 92, 93, 94]], 90),
        ([[10, 91, 92, 93, 94]], 10),
        ([[10, 50, 90, 93, 94, 94, 94, 94], [93, 94]], 10),
        ([[10, *[94] * 30], [93, 94, 94]], 90),
        ([[99]], 99),
    ],
)
def test_an_axis_of_accuracies_ends_where_it_would_hide_the_runs(lines: list[list[float]], expected: float) -> None:
    assert lowest_shown(lines) == expected
