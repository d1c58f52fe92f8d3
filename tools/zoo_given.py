"""Data for files that are not of the zoo: by the types and shapes of their inputs."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
from zoo_case import Arrays
from zoo_networks.data import of_kind
from zoo_networks.parts import Kind

from qpipe.data.inputs import form_of, inputs_of

OPEN, SOUND = 64, 512
"""What an open size is taken to be, other than the batch's; of samples of one axis."""


def given_inputs(path: Path, count: int, seed: int) -> Arrays:
    """An array [count, ...] for each input that the file declares."""
    inputs = inputs_of(ir.load(path).graph)
    # Of a network without a batch a sample is all that its inputs take.
    first = 1 if form_of(inputs).is_batched else 0
    batch = {each.shape[0] for each in inputs if each.shape and isinstance(each.shape[0], str)}
    rng = np.random.default_rng([seed, count])
    arrays = {}
    for each in inputs:
        sizes = [1 if size in batch else size for size in each.shape or ()][first:]
        size = SOUND if len([one for one in sizes if one != 1]) == 1 else OPEN
        shape = [one if isinstance(one, int) and one else size for one in sizes]
        arrays[each.name] = _array(shape, each.dtype, count, rng).astype(each.dtype)
    return arrays


def _array(shape: list[int], dtype: np.dtype, count: int, rng: np.random.Generator) -> np.ndarray:  # type: ignore[type-arg]
    if dtype.kind != "f":
        return of_kind("tokens", (count, *shape), rng)
    if len(shape) == 3 and shape[-1] in (1, 3):
        return np.moveaxis(of_kind("image", (count, shape[-1], *shape[:-1]), rng), 1, -1)
    by_rank: dict[int, Kind] = {3: "image" if shape[0] in (1, 3, 4) else "features", 2: "features", 1: "state"}
    return of_kind(by_rank.get(len(shape), "state"), (count, *shape), rng)
