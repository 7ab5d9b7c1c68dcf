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


@pytest.fixture
def at(tmp_path):
    """Change the directory for the test's time."""
    before = os.getcwd()
    yield os.chdir
    os.chdir(before)


OUT_OF = [
    ("/sys", ".."), ("/sys/bus/dsa/devices", "../../../.."), ("/sys/bus/dsa/devices", "wq0.0/../../../../../.."),
    ("/dev", ".."), ("/sys", "../sys/bus/.././.."), ("/sys", "../tmp/../proc/.."),
    # a link leads two directories up from where its name is
    ("/sys/bus/dsa/devices/wq0.0/subsystem", "../../.."), ("/sys/bus/dsa/devices", "wq0.0/subsystem/../../.."),
    ("/sys", "bus/dsa/devices/wq0.0/subsystem/../../.."),
]  # fmt: skip


@pytest.mark.kernel(machine="dsa")
@pytest.mark.parametrize(("start", "way"), OUT_OF)
@pytest.mark.parametrize("kind", ["cwd", "dir_fd", "absolute"])
def test_out_of_the_emulated_directories_is_the_host(kernel, at, tmp_path, start, way, kind):
    """Linux has one tree: ".." of a mount's root is the directory that it is mounted in."""
    (tmp_path / "f").write_text("real")
    path = f"{way}{tmp_path}/f"
    kw: dict[str, Any] = {}
    if kind == "cwd":
        at(start)
    elif kind == "dir_fd":
        kw["dir_fd"] = os.open(start, os.O_RDONLY)
    else:
        path = f"{start}/{path}"
    for spelled in (path, os.fsencode(path)):
        assert os.stat(spelled, **kw).st_ino == (tmp_path / "f").stat().st_ino
        fd = os.open(spelled, os.O_RDONLY, **kw)
        assert os.read(fd, 9) == b"real"
        os.close(fd)
        os.rename(spelled, tmp_path / "g", **{f"src_{k}": v for k, v in kw.items()})
        os.link(tmp_path / "g", spelled, **{f"dst_{k}": v for k, v in kw.items()})
        os.unlink(tmp_path / "g")
    missing = f"{path}.none"
    with pytest.raises(FileNotFoundError) as e:
        os.stat(missing, **kw)
    assert e.value.filename == missing
    with pytest.raises(FileNotFoundError):
        os.open(missing, os.O_RDONLY, **kw)
    if kw:
        os.close(kw["dir_fd"])
        return
    with open(path) as f:
        assert f.read() == "real"
    root = path.removesuffix(f"{tmp_path}/f")
    assert os.path.samestat(os.stat(root), os.stat("/"))
    assert sorted(os.listdir(root)) == sorted(os.listdir("/"))
    assert sorted(e.name for e in os.scandir(root)) == sorted(os.listdir("/"))
    assert os.path.realpath(path) == os.path.realpath(tmp_path / "f")


@pytest.mark.kernel(machine="dsa")
@pytest.mark.parametrize(("start", "way"), OUT_OF)
def test_changing_the_directory_out_is_the_host(kernel, at, start, way):
    at(start)
    os.chdir(way)
    assert os.getcwd() == "/"
    assert sorted(os.listdir()) == sorted(os.listdir("/"))
    assert os.path.exists("etc/passwd")
    assert subprocess.check_output(["pwd"], text=True) == "/\n"
    os.chdir("sys/bus/dsa")
    assert os.path.isdir("devices/wq0.0")


@pytest.mark.kernel(machine="dsa")
def test_a_removed_directory_still_has_parents(kernel, at):
    """fs/namei.c:handle_dots() goes by the dentry's parent, not by names."""
    os.makedirs("/dev/a/b")
    above = os.stat("/dev/a")
    at("/dev/a/b")
    os.rmdir("/dev/a/b")
    assert os.stat("..").st_ino == above.st_ino
    os.chdir("..")
    assert os.getcwd() == "/dev/a"


@pytest.mark.kernel(machine="dsa")
def test_relative_to_dev_the_table_is_the_same(kernel, at):
    fd = os.open("/dev", os.O_RDONLY)
    null = os.stat("/dev/null")
    assert os.stat("null", dir_fd=fd) == null
    assert os.stat("kmsg", dir_fd=fd) == os.stat("/dev/kmsg")
    at("/dev")
    assert os.stat("null") == null
    assert os.stat("./shm/../null") == null
    assert os.path.isdir("shm")
    os.close(fd)
    assert subprocess.check_output(["pwd"], cwd="..", text=True) == "/\n"
