"""Run the cases: each in a fork and a folder of its own, judged command by command."""

import contextlib
import faulthandler
import gc
import importlib
import json
import os
import pkgutil
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

from fuzzing.case import Case, Command
from fuzzing.forked import BYTES, Ended, run_forked
from fuzzing.judge import (
    CRASH,
    DIFFERENT,
    HANG,
    LEFT,
    MEMORY,
    Finding,
    judge_error,
    judge_files,
    judge_status,
    judge_words,
    snapshot,
)  # fmt: skip
from fuzzing.kinds import KINDS
from fuzzing.seeds import make_floats, make_seeds, tasks

SECONDS: Final = 30.0
"""Of computing, that a command may take."""
ALL_COMMANDS: Final = 2
"""How many times as long all commands of a case, and their comparisons, may take."""
TOOL: Final = "failure of the tool"


@dataclass
class Outcome:
    """A case, what its commands came to, and what was found; its seconds, and the most memory that was resident."""

    number: int
    kind: str
    what: str = ""
    commands: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0
    peak: int = 0


@dataclass(frozen=True)
class Session:
    """Cases of one seed. seeds: the folder of healthy files; work: where each case has a folder."""

    seed: int
    seeds: Path
    work: Path
    kinds: Sequence[str] = tuple(KINDS)

    def kind_of(self, number: int) -> str:
        """The kind of damage, drawn by weight."""
        weights = [KINDS[kind][0] for kind in self.kinds]
        return self._random(number, "kind").choices(self.kinds, weights)[0]

    def run(self, numbers: Iterable[int], jobs: int) -> Iterator[Outcome]:
        """Each case's outcome as it ends; nothing of its files is kept."""
        for ended in run_forked(numbers, self._child, seconds=ALL_COMMANDS * SECONDS, jobs=jobs):
            outcome = self._read(ended)
            yield outcome
            shutil.rmtree(self._folder(ended.number), ignore_errors=True)

    def make(self, number: int) -> Case:
        """Write the files of a case into its folder."""
        folder = self._folder(number) / "files"
        shutil.rmtree(self._folder(number), ignore_errors=True)
        folder.mkdir(parents=True)
        return KINDS[self.kind_of(number)][1](self._random(number, "case"), self.seeds, folder)

    def remake(self, number: int) -> Path:
        """The folder with the files of a case as they are before its commands, made in a process of its own."""
        for _ in run_forked([number], self.make_quietly, seconds=SECONDS):
            pass
        return self._folder(number) / "files"

    def make_quietly(self, number: int) -> None:
        """As `make`, without a result."""
        self.make(number)

    def _random(self, number: int, purpose: str) -> Random:
        return Random(f"{self.seed} {number} {purpose}")

    def _folder(self, number: int) -> Path:
        return self.work / f"case{number}"

    def _child(self, number: int) -> None:
        folder = self._folder(number)
        outcome = Outcome(number, self.kind_of(number))
        case = self.make(number)
        outcome.what = case.what
        faulthandler.enable(open(folder / "native", "w"))  # noqa: SIM115 (it stays open)
        faulthandler.dump_traceback_later(SECONDS - 1, repeat=True, file=open(folder / "slow", "w"))  # noqa: SIM115
        os.chdir(folder / "files")
        for command in case.commands:
            outcome.commands.append({"words": command.words, "status": None})
            _write(folder, outcome)
            begun = _computed()
            status, findings = _meet(command, folder)
            if (took := _computed() - begun) > SECONDS:
                findings.append(Finding(HANG, f"{command.words[0]}, but it ends", f"{took:.0f} s"))
            outcome.commands[-1]["status"] = status
            outcome.commands[-1]["compared"] = len(command.compared) if status == 0 else 0
            outcome.findings += _numbers(command, status, folder)
            outcome.findings += findings
            if status != 0 and not case.independent:
                break
        faulthandler.cancel_dump_traceback_later()
        _write(folder, outcome)

    def _read(self, ended: Ended) -> Outcome:
        """What the child wrote, and what it could not say itself."""
        folder = self._folder(ended.number)
        path = folder / "outcome.json"
        if not path.exists():
            unmade = Finding(TOOL, f"wait status {ended.status}, slow {ended.slow}", "the case could not be made")
            return Outcome(ended.number, self.kind_of(ended.number), findings=[unmade])
        content = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        outcome = Outcome(**{**content, "findings": [Finding(**one) for one in content["findings"]]})
        outcome.seconds, outcome.peak = ended.seconds, ended.peak
        verb = outcome.commands[-1]["words"][0] if outcome.commands else ""
        if ended.slow:
            where = _frames(folder / "slow")
            outcome.findings.append(Finding(HANG, f"{verb}: {where[:1]}", "\n".join(where)))
        elif ended.signal is not None or ended.status:
            where = _frames(folder / "native")
            outcome.findings.append(Finding(CRASH, f"{verb}: signal {ended.signal}: {where[:1]}", "\n".join(where)))
        if ended.peak > BYTES:
            outcome.findings.append(Finding(MEMORY, verb, f"{ended.peak / 2**30:.1f} GiB"))
        if ended.orphans:
            outcome.findings.append(Finding(LEFT, f"{verb}: processes", "processes outlive the command"))
        return outcome


def _computed() -> float:
    """Seconds of computing of this process and of those that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _meet(command: Command, folder: Path) -> tuple[int | None, list[Finding]]:
    """Run one command as a user does, and judge it."""
    from qpipe.cli.main import main

    before = snapshot(Path())
    error: BaseException | None = None
    status: Any = None
    with _redirected(folder):
        try:
            status = main(command.words)
        except BaseException as caught:
            error = caught
    after = snapshot(Path())
    if error is not None:
        return None, [judge_error(error), *judge_files(command, 2, before, after)]
    said = (folder / "stderr").read_text(encoding="utf-8", errors="replace")
    findings = [*judge_status(command, status), *judge_words(command, status, said)]
    findings += judge_files(command, status, before, after)
    return status, findings


def _numbers(command: Command, status: int | None, folder: Path) -> list[Finding]:
    """What is wrong with the numbers of what was written, though the command did not say so."""
    from fuzzing.equality import judge_export
    from fuzzing.nearness import judge_calibration

    if status == 1 and command.consistent:
        return [Finding(DIFFERENT, command.words[0], (folder / "stdout").read_text(errors="replace")[-2000:])]
    if status != 0:
        return []
    judged: list[Callable[[], list[Finding]]] = [
        partial(judge_export, specification, exported) for exported, specification in command.compared.items()
    ]
    if command.calibrated is not None and "qpipe: warning:" not in (folder / "stderr").read_text(errors="replace"):
        judged.append(partial(judge_calibration, command.calibrated[0], command.outputs[0], command.calibrated[1]))
    found = []
    for judge in judged:
        try:
            found += judge()
        except Exception as error:
            found.append(Finding(DIFFERENT, f"can't be compared: {judge_error(error).place}", judge_error(error).words))
    return found


@contextlib.contextmanager
def _redirected(folder: Path) -> Iterator[None]:
    """stdout and stderr in files, those of native libraries and of other processes too; nothing on stdin."""
    kept = [os.dup(number) for number in range(3)]
    null = os.open(os.devnull, os.O_RDONLY)
    files = [os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in ("stdout", "stderr")]
    for number, file in enumerate([null, *files]):
        os.dup2(file, number)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError, OSError):
                stream.flush()
        for number, file in enumerate(kept):
            os.dup2(file, number)
            os.close(file)
        for file in (null, *files):
            os.close(file)


def _write(folder: Path, outcome: Outcome) -> None:
    text = json.dumps(asdict(outcome))
    (folder / "outcome.json").write_text(text, encoding="utf-8", errors="surrogateescape")


def _frames(path: Path) -> list[str]:
    """The frames that faulthandler wrote, innermost first, those of qpipe where there are any."""
    lines = path.read_text().splitlines() if path.exists() else []
    frames = [line.strip() for line in lines if line.lstrip().startswith("File")]
    own = [line for line in frames if "/qpipe/" in line or "/passes/" in line]
    return own or frames


def prepare(seeds: Path, jobs: int) -> None:
    """Make the healthy files, and import what commands import: in children, so that this process runs nothing itself.

    Raises RuntimeError where qpipe refuses one of them.
    """
    for package in ("qpipe", "passes"):
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    names = tasks()

    def make(number: int) -> None:
        make_seeds(seeds, names[number])
        (seeds / f"{names[number]}.modules").write_text("\n".join(sys.modules), encoding="utf-8")

    if not seeds.is_dir() or not any(seeds.iterdir()):
        seeds.mkdir(parents=True, exist_ok=True)
        for ended in run_forked([0], lambda _: make_floats(seeds), seconds=SECONDS):
            _require(ended, "float networks")
        for ended in run_forked(range(len(names)), make, seconds=10 * SECONDS, jobs=jobs):
            _require(ended, names[ended.number])
    for file in seeds.glob("*.modules"):
        for name in file.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    gc.freeze()


def _require(ended: Ended, what: str) -> None:
    if ended.status:
        raise RuntimeError(f"the healthy files of {what} can't be made: wait status {ended.status}")
