"""Write files so that they are whole or absent: beside, to the disk, then renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir

from qpipe.errors import OutputError, one_line

# A protobuf message can't pass 2 GiB; the graph itself needs some of it, so the tensors get a little less.
PROTOBUF_LIMIT = 2**31 - 2**26


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to write to; what is there afterwards is renamed to `path`, with all that was written beside it.

    The given path has the same file name as `path`, in a temporary folder next to it. When the block raises, nothing
    of it is left and an older file stays as it was. `path` itself is renamed last. An OSError in the block (disk full,
    no permission) becomes an OutputError that names `path`, so the block should do nothing but write.
    """
    target = Path(path)
    try:
        _check_target(target)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield folder / target.name
            _move_out(folder, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{target}: can't be written: {one_line(error)}") from error


def save_model(model: ir.Model, path: str | os.PathLike[str], *, external_data: str | None = None) -> None:
    """Write the model as an ``.onnx`` file; equal models give equal bytes.

    external_data: name of a file beside `path` that gets the weights. A model over 2 GiB gets one unasked, named
    after the model with ``.data`` added. Raises OutputError; nothing half-written is left.
    """
    target = Path(path)
    if external_data is None and _tensor_bytes(model) > PROTOBUF_LIMIT:
        external_data = f"{target.name}.data"
    if external_data is not None and (Path(external_data).name != external_data or external_data == target.name):
        raise OutputError(f"{target}: external data go to '{external_data}', expected the plain name of another file")
    with atomic_path(target) as temporary:
        if external_data is not None:
            ir.save(model, temporary, format="protobuf", external_data=external_data)
        else:
            # External tensors of a model that was opened lazily would be written as references to where they lie now.
            ir.external_data.load_to_model(model)
            temporary.write_bytes(_proto(model).SerializeToString(deterministic=True))


def check_output(path: str | os.PathLike[str] | None, *, sources: Iterable[object] = ()) -> None:
    """OutputError where a file can't be written to `path`, as far as can be told before; None is no file.

    sources: what the command reads; those that are paths must stay.
    """
    if path is None:
        return
    _check_target(Path(path))
    read = [Path(source) for source in sources if isinstance(source, str | os.PathLike)]
    if Path(path).exists() and any(Path(path).resolve() == source.resolve() for source in read):
        raise OutputError(f"{os.fspath(path)}: is the input and the output, expected two files")


def _proto(model: ir.Model) -> onnx.ModelProto:
    """The model as a message that says nothing twice: the type and shape of an initializer stand in its tensor."""
    proto = ir.to_proto(model)
    constants = {tensor.name for tensor in proto.graph.initializer}
    infos = [info for info in proto.graph.value_info if info.name not in constants or info.metadata_props]
    proto.graph.ClearField("value_info")
    proto.graph.value_info.extend(infos)
    return proto


def _check_target(target: Path) -> None:
    if target.is_dir():
        raise OutputError(f"{target}: is a folder, expected the name of a file to write")
    if not target.parent.is_dir():
        raise OutputError(f"{target}: the folder '{target.parent}' does not exist")
    if not os.access(target.parent, os.W_OK):
        raise OutputError(f"{target}: can't be written: no permission in '{target.parent}'")


def _move_out(folder: Path, target: Path) -> None:
    """Flush every file of `folder` to the disk and rename it into the target's folder, the target last."""
    beside = sorted(file for file in folder.iterdir() if file.name != target.name)
    files = [*beside, folder / target.name]
    for file in files:
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
    for file in files:
        file.replace(target.parent / file.name)


def _tensor_bytes(model: ir.Model) -> int:
    """Bytes of all initializers, those of subgraphs included."""
    values = (value for graph in model.graphs() for value in graph.initializers.values())
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)
