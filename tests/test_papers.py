"""The repository's papers: their links lead somewhere, and what they name (options, files, functions) exists."""

import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import qpipe
from qpipe.cli.main import app
from qpipe.recipe import Recipe
from qpipe.train.executor import Executor
from support.training import bright_images, cross_entropy
from support.zoo.trainable import qdq

ROOT = Path(__file__).parent.parent
PAPERS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "artifacts" / "README.md"])
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
# Options of every command, of torchrun, and of the tools.
OTHERS = frozenset(
    {"--help", "--nproc-per-node", "--rows", "--rounds", "--runs", "--cases", "--jobs", "--keep", "--save", "--fresh"}
    | {
        "--images",
        "--features",
        "--calibration",
        "--evaluation",
        "--draws",
        "--only",
        "--pixels",
        "--no-peers",
        "--cpu-time",
        "--no-large",
    }
)

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
_COMMAND = re.compile(rf"\bqpipe\s+({'|'.join(COMMANDS)})\b([^|`]*)")
_FILE = re.compile(r"(?:qpipe|passes|tests|tools|docs|artifacts)/[\w./-]*")


def prose(text: str) -> str:
    """Without fenced blocks."""
    return _FENCE.sub("", text)


def blocks(text: str, language: str) -> list[str]:
    return [body for found, body in _FENCE.findall(text) if found == language]


def code(text: str) -> Iterator[str]:
    """Every piece of code on one line: spans, and the commands of shell blocks without their comments."""
    yield from (" ".join(span.split()) for span in _SPAN.findall(prose(text)))
    for block in blocks(text, "sh"):
        yield from (line.split(" #")[0] for line in block.replace("\\\n", " ").splitlines())


def options_of(command: str) -> set[str]:
    return {name for option in COMMANDS[command].params for name in (*option.opts, *option.secondary_opts)}


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(params=PAPERS, ids=lambda paper: str(paper.relative_to(ROOT)))
def paper(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_links_lead_somewhere(paper: Path) -> None:
    for link in _LINK.findall(prose(paper.read_text())):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (paper.parent / path).resolve() if path else paper
        assert target.exists(), f"{link}: there is no such file"
        assert target.is_relative_to(ROOT), f"{link}: leads out of the repository"
        assert not anchor or anchor in anchors(target.read_text()), f"{link}: there is no such heading"


def test_files_that_are_named_exist(paper: Path) -> None:
    named = {match.rstrip(".") for piece in code(paper.read_text()) for match in _FILE.findall(piece)}
    missing = sorted(name for name in named if not (ROOT / name).exists() and not _is_made(name))
    assert missing == []


def _is_made(name: str) -> bool:
    """What a command or a benchmark reads or writes below `artifacts`, which git does not hold."""
    return name.startswith("artifacts/") and not name.startswith("artifacts/results")


def test_options_that_are_named_exist(paper: Path) -> None:
    everywhere = set.union(*map(options_of, COMMANDS)) | OTHERS
    for piece in code(paper.read_text()):
        for command, rest in _COMMAND.findall(piece):
            assert set(_OPTION.findall(rest)) <= options_of(command), piece
        assert set(_OPTION.findall(piece)) <= everywhere, piece


def test_calls_of_verbs_have_their_arguments(paper: Path) -> None:
    for block in blocks(paper.read_text(), "python"):
        compile(block, str(paper), "exec")
        for verb, arguments in re.findall(r"qpipe\.(\w+)\((.*?)\n?\)\n", block, re.DOTALL):
            known = inspect.signature(getattr(qpipe, verb)).parameters
            assert set(re.findall(r"\b(\w+)=", arguments)) <= set(known), f"{verb}({arguments})"


def test_recipes_are_whole(paper: Path) -> None:
    for block in blocks(paper.read_text(), "toml"):
        values = tomllib.loads(block)
        Recipe.model_validate({"output": "run", "model": {"path": "a"}, "data": {"path": "b"}, **values})


def examples() -> dict[str, Any]:
    """What the examples of docs/adding.md define."""
    defined: dict[str, Any] = {}
    for block in blocks((ROOT / "docs" / "adding.md").read_text(), "python"):
        exec(block, defined)
    return defined


def test_the_example_of_a_companion_works() -> None:
    defined = examples()
    executor = Executor(qdq())
    companion = defined["QuietFeatures"](executor.steps[:2], weight=0.5)
    batch = next(iter(bright_images().batches(8)))
    inputs, labels = torch.from_numpy(batch.inputs), torch.from_numpy(batch.labels)
    executor.train()(inputs)
    companion.extra_loss(cross_entropy, labels, inputs).backward()
    gradients = [layer.weight.grad for layer in executor.weighted()]
    assert gradients[0] is not None
    assert gradients[-1] is None


def test_the_example_of_an_arithmetic_works() -> None:
    executor = Executor(qdq())
    examples()["train_with_errors_of_4_bits"](executor)
    batch = next(iter(bright_images().batches(8)))
    inputs, labels = torch.from_numpy(batch.inputs), torch.from_numpy(batch.labels)
    cross_entropy(executor.train()(inputs)[0].flatten(1), labels, inputs).backward()
    assert all(layer.weight.grad.any() for layer in executor.weighted())


def test_a_heading_has_the_name_that_github_gives_it() -> None:
    assert anchors("# A: b, c\n\n## The `l` of 4-bit grids\n") == {"a-b-c", "the-l-of-4-bit-grids"}


def test_commands_over_several_lines_are_one_piece() -> None:
    text = "`qpipe run a.toml`\n\n```sh\nqpipe export a \\\n      --plain -o b  # --not-an-option\n```\n"
    assert [piece.split() for piece in code(text)] == [
        ["qpipe", "run", "a.toml"],
        ["qpipe", "export", "a", "--plain", "-o", "b"],
    ]
