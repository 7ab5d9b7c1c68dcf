"""What an attribute costs, against plain pyfakefs in the same run: a ratio, as machines differ."""

from __future__ import annotations

import time
from collections.abc import Callable

from pyfakefs.fake_filesystem_unittest import Patcher

import pykernel

ATTRIBUTE = "/sys/bus/dsa/devices/wq0.0/size"


def best_us(f: Callable[[], object], times: int = 100, rounds: int = 15) -> float:
    """Microseconds a call in the best round: what it takes when nobody disturbs."""
    took = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(times):
            f()
        took.append((time.perf_counter() - start) / times * 1e6)
    return min(took)


def read() -> str:
    with open(ATTRIBUTE) as f:
        return f.read()


def test_far_cheaper_than_a_fake_file():
    """15 times is the aim, on a quiet machine; a third is left for noise."""
    kernel = pykernel.boot("dsa")
    with kernel.patched():
        ours = best_us(read)
    kernel.shutdown()
    with Patcher() as patcher:
        assert patcher.fs is not None
        patcher.fs.create_file(ATTRIBUTE, contents="0\n")
        fake = best_us(read, times=20)
    assert fake / ours > 10, f"pyfakefs {fake:.0f} us, ours {ours:.1f} us"
