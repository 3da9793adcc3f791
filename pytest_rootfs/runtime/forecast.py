"""Which plan will probably be asked for next: the one that followed last on those just used."""

from __future__ import annotations

KEPT_SUCCESSIONS = 256
REMEMBERED = 2
"""How many plans back the next one is known by: as many as tests with two containers take turns."""

CONFIRMED = 2
"""How many times two plans were followed by the same one until more is made of that than of what
has followed last on the second."""


class Forecast:
    """What has followed on what. A plan is known by its key; "" is one that hardly comes again."""

    def __init__(self) -> None:
        self._last_keys: tuple[str, ...] = ()
        """The plans just used, the newest last."""
        self._successors: dict[tuple[str, ...], tuple[str, int]] = {}
        """Which plan was asked for after which one or two, and how many times in a row now."""

    def learn(self, key: str) -> None:
        """Note that a plan was asked for."""
        if len(self._successors) >= KEPT_SUCCESSIONS:
            self._successors.clear()
        for before in {self._last_keys, self._last_keys[-1:]}:
            known, count = self._successors.get(before, ("", 0))
            self._successors[before] = key, count + 1 if known == key else 1
        self._last_keys = (*self._last_keys, key)[-REMEMBERED:]

    def foresee(self, number: int) -> list[str]:
        """Return the plans that will probably be asked for next, at most so many."""
        last_keys = self._last_keys
        foreseen: list[str] = []
        while len(foreseen) < number:
            key, count = self._successors.get(last_keys, ("", 0))
            if count < CONFIRMED:
                key, _ = self._successors.get(last_keys[-1:], ("", 0))
            if not key:
                break
            foreseen.append(key)
            last_keys = (*last_keys, key)[-REMEMBERED:]
        return foreseen

    def forget(self, key: str) -> None:
        """Expect a plan no more: it cannot be made."""
        known = self._successors.items()
        self._successors = {before: after for before, after in known if after[0] != key}
