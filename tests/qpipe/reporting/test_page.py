import functools
import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import pytest

from qpipe.errors import ModelError
from qpipe.reporting.page import render
from qpipe.reporting.record import TrainingRecord, read_certificate
from support.report_runs import CERTIFICATE, bare_run, epochs, float_run, make_run, training

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Tags in balance, attributes, and the text that a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, text or "") for name, text in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, text or "") for name, text in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


RUNS = {
    "one": [make_run()],
    "several": [make_run("8 bits"), make_run("4 bits"), bare_run()],
    "bare": [bare_run()],
    "low": [float_run()],
    "mixed": [make_run("4 bits"), float_run("first"), float_run("second", layers=2)],
    "short": [make_run("short", training(epochs=epochs(1), diagnostics=None))],
}


@functools.cache
def page_of(kind: str) -> str:
    return render(RUNS[kind], "a title")


@pytest.mark.parametrize("kind", RUNS)
def test_it_needs_nothing_but_itself(kind: str) -> None:
    html = page_of(kind)
    page = Page(html)
    for tag, name, text in page.attributes:
        assert tag not in {"script", "link", "img", "iframe", "object"}
        if name in {"href", "xlink:href", "src"}:
            assert text.startswith("#"), (tag, name, text)
    assert not re.search(r"@import|url\((?!#)", html)
    ids = Counter(text for _, name, text in page.attributes if name == "id")
    assert ids.most_common(1)[0][1] == 1
    links = {text[1:] for tag, name, text in page.attributes if tag == "a" and name == "href"}
    assert links <= set(ids)


def test_equal_runs_give_equal_pages() -> None:
    assert render(RUNS["one"], "a title") == page_of("one")


def test_one_run_tells_all() -> None:
    text = Page(page_of("one")).text
    for words in (
        "a title", "81.00 %", "50.00 %", "80.30 %", "−0.70 to float", "123.5 kB", "updates 301 to 600", "0.005",
        "holds for all 1 layers", "1,234,567", "54,321 integers", "calibrate-percentile", "batches 5", "ab" * 32,
        "mean 0.3, color GRAY", "recipe faq-4bit",
    ):  # fmt: skip
        assert words in text, words


def test_several_runs_stand_in_one_table() -> None:
    html = page_of("several")
    text = Page(html).text
    assert "3 runs side by side" in text
    assert "8 bits: the 3 epochs" in text
    assert html.count("<svg") == 4


def test_a_float_network_tells_what_low_bit_formats_would_lose() -> None:
    text = Page(page_of("low")).text
    for words in (
        "a float network Training", "Low-bit operands", "at update 50", "⟨0, 3⟩, nc", "in layer1 and over all",
        "1. layer0 75.00",
    ):  # fmt: skip
        assert words in text, words
    for heading in ("Noise of the steps", "Noise of the values", "Certificate", "unknown"):
        assert heading not in text, heading
    assert page_of("low").count("<svg") == 4
    assert "Low-bit operands" not in Page(page_of("several")).text


def test_each_run_has_pictures_of_its_own_operands() -> None:
    html = page_of("mixed")
    assert html.count("<svg") == 4 + 2 * 2
    text = Page(html).text
    assert "4 bits: trained in another arithmetic, so no operand was looked at." in text
    assert text.count("first, second: a float network, in which nothing is on a grid.") == 2


def test_curves_say_where_skips_faded() -> None:
    faded = make_run("plain", training(settings={"fade": 0.6}))
    text = Page(render([faded, make_run("residual")], "a title")).text
    assert "The skips of plain fade over the first 60 % of its run." in text
    assert "The skips of residual" not in text


def test_what_a_file_lacks_is_said_in_words() -> None:
    html = page_of("bare")
    text = Page(html).text
    assert "<svg" not in html
    for words in (
        "bare: no record of training",
        "bare: the float network's accuracy is not in the file",
        "bare: no certificate.",
        "unknown: the file has no hash of its origin",
        "bare: the file does not say which passes ran.",
    ):
        assert words in text, words
    short = Page(page_of("short")).text
    assert "short: a single epoch, which makes no curve." in short
    assert short.count("short: trained without --diagnose") == 1


def test_names_are_text() -> None:
    html = render([bare_run("<u>&"), bare_run("other")], "<u>title")
    assert "<u>" not in html
    assert "&lt;u&gt;title" in html


FAILING = {**CERTIFICATE["layers"][0], "ok": False, "problems": ["2 pairs of weights over 128"]}


@pytest.mark.parametrize(
    ("problem", "fields"),
    [
        (
            "2 pairs of weights over 128",
            {"certificate": read_certificate({**CERTIFICATE, "layers": [FAILING]})},
        ),
        ("the nodes are not those", {"certificate_problems": ("the nodes are not those",)}),
    ],
)
def test_a_certificate_that_fails_says_so(problem: str, fields: dict[str, Any]) -> None:
    text = Page(render([make_run(training=TrainingRecord(), **fields)], "t")).text
    assert "does not hold" in text
    assert "holds for all" not in text
    assert problem in text


def test_the_rows_of_validate_and_the_stages_of_a_folder() -> None:
    row = {"name": "model.onnx", "kind": "qoperator", "top1": 0.9, "agreement": None, "integers_equal": True,
           "certificate": "holds"}  # fmt: skip
    text = Page(render([make_run(training=TrainingRecord(), rows=(row,), stages={"calibrate": 1.25})], "t")).text
    assert "All files of the run" in text
    assert "90.00" in text
    assert "calibrate 1.25" in text


def test_where_the_accuracy_stood_is_told_where_there_were_steps_on_the_way():
    stood = {"float": 0.9, "skips stripped": 0.1, "trained": 0.8}
    phases = [{"phase": phase, "accuracy": top1} for phase, top1 in stood.items()]
    text = Page(render([make_run(record=training(phases=phases))], "plain")).text
    assert "Where the accuracy stood phase test top-1, % float 90.00 skips stripped 10.00 trained 80.00" in text
    assert "Where the accuracy stood" not in Page(render([make_run()], "net")).text


def test_a_page_speaks_in_the_metric_of_the_task():
    record = training(
        task={"metric": "mse"},
        epochs=epochs(accuracy=None, test_accuracy=0.25),
        accuracy_before=0.5,
        accuracy_after=0.125,
    )
    row = {"name": "net.onnx", "kind": "float", "mse": 0.75, "agreement": None, "integers_equal": None,
           "certificate": None}  # fmt: skip
    text = Page(render([make_run(record=record, rows=(row,), float_accuracy=None)], "net")).text
    for words in ("0.5 mse before training", "0.125 mse after training", "−0.375", "test mse", "0.75"):
        assert words in text
    assert "top-1" not in text
    with pytest.raises(ModelError, match="the runs are judged by mse and top-1, expected one metric on a page"):
        render([make_run("a", record=record), make_run("b")], "both")


def test_several_runs_share_the_table_of_phases():
    stood = {"skips stripped": 0.1, "before": 0.2, "trained": 0.8}
    phases = [{"phase": phase, "accuracy": top1} for phase, top1 in stood.items()]
    runs = [make_run("plain", record=training(phases=phases)), make_run("net")]
    text = Page(render(runs, "both")).text
    assert "run phase test top-1, % plain skips stripped 10.00 before 20.00 trained 80.00" in text
