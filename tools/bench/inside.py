"""An attribute opened, read and closed by Python: the direct and the patched surface, their peer and their floor."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pykernel
from pykernel.tools.bench.measure import Row, per_call

__all__ = ["rows"]

PLAIN = "/sys/bus/dsa/devices/wq0.0/name"
WRITABLE = "/sys/bus/dsa/devices/wq0.0/size"
FLOOR = "open+read+close, os, tmpfs"


def read(path: str) -> bytes:
    """What a program does to read an attribute."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def store(path: str) -> None:
    """What a program does to set an attribute."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, b"8\n")
    finally:
        os.close(fd)


def _native() -> Iterator[Row]:
    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="pykernel-bench-") as f:
        Path(f.name).write_text("16\n")
        yield Row(FLOOR, per_call(lambda: read(f.name), calls=5000))


def _direct() -> Iterator[Row]:
    proc = pykernel.boot("dsa").process()

    def one() -> None:
        fd = proc.open(WRITABLE)
        proc.read(fd, 4096)
        proc.close(fd)

    def one_store() -> None:
        fd = proc.open(WRITABLE, os.O_WRONLY)
        proc.write(fd, b"8\n")
        proc.close(fd)

    yield Row("open+read+close, direct", per_call(one), 15e-6, FLOOR)
    yield Row("open+write+close, direct", per_call(one_store), None, FLOOR)


def _patched() -> Iterator[Row]:
    with pykernel.boot("dsa").patched():
        yield Row("open+read+close, patched, os.open", per_call(lambda: read(WRITABLE)), 20e-6, FLOOR)
        yield Row("open+read+close, patched, open()", per_call(lambda: Path(WRITABLE).read_text()), None, FLOOR)
        yield Row("open+write+close, patched, os.open", per_call(lambda: store(WRITABLE)), None, FLOOR)


def _pyfakefs() -> Iterator[Row]:
    from pyfakefs.fake_filesystem_unittest import Patcher

    with Patcher() as patcher:
        assert patcher.fs is not None
        patcher.fs.create_file(WRITABLE, contents="16\n")
        yield Row("open+read+close, plain pyfakefs, os.open", per_call(lambda: read(WRITABLE), calls=50), None, FLOOR)


def rows() -> Iterator[Row]:
    """The floor, the two surfaces, and plain pyfakefs in the same run."""
    yield from _native()
    yield from _direct()
    yield from _patched()
    yield from _pyfakefs()
