from pathlib import Path

import pytest

from qpipe.errors import OutputError
from qpipe.reporting.style import COLORS, MARKERS, drawing, legend_of_runs, look, save_picture, short_names, to_svg


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["/conv1/Conv", "/layer1/layer1.0/conv1/Conv"], ["conv1", "layer1.0/conv1"]),
        (["/layer1/layer1.0/Add", "/layer1/layer1.0/Slice"], ["layer1.0/Add", "layer1.0/Slice"]),
        (["/conv/Conv", "/conv"], ["conv/Conv", "conv"]),
        (["conv1", "node_conv2d_1", "/"], ["conv1", "node_conv2d_1", "/"]),
        ([], []),
    ],
)
def test_short_names(names: list[str], expected: list[str]) -> None:
    assert short_names(names) == expected


def test_short_names_stay_different() -> None:
    names = ["/a/Conv", "/a/Add", "/b/a/Conv", "/b/b.1/x/Conv", "/b/b.1/x/Add", "/b.1/x"]
    assert len(set(short_names(names))) == len(names)


def test_looks_differ_and_come_again() -> None:
    assert len({look(index) for index in range(len(COLORS))}) == len(COLORS) == len(MARKERS)
    assert look(len(COLORS)) == look(0)


def drawn(name: str) -> str:
    with drawing(2) as figure:
        line = figure.subplots().plot([0, 1], [0, 1], marker="o")
        legend_of_runs(figure, ["<a & b>"], line)
        return to_svg(figure, name, 'the "x" & y')


def test_one_figure_is_one_text() -> None:
    assert drawn("first") == drawn("first")


def test_ids_of_two_figures_differ() -> None:
    def ids(text: str) -> set[str]:
        return {part.split('"')[0] for part in text.split(' id="')[1:]}

    first, second = drawn("first"), drawn("second")
    assert ids(first)
    assert not ids(first) & ids(second)
    for text in (first, second):
        used = {part.split('"')[0] for part in text.split('href="#')[1:]}
        used |= {part.split(")")[0] for part in text.split("url(#")[1:]}
        assert used <= ids(text)


def test_it_is_a_bare_element_in_the_pages_width_with_words_for_who_cannot_see_it() -> None:
    text = drawn("first")
    assert text.startswith('<svg role="img" aria-label="the &quot;x&quot; &amp; y" ')
    assert text.endswith("</svg>")
    opening = text[: text.index(">")]
    assert "viewBox=" in opening
    assert "width=" not in opening
    assert "metadata" not in text
    assert "&lt;a &amp; b&gt;</text>" in text


def test_a_picture_of_its_own_is_what_its_suffix_says(tmp_path: Path) -> None:
    for name, start in (("a.svg", b"<svg "), ("a.SVG", b"<svg "), ("a.png", b"\x89PNG"), ("a.PNG", b"\x89PNG")):
        contents = []
        for _ in range(2):
            with drawing(2) as figure:
                figure.subplots().plot([0, 1], [0, 1])
                save_picture(figure, tmp_path / name, "picture", "a line")
            contents.append((tmp_path / name).read_bytes())
        assert contents[0].startswith(start)
        assert contents[0] == contents[1]
    with drawing(2) as figure, pytest.raises(OutputError, match=r"the folder '.*absent' does not exist"):
        save_picture(figure, tmp_path / "absent" / "a.png", "picture", "a line")
