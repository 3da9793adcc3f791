"""Samples, and the table and JSON that are made of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

Samples = dict[str, list[float]]
"""Milliseconds, unless said otherwise, by the name of what was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What was measured of one thing; `beside` names the figure that it is compared with."""

    samples: list[float]
    unit: str
    beside: str = ""

    @property
    def least(self) -> float:
        """The minimum: what it costs when nothing disturbs."""
        return min(self.samples)

    @property
    def median(self) -> float:
        """The median: what it costs here."""
        return statistics.median(self.samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The figures of a subject, and why others are missing."""

    figures: dict[str, Figure] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def add(self, samples: Samples, *, unit: str = "ms", beside: str = "") -> None:
        """Add figures of one unit, all compared with the same one."""
        for name, column in samples.items():
            against = beside if beside != name else ""
            self.figures[name] = Figure(samples=column, unit=unit, beside=against)

    def ratios(self, figure: Figure) -> tuple[float, float] | None:
        """Return minimum and median in those of the figure beside it."""
        beside = self.figures.get(figure.beside)
        if beside is None or not beside.least or not beside.median:
            return None
        return figure.least / beside.least, figure.median / beside.median

    def table(self) -> str:
        """Return what is printed: a line a figure, then what could not be measured."""
        width = max((len(name) for name in (*self.figures, *self.refused)), default=0)
        lines = [f"{'':{width}} {'samples':>8} {'min':>9} {'median':>9}      ratio: min  median"]
        lines += [self._line(name, figure, width) for name, figure in self.figures.items()]
        lines += [f"{name:{width}} not measured: {why}" for name, why in self.refused.items()]
        return "\n".join(lines)

    def _line(self, name: str, figure: Figure, width: int) -> str:
        line = f"{name:{width}} {len(figure.samples):8} {figure.least:9.3f} {figure.median:9.3f} "
        line += f"{figure.unit:5}"
        if (ratios := self.ratios(figure)) is not None:
            line += f"{ratios[0]:10.2f} {ratios[1]:7.2f}  of {figure.beside}"
        return line.rstrip()

    def as_json(self) -> dict[str, object]:
        """Return the same as plain data, with every sample."""
        return {
            "figures": {name: self._figure_json(figure) for name, figure in self.figures.items()},
            "refused": dict(self.refused),
        }

    def _figure_json(self, figure: Figure) -> dict[str, object]:
        ratios = self.ratios(figure)
        return {
            "unit": figure.unit,
            "min": figure.least,
            "median": figure.median,
            "beside": figure.beside,
            "ratio_min": ratios and ratios[0],
            "ratio_median": ratios and ratios[1],
            "samples": figure.samples,
        }


def interleaved(rounds: int, candidates: Iterable[Callable[[], Samples]]) -> Samples:
    """Measure all candidates once a round: what disturbs the machine then disturbs them alike."""
    turns = list(candidates)
    samples: Samples = {}
    for _ in range(rounds):
        for measure in turns:
            for name, column in measure().items():
                samples.setdefault(name, []).extend(column)
    return samples
