"""LQ-Net from end to end: a run that goes on to the bit, and the verbs from the float file to both exports."""

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

import qpipe
from qpipe.errors import ModelError, RecipeError
from qpipe.ir.files.load import load_model
from qpipe.ir.quantized.view import read_view
from qpipe.nodes import DOMAIN
from qpipe.train.executor import Executor
from qpipe.train.loop import train
from qpipe.train.write_back import write_back
from support.quantize import quantized
from support.training import SETTINGS, assert_same, bright_images, replace, state_of
from support.zoo.digits import PREPROCESS, digits_model
from support.zoo.trainable import network


def qdq() -> ir.Model:
    net, y = network()
    return quantized(net.model(y), net.inputs(), weight_bits=2, activation_bits=2, quantizer="lq")


def test_resuming_changes_nothing(tmp_path: Path) -> None:
    source, settings, path = bright_images(), replace(SETTINGS, epochs=2), tmp_path / "run.safetensors"
    whole = Executor(qdq(), batch_norm="batch")
    expected = train(whole, source, settings)
    train(Executor(qdq(), batch_norm="batch"), source, replace(settings, epochs=1), checkpoint=path)
    rest = Executor(qdq(), batch_norm="batch")
    assert train(rest, source, settings, checkpoint=path, resume=True) == expected
    assert_same(state_of(rest), state_of(whole))
    assert [name for name in state_of(rest) if name.endswith("basis")]


def test_a_table_that_its_basis_does_not_make_is_refused() -> None:
    model = qdq()
    write_back(Executor(model))
    gather = next(node for node in model.graph if node.op_type == "GatherElements")
    gather.metadata_props["qpipe.basis"] = "[0.5, 0.25]"
    with pytest.raises(ModelError, match=r"its table is none of its metadata 'qpipe\.basis'"):
        Executor(model)


def test_the_verbs(tmp_path: Path) -> None:
    onnx.save_model(digits_model(), tmp_path / "net.onnx")
    file, trained = tmp_path / "net.qdq.onnx", tmp_path / "trained.qdq.onnx"
    qpipe.calibrate(
        tmp_path / "net.onnx", "digits", file, preprocess=PREPROCESS, batches=1, weight_bits=3, activation_bits=3,
        quantizer="lq",
    )  # fmt: skip
    qpipe.finetune(file, "digits", trained, epochs=1)
    bases = [q.basis for layer in read_view(load_model(trained)).layers for q in layer.sources if q.basis is not None]
    assert len(bases) > 1
    assert bases != [q.basis for layer in read_view(load_model(file)).layers for q in layer.sources if q.basis]
    for form in ("qoperator", "integer", "qdq"):
        qpipe.export(trained, tmp_path / f"{form}.onnx", format=form, data="digits")
        exported = onnx.load(tmp_path / f"{form}.onnx")
        assert not exported.functions
        assert DOMAIN not in {node.domain for node in exported.graph.node}
    assert any("levels of" in node.note for node in qpipe.inspect(trained).nodes)


@pytest.mark.parametrize("bits", [5, 8])
def test_widths(bits: int) -> None:
    net, y = network()
    with pytest.raises(RecipeError, match=f"{bits}-bit weights, expected 2 to 4 with lq"):
        quantized(net.model(y), net.inputs(), weight_bits=bits, quantizer="lq")
    with pytest.raises(RecipeError, match=f"weight_bits: {bits}, expected 2 to 4 with the quantizer 'lq'"):
        qpipe.calibrate(net.proto(y), net.inputs(), weight_bits=bits, quantizer="lq")
