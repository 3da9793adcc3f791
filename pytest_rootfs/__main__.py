"""Make `python -m pytest_rootfs` the same as `pytest-rootfs`."""

from __future__ import annotations

import sys

from pytest_rootfs.cli import main

if __name__ == "__main__":
    sys.exit(main())
