"""The loop and its checkpoints: one seed, one result, also where it was interrupted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from networks import Network, finalized, quantized
from safetensors.torch import load_file, save_file

from qpipe.data import Augment, Preprocess, Source, open_data
from qpipe.errors import DataError, ModelError, QpipeError
from qpipe.train.executor import Executor
from qpipe.train.loop import DivergedError, train
from qpipe.train.run import TrainingSettings
from qpipe.train.weighted import BatchNormMode

SETTINGS = TrainingSettings(
    epochs=2, lr=0.02, momentum=0.9, weight_decay=1e-4, batch_size=16, seed=3, augment=Augment(pad=1)
)


def network(out: int = 8, classes: int = 4) -> tuple[Network, str]:
    net = Network(3, 8, 8)
    x = net.op("Relu", net.norm(net.conv("x", 3, out), out))
    x = net.op("Relu", net.norm(net.op("Add", net.conv(x, out, out), x), out))
    return net, net.head(x, out, classes)


def qdq(out: int = 8, classes: int = 4) -> ir.Model:
    net, y = network(out, classes)
    return quantized(net.model(y), net.inputs())


@pytest.fixture(scope="module")
def source() -> Source:
    """Images whose brightest channel is their class; the fourth has none."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 72)
    images = rng.integers(0, 120, (72, 8, 8, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, :, label : label + 1] += 120
    return open_data((images, labels), "train", Preprocess(mean=(0.5,), std=(0.5,)))


def state(executor: Executor) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in executor.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_one_seed_one_result(source: Source, mode: BatchNormMode) -> None:
    runs = []
    for seed in (3, 3, 4):
        executor = Executor(qdq(), batch_norm=mode)
        history = train(executor, source, replace(SETTINGS, seed=seed))
        assert not executor.training
        runs.append((state(executor), history))
    assert_same(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert runs[0][1] != runs[2][1]


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_it_learns(source: Source, mode: BatchNormMode) -> None:
    history = train(Executor(qdq(), batch_norm=mode), source, replace(SETTINGS, epochs=8, augment=None))
    assert [epoch.number for epoch in history] == list(range(1, 9))
    assert history[-1].loss < 0.7 * history[0].loss
    assert history[-1].accuracy > history[0].accuracy


@pytest.mark.parametrize("mode", ["running", "batch"])
@pytest.mark.parametrize("done", [1, 2, 3])
def test_resuming_changes_nothing(source: Source, tmp_path: Path, mode: BatchNormMode, done: int) -> None:
    settings = replace(SETTINGS, epochs=3)
    whole = Executor(qdq(), batch_norm=mode)
    expected = train(whole, source, settings)
    checkpoint = tmp_path / "run.safetensors"
    train(Executor(qdq(), batch_norm=mode), source, replace(settings, epochs=done), checkpoint=checkpoint)
    rest = Executor(qdq(), batch_norm=mode)
    assert train(rest, source, settings, checkpoint=checkpoint, resume=True) == expected
    assert_same(state(rest), state(whole))


def test_a_float_graph(source: Source) -> None:
    net, y = network()
    history = train(Executor(net.model(y)), source, replace(SETTINGS, epochs=4))
    assert history[-1].loss < history[0].loss


def test_a_loss_that_is_no_number(source: Source, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"^epoch 1: the loss is (nan|inf); a lower --lr may help$"):
        train(Executor(qdq()), source, replace(SETTINGS, lr=1e30))
    checkpoint = tmp_path / "run.safetensors"
    train(Executor(qdq()), source, replace(SETTINGS, epochs=1), checkpoint=checkpoint)
    executor = Executor(qdq())
    executor.register_forward_pre_hook(lambda module, args: (args[0] * float("nan"),))
    with pytest.raises(DivergedError, match=r"epoch 2: .*the last good state is in .*run\.safetensors"):
        train(executor, source, SETTINGS, checkpoint=checkpoint, resume=True)


def test_a_final_model_is_refused() -> None:
    with pytest.raises(ModelError, match="the model is final"):
        Executor(finalized(qdq()))


def test_labels_beyond_the_classes(source: Source) -> None:
    with pytest.raises(DataError, match="label 3, but the network has 3 classes"):
        train(Executor(qdq(classes=3)), source, SETTINGS)


def test_no_labels() -> None:
    images = np.zeros((32, 8, 8, 3), np.uint8)
    with pytest.raises(DataError, match="no labels"):
        train(Executor(qdq()), open_data(images, "train", Preprocess()), SETTINGS)


def test_checkpoints_that_do_not_fit(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    with pytest.raises(QpipeError, match="no such file"):
        train(Executor(qdq()), source, SETTINGS, checkpoint=path, resume=True)
    with pytest.raises(QpipeError, match="no checkpoint was named"):
        train(Executor(qdq()), source, SETTINGS, resume=True)
    train(Executor(qdq()), source, replace(SETTINGS, epochs=1), checkpoint=path)
    with pytest.raises(QpipeError, match=r"another run: lr was 0\.02, now 0\.1"):
        train(Executor(qdq()), source, replace(SETTINGS, lr=0.1), checkpoint=path, resume=True)
    with pytest.raises(ModelError, match="another network"):
        train(Executor(qdq(out=6)), source, SETTINGS, checkpoint=path, resume=True)
    smaller = Network(3, 8, 8)
    y = smaller.head(smaller.op("Relu", smaller.norm(smaller.conv("x", 3, 8), 8)), 8, 4)
    with pytest.raises(ModelError, match="another network"):
        train(Executor(quantized(smaller.model(y), smaller.inputs())), source, SETTINGS, checkpoint=path, resume=True)
    save_file(load_file(path), path)
    with pytest.raises(ModelError, match="names no settings"):
        train(Executor(qdq()), source, SETTINGS, checkpoint=path, resume=True)
    path.write_bytes(b"\x80\x04N.")
    with pytest.raises(ModelError, match="not a checkpoint"):
        train(Executor(qdq()), source, SETTINGS, checkpoint=path, resume=True)
