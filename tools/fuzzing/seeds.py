"""The healthy files: each network with data, its QDQ, trained and exported files, a checkpoint, a recipe and its run."""

import contextlib
import io
import itertools
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from fuzzing.networks import CLASSES, SHAPES, float_networks
from PIL import Image

from qpipe.cli.main import main

IMAGES: Final = 16
QUANTIZERS: Final = ("dorefa", "lq", "bireal", "groupnet")
FORMATS: Final = ("qoperator", "integer", "qdq")
RECIPE: Final = """
output = "run"
seed = 1

[model]
path = "digits.onnx"

[data]
path = "digits.npz"

[preprocess]
mean = [0.5]
std = [0.25]

[calibrate]
weight_bits = 4
activation_bits = 4
batches = 1

[[layer]]
match = "conv2*"
weight_bits = 3

[finetune]
epochs = 1
batch_size = 8

[export]
formats = ["qoperator", "integer", "qdq"]

[validate]
limit = 16
"""


def make_seeds(folder: Path) -> None:
    """Write all of them into `folder`, by qpipe's own commands. Raises RuntimeError where one of them is refused."""
    for name, proto in float_networks().items():
        onnx.save_model(proto, folder / f"{name}.onnx")
        np.savez(folder / f"{name}.npz", **arrays(name))
    make_images(folder / "images")
    (folder / "recipe.toml").write_text(RECIPE.lstrip(), encoding="utf-8")
    with contextlib.chdir(folder):
        for name in SHAPES:
            _run("calibrate", f"{name}.onnx", "--data", f"{name}.npz", "-o", f"{name}.qdq.onnx")
            for form in FORMATS:
                _run("export", f"{name}.qdq.onnx", "-o", f"{name}.int-{form}.onnx", "--format", form)
        for quantizer in QUANTIZERS:
            bits = "1" if quantizer in ("bireal", "groupnet") else "2"
            widths = ("--weight-bits", bits, "--activation-bits", bits) if bits == "2" else ()
            words = ("--data", "digits.npz", "--quantizer", quantizer, *widths)
            _run("calibrate", "digits.onnx", *words, "-o", f"{quantizer}.qdq.onnx")
        trained = ("--data", "digits.npz", "--epochs", "1", "--diagnose", "--checkpoint", "digits.checkpoint")
        _run("finetune", "digits.qdq.onnx", *trained, "-o", "trained.qdq.onnx")
        _run("export", "digits.qdq.onnx", "-o", "io.int-integer.onnx", "--format", "integer", "--io", "integer")
        _run("run", "recipe.toml")
        _run("report", "trained.qdq.onnx", "-o", "report.html")


def arrays(name: str) -> dict[str, np.ndarray]:
    """Images uint8 [N, H, W, C] where the network takes such, else its inputs as floats; labels of all classes."""
    rng, shape = np.random.default_rng(3), SHAPES[name]
    labels = np.arange(IMAGES) % CLASSES
    if len(shape) == 3:
        return {"images": rng.integers(0, 256, (IMAGES, *shape[1:], shape[0]), dtype=np.uint8), "labels": labels}
    floats = rng.standard_normal((IMAGES, *shape)).astype(np.float32)
    return {"x": floats, "labels": labels}


def make_images(folder: Path) -> None:
    rng = np.random.default_rng(4)
    for split, label, number in itertools.product(("train", "test"), range(CLASSES), range(2)):
        path = folder / split / f"class{label}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)


def _run(*words: str) -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main(words)
    if status:
        print(f"qpipe {' '.join(words)}: exit status {status}: {said.getvalue()}")
