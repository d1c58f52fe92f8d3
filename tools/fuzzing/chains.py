"""The commands that a model goes through, from a float network, a QDQ file or an export on."""

from collections.abc import Sequence
from random import Random
from typing import Final

from fuzzing.case import Command

FORMATS: Final = ("qoperator", "integer", "qdq")
ENERGY_SHARE: Final = 0.2
"""Of the chains that begin with a float network."""
BENCH_SHARE: Final = 0.01
"""Of the chains: `bench` starts processes, and takes more time than all others together."""


def from_float(rng: Random, model: str, data: str, options: Sequence[str] = ()) -> list[Command]:
    """inspect, now and then energy, calibrate, and what follows."""
    words = ("calibrate", model, "--data", data, "-o", "made.qdq.onnx", *options)
    calibrated = None if options else (model, data)
    counted = [Command(("energy", model))] if rng.random() < ENERGY_SHARE else []
    return [
        Command(("inspect", model)),
        *counted,
        Command(words, ("made.qdq.onnx",), calibrated=calibrated),
        *from_qdq(rng, "made.qdq.onnx", data, others=(model,)),
    ]


def from_qdq(rng: Random, model: str, data: str, *, others: Sequence[str] = ()) -> list[Command]:
    """Now and then finetune; export in one format or all; validate of all files; now and then bench and report."""
    chain = []
    if rng.random() < 0.3:
        chain.append(finetune(rng, model, data))
        others, model = (*others, model), "trained.qdq.onnx"
    formats = FORMATS if rng.random() < 0.1 else (rng.choice(FORMATS),)
    exports = [f"int.{form}.onnx" for form in formats]
    for form, output in zip(formats, exports, strict=True):
        words = ("export", model, "-o", output, "--format", form, *_export_options(rng, form))
        chain.append(Command(words, (output,), {output: model}))
    # A file with integer inputs and outputs is compared as well.
    chain.append(Command(("validate", *others, model, *exports, "--data", data), consistent=True))
    return [*chain, *from_export(rng, exports[0], model)]


def from_export(rng: Random, model: str, *others: str) -> list[Command]:
    chain = []
    if rng.random() < 0.1:
        chain.append(Command(("report", model, *others, "-o", "page.html"), ("page.html",)))
    if rng.random() < BENCH_SHARE:
        chain.append(Command(("bench", model, "--repeats", "1", "--threads", "1")))
    return chain


def finetune(rng: Random, model: str, data: str) -> Command:
    """One epoch of two batches."""
    options = rng.choice(
        [(), (), ("--diagnose",), ("--teacher", "float"), ("--method", "ag", "--ssp"), ("--batch-norm", "running")]
    )
    words = ("finetune", model, "--data", data, "-o", "trained.qdq.onnx", "--epochs", "1", "--batch-size", "8")
    return Command((*words, *options), ("trained.qdq.onnx",))


def _export_options(rng: Random, form: str) -> tuple[str, ...]:
    if form == "integer" and rng.random() < 0.2:
        return ("--io", "integer")
    return ("--weights", "uint8") if form == "qoperator" and rng.random() < 0.1 else ()
