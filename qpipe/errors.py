"""What can go wrong, in the user's words.

Every message is one line: it names the file, node or key, the value that was found and what was expected. The command
line prints it and exits with `exit_status`; from Python the exception is raised as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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

_LOOKED_AT: Final = 4096

# What libraries put around their reason: terminal colours, the log's time and place, status codes, C++ source lines.
_NOISE: Final = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]"
    r"|(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[.,\d]* )?\[[VIWEF]:\w*:[^\]]*\]\s*"
    r"|\[ONNXRuntimeError\] : \d+ : \w+ : "
    r"|(?:\S*/)?\w+\.(?:cc|cpp|cu|h):\d+:? "
    r"(?:[\w:<>&*~ ,]*::[~\w]+\([^()]*(?:\([^()]*\)[^()]*)*\)(?: const)? ?|\w+ (?=[A-Z]))?"
)
# A wrapper of onnx_ir or onnxscript, whose reason is in its cause; the first name that it repeats says where that is.
_WRAPPER: Final = re.compile(
    r"Error calling \w+ with: (?:.*?\bname: \"([^\"]+)\")?"
    r"|Error during constant folding for node '([^']+)'"
    r"|An error occurred when |Pre-condition for pass |Post-condition for pass "
    # onnx_ir's wrapper may itself fail to say what it called.
    r"|<lambda>\(\) missing ",
    re.DOTALL,
)


def one_line(error: BaseException | str, *, kind: bool = False) -> str:
    """Another library's exception, or its message, as part of one of ours: without line breaks, cut where it is long.

    Of onnx_ir's wrappers it is the innermost cause, and what a library puts around its reason (log prefixes, colours,
    source lines) is left out. kind: with the exception's type in front, which a message that says nothing has anyway.
    """
    where = ""
    while isinstance(error, Exception) and not isinstance(error, QpipeError):
        wrapper, cause = _WRAPPER.match(_text(error)), error.__cause__ or error.__context__
        if wrapper is None or cause is None:
            break
        name = next(filter(None, wrapper.groups()), None)
        where, error = where if name is None else f"'{name}': ", cause
    named = error.strerror if isinstance(error, OSError) and not kind else None
    text = "nested too deeply" if isinstance(error, RecursionError) else (named or _text(error))
    text = where + printable(" ".join(_NOISE.sub("", text).split()))
    if kind or not text:
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) <= MESSAGE_LENGTH else text[: MESSAGE_LENGTH - 3] + "..."


def _text(error: BaseException | str) -> str:
    try:
        # A message may repeat a whole file.
        return str(error)[:_LOOKED_AT]
    except Exception:  # of a user's own, whose text can fail as well
        return ""


@contextmanager
def user_code(error: type[QpipeError], called: str, expected: str = "") -> Iterator[None]:
    """Let what code of the user's own raises inside the block be one line: what it is called, and the exception.

    expected: what it was to give instead.

    An exit is no exception to this: a script that ends by itself would end qpipe in silence. Ctrl-C goes through.
    """
    try:
        yield
    except QpipeError:
        raise
    except (Exception, SystemExit) as problem:
        wanted = f", expected {expected}" if expected else ""
        raise error(f"{called} {one_line(problem, kind=True)}{wanted}") from problem


def printable(text: str | bytes) -> str:
    """The text with an escape for all that a terminal would obey, or can't show: a name may hold anything.

    Line breaks among them, escape sequences, what turns the direction of writing, and what no encoding takes. In a
    damaged file protobuf has bytes for a name.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def near(name: str, known: Iterable[str]) -> str:
    """What to write in the place of an unknown name, as part of one of our messages."""
    known = list(known)
    found = get_close_matches(name, known, n=1)
    return f"did you mean '{found[0]}'?" if found else f"expected one of {', '.join(known)}"


def first_problem(error: ValidationError) -> str:
    """The first of what pydantic found, as part of one of our messages: `where.it.is: what is wrong`."""
    problem = error.errors(include_url=False)[0]
    return ": ".join(filter(None, [".".join(map(str, problem["loc"])), problem["msg"]]))
