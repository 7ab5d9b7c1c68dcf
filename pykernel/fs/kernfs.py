"""
kernfs: the tree under sysfs (fs/kernfs/dir.c, file.c, inode.c, symlink.c).

A node that was removed stays as an object: whoever still has it open gets ENODEV, as after kernfs_drain(). A
directory may be *lazy*: its attributes are made when somebody first looks into it.
"""

from __future__ import annotations

import itertools
import stat
from collections.abc import Callable, Iterable
from errno import EACCES, EEXIST, EINVAL, EISDIR, ENODATA, ENODEV, ENOENT, EOPNOTSUPP
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.fs.vfs import DEFAULT_POLLMASK, PAGE_SIZE, File, FsNotify, Inode, PollTable, StatFs, generic_llseek
from pykernel.uapi.linux.eventpoll import EPOLLERR, EPOLLPRI

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.sched import Thread, WaitQueue

__all__ = ["KernfsDir", "KernfsFile", "KernfsLink", "KernfsNode", "KernfsOpenFile", "KernfsRoot"]

SYSFS_MAGIC = 0x62656572
XATTR_CREATE, XATTR_REPLACE = 1, 2
MAX_NON_LFS = (1 << 31) - 1  # kernfs leaves s_maxbytes at what fs/super.c:alloc_super() sets
GOLDEN_RATIO_64 = 0x61C8864680B583EB
U64 = (1 << 64) - 1


def name_hash(name: str) -> int:
    """fs/kernfs/dir.c:kernfs_name_hash(), include/linux/stringhash.h."""
    h = 0
    for c in name.encode("latin-1", "replace"):
        h = (h + (c << 4) + (c >> 4)) * 11 & U64
    h = (h * GOLDEN_RATIO_64 & U64) >> 32 & 0x7FFFFFFF
    return min(h + 2 if h < 2 else h, 0x7FFFFFFE)


class KernfsNode(Inode):
    """``struct kernfs_node``."""

    __slots__ = ("hash", "name", "removed", "root", "xattrs")

    statfs_row = StatFs(SYSFS_MAGIC)
    dev = 22
    noexec = True
    s_maxbytes = MAX_NON_LFS

    def __init__(self, root: KernfsRoot, parent: KernfsDir | None, name: str, mode: int) -> None:
        super().__init__(root.kernel, mode, next(root.inos), parent)
        self.root = root
        self.name = name
        self.removed = False
        self.hash = 0
        self.xattrs: dict[str, bytes] | None = None

    def sort_key(self) -> tuple[int, str]:
        """Where readdir() shows it: by hash, then by name. C: ``kernfs_name_compare()``."""
        if not self.hash:
            self.hash = name_hash(self.name)
        return self.hash, self.name

    # ---- extended attributes: trusted and security are kept, user only where the file system says so

    def getxattr(self, name: str) -> bytes:
        """Raises EOPNOTSUPP: no such name space; ENODATA: not set."""
        if not name.startswith(("trusted.", "security.", "user.")):
            raise err(EOPNOTSUPP)
        try:
            return (self.xattrs or {})[name]
        except KeyError:
            raise err(ENODATA) from None

    def setxattr(self, name: str, value: bytes, flags: int) -> None:
        """Raises EOPNOTSUPP, EEXIST (XATTR_CREATE), ENODATA (XATTR_REPLACE)."""
        if not name.startswith(("trusted.", "security.")):
            raise err(EOPNOTSUPP)
        have = self.xattrs = self.xattrs or {}
        if flags & XATTR_CREATE and name in have:
            raise err(EEXIST)
        if flags & XATTR_REPLACE and name not in have:
            raise err(ENODATA)
        have[name] = value

    def removexattr(self, name: str) -> None:
        """Raises EOPNOTSUPP, ENODATA."""
        if not name.startswith(("trusted.", "security.")):
            raise err(EOPNOTSUPP)
        if (self.xattrs or {}).pop(name, None) is None:
            raise err(ENODATA)

    def listxattr(self) -> list[str]:
        """The names that were set."""
        return list(self.xattrs or ())

    def path(self) -> str:
        """The path below the mount, "/devices/..."; C: ``kernfs_path()``."""
        parts = []
        node: Inode | None = self
        while isinstance(node, KernfsNode) and not isinstance(node, KernfsRoot):
            parts.append(node.name)
            node = node.parent
        return "/" + "/".join(reversed(parts))

    def check_active(self) -> None:
        """C: ``kernfs_get_active()``. Raises ENODEV after removal."""
        if self.removed:
            raise err(ENODEV, f"{self.name} was removed")

    def remove(self) -> None:
        """Take the node and all below it out of the tree. C: ``kernfs_remove()``."""
        if self.removed:
            return
        parent = self.parent
        self._deactivate()
        if isinstance(parent, KernfsDir) and parent.children.get(self.name) is self:
            del parent.children[self.name]
            self.kernel.sub(FsNotify)("remove", parent, self.name, self)
        if self.root.active:
            self.root.drain(self)

    def call_active(self, fn: Callable[..., Any], *args: Any) -> Any:
        """
        Call *fn*, an operation of this node, with an active reference: who removes the node waits until it is over.

        C: ``kernfs_get_active()``, ``kernfs_put_active()``. Only needed where tasks can be switched inside.
        """
        root, sched = self.root, self.kernel.sched
        if self.removed:
            raise err(ENODEV, f"{self.name} was removed")
        user = (self, sched.thread)
        root.active.append(user)
        try:
            sched.point()
            return fn(*args)
        finally:
            root.active.remove(user)
            if self.removed:
                root.deactivate_waitq.wake_up()

    def _deactivate(self) -> None:
        self.removed = True


class KernfsDir(KernfsNode):
    """A directory."""

    __slots__ = ("_lazy", "children")

    def __init__(self, root: KernfsRoot, parent: KernfsDir | None, name: str, mode: int = 0o755) -> None:
        super().__init__(root, parent, name, stat.S_IFDIR | mode)
        self.children: dict[str, KernfsNode] = {}
        self._lazy: list[Callable[[], None]] = []

    def when_looked_at(self, fill: Callable[[], None]) -> None:
        """Call *fill* before the first look into this directory."""
        self._lazy.append(fill)

    def filled(self) -> dict[str, KernfsNode]:
        """The children, made if they were not."""
        if self._lazy:
            fills, self._lazy = self._lazy, []
            for fill in fills:
                fill()
        return self.children

    @property
    def nlink(self) -> int:
        """Two and one a sub-directory. C: ``parent->dir.subdirs + 2``."""
        if self.removed:
            return 2
        return 2 + sum(type(c) is KernfsDir for c in self.filled().values())

    def lookup(self, name: str) -> Inode:
        """fs/kernfs/dir.c:kernfs_iop_lookup(). Raises ENOENT."""
        node = (self.filled() if self._lazy else self.children).get(name)
        if node is None:
            raise err(ENOENT)
        return node

    def iterdir(self) -> Iterable[tuple[str, Inode]]:
        """fs/kernfs/dir.c:kernfs_fop_readdir(): in the order of the names' hashes."""
        return [(n.name, n) for n in sorted(self.filled().values(), key=KernfsNode.sort_key)]

    def open(self, flags: int) -> File:
        """Open for getdents()."""
        return KernfsDirFile(self, flags)

    def add(self, node: KernfsNode) -> KernfsNode:
        """C: ``kernfs_add_one()``. Raises EEXIST, ENOENT when this directory is gone."""
        if self.removed:
            raise err(ENOENT, f"{self.name} is gone")
        if node.name in self.children:
            raise err(EEXIST, f"cannot create duplicate filename '{self.path()}/{node.name}'")
        self.children[node.name] = node
        if not self._lazy:
            self.kernel.sub(FsNotify)("add", self, node.name, node)
        return node

    def create_dir(self, name: str, mode: int = 0o755) -> KernfsDir:
        """C: ``kernfs_create_dir_ns()``."""
        node = KernfsDir(self.root, self, name, mode)
        self.add(node)
        return node

    def create_link(self, name: str, target: KernfsNode) -> KernfsLink:
        """C: ``kernfs_create_link()``."""
        node = KernfsLink(self.root, self, name, target)
        self.add(node)
        return node

    def remove_by_name(self, name: str) -> None:
        """C: ``kernfs_remove_by_name_ns()``. Raises ENOENT."""
        node = self.filled().get(name)
        if node is None:
            raise err(ENOENT, f"kernfs: can not remove '{name}', no such name")
        node.remove()

    def rename_child(self, old: str, new: str) -> None:
        """C: ``kernfs_rename_ns()`` inside one directory. Raises EEXIST."""
        if new in self.filled():
            raise err(EEXIST)
        node = self.children.pop(old)
        self.kernel.sub(FsNotify)("remove", self, old, node)
        node.name = new
        self.add(node)

    def _deactivate(self) -> None:
        self.removed = True
        self._lazy.clear()
        gone, self.children = self.children, {}
        for name, child in gone.items():
            child._deactivate()
            self.kernel.sub(FsNotify)("remove", self, name, child)

    def create(self, name: str, mode: int, flags: int) -> Inode:
        """No create operation. Raises EACCES."""
        raise err(EACCES)


class KernfsDirFile(File):
    """An open directory."""

    __slots__ = ()

    def iterdir(self) -> Iterable[tuple[str, Inode]]:
        """The directory's entries now; none after removal."""
        return self.inode.iterdir()

    def pread(self, pos: int, count: int) -> bytes:
        """generic_read_dir(). Raises EISDIR."""
        raise err(EISDIR)

    def fsync(self) -> None:
        """Raises EINVAL: no fsync operation."""
        raise err(EINVAL)


class KernfsLink(KernfsNode):
    """A symbolic link to another node."""

    __slots__ = ("target",)

    def __init__(self, root: KernfsRoot, parent: KernfsDir, name: str, target: KernfsNode) -> None:
        super().__init__(root, parent, name, stat.S_IFLNK | 0o777)
        self.target = target

    @property
    def size(self) -> int:
        """kernfs leaves a link's size at zero."""
        return 0

    def readlink(self) -> str:
        """The relative path. fs/kernfs/symlink.c:kernfs_get_target_path(). Raises ENOENT when the target is gone."""
        # a link to a directory above names it: the two paths meet at its parent at most
        here = self.parent.path().strip("/").split("/") if self.parent is not self.root else []  # type: ignore[union-attr]
        there = self.target.path().strip("/").split("/")
        common = len(list(itertools.takewhile(lambda ab: ab[0] == ab[1], zip(here, there[:-1], strict=False))))
        return "../" * (len(here) - common) + "/".join(there[common:])

    def follow(self) -> Inode | None:
        """The target itself, while both are in the tree."""
        return None if self.target.removed or self.removed else self.target


class KernfsFile(KernfsNode):
    """A regular file; subclasses say how it opens. ``event`` counts kernfs_notify() calls."""

    __slots__ = ("_poll", "event")

    def __init__(self, root: KernfsRoot, parent: KernfsDir, name: str, mode: int) -> None:
        super().__init__(root, parent, name, stat.S_IFREG | mode)
        self.event = 1
        self._poll: WaitQueue | None = None

    @property
    def size(self) -> int:
        """A text attribute says one page."""
        return PAGE_SIZE

    @property
    def poll_queue(self) -> WaitQueue:
        """Who polls this file."""
        if self._poll is None:
            self._poll = self.kernel.waitqueue()
        return self._poll

    def notify(self) -> None:
        """C: ``kernfs_notify()``: wake pollers and tell fsnotify."""
        self.event += 1
        if self._poll:
            self._poll.wake_up()
        if self.parent:
            self.kernel.sub(FsNotify)("modify", self.parent, self.name, self)

    def _deactivate(self) -> None:
        self.removed = True
        if self._poll:
            self._poll.wake_up()  # kernfs_drain_open_files() wakes pollers of a node that goes


class KernfsOpenFile(File):
    """``struct kernfs_open_file``: poll, and the permission check that sysfs asks for on top of the VFS's."""

    __slots__ = ("event",)
    has_read = True
    has_write = True

    inode: KernfsFile

    def __init__(self, inode: KernfsFile, flags: int) -> None:
        super().__init__(inode, flags)
        self.event = 0
        inode.check_active()
        # fs/kernfs/file.c:kernfs_fop_open(), KERNFS_ROOT_EXTRA_OPEN_PERM_CHECK: root is refused too
        if self.can_write and not (inode.mode & 0o222 and self.has_write):
            raise err(EACCES)
        if self.can_read and not (inode.mode & 0o444 and self.has_read):
            raise err(EACCES)

    def write(self, data: bytes) -> int:
        """Write at the position; O_APPEND means nothing here, as kernfs never asks generic_write_checks()."""
        n = self.pwrite(self.pos, data)
        self.pos += n
        return n

    def llseek(self, offset: int, whence: int) -> int:
        """
        generic_file_llseek() with sysfs's small s_maxbytes; 6.12 asks for the node first.

        Raises EINVAL, ENXIO, ENODEV.
        """
        if self.inode.kernel.profile.kernfs_llseek_active:
            self.inode.check_active()
        new = generic_llseek(self, offset, whence, self.llseek_size())
        if new > MAX_NON_LFS:
            raise err(EINVAL)
        self.pos = new
        return new

    def llseek_size(self) -> int:
        """Where SEEK_END counts from."""
        return self.inode.size

    def fsync(self) -> None:
        """noop_fsync()."""

    def poll(self, pt: PollTable) -> int:
        """fs/kernfs/file.c:kernfs_fop_poll(): always ready; EPOLLPRI|EPOLLERR when it changed since the last read."""
        node = self.inode
        pt.poll_wait(node.poll_queue)
        if node.removed or self.event != node.event:
            return DEFAULT_POLLMASK | EPOLLERR | EPOLLPRI
        return DEFAULT_POLLMASK


class KernfsRoot(KernfsDir):
    """``struct kernfs_root``: the tree's root directory."""

    __slots__ = ("active", "deactivate_waitq", "inos")

    def __init__(self, kernel: Kernel, parent: Inode | None) -> None:
        self.kernel = kernel
        self.inos = itertools.count(1)
        self.active: list[tuple[KernfsNode, Thread | None]] = []
        self.deactivate_waitq = kernel.waitqueue()
        self.deactivate_waitq.name = "active references of a sysfs file"
        super().__init__(self, None, "", 0o555)
        self.parent = parent
        self.root = self

    def drain(self, removed: KernfsNode) -> None:
        """
        Wait until nobody else is in an operation of *removed* or of what was below it. C: ``kernfs_drain()``.

        Who removes the file that it is writing to does not wait for itself: kernfs_break_active_protection().
        """
        me = self.kernel.sched.thread
        self.deactivate_waitq.wait_event(
            lambda: not any(user is not me and _is_below(node, removed) for node, user in self.active)
        )


def _is_below(node: Inode | None, top: KernfsNode) -> bool:
    while isinstance(node, KernfsNode) and node is not top:
        node = node.parent
    return node is top
