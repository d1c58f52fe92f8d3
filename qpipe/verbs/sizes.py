"""At which sizes a network is computed that leaves some open: those that were given, or those of the data."""

from __future__ import annotations

import onnx_ir as ir

from passes.normalize import normalize
from qpipe.data import DataLike, open_data
from qpipe.data.inputs import form_of, inputs_of
from qpipe.errors import ModelError
from qpipe.ir.files.sizes import (
    dims_of,
    fix_sizes,
    forget_sizes,
    open_batch,
    open_sizes,
    read_sizes,
    shown_dims,
)
from qpipe.verbs.branches import take_branches
from qpipe.verbs.sources import PreprocessLike, preprocess_of


def take_sizes(network: ir.Model, data: DataLike, preprocess: PreprocessLike) -> DataLike:
    """Fix what is open behind the batch at the sizes of the data; ModelError where these don't say them.

    First of all the branches that they choose are taken (`qpipe.verbs.branches`). The data are given back, opened where
    they had to be: an iterator begins only once.
    """
    data = take_branches(network, data, preprocess)
    for value in network.graph.inputs:
        if not is_open(value):
            continue
        dims = dims_of(value)
        inputs = inputs_of(network.graph)
        data = open_data(data, "train", preprocess_of(network, preprocess), labels=False, inputs=inputs)
        shape = data.sample_shapes.get(str(value.name), data.image_shape if len(inputs) == 1 else None)
        missing = -1 if shape is None else 1 if dims is None else len(dims) - len(shape)
        if shape is None or missing not in (0, 1):
            raise ModelError(f"{said_open(value)}: expected its sizes, {advice(value)}")
        fix_sizes(network, {str(value.name): shape if dims is not None else (1, *shape)})
    if not form_of(inputs_of(network.graph)).is_batched:
        _fix_single(network)
    return data


def _fix_single(network: ir.Model) -> None:
    """Without a batch each run takes one sample, whatever an input's first dimension could be."""
    for value in network.graph.inputs:
        dims = dims_of(value)
        if dims and not isinstance(dims[0], int):
            fix_sizes(network, {str(value.name): (1, *(size for size in dims[1:] if isinstance(size, int)))})


def is_open(value: ir.Value) -> bool:
    """Whether sizes of an input behind the batch, or all of them, are unknown."""
    return any(not isinstance(dim, int) for dim in (dims_of(value) or (None, None))[1:])


def said_open(value: ir.Value) -> str:
    """Which sizes of an input are open."""
    return f"input '{value.name}' is {shown_dims(dims_of(value))}"


def advice(value: ir.Value) -> str:
    """How its sizes are given."""
    dims = dims_of(value)
    sizes = "A,B,..." if dims is None else ",".join(str(dim) if isinstance(dim, int) else "N" for dim in dims[1:])
    return f"as in --input-shape {value.name}={sizes}"


def normalized_at_sizes(network: ir.Model) -> ir.Model:
    """The network, normalized at the sizes that are fixed; it remembers them only where it is the same at any.

    A batch that was given is held where the normalized network counts on it, else it stays open.
    """
    if not read_sizes(network):
        normalize(network)
        return network
    held, free, opened = network, network.clone(), network.clone()
    open_batch(free)
    if not form_of(inputs_of(free.graph)).is_batched:
        free = network.clone()
    open_sizes(opened)
    normalize(held)
    normalize(free)
    # A Reshape to [1, 256] is one to [-1, 256] then: the nodes tell, not the numbers.
    chosen = free if _form(free, constants=False) == _form(held, constants=False) else held
    if not _is_form_of(opened, chosen):
        forget_sizes(chosen)
    return chosen


def _is_form_of(opened: ir.Model, fixed: ir.Model) -> bool:
    """Whether the network at open sizes normalizes to the same nodes and constants."""
    try:
        normalize(opened)
    except ModelError:
        return False
    return _form(opened) == _form(fixed)


def _form(model: ir.Model, *, constants: bool = True) -> list[bytes]:
    """All of a network but its shapes, and what its constants are called."""
    graph = ir.to_proto(model).graph
    known = {tensor.name: tensor.raw_data if constants else b"" for tensor in graph.initializer}
    form: list[bytes] = []
    for node in graph.node:
        form += [known[name] if name in known else name.encode() for name in node.input]
        del node.input[:]
        node.name = ""
        form.append(node.SerializeToString(deterministic=True))
    return form + [value.name.encode() for value in graph.output]
