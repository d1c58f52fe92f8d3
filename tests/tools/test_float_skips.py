"""A residual network whose skips are in floating point."""

from pathlib import Path

import numpy as np
import torch
from float_skips import train_and_count, with_float_skips
from small_residual import batch, residual_qdq

from qpipe.ir.save import save_model
from qpipe.train.executor import Executor

OPTIONS = {"weight_bits": 2, "activation_bits": 2, "skip_bits": 8}


def test_what_convolutions_read_is_rounded_and_nothing_else() -> None:
    executor = with_float_skips(Executor(residual_qdq(**OPTIONS)))
    values = executor.start(batch()[0])
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for index, layer in enumerate(executor.plan):
            reads = [values[value] for value in executor.reads[index]]
            executor.run(values, [index])
            for quantizer, x in zip(layer.inputs, reads, strict=True):
                on_grid = torch.equal(x, torch.round(x / quantizer.spec.scale) * quantizer.spec.scale)
                if layer.layer.is_weighted:
                    assert on_grid, layer.name
                elif layer.op_type == "Add":
                    assert not on_grid, layer.name
            seen[layer.op_type] = values[layer.result]
    assert {"Conv", "Add", "Gemm", "QuantizeLinear"} <= seen.keys()


def test_it_trains_and_is_counted(tmp_path: Path) -> None:
    """Half of the images are the test split; a run that is done is only counted again."""
    rng = np.random.default_rng(0)
    arrays = {f"{kind}_images": rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8) for kind in ("train", "test")}
    arrays |= {f"{kind}_labels": np.arange(20) % 5 for kind in ("train", "test")}
    np.savez(tmp_path / "data.npz", **arrays)
    save_model(residual_qdq(**OPTIONS), tmp_path / "start.onnx")
    recipe = {"recipe": "ag", "epochs": 2, "batch_size": 10}
    counts = [
        train_and_count(tmp_path / "start.onnx", tmp_path / "data.npz", tmp_path / "checkpoint", recipe, seed=0)
        for _ in range(2)
    ]
    assert counts[0] == counts[1]
    assert 0 <= counts[0] <= 1
    assert (tmp_path / "checkpoint").exists()
