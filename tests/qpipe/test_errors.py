import pytest

from qpipe.errors import MESSAGE_LENGTH, ModelError, one_line


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


def _raised(*texts: str) -> Exception:
    """An exception of the first text, whose cause has the next, and so on."""
    error: Exception | None = None
    for text in reversed(texts):
        outer = ValueError(text)
        outer.__cause__ = error
        error = outer
    assert error is not None
    return error


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (("Error calling _deserialize_graph with: g", "Output 'c' is redeclared"), "Output 'c' is redeclared"),
        (("An error occurred when running the 'A' pass", "Error calling f with: x", "bad dims"), "bad dims"),
        (
            ('Error calling deserialize_value_info_proto with: name: "x"\ntype {}', "77 is no type"),
            "'x': 77 is no type",
        ),
        (("row 7 is bad", "'x'"), "row 7 is bad"),
        (("Error during constant folding for node 'n' (::Add)", "no type"), "'n': no type"),
    ],
)
def test_the_innermost_cause_is_what_is_said(texts: tuple[str, ...], said: str) -> None:
    assert one_line(_raised(*texts)) == said


def test_our_own_words_are_the_innermost() -> None:
    outer = ValueError("An error occurred when running a pass")
    outer.__cause__ = ModelError("Conv 'c': wrong")
    outer.__cause__.__cause__ = KeyError("group")
    assert one_line(outer) == "Conv 'c': wrong"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/onnxruntime/core/graph/graph.cc:1587 void onnxruntime::"
            "Graph::InitializeStateFromModelFileGraphProto() This is an invalid model.\n",
            "This is an invalid model.",
        ),
        (
            "/onnxruntime_src/core/graph/graph.cc:1441 onnxruntime::Graph::Graph(const onnxruntime::Model&, const "
            "std::unordered_map<std::__cxx11::basic_string<char>, int>&, bool) Tensor type 99",
            "Tensor type 99",
        ),
        ("2026-01-02 03:04:05.678 [E:onnxruntime:, executor.cc:500 ExecuteKernel] Name:'c' bad", "Name:'c' bad"),
        ("tensorprotoutils.cc:1461 GetSizeInBytes Out of bounds", "Out of bounds"),
        ("\x1b[1;31mred\x1b[m \x07 bell \udc80", r"red \x07 bell \udc80"),
        ("see graph.py:12 there", "see graph.py:12 there"),
    ],
)
def test_what_libraries_put_around_a_message_is_left_out(text: str, said: str) -> None:
    assert one_line(RuntimeError(text)) == said


def test_deep_nesting_is_said_in_words() -> None:
    assert one_line(RecursionError("maximum recursion depth exceeded")) == "nested too deeply"


def test_a_message_of_megabytes_is_read_to_where_it_is_cut() -> None:
    assert one_line(RuntimeError("n" * 10**7)) == "n" * (MESSAGE_LENGTH - 3) + "..."
