"""What every error of the product looks like: the rules of the three parts, in one place."""

from __future__ import annotations

from pytest_rootfs.errors import RootfsError

PROPER_NAMES = ("AppArmor", "Linux", "WSL")


def assert_well_formed(error: RootfsError) -> None:
    """Check *what* (lower case, no full stop, one line) and *hint* (one sentence, no full stop)."""
    first = error.what.split()[0]
    assert error.what and "\n" not in error.what, error
    assert first[0] == first[0].lower() or first in PROPER_NAMES, error
    assert not error.what.endswith((".", "!", ":")), error
    assert "\n" not in error.hint and not error.hint.endswith("."), error
    assert not error.hint or ". " not in error.hint, error
    parts = [error.what, error.detail, f"hint: {error.hint}" if error.hint else ""]
    assert str(error) == "\n".join(filter(None, parts))
