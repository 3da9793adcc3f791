"""Put the tables that were measured into a page, between the marks that name their subjects."""

from __future__ import annotations

import re
from collections.abc import Mapping

_BLOCK = re.compile(r"(<!-- FIGURES: (\w+) -->\n).*?(<!-- /FIGURES -->)", re.DOTALL)


def with_tables(page: str, tables: Mapping[str, str]) -> str:
    """Return a page with the tables of these subjects; others stay as they are."""

    def block(found: re.Match[str]) -> str:
        table = tables.get(found[2])
        return found[0] if table is None else f"{found[1]}```\n{table}\n```\n{found[3]}"

    return _BLOCK.sub(block, page)
