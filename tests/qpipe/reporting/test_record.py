from typing import Any

import pytest

from qpipe.errors import ModelError
from qpipe.reporting.record import TrainingRecord, read_certificate, read_training
from support.report_runs import CERTIFICATE, diagnostics, low_bit, training


def test_what_a_run_tells_is_read() -> None:
    found = read_training(training())
    assert [epoch.number for epoch in found.epochs] == [1, 2, 3]
    assert found.diagnostics is not None
    assert found.diagnostics.step_updates == (301, 600)


def test_what_low_bit_formats_would_lose_is_read() -> None:
    found = read_training(training(diagnostics=diagnostics(low_bit=low_bit()))).diagnostics
    assert found is not None
    assert found.low_bit is not None
    assert found.low_bit.relative_error["error"][1][0] == [0.4, 0.4, None]


def test_older_files_say_less() -> None:
    found = read_training({"epochs": [{"number": 1, "loss": 0.5, "accuracy": 0.9}], "accuracy_before": None})
    assert found.epochs[0].lr is None
    assert found.diagnostics is None


def test_newer_files_may_say_more() -> None:
    assert read_training(training(something_new=1)) == read_training(training())


def test_nothing_is_nothing() -> None:
    assert read_training(None) == TrainingRecord()
    assert read_certificate(None) is None


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"epochs": 3}, r"metadata 'qpipe.training': epochs: Input should be a valid list"),
        ({"epochs": [{"number": 1, "loss": "high", "accuracy": 0.5}]}, "epochs.0.loss: "),
        (training(diagnostics={"layers": "all"}), "diagnostics.layers: "),
        *(
            (
                training(diagnostics=diagnostics(low_bit=damaged)),
                "diagnostics.low_bit: .*not whole, expected values for",
            )
            for damaged in (
                low_bit(layers=0),
                low_bit(updates=()),
                low_bit(updates=[1, 2, 3], below_half=low_bit()["below_half"]),
                low_bit(relative_error={**low_bit()["relative_error"], "error": low_bit(2)["relative_error"]["error"]}),
                low_bit(relative_error={"weight": low_bit()["relative_error"]["weight"]}),
                low_bit(below_half={"activation": low_bit()["below_half"]["activation"]}),
                low_bit(maxima={"activation": {"channel": [1.0], "sample": [1.0]}, "error": {"channel": [1.0]}}),
            )
        ),
        (training(diagnostics=diagnostics(low_bit=low_bit(formats=[{"element": [0], "grouping": "c"}]))), "element"),
    ],
)
def test_a_wrong_key_is_named(record: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        read_training(record)


def test_a_certificate_is_read() -> None:
    found = read_certificate(CERTIFICATE)
    assert found is not None
    assert found.layers[0].largest_accumulator == 1234567
    with pytest.raises(ModelError, match=r"'qpipe.certificate': layers.0.op: Field required"):
        read_certificate({**CERTIFICATE, "layers": [{"layer": "conv1"}]})
    with pytest.raises(ModelError, match=r"gate.integers: Field required"):
        read_certificate({**CERTIFICATE, "gate": {"tensors": 3}})
    empty = read_certificate({**CERTIFICATE, "gate": {}})
    assert empty is not None
    assert empty.gate is None
