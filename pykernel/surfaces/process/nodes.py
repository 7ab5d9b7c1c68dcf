"""
What the host's kernel knows about our inodes: node ids, look-up counts and attributes.

A node id is never used twice, so its generation is always 0. The host caches names and attributes for
:data:`ENTRY_TTL` and :data:`ATTR_TTL`; negative answers are never cached. Names are *not* invalidated with
FUSE_NOTIFY_INVAL_ENTRY: that takes the directory's lock in the host, which a client may hold while it waits for our
answer, and K has one thread. Instead a removed node becomes *stale*: its attributes are invalidated (which takes no
lock), and whatever a path walk asks of it answers ESTALE. The host's VFS then walks the path again and looks every
name up afresh (``fs/namei.c``, LOOKUP_REVAL): the client sees ENOENT or the node that has the name now. After that only
open descriptors reach the node, and it answers for itself. ``flush.py`` sees to it that this comes soon.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from pykernel.fs.chardev import MAJOR, MINOR
from pykernel.fs.ramfs import RamFile
from pykernel.fs.vfs import PAGE_SIZE
from pykernel.surfaces.process.fuse_abi import ATTR, ATTR_OUT, ENTRY_OUT, ROOT_ID

if TYPE_CHECKING:
    from pykernel.fs.vfs import Inode

__all__ = ["ATTR_TTL", "ENTRY_TTL", "Node", "NodeTable"]

ENTRY_TTL = 3600  # seconds
ATTR_TTL = 1
_IFMT = 0o170000
_INO_SHIFT = 48  # one mount serves several file systems: keep their inode numbers apart
_SYSFS_DEV = 22


def is_device(inode: Inode) -> bool:
    """A device node, which has two faces for the host, see :class:`Node`."""
    return inode.mode & _IFMT in (stat.S_IFCHR, stat.S_IFBLK)


def host_mode(mode: int) -> int:
    """st_mode of what the host may open: it would open a device node in its own drivers, so that is a regular file."""
    return mode & 0o7777 | stat.S_IFREG if mode & _IFMT in (stat.S_IFCHR, stat.S_IFBLK) else mode


def host_ino(inode: Inode) -> int:
    """st_ino, unique over all file systems that we serve; sysfs keeps its own numbers."""
    return inode.ino if inode.dev == _SYSFS_DEV else inode.dev << _INO_SHIFT | inode.ino


def host_size(inode: Inode) -> int:
    """
    st_size. A file of size 0 that has text all the same (/proc, devices) says one page.

    The host's splice asks nobody beyond st_size, and ``sendfile()``, thus ``busybox cat``, would find such a file
    empty.
    """
    size = inode.size
    if size or host_mode(inode.mode) & _IFMT != stat.S_IFREG or isinstance(inode, RamFile):
        return size
    return PAGE_SIZE


def new_encode_dev(dev: int) -> int:
    """A device number in 32 bits, as FUSE has it. include/linux/kdev_t.h:new_encode_dev()."""
    major, minor = MAJOR(dev), MINOR(dev)
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def _attr_ttl(node: Node) -> int:
    """The next look at a stale node must reach us."""
    return 0 if node.stale else ATTR_TTL


class Node:
    """
    One inode that the host knows by number.

    A device node is two of them: a regular file for all who use it, and *special*, the device that it is, for those who
    only look at it. No name of either is kept, so every path walk asks us which of the two it is to find.
    """

    __slots__ = ("id", "inode", "nlookup", "special", "stale", "where")

    def __init__(self, id: int, inode: Inode, *, special: bool = False) -> None:
        self.id = id
        self.inode = inode
        self.special = special
        self.nlookup = 0
        self.stale = False
        self.where: tuple[int, str] | None = None


class NodeTable:
    """Node ids. *ids* maps the kernel's uid and gid to what the host can show in the clients' user namespace."""

    def __init__(self, root: Inode, only_id: tuple[int, int] | None = None) -> None:
        self.only_id = only_id
        node = Node(ROOT_ID, root)
        node.nlookup = 1
        self.by_id: dict[int, Node] = {ROOT_ID: node}
        self.by_inode: dict[Inode, Node] = {root: node}
        self.specials: dict[Inode, Node] = {}
        self.stale: dict[tuple[int, str], Node] = {}
        self._last = ROOT_ID

    def enter(self, inode: Inode, *, settle: bool = True, special: bool = False) -> bytes:
        """``fuse_entry_out`` for *inode*; the host now holds one look-up more. It has a name again if *settle*."""
        nodes = self.specials if special else self.by_inode
        node = nodes.get(inode)
        if node is None:
            self._last += 1
            node = Node(self._last, inode, special=special)
            self.by_id[node.id] = node
            nodes[inode] = node
        node.nlookup += 1
        if settle:
            self.settle(node)
        ttl = 0 if is_device(inode) else ENTRY_TTL
        return ENTRY_OUT.pack(node.id, 0, ttl, _attr_ttl(node), 0, 0) + self.attr(node)

    def removed(self, parent: Inode, name: str, inode: Inode) -> Node | None:
        """*inode* lost its name; its node, or None when the host does not know it."""
        node, where = self.by_inode.get(inode), self.by_inode.get(parent)
        if node is not None and where is not None:
            node.stale = True
            node.where = (where.id, name)
            self.stale[node.where] = node
        return node

    def settled(self, inode: Inode) -> None:
        """The host took or moved the name itself."""
        node = self.by_inode.get(inode)
        if node is not None:
            self.settle(node)

    def settle(self, node: Node) -> None:
        """The host has no old name for *node* any more."""
        if node.where is not None:
            node.stale = False
            if self.stale.get(node.where) is node:
                del self.stale[node.where]
            node.where = None

    def forget(self, nodeid: int, count: int) -> None:
        """The host dropped *count* look-ups."""
        node = self.by_id.get(nodeid)
        if node is None:
            return
        node.nlookup -= count
        if node.nlookup <= 0 and nodeid != ROOT_ID:
            self.settle(node)
            del self.by_id[nodeid]
            del (self.specials if node.special else self.by_inode)[node.inode]

    def attr(self, node: Node) -> bytes:
        """``fuse_attr``."""
        inode = node.inode
        (at, an), (mt, mn), (ct, cn) = (divmod(t, 1_000_000_000) for t in inode.times_ns)
        uid, gid = self.only_id or (inode.uid, inode.gid)
        mode, size, rdev = host_mode(inode.mode), host_size(inode), 0
        if node.special:
            mode, size, rdev = inode.mode, inode.size, new_encode_dev(inode.rdev)
        return ATTR.pack(
            host_ino(inode), size, inode.blocks, at, mt, ct, an, mn, cn,
            mode, inode.nlink, uid, gid, rdev, inode.blksize, 0,
        )  # fmt: skip

    def attr_out(self, node: Node) -> bytes:
        """``fuse_attr_out``."""
        return ATTR_OUT.pack(_attr_ttl(node), 0, 0) + self.attr(node)
