"""The crop and the flip of a run: what is asked for, or what suits the data."""

from typing import Any

import numpy as np
import pytest

from qpipe.data import open_data
from qpipe.errors import RecipeError
from qpipe.settings import FinetuneSettings
from qpipe.train.faq import with_augmentation

IMAGES, FLOATS = np.zeros((2, 16, 8, 3), np.uint8), np.zeros((2, 3, 16, 8), np.float32)


@pytest.mark.parametrize(
    ("asked", "crop_padding", "flip"),
    [({}, 1, True), ({"crop_padding": 3}, 3, True), ({"crop_padding": 0, "flip": False}, 0, False)],
)
def test_images_are_augmented_unless_somebody_says_otherwise(
    asked: dict[str, Any], crop_padding: int, flip: bool
) -> None:
    run = with_augmentation(FinetuneSettings(**asked), open_data(IMAGES))
    assert (run.crop_padding, run.flip) == (crop_padding, flip)


@pytest.mark.parametrize("asked", [{}, {"flip": False}, {"crop_padding": 0}])
def test_floats_are_not(asked: dict[str, Any]) -> None:
    run = with_augmentation(FinetuneSettings(**asked), open_data(FLOATS))
    assert (run.crop_padding, run.flip) == (0, False)


@pytest.mark.parametrize(("asked", "found"), [({"flip": True}, "flip: True"), ({"crop_padding": 2}, "crop_padding: 2")])
def test_floats_refuse_what_they_would_ignore(asked: dict[str, Any], found: str) -> None:
    with pytest.raises(RecipeError) as caught:
        with_augmentation(FinetuneSettings(**asked), open_data(FLOATS))
    assert str(caught.value) == f"{found}, but without effect on float values, expected none, or uint8 images"
