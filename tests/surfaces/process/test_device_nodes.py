"""Device nodes under a run: devices for who looks, files that reach our drivers for who opens them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykernel.fs.chardev import MKDEV
from pykernel.surfaces.process.nodes import new_encode_dev

PYTHON = "/usr/bin/python3"
NODE = "/dev/toy/0"


def ask(surface: Any, code: str, **kw: Any) -> list[str]:
    r = surface.run(PYTHON, "-c", f"import os, stat, threading\nNODE = {NODE!r}\n{code}", **kw)
    assert (r.returncode, r.stderr) == (0, "")
    return str(r.stdout).split()


@given(st.integers(0, 0xFFF), st.integers(0, 0xFFFFF))
def test_device_numbers_travel_in_32_bits(major: int, minor: int) -> None:
    """include/linux/kdev_t.h:new_decode_dev(), with which the host reads them."""
    code = new_encode_dev(MKDEV(major, minor))
    assert code < 1 << 32
    assert ((code & 0xFFF00) >> 8, code & 0xFF | code >> 12 & 0xFFF00) == (major, minor)


def test_programs_see_a_character_device(surface: Any) -> None:
    """By stat(), lstat(), statx() and the types of getdents(); numbers, permissions and size are the node's."""
    r = surface.sh(f"stat -c '%F %t:%T %a %s' {NODE}; stat -L -c %F {NODE}; test -c {NODE} && echo yes; ls -l {NODE}")
    assert r.stdout.splitlines()[:3] == ["character special file f0:0 600 0", "character special file", "yes"]
    assert r.stdout.splitlines()[3].startswith("crw-------")
    for find in (("find",), ("busybox", "find")):
        assert NODE in surface.run(*find, "/dev/toy", "-type", "c").stdout.splitlines()
        assert surface.run(*find, "/dev/toy", "-type", "f").stdout == ""
    coreutils = surface.run("stat", "-c", "%F %t:%T", NODE)  # statx()
    assert coreutils.stdout == "character special file f0:0\n"


def test_opening_reaches_the_driver_whatever_was_looked_at(surface: Any) -> None:
    code = """
for i in range(200):
    assert stat.S_ISCHR(os.stat(NODE).st_mode) and stat.S_ISCHR(os.lstat(NODE).st_mode)
    fd = os.open(NODE, os.O_RDWR)
    os.close(fd)
path = os.open(NODE, os.O_PATH)
assert stat.S_ISCHR(os.stat(NODE).st_mode)
fd = os.open(f"/proc/self/fd/{path}", os.O_RDWR)
print(os.write(fd, b"data"), os.read(fd, 9), os.stat(NODE).st_ino == os.fstat(fd).st_ino, os.access(NODE, os.W_OK))
print(stat.S_ISREG(os.fstat(fd).st_mode))
"""
    assert ask(surface, code) == ["4", "b'data'", "True", "True", "True"]


def test_one_looks_while_another_opens(surface: Any) -> None:
    code = """
wrong = []
def look():
    while not done:
        if not stat.S_ISCHR(os.stat(NODE).st_mode):
            wrong.append("type")
def use():
    for _ in range(300):
        try:
            os.close(os.open(NODE, os.O_RDWR))
        except OSError as e:
            wrong.append(e)
done = False
users, looker = [threading.Thread(target=use) for _ in range(2)], threading.Thread(target=look)
looker.start()
[t.start() for t in users]; [t.join() for t in users]
done = True
looker.join()
print(len(wrong), *wrong[:3])
"""
    assert ask(surface, code) == ["0"]


def test_changes_are_the_nodes(surface: Any) -> None:
    """chmod(), utime() and unlink() by path are of the one node that all see."""
    code = """
os.stat(NODE)
os.chmod(NODE, 0o640); os.utime(NODE, (5, 6))
s = os.stat(NODE)
print(oct(s.st_mode), s.st_atime, s.st_mtime)
os.stat(NODE); os.unlink(NODE)
for call in (os.stat, os.lstat, lambda p: os.open(p, 0)):
    try:
        call(NODE)
    except OSError as e:
        print(e.errno)
"""
    assert ask(surface, code) == ["0o20640", "5.0", "6.0", "2", "2", "2"]


@pytest.mark.parametrize("who", [None, "1234"])
def test_a_look_needs_no_right_to_open(surface: Any, who: str | None) -> None:
    r = surface.run("busybox", "stat", "-c", "%F", NODE, as_user=who)
    assert r.stdout == "character special file\n"
