"""What can go wrong, in the user's words.

Every message is one line: it names the file, node or key, the value that was found and what was expected. The command
line prints it and exits with `exit_status`; from Python the exception is raised as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from pydantic import ValidationError


class QpipeError(Exception):
    """The base of all errors that qpipe raises on purpose."""

    exit_status: ClassVar[int] = 2


class ModelError(QpipeError):
    """A model that can't be read, or that is not what the command expects."""


class DataError(QpipeError):
    """Images, labels or arrays that can't be used."""


class RecipeError(QpipeError):
    """A recipe or an argument whose key, type or value is wrong."""


class LoweringError(QpipeError):
    """A node or layer that has no integer form, or whose exactness condition can't be had."""


class OutputError(QpipeError):
    """An output that can't be written."""


class ParityError(QpipeError):
    """Two files that must compute the same integers don't."""

    exit_status: ClassVar[int] = 1


MESSAGE_LENGTH: Final = 300
"""Characters of another library's message that one of ours repeats at most."""


def one_line(error: BaseException | str, *, kind: bool = False) -> str:
    """Another library's exception, or its message, as part of one of ours: without line breaks, cut where it is long.

    kind: with the exception's type in front, which a message that says nothing has in any case.
    """
    named = error.strerror if isinstance(error, OSError) and not kind else None
    try:
        text = " ".join((named or str(error)).split())
    except Exception:  # of a user's own, whose text can fail as well
        text = ""
    if kind or not text:
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) <= MESSAGE_LENGTH else text[: MESSAGE_LENGTH - 3] + "..."


def near(name: str, known: Iterable[str]) -> str:
    """What to write in the place of an unknown name, as part of one of our messages."""
    known = list(known)
    found = get_close_matches(name, known, n=1)
    return f"did you mean '{found[0]}'?" if found else f"expected one of {', '.join(known)}"


def first_problem(error: ValidationError) -> str:
    """The first of what pydantic found, as part of one of our messages: `where.it.is: what is wrong`."""
    problem = error.errors(include_url=False)[0]
    return ": ".join(filter(None, [".".join(map(str, problem["loc"])), problem["msg"]]))
