from qpipe.reporting.missing import missing
from support.report_runs import bare_run, diagnostics, float_run, make_run, training


def test_missing_parts_name_their_runs() -> None:
    undiagnosed = make_run("plain", training(diagnostics=None))
    found = missing([make_run(), undiagnosed, bare_run("a"), bare_run("b")])
    assert found["steps"] == [
        "a, b: no record of training: calibrated only, or trained elsewhere.",
        "plain: trained without --diagnose, so nothing was measured.",
    ]
    assert found["certificate"] == ["a, b: no certificate."]
    partly = make_run("partly", training(diagnostics=diagnostics(step_cosine=None)))
    assert missing([partly])["steps"] == ["partly: no update was seen."]
    assert missing([make_run()]) == {key: [] for key in found}


def test_a_float_network_lacks_what_grids_have() -> None:
    found = missing([float_run()])
    assert found["steps"] == found["noise"] == ["low: a float network, in which nothing is on a grid."]
    assert found["low_bit"] == found["certificate"] == found["distance"] == []
    assert missing([make_run()])["low_bit"] == []
    assert missing([make_run(), float_run()])["low_bit"] == [
        "net: trained in another arithmetic, so no operand was looked at."
    ]
