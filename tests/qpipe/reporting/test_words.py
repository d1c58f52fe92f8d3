from qpipe.reporting.words import fixed, gain, in_bytes, number, percent, value, widths


def test_words_for_numbers() -> None:
    assert widths({8: 20}, "layer") == "8 bits"
    assert widths({4: 18, 8: 2}, "layer") == "4 bits; 8 in 2 layers"
    assert widths({8: 3, 4: 1}, "tensor") == "8 bits; 4 in 1 tensor"
    assert widths({}, "layer") == "unknown"
    assert (percent(0.91735), percent(None)) == ("91.73", "–")
    assert (gain(-0.0012), gain(0.003)) == ("−0.12", "+0.30")
    assert [in_bytes(size) for size in (None, 12, 95400, 1108000)] == ["–", "12 bytes", "95.4 kB", "1.1 MB"]
    assert (number(None), number(0.000123456)) == ("–", "0.0001235")
    assert (fixed(None, 1), fixed(4, 0), fixed(-0.12345, 3)) == ("–", "4", "−0.123")
    assert value({"a": [1, 0.5], "b": True, "c": None}) == "a 1, 0.5, b yes, c –"
