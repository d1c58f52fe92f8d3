"""Kill commands at random moments, fill their disk, start two at once, go on, and count what was lost.

    python tools/interruptions.py

Every command runs on scikit-learn's digits, as a fork of this process, which has the libraries loaded already, so that
a moment drawn at random lies in the work and not in the imports. What each of them writes undisturbed is the reference;
a run that was disturbed is started once more, with --resume where it left a checkpoint, and must give the same bytes.
A full disk is a limit on the size of files (RLIMIT_FSIZE), drawn between nothing and the largest file.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from forked import Process, in_fork
from results import RESULTS, Results

KINDS: Final = {"SIGKILL": 25, "SIGTERM": 25, "SIGINT": 10, "full disk": 10, "two at once": 10}
"""How often each is done, where nothing else is said."""
SECONDS: Final = 300
"""What no command takes on any machine."""
TRAIN: Final = "--epochs 2 --batch-size 64 --no-flip --no-evaluate --checkpoint state --checkpoint-every 2"
JOBS: Final = {
    "finetune": f"finetune net.qdq.onnx --data digits {TRAIN} -o out.onnx",
    "run": "run recipe.toml",
    "calibrate": "calibrate net.onnx --data digits --batches 2 -o out.onnx",
    "images": "calibrate net.onnx --data images --batches 2 --batch-size 64 --color GRAY -o out.onnx",
    "export": "export net.qdq.onnx --data digits -o out.onnx",
}
RECIPE: Final = """
output = "run"
[model]
path = "net.onnx"
[data]
path = "digits"
[calibrate]
batches = 2
[finetune]
epochs = 1
batch_size = 64
flip = false
evaluate = false
checkpoint_every = 2
[validate]
limit = 200
"""
OLD: Final = b"what an older run wrote"
"""Stands where a command will write: whole it is there, or what the command makes of it."""


@dataclass
class Count:
    """What came of one kind of disturbance. unlike: outputs that differ from the undisturbed run's. lost: inputs that
    changed, or an older output that is neither whole nor replaced. odd: statuses or words that nobody expects.
    """

    times: int = 0
    came_through: int = 0
    unlike: int = 0
    lost: int = 0
    tracebacks: int = 0
    leftovers: int = 0
    orphans: int = 0
    odd: int = 0
    told: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost."""
        return not (self.unlike or self.lost or self.tracebacks or self.leftovers or self.orphans or self.odd)

    def row(self, kind: str) -> dict[str, str | int]:
        """A line of the table."""
        return {
            "what": kind,
            "times": self.times,
            "ended before it": self.came_through,
            "to the bit in the end": self.times - self.unlike,
            "lost files": self.lost,
            "tracebacks": self.tracebacks,
            "leftovers": self.leftovers,
            "orphans": self.orphans,
            "odd statuses": self.odd,
        }


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder; the record of a run tells times, and has none."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {
        str(file.relative_to(folder)): "" if file.name == "state.json" else sha256(file.read_bytes()).hexdigest()
        for file in files
    }


class Interruptions:
    """Disturbs one command after the other, each in a folder of its own below `folder`."""

    def __init__(self, folder: Path, jobs: Sequence[str], seed: int, network: Callable[[Path], None]) -> None:
        self.draw = random.Random(seed)
        self.given = folder / "given"
        self.work = folder / "work"
        self.seconds: dict[str, float] = {}
        self.expected: dict[str, dict[str, str]] = {}
        self.largest: dict[str, int] = {}
        self.counts: dict[str, Count] = {}
        self.given.mkdir()
        in_fork(lambda: make_inputs(self.given, network))
        self.jobs = jobs
        for job in jobs:
            self._start_anew()
            began = time.monotonic()
            process = Process(JOBS[job], self.work)
            if not process.wait(SECONDS) or process.status:
                raise SystemExit(f"{job}: {process.told.decode()}")
            self.seconds[job] = time.monotonic() - began
            self.expected[job] = contents(self.work)
            made = [self.work / name for name in self.expected[job] if not (self.given / name).exists()]
            self.largest[job] = max(file.stat().st_size for file in made)

    def disturb(self, kind: str) -> None:
        """Do it once, to the next command."""
        count = self.counts.setdefault(kind, Count())
        job = self.jobs[count.times % len(self.jobs)]
        count.times += 1
        self._start_anew()
        if kind == "two at once":
            self._twice(job, count)
        elif kind == "full disk":
            self._fill(job, count)
        else:
            self._signal(job, count, getattr(signal, kind))
        self._go_on(job, count)

    def _signal(self, job: str, count: Count, number: int) -> None:
        process = Process(JOBS[job], self.work)
        ended = process.wait(self.draw.uniform(0, self.seconds[job]))
        process.signal(number)
        if not process.wait(SECONDS):
            count.odd += 1
            process.signal(signal.SIGKILL)
            process.wait(SECONDS)
        count.came_through += ended or process.status == 0
        count.orphans += process.orphans()
        # One that has no handler yet, or none any more, ends as the system has it; then it says nothing.
        self._look(process, count, {0, -number} if number == signal.SIGKILL else {0, -number, 128 + number})
        if number != signal.SIGKILL:
            count.leftovers += len(self._hidden())

    def _fill(self, job: str, count: Count) -> None:
        process = Process(JOBS[job], self.work, limit=self.draw.randrange(0, self.largest[job] + 1))
        process.wait(SECONDS)
        count.came_through += process.status == 0
        self._look(process, count, {0, 2})
        count.leftovers += len(self._hidden())

    def _twice(self, job: str, count: Count) -> None:
        first = Process(JOBS[job], self.work)
        first.wait(self.draw.uniform(0, self.seconds[job] / 2))
        second = Process(JOBS[job], self.work)
        for process in (first, second):
            process.wait(SECONDS)
            self._look(process, count, {0, 2})
        if first.status and second.status:
            count.odd += 1
        count.came_through += not first.status and not second.status

    def _look(self, process: Process, count: Count, statuses: set[int]) -> None:
        """At how it ended, and at what is there."""
        told = process.told.decode(errors="replace")
        count.tracebacks += "Traceback" in told
        errors = told.count("qpipe: error: ")
        if process.status not in statuses or errors != (process.status is not None and process.status > 0):
            count.odd += 1
        out = self.work / "out.onnx"
        inputs = contents(self.given)
        found = contents(self.work)
        lost = [name for name in inputs if found.get(name) != inputs[name]]
        if not out.is_file() or (out.read_bytes() != OLD and out.read_bytes()[:1] != b"\x08"):
            lost.append("out.onnx")
        count.lost += len(lost)
        if process.status not in statuses or lost or "Traceback" in told:
            count.told.append(f"{process.status} {lost} {told}")

    def _go_on(self, job: str, count: Count) -> None:
        """Start it once more, undisturbed: it must end as if nothing had been."""
        resume = " --resume" if job == "finetune" and (self.work / "state").exists() else ""
        process = Process(JOBS[job] + resume, self.work)
        process.wait(SECONDS)
        self._look(process, count, {0})
        found = contents(self.work)
        extra = [name for name in found if name not in self.expected[job]]
        count.leftovers += len({*extra, *self._hidden()})
        if any(found.get(name) != wanted for name, wanted in self.expected[job].items() if name != "state"):
            count.unlike += 1
            count.told.append(f"{job}: {sorted(found.items() ^ self.expected[job].items())} {process.told.decode()}")

    def _start_anew(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.given, self.work)
        (self.work / "out.onnx").write_bytes(OLD)

    def _hidden(self) -> list[str]:
        return [str(file) for file in self.work.rglob(".*")]


def make_network(path: Path) -> None:
    """Train the demo's network for one epoch."""
    from qpipe.demo.network import INPUT_SHAPE, train_network
    from qpipe.ir.files.save import save_model
    from qpipe.ir.files.torch_import import resolve_model

    save_model(resolve_model(train_network(epochs=1, seed=0), input_shape=INPUT_SHAPE), path)


def make_inputs(folder: Path, network: Callable[[Path], None]) -> None:
    """What the commands read: a float network, its calibrated file, a recipe, and images in folders of classes."""
    from PIL import Image

    import qpipe
    from qpipe.data import Preprocess, open_data

    network(folder / "net.onnx")
    qpipe.calibrate(folder / "net.onnx", "digits", folder / "net.qdq.onnx", batches=1)
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    source = open_data("digits", "test", Preprocess(color="GRAY"))
    for batch in source.batches(128, limit=128):
        assert batch.pixels is not None
        assert batch.labels is not None
        for index, (pixels, label) in enumerate(zip(batch.pixels, batch.labels, strict=True)):
            place = folder / "images" / str(label)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[..., 0]).save(place / f"{index}.png")


def interrupt(
    times: dict[str, int],
    *,
    jobs: Sequence[str] = tuple(JOBS),
    seed: int = 0,
    network: Callable[[Path], None] = make_network,
) -> dict[str, Count]:
    """Disturb the commands in turn, each kind so many times; what came of it, by kind."""
    import onnxruntime
    import torch

    import qpipe

    # Loaded before the forks, which only then spend their time on work.
    assert onnxruntime.__name__
    torch.set_num_threads(1)
    for verb in qpipe.__all__:
        getattr(qpipe, verb)
    with tempfile.TemporaryDirectory() as folder:
        interruptions = Interruptions(Path(folder), jobs, seed, network)
        for kind, number in times.items():
            for index in range(number):
                interruptions.disturb(kind)
                print(f"{kind}: {index + 1}/{number}", file=sys.stderr, flush=True)
    return interruptions.counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for kind, number in KINDS.items():
        parser.add_argument(f"--{kind.lower().replace(' ', '-')}", type=int, default=number, metavar="TIMES")
    parser.add_argument("--seed", type=int, default=0)
    arguments = vars(parser.parse_args())
    seed = arguments.pop("seed")
    counts = interrupt(dict(zip(KINDS, arguments.values(), strict=True)), seed=seed)
    for text in (text for count in counts.values() for text in count.told):
        print(text, file=sys.stderr)
    results = Results("interruptions")
    results.add("commands that were disturbed", [count.row(kind) for kind, count in counts.items()])
    results.save(RESULTS)
    return 0 if all(count.is_clean for count in counts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
