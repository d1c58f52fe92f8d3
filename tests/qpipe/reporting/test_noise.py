import re
from typing import Any

from qpipe.reporting.noise import diagnosed, draw_noise, draw_step_cosine, layer_names, lossy, same_width
from qpipe.reporting.run import Run
from support.report_runs import ACTIVATIONS, bare_run, diagnostics, make_run, training


def words_of(svg: str | None) -> set[str]:
    assert svg is not None
    return set(re.findall(r"<text[^>]*>([^<]*)</text>", svg))


def run(bits: int, **more: Any) -> Run:
    return make_run(f"{bits} bits", training(diagnostics=diagnostics(bits, **more)))


def test_figure_1_has_the_layers_and_the_runs() -> None:
    words = words_of(draw_step_cosine([run(8), run(4), bare_run()]))
    assert {"conv1", "layer1.0/conv1", "linear", "8 bits", "4 bits", "cosine similarity"} <= words
    assert "bare" not in words


def test_layers_of_one_width_are_shaded_where_others_differ() -> None:
    records = [found for *_, found in diagnosed([run(8), run(4)])]
    assert same_width(records) == [0, 2]
    assert same_width(records[:1]) == []
    assert same_width([]) == []


def test_the_ratios_have_two_panels_and_leave_out_what_loses_nothing() -> None:
    words = words_of(draw_noise([run(4)]))
    assert {"Weights", "Activations", "SQNR, dB", "before training", "after"} <= words
    assert "layer1.0/Slice" not in words
    (found,) = (found for *_, found in diagnosed([run(4)]))
    assert lossy([found], "activation") == [0, 1, 3]
    assert lossy([found], "weight") == [0, 1, 2]


def test_nothing_to_draw() -> None:
    assert draw_step_cosine([bare_run()]) is None
    assert draw_noise([bare_run()]) is None
    assert draw_step_cosine([run(4, step_cosine=None)]) is None
    assert draw_noise([run(4, sqnr_after=None)]) is None


def test_runs_of_other_networks_have_numbers_for_layers() -> None:
    assert layer_names([ACTIVATIONS, ACTIVATIONS])[1] == "conv1"
    assert layer_names([["a", "b"], ["a"]]) == ["1", "2"]
    words = words_of(draw_noise([run(4), run(8, activations=["x"], activation_bits=[8])]))
    assert "1" in words


def test_a_deep_network_has_numbers_too() -> None:
    many = [f"conv{i}" for i in range(200)]
    words = words_of(draw_step_cosine([run(4, layers=many, weight_bits=[4] * 200, step_cosine=[0.5] * 200)]))
    assert "layer" in words
    assert "conv7" not in words
