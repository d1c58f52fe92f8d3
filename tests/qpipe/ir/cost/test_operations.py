from qpipe.arith.mls.formats import ElementFormat
from qpipe.ir.cost.operations import FLOAT32, INT32, Float, Integer, Operations, operation
from qpipe.ops.work import Work


def test_names() -> None:
    element = ElementFormat(2, 4)
    assert str(operation("multiply", FLOAT32)) == "multiply float32"
    assert str(operation("add", Integer(19))) == "add int19"
    assert str(operation("multiply", element)) == "multiply ⟨2, 4⟩"
    assert str(operation("compare", Float(16))) == "compare float16"


def test_two_formats_are_one_kind_in_either_order() -> None:
    assert operation("multiply", Integer(4), Integer(8)) == operation("multiply", Integer(8), Integer(4))
    assert str(operation("multiply", Integer(4), Integer(8))) == "multiply int8 × int4"
    # As wide as each other, but not the same.
    first, second = ElementFormat(0, 4), ElementFormat(2, 2)
    assert operation("multiply", first, second) == operation("multiply", second, first)


def test_counts_add_up_and_nothing_is_not_there() -> None:
    found = Operations()
    found.put(3, "add", INT32)
    found.put(4, "add", INT32)
    found.put(0, "shift", INT32)
    found.put_work(10, Work(multiply=2, compare=1), FLOAT32)
    assert found.to_json() == {"add int32": 7, "multiply float32": 20, "compare float32": 10}
