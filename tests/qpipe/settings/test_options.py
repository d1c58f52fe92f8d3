import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from qpipe.errors import RecipeError
from qpipe.settings import BenchSettings, CheckpointSettings, FinetuneSettings, LayersSettings, Settings
from qpipe.settings.options import Option, expanded, options_of


def option(model: type[Settings], name: str) -> Option:
    return next(option for option in options_of(model) if option.name == name)


@pytest.mark.parametrize(
    ("model", "name", "type_", "default"),
    [
        (BenchSettings, "repeats", int, 50),
        (BenchSettings, "threads", int | None, None),
        (BenchSettings, "batch_sizes", Sequence[int] | None, None),
        (CheckpointSettings, "checkpoint", str | os.PathLike[str] | None, None),
        (LayersSettings, "layers", Sequence[Mapping[str, Any]], ()),
        # What a recipe says: nothing is given by default, and a fraction is given as any number.
        (FinetuneSettings, "ssp_end", float | None, None),
        (FinetuneSettings, "milestones", Sequence[float] | None, None),
        (FinetuneSettings, "optimizer", Literal["sgd", "adam"] | None, None),
        (FinetuneSettings, "method", Literal["faq", "ag"], "faq"),
    ],
)
def test_what_may_be_given(model: type[Settings], name: str, type_: Any, default: Any) -> None:
    assert (option(model, name).type, option(model, name).default) == (type_, default)


def test_a_path_is_kept_as_text() -> None:
    assert CheckpointSettings(checkpoint=Path("a") / "b").checkpoint == os.path.join("a", "b")  # type: ignore[arg-type]


def parameter(option: Option) -> inspect.Parameter:
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default)


def test_a_function_gets_what_was_given_as_settings() -> None:
    def function(first: int, settings: BenchSettings, *, last: int = 0) -> tuple[int, BenchSettings, int]:
        return first, settings, last

    call = expanded(function, parameter, lambda location: f"<{location[0]}>")
    assert call(1, repeats=3, last=2) == (1, BenchSettings(repeats=3), 2)
    assert list(inspect.signature(call).parameters) == ["first", *BenchSettings.model_fields, "last"]
    with pytest.raises(RecipeError, match=r"^<repeats>: 0, expected greater than or equal to 1$"):
        call(1, repeats=0)
    for name in ("repeat", "settings"):
        with pytest.raises(RecipeError, match=rf"^{name}: unknown option of function, "):
            call(1, **{name: 3})
