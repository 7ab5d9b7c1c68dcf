"""
sysfs: kobjects as directories, their attributes as files (fs/sysfs/dir.c, file.c, group.c, symlink.c; lib/kobject.c).

An attribute is a name in an :class:`AttrGroup` plus methods ``<name>_show`` and ``<name>_store`` of the class; which
exist says the mode (0444, 0200, 0644) unless the group gives one. The names stand in the order of the C array. Text
is one character a byte. A store gets the text up to its first NUL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from errno import EEXIST, EFBIG, EINVAL, EIO, ENODEV
from typing import TYPE_CHECKING, Any, ClassVar

from pykernel.errors import err, is_bug, returned
from pykernel.fs.kernfs import KernfsDir, KernfsFile, KernfsNode, KernfsOpenFile, KernfsRoot
from pykernel.fs.vfs import PAGE_SIZE, File
from pykernel.log import ERR

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["AttrGroup", "Attribute", "BinAttr", "BinFile", "CString", "Kobject", "Kset", "SysFs", "raw", "sysfs_emit"]


class CString(str):
    """Text that was cut at its first NUL; ``raw`` is all that was written."""

    raw: str


def raw(buf: str) -> str:
    """All that was written, NULs included, where a store function looks at the count and not at the string."""
    return buf.raw if isinstance(buf, CString) else buf


def sysfs_emit(text: str) -> str:
    """C: ``int sysfs_emit(char *buf, const char *fmt, ...)``: at most a page."""
    return text[: PAGE_SIZE - 1]


@dataclass(frozen=True, slots=True)
class Attribute:
    """``struct device_attribute``: unbound show and store functions and a mode."""

    name: str
    show: Callable[[Any], str | bytes] | None
    store: Callable[[Any, str], int | None] | None
    mode: int


class AttrGroup:
    """``struct attribute_group``: the files of one directory, in order; *name* makes it a sub-directory."""

    __slots__ = ("modes", "name", "names")

    def __init__(self, *names: str, name: str = "", modes: dict[str, int] | None = None) -> None:
        self.names = names
        self.name = name
        self.modes = modes or {}


@dataclass(frozen=True, slots=True)
class BinAttr:
    """
    ``struct bin_attribute``: *read*, *write* and *mmap* name methods of the kobject.

    read(file, off, count) -> bytes, write(file, off, data) -> int, mmap(vma). *size* 0 means no limit; a callable
    is asked at creation.
    """

    name: str
    mode: int
    size: int | Callable[[Any], int] = 0
    read: str = ""
    write: str = ""
    mmap: str = ""


def _groups(cls: type) -> tuple[AttrGroup, ...]:
    declared = cls.__dict__.get("attrs", ())
    return (declared,) if isinstance(declared, AttrGroup) else tuple(declared)


class Kobject:
    """``struct kobject`` with its ktype: a directory in sysfs that counts its references."""

    attrs: ClassVar[AttrGroup | tuple[AttrGroup, ...]] = ()
    bin_attrs: ClassVar[tuple[BinAttr, ...]] = ()
    _tables: ClassVar[dict[str, tuple[Attribute, ...]]] = {}
    _bins: ClassVar[tuple[BinAttr, ...]] = ()

    def __init_subclass__(cls, **kw: Any) -> None:
        super().__init_subclass__(**kw)
        groups = _groups(cls)
        named = [n for g in groups for n in g.names]
        inherited = {a.name for table in cls._tables.values() for a in table}
        own = {
            n.rpartition("_")[0]
            for n, v in vars(cls).items()
            if not n.startswith("_") and n.endswith(("_show", "_store")) and callable(v)
        }
        unlisted = own - set(named) - inherited
        missing = [n for n in named if not hasattr(cls, n + "_show") and not hasattr(cls, n + "_store")]
        if unlisted or missing or len(set(named)) != len(named):
            raise TypeError(f"{cls.__name__}: attrs and methods differ: {sorted(unlisted) + missing}")
        tables = {k: tuple(_attribute(cls, a.name, {a.name: a.mode}) for a in v) for k, v in cls._tables.items()}
        for g in groups:
            tables[g.name] = tables.get(g.name, ()) + tuple(_attribute(cls, n, g.modes) for n in g.names)
        cls._tables = tables
        cls._bins = cls._bins + tuple(cls.__dict__.get("bin_attrs", ()))

    def __init__(self, kernel: Kernel, name: str, parent: Kobject | None = None, kset: Kset | None = None) -> None:
        self.kernel = kernel
        self.name = name
        self.parent = parent
        self.kset = kset
        self.refs = 1
        self.sd: KernfsDir | None = None

    # ---- references

    def get(self) -> Kobject:
        """C: ``kobject_get()``."""
        self.refs += 1
        return self

    def put(self) -> None:
        """C: ``kobject_put()``; the last one calls :meth:`release`."""
        self.refs -= 1
        if self.refs == 0:
            self.release()

    def release(self) -> None:
        """``ktype->release``."""

    # ---- the directory

    @property
    def dir(self) -> KernfsDir:
        """The directory. Raises ENODEV when the kobject was not added."""
        if self.sd is None:
            raise err(ENODEV, f"kobject {self.name} is not in sysfs")
        return self.sd

    def add(self) -> None:
        """
        Make the directory. C: ``kobject_add()``.

        Raises:
            EEXIST: the name is taken.
            EINVAL: no name.
        """
        if not self.name:
            raise err(EINVAL, "kobject without a name")
        self.name = self.name.replace("/", "!")  # lib/kobject.c:kobject_set_name_vargs()
        parent = self.parent or self.kset
        where = parent.dir if parent is not None else self.kernel.sub(SysFs).root
        try:
            self.sd = where.create_dir(self.name)
        except OSError as e:
            if e.errno == EEXIST:
                self.kernel.log.printk(
                    ERR,
                    f"kobject_add_internal failed for {self.name} with -EEXIST, "
                    "don't try to register things with the same name in the same directory.",
                )
            raise
        if self._tables or self._bins:
            self.sd.when_looked_at(self._fill)

    def delete(self) -> None:
        """Take the directory away. C: ``kobject_del()``."""
        if self.sd is not None:
            self.sd.remove()
            self.sd = None

    def path(self) -> str:
        """The path below /sys. C: ``kobject_get_path()``."""
        return self.dir.path()

    def attr_is_visible(self, name: str) -> bool:
        """``attribute_group.is_visible``: False hides the file."""
        return True

    def bin_is_visible(self, name: str) -> bool:
        """``attribute_group.is_bin_visible``."""
        return True

    def _fill(self) -> None:
        for group, table in self._tables.items():
            names = [a for a in table if self.attr_is_visible(a.name)]
            where = (
                self.dir.create_dir(group) if group else self.dir
            )  # a named group without files is a directory still
            for attr in names:
                where.add(SysfsAttr(where, self, attr))
        for b in self._bins:
            if self.bin_is_visible(b.name):
                self.dir.add(BinFile(self.dir, self, b))

    # ---- links and notification

    def create_link(self, target: Kobject, name: str) -> None:
        """C: ``sysfs_create_link()``. Raises EEXIST."""
        self.dir.create_link(name, target.dir)

    def remove_link(self, name: str) -> None:
        """C: ``sysfs_remove_link()``; a name that is not there is forgiven."""
        if self.sd is None:
            return
        node = self.sd.children.get(name) or self.sd.filled().get(name)  # a link needs no look at the attributes
        if node is not None:
            node.remove()

    def sysfs_notify(self, attr: str) -> None:
        """Wake who polls *attr*. C: ``void sysfs_notify(struct kobject *, const char *dir, const char *attr)``."""
        node = self.dir.filled().get(attr)
        if isinstance(node, KernfsFile):
            node.notify()

    def create_file(self, attr: Attribute) -> None:
        """C: ``sysfs_create_file()``. Raises EEXIST."""
        self.dir.filled()
        self.dir.add(SysfsAttr(self.dir, self, attr))

    def create_bin_file(self, attr: BinAttr) -> None:
        """C: ``sysfs_create_bin_file()``. Raises EEXIST."""
        self.dir.filled()
        self.dir.add(BinFile(self.dir, self, attr))

    def remove_file(self, name: str) -> None:
        """C: ``sysfs_remove_file()``."""
        self.remove_link(name)

    def remove_file_self(self, name: str) -> bool:
        """
        Remove an attribute from its own store. C: ``bool sysfs_remove_file_self(struct kobject *, ...)``.

        Returns:
            True to the first of several writers, who is to go on: it waited until the others had left.
        """
        node = self.sd.filled().get(name) if self.sd is not None else None
        if node is None:
            return False
        node.remove()
        return True

    def create_group(self, name: str, attrs: Iterable[Attribute]) -> None:
        """Files in a sub-directory, or here without a *name*. C: ``sysfs_create_group()``. Raises EEXIST."""
        self.dir.filled()
        where = self.dir.create_dir(name) if name else self.dir
        made: list[KernfsNode] = []
        try:
            for attr in attrs:
                made.append(where.add(SysfsAttr(where, self, attr)))
        except OSError:
            for node in [where] if name else made:
                node.remove()
            raise

    def remove_group(self, name: str, attrs: Iterable[Attribute]) -> None:
        """C: ``sysfs_remove_group()``."""
        for gone in [name] if name else [attr.name for attr in attrs]:
            self.remove_link(gone)


def _attribute(cls: type, name: str, modes: dict[str, int]) -> Attribute:
    show, store = getattr(cls, name + "_show", None), getattr(cls, name + "_store", None)
    return Attribute(name, show, store, modes.get(name, 0o444 * bool(show) | 0o200 * bool(store)))


class Kset(Kobject):
    """``struct kset``: a directory of kobjects."""


class SysfsAttr(KernfsFile):
    """A text attribute's node."""

    __slots__ = ("attr", "kobj")

    def __init__(self, parent: KernfsDir, kobj: Kobject, attr: Attribute) -> None:
        super().__init__(parent.root, parent, attr.name, attr.mode)
        self.kobj = kobj
        self.attr = attr

    def open(self, flags: int) -> File:
        """fs/kernfs/file.c:kernfs_fop_open(). Raises EACCES, ENODEV."""
        return AttrFile(self, flags)

    def show(self) -> bytes:
        """fs/sysfs/file.c:sysfs_kf_seq_show(). Raises EIO without a show function."""
        show = self.attr.show
        if show is None:
            raise err(EIO)
        text = self.kernel_call(show, self.kobj)
        if isinstance(text, str):
            data = text.encode("latin-1", "replace")
        elif isinstance(text, bytes):
            data = text
        else:
            data = self.kernel_call(returned, show, text, "str")
        if len(data) >= PAGE_SIZE:
            self.kernel.log.printk(ERR, f"fill_read_buffer: {self.attr.name}_show returned bad count")
            data = data[: PAGE_SIZE - 1]
        return data

    def store(self, data: bytes) -> int:
        """fs/sysfs/file.c:sysfs_kf_write(). Raises EIO without a store function."""
        if not data:
            return 0
        store = self.attr.store
        if store is None:
            raise err(EIO)
        text = data.decode("latin-1")
        if "\0" in text:
            whole, text = text, CString(text.partition("\0")[0])
            text.raw = whole
        n = self.kernel_call(store, self.kobj, text)
        if n is None:
            return len(data)
        if type(n) is not int or not 0 <= n <= len(data):
            self.kernel_call(returned, store, n, f"None, or 0 to {len(data)}, the bytes that it was given")
        return int(n)

    def kernel_call(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Call driver code: an exception that is no errno is an oops, and the caller gets EIO."""
        try:
            return self.call_active(fn, *args) if self.kernel.sched.exploring else fn(*args)
        except BaseException as e:
            if not is_bug(e):
                raise
            self.kernel.oops(e)
            raise err(EIO, f"oops: {e}") from e


class AttrFile(KernfsOpenFile):
    """An open text attribute: seq_file's buffer rules (fs/seq_file.c:seq_read_iter(), traverse())."""

    __slots__ = ("buf", "read_pos")
    short_is_end = True

    inode: SysfsAttr  # pyright: ignore[reportIncompatibleVariableOverride]  # it never changes

    def __init__(self, inode: SysfsAttr, flags: int) -> None:
        super().__init__(inode, flags)
        self.buf = b""
        self.read_pos = 0

    def pread(self, pos: int, count: int) -> bytes:
        """
        A read at 0, or anywhere but where the last one ended, asks show() again.

        Raises ENODEV, and what show raises.
        """
        node = self.inode
        if not count:
            return b""
        if pos == 0 or pos != self.read_pos:
            if node.removed:
                raise err(ENODEV)
            self.event = node.event
            self.buf = node.show()
        data = self.buf[pos : pos + count]
        if not data and node.removed:
            raise err(ENODEV)  # kernfs_seq_start() looks before it finds the end
        self.read_pos = pos + len(data)
        return data

    def pwrite(self, pos: int, data: bytes) -> int:
        """
        fs/kernfs/file.c:kernfs_fop_write_iter(): one page at most, the position is not looked at.

        Raises ENODEV, ...
        """
        node = self.inode
        if node.removed:
            raise err(ENODEV)
        return node.store(data[:PAGE_SIZE])


class BinFile(KernfsFile):
    """A binary attribute's node."""

    __slots__ = ("attr", "kobj", "limit")

    def __init__(self, parent: KernfsDir, kobj: Kobject, attr: BinAttr) -> None:
        super().__init__(parent.root, parent, attr.name, attr.mode)
        self.kobj = kobj
        self.attr = attr
        self.limit = attr.size(kobj) if callable(attr.size) else attr.size

    @property
    def size(self) -> int:
        """The declared size."""
        return self.limit

    def open(self, flags: int) -> File:
        """Raises EACCES, ENODEV."""
        return BinOpenFile(self, flags)

    def call(self, method: str, *args: Any) -> Any:
        """An operation of the attribute. Raises ENODEV, and what it raises."""
        fn = getattr(self.kobj, method)
        return self.call_active(fn, *args) if self.kernel.sched.exploring else fn(*args)


class BinOpenFile(KernfsOpenFile):
    """An open binary attribute. fs/sysfs/file.c:sysfs_kf_bin_read(), sysfs_kf_bin_write(), sysfs_kf_bin_mmap()."""

    __slots__ = ("has_read", "has_write")

    inode: BinFile  # pyright: ignore[reportIncompatibleVariableOverride]  # it never changes

    def __init__(self, inode: BinFile, flags: int) -> None:
        attr = inode.attr
        # fs/sysfs/file.c:sysfs_add_bin_file_mode_ns(): which operations the file has
        self.has_read = bool(attr.read or attr.mmap)
        self.has_write = bool(attr.write or attr.mmap)
        super().__init__(inode, flags)

    def pread(self, pos: int, count: int) -> bytes:
        """Raises ENODEV, EIO without a read function."""
        node = self.inode
        node.check_active()
        count = min(count, PAGE_SIZE)
        if not count:
            return b""
        if node.limit:
            if pos >= node.limit:
                return b""
            count = min(count, node.limit - pos)
        if not node.attr.read:
            raise err(EIO)
        self.event = node.event
        data = node.call(node.attr.read, self, pos, count)
        if not isinstance(data, bytes | bytearray | memoryview) or len(data) > count:
            returned(getattr(node.kobj, node.attr.read), data, f"bytes, {count} at most")
        return bytes(data)

    def pwrite(self, pos: int, data: bytes) -> int:
        """Raises ENODEV, EFBIG past the end, EIO without a write function."""
        node = self.inode
        node.check_active()
        data = data[:PAGE_SIZE]
        if node.limit:
            if pos >= node.limit:
                raise err(EFBIG)
            data = data[: node.limit - pos]
        if not data:
            return 0
        if not node.attr.write:
            raise err(EIO)
        n = node.call(node.attr.write, self, pos, data)
        if type(n) is not int or not 0 <= n <= len(data):
            returned(getattr(node.kobj, node.attr.write), n, f"0 to {len(data)}, the bytes that it was given")
        return int(n)

    def llseek_size(self) -> int:
        """Up to 6.11 a file that can be mapped seeks in the inode of /dev/mem's mapping, whose size is 0."""
        node = self.inode
        return 0 if node.attr.mmap and not node.kernel.profile.kernfs_llseek_active else node.limit

    def mmap(self, vma: Any) -> None:
        """Raises ENODEV: no mmap function, or removed."""
        node = self.inode
        if not node.attr.mmap:
            raise err(ENODEV)
        node.check_active()
        node.call(node.attr.mmap, vma)


class SysFs:
    """The mounted sysfs of one kernel. A look below the top-level directories brings the devices up."""

    TOP: ClassVar[Iterable[str]] = (
        "block",
        "bus",
        "class",
        "dev",
        "devices",
        "firmware",
        "fs",
        "kernel",
        "module",
        "power",
    )

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.root = KernfsRoot(kernel, None)
        self.top: dict[str, Kset] = {}
        for name in self.TOP:
            kset = self.top[name] = Kset(kernel, name)
            kset.sd = self.root.create_dir(name)
            kset.dir.when_looked_at(kernel.up)

    def node(self, path: str) -> KernfsNode:
        """The node at *path* below /sys, links not followed. Raises ENOENT."""
        node: Any = self.root
        for part in path.strip("/").split("/"):
            node = node.lookup(part)
        assert isinstance(node, KernfsNode)
        return node
