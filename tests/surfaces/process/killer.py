"""``killer.py RUNS SEED``: start runs of a busy client, kill one process of each at some moment, look what is left."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from toy_tree import toy_kernel  # type: ignore[import-not-found]  # beside us on sys.path only

from pykernel.surfaces.process import run

PR_SET_CHILD_SUBREAPER = 36
KINDS = ("kernel", "launcher", "init", "client")
CLIENT = (
    "cd /sys/devices/toy; (while :; do cat value; echo 2 > value; done) &"
    " while :; do echo c > add; cat c/name; echo c > remove; done"
)


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def victim(kind: str, kernel: int) -> tuple[str, int]:
    """The process of that kind, or the nearest to it that is already there; and its kind."""
    chain = [kernel]
    for _ in range(KINDS.index(kind)):
        below = children(chain[-1])
        if not below:
            break
        chain.append(below[-1])
    return KINDS[len(chain) - 1], chain[-1]


def start() -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            null = os.open("/dev/null", os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            status = run(toy_kernel()[0], ["busybox", "sh", "-c", CLIENT])
        finally:
            os._exit(status)
    return pid


def all_gone(kernel: int, deadline: float) -> int | None:
    """Every child, adopted ones too (we are their subreaper), ends by itself; the kernel process's wait status."""
    status = None
    while time.monotonic() < deadline:
        try:
            pid, ended = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == kernel:
            status = ended
        elif not pid:
            time.sleep(0.001)
    return None


def main(runs: int, seed: int) -> int:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    rng = random.Random(seed)
    mounts = Path("/proc/self/mountinfo").read_text()
    files = set(os.listdir(tempfile.gettempdir()))
    killed: dict[str, int] = dict.fromkeys(KINDS, 0)
    for i in range(runs):
        kernel = start()
        time.sleep(rng.choice((0.01, 0.03, 0.1)) * rng.random() + 0.001)
        kind, pid = victim(KINDS[i % 4], kernel)
        killed[kind] += 1
        os.kill(pid, signal.SIGKILL)
        status = all_gone(kernel, time.monotonic() + 10)
        if status not in (signal.SIGKILL, 128 + signal.SIGKILL << 8):
            print(f"run {i}: after kill -9 of the {kind}: status {status}, still there: {children(os.getpid())}")
            return 1
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert {f for f in set(os.listdir(tempfile.gettempdir())) - files if "pykernel" in f} == set()
    print(f"{runs} runs, nothing left: " + " ".join(f"{k}={v}" for k, v in killed.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
