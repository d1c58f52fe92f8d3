"""A residual network whose skips are in floating point."""

from pathlib import Path

import numpy as np
import pytest
import torch
from float_skips import train_and_count, with_float_skips

from qpipe.ir.files.save import save_model
from qpipe.train.executor import Executor
from support.training import batch
from support.zoo.trainable import CLASSES, residual_qdq

OPTIONS = {"weight_bits": 2, "activation_bits": 2, "skip_bits": 8}


def test_what_convolutions_read_is_rounded_and_nothing_else() -> None:
    executor = with_float_skips(Executor(residual_qdq(**OPTIONS)))
    values = executor.start(batch()[0])
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for step in executor.steps:
            layer, reads = step.layer, [values[value] for value in step.reads]
            executor.run(values, [step])
            for quantizer, x in zip(layer.sources, reads, strict=True):
                on_grid = torch.equal(x, torch.round(x / quantizer.grid.scale) * quantizer.grid.scale)
                if layer.is_weighted:
                    assert on_grid, layer.name
                elif layer.op_type == "Add":
                    assert not on_grid, layer.name
            seen[layer.op_type] = values[step.gives]
    assert {"Conv", "Add", "Gemm", "QuantizeLinear"} <= seen.keys()


def test_it_trains_and_is_counted(tmp_path: Path) -> None:
    """Classes are levels of brightness; a run that is done is only counted again."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % CLASSES
    arrays = {}
    for kind in ("train", "test"):
        noise = rng.integers(0, 20, (60, 8, 8, 3))
        arrays |= {f"{kind}_images": (50 * labels[:, None, None, None] + noise).astype(np.uint8)}
        arrays |= {f"{kind}_labels": labels}
    np.savez(tmp_path / "data.npz", **arrays)
    save_model(residual_qdq(**OPTIONS), tmp_path / "start.onnx")
    recipe = {"recipe": "ag", "epochs": 10, "batch_size": 10, "lr": 0.01}
    files = tmp_path / "start.onnx", tmp_path / "data.npz", tmp_path / "checkpoint"
    first, again = (train_and_count(*files, recipe, seed=0) for _ in range(2))
    assert first == again
    assert first > 0.5  # chance is 0.2


def test_what_it_cannot_train_with(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^method, teacher: expected nothing but recipe, epochs, batch_size, lr"):
        train_and_count(tmp_path, tmp_path, tmp_path, {"recipe": "ag", "method": "ag", "teacher": "float"}, seed=0)
