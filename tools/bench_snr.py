"""Signal to noise of calibrated networks against float, beside onnxruntime's own static quantization.

Every contestant is calibrated on the same samples and evaluated on the same others, in one run. The signal-to-noise
ratio is `10 log10(sum y**2 / sum (y - q)**2)` in decibels, over all outputs y of the float network; where a network
ends in a Softmax it is of what the Softmax reads as well, for which all contestants get the network without it. Beside
it stands the median of all samples' own ratios, which single samples of unusual size leave alone. Of several draws of
samples each figure is the mean.

onnxruntime's 8-bit products saturate on CPUs without VNNI, where its file is computed as it is written, in float.
"""

import contextlib
import io
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
import typer
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime_static import Batches
from results import Results, Row, run_tool
from snr_inputs import FloatArray, Inputs, inputs_of

from passes.shipping.finalize import Finalize
from qpipe.errors import ModelError, QpipeError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.save import save_model
from qpipe.runtime.cpu import this_cpu
from qpipe.runtime.session import open_session, run_batches, single_input

LARGE = 2**16
"""Values of an input from which on a network gets one of SHARE samples."""
SHARE = 16
FEW = 64
"""Samples up to which a large network gets them all."""
BATCH = 64
ORT_METHODS = {"MinMax": CalibrationMethod.MinMax, "Percentile": CalibrationMethod.Percentile}
NO_ADJUSTMENT = {"QDQDisableWeightAdjustForInt32Bias": True}
"""It fails on a Gemm whose weight isn't transposed, and matters where a bias is beyond int32 alone."""
WITHOUT_SOFTMAX = ("Softmax", "LogSoftmax")

PEER = "onnxruntime, "
FIGURES = ("SNR dB", "median dB", "logits dB", "logits' median dB", "top-1", "calibration s")

Energies = npt.NDArray[np.float64]
Make = Callable[[Path, Inputs, Path], Path]


def ours(options: Mapping[str, Any]) -> Make:
    """A network of ours, calibrated with these options and finalized."""

    def make(model: Path, inputs: Inputs, folder: Path) -> Path:
        import qpipe

        count = len(inputs.batches(BATCH))
        network = qpipe.calibrate(model, inputs.calibration, batches=count, batch_size=BATCH, **options)
        Finalize()(network)
        save_model(network, folder / "ours.onnx")
        return folder / "ours.onnx"

    return make


def theirs(method: str, *, reduce_range: bool) -> Make:
    """onnxruntime's QDQ file, per channel, of uint8 activations and int8 weights."""

    def make(model: Path, inputs: Inputs, folder: Path) -> Path:
        prepared, made = folder / "prepared.onnx", folder / "theirs.onnx"
        # Below opset 13 it has no scales per channel.
        upgraded = load_model(model)
        save_model(upgraded, prepared)
        quant_pre_process(str(prepared), str(prepared))
        session = open_session(prepared)
        size = session.get_inputs()[0].shape[0]
        batches = Batches(single_input(session).name, inputs.batches(size if isinstance(size, int) else BATCH))
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                quantize_static(
                    str(prepared), str(made), batches, quant_format=QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=reduce_range,
                    calibrate_method=ORT_METHODS[method], extra_options=NO_ADJUSTMENT,
                )  # fmt: skip
        except ValueError as error:  # of a histogram of what hardly varies
            raise ModelError(f"quantize_static: {error}") from error
        return made

    return make


def outputs_of(model: Path, inputs: FloatArray, *, optimize: bool = True) -> list[FloatArray]:
    """Each output on all inputs."""
    batches = [inputs[start : start + BATCH] for start in range(0, len(inputs), BATCH)]
    parts = list(run_batches(open_session(model, optimize=optimize), batches))
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def decibels(exact: Sequence[FloatArray], other: Sequence[FloatArray]) -> float:
    """Of signal to noise over all outputs and samples."""
    signal, noise = _energies(exact, other)
    return round(10 * float(np.log10(signal.sum() / noise.sum())), 1)


def median_decibels(exact: Sequence[FloatArray], other: Sequence[FloatArray]) -> float:
    """The median of all samples' own."""
    signal, noise = _energies(exact, other)
    return round(10 * float(np.log10(np.median(signal / noise))), 1)


def _energies(exact: Sequence[FloatArray], other: Sequence[FloatArray]) -> tuple[Energies, Energies]:
    """Of each sample's signal and noise, over all outputs; never 0."""

    def summed(arrays: Sequence[FloatArray]) -> Energies:
        rows = [np.square(y, dtype=np.float64).reshape(len(y), -1).sum(axis=1) for y in arrays]
        return np.sum(rows, axis=0) + np.finfo(np.float64).tiny

    return summed(exact), summed([y.astype(np.float64) - q for y, q in zip(exact, other, strict=True)])


def top1(outputs: Sequence[FloatArray], labels: Any) -> float | None:
    """In percent; None without labels."""
    return None if labels is None else 100 * float((outputs[0].argmax(axis=1) == labels).mean())


def without_softmax(model: Path, folder: Path) -> Path | None:
    """The network ending in what its Softmax reads; None where it ends in none."""
    network = load_model(model)
    outputs = []
    for value in network.graph.outputs:
        node = value.producer()
        is_softmax = node is not None and node.op_type in WITHOUT_SOFTMAX
        outputs.append(node.inputs[0] if is_softmax and node is not None and node.inputs[0] is not None else value)
    if outputs == list(network.graph.outputs):
        return None
    for old, new in zip(list(network.graph.outputs), outputs, strict=True):
        new.type, new.shape = new.type or old.type, new.shape or old.shape
    network.graph.outputs[:] = outputs
    ir.passes.common.RemoveUnusedNodesPass()(network)
    path = folder / f"{model.stem}.logits.onnx"
    save_model(network, path)
    return path


def compare(model: Path, draws: Sequence[Inputs], contestants: Mapping[str, Make], folder: Path) -> list[Row]:
    """A row for each contestant; one that can't take the network has no figures."""
    bare = without_softmax(model, folder)
    files = [model] if bare is None else [model, bare]
    exact = [[outputs_of(file, inputs.evaluation) for file in files] for inputs in draws]
    of_all: dict[str, Any] = {"network": model.stem, "samples": len(draws[0].calibration)}
    of_float = [{"top-1": top1(outputs[0], inputs.labels)} for outputs, inputs in zip(exact, draws, strict=True)]
    rows: list[Row] = [of_all | {"by": "float"} | means(of_float)]
    for label, make in contestants.items():
        # Its products saturate where ours are proven not to.
        optimize = not label.startswith(PEER) or this_cpu().has_vnni
        figures: list[dict[str, float | None]] = []
        try:
            for inputs, outputs in zip(draws, exact, strict=True):
                begin = time.perf_counter()
                made = make(model, inputs, folder)
                seconds = time.perf_counter() - begin
                found = outputs_of(made, inputs.evaluation, optimize=optimize)
                figures.append({"top-1": top1(found, inputs.labels), "calibration s": seconds})
                figures[-1] |= {"SNR dB": decibels(outputs[0], found)}
                figures[-1] |= {"median dB": median_decibels(outputs[0], found)}
                if bare is not None:
                    found = outputs_of(make(bare, inputs, folder), inputs.evaluation, optimize=optimize)
                    figures[-1] |= {"logits dB": decibels(outputs[1], found)}
                    figures[-1] |= {"logits' median dB": median_decibels(outputs[1], found)}
        except QpipeError as error:
            typer.echo(f"{model.stem}: {label}: {error}", err=True)
            figures = []
        rows.append(of_all | {"by": label} | means(figures))
        typer.echo(", ".join(f"{key} {value}" for key, value in rows[-1].items()))
    return rows


def means(figures: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Over draws, of each of FIGURES; None where there is none."""
    found: dict[str, float | None] = {}
    for key, digits in zip(FIGURES, (1, 1, 1, 1, 2, 1), strict=True):
        numbers = [number for figure in figures if (number := figure.get(key)) is not None]
        found[key] = round(float(np.mean(numbers)), digits) if numbers else None
    return found


def parsed(text: str) -> dict[str, Any]:
    """`cpu=vnni,restore_batch_norm=false` as options of `qpipe.calibrate`."""
    words: dict[str, Any] = {"true": True, "false": False}
    pairs = [item.partition("=") for item in text.split(",") if item]
    return {key: words.get(value, float(value) if value[:1].isdigit() else value) for key, _, value in pairs}


def counts(calibration: str, evaluation: int, *, is_large: bool) -> list[dict[str, int]]:
    """Of samples to calibrate on and to evaluate on, each once."""
    share = SHARE if is_large else 1
    wanted = [int(item) for item in calibration.split(",")]
    found = dict.fromkeys(count // share if count > FEW else count for count in wanted)
    return [{"calibration": count, "evaluation": evaluation // share} for count in found]


def main(
    models: Annotated[list[Path], typer.Argument(help="float networks")],
    images: Annotated[Path, typer.Option(help="CIFAR-10 as .npz")] = Path("artifacts/cifar10.npz"),
    features: Annotated[Path, typer.Option(help="labelled MFCC features as .npz")] = Path("artifacts/mfcc.npz"),
    options: Annotated[
        list[str] | None, typer.Option(help="further runs of qpipe, as cpu=vnni,activation_rounding=nearest")
    ] = None,
    calibration: Annotated[
        str, typer.Option(help="samples to calibrate on, as 16,128; of large inputs a sixteenth of more than 64")
    ] = "512",
    evaluation: Annotated[int, typer.Option(help="samples to evaluate on; of large inputs a sixteenth")] = 1000,
    draws: Annotated[int, typer.Option(help="of samples, over which figures are averaged")] = 1,
    peers: Annotated[bool, typer.Option(help="measure onnxruntime too")] = True,
    reduced: Annotated[bool, typer.Option(help="and with weights of 7 bits, for CPUs without VNNI")] = False,
    name: Annotated[str, typer.Option(help="of the file in artifacts/results")] = "snr",
) -> None:
    """Measure signal to noise: qpipe with its defaults and with options, and onnxruntime's quantize_static.

    Example: python tools/bench_snr.py net.onnx --images cifar10.npz --options cpu=vnni
    """
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    ort.set_default_logger_severity(4)
    contestants: dict[str, Make] = {"qpipe": ours({})}
    contestants |= {f"qpipe, {text}": ours(parsed(text)) for text in options or []}
    if peers:
        for method in ORT_METHODS:
            for reduce_range in (False, True) if reduced else (False,):
                label = f"{PEER}{method}" + (", reduce_range" if reduce_range else "")
                contestants[label] = theirs(method, reduce_range=reduce_range)
    results = Results(name)
    saturates = "no int16" if this_cpu().has_vnni else "an int16, which saturates"
    typer.echo(f"{this_cpu().describe()}: onnxruntime's 8-bit products pass {saturates}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            try:
                shape = [size if isinstance(size, int) else 1 for size in single_input(open_session(model)).shape[1:]]
                for sizes in counts(calibration, evaluation, is_large=math.prod(shape) >= LARGE):
                    inputs = [inputs_of(model.stem, shape, images, features, draw=i, **sizes) for i in range(draws)]
                    rows += compare(model, inputs, contestants, Path(folder))
            except QpipeError as error:
                typer.echo(f"{model.stem}: {error}", err=True)
    results.add("Signal to noise", rows)
    results.save()


if __name__ == "__main__":
    run_tool(main)
