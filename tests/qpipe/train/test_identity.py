"""What makes a run another one, and what does not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qpipe.data import Preprocess, Source, open_data
from qpipe.errors import DataError, ModelError, QpipeError
from qpipe.ir.files.metadata import get_object, set_json
from qpipe.ir.quantized.view_weights import QUANTIZATION
from qpipe.train.executor import Executor
from qpipe.train.identity import SAMPLE, Identity, check_identity, identity_of
from support.networks import Network
from support.quantize import quantized
from support.training import SETTINGS, bright_images, replace
from support.zoo.trainable import network, qdq

FILE = Path("run.checkpoint")


def identity(**changes: Any) -> Identity:
    given = {"executor": Executor(qdq()), "settings": SETTINGS, "seed": 0, "source": bright_images()} | changes
    return identity_of(**given)


def assert_refused(changed: Identity, kind: type[QpipeError], message: str) -> None:
    with pytest.raises(kind) as raised:
        check_identity(FILE, identity(), changed)
    assert str(raised.value) == f"run.checkpoint: a checkpoint of {message}"


def strided(stride: int) -> Executor:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.norm(net.conv("x", 3, 8), 8))
    y = net.head(net.op("MaxPool", x, kernel_shape=[2, 2], strides=[stride, stride]), 8, 4)
    return Executor(quantized(net.model(y), net.inputs()))


def images(count: int = SAMPLE, change: int | None = None, preprocess: Preprocess | None = None) -> Source:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    if change is not None:
        pixels[change] += 1
    return open_data((pixels, np.arange(count) % 4), "train", preprocess or Preprocess(mean=(0.5,), std=(0.5,)))


def test_the_same_is_the_same() -> None:
    check_identity(FILE, identity(), identity())


def test_the_file_it_came_from_does_not_count(tmp_path: Path) -> None:
    from qpipe.ir.files.load import load_model
    from qpipe.ir.files.save import save_model

    save_model(qdq(), tmp_path / "net.onnx")
    check_identity(FILE, identity(), identity(executor=Executor(load_model(tmp_path / "net.onnx"))))


def test_another_network() -> None:
    assert_refused(identity(executor=Executor(qdq(out=6))), ModelError, "another network: its structure differs")
    executor = Executor(qdq())
    next(executor.weighted()).weight.data[0, 0, 0, 0] += 1
    assert_refused(identity(executor=executor), ModelError, "another network: a starting weight differs")
    net, y = network()
    narrow = Executor(quantized(net.model(y), net.inputs(), activation_bits=4))
    with pytest.raises(ModelError, match="another network"):
        check_identity(FILE, identity(), identity(executor=narrow))


def test_an_attribute_is_structure() -> None:
    with pytest.raises(ModelError, match="another network: its structure differs"):
        check_identity(FILE, identity(executor=strided(1)), identity(executor=strided(2)))


def test_the_width_of_a_weight_is_a_quantizers() -> None:
    model = qdq()
    set_json(model, QUANTIZATION, {**(get_object(model, QUANTIZATION) or {}), "weight_clip": 1.25})
    assert_refused(identity(executor=Executor(model)), ModelError, "another network: a quantizer differs")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (images(count=76), "other data: number of images was 64, now 76"),
        (images(change=5), "other data: an image differs"),
        (images(preprocess=Preprocess(mean=(0.5,), std=(0.25,))), "other data: preprocessing was "),
    ],
)
def test_other_data(source: Source, message: str) -> None:
    # So few images that all are looked at.
    with pytest.raises(DataError) as raised:
        check_identity(FILE, identity(source=images()), identity(source=source))
    assert str(raised.value).startswith(f"run.checkpoint: a checkpoint of {message}")


def test_a_stream_is_known_by_its_name() -> None:
    stream = open_data(iter([(np.zeros((2, 3, 8, 8), np.float32), np.zeros(2, int))]), "train")
    assert identity(source=stream)["data"]["stream"] == stream.name
    assert len(next(stream.batches(2))) == 2


def test_the_content_of_a_teachers_file(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.onnx"
    teacher.write_bytes(b"one")
    settings = replace(SETTINGS, teacher=str(teacher))
    before = identity(settings=settings)
    teacher.write_bytes(b"other")
    with pytest.raises(QpipeError, match="another run: the teacher's file differs"):
        check_identity(FILE, before, identity(settings=settings))


def test_what_does_not_count_without_a_teacher() -> None:
    check_identity(FILE, identity(), identity(settings=replace(SETTINGS, temperature=2.0, teacher_weight=0.3)))
