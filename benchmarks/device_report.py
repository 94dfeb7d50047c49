"""Rows of `device.py`: written as they come, read back, counted against bounds."""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Report:
    """What one part found out, a JSON line each, so that an end of the process loses nothing.

    Attributes:
        part: Name of the part.
        path: File that all parts append to.
    """

    part: str
    path: Path

    def add(self, kind: str, name: str, **values: Any) -> None:
        """Write a row of a kind (`fact`, `parity`, `speed`, `mode`, `note` or `error`)."""
        row = {"part": self.part, "kind": kind, "name": name, **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(format_line(row), flush=True)

    def attempt(self, name: str, precision: str = "") -> Attempt:
        """Return a context whose errors become a row, for what comes after it is of use too."""
        return Attempt(self, name, precision)


@dataclass(frozen=True)
class Attempt:
    """Something that may fail on a device; see `Report.attempt`."""

    report: Report
    name: str
    precision: str

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        """Turn an error into a row; an interrupt goes on."""
        if error is None or not isinstance(error, Exception):
            return False
        traceback.print_exception(kind, error, trace, file=sys.stderr)
        last = traceback.format_exception_only(kind, error)[-1].strip()
        self.report.add("error", self.name, precision=self.precision, error=last[:500])
        return True


def read_rows(path: Path) -> list[Row]:
    """Return all rows of a file; a last line that was cut off is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def format_line(row: Row) -> str:
    """Return a row as a line of text."""
    known = ("part", "kind", "name")
    rest = " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in row.items()
        if key not in known and value not in (None, "") and key != "runs"
    )
    return f"[{row['part']}] {row['name']}: {rest}"
