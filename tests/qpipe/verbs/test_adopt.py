"""adopt: files that onnxruntime's own quantizer writes of the digits' network, and what becomes of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import qpipe
from qpipe.cli.main import main
from qpipe.data import Preprocess, open_data
from qpipe.errors import ModelError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import ADOPTED, get_object
from qpipe.ir.quantized.kind import Kind, find_kind
from qpipe.ir.quantized.view import read_view
from support.zoo.digits import PREPROCESS

Theirs = Callable[..., Path]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
NEAR = 0.95
"""Of the images that must keep their class: two 8-bit grids of one network differ in a few near ties."""


class _Digits(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self._batches = iter(open_data("digits", "train", Preprocess(**PREPROCESS)).batches(64))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"x": batch.inputs}


@pytest.fixture(scope="module")
def theirs(stages: Path, tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    """What onnxruntime makes of the digits' network, with the options given."""
    folder = tmp_path_factory.mktemp("theirs")
    quant_pre_process(str(stages / "net.onnx"), str(folder / "float.onnx"))

    def make(form: str = "QDQ", **options: Any) -> Path:
        made = folder / f"{form}.{len(list(folder.iterdir()))}.onnx"
        quantize_static(
            str(folder / "float.onnx"), str(made), _Digits(), quant_format=QuantFormat[form],
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            # Of 7 bits, so that their kernels do not saturate on CPUs without VNNI.
            **{"per_channel": True, "reduce_range": True, **options},
        )  # fmt: skip
        return made

    return make


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_it_answers_as_their_file_does_and_goes_on_through_the_house(form: str, theirs: Theirs, tmp_path: Path) -> None:
    file, output = theirs(form), tmp_path / "net.qdq.onnx"
    adopted = qpipe.adopt(file, "digits", output, preprocess=PREPROCESS, batches=2)
    assert find_kind(adopted)[0] is Kind.TRAINABLE
    told = get_object(adopted, ADOPTED)
    assert told is not None
    assert told["float_layers"] == []
    assert told["ranges"] > 4
    both = qpipe.validate([file, output], "digits", preprocess=PREPROCESS)
    assert (both.rows[1].agreement or 0) >= NEAR
    tuned = qpipe.finetune(output, "digits", epochs=1, batch_size=128, flip=False, evaluate=False)
    for kind in ("qoperator", "integer", "qdq"):
        assert find_kind(qpipe.export(tuned, format=kind))[0] is not Kind.FOREIGN


def test_ranges_are_theirs_and_not_those_of_the_data(theirs: Theirs) -> None:
    file = theirs("QDQ")
    images = open_data("digits", "train", Preprocess(**PREPROCESS))
    batch = next(iter(images.batches(64))).inputs

    def exponents(model: ir.Model) -> list[int]:
        return [layer.quantizer.grid.exponent for layer in read_view(model).layers if layer.quantizer is not None]

    own, dim = (qpipe.adopt(file, x, batches=1, batch_size=64) for x in (batch, batch / 64))
    assert exponents(own) == exponents(dim)


def test_what_they_left_in_float_stays_float(theirs: Theirs, tmp_path: Path) -> None:
    file = theirs("QDQ", nodes_to_exclude=["conv3"])
    adopted = qpipe.adopt(file, "digits", tmp_path / "a.qdq.onnx", preprocess=PREPROCESS, batches=2)
    assert (get_object(adopted, ADOPTED) or {})["float_layers"] == ["conv3"]
    view = read_view(load_model(tmp_path / "a.qdq.onnx"))
    assert "conv3" in [layer.name for layer in view.islands]
    assert "conv3" not in [layer.name for layer in view.layers]
    exported = qpipe.export(tmp_path / "a.qdq.onnx")
    both = qpipe.validate([file, exported], "digits", preprocess=PREPROCESS)
    assert (both.rows[1].agreement or 0) >= NEAR


def test_a_file_whose_grids_are_like_ours_is_still_theirs(theirs: Theirs, tmp_path: Path) -> None:
    """Quark's are powers of two, so that its files can be read as they are."""
    network = onnx.load(theirs("QDQ"))
    for tensor in network.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name.endswith("_scale"):
            tensor.CopyFrom(numpy_helper.from_array(2.0 ** np.ceil(np.log2(values)), tensor.name))
        elif tensor.name.endswith("_zero_point") and values.dtype == np.uint8 and values:
            tensor.CopyFrom(numpy_helper.from_array(np.uint8(128), tensor.name))
    onnx.save(network, tmp_path / "theirs.onnx")
    assert find_kind(load_model(network))[0] is Kind.FINAL
    adopted = qpipe.adopt(tmp_path / "theirs.onnx", "digits", preprocess=PREPROCESS, batches=2)
    assert find_kind(adopted)[0] is Kind.TRAINABLE


def test_who_gives_their_file_to_another_verb_is_told(theirs: Theirs, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"expected .*; `qpipe adopt` takes quantized files of other tools"):
        qpipe.export(theirs("QDQ"), output=tmp_path / "net.int8.onnx")
    assert "qpipe adopt" in qpipe.inspect(theirs("QDQ")).problems[0]


@pytest.mark.parametrize("name", ["net.onnx", "net.qdq.onnx"])
def test_a_file_of_another_kind_is_refused(name: str, stages: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"{name}: is .*, expected a quantized file that another tool wrote"):
        qpipe.adopt(stages / name, "digits", tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_the_command_tells_what_it_took_and_what_it_costs(
    theirs: Theirs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = theirs("QDQ"), tmp_path / "a.qdq.onnx"
    words = ["adopt", str(file), "--data", "digits", "-o", str(output), "--mean", "0.3", "--std", "0.38"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "tensors are those of its quantizers" in shown
    assert "before and after" in shown
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["kind"] for row in found["compared"]["rows"]] == ["QDQ of another form", "QDQ, trainable"]
    assert main([*words, "--no-compare"]) == 0
    assert "before and after" not in capsys.readouterr().out
