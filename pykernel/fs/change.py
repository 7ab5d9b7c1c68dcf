"""The calls that change directories, with Linux's order of checks (fs/namei.c:do_mkdirat(), do_renameat2(), ...)."""

from __future__ import annotations

import os
import stat
from errno import EBUSY, EEXIST, EINVAL, EISDIR, ELOOP, ENOENT, ENOTDIR, ENOTEMPTY, EPERM, EXDEV
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.namei import MAXSYMLINKS, Last, last, walk
from pykernel.fs.vfs import MAY_EXEC, MAY_READ, MAY_WRITE, Inode, permission
from pykernel.task import CAP_FOWNER, CAP_MKNOD

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["link", "mkdir", "mknod", "open_create", "rename", "rmdir", "symlink", "unlink"]

Start = tuple[str, Inode]
"""A path's text, and the directory where it starts when it does not start with "/"."""


def _find(at: Last) -> Inode | None:
    try:
        return at.where.lookup(at.name)
    except OSError as e:
        if e.errno != ENOENT or not at.where.negative:
            raise
        return None


def _create(kernel: Kernel, path: Start, *, want_dir: bool = False) -> Last:
    """fs/namei.c:filename_create(): where a new name goes. Raises EEXIST, ENOENT."""
    at = last(kernel, *path)
    if not at.normal or _find(at) is not None:
        raise err(EEXIST)
    if at.slash and not want_dir:
        raise err(ENOENT)
    return at


def _may_create(kernel: Kernel, where: Inode) -> None:
    if where.is_dead:
        raise err(ENOENT)
    permission(where, MAY_WRITE | MAY_EXEC, kernel.current.cred)


def _may_delete(kernel: Kernel, where: Inode, victim: Inode, *, is_dir: bool) -> None:
    """fs/namei.c:may_delete(). Raises EACCES, EPERM (sticky), ENOTDIR, EISDIR, EBUSY (a mount point)."""
    cred = kernel.current.cred
    permission(where, MAY_WRITE | MAY_EXEC, cred)
    mine = cred.uid in (victim.uid, where.uid) or cred.capable(CAP_FOWNER)
    if where.mode & stat.S_ISVTX and not mine:
        raise err(EPERM)
    if victim.is_dir != is_dir:
        raise err(ENOTDIR if is_dir else EISDIR)
    if victim.dev != where.dev:
        raise err(EBUSY)


def mkdir(kernel: Kernel, path: Start, mode: int) -> None:
    """C: ``int do_mkdirat(int, struct filename *, umode_t)``; *mode* without the umask's bits."""
    at = _create(kernel, path, want_dir=True)
    _may_create(kernel, at.where)
    at.where.mkdir(at.name, mode & 0o1777)


def mknod(kernel: Kernel, path: Start, mode: int, rdev: int) -> None:
    """C: ``int do_mknodat(int, struct filename *, umode_t, unsigned)``. Raises EPERM, EINVAL (no such type)."""
    kind = stat.S_IFMT(mode) or stat.S_IFREG
    device = kind in (stat.S_IFCHR, stat.S_IFBLK)
    if kind == stat.S_IFDIR:
        raise err(EPERM)
    if not device and kind not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK):
        raise err(EINVAL)
    at = _create(kernel, path)
    _may_create(kernel, at.where)
    if device and not kernel.current.cred.capable(CAP_MKNOD):
        raise err(EPERM)
    if kind == stat.S_IFREG:
        at.where.create(at.name, mode & 0o7777, 0)
    else:
        at.where.mknod(at.name, kind | mode & 0o7777, rdev)


def symlink(kernel: Kernel, target: str, path: Start) -> None:
    """C: ``int do_symlinkat(struct filename *, int, struct filename *)``. Raises ENOENT: an empty *target*."""
    if not target:
        raise err(ENOENT)
    at = _create(kernel, path)
    _may_create(kernel, at.where)
    at.where.symlink(at.name, target)


def _may_link(kernel: Kernel, old: Inode) -> None:
    """fs/namei.c:may_linkat(), as fs.protected_hardlinks=1 has it. Raises EPERM."""
    cred = kernel.current.cred
    if cred.uid == old.uid or cred.capable(CAP_FOWNER):
        return
    if not stat.S_ISREG(old.mode) or old.mode & stat.S_ISUID or old.mode & 0o2010 == 0o2010:
        raise err(EPERM)
    try:
        permission(old, MAY_READ | MAY_WRITE, cred)
    except OSError as e:
        raise err(EPERM) from e


def link(kernel: Kernel, old: Inode, path: Start) -> None:
    """C: ``int do_linkat(...)``. Raises EXDEV, EPERM (a directory)."""
    at = _create(kernel, path)
    if old.dev != at.where.dev:
        raise err(EXDEV)
    _may_link(kernel, old)
    _may_create(kernel, at.where)
    if old.is_dir:
        raise err(EPERM)
    at.where.link(old, at.name)


def unlink(kernel: Kernel, path: Start) -> None:
    """C: ``int do_unlinkat(int, struct filename *)``. Raises EISDIR, ENOTDIR."""
    at = last(kernel, *path)
    if not at.normal:
        raise err(EISDIR)
    victim = at.where.lookup(at.name)
    if at.slash:
        raise err(EISDIR if victim.is_dir else ENOTDIR)
    _may_delete(kernel, at.where, victim, is_dir=False)
    at.where.unlink(at.name)


def rmdir(kernel: Kernel, path: Start) -> None:
    """C: ``int do_rmdir(int, struct filename *)``. Raises ENOTEMPTY, EINVAL and EBUSY for "..", "." and "/"."""
    at = last(kernel, *path)
    if not at.normal:
        raise err({"..": ENOTEMPTY, ".": EINVAL, "": EBUSY}[at.name])
    _may_delete(kernel, at.where, at.where.lookup(at.name), is_dir=True)
    at.where.rmdir(at.name)


def _is_below(node: Inode, top: Inode) -> bool:
    """*node* is *top* or below it. C: ``d_ancestor()``."""
    here: Inode | None = node
    while here is not None and here is not top:
        here = here.parent if here.parent is not here else None
    return here is not None


def rename(kernel: Kernel, old: Start, new: Start) -> None:
    """C: ``int do_renameat2(int, struct filename *, int, struct filename *, unsigned)``, vfs_rename()."""
    a, b = last(kernel, *old), last(kernel, *new)
    if a.where.dev != b.where.dev:
        raise err(EXDEV)
    if not a.normal or not b.normal:
        raise err(EBUSY)
    node = a.where.lookup(a.name)
    over = _find(b)
    if not node.is_dir and (a.slash or b.slash):
        raise err(ENOTDIR)
    if a.where is not b.where:
        if _is_below(b.where, node):
            raise err(EINVAL)
        if over is not None and _is_below(a.where, over):
            raise err(ENOTEMPTY)
    if over is node:
        return
    _may_delete(kernel, a.where, node, is_dir=node.is_dir)
    if over is None:
        _may_create(kernel, b.where)
    else:
        _may_delete(kernel, b.where, over, is_dir=node.is_dir)
    if node.is_dir and a.where is not b.where:
        permission(node, MAY_WRITE, kernel.current.cred)
    a.where.rename(a.name, b.where, b.name)


def open_create(kernel: Kernel, path: Start, flags: int, mode: int) -> tuple[Inode, bool]:
    """
    O_CREAT: the inode, and whether it is new. fs/namei.c:open_last_lookups(), do_open().

    Raises:
        EEXIST: O_EXCL. EISDIR: a directory, or a name that ends in a slash. EACCES, ELOOP.
    """
    for _ in range(MAXSYMLINKS):
        at = last(kernel, *path)
        if at.normal and at.slash:
            raise err(EISDIR)
        found = _find(at) if at.normal else walk(kernel, *path)
        if found is None:
            _may_create(kernel, at.where)
            return at.where.create(at.name, mode & 0o7777, flags), True
        if not found.is_link or flags & (os.O_NOFOLLOW | os.O_EXCL):
            break
        target = found.follow()
        if target is not None:
            found = target
            break
        path = found.readlink(), at.where
    else:
        raise err(ELOOP)
    if flags & os.O_EXCL:
        raise err(EEXIST)
    if found.is_dir:
        raise err(EISDIR)
    return found, False
