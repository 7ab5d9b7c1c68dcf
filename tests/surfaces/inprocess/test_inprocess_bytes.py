"""Bytes in, bytes out: each function answers with the type that it gives for the host's files."""

from __future__ import annotations

import glob
import os
from typing import Any

import pytest

pytestmark = pytest.mark.kernel(machine="dsa")


class Fs:
    """os.PathLike of any text."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


@pytest.fixture
def trees(kernel, wq, tmp_path):
    """An emulated and a real directory with a file "type" and a link "subsystem"."""
    (tmp_path / "type").write_text("none\n")
    (tmp_path / "subsystem").symlink_to("type")
    return wq, str(tmp_path)


def _opened(path):
    with open(path, "rb") as f:
        return f.name


def _entry(path):
    with os.scandir(path) as entries:
        return next(entries)


def _missing(path):
    try:
        os.stat(path)
    except FileNotFoundError as e:
        return e.filename


CALLS: dict[str, tuple[str, Any]] = {
    "readlink": ("subsystem", lambda p: os.readlink(p)),
    "listdir": ("", lambda p: os.listdir(p)[0]),
    "scandir name": ("", lambda p: _entry(p).name),
    "scandir path": ("", lambda p: _entry(p).path),
    "scandir fspath": ("", lambda p: os.fspath(_entry(p))),
    "walk": ("", lambda p: next(os.walk(p))[2][0]),
    "walk top": ("", lambda p: next(os.walk(p))[0]),
    "fwalk": ("", lambda p: next(os.fwalk(p))[2][0]),
    "realpath": ("subsystem", os.path.realpath),
    "abspath": ("type", os.path.abspath),
    "glob": ("ty*", lambda p: glob.glob(p)[0]),
    "open": ("type", _opened),
    "an error's name": ("nothing", _missing),
    "listxattr": ("type", lambda p: type(os.listxattr(p))),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", [str, os.fsencode, Fs, lambda p: Fs(os.fsencode(p))])
def test_the_type_of_the_answer(trees, call, kind):
    name, f = CALLS[call]
    answers = []
    for top in trees:
        try:
            answers.append(type(f(kind(os.path.join(top, name)))))
        except (TypeError, AttributeError) as e:
            answers.append(type(e))
    assert answers[0] == answers[1]


def test_the_same_answers_in_bytes(trees):
    top = trees[0]
    raw = os.fsencode(top)
    assert os.readlink(raw) == os.fsencode(os.readlink(top))
    assert os.path.realpath(raw) == os.fsencode(os.path.realpath(top))
    assert os.listdir(raw) == [os.fsencode(n) for n in os.listdir(top)]
    assert [(d, *map(sorted, r)) for d, *r in os.walk(raw)] == [
        (os.fsencode(d), *(sorted(map(os.fsencode, names)) for names in r)) for d, *r in os.walk(top)
    ]
    assert glob.glob(raw + b"/*") == [os.fsencode(n) for n in glob.glob(f"{top}/*")]
    before = os.getcwd()
    os.chdir(raw)
    assert os.getcwdb() == os.fsencode(os.getcwd())
    assert set(os.listdir(b".")) == set(os.listdir(raw))
    os.chdir(before)


@pytest.mark.parametrize("name", ["naïve", "\udcff"])
def test_names_that_are_not_ascii(kernel, name):
    """devtmpfs takes any name."""
    os.mkdir(f"/dev/{name}")
    raw = os.fsencode(name)
    assert name in os.listdir("/dev")
    assert raw in os.listdir(b"/dev")
    assert [e.path for e in os.scandir(b"/dev") if e.name == raw] == [b"/dev/" + raw]
    os.symlink(raw, b"/dev/" + raw + b"/link")
    assert os.readlink(f"/dev/{name}/link") == name
    assert os.readlink(b"/dev/" + raw + b"/link") == raw
    assert os.stat(b"/dev/" + raw) == os.stat(f"/dev/{name}")
    numbers = [e.stat().st_ino for e in os.scandir("/dev") if e.name == name]
    assert numbers == [os.stat(f"/dev/{name}").st_ino]
