"""The tables' networks train from scratch by one command, on a few images of as many classes as are asked for."""

from pathlib import Path

import numpy as np
import train_resnet

import qpipe


def test_it_trains_from_scratch(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8), np.array([0, 99, 3, 7])
    data, output = tmp_path / "few100.npz", tmp_path / "resnet18.onnx"
    np.savez(data, x_train=images, y_train=labels, x_test=images, y_test=labels)
    network = train_resnet.Network["resnet18"]
    train_resnet.main(data, output, network, classes=100, epochs=1, batch_size=4, seed=0)
    found = qpipe.inspect(output)
    assert found.outputs[0].shape[-1] == 100
    assert found.ready
