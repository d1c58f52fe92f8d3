"""Mutations name code and tests that are there, and what is said of one is what its tests do."""

import shlex
import subprocess
from pathlib import Path

import pytest
from mutate import ROOT, Mutation, counts, load, run_all

MUTATIONS = load()
SOURCE = "def double(x: int) -> int:\n    return 2 * x\n"
TEST = "from code_under_test import double\n\n\ndef test_it() -> None:\n    assert double(3) == 6\n"


def described(mutation: Mutation) -> str:
    return f"{mutation.subject}: {mutation.what}"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=described)
def test_its_text_is_in_the_code_once(mutation: Mutation) -> None:
    source = (ROOT / mutation.file).read_text(encoding="utf-8")
    compile(mutation.mutated(source), mutation.file, "exec")
    files = [word.split("::")[0] for word in shlex.split(mutation.tests) if ".py" in word]
    assert files
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_each_is_said_once() -> None:
    assert len(set(map(described, MUTATIONS))) == len(MUTATIONS)


def test_text_that_is_there_twice_is_refused() -> None:
    mutation = Mutation(subject="s", what="w", file="f.py", old="x", new="y", tests="t")
    with pytest.raises(ValueError, match=r"^s: 'w': its old text is 2 times in f\.py, expected once$"):
        mutation.mutated("x = x")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree that git knows, of one module and its test."""
    (tmp_path / "code_under_test.py").write_text(SOURCE)
    (tmp_path / "test_it.py").write_text(TEST)
    (tmp_path / "test_of_nothing.py").write_text("def test_it() -> None:\n    pass\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.parametrize(
    ("new", "tests", "result"),
    [
        ("3 * x", "test_it.py", "caught"),
        ("__import__('os').abort()", "test_it.py", "caught"),
        ("3 * x", "test_of_nothing.py", "survives"),
        ("3 x", "test_it.py", "proves nothing (pytest: 2)"),
        ("3 * x", "test_gone.py", "fails without it (pytest: 4)"),
    ],
)
def test_what_is_said_of_one(tree: Path, new: str, tests: str, result: str) -> None:
    mutation = Mutation(subject="s", what="w", file="code_under_test.py", old="2 * x", new=new, tests=tests)
    (outcome,) = run_all([mutation], jobs=1, root=tree)
    assert outcome.result == result
    assert (tree / "code_under_test.py").read_text() == SOURCE


def test_counts() -> None:
    rows = [{"subject": subject, "result": result} for subject, result in (("a", "caught"), ("b", "survives"))]
    assert counts(rows) == [
        {"subject": "a", "mutations": 1, "caught": 1},
        {"subject": "b", "mutations": 1, "caught": 0},
        {"subject": "all", "mutations": 2, "caught": 1},
    ]
