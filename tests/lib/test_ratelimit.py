"""lib/ratelimit.c: the burst, the interval, and what is said of the rest."""

from __future__ import annotations

from pykernel.lib.ratelimit import RatelimitState


def test_ten_in_five_seconds_then_a_count() -> None:
    """The eleventh is lost; the first after the interval tells how many were, and passes."""
    now = [0]
    lost: list[int] = []
    state = RatelimitState(lambda: now[0], lost.append)

    first = [state.ratelimit() for _ in range(13)]
    now[0] = 5 * 10**9
    at_the_edge = state.ratelimit()
    now[0] += 1
    after = [state.ratelimit(), state.ratelimit()]

    assert (first, at_the_edge, after) == ([True] * 10 + [False] * 3, False, [True, True])
    assert lost == [4]


def test_interval_zero_limits_nothing() -> None:
    state = RatelimitState(lambda: 0, print, interval_ns=0)
    assert all(state.ratelimit() for _ in range(100))
