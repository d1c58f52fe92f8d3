"""Whether the tests would notice: changes of the code that bring a mended defect back must each fail a test.

`tools/mutations/*.toml` have them, one file a subject:

    [[mutation]]
    what = "hidden folders below a class count as images"
    file = "qpipe/data/folder.py"
    old = '''source text that stands in the file exactly once'''
    new = '''what stands there instead'''
    tests = "tests/qpipe/data/test_folder.py"     # what pytest is given: files, node ids, -k

Each is made in a copy of the tree, where its tests must pass without it and fail with it.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated

import typer
from results import Results, Row

ROOT = Path(__file__).resolve().parent.parent
MUTATIONS = ROOT / "tools" / "mutations"
ALL = "*"
TIMEOUT = 300.0
PYTEST = (sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")
PASSED, FAILED = 0, 1
"""What pytest exits with; anything else (no such test, a module that can't be imported) proves nothing.

A negative one is a signal that ended the process, which a run of all tests would not pass over either.
"""


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One change of the code: `old` stands exactly once in `file` (from the root), and `tests` notice `new`."""

    subject: str
    what: str
    file: str
    old: str
    new: str
    tests: str

    def mutated(self, source: str) -> str:
        """The file's text with the change. ValueError where `old` is not exactly once in it."""
        if (found := source.count(self.old)) != 1:
            raise ValueError(
                f"{self.subject}: {self.what!r}: its old text is {found} times in {self.file}, expected once"
            )
        return source.replace(self.old, self.new)


@dataclass(frozen=True)
class Outcome:
    """What one run of a mutation's tests showed."""

    result: str
    seconds: float


def load(folder: Path = MUTATIONS) -> list[Mutation]:
    """All mutations, by subject and as their files have them."""
    return [
        Mutation(subject=path.stem, **entry)
        for path in sorted(folder.glob("*.toml"))
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutation"]
    ]


def run_all(mutations: Sequence[Mutation], jobs: int, timeout: float = TIMEOUT, root: Path = ROOT) -> Iterator[Outcome]:
    """The outcome of each in order; `jobs` of them at a time, each in a copy of the tree of its own."""
    copies: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="mutations") as folder:
        for job in range(jobs):
            copies.put(copy_of(root, Path(folder) / str(job)))

        def run(mutation: Mutation) -> Outcome:
            tree = copies.get()
            try:
                return outcome(mutation, tree, timeout)
            finally:
                copies.put(tree)

        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(run, mutations)


def copy_of(root: Path, target: Path) -> Path:
    """A copy of what git tracks, and of new files that it doesn't ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        if name and (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
    return target


def outcome(mutation: Mutation, tree: Path, timeout: float) -> Outcome:
    """Run its tests in the tree without it and with it."""
    begin = time.monotonic()
    source = (tree / mutation.file).read_text(encoding="utf-8")
    mutated = mutation.mutated(source)
    if (code := exit_status(mutation.tests, tree, timeout)) != PASSED:
        return Outcome(f"fails without it (pytest: {code})", time.monotonic() - begin)
    (tree / mutation.file).write_text(mutated, encoding="utf-8")
    try:
        code = exit_status(mutation.tests, tree, timeout)
    finally:
        (tree / mutation.file).write_text(source, encoding="utf-8")
    if code == FAILED or (isinstance(code, int) and code < 0):
        return Outcome("caught", time.monotonic() - begin)
    result = "survives" if code == PASSED else f"proves nothing (pytest: {code})"
    return Outcome(result, time.monotonic() - begin)


def exit_status(tests: str, tree: Path, timeout: float) -> int | str:
    """What pytest exits with in the tree, or that it took too long."""
    # Compiled files are told apart by second and size: a change of the same size in the same second would not be seen.
    environment = {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [*PYTEST, *shlex.split(tests)]
    try:
        done = subprocess.run(
            command, cwd=tree, env=os.environ | environment, capture_output=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return f"over {timeout:g} s"
    return done.returncode


def main(
    pattern: Annotated[str, typer.Argument(help="of those to run: subject, file or what, with * and ?")] = ALL,
    jobs: Annotated[int, typer.Option(help="run at a time")] = 1,
    timeout: Annotated[float, typer.Option(help="seconds that one run of tests may take")] = TIMEOUT,
    name: Annotated[str, typer.Option(help="of the file in artifacts/results")] = "mutations",
) -> None:
    """Bring mended defects back one by one, and demand that a test fails; exit with 1 where none does.

    The file in artifacts/results is written where all were run.

    Example: python tools/mutate.py "data" --jobs 2
    """
    chosen = [m for m in load() if any(fnmatch(text, pattern) for text in (m.subject, m.file, m.what))]
    if not chosen:
        raise SystemExit(f"no mutation matches {pattern!r}")
    rows: list[Row] = []
    for mutation, done in zip(chosen, run_all(chosen, jobs, timeout), strict=True):
        typer.echo(f"{done.result}: {mutation.subject}: {mutation.what} ({done.seconds:.0f} s)", err=True)
        rows.append(
            {"mutation": mutation.what, "subject": mutation.subject, "file": mutation.file, "result": done.result}
        )
    results = Results(name)
    results.add("Mutations", rows)
    results.add("By subject", counts(rows))
    if pattern == ALL:
        results.save(ROOT / "artifacts" / "results")
    if any(row["result"] != "caught" for row in rows):
        raise SystemExit(1)


def counts(rows: Sequence[Row]) -> list[Row]:
    """How many of each subject are caught, and of all."""
    subjects = list(dict.fromkeys(row["subject"] for row in rows))
    per_subject = [(str(subject), [row for row in rows if row["subject"] == subject]) for subject in subjects]
    return [
        {"subject": subject, "mutations": len(some), "caught": sum(row["result"] == "caught" for row in some)}
        for subject, some in [*per_subject, ("all", list(rows))]
    ]


if __name__ == "__main__":
    typer.run(main)
