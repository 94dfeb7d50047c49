"""Times of frames and of sound that always go on, also where those of a damaged source do not."""

from __future__ import annotations

from fractions import Fraction

# A time that falls back further than this, in seconds, begins anew: recordings were put together.
RESTART_S = Fraction(1)


class Onward:
    """The times of one track, moved on where they begin anew."""

    def __init__(self) -> None:
        self._offset = Fraction(0)
        self._last: Fraction | None = None
        self._end = Fraction(0)

    def moved(self, time: Fraction, length: Fraction) -> Fraction | None:
        """Return when it comes, not before what came before it; None if it goes back a little.

        Args:
            time: As the source states it, in seconds.
            length: How long it lasts, in seconds.
        """
        moved = time + self._offset
        if self._last is not None and moved < self._last:
            if moved > self._last - RESTART_S:
                return None
            self._offset = self._end - time
            moved = self._end
        self._last, self._end = moved, moved + length
        return moved
