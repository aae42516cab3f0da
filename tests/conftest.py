"""Settings for all tests: property tests take the same examples on every run, unless HYPOTHESIS_PROFILE=explore asks for new ones; CI skips nothing."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# No deadline: a shared machine is slow at times, and a test that hangs is ended by the timeout in pyproject.toml.
settings.register_profile("ci", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where a person works a missing client is a reason to skip; CI installs what tests need, and a skip there would be a promise that nobody looked at."""
    report = yield
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI must not be: {report.longrepr}"
    return report
