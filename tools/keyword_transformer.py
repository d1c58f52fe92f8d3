"""A keyword transformer that ships as integers alone: trained here, calibrated to 8 bits, exported, counted.

On the MFCC features of the MLPerf Tiny keyword-spotting set (49 frames of 10 numbers, 12 classes, 1,000 samples). A
small encoder (Berg et al. 2021, *Keyword Transformer*) is trained on four fifths and counted on the fifth, five times
over, so that every sample is counted once by a network that has not seen it. Each network is calibrated on what it was
trained on and finalized; the first is exported to all formats, where the gate compares every integer.

    python tools/keyword_transformer.py kws01_mfcc.npz

Writes artifacts/results/keyword_transformer.json.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
import typer
from bench_snr import decibels
from results import Results, Row, rounded, run_tool
from torch import nn
from torch.nn import functional as F

import qpipe
from passes.shipping.finalize import Finalize
from qpipe.runtime.session import open_session

FOLDS = 5
FRAMES, FEATURES, CLASSES = 49, 10, 12
WIDTH, HEADS, HIDDEN, LAYERS = 32, 2, 64, 2
BATCH = 64
FORMATS: Final[tuple[Literal["qdq", "qoperator", "integer"], ...]] = ("qdq", "qoperator", "integer")
FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE}

Arrays = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


class Attention(nn.Module):
    """Heads side by side; `1 / sqrt(16)` is a power of two, as of most networks."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, T, C] -> [N, T, C]`."""
        N, T, C = x.shape
        q, k, v = self.qkv(x).reshape(N, T, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) * (C // HEADS) ** -0.5
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(N, T, C)
        found: torch.Tensor = self.project(mixed)
        return found


class Block(nn.Module):
    """LayerNormalization first; attention, then GELU between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Dropout(0.1), nn.Linear(HIDDEN, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, T, C] -> [N, T, C]`."""
        x = x + self.attention(self.norm1(x))
        found: torch.Tensor = x + self.mlp(self.norm2(x))
        return found


class KeywordTransformer(nn.Module):
    """Frames as tokens, learned positions, blocks, a mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.last = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.positions = nn.Parameter(torch.randn(1, FRAMES, WIDTH) * 0.1)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, 49, 10]`, each feature of mean 0 and deviation 1 -> logits `[N, 12]`."""
        x = self.blocks(self.enter(x) + self.positions)
        logits: torch.Tensor = self.last(self.norm(x).mean(1))
        return logits


def train(x: Arrays, labels: Labels, epochs: int, seed: int) -> KeywordTransformer:
    """Trained by AdamW on a cosine, on frames that are shifted in time, with features hidden and noise added."""
    torch.manual_seed(seed)
    network = KeywordTransformer().train()
    inputs, targets = torch.from_numpy(x), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.05)
    steps = -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, epochs * steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            batch = augmented(inputs[rows])
            loss = F.cross_entropy(network(batch), targets[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def augmented(x: torch.Tensor) -> torch.Tensor:
    """Each sample shifted by up to 6 frames, a run of frames hidden, and noise of a tenth."""
    shifts = torch.randint(-6, 7, (len(x), 1))
    frames = (torch.arange(FRAMES) + shifts).clamp(0, FRAMES - 1)
    shifted = x.gather(1, frames[..., None].expand(-1, -1, FEATURES))
    start = torch.randint(0, FRAMES, (len(x), 1))
    hidden = (torch.arange(FRAMES) >= start) & (torch.arange(FRAMES) < start + torch.randint(1, 9, (len(x), 1)))
    return shifted.masked_fill(hidden[..., None], 0.0) + 0.1 * torch.randn_like(x)


def write(network: nn.Module, path: Path) -> None:
    """As PyTorch's newer exporter has it, with an open batch."""
    example = torch.zeros(2, FRAMES, FEATURES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (example,), path, dynamo=True, input_names=["input"], output_names=["logits"], opset_version=18,
            dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False, external_data=False,
        )  # fmt: skip


def logits_of(model: ir.Model | Path, x: Arrays) -> Arrays:
    """On onnxruntime."""
    session = open_session(ir.load(model) if isinstance(model, Path) else model)
    found: Arrays = session.run(None, {session.get_inputs()[0].name: x})[0]
    return found


def float_tensors(model: ir.Model) -> int:
    """What an integer file computes in float, but for its last step, to real numbers."""
    outputs = set(model.graph.outputs)
    values = (value for node in model.graph for value in node.outputs)
    return sum(value.dtype in FLOATS and value not in outputs for value in values)


def exports(calibrated: ir.Model, data: dict[str, Any], held: Arrays, expected: Arrays) -> list[Row]:
    """A row for each format: what it computes in float, and whether its logits are the finalized file's."""
    rows: list[Row] = []
    for kind in FORMATS:
        exported = qpipe.export(calibrated, format=kind, data=data)
        same = np.array_equal(logits_of(exported, held), expected)
        floats = float_tensors(exported) if kind == "integer" else None
        rows.append({"format": kind, "nodes": len(exported.graph), "equal": str(same), "float tensors inside": floats})
    return rows


def main(
    data: Annotated[Path, typer.Argument(help="kws01_mfcc.npz")],
    epochs: Annotated[int, typer.Option(help="of each of the five networks")] = 60,
    seed: Annotated[int, typer.Option(help="of weights and folds")] = 0,
) -> None:
    """Train, calibrate, export and count."""
    with np.load(data) as arrays:
        x, labels = arrays["x"].astype(np.float32).reshape(-1, FRAMES, FEATURES), arrays["labels"].astype(np.int64)
    results = Results("keyword_transformer")
    order = np.random.default_rng(seed).permutation(len(x))
    rows: list[Row] = []
    for fold, held in enumerate(np.array_split(order, FOLDS)):
        seen = np.setdiff1d(order, held)
        scaled = ((x - x[seen].mean((0, 1))) / x[seen].std((0, 1))).astype(np.float32)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "float.onnx"
            write(train(scaled[seen], labels[seen], epochs, seed + fold), path)
            given = {"x": scaled[seen], "labels": labels[seen]}
            calibrated = qpipe.calibrate(path, given)
            real = logits_of(path, scaled[held])
        final = calibrated.clone()
        Finalize()(final)
        found = logits_of(final, scaled[held])
        if not fold:
            results.add("The first network's exports", exports(calibrated, given, scaled[held], found))
        right = [int((logits.argmax(1) == labels[held]).sum()) for logits in (real, found)]
        signal = decibels([real], [found])
        rows.append({"held": len(held), "float": right[0], "8/8": right[1], "dB": rounded(signal)})
    total = [sum(int(row[name] or 0) for row in rows) for name in ("held", "float", "8/8")]
    rows.append({"held": total[0], "float": total[1], "8/8": total[2], "dB": None})
    results.add("Right on the held fifth", rows)
    results.save()


if __name__ == "__main__":
    run_tool(main)
