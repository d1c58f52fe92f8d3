"""The zoo's networks as ONNX files: through both of PyTorch's exporters, and in Keras' spelling."""

import logging
import os
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import onnx
import torch
from torch import nn

from zoo_networks.data import draw
from zoo_networks.parts import ZOO
from zoo_networks.settle import settled
from zoo_networks.spellings import as_keras

Exporter = Literal["TorchScript", "dynamo", "Keras"]


@dataclass(frozen=True)
class Variant:
    """One way to write a network.

    dynamic: whether the batch is open; else it is 1. plain: BatchNormalization stays a node and the exporter optimizes
    nothing.
    """

    exporter: Exporter
    opset: int
    dynamic: bool
    plain: bool = False

    @property
    def name(self) -> str:
        """As it stands in tables and names of files."""
        return f"{self.exporter}-{self.opset}"


VARIANTS: Final = (
    Variant("TorchScript", 11, dynamic=False),
    Variant("TorchScript", 13, dynamic=True, plain=True),
    Variant("TorchScript", 17, dynamic=True),
    Variant("dynamo", 18, dynamic=True, plain=True),
    Variant("dynamo", 20, dynamic=False),
    Variant("Keras", 14, dynamic=True, plain=True),
)


class NotExportedError(Exception):
    """PyTorch can't write this network so; no fault of qpipe's."""


def write(name: str, variant: Variant, path: Path) -> None:
    """Write the network; NotExportedError says in one line why PyTorch does not."""
    network = settled(name)
    entry = ZOO.entries[name]
    arrays = draw(entry, 2 if variant.dynamic else 1, seed=0)
    examples = tuple(torch.from_numpy(array) for array in arrays)
    names = [f"input{index}" if index else "input" for index in range(len(examples))]
    write_one = _dynamo if variant.exporter == "dynamo" else _script
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            model = write_one(network, examples, names, variant, path)
            if variant.exporter == "Keras":
                model = as_keras(model)
    except Exception as error:
        raise NotExportedError(f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}") from error
    finally:
        logging.disable(logging.NOTSET)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _script(
    network: nn.Module, examples: tuple[torch.Tensor, ...], names: list[str], variant: Variant, path: Path
) -> onnx.ModelProto:
    options: dict[str, Any] = {}
    if variant.plain:
        # Folding would take the batch norms too.
        options = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": True}
    outputs = _outputs(network, examples)
    axes = {name: {0: "batch"} for name in [*names, *outputs]} if variant.dynamic else None
    torch.onnx.export(
        *(network, examples, path),
        dynamo=False, opset_version=variant.opset, input_names=names, output_names=outputs, dynamic_axes=axes,
        **options,
    )  # fmt: skip
    return onnx.load(path)


def _dynamo(
    network: nn.Module, examples: tuple[torch.Tensor, ...], names: list[str], variant: Variant, path: Path
) -> onnx.ModelProto:
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} for _ in examples) if variant.dynamic else None
    program = torch.onnx.export(
        *(network, examples),
        dynamo=True, optimize=not variant.plain, opset_version=variant.opset, input_names=names,
        output_names=_outputs(network, examples), dynamic_shapes=shapes, verbose=False, verify=False,
    )  # fmt: skip
    assert program is not None
    return program.model_proto


def _outputs(network: nn.Module, examples: tuple[torch.Tensor, ...]) -> list[str]:
    with torch.no_grad():
        result = network(*examples)
    count = 1 if isinstance(result, torch.Tensor) else len(result)
    return [f"output{index}" if index else "output" for index in range(count)]
