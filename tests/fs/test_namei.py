"""Path names and the calls that change directories: each answer is the host kernel's (fs/namei.c)."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any

import pytest


def call(fn: Callable[..., Any], *args: Any, **kw: Any) -> Any:
    try:
        return fn(*args, **kw)
    except OSError as e:
        return "errno", os.strerror(e.errno or 0)


def mode(w: Any, path: str) -> Any:
    s: Any = call(w.lstat, path)
    return (oct(s.st_mode), s.st_nlink) if hasattr(s, "st_mode") else s


def tree(w: Any) -> None:
    """What the scripts find: d/{f, e/, l}, f, links to each, loops."""
    w.mkdir("d")
    w.mkdir("d/e")
    for name in ("f", "d/f"):
        w.close(w.open(name, os.O_CREAT | os.O_WRONLY, 0o644))
    for name, target in (
        ("lf", "f"),
        ("ld", "d"),
        ("lds", "d/"),
        ("lfs", "f/"),
        ("dangling", "nothing"),
        ("loop", "loop"),
        ("a", "b"),
        ("b", "a"),
        ("abs", w.base + "/d"),
        ("up", "d/../f"),
        ("d/back", "../f"),
    ):
        w.symlink(target, name)


PATHS = [
    "", "/", ".", "..", "//", "./", "f", "f/", "f/.", "f/..", "f/x", "d", "d/", "d/.", "d/..", "d//e", "d/e/../f",
    "none", "none/", "none/x", "none/..", "lf", "lf/", "ld", "ld/", "ld/f", "ld/..", "lds", "lfs",
    "dangling", "dangling/",
    "loop", "loop/x", "a", "abs", "abs/f", "up", "d/back", "d/back/", "x" * 255, "x" * 256, "d/" + "y" * 256 + "/z",
    "./" * 2047, "./" * 2047 + "f", "./" * 2048,
]  # fmt: skip

CALLS: dict[str, Callable[[Any, str], Any]] = {
    "stat": lambda w, p: oct(w.stat(p).st_mode),
    "lstat": lambda w, p: oct(w.lstat(p).st_mode),
    "readlink": lambda w, p: w.readlink(p).replace(w.base, "BASE"),
    "access": lambda w, p: w.access(p, os.R_OK),
    "open": lambda w, p: w.open(p),
    "open for writing": lambda w, p: w.open(p, os.O_WRONLY),
    "open nofollow": lambda w, p: w.open(p, os.O_NOFOLLOW),
    "open directory": lambda w, p: w.open(p, os.O_DIRECTORY),
    "open directory nofollow": lambda w, p: w.open(p, os.O_DIRECTORY | os.O_NOFOLLOW),
    "open path": lambda w, p: w.open(p, os.O_PATH),
    "open path nofollow": lambda w, p: w.open(p, os.O_PATH | os.O_NOFOLLOW),
    "open path directory": lambda w, p: w.open(p, os.O_PATH | os.O_DIRECTORY),
    "open path create": lambda w, p: w.open(p, os.O_PATH | os.O_CREAT),
    "open truncate": lambda w, p: w.open(p, os.O_TRUNC),
    "creat": lambda w, p: w.open(p, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o640),
    "create read": lambda w, p: w.open(p, os.O_CREAT),
    "create exclusive": lambda w, p: w.open(p, os.O_CREAT | os.O_EXCL | os.O_RDWR),
    "create nofollow": lambda w, p: w.open(p, os.O_CREAT | os.O_NOFOLLOW | os.O_RDWR),
    "mkdir": lambda w, p: w.mkdir(p),
    "rmdir": lambda w, p: w.rmdir(p) if p != "/" else None,
    "unlink": lambda w, p: w.unlink(p),
    "symlink": lambda w, p: w.symlink("target", p),
    "link": lambda w, p: w.link("f", p),
    "link from": lambda w, p: w.link(p, "fresh"),
    "mknod": lambda w, p: w.mknod(p),
    "rename": lambda w, p: w.rename(p, "fresh"),
    "rename to": lambda w, p: w.rename("f", p),
    "rename dir to": lambda w, p: w.rename("d", p),
    "truncate": lambda w, p: w.truncate(p, 3),
    "chdir": lambda w, p: (w.chdir(p), w.chdir(w.base))[0],
    "chmod": lambda w, p: w.chmod(p, 0o600) if p.strip("./") else None,
    "listdir": lambda w, p: len(w.listdir(p)) >= 0,
    "utime": lambda w, p: w.utime(p, (5, 6)) if p.strip("./") else None,
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_on_every_kind_of_path(twins, name):
    """Kinds of paths x calls: the same errno in the same order of checks; and the same tree afterwards."""

    def script(w: Any) -> Any:
        out: dict[str, Any] = {}
        for n, path in enumerate(PATHS):
            w.mkdir(f"{n}")
            w.chdir(f"{n}")
            base, w.base = w.base, f"{w.base}/{n}"
            tree(w)
            got = call(CALLS[name], w, path)
            after = {p: mode(w, p) for p in ("d", "f", "none", "nothing", "fresh", "target", "lf", "dangling")}
            out[path[:20] + str(len(path))] = got, after, sorted(call(w.listdir, ".") or ())
            w.base = base
            w.chdir(base)
        return out

    real, ours = twins.real(script), twins.ours(script)
    assert isinstance(real, dict), real
    assert {k: (ours[k], real[k]) for k in real if ours[k] != real[k]} == {}


@pytest.mark.parametrize("old", ["f", "d", "full", "lf", "d/e", ".", "..", "d/.", "none", "f/", "d/"])
@pytest.mark.parametrize(
    "new", ["f", "d", "full", "empty", "lf", "g", "g/", "d/e/in", "full/x", ".", "..", "f/", "d/e/.."]
)
def test_rename_of_all_kinds(twins, old, new):
    """fs/namei.c:do_renameat2(): directories, files, links, descendants, onto each other."""

    def script(w: Any) -> Any:
        tree(w)
        for d in ("full", "empty"):
            w.mkdir(d)
        w.close(w.open("full/x", os.O_CREAT))
        got = call(w.rename, old, new)
        return got, w.listdir("."), call(w.listdir, "d"), call(w.listdir, "full"), mode(w, "d"), mode(w, "f")

    twins.same(script)


def forty_links(w: Any) -> Any:
    w.close(w.open("l0", os.O_CREAT))
    for n in range(1, 43):
        w.symlink(f"l{n - 1}", f"l{n}")
    return [call(w.access, f"l{n}", os.F_OK) for n in (39, 40, 41, 42)]


def removed_directory(w: Any) -> Any:
    w.mkdir("d")
    w.chdir("d")
    fd = w.open(".")
    w.rmdir(w.base + "/d")
    return [
        call(w.getcwd),
        call(w.open, "x", os.O_CREAT),
        call(w.mkdir, "x"),
        call(w.symlink, "t", "x"),
        call(w.listdir, "."),
        call(w.stat, "x"),
        oct(w.stat(".").st_mode),
        w.stat(".").st_nlink,
        w.fstat(fd).st_nlink,
        call(w.listdir, "..") == ["d"],
        call(w.chdir, ".."),
        w.getcwd() == w.base,
    ]


def links_count(w: Any) -> Any:
    fd = w.open("a", os.O_CREAT | os.O_RDWR)
    w.link("a", "b")
    w.write(fd, b"same file")
    out = [w.stat("b").st_nlink, w.stat("b").st_ino == w.stat("a").st_ino]
    w.unlink("a")
    out += [w.fstat(fd).st_nlink, w.stat("b").st_size]
    w.rename("b", "c")
    w.link("c", "d")
    w.rename("c", "d")  # two names of one file: nothing happens
    out += [w.listdir("."), w.fstat(fd).st_nlink]
    w.open("e", os.O_CREAT)
    w.rename("e", "d")
    out += [w.fstat(fd).st_nlink]
    w.unlink("c")
    out += [w.fstat(fd).st_nlink, w.pread(fd, 20, 0)]
    w.mkdir("x")
    w.mkdir("x/y")
    out += [w.stat("x").st_nlink, w.stat("x/y").st_nlink]
    w.rename("x/y", "y")
    return [*out, w.stat("x").st_nlink, w.stat(".").st_nlink]


def cwd(w: Any) -> Any:
    w.mkdir("d")
    w.mkdir("d/e")
    w.symlink("d/e", "l")
    w.chdir("l")
    out = [w.getcwd().removeprefix(w.base)]
    w.chdir("..")
    out.append(w.getcwd().removeprefix(w.base))
    w.rename(w.base + "/d", w.base + "/moved")
    out.append(w.getcwd().removeprefix(w.base))
    w.chdir("/")
    return [*out, w.getcwd()]


def umask_and_modes(w: Any) -> Any:
    w.open("a", os.O_CREAT, 0o777)
    w.open("b", os.O_CREAT, 0o6666)
    w.mkdir("c", 0o7777)
    w.mknod("p", stat.S_IFIFO | 0o666)
    w.mknod("s", stat.S_IFSOCK | 0o666)
    out = [oct(w.stat(n).st_mode) for n in "abcps"]
    w.chmod("a", 0o47777)
    return [*out, oct(w.stat("a").st_mode), call(w.open, "s"), call(w.mknod, "dir", stat.S_IFDIR | 0o755)]


SCRIPTS = [forty_links, removed_directory, links_count, cwd, umask_and_modes]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda f: f.__name__)
def test_as_on_the_host(twins, script):
    twins.same(script)


def sticky(w: Any) -> Any:
    w.chmod(".", 0o1777)
    w.close(w.open("mine", os.O_CREAT, 0o666))
    w.mkdir("dir")
    w.mkdir("shut", 0o700)
    w.close(w.open("secret", os.O_CREAT, 0o600))
    w.close(w.open("readable", os.O_CREAT, 0o644))
    w.close(w.open("shut/in", os.O_CREAT, 0o666))
    w.setgid(1000)
    w.setuid(1000)
    fd = call(w.open, "made", os.O_CREAT | os.O_WRONLY, 0o400)
    return [
        call(w.unlink, "mine"),
        call(w.rename, "mine", "x"),
        call(w.rmdir, "dir"),
        call(w.rename, "made", "mine"),
        call(w.write, fd, b"made to be read only, open to write"),
        call(w.open, "made", os.O_WRONLY),
        call(w.open, "secret"),
        call(w.open, "secret", os.O_PATH) == "x",
        call(w.open, "readable", os.O_WRONLY),
        call(w.open, "readable", os.O_NOATIME),
        call(w.open, "readable", os.O_TRUNC),
        call(w.truncate, "readable", 0),
        call(w.truncate, "mine", 2),
        call(w.stat, "shut/in"),
        call(w.listdir, "shut"),
        call(w.chdir, "shut"),
        call(w.mkdir, "dir/x"),
        call(w.open, "dir/x", os.O_CREAT),
        call(w.unlink, "dir/none"),
        call(w.chmod, "mine", 0o777),
        call(w.chmod, "made", 0o777),
        call(w.chown, "made", 0, -1),
        call(w.chown, "made", -1, 0),
        call(w.chown, "made", 1000, 1000),
        call(w.chown, "mine", -1, -1),
        call(w.utime, "mine", (1, 2)),
        call(w.utime, "mine"),
        call(w.utime, "readable"),
        call(w.link, "made", "second"),
        call(w.unlink, "made"),
        call(w.access, "shut", os.X_OK),
        call(w.access, "readable", os.W_OK),
        call(w.access, "readable", os.R_OK),
        call(w.mknod, "null", stat.S_IFCHR | 0o666, os.makedev(1, 3)),
        call(w.mknod, "fifo", stat.S_IFIFO | 0o666),
        call(w.setuid, 0),
        call(w.setgid, 0),
        call(w.setuid, 1000),
        w.listdir("."),
    ]


def owner_changes(w: Any) -> Any:
    w.close(w.open("f", os.O_CREAT, 0o644))
    w.chmod("f", 0o6755)
    w.chown("f", 5, 6)
    s = w.stat("f")
    out = [oct(s.st_mode), s.st_uid, s.st_gid]
    w.symlink("f", "l")
    w.chown("l", 7, -1, follow=False)
    return [*out, w.lstat("l").st_uid, w.stat("l").st_uid]


@pytest.mark.parametrize("script", [sticky, owner_changes], ids=lambda f: f.__name__)
def test_who_may_as_on_the_host(twins, script):
    if os.geteuid():
        pytest.skip("the host's turn changes its user: root")
    twins.same(script)
