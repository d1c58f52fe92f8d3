"""Data that give a sample by its number, as torch's and Hugging Face's do."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

from qpipe.data import Preprocess, open_data
from qpipe.data.inputs import Input
from qpipe.errors import DataError

F32 = np.dtype(np.float32)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (7, 8, 10, 3), np.uint8)
LABELS = np.arange(7) % 3
SETTINGS = Preprocess(mean=(0.4,), std=(0.2,))


class Made(Dataset):  # type: ignore[type-arg]
    """A map-style data set of torch."""

    def __init__(self, samples: Sequence[Any], **attributes: Any) -> None:
        self.samples = samples
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


class Columns:
    """As Hugging Face's: rows by number, columns by name."""

    def __init__(self, columns: dict[str, list[Any]], features: dict[str, Any]) -> None:
        self.columns, self.features = columns, features

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: int | str) -> Any:
        return self.columns[key] if isinstance(key, str) else {name: c[key] for name, c in self.columns.items()}

    def __iter__(self) -> Any:
        return (self[index] for index in range(len(self)))


def read(source, size=4):
    return list(source.batches(size))


@pytest.mark.parametrize(
    "images",
    [
        [Image.fromarray(pixels) for pixels in PIXELS],
        list(PIXELS),
        [torch.from_numpy(np.moveaxis(pixels, -1, 0).copy()) for pixels in PIXELS],
    ],
)
def test_pictures_are_preprocessed_as_arrays_are(images):
    source = open_data(Made(list(zip(images, LABELS, strict=True))), preprocess=SETTINGS)
    expected = read(open_data((PIXELS, LABELS), preprocess=SETTINGS))
    for found, known in zip(read(source), expected, strict=True):
        np.testing.assert_array_equal(found.inputs, known.inputs)
        np.testing.assert_array_equal(found.labels, known.labels)
    assert source.has_pixels


def test_pictures_of_one_size_after_resize_and_crop():
    images = [Image.fromarray(pixels).resize((10 + index, 8)) for index, pixels in enumerate(PIXELS)]
    source = open_data(Made(images), preprocess=Preprocess(resize=6, crop=6))
    assert source.image_shape == (3, 6, 6)
    assert sum(map(len, read(source))) == 7


def test_columns_with_names_of_classes():
    features = {"image": None, "label": SimpleNamespace(names=["a", "b", "c"])}
    images = [Image.fromarray(pixels) for pixels in PIXELS]
    source = open_data(Columns({"image": images, "label": list(LABELS), "id": list(range(7))}, features))
    assert source.class_names == ("a", "b", "c")
    assert source.labels.tolist() == LABELS.tolist()


def test_arrays_are_what_the_network_reads():
    features = RNG.standard_normal((7, 5)).astype(np.float32)
    source = open_data(TensorDataset(torch.from_numpy(features), torch.from_numpy(LABELS)))
    assert (len(source), source.image_shape) == (7, (5,))
    np.testing.assert_array_equal(np.concatenate([b.inputs for b in source.batches(3, shuffle=True)]).shape, (7, 5))
    loader = DataLoader(TensorDataset(torch.from_numpy(features), torch.from_numpy(LABELS)), batch_size=2)
    stream = open_data(loader)
    np.testing.assert_array_equal(np.concatenate([batch.inputs for batch in stream.batches(3)]), features)


def test_several_inputs_by_name():
    samples = [{"a": np.full(3, i, np.float32), "b": np.array([i]), "label": i, "text": "x"} for i in range(5)]
    inputs = [Input("a", ("N", 3), F32), Input("b", ("N", 1), np.dtype(np.int64))]
    source = open_data(Made(samples), inputs=inputs)
    batch = read(source)[0]
    assert (batch.inputs["a"].shape, batch.inputs["b"].tolist()) == ((4, 3), [[0], [1], [2], [3]])
    assert source.labels.tolist() == list(range(5))


def test_labels_that_are_not_wanted_are_not_read():
    source = open_data(Made([(PIXELS[0], "a word")]), labels=False)
    assert source.labels is None


def test_labels_come_from_a_column_where_there_is_one():
    class Counting(Made):
        read = 0

        def __getitem__(self, index: int) -> Any:
            Counting.read += 1
            return super().__getitem__(index)

    source = open_data(Counting(list(zip(PIXELS, LABELS, strict=True)), targets=LABELS.tolist()))
    assert source.labels.tolist() == LABELS.tolist()
    assert Counting.read < 7


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "has no samples, expected one or more"),
        ([(1.0, 2, 3)], "sample 0 has 3 parts, expected inputs or"),
        ([{"a": np.zeros(2), "b": np.zeros(2)}], "sample 0 has 'a', 'b', expected one input"),
        ([np.zeros(2), np.zeros(3)], r"sample 1 has shape \(3,\), the first one \(2,\)"),
        ([np.full(2, np.nan)], "sample 0: sample 0 has the value nan"),
        ([PIXELS[0], np.zeros(3)], "sample 1 is no picture, the first one is"),
        ([(np.zeros(2), "word")], "label: expected arrays of numbers"),
    ],
)
def test_samples_that_are_none(samples, message):
    with pytest.raises(DataError, match=message):
        read(open_data(Made(samples)))


def test_data_that_raise():
    class Broken(Made):
        def __getitem__(self, index: int) -> Any:
            raise RuntimeError("disk")

    with pytest.raises(DataError, match=r"sample 0 raised .*disk"):
        open_data(Broken([1]))
