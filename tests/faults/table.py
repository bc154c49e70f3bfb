"""What was done to the server, how often, and what came of it: the table that the run prints."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

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

    def numbers(self) -> list[int]:
        """Return what stands in the columns after the name."""
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

    def given(self) -> Mapping[str, Any]:
        """Return it as plain values."""
        return {"rows": [asdict(row) for row in self.rows], "notes": self.notes}

    def take(self, given: Mapping[str, Any]) -> None:
        """Add what another process has given."""
        self.rows += [Row(**row) for row in given["rows"]]
        self.notes += map(str, given["notes"])

    def lines(self) -> list[str]:
        """Return it as Markdown; one line for all of the same name, in the order of the names."""
        columns = range(len(HEAD))
        names = sorted({row.fault for row in self.rows})
        lines = [_sum(name, [row for row in self.rows if row.fault == name]) for name in names]
        cells = [list(HEAD), *lines, _sum("all", self.rows)]
        widths = [max(len(line[n]) for line in cells) for n in columns]
        lines = [" | ".join(line[n].ljust(widths[n]) for n in columns) for line in cells]
        rule = " | ".join("-" * width for width in widths)
        return [f"| {line} |" for line in [lines[0], rule, *lines[1:]]] + self.notes


def _sum(name: str, rows: Sequence[Row]) -> list[str]:
    columns = zip(*(row.numbers() for row in rows), strict=True)
    return [name, *(str(sum(column)) for column in columns)]
