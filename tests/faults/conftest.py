"""Notes the tests that were skipped, so that the table of the full form does not look fuller than it is."""

import pytest
from table import record_skipped


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        record_skipped(report.nodeid, report.longrepr[2].removeprefix("Skipped: "))
