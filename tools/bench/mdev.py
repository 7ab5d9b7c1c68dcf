"""
Mediated devices: one made and removed through sysfs, and what each of ten thousand costs while the others live.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib import import_module
from statistics import median
from typing import Any

import pykernel
from pykernel.kernel import Kernel
from pykernel.machine import parse
from pykernel.syscalls import Process
from pykernel.tools.bench.measure import Row, per_call

__all__ = ["COUNT", "plot", "rows"]

COUNT = 10_000
PARENT = "/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1"


def booted(ports: int) -> Kernel:
    """A machine with mtty and so many ports."""
    kernel = pykernel.boot(parse(f'[modules]\nmtty = "ports={ports}"\n'))
    kernel.up()
    return kernel


def _uuid(n: int) -> str:
    return f"{n:08x}-0000-4000-8000-000000000000"


def create(proc: Process, n: int) -> None:
    """What mdevctl start does."""
    proc.write_text(f"{PARENT}/create", _uuid(n))


def remove(proc: Process, n: int) -> None:
    """What mdevctl stop does."""
    proc.write_text(f"/sys/bus/mdev/devices/{_uuid(n)}/remove", "1")


def series(proc: Process, count: int, block: int) -> list[tuple[int, float]]:
    """Make *count* devices: how many live, and seconds for each of the *block* that was made last."""
    found = []
    for first in range(0, count, block):
        start = time.perf_counter()
        for n in range(first, first + block):
            create(proc, n)
        found.append((first + block, (time.perf_counter() - start) / block))
    return found


def rows() -> Iterator[Row]:
    """One at a time; then many: the first tenth of them, and the last."""
    proc = booted(24).process()

    def one() -> None:
        create(proc, 0)
        remove(proc, 0)

    yield Row("an mdev created and removed, direct", per_call(one, calls=100), 1e-3)
    costs = [cost for _, cost in series(booted(COUNT).process(), COUNT, max(COUNT // 20, 1))]
    tenth = max(len(costs) // 10, 1)
    first = f"an mdev created, the first of {COUNT:,}"
    yield Row(first, median(costs[:tenth]), 1e-3)
    yield Row(f"an mdev created, the last of {COUNT:,}", median(costs[-tenth:]), 1e-3, first)


def plot(file: str) -> None:
    """
    Draw what each device costs by how many live, into *file*.

    Raises:
        ValueError: matplotlib is not installed, or cannot write such a file.
        OSError: the file cannot be written.
    """
    try:
        pyplot: Any = import_module("matplotlib.pyplot")
    except ImportError as e:
        raise ValueError("a plot needs matplotlib, which is not installed: pip install 'pykernel-mock[bench]'") from e
    found = series(booted(COUNT).process(), COUNT, max(COUNT // 100, 1))
    pyplot.switch_backend("agg")
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot([alive for alive, _ in found], [cost * 1e3 for _, cost in found])
    axes.axhline(1.0, color="gray", linestyle=":", label="target, with its removal")
    axes.set(
        xlabel="mediated devices alive (the peaks are collections of Python)",
        ylabel="ms to create the next one",
        ylim=(0, None),
    )
    axes.legend()
    figure.savefig(file)
    pyplot.close(figure)
