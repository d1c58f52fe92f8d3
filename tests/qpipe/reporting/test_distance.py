import pytest

from qpipe.reporting.distance import draw_neuron_cosine, shares_of
from qpipe.reporting.record import NeuronRecord
from support.report_runs import bare_run, diagnostics, make_run, training


def test_means_and_names_are_written_out() -> None:
    svg = draw_neuron_cosine([make_run("pretrained"), bare_run(), make_run("other")])
    assert svg is not None
    for words in ("pretrained", "other", "0.9940 ± 0.0100", "Share of neurons, %"):
        assert words in svg


def test_from_scratch_may_be_negative() -> None:
    record = {"mean": -0.01, "std": 0.2, "layers": [], "histogram": [0, 3, 1, 0]}
    assert draw_neuron_cosine([make_run("s", training(diagnostics=diagnostics(neuron_cosine=record)))])


def test_nothing_to_draw() -> None:
    assert draw_neuron_cosine([bare_run()]) is None
    assert draw_neuron_cosine([make_run("n", training(diagnostics=diagnostics(neuron_cosine=None)))]) is None


def test_shares_are_percent_of_all_neurons() -> None:
    edges, shares = shares_of(NeuronRecord(mean=0, std=1, histogram=[1, 0, 0, 3]))
    assert edges == [-1, -0.5, 0, 0.5, 1]
    assert shares == pytest.approx([25, 0, 0, 75])
