"""Messages for users; and that each of them is one that a test has seen."""

import pytest

import raised
from repa.errors import LONGEST, RepaError, first_line


def test_a_message_is_one_line_that_rules_no_terminal() -> None:
    message = str(RepaError("a name with \x1b[2J, \r\n and \u2028, from a stranger"))
    assert message == r"a name with \x1b[2J, \r\n and \u2028, from a stranger"
    assert str(RepaError("café 猫")) == "café 猫"


def test_of_what_is_very_long_both_ends_are_shown() -> None:
    message = str(RepaError("begin" + "x" * 10**6 + "end"))
    assert len(message) <= LONGEST + 10
    assert message.startswith("beginx")
    assert message.endswith("xend")


def test_the_first_line_of_an_error_or_its_type() -> None:
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"


def test_every_error_was_raised(request: pytest.FixtureRequest) -> None:
    """Runs last of all (see conftest.py): every place that makes a `RepaError` has a test.

    Of this process: what only one of several processes says needs a test of its function, too.
    """
    config, session = request.config, request.session
    stats = config.pluginmanager.getplugin("terminalreporter").stats
    if config.args != config.getini("testpaths") or stats.get("deselected") or session.testsfailed:
        pytest.skip("needs a run of all tests, none of which fails")
    pytest.importorskip("datasets")
    missing = raised.never()
    assert not missing, f"no test comes by these: {', '.join(missing)}"
