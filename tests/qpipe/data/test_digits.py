import sys

import numpy as np
import pytest

from qpipe.data import open_data
from qpipe.errors import DataError


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"^data 'digits' come with scikit-learn.*install qpipe\[digits\]$"):
        open_data("digits")


def test_digits_are_uint8_images_in_two_fixed_parts() -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn (qpipe[digits]) is not installed")
    train, test = open_data("digits", "train"), open_data("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.image_shape == (1, 8, 8)
    assert train.class_names == tuple("0123456789")
    assert train.split_note is None
    assert open_data("digits", "val").split_note == "data 'digits' have no split 'val': 'test' is used"
    pixels = np.concatenate([next(source.batches(2000)).pixels for source in (train, test)])
    levels = datasets.load_digits().images.astype(int)
    assert sorted(map(bytes, pixels)) == sorted(bytes(image) for image in (levels * 255 // 16).astype(np.uint8))
    assert pixels.max() == 255
    # Every class is in both parts, within what a random split gives
    assert np.bincount(test.labels).min() > 20
    # The split is part of the data: these labels pin it
    assert test.labels[:8].tolist() == [0, 8, 8, 9, 8, 3, 7, 5]
