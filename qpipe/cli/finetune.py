"""`qpipe finetune`: QDQ network -> trained QDQ network."""

from typing import Annotated

import typer

from qpipe.cli.options import DataOption, JsonOption, OutputOption, QdqArgument, SeedOption, expand_settings
from qpipe.cli.output import emit, metadata, print_line, working
from qpipe.settings import FinetuneSettings, PreprocessSettings


@expand_settings
def finetune(
    model: QdqArgument,
    data: DataOption,
    output: OutputOption,
    settings: FinetuneSettings,
    preprocess: PreprocessSettings,
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", help="file that keeps the state of the run")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the checkpoint")] = False,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Train a quantized network, straight from its file.

    Training computes what the exported network will compute, and needs no source of the network. Several processes
    share every batch: torchrun --nproc-per-node 4 -m qpipe finetune ...

    \b
    Example:
      qpipe finetune resnet20.qdq.onnx --data cifar10.npz --recipe faq-cifar-8bit -o tuned.qdq.onnx
      qpipe finetune r20.w4a4.onnx --data cifar10.npz --recipe faq-cifar-4bit --epochs 30 -o tuned.qdq.onnx
    """
    import qpipe

    with working():
        qdq = qpipe.finetune(
            model,
            data,
            output,
            **settings.arguments(),
            seed=seed,
            checkpoint=checkpoint,
            resume=resume,
            preprocess=preprocess.overrides(),
        )
    emit(json, {"output": output, "metadata": metadata(qdq)}, lambda: print_line(f"wrote {output}"))
