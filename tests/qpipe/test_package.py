from types import ModuleType

import pytest

import qpipe

VERBS = ("bench", "calibrate", "energy", "export", "finetune", "inspect", "report", "validate")


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_are_functions(verb: str) -> None:
    assert getattr(qpipe, verb).__module__ == f"qpipe.verbs.{verb}"
    assert verb in dir(qpipe)


def test_other_rooms_are_bound_as_ever() -> None:
    import qpipe.recipe

    assert isinstance(qpipe.recipe, ModuleType)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        qpipe.quantise  # noqa: B018


def test_version() -> None:
    assert isinstance(qpipe.__version__, str)
    assert qpipe.__version__
