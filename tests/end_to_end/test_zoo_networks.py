"""Small networks of the zoo through all of qpipe: what stays float is what is said here, all else is proven equal."""

from pathlib import Path

import pytest
import zoo
from zoo_case import FORMATS, THROUGH, run_case
from zoo_networks.export import VARIANTS, write

WRITTEN = {variant.name: variant for variant in VARIANTS}
WHOLE = list(FORMATS)
ISLANDS = ["qoperator", "qdq"]


# A recurrent network keeps most of its work in float, which is warned of.
@pytest.mark.filterwarnings("ignore:.*float:UserWarning")
@pytest.mark.parametrize(
    ("network", "written", "inside", "formats"),
    [
        ("policy", "TorchScript-11", {}, WHOLE),
        ("mlperf_autoencoder", "Keras-14", {}, WHOLE),
        ("m5", "TorchScript-13", {}, WHOLE),
        ("tc_resnet", "TorchScript-17", {}, WHOLE),
        ("espcn", "TorchScript-17", {}, WHOLE),
        ("two_inputs", "TorchScript-17", {}, WHOLE),
        ("gru_words", "TorchScript-17", {"GRU": 1, "Transpose": 1}, ISLANDS),
        ("lstm_words", "TorchScript-11", {"LSTM": 1, "Transpose": 1}, ISLANDS),
    ],
)
def test_goes_through(network: str, written: str, inside: dict[str, int], formats: list[str], tmp_path: Path) -> None:
    job = zoo.Job(network, WRITTEN[written], tmp_path / "net.onnx")
    write(network, WRITTEN[written], job.path)
    outcome = run_case(job.path, job.arrays(8, 1), job.arrays(4, 2), tmp_path)
    assert (outcome.result, outcome.said) == (THROUGH, "")
    assert (outcome.inside, outcome.formats, outcome.equal) == (inside, formats, True)
