"""What networks are fed with in `bench_snr.py`: real data where there are some, else data of realistic statistics.

A network of the zoo (`tools/zoo.py`) gets what its entry says. One of images without data of its own gets crops of
CIFAR-10's images, enlarged: natural images, though soft ones. Any other gets waves: a level per sample and channel, and
a random walk that is drawn back to it, along the longest axis, which is what sensors and spectra look like.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from zoo_networks import ZOO
from zoo_networks.data import of_kind

from qpipe.data import Preprocess, open_data

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PIXELS: dict[str, Any] = {"pixel_max": 255}
CENTRED: dict[str, Any] = {"mean": (127,), "std": (128,), "pixel_max": 255}
KNOWN: dict[str, dict[str, Any]] = {
    "resnet20_cifar10_bn": IMAGENET,
    "resnet20_cifar10_folded": IMAGENET,
    "cct_cifar10": IMAGENET,
    "tinyic_resnet8_cifar10": PIXELS,
    "yunet_n_320": PIXELS,
    "ultraface_slim320": CENTRED,
    "lprnet_bn": CENTRED,
}
"""By the stem of a network's file, what its pixels go through; of others they are from 0 to 1."""
FEATURES = "tinykws_dscnn"
"""The network whose data are those of `--features`."""
DECAY = 0.9
"""Of a wave's distance from its level, from one place to the next."""


@dataclass(frozen=True)
class Inputs:
    """Float inputs `[N, ...]` to calibrate on and to evaluate on, and the classes of the latter where there are any."""

    calibration: FloatArray
    evaluation: FloatArray
    labels: IntArray | None = None

    def batches(self, size: int) -> list[FloatArray]:
        """The calibration data in batches."""
        return [self.calibration[start : start + size] for start in range(0, len(self.calibration), size)]


def inputs_of(
    stem: str, shape: Sequence[int], images: Path, features: Path, *, calibration: int, evaluation: int, draw: int = 0
) -> Inputs:
    """For the network of that name with inputs of this shape, without the batch; the counts are of samples.

    draw: each has samples of its own, but for those that count for an accuracy on few.
    """
    if stem == FEATURES:
        return _features(features, slice(draw * calibration, (draw + 1) * calibration))
    entry = ZOO.entries.get(stem.partition(".")[0])
    if entry is not None:
        drawn = [
            of_kind(entry.kind(0), (count, *shape), np.random.default_rng(seed)).astype(np.float32)
            for seed, count in enumerate((calibration, evaluation), 2 * draw)
        ]
        return Inputs(*drawn)
    if len(shape) == 3 and shape[0] == 3:
        return _images(images, shape, KNOWN.get(stem, {}), calibration, evaluation, draw)
    waves = _waves(shape, calibration + evaluation, draw)
    return Inputs(waves[:calibration], waves[calibration:])


def _features(path: Path, calibration: slice) -> Inputs:
    """All samples count for the accuracy: there are a thousand."""
    with np.load(path) as arrays:
        x, labels = arrays["x"].astype(np.float32), arrays["labels"].astype(np.int64)
    x = np.moveaxis(x, -1, 1)
    return Inputs(x[calibration], x, labels)


def _images(
    path: Path, shape: Sequence[int], pixels: dict[str, Any], calibration: int, evaluation: int, draw: int
) -> Inputs:
    found = []
    for split, count in (("train", calibration), ("test", evaluation)):
        first = draw * count
        with np.load(path) as arrays:
            images, labels = (arrays[f"{split}_{what}"][first : first + count] for what in ("images", "labels"))
        if images.shape[1:3] != tuple(shape[1:]):
            crops = [_crop(image, shape[1], shape[2], i) for i, image in enumerate(images, first)]
            images, labels = np.stack(crops), None
        batches = open_data(images, split, Preprocess(**pixels)).batches(256)
        found.append((np.concatenate([batch.inputs for batch in batches]), labels))
    (x, _), (y, labels) = found
    return Inputs(x, y, None if labels is None else labels.astype(np.int64))


def _crop(image: npt.NDArray[np.uint8], height: int, width: int, seed: int) -> npt.NDArray[np.uint8]:
    """A window of the network's proportions, anywhere in the image, enlarged to its size."""
    rng = np.random.default_rng(seed)
    size = np.array([height, width]) * (min(image.shape[:2]) * rng.uniform(0.6, 1.0) / max(height, width))
    top, left = rng.uniform(0, 1, 2) * (np.array(image.shape[:2]) - size)
    box = (left, top, left + size[1], top + size[0])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, box=box))


def _waves(shape: Sequence[int], count: int, seed: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    axis = int(np.argmax(shape)) + 1
    level = rng.standard_normal((count, *shape)).take([0], axis=axis)
    steps = rng.standard_normal((count, *shape)) * 0.3
    walk = np.zeros_like(steps)
    previous = np.zeros_like(level)
    for place in range(shape[axis - 1]):
        at = (slice(None),) * axis + (slice(place, place + 1),)
        previous = DECAY * previous + steps[at]
        walk[at] = previous
    return (level + walk).astype(np.float32)
