"""Models that are not ONNX files yet: PyTorch modules, exported as float with BatchNormalization kept as a node.

Only floats pass through `torch.onnx`; what is quantized is written by qpipe itself. Nothing is unpickled: a ``.pth``
file is read with ``weights_only=True``.
"""

import copy
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from qpipe.errors import ModelError, one_line, user_code
from qpipe.factories import load_factory, names_factory
from qpipe.ir.files.load import load_model
from qpipe.ir.files.quiet import quiet
from qpipe.ir.files.sizes import BARE, Shapes, fix_sizes
from qpipe.ir.files.torch_example import Example, ExampleLike, of_shapes, of_tensors
from qpipe.ir.files.upgrade import OPSET

if TYPE_CHECKING:
    import torch
    from torch import nn

ModelLike: TypeAlias = "str | os.PathLike[str] | onnx.ModelProto | ir.Model | nn.Module | tuple[nn.Module, ExampleLike]"
"""A module may come with an example of its inputs (see `torch_example`), which a factory may return as well."""

# Where training scripts put the weights inside a checkpoint.
_CHECKPOINT_KEYS = ("state_dict", "model_state_dict", "model")
_ZOO_INPUT_SHAPE = (3, 224, 224)


def resolve_model(
    spec: ModelLike,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Shapes | Sequence[int] | None = None,
) -> ir.Model:
    """The ONNX model that `spec` means.

    spec: a path to an ``.onnx`` file, a loaded ONNX model, an `nn.Module`, one with an example of its inputs, or a
    text: ``package.module:factory``, ``torchvision:NAME``, ``timm:NAME``. weights: a ``.safetensors`` or ``.pth`` file
    for a PyTorch model. input_shape: sizes to compute at, by the inputs' names (see `fix_sizes`); a sequence is an only
    input's. Of a PyTorch model they come without the batch, which becomes dynamic, and inputs have the names of the
    parameters of `forward`; an only one that is given without a name is called "input".

    Raises ModelError for whatever can't be found, imported, loaded or exported.
    """
    if input_shape is not None and not isinstance(input_shape, Mapping):
        input_shape = {BARE: input_shape}
    found = find_module(spec)
    if found is None:
        if weights is not None:
            raise ModelError(f"{weights}: weights go with a PyTorch model (package.module:factory), not with '{spec}'")
        loaded = load_model(spec)  # type: ignore[arg-type]  # find_module returns None for no nn.Module
        if input_shape:
            fix_sizes(loaded, input_shape)
        return loaded
    module, example = found
    if weights is not None:
        load_weights(module, weights)
    name = spec if isinstance(spec, str) else type(module).__name__
    if example is not None and input_shape:
        raise ModelError(f"{name}: comes with an example of its inputs, expected no input shape beside it")
    if example is not None:
        return export_module(module, of_tensors(module, example, name), name=name)
    shapes = input_shape or {BARE: _default_input_shape(module, name)}
    return export_module(module, of_shapes(module, shapes, name), name=name)


def find_module(spec: ModelLike) -> "tuple[nn.Module, ExampleLike | None] | None":
    """The PyTorch module that `spec` is or names, and the example that comes with it; None of an ONNX model."""
    if (found := _as_module(spec)) is not None:
        return found
    if not isinstance(spec, str) or not names_factory(spec) or Path(spec).exists():
        return None
    package, name = spec.split(":")
    if package == "torchvision":
        return _call(_zoo(spec, "torchvision", "torchvision.models").get_model, spec, name, weights=None)
    if package == "timm":
        return _call(_zoo(spec, "timm", "timm").create_model, spec, name, pretrained=False)
    factory: Any = load_factory(spec, ModelError, called=spec, makes="that returns an nn.Module")
    return _as_module(factory) or _call(factory, spec)


def load_weights(module: "nn.Module", path: str | os.PathLike[str]) -> None:
    """Load a ``.safetensors`` file or a ``.pth`` of tensors; ModelError names the first key that differs."""
    found = _strip_prefix(_read_weights(Path(path)))
    expected = module.state_dict()
    # The counter of batches is no weight, and checkpoints from before it existed are fine.
    missing = [key for key in expected if key not in found and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in found if key not in expected]
    if missing:
        raise ModelError(f"{path}: no weight '{missing[0]}' ({len(missing)} missing, {len(unexpected)} unexpected)")
    if unexpected:
        raise ModelError(f"{path}: the model has no weight '{unexpected[0]}' ({len(unexpected)} unexpected)")
    for key, tensor in found.items():
        if tensor.shape != expected[key].shape:
            raise ModelError(
                f"{path}: weight '{key}' has shape {list(tensor.shape)}, expected {list(expected[key].shape)}"
            )
    module.load_state_dict(dict(found), strict=False)


def export_module(module: "nn.Module", example: Example, *, name: str) -> ir.Model:
    """Export a copy of the module in evaluation mode, float32, with inputs like these.

    `name` stands for it in messages. Raises ModelError where they don't fit or an operation can't be exported.
    """
    import torch

    with user_code(ModelError, f"{name}: the module can't be copied:"):
        module = copy.deepcopy(module).eval().cpu().float()
    arguments, keywords = example.arguments
    with user_code(ModelError, f"{name}: {example.words} does not fit:"), torch.no_grad():
        output = module(*arguments, **keywords)
    with user_code(ModelError, f"{name}: can't be exported to ONNX:"), quiet("torch.onnx"):
        program = torch.onnx.export(
            module,
            arguments,
            kwargs=keywords,
            dynamo=True,
            # onnxscript's optimizer would fuse BatchNormalization into Conv; it has to stay a node.
            optimize=False,
            opset_version=OPSET,
            input_names=list(example.names),
            output_names=["output"] if isinstance(output, torch.Tensor) else None,
            dynamic_shapes=example.dynamic_shapes,
            verbose=False,
        )
    assert program is not None
    model = load_model(program.model_proto)
    # Stack traces, with the paths of this machine.
    common.ClearMetadataAndDocStringPass()(model)
    return model


def _as_module(spec: Any) -> "tuple[nn.Module, ExampleLike | None] | None":
    """An `nn.Module`, alone or with an example; without importing torch, which nobody has who made none."""
    torch_nn = sys.modules.get("torch.nn")
    if torch_nn is None:
        return None
    if isinstance(spec, tuple) and len(spec) == 2 and isinstance(spec[0], torch_nn.Module):
        return spec
    return (spec, None) if isinstance(spec, torch_nn.Module) else None


def _zoo(spec: str, extra: str, package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        install = f"install the extra with: pip install 'qpipe[{extra}]'"
        raise ModelError(f"{spec}: {extra} is not installed; {install}") from error


def _call(factory: Any, spec: str, *arguments: Any, **keywords: Any) -> "tuple[nn.Module, ExampleLike | None]":
    with user_code(ModelError, f"{spec}: the factory raised"):
        made = factory(*arguments, **keywords)
    if (found := _as_module(made)) is None:
        raise ModelError(f"{spec}: the factory returned {type(made).__name__}, expected an nn.Module")
    return found


def _read_weights(path: Path) -> Mapping[str, Any]:
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(
            f"{path}: not a file of weights only (safetensors or .pth): {one_line(error, kind=True)}"
        ) from error
    for key in _CHECKPOINT_KEYS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ModelError(f"{path}: holds {type(loaded).__name__}, expected names with tensors (a state_dict)")
    return loaded


def _strip_prefix(weights: "Mapping[str, torch.Tensor]") -> "Mapping[str, torch.Tensor]":
    """Without the ``module.`` that DataParallel puts before every name."""
    if weights and all(key.startswith("module.") for key in weights):
        return {key.removeprefix("module."): value for key, value in weights.items()}
    return weights


def _default_input_shape(module: "nn.Module", name: str) -> Sequence[int]:
    if name.startswith("torchvision:"):
        return _ZOO_INPUT_SHAPE
    if name.startswith("timm:"):
        shape: Sequence[int] = getattr(module, "default_cfg", {}).get("input_size", _ZOO_INPUT_SHAPE)
        return shape
    raise ModelError(
        f"{name}: a PyTorch model needs its input shape, such as 3,224,224 (--input-shape), or an example of its inputs"
    )
