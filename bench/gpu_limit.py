"""A plugin of pytest (-p bench.gpu_limit): a test that takes too long shows where it is, and its process ends.

A kernel that does not return cannot be interrupted otherwise. With pytest-xdist the test has failed and the others go on.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator

import pytest

SECONDS = 60.0
_ERRORS = os.dup(2)  # pytest takes the number itself for what it captures


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """Around setup, call and teardown of a test."""
    faulthandler.dump_traceback_later(SECONDS, exit=True, file=_ERRORS)
    yield
    faulthandler.cancel_dump_traceback_later()
