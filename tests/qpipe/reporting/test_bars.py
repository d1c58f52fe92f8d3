import re
from pathlib import Path

import pytest

from qpipe.reporting.bars import Panel, draw_bars, height_of, words
from qpipe.reporting.style import drawing, save_picture, to_svg

NAMES = ["float.onnx", "int8.onnx", "plain $1 [x].onnx"]
PANELS = [
    Panel("Top-1 accuracy", "%", [91.73, 91.42, 92.0], points=True),
    Panel("Latency, batch 1", "ms", [2.0, 0.5, None]),
    Panel("Nothing", "KiB", [None, None, None]),
]


def drawn(names: list[str], panels: list[Panel]) -> list[str]:
    with drawing(height_of(len(names))) as figure:
        draw_bars(figure, names, panels, "a caption")
        return re.findall(r"<text[^>]*>([^<]*)</text>", to_svg(figure, "bars", "bars"))


def test_every_value_is_written_with_its_ratio_or_its_difference() -> None:
    found = drawn(NAMES, PANELS)
    assert found[:3] == NAMES
    for text in ("91.73 %", "91.42 %   −0.31", "92.00 %   +0.27", "2 ms", "0.5 ms   0.25×", "unknown", "a caption"):
        assert text in found
    assert "Nothing" not in found


def test_one_model_and_a_long_name() -> None:
    found = drawn(["a" * 50], [Panel("File size", "kB", [12345.0])])
    assert found[0] == "a" * 31 + "…"
    assert "12,345 kB" in found


@pytest.mark.parametrize(
    ("values", "points", "expected"),
    [
        ([0.0, 3.0], False, "3 ms"),
        ([0.0, 3.0], True, "3.00 ms   +3.00"),
        ([None, 3.0], False, "3 ms"),
        ([400.0, 123.4], False, "123 ms   0.31×"),
        ([0.5, 0.01234], False, "0.0123 ms   0.02×"),
    ],
)
def test_words(values: list[float | None], points: bool, expected: str) -> None:
    assert words(Panel("title", "ms", values, points=points), 1) == expected


def test_no_bar_and_no_word_lies_on_another(tmp_path: Path) -> None:
    with drawing(height_of(len(NAMES))) as figure:
        draw_bars(figure, NAMES, PANELS, "a caption")
        save_picture(figure, tmp_path / "bars.png", "bars", "bars")
        boxes = []
        for axes in figure.axes:
            boxes += [axes.title.get_window_extent(), *(patch.get_window_extent() for patch in axes.patches)]
            boxes += [text.get_window_extent() for text in axes.texts]
        boxes += [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
        boxes = [box for box in boxes if box.width > 0]
        overlapping = [(a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :] if a.overlaps(b)]
    assert overlapping == []
