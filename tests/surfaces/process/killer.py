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
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from toy_tree import toy_kernel  # type: ignore[import-not-found]  # beside us on sys.path only

from pykernel.surfaces.process import run

PR_SET_CHILD_SUBREAPER = 36
WAIT_S = 60
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
    """The process of that kind as soon as it is there, else the nearest to it; and its kind."""
    deadline = time.monotonic() + WAIT_S
    while True:
        chain = [kernel]
        for _ in range(KINDS.index(kind)):
            below = children(chain[-1])
            if not below:
                break
            chain.append(below[0])
        if KINDS[len(chain) - 1] == kind or ended(kernel) or time.monotonic() > deadline:
            return KINDS[len(chain) - 1], chain[-1]
        time.sleep(0.0005)


def ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def start() -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        errors = os.dup(2)
        try:
            null = os.open("/dev/null", os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            status = run(toy_kernel()[0], ["busybox", "sh", "-c", CLIENT])
        except BaseException:
            os.write(errors, traceback.format_exc().encode())
        finally:
            os._exit(status)
    return pid


def all_gone(kernel: int) -> int | None:
    """Every child, adopted ones too (we are their subreaper), ends by itself; the kernel process's wait status."""
    deadline = time.monotonic() + WAIT_S
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


def still_there() -> list[str]:
    """Our processes: name, state, and where in the host's kernel each waits."""
    found, todo = [], children(os.getpid())
    for pid in todo:
        todo += children(pid)
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text().split()
            found.append(f"{pid} {stat[1]} {stat[2]} {Path(f'/proc/{pid}/wchan').read_text()}")
    return found


def left_behind() -> set[str]:
    """Mounts and files that look like ours. Others on this machine come and go as they like."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    files = os.listdir(tempfile.gettempdir())
    return {line for line in (*mounts, *files) if "pykernel" in line}


def main(runs: int, seed: int) -> int:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    rng = random.Random(seed)
    before = left_behind()
    killed: dict[str, int] = dict.fromkeys(KINDS, 0)
    for i in range(runs):
        kernel = start()
        kind, pid = victim(KINDS[i % 4], kernel)
        time.sleep(rng.choice((0, 0.003, 0.03, 0.1)) * rng.random())
        killed[kind] += 1
        os.kill(pid, signal.SIGKILL)
        status = all_gone(kernel)
        if status not in (signal.SIGKILL, 128 + signal.SIGKILL << 8):
            print(f"run {i}: after kill -9 of the {kind}: status {status}, there is {still_there()}", file=sys.stderr)
            return 1
    if more := left_behind() - before:
        print(f"left: {more}", file=sys.stderr)
        return 1
    print(f"{runs} runs, nothing left: " + " ".join(f"{k}={v}" for k, v in killed.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
