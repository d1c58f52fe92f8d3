import re

import pytest

from qpipe.reporting.energy import MOST_PARTS, OTHERS, Panel, draw_panels, height_of, shares
from qpipe.reporting.style import COLORS, drawing, to_svg

PANELS = [
    Panel("Saved", "×", ["a step", "int8"], {"horowitz": [12.5, 15.0], "own $1.toml": [6.125, None]}, "not priced"),
    Panel("Where it goes", " %", ["Conv", "Add"], {"float": [99.0, 1.0], "low-bit": [75.0, None]}, "none"),
]


def svg(panels: list[Panel]) -> str:
    with drawing(height_of(panels)) as figure:
        draw_panels(figure, panels, "a caption")
        return to_svg(figure, "energy", "energy")


def test_every_value_is_written() -> None:
    found = re.findall(r"<text[^>]*>([^<]*)</text>", svg(PANELS))
    for text in ("12.5×", "15×", "6.12×", "not priced", "99 %", "1 %", "75 %", "none", "a step", "Conv", "a caption"):
        assert text in found
    for text in ("Saved", "Where it goes", "horowitz", "own $1.toml", "float", "low-bit"):
        assert text in found


def test_no_colour_means_two_things() -> None:
    text = svg(PANELS)
    assert all(color in text for color in COLORS[:4])
    assert COLORS[4] not in text


def test_shares_are_of_the_whole_the_largest_first() -> None:
    labels, values = shares(
        {"float": [("Add", 1.0), ("Conv", 2.0), ("Conv", 1.0)], "low-bit": [("quantize", 3.0), ("Add", 1.0)]}
    )
    # What is large in one run is shown first.
    assert labels == ["Conv", "quantize", "Add"]
    assert values == {"float": [75.0, None, 25.0], "low-bit": [None, 75.0, 25.0]}


def test_many_small_parts_are_one() -> None:
    parts = [(f"part {i}", 1.0 if i < MOST_PARTS else 0.25) for i in range(MOST_PARTS + 4)]
    labels, values = shares({"a run": parts})
    assert labels == [*(f"part {i}" for i in range(MOST_PARTS)), OTHERS]
    assert values["a run"][-1] == pytest.approx(100 / (MOST_PARTS + 1))
    assert sum(value or 0 for value in values["a run"]) == pytest.approx(100)


def test_no_bar_and_no_word_lies_on_another() -> None:
    with drawing(height_of(PANELS)) as figure:
        draw_panels(figure, PANELS, "a caption")
        figure.canvas.draw()
        boxes = []
        for axes in figure.axes:
            boxes += [axes.title.get_window_extent(), axes.get_legend().get_window_extent()]
            boxes += [patch.get_window_extent() for patch in axes.patches]
            boxes += [text.get_window_extent() for text in axes.texts]
            boxes += [label.get_window_extent() for label in axes.get_yticklabels()]
        boxes = [box for box in boxes if box.width > 0]
        overlapping = [(one, other) for i, one in enumerate(boxes) for other in boxes[i + 1 :] if one.overlaps(other)]
        assert overlapping == []
        page = figure.bbox
        assert all(page.x0 <= box.x0 and box.x1 <= page.x1 for box in boxes)
