import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qpipe.data import Preprocess, open_data
from qpipe.data.inputs import Input
from qpipe.errors import DataError

FLOATS = np.random.default_rng(0).normal(size=(6, 3, 4, 5)).astype(np.float32)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
LABELS = np.arange(6)
SETTINGS = Preprocess(mean=0.5)


@pytest.mark.parametrize(
    "data",
    [
        FLOATS,
        FLOATS.astype(np.float64),
        torch.from_numpy(FLOATS).requires_grad_(),
        [FLOATS[:4], FLOATS[4:]],
        (FLOATS[:4], FLOATS[4:]),
        [(FLOATS[:4], LABELS[:4]), (FLOATS[4:], LABELS[4:])],
        (FLOATS, LABELS),
        (FLOATS, None),
        (torch.from_numpy(FLOATS), torch.from_numpy(LABELS)),
    ],
)
def test_float_arrays_are_inputs_as_they_are(data: Any) -> None:
    source = open_data(data, preprocess=SETTINGS)
    assert len(source) == 6
    assert source.split_note is None
    (batch,) = source.batches(6)
    np.testing.assert_array_equal(batch.inputs, FLOATS)
    assert batch.inputs.dtype == np.float32
    if source.labels is not None:
        np.testing.assert_array_equal(batch.labels, LABELS)


def test_labels_of_lists_and_pairs_arrive() -> None:
    assert open_data((FLOATS, LABELS)).labels.tolist() == list(range(6))
    assert open_data([(FLOATS, LABELS), (FLOATS, LABELS)]).labels.tolist() == [*range(6), *range(6)]
    assert open_data([FLOATS]).labels is None


@pytest.mark.parametrize("data", [IMAGES, (IMAGES, LABELS), [(IMAGES, LABELS)], {"images": IMAGES, "labels": LABELS}])
def test_uint8_arrays_are_images(data: Any) -> None:
    source = open_data(data, preprocess=SETTINGS)
    (batch,) = source.batches(6)
    np.testing.assert_array_equal(batch.inputs, SETTINGS(IMAGES))


@pytest.mark.parametrize("form", ["array", "pair", "list", "stream", "stream of pairs"])
def test_integers_are_for_a_network_that_reads_them_alone(form: str) -> None:
    """Tokens, say: of a bare array there is no name to give."""
    tokens, labels = np.arange(12).reshape(6, 2), np.arange(6)
    halves = [(tokens[:3], labels[:3]), (tokens[3:], labels[3:])]
    data: Any = {
        "array": tokens, "pair": (tokens, labels), "list": halves, "stream": (each for each, _ in halves),
        "stream of pairs": iter(halves),
    }[form]  # fmt: skip
    inputs = [Input("tokens", ("N", 2), np.dtype(np.int64))]
    (batch,) = open_data(data, inputs=inputs).batches(6)
    assert isinstance(batch.inputs, dict)
    np.testing.assert_array_equal(batch.inputs["tokens"], tokens)
    if form in ("array", "stream"):
        assert batch.labels is None
    else:
        np.testing.assert_array_equal(batch.labels, labels)


def test_a_source_is_returned_as_it_is() -> None:
    source = open_data(FLOATS)
    assert open_data(source, "test", SETTINGS) is source


def test_a_torch_data_loader_is_a_stream() -> None:
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(FLOATS), torch.from_numpy(LABELS))
    source = open_data(torch.utils.data.DataLoader(dataset, batch_size=4))
    for _ in range(2):
        batches = list(source.batches(3))
        assert [len(batch) for batch in batches] == [3, 3]
        np.testing.assert_array_equal(np.concatenate([batch.inputs for batch in batches]), FLOATS)
        assert [int(label) for batch in batches for label in batch.labels] == list(range(6))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "data 'given from Python': the list is empty"),
        ([FLOATS, FLOATS[:, :2]], "batches of float32 [2, 4, 5] and float32 [3, 4, 5], expected one type and shape"),
        ([FLOATS, IMAGES], "batches of float32 [3, 4, 5] and uint8 [4, 5, 3], expected one type and shape"),
        ([(FLOATS, LABELS), FLOATS], "1 of 2 batches have labels, expected all or none"),
        ([(FLOATS, LABELS, LABELS)], "an item of the iterable has 3 parts, expected inputs or (inputs, labels)"),
        ((FLOATS, LABELS[:4]), "given from Python: 4 labels for 6 samples"),
        ((FLOATS, np.full(6, np.nan)), "given from Python: label 0 is nan, expected finite"),
        (FLOATS * np.inf, "expected finite"),
        (["a", "b"], "expected arrays of numbers, found str"),
        (7, "data 'given from Python': int is neither arrays nor an iterable of them"),
        (iter([]), "the iterable is empty"),
        (np.float32(3), "shape is [], expected [N, ...]"),
    ],
)
def test_bad_objects(data: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        open_data(data)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_function_is_called_with_the_split() -> None:
    sizes = {"train": 6, "test": 2}
    source = open_data(lambda split: (IMAGES[: sizes[split]], LABELS[: sizes[split]]), "test")
    assert len(source) == 2
    assert source.split_note is None


FACTORIES = """
import numpy as np
def pair(split, extra=1): return np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, int)
def stream(*, split):
    for _ in range(2):
        yield np.zeros((2, 1, 8, 8), np.float32), np.ones(2, int)
def wrong(): return None
def nothing(split): return None
def broken(split): raise OSError("no\\nconnection")
def ends(split): raise SystemExit(0)
def text(split): return "digits.npz"
def late(split):
    yield np.zeros((2, 1, 8, 8), np.float32)
    raise ValueError("no more\\nimages")
def ends_late(split):
    yield np.zeros((2, 1, 8, 8), np.float32)
    raise SystemExit
def grows(split):
    for size in (8, 8, 9): yield np.zeros((2, 1, size, size), np.float32)
def loses_labels(split):
    yield np.zeros((2, 1, 8, 8), np.float32), [0, 1]
    yield np.zeros((2, 1, 8, 8), np.float32)
def turns_to_pixels(split):
    yield np.zeros((2, 8, 8, 1), np.float32)
    yield np.zeros((2, 8, 1, 8), np.uint8)
def turns_to_nothing(split):
    yield np.zeros((2, 1, 8, 8), np.float32)
    yield None
def turns_to_text(split):
    yield np.zeros((2, 1, 8, 8), np.float32), [0, 1]
    yield np.zeros((2, 1, 8, 8), np.float32), ["a", "b"]
class Silent(Exception):
    def __str__(self): raise TypeError
def silent(split): raise Silent
class Array:
    def __array__(self, *_, **__): raise RuntimeError("on another\\nmachine")
def elsewhere(split): return [Array()]
class Lazy(dict):
    def __getitem__(self, key): raise OSError("gone")
def lazy(split): return Lazy(images=0)
value = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "qpipe_test_factories.py").write_text(FACTORIES)
    (tmp_path / "qpipe_test_broken.py").write_text("1 / 0")
    (tmp_path / "qpipe_test_ends.py").write_text("raise SystemExit(0)")
    monkeypatch.chdir(tmp_path)
    path = [entry for entry in sys.path if entry]
    monkeypatch.setattr(sys, "path", [*path])
    yield "qpipe_test_factories"
    # Last, so that a file of the folder shadows no module.
    assert sys.path == [*path, str(tmp_path)]
    sys.modules.pop("qpipe_test_factories", None)


def test_factory_of_a_module_in_the_current_folder(module: str) -> None:
    assert len(open_data(f"{module}:pair", "test")) == 4
    source = open_data(f"{module}:stream")
    assert source.size is None
    assert [batch.labels.tolist() for batch in source.batches(3)] == [[1, 1, 1], [1]]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("qpipe_test_factories:absent", "module 'qpipe_test_factories' has no 'absent'"),
        ("qpipe_test_factories:value", "'value' is int, expected a function of split"),
        ("qpipe_test_factories:wrong", "the factory must take split=..., it is called with nothing else"),
        (
            "qpipe_test_factories:nothing",
            "'qpipe_test_factories:nothing': NoneType is neither arrays nor an iterable of",
        ),
        ("qpipe_test_factories:broken", "the factory raised OSError: no connection"),
        ("qpipe_test_factories:ends", "data 'qpipe_test_factories:ends': the factory raised SystemExit: 0"),
        (
            "qpipe_test_factories:text",
            "'qpipe_test_factories:text': str is neither arrays nor an iterable of them",
        ),
        ("qpipe_test_factories:silent", "data 'qpipe_test_factories:silent': the factory raised Silent"),
        (
            "qpipe_test_factories:elsewhere",
            "data 'qpipe_test_factories:elsewhere': Array is no array: RuntimeError: on another machine",
        ),
        ("qpipe_test_factories:lazy", "data 'qpipe_test_factories:lazy': 'images' can't be read: OSError: gone"),
        ("qpipe_test_ends:f", "module 'qpipe_test_ends' can't be imported: SystemExit: 0"),
        ("qpipe_test_broken:f", "module 'qpipe_test_broken' can't be imported: ZeroDivisionError: division by zero"),
        (
            "qpipe_test_absent.sub:f",
            "module 'qpipe_test_absent.sub' can't be imported: ModuleNotFoundError: ",
        ),
    ],
)
@pytest.mark.usefixtures("module")
def test_bad_factories(spec: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        open_data(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("late", "at item 1 the iterable raised ValueError: no more images"),
        ("ends_late", "at item 1 the iterable raised SystemExit"),
        ("grows", "item 2 has inputs of shape [1, 9, 9], the first one [1, 8, 8]"),
        ("loses_labels", "item 1 has labels: False, the first one True"),
        ("turns_to_pixels", "item 1 has uint8 images: True, the first one False"),
        ("turns_to_nothing", "expected arrays of numbers, found NoneType of object"),
        ("turns_to_text", "labels: expected arrays of numbers, found list of <U1"),
    ],
)
@pytest.mark.usefixtures("module")
def test_a_factory_whose_batches_go_wrong_later(name: str, message: str) -> None:
    spec = f"qpipe_test_factories:{name}"
    source = open_data(spec)
    with pytest.raises(DataError) as caught:
        list(source.batches(2))
    assert str(caught.value) == f"data {spec!r}: {message}"


def test_ctrl_c_goes_through() -> None:
    def interrupted(split: str) -> Iterator[np.ndarray]:
        yield FLOATS
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(open_data(interrupted).batches(6))


def test_arrays_need_no_torch() -> None:
    code = (
        "import sys, numpy as np; from qpipe.data import open_data;"
        "next(open_data(np.zeros((2, 8, 8, 3), np.uint8)).batches(2)); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
