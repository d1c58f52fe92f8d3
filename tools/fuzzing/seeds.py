"""The healthy files: networks with data, their QDQ, trained and exported files, a checkpoint, a recipe and its run."""

import contextlib
import io
import itertools
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from PIL import Image

from fuzzing.networks import CLASSES, SHAPES, float_networks
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


def tasks() -> list[str]:
    """What `make_seeds` makes: each network with its files, then what is made of the digits'."""
    return [*SHAPES, *QUANTIZERS, "trained", "run"]


def make_floats(folder: Path) -> None:
    """The float networks and data, before everything else."""
    for name, proto in float_networks().items():
        onnx.save_model(proto, folder / f"{name}.onnx")
        np.savez(folder / f"{name}.npz", **arrays(name))
    (folder / "recipe.toml").write_text(RECIPE.lstrip(), encoding="utf-8")


def make_seeds(folder: Path, task: str) -> None:
    """What belongs to one of the tasks, by qpipe's own commands. Raises RuntimeError where one of them is refused."""
    with contextlib.chdir(folder):
        match task:
            case "trained":
                _run("calibrate", "digits.onnx", "--data", "digits.npz", "-o", "untrained.qdq.onnx")
                words = ("--data", "digits.npz", "--epochs", "1", "--diagnose", "--checkpoint", "digits.checkpoint")
                _run("finetune", "untrained.qdq.onnx", *words, "-o", "trained.qdq.onnx")
            case "run":
                _run("run", "recipe.toml")
            case name if name in QUANTIZERS:
                words = () if name in ("bireal", "groupnet") else ("--weight-bits", "2", "--activation-bits", "2")
                words = ("--data", "digits.npz", "--quantizer", name, *words)
                _run("calibrate", "digits.onnx", *words, "-o", f"{name}.qdq.onnx")
            case name:
                _run("calibrate", f"{name}.onnx", "--data", f"{name}.npz", "-o", f"{name}.qdq.onnx")
                for form in FORMATS:
                    _run("export", f"{name}.qdq.onnx", "-o", f"{name}.int-{form}.onnx", "--format", form)
                if name == "digits":
                    words = ("--format", "integer", "--io", "integer")
                    _run("export", "digits.qdq.onnx", "-o", "io.int-integer.onnx", *words)


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
