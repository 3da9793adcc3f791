"""What the tests of control groups share: a session of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from groups import session

from pytest_rootfs.kernel.cgroups import Parent


@pytest.fixture
def parent() -> Iterator[Parent]:
    with session() as found:
        yield found
