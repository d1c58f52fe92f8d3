"""What the executor is given of some samples: a tensor of its only input, or one by the name of each of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch

from qpipe.data.inputs import Inputs, fitted, form_of, inputs_of
from qpipe.errors import DataError

Given = torch.Tensor | Mapping[str, torch.Tensor]


def given_of(graph: ir.Graph, inputs: Inputs, device: torch.device | None = None) -> Given:
    """The samples as tensors. Raises DataError where they don't fit, or can't be put together to a batch."""
    wanted = inputs_of(graph)
    if not isinstance(inputs, Mapping) and len(wanted) == 1:
        return torch.from_numpy(inputs).to(device)
    samples, form = fitted(inputs, wanted, "the network")
    if not form.is_batched:
        raise DataError(f"the network takes no batches ({_shown(graph)}), expected inputs that begin with one to train")
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in samples.items()}
    return tensors if len(tensors) > 1 else next(iter(tensors.values()))


def zeros_of(graph: ir.Graph, image_shape: Sequence[int]) -> Given:
    """One sample of zeros. image_shape: of an only input, without the batch; of several the graph knows."""
    wanted = inputs_of(graph)
    only = wanted[0].shape if len(wanted) == 1 else None
    takes_one = only is not None and len(only) <= len(image_shape)
    if takes_one or not form_of(wanted).is_batched:
        raise DataError(f"the network takes no batches ({_shown(graph)}), expected inputs that begin with one to train")
    if len(wanted) == 1:
        kind = wanted[0].dtype if wanted[0].dtype.kind in "iub" else np.float32
        return torch.from_numpy(np.zeros((1, *image_shape), kind))
    shapes = {each.name: (each.shape or ())[1:] for each in wanted}
    sizes = {name: [size if isinstance(size, int) else 1 for size in shape] for name, shape in shapes.items()}
    return {each.name: torch.from_numpy(np.zeros((1, *sizes[each.name]), each.dtype)) for each in wanted}


def _shown(graph: ir.Graph) -> str:
    return ", ".join(each.words for each in inputs_of(graph))
