"""The papers' network trains from scratch by one command, on a few images of as many classes as are asked for."""

from pathlib import Path

import numpy as np
import train_resnet18

import qpipe


def test_it_trains_from_scratch(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8), np.array([0, 99, 3, 7])
    data, output = tmp_path / "few100.npz", tmp_path / "resnet18.onnx"
    np.savez(data, x_train=images, y_train=labels, x_test=images, y_test=labels)
    train_resnet18.main(data, output, classes=100, epochs=1, batch_size=4, seed=0)
    found = qpipe.inspect(output)
    assert found.outputs[0].shape[-1] == 100
    assert 11.1e6 < found.parameters < 11.3e6
    assert found.macs is not None
    assert 0.55e9 < found.macs < 0.56e9
    assert found.ready
