"""Damaged inputs for every command of qpipe, and what became of them: no traceback, hang, lost file, wrong number.

Each case is made from healthy files by a seeded draw, and its commands are run in a process and a folder of its own,
with 4 GB of memory and 30 seconds. What was found is grouped by its place in the code, and the first case of each group
is kept with a script that runs it again.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before its libraries are imported: a fork has one thread

import gc
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from fuzzing.judge import KINDS as FINDINGS
from fuzzing.kinds import KINDS
from fuzzing.session import Outcome, Session, warm
from results import Results, Row

ROOT = Path(__file__).resolve().parent.parent


def prepare(folder: Path) -> list[str]:
    """Make the healthy files in a process of its own, which keeps this one's libraries unused; what it imported."""
    code = (
        "import sys, json, pathlib; from fuzzing.seeds import make_seeds; make_seeds(pathlib.Path(sys.argv[1]));"
        "print(json.dumps(sorted(name for name in sys.modules if name != '__main__')))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tools"), *sys.path])}
    result = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False, env=environment
    )
    if result.returncode:
        raise SystemExit(f"the healthy files can't be made: {result.stderr.strip() or result.stdout.strip()}")
    *said, modules = result.stdout.strip().splitlines()
    print(*said, sep="\n", file=sys.stderr)
    names: list[str] = json.loads(modules)
    return names


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
    """Run the cases, count, and print; the exit status is 1 where anything was found.

    Example: python tools/fuzz.py --cases 1000 --seed 1 --keep /tmp/found
    """
    chosen = tuple(kind for kind in KINDS if any(word in kind for word in kinds.split(",")))
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        work = Path(folder)
        seeds = (healthy or work / "healthy").resolve()
        modules = seeds.parent / f"{seeds.name}.modules.json"
        if not seeds.is_dir() or not any(seeds.iterdir()):
            seeds.mkdir(parents=True, exist_ok=True)
            modules.write_text(json.dumps(prepare(seeds)), encoding="utf-8")
        warm(json.loads(modules.read_text(encoding="utf-8")))
        import torch

        torch.set_num_threads(1)
        gc.freeze()
        print(f"ready after {time.monotonic() - begun:.0f} s", file=sys.stderr)
        session = Session(seed, seeds, work, chosen)
        outcomes = []
        groups: dict[tuple[str, str], list[int]] = {}
        for outcome in session.run(range(first, first + cases), jobs):
            outcomes.append(outcome)
            for one in outcome.findings:
                group = groups.setdefault((one.kind, one.place), [])
                group.append(outcome.number)
                if len(group) == 1:
                    print(f"{outcome.number}: {outcome.kind}: {one.kind}: {one.place}", file=sys.stderr, flush=True)
                    if keep_in is not None:
                        keep(session, outcome, keep_in / str(outcome.number))
        if keep_in is not None:
            lines = [f"{len(ns)}\t{kind}\t{place!r}\t{ns[:3]}" for (kind, place), ns in sorted(groups.items())]
            (keep_in / "groups.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")
    tables = count(outcomes)
    results = Results("fuzz")
    for title, rows in tables.items():
        results.add(title, rows)
    seconds = time.monotonic() - begun
    print(f"{len(outcomes)} cases in {seconds:.0f} s, {len(groups)} distinct findings")
    if save:
        results.save()
    raise typer.Exit(int(bool(groups)))


def count(outcomes: list[Outcome]) -> dict[str, list[Row]]:
    """Cases and findings by the kind of damage, and commands by their exit status."""
    by_kind: list[Row] = []
    for kind in [*KINDS, "all"]:
        own = [one for one in outcomes if kind in ("all", one.kind)]
        if own:
            found = Counter(each for one in own for each in {finding.kind for finding in one.findings})
            by_kind.append({"damage": kind, "cases": len(own), **{name: found[name] for name in FINDINGS}})
    statuses = Counter((command["words"][0], command["status"]) for one in outcomes for command in one.commands)
    verbs = sorted({verb for verb, _ in statuses})
    commands: list[Row] = [
        {
            "command": verb,
            "runs": sum(number for (own, _), number in statuses.items() if own == verb),
            "done": statuses[verb, 0],
            "refused": statuses[verb, 2],
            "integers differ": statuses[verb, 1],
        }
        for verb in verbs
    ]
    return {"Cases with findings": by_kind, "Commands": commands}


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
