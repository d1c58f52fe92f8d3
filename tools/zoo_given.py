"""Data for files that are not of the zoo: by the types and shapes of their inputs."""

from pathlib import Path

import numpy as np
import onnx
from zoo_case import Arrays
from zoo_networks.data import of_kind
from zoo_networks.parts import Kind

OPEN = 64
"""What an open size is taken to be, other than the batch's."""


def given_inputs(path: Path, count: int, seed: int) -> Arrays:
    """An array [count, ...] for each input that the file declares."""
    graph = onnx.load(path, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    rng = np.random.default_rng([seed, count])
    arrays = {}
    for value in graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        shape = [size.dim_value or OPEN for size in tensor.shape.dim][1:]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        arrays[value.name] = _array(shape, dtype, count, rng).astype(dtype)
    return arrays


def _array(shape: list[int], dtype: np.dtype, count: int, rng: np.random.Generator) -> np.ndarray:  # type: ignore[type-arg]
    if dtype.kind != "f":
        return of_kind("tokens", (count, *shape), rng)
    if len(shape) == 3 and shape[-1] in (1, 3):
        return np.moveaxis(of_kind("image", (count, shape[-1], *shape[:-1]), rng), 1, -1)
    by_rank: dict[int, Kind] = {3: "image" if shape[0] in (1, 3, 4) else "features", 2: "features", 1: "state"}
    return of_kind(by_rank.get(len(shape), "state"), (count, *shape), rng)
