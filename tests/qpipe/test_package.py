import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import qpipe

ROOT = Path(__file__).parents[2]
VERBS = ("bench", "calibrate", "export", "finetune", "inspect", "validate")


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_are_functions(verb: str) -> None:
    assert getattr(qpipe, verb).__module__ == f"qpipe.verbs.{verb}"
    assert verb in dir(qpipe)


def test_a_room_with_a_verbs_name_does_not_hide_the_verb() -> None:
    code = (
        "import qpipe, qpipe.calibrate, sys; print(qpipe.calibrate.__module__, sys.modules['qpipe.calibrate'].__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["qpipe.verbs.calibrate", "qpipe.calibrate"]


def test_other_rooms_are_bound_as_ever() -> None:
    import qpipe.recipe

    assert isinstance(qpipe.recipe, ModuleType)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        qpipe.quantise  # noqa: B018


def test_version() -> None:
    assert isinstance(qpipe.__version__, str)
    assert qpipe.__version__
