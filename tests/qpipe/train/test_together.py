"""Two processes that talk over gloo, against one: started as a user starts them."""

import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from qpipe.train.executor import Executor
from qpipe.train.together import Together
from support.processes import run_together
from support.zoo.digits import write_quantized_digits
from support.zoo.trainable import plain_qdq

SUMMED_OTHERWISE = 5e-4
"""Gradients summed in another order differ in the last bit; where that takes a weight over the edge of a step of its
grid, what follows differs by more. Most runs end within 1e-7."""
MOVED = 20 * SUMMED_OTHERWISE
"""What training moves some weight by at least, so that the tolerance above means something."""
RUN = ("finetune", "net.qdq.onnx", "--data", "digits", "--epochs", "1", "--lr", "0.02", "--batch-size", "62")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    write_quantized_digits(folder)
    return folder


def launch(folder: Path, *words: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    return run_together("-m", "qpipe", *words, cwd=folder, count=processes)


def train(folder: Path, output: str, *options: str, processes: int = 2, model: str = "net.qdq.onnx") -> onnx.ModelProto:
    verb, _, *words = RUN
    done = launch(folder, verb, model, *words, "--no-flip", "-o", output, *options, processes=processes)
    assert done.returncode == 0, done.stderr
    recipe, *told = done.stdout.splitlines()
    assert recipe.startswith("trained by the recipe ")
    assert [line.split(":")[0] for line in told] == ["top-1", f"wrote {output}"]  # once, not by each
    return onnx.load(folder / output)


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}


def assert_trained_alike(start: onnx.ModelProto, one: onnx.ModelProto, two: onnx.ModelProto) -> None:
    before, expected, found = map(weights, (start, one, two))
    assert max(np.abs(expected[name] - before[name]).max() for name in before if name in expected) > MOVED
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=SUMMED_OTHERWISE, err_msg=name)


def told(model: onnx.ModelProto) -> dict:
    (text,) = (entry.value for entry in model.metadata_props if entry.key == "qpipe.training")
    return json.loads(text)


def test_alone_there_is_nothing_to_add_up() -> None:
    tensor = torch.ones(3)
    Together(0, 1, torch.device("cpu")).add_up([tensor])
    assert tensor.tolist() == [1, 1, 1]


@pytest.mark.slow
def test_two_processes_move_the_same_scales(folder: Path) -> None:
    """By the sum of both shares' gradients, as one process does by all of it."""
    options = ("--batch-norm", "running", "--train-scales", "1e5", "--freeze-scales", "0.9")
    one, two = (train(folder, f"scales{n}.onnx", *options, processes=n) for n in (1, 2))
    assert_trained_alike(onnx.load(folder / "net.qdq.onnx"), one, two)
    assert told(one)["scales"] == told(two)["scales"]
    assert told(one)["scales"]["moved"]


@pytest.mark.slow
def test_two_processes_make_the_updates_of_one(folder: Path) -> None:
    """On running statistics; half of a batch of 62 each, and twice of it in the second half of the epoch."""
    options = ("--batch-norm", "running", "--grow-at", "0.5", "--evaluate-every", "1", "--diagnose")
    one, two = (train(folder, f"{n}.onnx", *options, processes=n) for n in (1, 2))
    assert_trained_alike(onnx.load(folder / "net.qdq.onnx"), one, two)
    first, second = told(one), told(two)
    for name in ("loss", "accuracy", "test_accuracy"):
        assert first["epochs"][0].pop(name) == pytest.approx(second["epochs"][0].pop(name), abs=0.01)
    assert first["epochs"] == second["epochs"]
    assert first["accuracy_before"] == second["accuracy_before"]
    assert first["settings"] == second["settings"]
    assert first["diagnostics"].keys() == second["diagnostics"].keys()


@pytest.mark.slow
def test_resumed_together_it_ends_with_the_same_bytes(folder: Path) -> None:
    """With batch statistics, too, both processes hold the same network all the time."""
    train(folder, "whole.onnx", "--epochs", "2")
    train(folder, "first.onnx", "--epochs", "1", "--checkpoint", "state")
    train(folder, "resumed.onnx", "--epochs", "2", "--checkpoint", "state", "--resume")
    assert (folder / "resumed.onnx").read_bytes() == (folder / "whole.onnx").read_bytes()


@pytest.mark.slow
def test_low_bit_it_is_repeatable_and_one_network_in_all_processes(folder: Path) -> None:
    """Draws hang on the process too, but for a weight's: all processes multiply by the same one."""
    (folder / "low.py").write_text(LOW_BIT)
    done = run_together("low.py", cwd=folder)
    assert done.returncode == 0, done.stderr
    one, two = (torch.load(folder / f"rank{rank}.pt") for rank in range(2))
    assert all(torch.equal(one["network"][name], found) for name, found in two["network"].items())
    assert len(one["weights"]) == len(two["weights"]) > 0
    assert all(torch.equal(a, b) for a, b in zip(one["weights"], two["weights"], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one["noise"], two["noise"], strict=True))

    options = ("--arithmetic", "mls", "--element", "2,1", "--recipe", "faq-8bit")
    train(folder, "whole.onnx", *options, "--epochs", "2", model="net.onnx")
    train(folder, "first.onnx", *options, "--epochs", "1", "--checkpoint", "low", model="net.onnx")
    train(folder, "resumed.onnx", *options, "--epochs", "2", "--checkpoint", "low", "--resume", model="net.onnx")
    assert (folder / "resumed.onnx").read_bytes() == (folder / "whole.onnx").read_bytes()


LOW_BIT = """
import os

import torch
from support.training import SETTINGS, bright_images, replace
from support.zoo.residual import made, post_activation
from support.zoo.trainable import IMAGE_SHAPE

from qpipe.train.companions import low_bit
from qpipe.train.companions.low_bit import LowBit
from qpipe.train.executor import Executor
from qpipe.train.loop import train

weights, noise, quantize = [], [], low_bit.quantize


def spy(x, form, generator, **options):
    found = quantize(x, form, generator, **options)
    if form.element.mantissa == 1:
        weights.append(found.values * found.scale)
    elif form.element.mantissa == 2:
        # The same numbers in all processes, so that draws alone tell them apart.
        state = generator.get_state()
        noise.append(torch.rand(8, generator=generator))
        generator.set_state(state)
    return found


low_bit.quantize = spy
settings = replace(SETTINGS, epochs=1, arithmetic="mls", element_weight=(2, 1), element_error=(2, 2))
_, model = made(post_activation)
executor = Executor(model, batch_norm="batch")
train(executor, bright_images(), settings, companions=[LowBit([executor], settings, seed=0)])
state = {"network": executor.state_dict(), "weights": weights, "noise": noise}
torch.save(state, f"rank{os.environ['RANK']}.pt")
"""
FADING = """
import os

import torch
from support.training import RUN, images, replace
from support.zoo.trainable import IMAGE_SHAPE, plain_qdq, residual_qdq

from qpipe.train.companions.make import make_companions
from qpipe.train.executor import Executor
from qpipe.train.loop import train

residual, plain = residual_qdq(), plain_qdq()
executor = Executor(plain, batch_norm="batch")
settings = replace(RUN, fade=1.0, method="ag")
companions = make_companions(executor, plain, residual, settings, IMAGE_SHAPE)
train(executor, images(), settings, companions=companions)
torch.save([module.state_dict() for module in (executor, *companions)], f"rank{os.environ['RANK']}.pt")
"""
OF_ADAPTORS = "running_"
"""Statistics of an adaptor's BatchNormalization, by which nothing is ever normalized."""


@pytest.mark.slow
def test_what_trains_beside_the_network_is_one_in_all_processes(tmp_path: Path) -> None:
    """Each process normalizes H and a skip's convolution by its share of the batch; the running statistics are one."""
    (tmp_path / "fading.py").write_text(FADING)
    done = run_together("fading.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    names = [(i, name) for i, state in enumerate(one) for name in state if OF_ADAPTORS not in name]
    assert sum(name.endswith("variance") for _, name in names) > len(list(Executor(plain_qdq()).weighted()))
    for i, name in names:
        assert torch.equal(one[i][name], two[i][name]), name


@pytest.mark.slow
def test_what_is_wrong_stops_all_of_them(folder: Path) -> None:
    done = launch(folder, *RUN, "-o", "none.onnx", "--batch-size", "1")
    assert done.returncode != 0
    assert "qpipe: error: 2 processes share a batch of 1: expected an image for each" in done.stderr
    assert not (folder / "none.onnx").exists()


RECIPE = """
output = "{output}"
[model]
path = "net.onnx"
[data]
path = "digits"
[preprocess]
mean = [0.3]
std = [0.38]
[calibrate]
batches = 2
[finetune]
lr = 0.02
batch_norm = "running"
flip = false
"""


@pytest.mark.slow
def test_a_whole_pipeline_together(folder: Path) -> None:
    """Calibration gives the same bytes, training the same network up to the order of sums."""
    for processes in (1, 2):
        (folder / f"{processes}.toml").write_text(RECIPE.format(output=f"out{processes}"))
        done = launch(folder, "run", f"{processes}.toml", processes=processes)
        assert done.returncode == 0, done.stderr
    one, two = folder / "out1", folder / "out2"
    assert sorted(file.name for file in one.iterdir()) == sorted(file.name for file in two.iterdir())
    assert (one / "calibrated.qdq.onnx").read_bytes() == (two / "calibrated.qdq.onnx").read_bytes()
    trained = [onnx.load(out / "finetuned.qdq.onnx") for out in (one, two)]
    assert_trained_alike(onnx.load(one / "calibrated.qdq.onnx"), *trained)
    assert json.loads((two / "report.json").read_text())["ok"]
