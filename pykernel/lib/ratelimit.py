"""
Messages that may come too often (lib/ratelimit.c): so many in an interval, then silence and a count of what was lost.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["DEFAULT_RATELIMIT_BURST", "DEFAULT_RATELIMIT_INTERVAL_NS", "RatelimitState"]

DEFAULT_RATELIMIT_INTERVAL_NS = 5 * 10**9
DEFAULT_RATELIMIT_BURST = 10


class RatelimitState:
    """``struct ratelimit_state``: *burst* messages in *interval_ns*; *suppressed* is told how many were lost."""

    def __init__(
        self,
        clock_ns: Callable[[], int],
        suppressed: Callable[[int], None],
        interval_ns: int = DEFAULT_RATELIMIT_INTERVAL_NS,
        burst: int = DEFAULT_RATELIMIT_BURST,
    ) -> None:
        self.clock_ns = clock_ns
        self.suppressed = suppressed
        self.interval_ns = interval_ns
        self.burst = burst
        self.begin: int | None = None
        self.printed = 0
        self.missed = 0

    def ratelimit(self) -> bool:
        """May this message go out? C: ``int ___ratelimit(struct ratelimit_state *rs, const char *func)``."""
        if not self.interval_ns:
            return True
        now = self.clock_ns()
        if self.begin is None:
            self.begin = now
        if now > self.begin + self.interval_ns:
            if self.missed:
                self.suppressed(self.missed)
                self.missed = 0
            self.begin = now
            self.printed = 0
        if self.printed < self.burst:
            self.printed += 1
            return True
        self.missed += 1
        return False
