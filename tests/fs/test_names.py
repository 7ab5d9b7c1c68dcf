"""Names and link texts that are long or not ASCII: each answer is the host kernel's and Python's."""

from __future__ import annotations

import os
from typing import Any

import pytest


def call(fn: Any, *args: Any) -> Any:
    try:
        return fn(*args)
    except OSError as e:
        return "errno", e.errno


@pytest.mark.parametrize("length", [0, 1, 255, 4094, 4095, 4096, 5000])
def test_the_text_of_a_link_is_shorter_than_path_max(twins, length):
    """fs/namei.c:getname(): the text is copied before anything else of the call is looked at."""

    def script(w: Any) -> Any:
        text = ("a/" * 2500)[:length]
        made = [call(w.symlink, text, name) for name in ("l", "l", "none/l", "")]
        return made, w.listdir("."), call(w.readlink, "l")

    twins.same(script)


@pytest.mark.parametrize("name", ["dü€", "日本", "\udcff\udc80", "e\u0301"])
def test_names_are_what_pythons_os_has(twins, name):
    """Text goes in and comes out by os.fsencode() and os.fsdecode(), PEP 383; bytes name the same file."""

    def script(w: Any) -> Any:
        w.mkdir(name)
        w.chdir(name)
        out = [w.getcwd().removeprefix(w.base)]
        w.chdir(w.base)
        w.symlink(f"{name}/x", b"link-" + os.fsencode(name))
        w.mkdir(os.fsencode(name) + b"/x")
        w.rename(f"{name}/x", f"{name}/{name}")
        out += [sorted(w.listdir(".")), w.listdir(name), w.readlink(f"link-{name}")]
        return out, call(w.mkdir, os.fsencode(name)), call(w.stat, f"{name}x")

    twins.same(script)


def test_the_length_of_a_name_is_in_bytes(twins):
    """include/uapi/linux/limits.h: NAME_MAX, of the encoded name."""
    twins.same(lambda w: [call(w.mkdir, "ü" * n) for n in (127, 128)])


def test_realpath_and_extended_attributes_of_such_names(kernel):
    p = kernel.process()
    p.mkdir("/tmp/dü€")
    p.symlink("dü€", "/tmp/ł")
    assert p.realpath("/tmp/ł") == p.realpath("/tmp/ł".encode()) == "/tmp/dü€"
    p.setxattr("/sys/bus", "trusted.ü€", b"1")
    assert p.listxattr("/sys/bus") == ["trusted.ü€"]
    assert p.getxattr("/sys/bus", "trusted.ü€".encode()) == b"1"


def test_a_surrogate_that_stands_for_no_byte_is_no_name(kernel):
    with pytest.raises(ValueError, match="surrogates not allowed"):
        kernel.process().mkdir("/tmp/\ud800")
