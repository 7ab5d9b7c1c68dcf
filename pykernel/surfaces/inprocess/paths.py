"""os functions that take a path: each method is the one of its name for paths and descriptors of the kernel."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from errno import EEXIST, ENOENT, ENXIO, EXDEV
from fcntl import F_DUPFD_CLOEXEC
from functools import wraps
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.fs.vfs import Inode, StatFs
from pykernel.surfaces.inprocess.places import Nameless
from pykernel.syscalls import At, PathArg, Process

if TYPE_CHECKING:
    from pykernel.surfaces.inprocess.ids import Ids
    from pykernel.surfaces.inprocess.places import Places

__all__ = ["DirEntry", "PathCalls"]


def _wants_bytes(path: Any) -> bool:
    """Names come back as they were asked for."""
    return isinstance(path, bytes) or (hasattr(path, "__fspath__") and isinstance(os.fspath(path), bytes))


def _shown(path: Any) -> Any:
    """A path as an OSError has it."""
    return os.fspath(path) if hasattr(path, "__fspath__") else path


def statvfs_of(row: StatFs) -> os.statvfs_result:
    """``struct statvfs`` of a file system without blocks."""
    return os.statvfs_result((row.bsize, row.bsize, 0, 0, 0, 0, 0, 0, 0x20, row.namelen, 0))


class DirEntry:
    """``os.DirEntry`` of an emulated directory: type without a system call, stat kept."""

    def __init__(self, directory: Any, name: Any, inode: Inode, again: Callable[[bool], os.stat_result]) -> None:
        self.name = name
        self.path = name if isinstance(directory, int) else os.path.join(directory, name)
        self._inode = inode
        self._again = again
        self._stats: dict[bool, os.stat_result] = {}

    def inode(self) -> int:
        """d_ino."""
        return self._inode.ino

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """stat() or lstat(), once."""
        if follow_symlinks not in self._stats:
            self._stats[follow_symlinks] = self._again(follow_symlinks)
        return self._stats[follow_symlinks]

    def _is(self, kind: int, *, follow: bool) -> bool:
        if not follow or not self._inode.is_link:
            return stat.S_IFMT(self._inode.mode) == kind
        try:
            return stat.S_IFMT(self.stat().st_mode) == kind
        except FileNotFoundError:
            return False

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a directory."""
        return self._is(stat.S_IFDIR, follow=follow_symlinks)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a regular file."""
        return self._is(stat.S_IFREG, follow=follow_symlinks)

    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return self._inode.is_link

    def is_junction(self) -> bool:
        """Linux has none."""
        return False

    def __fspath__(self) -> Any:
        return self.path

    def __repr__(self) -> str:
        return f"<DirEntry {self.name!r}>"


class ScanDir:
    """What os.scandir() returns: it holds a descriptor of the directory until the last entry, or close()."""

    _fd = -1

    def __init__(self, process: Process, fd: int, entries: list[DirEntry]) -> None:
        self._process, self._fd = process, fd
        self._entries = iter(entries)

    def __iter__(self) -> Iterator[DirEntry]:
        return self

    def __next__(self) -> DirEntry:
        for entry in self._entries:
            return entry
        self.close()
        raise StopIteration

    def close(self) -> None:
        """No more entries. What the kernel says to it nobody hears, as with the real one."""
        self._entries = iter(())
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                self._process.close(fd)

    def __del__(self) -> None:
        if self._fd >= 0:
            try:
                warnings.warn(f"unclosed scandir iterator {self!r}", ResourceWarning, stacklevel=2, source=self)
            finally:
                self.close()

    def __enter__(self) -> ScanDir:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class PathCalls:
    """
    One method an os function. ``table()`` gives the functions to put in place of those of *module*.

    A method gets what :meth:`Places.claim` made of the first argument, then the caller's other arguments.
    """

    names = (
        "open", "stat", "lstat", "readlink", "access", "mkdir", "rmdir", "unlink", "mknod", "mkfifo", "chmod", "chown",
        "lchown", "truncate", "utime", "statvfs", "pathconf", "getxattr", "setxattr", "listxattr", "removexattr",
        "chdir",
    )  # fmt: skip

    following = frozenset(names) - {
        "lstat", "readlink", "mkdir", "rmdir", "unlink", "mknod", "mkfifo", "lchown",
    }  # fmt: skip

    def __init__(self, places: Places, ids: Ids, module: Any) -> None:
        self.places = places
        self.process = places.process
        self.ids = ids
        self.os = module
        self.real = {
            name: getattr(module, name)
            for name in (*self.names, "listdir", "scandir", "rename", "link", "symlink", "getcwd", "umask", "fchdir")
        }
        self._real_chdir = self.real["chdir"]
        self.real["chdir"] = self._chdir_outside

    def table(self) -> dict[str, Callable[..., Any]]:
        """Name to function."""
        made: dict[str, Callable[..., Any]] = {name: self._dispatch(name) for name in self.names}
        made["remove"], made["readlink"] = made["unlink"], self._readlink(made["readlink"])
        made["rename"] = made["replace"] = self.rename
        made["link"], made["symlink"] = self.link, self.symlink
        made |= {"listdir": self.listdir, "scandir": self.scandir, "fchdir": self.fchdir, "umask": self.umask}
        return made | {"getcwd": self.getcwd, "getcwdb": lambda: os.fsencode(self.getcwd())}

    def _dispatch(self, name: str) -> Callable[..., Any]:
        real, mine, claim, host = self.real[name], getattr(self, name), self.places.claim, self.places.host
        follows, behind = name in self.following, self.places.behind

        @wraps(real)
        def call(path: Any, *args: Any, dir_fd: int | None = None, **kw: Any) -> Any:
            where = claim(path, dir_fd)
            if where is None and follows and kw.get("follow_symlinks", True):
                where = behind(path)
            there = path
            try:
                if where is not None:
                    return mine(where, *args, **kw)
                there, dir_fd = host(path, dir_fd)
                if dir_fd is not None:
                    kw["dir_fd"] = dir_fd
                return real(there, *args, **kw)
            except OSError as e:
                if where is not None or there is not path:
                    e.filename = _shown(path)
                raise

        return call

    # ---- one path

    def open(self, path: PathArg, flags: int, mode: int = 0o777) -> int:
        """Close-on-exec, as PEP 446 has it. Raises ENXIO: a descriptor's link that leads to no name."""
        if isinstance(path, Nameless):
            raise err(ENXIO, "pykernel opens again by the name")
        return self.process.open(path, flags | os.O_CLOEXEC, mode)

    def stat(self, path: PathArg, *, follow_symlinks: bool = True) -> os.stat_result:
        """stat() or lstat()."""
        return self.process.stat(path) if follow_symlinks else self.process.lstat(path)

    def lstat(self, path: PathArg) -> os.stat_result:
        """lstat()."""
        return self.process.lstat(path)

    def readlink(self, path: PathArg) -> str:
        """The text."""
        return self.process.readlink(path)

    def _readlink(self, either: Callable[..., Any]) -> Callable[..., Any]:
        link_text = self.places.link_text

        @wraps(either)
        def call(path: Any, *, dir_fd: int | None = None) -> Any:
            text = link_text(path)
            if text is None:
                text = either(path, dir_fd=dir_fd)
            return os.fsencode(text) if _wants_bytes(path) else text

        return call

    def access(self, path: PathArg, mode: int, *, effective_ids: bool = False, follow_symlinks: bool = True) -> bool:
        """By the real ids unless told otherwise."""
        task = self.process.task
        before = task.cred
        if not effective_ids:
            task.cred = self.ids.real_cred
        try:
            if follow_symlinks or not stat.S_ISLNK(self.process.lstat(path).st_mode):
                self.process.access(path, mode)
        except OSError:
            return False
        finally:
            task.cred = before
        return True

    def mkdir(self, path: PathArg, mode: int = 0o777) -> None:
        """mkdir()."""
        self.process.mkdir(path, mode)

    def rmdir(self, path: PathArg) -> None:
        """rmdir()."""
        self.process.rmdir(path)

    def unlink(self, path: PathArg) -> None:
        """unlink()."""
        self.process.unlink(path)

    def mknod(self, path: PathArg, mode: int = 0o600, device: int = 0) -> None:
        """mknod()."""
        self.process.mknod(path, mode, device)

    def mkfifo(self, path: PathArg, mode: int = 0o666) -> None:
        """mkfifo()."""
        self.process.mknod(path, stat.S_IFIFO | stat.S_IMODE(mode))

    def chmod(self, path: PathArg, mode: int, *, follow_symlinks: bool = True) -> None:
        """chmod()."""
        if not follow_symlinks:
            raise NotImplementedError("chmod: follow_symlinks unavailable on this platform")
        self.process.chmod(path, mode)

    def chown(self, path: PathArg, uid: int, gid: int, *, follow_symlinks: bool = True) -> None:
        """chown() or lchown()."""
        self.process.chown(path, uid, gid, follow=follow_symlinks)

    def lchown(self, path: PathArg, uid: int, gid: int) -> None:
        """lchown()."""
        self.process.chown(path, uid, gid, follow=False)

    def truncate(self, path: PathArg, length: int) -> None:
        """truncate(), and ftruncate() of a descriptor."""
        if isinstance(path, int):
            self.process.ftruncate(path, length)
        else:
            self.process.truncate(path, length)

    def utime(
        self,
        path: PathArg,
        times: tuple[float, float] | None = None,
        *,
        ns: tuple[int, int] | None = None,
        follow_symlinks: bool = True,
    ) -> None:
        """utimensat()."""
        if times is not None and ns is not None:
            raise ValueError("utime: you may specify either 'times' or 'ns' but not both")
        if times is not None:
            ns = int(times[0] * 10**9), int(times[1] * 10**9)
        self.process.utime(path, ns, follow=follow_symlinks)

    def statvfs(self, path: PathArg) -> os.statvfs_result:
        """statfs() or fstatfs()."""
        return statvfs_of(self.process.statfs(path))

    def pathconf(self, path: PathArg, name: str | int) -> int:
        """What depends on the file system (PC_NAME_MAX), else the C library's own."""
        if name in ("PC_NAME_MAX", os.pathconf_names["PC_NAME_MAX"]):
            return self.process.statfs(path).namelen
        self.process.stat(path)
        return int(self.real["pathconf"]("/", name))

    def getxattr(self, path: PathArg, attribute: Any, *, follow_symlinks: bool = True) -> bytes:
        """getxattr() and its l and f forms."""
        return self.process.getxattr(path, os.fsdecode(attribute), follow=follow_symlinks)

    def setxattr(
        self, path: PathArg, attribute: Any, value: Any, flags: int = 0, *, follow_symlinks: bool = True
    ) -> None:
        """setxattr() and its l and f forms."""
        name = os.fsdecode(attribute)
        self.process.setxattr(path, name, bytes(value), flags, follow=follow_symlinks)

    def listxattr(self, path: PathArg, *, follow_symlinks: bool = True) -> list[str]:
        """listxattr() and its l and f forms."""
        return self.process.listxattr(path, follow=follow_symlinks)

    def removexattr(self, path: PathArg, attribute: Any, *, follow_symlinks: bool = True) -> None:
        """removexattr() and its l and f forms."""
        self.process.removexattr(path, os.fsdecode(attribute), follow=follow_symlinks)

    # ---- where we are

    def chdir(self, path: PathArg) -> None:
        """The emulated current directory; the real one, which children inherit, stays."""
        self.process.chdir(path)
        self.places.moved(inside=True)

    def _chdir_outside(self, path: Any) -> None:
        self._real_chdir(path)
        self.places.moved(inside=False)

    def fchdir(self, fd: int) -> None:
        """fchdir()."""
        if fd in self.places.files:
            self.chdir(fd)
        else:
            self.real["fchdir"](fd)
            self.places.moved(inside=False)

    def getcwd(self) -> str:
        """The emulated one while we are inside."""
        return self.process.getcwd() if self.places.cwd_inside else self.real["getcwd"]()

    def umask(self, mask: int) -> int:
        """For emulated and real files."""
        before: int = self.real["umask"](mask)
        self.process.umask = mask & 0o777
        return before

    # ---- directories

    def _entries(self, where: PathArg, path: Any) -> list[tuple[str, Inode]]:
        try:
            return self.process.scandir(where)
        except OSError as e:
            e.filename = _shown(path)
            raise

    def listdir(self, path: Any = None) -> list[Any]:
        """The names, of the argument's type."""
        where = self.places.claim("." if path is None else path)
        where = self.places.behind(path) if where is None else where
        if where is None:
            return list(self.real["listdir"](self.places.host(path)[0]))
        names = [name for name, _ in self._entries(where, path)]
        return [os.fsencode(name) for name in names] if _wants_bytes(path) else names

    def scandir(self, path: Any = None) -> Any:
        """The entries."""
        where = self.places.claim("." if path is None else path)
        where = self.places.behind(path) if where is None else where
        if where is None:
            return self.real["scandir"](self.places.host(path)[0])
        top = path if isinstance(path, int) else os.fspath("." if path is None else path)
        text = str(where) if not isinstance(where, At | int) else ""
        made = []
        fd = self._opendir(where, path)
        try:
            for name, inode in self._entries(fd, path):
                shown: Any = os.fsencode(name) if isinstance(top, bytes) else name
                place: PathArg = At(where, name) if isinstance(where, int) else f"{text.rstrip('/')}/{name}"
                made.append(DirEntry(top, shown, inode, self._stat_later(place)))
        except BaseException:
            self.process.close(fd)
            raise
        return ScanDir(self.process, fd, made)

    def _opendir(self, where: PathArg, path: Any) -> int:
        """opendir(3), or of a descriptor a duplicate."""
        try:
            if isinstance(where, int):
                return self.process.fcntl(where, F_DUPFD_CLOEXEC, 0)
            return self.process.open(where, os.O_RDONLY | os.O_NONBLOCK | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            e.filename = _shown(path)
            raise

    def _stat_later(self, place: PathArg) -> Callable[[bool], os.stat_result]:
        return lambda follow: self.process.stat(place) if follow else self.process.lstat(place)

    # ---- two paths

    def rename(self, src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        """Between the emulated kernel's files and others it is EXDEV."""
        old, new = self.places.claim(src, src_dir_fd), self.places.claim(dst, dst_dir_fd)
        if old is None and new is None:
            (src, src_dir_fd), (dst, dst_dir_fd) = self.places.host(src, src_dir_fd), self.places.host(dst, dst_dir_fd)
            self.real["rename"](src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            return
        try:
            if old is None or new is None:
                raise err(EXDEV)
            self.process.rename(old, new)
        except OSError as e:
            e.filename, e.filename2 = _shown(src), _shown(dst)
            raise

    def link(
        self,
        src: Any,
        dst: Any,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
        follow_symlinks: bool = True,
    ) -> None:
        """Between the emulated kernel's files and others it is EXDEV."""
        old, new = self.places.claim(src, src_dir_fd), self.places.claim(dst, dst_dir_fd)
        if old is None and new is None:
            (src, src_dir_fd), (dst, dst_dir_fd) = self.places.host(src, src_dir_fd), self.places.host(dst, dst_dir_fd)
            self.real["link"](src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=follow_symlinks)
            return
        try:
            if old is None or new is None:
                self._must_be(src, old, src_dir_fd, there=True)
                self._must_be(dst, new, dst_dir_fd, there=False)
                raise err(EXDEV)
            self.process.link(old, new)
        except OSError as e:
            e.filename, e.filename2 = _shown(src), _shown(dst)
            raise

    def _must_be(self, path: Any, where: PathArg | None, dir_fd: int | None, *, there: bool) -> None:
        """fs/namei.c:do_linkat(): the source is looked up, then the target must be free. Raises ENOENT, EEXIST."""
        try:
            if where is None:
                path, dir_fd = self.places.host(path, dir_fd)
                self.real["lstat"](path, dir_fd=dir_fd)
            else:
                self.process.lstat(where)
        except OSError as e:
            if there or e.errno != ENOENT:
                raise
            return
        if not there:
            raise err(EEXIST)

    def symlink(
        self,
        src: Any,
        dst: Any,
        target_is_directory: bool = False,
        *,
        dir_fd: int | None = None,
    ) -> None:
        """symlink()."""
        where = self.places.claim(dst, dir_fd)
        if where is None:
            dst, dir_fd = self.places.host(dst, dir_fd)
            self.real["symlink"](src, dst, target_is_directory, dir_fd=dir_fd)
            return
        try:
            self.process.symlink(os.fsdecode(src), where)
        except OSError as e:
            e.filename, e.filename2 = _shown(src), _shown(dst)
            raise
