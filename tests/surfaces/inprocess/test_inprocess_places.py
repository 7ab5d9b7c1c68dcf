"""Which paths are the emulated kernel's, and that everything is undone."""

from __future__ import annotations

import builtins
import fcntl
import importlib
import io
import mmap
import os
import posixpath
import select
import selectors
import subprocess
import sys
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pykernel
from pykernel.surfaces.inprocess.places import HOST_NODES, Places

EMULATED_PROC = ("cmdline", "devices")
MODULES = (builtins, io, os, fcntl, mmap, select)
SELECTORS = (selectors.EpollSelector, selectors.PollSelector, selectors.SelectSelector)


@pytest.fixture(scope="module")
def places():
    kernel = pykernel.boot("dsa")
    yield Places(kernel, kernel.process(), os.getcwd)
    kernel.shutdown()


@pytest.mark.parametrize("path", [
    "/sys", "/sys/", "/sys/bus", "//sys/bus", "/./sys/bus", "/../sys/bus", "/tmp/../sys/bus", "/sys/bus/../bus",
    "/dev", "/dev/dsa/wq0.0", "/dev/nothing", "/dev/kmsg", "/proc/devices", "/proc/cmdline", b"/sys/bus",
    "/sys/../sys/bus",
])  # fmt: skip
def test_emulated(places, path):
    assert places.claim(path) is not None


@pytest.mark.parametrize("path", [
    "/", "/tmp", "/system", "/sysfs/x", "/devel", "/process", "/dev/null", "/dev/urandom", "/dev/shm/x", "/dev/fd/0",
    "/proc", "/proc/self", "/proc/self/maps", "/proc/1/cmdline", "/sys/../tmp", "/sys/bus/../../etc/passwd", "sys/bus",
    "relative", "", b"/tmp", 3, None, 3.5,
])  # fmt: skip
def test_real(places, path):
    assert places.claim(path) is None


def _model(path: str) -> bool:
    """The same question for paths whose names all exist and are no links: by text alone."""
    top, _, rest = posixpath.normpath("/" + path.lstrip("/"))[1:].partition("/")
    first = rest.partition("/")[0]
    if top == "sys":
        return True
    return (top == "dev" and first not in HOST_NODES) or (top == "proc" and first in EMULATED_PROC)


WALKS = ("", ".", "..")


@given(st.lists(st.sampled_from([*WALKS, "sys/bus", "sys/bus/dsa", "tmp", "proc", "dev"]), max_size=6), st.booleans())
def test_any_spelling(places, parts, slash):
    """Dots and slashes do not matter."""
    path = "/" + "/".join(parts) + "/" * slash
    names = [p for p in posixpath.normpath(path).split("/") if p]
    if names and not all(
        os.path.isdir("/" + "/".join(names[:n])) or names[0] == "sys" for n in range(1, len(names) + 1)
    ):
        return  # only names that exist: the model does not walk
    if any(n in ("sys", "tmp", "proc", "dev") for n in names[1:]):
        return
    assert (places.claim(path) is not None) == _model(path)


def _state():
    names = {(m.__name__, n): v for m in MODULES for n, v in vars(m).items() if callable(v)}
    names |= {(c.__name__, n): v for c in SELECTORS for n, v in vars(c).items()}
    sets = {n: set(getattr(os, n)) for n in ("supports_dir_fd", "supports_fd", "supports_follow_symlinks")}
    return names, sets


def test_all_is_undone(kernel):
    """Also after an exception, and for kernels inside each other."""
    before = _state()
    with pytest.raises(ZeroDivisionError), kernel.patched():
        os.stat(str(1 // 0))
    assert _state() == before
    other = pykernel.boot("dsa")
    with kernel.patched():
        inner = _state()
        with other.patched(), open("/sys/bus/dsa/devices/wq0.0/priority", "w") as f:
            f.write("7")
        assert _state() == inner
    other.shutdown()
    assert _state() == before


def test_two_kernels_in_turn_do_not_share():
    texts = []
    for priority in ("3", ""):
        kernel = pykernel.boot("dsa")
        with kernel.patched():
            if priority:
                with open("/sys/bus/dsa/devices/wq0.0/priority", "w") as f:
                    f.write(priority)
            with open("/sys/bus/dsa/devices/wq0.0/priority") as f:
                texts.append(f.read())
        kernel.shutdown()
    assert texts == ["3\n", "0\n"]


def test_a_file_can_be_closed_outside(kernel):
    with open("/sys/bus/dsa/devices/wq0.0/type") as kept:
        other = pykernel.boot("dsa")
        with other.patched():
            inner = open("/sys/bus/dsa/devices/wq0.0/type")  # noqa: SIM115
        assert inner.read() == kept.read()
        inner.close()
        other.shutdown()


def test_the_rest_of_python_works_inside(kernel, tmp_path):
    (tmp_path / "fresh_module.py").write_text("VALUE = 5\n")
    sys.path.insert(0, str(tmp_path))
    try:
        assert importlib.import_module("fresh_module").VALUE == 5
    finally:
        sys.path.remove(str(tmp_path))
    done = subprocess.run([sys.executable, "-c", "print(6)"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.stdout == "6\n"
    assert subprocess.run(["cat"], input="x", capture_output=True, text=True).stdout == "x"


def test_names_taken_before(kernel):
    """Only in modules that are named."""
    module: Any = types.ModuleType("early")
    other = pykernel.boot("dsa")
    module.open, module.listdir = os.open, os.listdir
    taken = module.open
    with other.patched(modules=[module]):
        assert module.open is os.open
        assert module.open is not taken
    assert module.open is taken
    other.shutdown()


def test_hypothesis_works_inside(kernel):
    """Its database and its clock are the real ones."""

    @given(st.integers(0, 15))
    def check(priority):
        with open("/sys/bus/dsa/devices/wq0.0/priority", "w") as f:
            f.write(str(priority))
        with open("/sys/bus/dsa/devices/wq0.0/priority") as f:
            assert int(f.read()) == priority

    check()
