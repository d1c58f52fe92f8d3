"""`qpipe finetune`: QDQ network, or with --plain a float one -> trained QDQ network; or float -> float."""

from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import JsonValue

from qpipe.cli.options import DataOption, JsonOption, OutputOption, expand_settings
from qpipe.cli.output import emit, metadata, say, working
from qpipe.json_values import plain_rows
from qpipe.reporting.words import in_unit
from qpipe.settings import CheckpointSettings, FinetuneSettings, PreprocessSettings, SeedSettings, TaskSettings

if TYPE_CHECKING:
    import onnx_ir as ir


@expand_settings
def finetune(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="a QDQ .onnx file; a float one with --plain or --arithmetic")
    ],
    data: DataOption,
    output: OutputOption,
    settings: FinetuneSettings,
    task: TaskSettings,
    preprocess: PreprocessSettings,
    checkpoint: CheckpointSettings,
    seed: SeedSettings,
    json: JsonOption = False,
) -> None:
    """Train a QDQ network, or a float one in low-bit arithmetic.

    It is trained straight from its file.

    Training computes what the exported network will compute, and needs no source of the network. Several processes
    share every batch: torchrun --nproc-per-node 4 -m qpipe finetune ...

    With --plain the skip connections go, by algebra first: those of a quantized network, or of a float one, which is
    calibrated to 8 bits. What is written is a plain network, as it was trained.

    With --arithmetic a float network is trained as it is, and comes out as a float network: mls computes the products
    of training, forward and backward, on low-bit weights, activations and errors, float trains without.

    \b
    Example:
      qpipe finetune resnet20.qdq.onnx --data cifar10.npz --recipe faq-cifar-8bit -o tuned.qdq.onnx
      qpipe finetune r20.w4a4.onnx --data cifar10.npz --recipe faq-cifar-4bit --epochs 30 -o tuned.qdq.onnx
      qpipe finetune resnet20.onnx --data cifar10.npz --plain -o plain.qdq.onnx
      qpipe finetune resnet20.onnx --data cifar10.npz --arithmetic mls --element 2,1 -o low.onnx
      qpipe finetune r20.w2a2.onnx --data cifar10.npz --method ag --ssp -o tuned.qdq.onnx
    """
    import qpipe

    with working() as told:
        qdq = qpipe.finetune(
            model,
            data,
            output,
            **settings.arguments(),
            **task.arguments(),
            **checkpoint.arguments(),
            **seed.arguments(),
            preprocess=preprocess.overrides(),
        )
    carried = metadata(qdq)

    def show() -> None:
        if (line := stripped_line(qdq)) is not None:
            say(line)
        if (line := recipe_line(carried.get("training"))) is not None:
            say(line)
        say(phases_line(carried.get("training")))
        say(f"wrote {output}")

    emit(json, {"output": output, "metadata": carried, "data": told}, show)


def stripped_line(network: "ir.Model") -> str | None:
    """Whose skips are gone, such as "without the skips of 2 blocks of 3: layer1.0, layer1.1"; None of no block's."""
    from qpipe.ir.graph.residual import find_blocks
    from qpipe.ir.graph.stripped_blocks import stripped_blocks

    names = [block.name for block in stripped_blocks(network)]
    total = len(names) + len(find_blocks(network.graph))
    return f"without the skips of {len(names)} blocks of {total}: {', '.join(names)}" if names else None


def recipe_line(training: JsonValue) -> str | None:
    """By which recipe it trained for how long, such as "trained by the recipe plain, 30 epochs"; None if untold."""
    settings = training.get("settings") if isinstance(training, dict) else None
    if not isinstance(settings, dict):
        return None
    epochs = settings["epochs"]
    return f"trained by the recipe {settings['recipe']}, {epochs} epoch{'s' if epochs != 1 else ''}"


def phases_line(training: JsonValue) -> str:
    """Where the metric stood after each phase, such as "top-1: before training 87.83 %, trained 90.11 %"."""
    phases = training.get("phases") if isinstance(training, dict) else None
    counted = [row for row in plain_rows(phases) if row["accuracy"] is not None] if isinstance(phases, list) else []
    if not counted:
        return "the accuracy was not counted"
    task = training.get("task") if isinstance(training, dict) else None
    metric = str(task["metric"]) if isinstance(task, dict) else "top-1"
    return f"{metric}: " + ", ".join(
        f"{row['phase']} {in_unit(float(str(row['accuracy'])), metric)}" for row in counted
    )
