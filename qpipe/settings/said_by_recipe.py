"""The note on an option that a training recipe says where nothing is given."""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

Need = Literal["method 'ag'", "ssp", "train_scales", "a teacher", "the optimizer 'sgd'", "the arithmetic 'mls'"]


@dataclass(frozen=True)
class SaidByRecipe:
    """A note on a field: a training recipe says it where nothing is given. needs: without what it has no effect."""

    needs: Need | None = None


T = TypeVar("T")
OfRecipe = Annotated[T, SaidByRecipe()]
OfSgd = Annotated[T, SaidByRecipe("the optimizer 'sgd'")]
OfTeacher = Annotated[T, SaidByRecipe("a teacher")]
OfAg = Annotated[T, SaidByRecipe("method 'ag'")]
OfSsp = Annotated[T, SaidByRecipe("ssp")]
OfScales = Annotated[T, SaidByRecipe("train_scales")]
OfMls = Annotated[T, SaidByRecipe("the arithmetic 'mls'")]
