from qpipe.reporting.missing import missing
from support.report_runs import bare_run, diagnostics, make_run, training


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
