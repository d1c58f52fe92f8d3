"""What type checkers and editors read of the verbs is what the verbs say at run time."""

import ast
import inspect

import pytest
from stub import STUB, VERBS, stub

import qpipe


def test_the_stub_is_what_its_tool_writes() -> None:
    assert STUB.read_text() == stub(), "run tools/stub.py"


@pytest.mark.parametrize("verb", VERBS)
def test_it_has_every_parameter(verb: str) -> None:
    (found,) = (node for node in ast.parse(stub()).body if isinstance(node, ast.FunctionDef) and node.name == verb)
    names = [argument.arg for argument in (*found.args.args, *found.args.kwonlyargs)]
    assert names == list(inspect.signature(getattr(qpipe, verb)).parameters)
    assert ast.get_docstring(found) == inspect.getdoc(getattr(qpipe, verb))
