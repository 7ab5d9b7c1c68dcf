"""Path names to inodes (fs/namei.c:link_path_walk())."""

from __future__ import annotations

from errno import ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.vfs import MAY_EXEC, Inode, permission

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["parent", "walk"]

NAME_MAX = 255
PATH_MAX = 4096
MAXSYMLINKS = 40


def _check(path: str) -> None:
    if not path:
        raise err(ENOENT)
    if len(path) >= PATH_MAX:
        raise err(ENAMETOOLONG)


def walk(kernel: Kernel, path: str, cwd: Inode | None = None, *, follow: bool = True) -> Inode:
    """
    The inode that *path* names for the current task; *follow* a link in the last place.

    Raises:
        ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG, EACCES.
    """
    _check(path)
    root = kernel.root
    node = root if path[0] == "/" else cwd or root
    cred = kernel.current.cred
    superuser = cred.uid == 0
    todo = path.split("/")
    todo.reverse()
    links = 0
    while todo:
        name = todo.pop()
        if not name:
            continue
        if not superuser:
            if not node.is_dir:
                raise err(ENOTDIR)
            permission(node, MAY_EXEC, cred)
        if name == ".":
            if not node.is_dir:
                raise err(ENOTDIR)
            continue
        if name == "..":
            if not node.is_dir:
                raise err(ENOTDIR)
            node = node.parent or root
            continue
        if len(name) > NAME_MAX:
            raise err(ENAMETOOLONG)
        here, node = node, node.lookup(name)
        if node.mode & 0o170000 == 0o120000 and (follow or todo):
            links += 1
            if links > MAXSYMLINKS:
                raise err(ELOOP)
            target = node.follow()
            if target is not None:
                node = target
                continue
            text = node.readlink()
            if not text:
                raise err(ENOENT)
            todo.extend(reversed(text.split("/")))
            node = root if text[0] == "/" else here
    if path[-1] == "/" and not node.is_dir:
        raise err(ENOTDIR)
    return node


def parent(kernel: Kernel, path: str, cwd: Inode | None = None) -> tuple[Inode, str]:
    """
    The directory that holds *path*'s last name, and that name.

    Raises:
        ENOENT, ENOTDIR, EACCES: as :func:`walk`.
    """
    _check(path)
    head, _, name = path.rstrip("/").rpartition("/")
    where = walk(kernel, head + "/" if head or path.startswith("/") else ".", cwd)
    if not where.is_dir:
        raise err(ENOTDIR)
    if len(name) > NAME_MAX:
        raise err(ENAMETOOLONG)
    if kernel.current.cred.uid:
        permission(where, MAY_EXEC, kernel.current.cred)
    return where, name
