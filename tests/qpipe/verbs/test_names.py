from pathlib import Path

from qpipe.verbs.names import told_apart


def test_names_in_common_get_a_folder_or_a_number() -> None:
    paths = [Path("a/net.onnx"), Path("b/net.onnx"), Path("b/other.onnx")]
    assert told_apart(["net", "net", "other"], paths) == ["a/net", "b/net", "other"]
    assert told_apart(["net", "net", "net"], [paths[0], *paths[:2]]) == ["a/net (1)", "a/net (2)", "b/net"]
    assert told_apart([], []) == []
