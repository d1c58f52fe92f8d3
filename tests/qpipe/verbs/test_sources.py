"""Every verb names the file in what it says about a model, whatever room found it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qpipe
from qpipe.errors import ModelError
from qpipe.verbs.sources import about
from support.zoo.digits import write_quantized_digits

DATA = {"images": np.zeros((10, 8, 8, 1), np.uint8), "labels": np.arange(10)}
VERBS: dict[str, Callable[[Path], Any]] = {
    "calibrate": lambda path: qpipe.calibrate(path, DATA, batches=1),
    "finetune": lambda path: qpipe.finetune(path, DATA, epochs=1),
    "export": lambda path: qpipe.export(path, data=DATA),
    "validate": lambda path: qpipe.validate([path], DATA),
    "bench": lambda path: qpipe.bench([path], DATA, repeats=1),
    "report": lambda path: qpipe.report([path]),
}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    folder = tmp_path_factory.mktemp("digits")
    write_quantized_digits(folder)
    return onnx.load(folder / "net.qdq.onnx")


@pytest.mark.parametrize(
    ("key", "value", "verbs"),
    [
        ("preprocess", '{"mean": ["x"]}', ("calibrate", "finetune", "export", "validate", "bench")),
        ("preprocess", "[]", tuple(VERBS)),
        ("plain", '[{"name": "a"}]', ("finetune",)),
        ("provenance", '{"pass": 1}', ("calibrate", "finetune", "export", "report")),
    ],
)
def test_metadata(network: onnx.ModelProto, key: str, value: str, verbs: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "damaged.qdq.onnx"
    damaged = onnx.ModelProto.FromString(network.SerializeToString())
    props = {entry.key: entry.value for entry in network.metadata_props}
    onnx.helper.set_model_props(damaged, {**props, f"qpipe.{key}": value})
    onnx.save_model(damaged, path)
    for verb in verbs:
        with pytest.raises(ModelError, match=f"damaged.qdq.onnx: metadata 'qpipe.{key}'") as caught:
            VERBS[verb](path)
        assert str(caught.value).count(path.name) == 1, verb


def test_a_file_is_named_once() -> None:
    with pytest.raises(ModelError, match=r"^net\.onnx: no nodes$"), about("net.onnx"), about("net.onnx"):
        raise ModelError("no nodes")
