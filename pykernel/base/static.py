"""
Static kobjects: directories of sysfs whose files are texts that were recorded elsewhere, without a driver behind them.

:class:`Dir` and :class:`Attr` describe a tree; :class:`StaticTree` grafts it into the sysfs of a kernel. Where the
emulated kernel has a directory of that name the two are merged, and a file or link of its own is kept.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from errno import EIO
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from pykernel.base.uevent import Uevents, kobject_synth_uevent
from pykernel.errors import err
from pykernel.fs.kernfs import KernfsDir, KernfsFile, KernfsNode
from pykernel.fs.sysfs import Attribute, BinAttr, BinFile, Kobject, SysfsAttr, raw
from pykernel.fs.vfs import PAGE_SIZE, File
from pykernel.log import WARNING

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["Attr", "DevNode", "Dir", "Static", "StaticTree"]


@dataclass(slots=True)
class Attr:
    """
    One file: what reading it gives.

    Attributes:
        data: the content; empty when nothing is known of it.
        binary: it is a ``struct bin_attribute``, read and written at an offset.
        size: st_size.
        errno: what reading gave instead; 0 for success.
        left_out: the content was not recorded, so reading it is EIO.
    """

    data: bytes = b""
    mode: int = 0o444
    binary: bool = False
    size: int = PAGE_SIZE
    errno: int = 0
    left_out: bool = False
    uid: int = 0
    gid: int = 0


@dataclass(slots=True)
class DevNode:
    """What /dev/NAME has that devtmpfs would not give it; *data*: what reading the device gives."""

    mode: int | None = None
    uid: int = 0
    gid: int = 0
    links: tuple[str, ...] = ()
    data: bytes | None = None


@dataclass(slots=True)
class Dir:
    """A directory; *line* is where a file describes it, 0 without."""

    files: dict[str, Attr] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    dirs: dict[str, Dir] = field(default_factory=dict)
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    line: int = 0
    node: DevNode | None = None

    def at(self, path: str) -> Dir:
        """The directory at *path* below this one ("a/b"), made if it is not there."""
        where = self
        for part in path.strip("/").split("/"):
            if part:
                where = where.dirs.get(part) or where.dirs.setdefault(part, Dir())
        return where

    def find(self, path: str) -> Dir | None:
        """The directory at *path* below this one, None without."""
        where: Dir | None = self
        for part in path.strip("/").split("/"):
            where = where.dirs.get(part) if where is not None and part else where
        return where

    def walk(self, path: str = "") -> Iterator[tuple[str, Dir]]:
        """This directory and all below with their paths, sorted, parents first."""
        todo = [(path, self)]  # by a list: a tree may be deeper than Python's stack
        while todo:
            path, where = todo.pop()
            yield path, where
            todo += [(f"{path}/{name}", where.dirs[name]) for name in sorted(where.dirs, reverse=True)]

    @property
    def properties(self) -> dict[str, str]:
        """The variables that ``uevent`` shows, one character a byte."""
        text = self.files["uevent"].data.decode("latin-1") if "uevent" in self.files else ""
        return {key: value for key, has, value in (line.partition("=") for line in text.split("\n")) if has}

    @property
    def subsystem(self) -> str:
        """The last name of the link ``subsystem``; empty without."""
        return self.links.get("subsystem", "").rpartition("/")[2]


class StaticLink(KernfsNode):
    """A symbolic link by its text; it may lead nowhere."""

    __slots__ = ("text",)

    def __init__(self, parent: KernfsDir, name: str, text: str) -> None:
        super().__init__(parent.root, parent, name, stat.S_IFLNK | 0o777)
        self.text = text

    def readlink(self) -> str:
        """The text."""
        return self.text


class Static(Kobject):
    """The kobject of one recorded directory: its files show what was recorded, or what was written since."""

    def __init__(self, tree: StaticTree, spec: Dir, where: KernfsDir) -> None:
        super().__init__(tree.kernel, where.name)
        self.sd = where
        self.tree = tree
        self.spec = spec
        self.written: dict[str, bytes] = {}

    def file(self, name: str) -> KernfsFile:
        """The node of the file *name*."""
        attr = self.spec.files[name]
        node: KernfsFile
        if attr.binary:
            how = BinAttr(name, attr.mode, attr.size, read="read_bin", write="write_bin")
            node = BinFile(self.dir, self, how)
        else:
            how_text = Attribute(name, partial(Static.show, name=name), partial(Static.store, name=name), attr.mode)
            node = SysfsAttr(self.dir, self, how_text)
        node.uid, node.gid = attr.uid, attr.gid
        return node

    def content(self, name: str) -> bytes:
        """What reading *name* gives. Raises the recorded errno; EIO: the content was left out."""
        attr = self.spec.files[name]
        if name in self.written:
            return self.written[name]
        if attr.left_out:
            raise err(EIO, f"{name}: its content was left out of the recording")
        if attr.errno:
            raise err(attr.errno, f"{name}: reading it gave this when it was recorded")
        return attr.data

    def show(self, name: str) -> bytes:
        """A text attribute's show()."""
        return self.content(name)

    def store(self, buf: str, name: str) -> None:
        """
        A text attribute's store(): a uevent is sent, all else is kept or refused as the machine says.

        Raises EINVAL: no uevent's action; and the errno of the machine.
        """
        if name == "uevent":
            kobject_synth_uevent(self, buf, self.send_uevent)
            return
        self.tree.check_write(self, name)
        if self.spec.files[name].mode & 0o444:
            self.written[name] = raw(buf).encode("latin-1")

    @staticmethod
    def name_of(file: File) -> str:
        """The name of an open file."""
        assert isinstance(file.inode, KernfsFile)
        return file.inode.name

    def read_bin(self, file: File, off: int, count: int) -> bytes:
        """A binary attribute's read()."""
        return self.content(self.name_of(file))[off : off + count]

    def write_bin(self, file: File, off: int, data: bytes) -> int:
        """A binary attribute's write(). Raises the errno of the machine."""
        name = self.name_of(file)
        self.tree.check_write(self, name)
        have = bytearray(self.written.get(name, self.spec.files[name].data))
        have.extend(bytes(max(0, off - len(have))))
        have[off : off + len(data)] = data
        self.written[name] = bytes(have)
        return len(data)

    def send_uevent(self, action: str, extra: dict[str, str]) -> None:
        """
        C: ``kobject_uevent_env()`` with the recorded variables.

        Devices without bus and class are filtered out (drivers/base/core.c:dev_uevent_filter()); buses, drivers and
        modules have the name of their kset as SUBSYSTEM.
        """
        path = self.path()
        subsystem = self.spec.subsystem
        if not subsystem and not path.startswith("/devices/"):
            subsystem = path.split("/")[-2]
        if subsystem:
            # a dump has SUBSYSTEM among the variables of uevent, which the kernel never shows there
            env = {"SUBSYSTEM": subsystem, **extra} | self.spec.properties
            self.kernel.sub(Uevents).send(self, action, env)


Make: TypeAlias = "Callable[[StaticTree, Dir, KernfsDir], Static]"


class StaticTree:
    """
    Recorded directories in the sysfs of one kernel.

    Args:
        writes: the errno of a write to a recorded file; 0 keeps what was written.
        source: the file that describes them, for messages.
        make: makes the kobject of a directory.
    """

    def __init__(self, kernel: Kernel, writes: int = EIO, source: str = "", make: Make = Static) -> None:
        self.kernel = kernel
        self.writes = writes
        self.source = source
        self.make = make

    def check_write(self, kobj: Static, name: str) -> None:
        """Raises the errno of writes: there is no driver that takes the text (drivers/base/core.c:dev_attr_store())."""
        if self.writes:
            if self.kernel.trace:
                self.kernel.trace("unsupported", what="a write to a recorded file", path=f"/sys{kobj.path()}/{name}")
            raise err(self.writes, f"{name} is a recorded file: there is no driver to take this")

    def graft(self, where: KernfsDir, spec: Dir) -> None:
        """Put what *spec* describes into *where*; new directories are filled when somebody looks into them."""
        have = where.filled()
        for name, sub in spec.dirs.items():
            old = have.get(name)
            if old is None:
                made = where.create_dir(name, sub.mode)
                made.uid, made.gid = sub.uid, sub.gid
                made.when_looked_at(partial(self.graft, made, sub))
            elif type(old) is KernfsDir:
                self.graft(old, sub)
            else:
                self._kept(where, [name], sub.line or spec.line)
        kobj = self.make(self, spec, where)
        own = [name for name in spec.files if name in have]
        for name in spec.files:
            if name not in have:
                where.add(kobj.file(name))
        for name, text in spec.links.items():
            old = have.get(name)
            if old is None:
                where.add(StaticLink(where, name, text))
            elif not old.is_link or old.readlink() != text:
                own.append(name)
        if own:
            self._kept(where, own, spec.line)

    def _kept(self, where: KernfsDir, names: list[str], line: int) -> None:
        """One message a directory: a recording of a machine has much that the emulated one has, too."""
        at = f"{self.source}:{line}" if line else self.source
        path = f"/sys{where.path()}".rstrip("/")
        what = f"{path}/{names[0]}" if len(names) == 1 else f"{path}: {', '.join(names)}"
        self.kernel.log.printk(WARNING, f"{at}: {what}: the emulated machine's own is kept")
