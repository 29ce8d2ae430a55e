"""The promises of docs/reliability.md: each test is a trial of one; the end has a line for each.

A file of tests names its promise: `pytestmark = pytest.mark.promise("exact resume")`. A test is one
trial, or calls the fixture `survived` once for each that went as promised. `REPA_TRIALS=full`
(`make test-reliability`) makes all trials, anything else a few of them.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

FULL = os.environ.get("REPA_TRIALS") == "full"
settings.register_profile(
    "repa",
    max_examples=1000 if FULL else 50,
    deadline=None,  # the machine may be busy
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("repa")


@pytest.fixture(scope="session")
def runs() -> int:
    """How many trials of what takes seconds each."""
    return 20 if FULL else 2


@pytest.fixture
def survived(request: pytest.FixtureRequest) -> Callable[[], None]:
    """For a test of several trials: to be called after each that went as promised."""
    counts = dict(request.node.user_properties)
    assert "survived" not in counts
    properties: list[tuple[str, Any]] = request.node.user_properties
    properties.append(("survived", 0))
    place = len(properties) - 1

    def count() -> None:
        properties[place] = ("survived", properties[place][1] + 1)

    return count


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "promise(name): which promise a test tries to break")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if mark := item.get_closest_marker("promise"):
            item.user_properties.append(("promise", mark.args[0]))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A line for each promise: trials, survived, lost."""
    table: dict[str, list[int]] = {}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            properties = dict(report.user_properties)
            if "promise" not in properties:
                continue
            line = table.setdefault(properties["promise"], [0, 0])
            line[0] += properties.get("survived", int(outcome == "passed"))
            line[1] += outcome != "passed"
    if not table:
        return
    terminalreporter.section("promises")
    terminalreporter.write_line(f"{'':34}{'trials':>8}{'survived':>10}{'lost':>6}")
    for promise, (survived, lost) in sorted(table.items()):
        terminalreporter.write_line(f"{promise:34}{survived + lost:8}{survived:10}{lost:6}")
