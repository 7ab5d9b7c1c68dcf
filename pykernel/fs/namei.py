"""Path names to inodes (fs/namei.c:link_path_walk())."""

from __future__ import annotations

from errno import ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR
from typing import TYPE_CHECKING, NamedTuple

from pykernel.errors import err
from pykernel.fs.vfs import MAY_EXEC, Inode, permission

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["MAXSYMLINKS", "PATH_MAX", "Last", "d_path", "last", "walk"]

PATH_MAX = 4096
MAXSYMLINKS = 40
DOTS = frozenset((".", ".."))
DCACHE_SIZE = 4096


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
    cred = kernel.current.cred
    superuser = cred.uid == 0
    if superuser and follow:
        found = kernel.dcache.get(path)
        if found is not None:
            return found
    _check(path)
    root = kernel.root
    node = root if path[0] == "/" else cwd or root
    asked, todo = path, path.split("/")
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
        if name in DOTS:
            if not node.is_dir:
                raise err(ENOTDIR)
            node = node if name == "." else node.parent or root
            continue
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
            if not todo and text[-1] == "/":
                path = text  # a link to "file/" is as wrong as "file/"
            todo.extend(reversed(text.split("/")))
            node = root if text[0] == "/" else here
    if path[-1] == "/" and not node.is_dir:
        raise err(ENOTDIR)
    if superuser and follow and asked.startswith("/sys/"):
        if len(kernel.dcache) >= DCACHE_SIZE:
            kernel.dcache.clear()
        kernel.dcache[asked] = node
    return node


class Last(NamedTuple):
    """The last name of a path and its directory; *name* is "" for "/", and *slash* says that one follows the name."""

    where: Inode
    name: str
    slash: bool

    @property
    def normal(self) -> bool:
        """LAST_NORM: neither "/", "." nor ".."."""
        return self.name not in ("", ".", "..")


def last(kernel: Kernel, path: str, cwd: Inode | None = None) -> Last:
    """
    Split *path*. fs/namei.c:filename_parentat().

    Raises:
        ENOENT, ENOTDIR, EACCES: as :func:`walk`.
    """
    _check(path)
    stem = path.rstrip("/")
    head, _, name = stem.rpartition("/")
    where = walk(kernel, head + "/" if head or path[0] == "/" else ".", cwd)
    if not where.is_dir:
        raise err(ENOTDIR)
    permission(where, MAY_EXEC, kernel.current.cred)
    return Last(where, name, stem != path)


def d_path(kernel: Kernel, inode: Inode) -> str:
    """The path of *inode* from "/", with " (deleted)" behind it when it has no name. C: ``d_path()``."""
    parts: list[str] = []
    gone, node = "", inode
    while node is not kernel.root:
        above = node.parent
        name = None if above is None else above.name_of(node)
        if name is None:
            gone = " (deleted)"
            name = getattr(node, "name", "")
        parts.append(name)
        if above is None:
            break
        node = above
    return "/" + "/".join(reversed(parts)) + gone
