"""The example in each verb's docstring runs, and gives what it says."""

import doctest
from pathlib import Path

import pytest

import qpipe

VERBS = ("inspect", "calibrate", "finetune", "export", "validate", "bench", "energy", "report")


@pytest.mark.parametrize("name", VERBS)
def test_the_example_runs(name: str, workshop: Path) -> None:
    (example,) = doctest.DocTestFinder().find(getattr(qpipe, name), name, globs={})
    assert example.examples
    assert "SKIP" not in str(example.docstring)
    report: list[str] = []
    result = doctest.DocTestRunner().run(example, out=report.append)
    assert result.failed == 0, "".join(report)
