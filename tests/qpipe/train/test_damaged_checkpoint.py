"""A checkpoint that is damaged anywhere is refused in one line; no other network comes of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from qpipe.errors import ModelError
from qpipe.train import checkpoint
from qpipe.train.checkpoint import Parts, load_checkpoint, save_checkpoint
from qpipe.train.executor import Executor
from qpipe.train.run import Epoch, RunState
from support.zoo.trainable import qdq

STATE = RunState([Epoch(1, 0.5, 0.25, 0.1, 16, None)], updates=7, batches=3, loss=0.1, correct=2, images=9)
IDENTITY: dict[str, Any] = {"network": {"its structure": "sha256:ü"}, "run": {"lr": 0.1}}


@pytest.fixture(scope="module")
def parts() -> Parts:
    executor = Executor(qdq())
    trained = [weight for weight in executor.parameters() if weight.requires_grad]
    return Parts(executor, torch.optim.SGD(trained, 0.1, momentum=0.9), [], [], IDENTITY)


@pytest.fixture(scope="module")
def whole(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "run"
    save_checkpoint(path, parts, STATE)
    assert load_checkpoint(path, parts) == STATE
    return path.read_bytes()


def refused(path: Path, parts: Parts) -> str:
    with pytest.raises(ModelError) as caught:
        load_checkpoint(path, parts)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


# The folder is written anew by every example.
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_is_refused_wherever_it_is(
    tmp_path: Path, parts: Parts, whole: bytes, data: st.DataObject
) -> None:
    """In the tensors, in the header, in what pads it."""
    header = 8 + int.from_bytes(whole[:8], "little")
    first, last = data.draw(st.sampled_from([(0, header - 1), (header, len(whole) - 1)]))
    position, bit = data.draw(st.integers(first, last)), data.draw(st.integers(0, 7))
    damaged = bytearray(whole)
    damaged[position] ^= 1 << bit
    (tmp_path / "run").write_bytes(damaged)
    refused(tmp_path / "run", parts)


@pytest.mark.parametrize("length", [0, 7, 8, 100, -1])
def test_a_file_that_was_cut_off(tmp_path: Path, parts: Parts, whole: bytes, length: int) -> None:
    (tmp_path / "run").write_bytes(whole[:length])
    refused(tmp_path / "run", parts)


@pytest.mark.parametrize("content", [b"\x80\x04N.", b"no checkpoint"])
def test_a_file_of_another_kind(tmp_path: Path, parts: Parts, content: bytes) -> None:
    (tmp_path / "run").write_bytes(content)
    assert "not a checkpoint" in refused(tmp_path / "run", parts)


def test_tensors_of_somebody_else(tmp_path: Path, parts: Parts, whole: bytes) -> None:
    path = tmp_path / "run"
    path.write_bytes(whole)
    save_file(load_file(path), path)
    assert refused(path, parts).endswith("not a checkpoint of qpipe: it does not say of which run")


def deep(text: str) -> str:
    return "[" * 100_000 + text + "]" * 100_000


FORGED: dict[str, tuple[str, Callable[[str], str]]] = {
    "content is no JSON": ("content", lambda text: text[:-1]),
    "content is a list": ("content", lambda text: "[]"),
    "content is empty": ("content", lambda text: '{"pairs": []}'),
    "content is too deep": ("content", deep),
    "a tensor that is not there": ("content", lambda text: text.replace('{"tensor": "network', '{"tensor": "net', 1)),
    "a number for a tensor": ("content", lambda text: text.replace('"updates", 7', '"nothing", 7')),
    "a text for the epochs": ("content", lambda text: text.replace('["epochs", [', '["epochs", "x"], ["e", [')),
    "an epoch without a number": ("content", lambda text: text.replace('["number", 1], ', "")),
    "no random state": ("content", lambda text: text.replace('"random"', '"rndom"')),
    "a generator of another kind": ("content", lambda text: text.replace("MT19937", "PCG")),
    "pairs of three": ("content", lambda text: text.replace('["updates", 7]', '["updates", 7, 8]')),
    "identity is no JSON": ("identity", lambda text: "nonsense"),
    "identity is a list": ("identity", lambda text: "[]"),
    "identity of lists": ("identity", lambda text: '{"network": [], "run": 5}'),
    "identity is too deep": ("identity", deep),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_content_that_makes_no_sense(tmp_path: Path, parts: Parts, whole: bytes, name: str) -> None:
    """Its digest holds, as that of a file that another program wrote."""
    path = tmp_path / "run"
    path.write_bytes(whole)
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), load_file(path)
    key, damage = FORGED[name]
    before = metadata[key]
    metadata[key] = damage(before)
    assert metadata[key] != before
    metadata["digest"] = checkpoint._digest(metadata, tensors)
    save_file(tensors, path, metadata)
    assert "a damaged checkpoint" in refused(path, parts)


def test_every_tensor_is_in_the_digest(parts: Parts, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_bytes(whole)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    found = {checkpoint._digest(metadata, {n: t for n, t in tensors.items() if n != left_out}) for left_out in tensors}
    assert len(found | {metadata["digest"]}) == len(tensors) + 1
