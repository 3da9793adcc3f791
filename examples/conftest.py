"""A limit that this machine cannot enforce is an error; in the examples, a skip that tells why."""

import os
from collections.abc import Generator

import pytest

from pytest_rootfs import LimitUnavailable


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    __tracebackhide__ = True
    try:
        yield
    except LimitUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
