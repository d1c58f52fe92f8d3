import pytest

from qpipe.errors import MESSAGE_LENGTH, one_line


@pytest.mark.parametrize(
    ("error", "said", "with_kind"),
    [
        (ValueError("no\n  such thing"), "no such thing", "ValueError: no such thing"),
        (KeyError(), "KeyError", "KeyError"),
        (
            FileNotFoundError(2, "No such file or directory", "a.npz"),
            "No such file or directory",
            "FileNotFoundError: ",
        ),
    ],
)
def test_an_exception_as_part_of_a_message(error: Exception, said: str, with_kind: str) -> None:
    assert one_line(error) == said
    assert one_line(error, kind=True).startswith(with_kind)


def test_what_is_long_is_cut() -> None:
    assert one_line("x" * MESSAGE_LENGTH) == "x" * MESSAGE_LENGTH
    assert one_line("x" * 2 * MESSAGE_LENGTH) == "x" * (MESSAGE_LENGTH - 3) + "..."
