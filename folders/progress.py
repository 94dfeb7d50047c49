"""One line that tells how far a folder is, how fast it goes and how long it will take."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

INTERVAL_S = 0.2
REPORT_INTERVAL_S = 30  # where the output is no terminal


class Progress:
    """Counts pictures and shows them."""

    def __init__(self, output: TextIO):
        """Start to count; the clock runs from the first picture on, when models are loaded."""
        self._output = output
        self._interval = INTERVAL_S if output.isatty() else REPORT_INTERVAL_S
        self._shown = time.monotonic()
        self._first: float | None = None
        self.done = 0
        self.failed = 0
        self.total: int | None = None

    def count(self, failed: bool) -> None:
        """Count a picture."""
        self.done += 1
        self.failed += failed
        if self._first is None:
            self._first = time.monotonic()
        if time.monotonic() - self._shown >= self._interval:
            self.show()

    def show(self) -> None:
        """Write the line."""
        self._shown = time.monotonic()
        seconds = self._shown - (self._first or self._shown)
        line = describe(self.done, self.failed, self.total, seconds)
        if self._output.isatty():
            width = shutil.get_terminal_size().columns - 1
            self._output.write("\r" + line[:width].ljust(width) + "\r")
        else:
            self._output.write(line + "\n")
        self._output.flush()


def describe(done: int, failed: int, total: int | None, seconds: float) -> str:
    """Return a line such as `1,200 of 100,000 (3 failed), 4.0 pictures a second, 6 h 52 min left`.

    Args:
        done: Pictures so far, those that failed among them.
        failed: Of these, how many failed.
        total: How many are to be restored; None while they are still being counted.
        seconds: Since the first was done.
    """
    line = f"{done:,} of {'?' if total is None else f'{total:,}'}"
    if failed:
        line += f" ({failed:,} failed)"
    if done < 2 or seconds <= 0:
        return line
    rate = (done - 1) / seconds
    speed = f"{rate:.1f} pictures a second" if rate >= 1 else f"{1 / rate:.1f} s a picture"
    left = "" if total is None else f", {duration((total - done) / rate)} left"
    return f"{line}, {speed}{left}"


def duration(seconds: float) -> str:
    """Return a time in words, in its two largest units: `2 d 3 h`, `6 h 52 min`, `40 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    while len(parts) > 1 and not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{number} {unit}" for number, unit in parts[:2])
