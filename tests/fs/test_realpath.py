"""realpath(): the answers are those of the C library's on the host."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def call(fn: Callable[..., Any], *args: Any) -> Any:
    try:
        return fn(*args)
    except OSError as e:
        return e.errno


def tree(w: Any) -> None:
    w.mkdir("dir")
    w.mkdir("dir/sub")
    w.close(w.open("dir/file", os.O_CREAT))
    for text, name in [("dir", "todir"), ("dir/file", "tofile"), ("../dir", "dir/up"), ("nothing", "broken"),
                       ("loop", "loop"), ("sub/..", "dir/back"), ("file/", "dir/slash"),
                       ("..", "dir/sub/dots")]:  # fmt: skip
        w.symlink(text, name)


def below(w: Any, answer: Any) -> Any:
    """The same from wherever the two worlds have their directory."""
    base = w.base
    return answer.replace(base, "BASE") if isinstance(answer, str) and answer.startswith(base) else answer


PATHS = (
    "", ".", "./", "..", "/", "//", "/.", "/..", "dir", "dir/", "dir/.", "dir/..", "dir/../dir/sub//", "dir/file",
    "dir/file/", "dir/file/.", "dir/file/..", "dir/file/x", "dir/file/../file", "todir", "todir/", "todir/sub/..",
    "todir/..", "tofile", "tofile/", "tofile/..", "dir/up/sub", "broken", "broken/..", "loop", "loop/x", "nothing",
    "nothing/..", "dir/back", "dir/back/file", "dir/slash", "dir/sub/dots", "dir/sub/dots/..", "x" * 300, "./././dir",
)  # fmt: skip


def relative(w: Any) -> Any:
    """From the base, from below it, and with the base before it."""
    w.mkdir("in")
    w.chdir("in")
    tree(w)
    out = []
    for path in PATHS:
        out += [(path, below(w, call(w.realpath, path))), (path, below(w, call(w.realpath, f"{w.base}/in/{path}")))]
    w.chdir("dir/sub")
    return [*out, *((path, below(w, call(w.realpath, f"../../{path}"))) for path in PATHS)]


def removed(w: Any) -> Any:
    """A working directory without a name is ENOENT, but an absolute path needs none."""
    w.mkdir("gone")
    w.chdir("gone")
    w.rmdir("../gone")
    return [call(w.realpath, "x"), call(w.realpath, "."), call(w.realpath, ".."), call(w.realpath, "/")]


@pytest.mark.parametrize("script", [relative, removed], ids=lambda f: f.__name__)
def test_realpath_as_on_the_host(twins, script):
    twins.same(script)


NAMES = st.sampled_from(["", ".", "..", "dir", "sub", "file", "todir", "tofile", "up", "back", "broken", "dots", "no"])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(NAMES, min_size=1, max_size=5).map("/".join), min_size=20, max_size=40))
def test_any_path_as_on_the_host(twins_any, paths):
    """Whatever mix of names; those that leave the base are left out, as the worlds differ there."""

    def script(w: Any) -> Any:
        tree(w)
        inside = [p for p in paths if not p.startswith("/")]
        return [below(w, call(w.realpath, f"{w.base}/{p}")) if (p + "/").count("../") < 1 else 0 for p in inside]

    twins_any.same(script)


def test_from_a_directory_of_sysfs(kernel):
    """A link of the bus is followed to the device, by its name alone."""
    p = kernel.process()
    p.chdir("/sys/bus/dsa/devices")
    real = p.realpath("wq0.0")
    assert real == p.realpath("/sys/bus/dsa/devices/wq0.0") == p.realpath(b"./wq0.0/")
    assert real.endswith("/dsa0/wq0.0")
    with pytest.raises(NotADirectoryError):
        p.realpath("dsa0/state/..")
    with pytest.raises(FileNotFoundError):
        p.realpath("")
    p.exit()
