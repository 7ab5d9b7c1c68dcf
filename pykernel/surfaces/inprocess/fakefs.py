"""
real_files=False: pyfakefs below the dispatcher.

pyfakefs puts its own objects in place of os, io and pathlib in every module; those get the dispatcher, too. This
project's own modules keep the real ones, and stay loaded.
"""

from __future__ import annotations

import pathlib
import posixpath
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pykernel.surfaces.inprocess.places import Places

__all__ = ["fake_files", "fake_rows"]

TESTS = ("exists", "lexists", "isdir", "isfile", "islink", "ismount", "getsize", "getmtime", "getatime", "getctime")
METHODS = (
    "stat", "lstat", "exists", "is_dir", "is_file", "is_symlink", "is_mount", "is_socket", "is_fifo",
    "is_block_device", "is_char_device", "open", "read_text", "read_bytes", "write_text", "write_bytes", "iterdir",
    "glob", "rglob", "walk", "resolve", "readlink", "chmod", "lchmod", "mkdir", "rmdir", "unlink", "touch", "rename",
    "replace", "symlink_to", "hardlink_to", "owner", "group", "samefile",
)  # fmt: skip


def _own_modules() -> dict[str, Any]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "pykernel"}


@contextmanager
def _own_modules_kept() -> Generator[None, None, None]:
    """The body changes no name of this project's modules, and forgets none of them."""
    before = {name: (module, dict(vars(module))) for name, module in _own_modules().items()}
    yield
    for name, (module, names) in before.items():
        sys.modules.setdefault(name, module)  # pyfakefs forgets what was imported since it began
        for key, value in names.items():
            if vars(module).get(key) is not value:
                setattr(module, key, value)


@contextmanager
def fake_files(around: Callable[[], AbstractContextManager[None]]) -> Generator[Any, None, None]:
    """
    pyfakefs' Patcher, which does not touch this project's modules.

    It may be paused and resumed: by pyfakefs' own pytest plugin for each report, by a program with ``fs.pause()``.
    It puts its objects in place anew then, so *around* is entered before and left behind each such change.
    """
    from pyfakefs.fake_filesystem_unittest import Patcher

    patcher = Patcher()  # the one that is active already, if there is one
    patcher.pause()
    with _own_modules_kept():
        patcher.setUp()
        patcher.resume()
    start, stop = patcher.start_patching, patcher.stop_patching

    def start_patching() -> None:
        with around(), _own_modules_kept():
            start()

    def stop_patching(temporary: bool = False) -> None:
        with around(), _own_modules_kept():
            stop(temporary)

    hooked: Any = patcher
    hooked.start_patching, hooked.stop_patching = start_patching, stop_patching
    try:
        yield patcher
    finally:
        hooked.start_patching, hooked.stop_patching = start, stop
        with _own_modules_kept():
            patcher.tearDown()


def fake_rows(places: Places, patcher: Any) -> Iterable[tuple[Any, str, Any]]:
    """What pyfakefs does without os: tests of os.path, and the methods of its Path."""
    path_module = patcher.fake_modules["os"].path
    for name in (*TESTS, "realpath", "samefile"):
        yield path_module, name, _choose(places, getattr(path_module, name), getattr(posixpath, name))
    fake_path = patcher.fake_modules["pathlib"].Path
    for name in METHODS:
        if hasattr(fake_path, name):
            yield fake_path, name, _method(places, getattr(fake_path, name), name)


def _choose(places: Places, fake: Callable[..., Any], mine: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(mine)
    def call(path: Any, *args: Any, **kw: Any) -> Any:
        if places.claim(path) is None:
            return fake(places.host(path)[0], *args, **kw)
        return mine(path, *args, **kw)

    return call


def _method(places: Places, fake: Callable[..., Any], name: str) -> Callable[..., Any]:
    @wraps(fake)
    def call(self: Any, *args: Any, **kw: Any) -> Any:
        text = str(self)
        if places.claim(text) is None:
            there = places.host(text)[0]
            return fake(self if there is text else type(self)(there), *args, **kw)
        return _back(type(self), getattr(pathlib.PosixPath(text), name)(*args, **kw))

    return call


def _back(kind: type, result: Any) -> Any:
    """Real paths as paths of the fake kind."""
    if isinstance(result, pathlib.PurePath):
        return kind(str(result))
    if isinstance(result, Generator | map):
        return (_back(kind, item) for item in result)
    return result
