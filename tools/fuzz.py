"""Damaged inputs for every command of qpipe, and what became of them: no traceback, hang, lost file, wrong number.

Each case is made from healthy files by a seeded draw, and its commands are run in a process and a folder of its own,
with 4 GB of memory and 30 seconds. What was found is grouped by its place in the code, and the first case of each group
is kept with a script that runs it again.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before its libraries are imported: a fork has one thread

import contextlib
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from fuzzing.judge import KINDS as FINDINGS
from fuzzing.kinds import KINDS
from fuzzing.session import Outcome, Session, prepare
from results import Results, Row, rounded


def keep(session: Session, outcome: Outcome, folder: Path) -> None:
    """The case's files, with a script that runs its commands and what was found."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.move(session.remake(outcome.number), folder / "files")
    lines = [f"# case {outcome.number} of seed {session.seed}: {outcome.kind}"]
    lines += [f"# {line}" for line in outcome.what.splitlines()]
    lines += ['cd "$(dirname "$0")/files"']
    lines += [f"qpipe {shlex.join(command['words'])}" for command in outcome.commands]
    (folder / "cmd.sh").write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")
    words = [f"{one.kind}\n{one.place}\n{one.words}\n" for one in outcome.findings]
    (folder / "found.txt").write_text("\n".join(words), encoding="utf-8", errors="backslashreplace")


def main(
    cases: Annotated[int, typer.Option(help="how many")] = 10_000,
    first: Annotated[int, typer.Option(help="number of the first")] = 0,
    seed: Annotated[int, typer.Option(help="of the draws")] = 0,
    jobs: Annotated[int, typer.Option(help="cases side by side")] = 1,
    kinds: Annotated[str, typer.Option(help="those whose name has one of these words, with commas")] = "",
    keep_in: Annotated[Path | None, typer.Option("--keep", help="folder for one case of each finding")] = None,
    save: Annotated[bool, typer.Option(help="write the counts to artifacts/results")] = False,
    healthy: Annotated[Path | None, typer.Option(help="folder of healthy files, made where it is empty")] = None,
) -> None:
    """Run the cases, count, and print; the exit status is 1 where anything was found. Ctrl-C or SIGTERM ends it early.

    Example: python tools/fuzz.py --cases 1000 --seed 1 --keep /tmp/found
    """
    chosen = tuple(kind for kind in KINDS if any(word in kind for word in kinds.split(",")))
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        work = Path(folder)
        seeds = (healthy or work / "healthy").resolve()
        prepare(seeds, jobs)
        print(f"ready after {time.monotonic() - begun:.0f} s", file=sys.stderr)
        session = Session(seed, seeds, work, chosen)
        outcomes = []
        groups: dict[tuple[str, str], list[int]] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            for outcome in session.run(range(first, first + cases), jobs):
                outcomes.append(outcome)
                if len(outcomes) % 500 == 0:
                    print(f"{len(outcomes)} cases, {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
                for place in {(one.kind, one.place) for one in outcome.findings}:
                    group = groups.setdefault(place, [])
                    group.append(outcome.number)
                    if len(group) == 1:
                        print(outcome.number, outcome.kind, *place, sep=": ", file=sys.stderr, flush=True)
                        if keep_in is not None:
                            keep(session, outcome, keep_in / str(outcome.number))
    results = Results("fuzz")
    results.add("Damaged inputs", by_damage(outcomes))
    results.add("Their commands", by_command(outcomes))
    if groups:
        results.add("What was found", [
            {"finding": kind, "where": place, "cases": len(numbers), "first": numbers[0]}
            for (kind, place), numbers in sorted(groups.items(), key=lambda group: -len(group[1]))
        ])  # fmt: skip
    print(f"{len(outcomes)} cases in {time.monotonic() - begun:.0f} s, {len(groups)} distinct findings")
    if save:
        results.save()
    raise typer.Exit(int(bool(groups)))


def by_damage(outcomes: list[Outcome]) -> list[Row]:
    """Cases, those with each kind of finding, the longest and the largest, by the kind of damage."""
    rows: list[Row] = []
    for kind in [*KINDS, "all"]:
        own = [one for one in outcomes if kind in ("all", one.kind)]
        found = Counter(each for one in own for each in {finding.kind for finding in one.findings})
        if own:
            limits = {
                "longest s": rounded(max(x.seconds for x in own)),
                "largest MB": max(x.peak for x in own) // 10**6,
            }
            rows.append({"damage": kind, "cases": len(own), **{name: found[name] for name in FINDINGS}, **limits})
    return rows


def by_command(outcomes: list[Outcome]) -> list[Row]:
    """How often each command was run, and how it ended; of exports, how many were compared with the specification."""
    commands = [command for outcome in outcomes for command in outcome.commands]
    rows: list[Row] = []
    for verb in sorted({command["words"][0] for command in commands}):
        own = [command for command in commands if command["words"][0] == verb]
        statuses = Counter(command["status"] for command in own)
        rows.append({
            "command": verb, "runs": len(own), "done": statuses[0], "refused": statuses[2],
            "integers differ": statuses[1], "exports compared": sum(command.get("compared", 0) for command in own),
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
