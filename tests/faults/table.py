"""What was done to the server, how often, and what came of it: the table that the run prints."""

import os
from dataclasses import dataclass, field
from typing import Final

HEAD: Final = ("fault", "injected", "tasks", "lost", "doubled", "stuck", "leftovers")


def whole() -> bool:
    """Whether this is the long run (`make faults`) or the short one within all tests."""
    return os.environ.get("TESP_TEST_FAULTS") == "whole"


@dataclass(kw_only=True)
class Row:
    """One kind of fault. What should be nought: lost, doubled, stuck, leftovers."""

    fault: str
    injected: int = 0
    tasks: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    @property
    def bad(self) -> dict[str, list[str]]:
        """Return what is not as it should be."""
        found = {name: getattr(self, name) for name in HEAD[3:]}
        return {name: what for name, what in found.items() if what}

    def cells(self) -> list[str]:
        return [self.fault, *(str(n) for n in self._numbers())]

    def _numbers(self) -> list[int]:
        return [self.injected, self.tasks, *(len(getattr(self, name)) for name in HEAD[3:])]


@dataclass
class Table:
    """All rows of a run."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Lines below the table."""

    def row(self, fault: str) -> Row:
        self.rows.append(Row(fault=fault))
        return self.rows[-1]

    def lines(self) -> list[str]:
        """Return it as Markdown."""
        columns = range(len(HEAD))
        cells = [list(HEAD), *(row.cells() for row in self.rows), self._sum()]
        widths = [max(len(line[n]) for line in cells) for n in columns]
        lines = [" | ".join(line[n].ljust(widths[n]) for n in columns) for line in cells]
        rule = " | ".join("-" * width for width in widths)
        return [f"| {line} |" for line in [lines[0], rule, *lines[1:]]] + self.notes

    def _sum(self) -> list[str]:
        numbers = [[int(cell) for cell in row.cells()[1:]] for row in self.rows]
        return ["all", *(str(sum(column)) for column in zip(*numbers, strict=True))]
