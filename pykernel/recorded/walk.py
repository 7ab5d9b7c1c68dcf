"""What belongs to a recording: the trees that are named, the buses, classes, drivers and modules of their devices."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from os import major, minor, stat_result

from pykernel.base.static import Attr, DevNode, Dir
from pykernel.fs.vfs import PAGE_SIZE
from pykernel.lib.names import host_text, kernel_text
from pykernel.recorded import Recorded
from pykernel.recorded.host import Blocked, Reader, TooBig

__all__ = ["MAX_SIZE", "RecordError", "Recorder", "record"]

MAX_SIZE = 256 << 10
# mapped, not read: of an I/O BAR a read is one of the device's ports
RESOURCE = re.compile(r"resource\d+(_wc)?")
# drivers/block/zram/zram_drv.c:hot_add_show(): each read makes a device
ACTIONS = ("/sys/class/zram-control/hot_add",)
# --redact: names of files, and of variables in uevent, that tell one machine from another of its kind
PRIVATE = re.compile(
    r"(?i)(.*_)?(serial|serial_number|uuid|wwn|wwid|address|phys_switch_id|permaddr|broadcast|uniq|asset_tag|eui|nguid)"
)
DEVICES = "/sys/devices"


class RecordError(Exception):
    """A path that cannot be recorded: one sentence."""


class Recorder:
    """
    Walks with *reader* and collects in ``tree``.

    Args:
        exclude: shell patterns of paths that are left out.
        max_size: a longer file is there, its content is not.
        redact: letters and digits of serial numbers and addresses become zeros.
        progress: is told each directory.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        exclude: Iterable[str] = (),
        max_size: int = MAX_SIZE,
        redact: bool = False,
        progress: Callable[[str], None] = lambda path: None,
    ) -> None:
        self.reader = reader
        self.exclude = tuple(exclude)
        self.max_size = max_size
        self.redact = redact
        self.progress = progress
        self.tree = Dir()  # its names are Python's
        self.root = False
        self.notes: dict[str, list[str]] = {}
        self._done: dict[str, bool] = {}  # path: with all that is below?
        self._devices: list[str] = []  # those whose links were not followed yet
        self._dev = 0

    def recorded(self) -> Recorded:
        """What was recorded, with names as the kernel has them."""
        return Recorded(_to_kernel(self.tree), self.root)

    # ---- what is asked for

    def record(self, path: str) -> None:
        """
        Record what *path* names: a directory of /sys, or a device node.

        Raises:
            RecordError: it is neither, or is not there.
        """
        real = self._resolve(path)
        self._dev = self.reader.lstat("/sys").st_dev
        self.root = self.root or real == "/sys"
        self._links_on(path)
        self._tree(real)
        if real.startswith(DEVICES + "/"):
            self._parents(real)
        elif real != "/sys":
            for target in self._targets(real):
                self._reach(target)
        self._settle()

    def _resolve(self, path: str) -> str:
        if not path:
            raise RecordError("'' is no path")
        try:
            real = self.reader.realpath(path)
            st = self.reader.lstat(real)
            if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
                kind = "block" if stat.S_ISBLK(st.st_mode) else "char"
                real = self.reader.realpath(f"/sys/dev/{kind}/{major(st.st_rdev)}:{minor(st.st_rdev)}")
                st = self.reader.lstat(real)
        except OSError as e:
            raise RecordError(f"{path}: {e.strerror}") from e
        if real != "/sys" and not real.startswith("/sys/"):
            raise RecordError(f"{path} is not in /sys, and no device node")
        if not stat.S_ISDIR(st.st_mode):
            raise RecordError(f"{path} is a file: name its directory")
        return real

    def _links_on(self, path: str) -> None:
        """The links of sysfs that *path* goes through: the recorded machine has the path that was named."""
        at, left = "", os.path.abspath(path).split("/")[1:]
        while left:
            full = f"{at}/{left.pop(0)}"
            try:
                is_link = stat.S_ISLNK(self.reader.lstat(full).st_mode)
                real = self.reader.realpath(full)
            except OSError:
                return
            if is_link and full.startswith("/sys/"):
                self._link(full)
                if at.startswith(DEVICES + "/"):
                    self._own(at)
                    self._parents(at)
            at = real.rstrip("/")

    def _targets(self, top: str) -> list[str]:
        """Where the links below *top* lead, those that exist."""
        where = self.tree.find(top[4:])
        found = set()
        for path, spec in where.walk(top) if where is not None else ():
            for name in spec.links:
                found.add(self._real(f"{path}/{name}"))
        return sorted(found - {""})

    def _reach(self, target: str) -> None:
        """What a link in a bus, a class, a module leads to."""
        if target.startswith(DEVICES + "/"):
            self._tree(target)
            self._parents(target)
        elif target.startswith("/sys/module/"):
            self._tree(target)
        elif re.fullmatch(r"/sys/bus/[^/]+/drivers/[^/]+", target):
            self._driver(target)

    def _settle(self) -> None:
        """Follow the links of all devices that were found, and of those that they lead to."""
        while self._devices:
            device = self._devices.pop()
            self._subsystem(device)
            self._driver_of(device)
            group = self._real(f"{device}/iommu_group")
            if group.startswith("/sys/kernel/iommu_groups/"):
                self._tree(group)
            self._numbers(device)

    # ---- what belongs to a device

    def _subsystem(self, device: str) -> None:
        where, name = self._real(f"{device}/subsystem"), device.rpartition("/")[2]
        if where.startswith("/sys/bus/"):
            self._files(where)
            self._make(f"{where}/devices")
            self._make(f"{where}/drivers")
            self._link(f"{where}/devices/{name}")
        elif where.startswith("/sys/class/"):
            self._files(where)
            self._link(f"{where}/{name}")
            if where == "/sys/class/block":
                self._link(f"/sys/block/{name}")

    def _driver_of(self, device: str) -> None:
        driver = self._real(f"{device}/driver")
        if driver.startswith("/sys/bus/"):
            self._driver(driver)
            self._link(f"{driver}/{device.rpartition('/')[2]}")

    def _driver(self, driver: str) -> None:
        self._files(driver)
        module = self._real(f"{driver}/module")
        if module.startswith("/sys/module/"):
            self._link(f"{driver}/module")
            self._tree(module)

    def _numbers(self, device: str) -> None:
        spec = self.tree.find(device[4:])
        if spec is None or "dev" not in spec.files:
            return
        number = spec.files["dev"].data.decode("latin-1").strip()
        for kind in ("char", "block"):
            if self._real(f"/sys/dev/{kind}/{number}") == device:
                self._link(f"/sys/dev/{kind}/{number}")
        spec.node = self._node(spec, number)

    def _node(self, spec: Dir, number: str) -> DevNode | None:
        """What /dev/NAME has that devtmpfs would not give it; None when that is nothing."""
        env = spec.properties
        if "DEVNAME" not in env:
            return None
        try:
            st = self.reader.lstat(f"/dev/{host_text(env['DEVNAME'])}")
        except OSError:
            return None
        mode = stat.S_IMODE(st.st_mode)
        is_node = stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode)
        if is_node and f"{major(st.st_rdev)}:{minor(st.st_rdev)}" != number:
            return None
        if f"0{mode:o}" == env.get("DEVMODE", "0600") and not st.st_uid and not st.st_gid:
            return None
        return DevNode(mode, st.st_uid, st.st_gid)

    # ---- directories

    def _tree(self, path: str) -> None:
        """All that is in *path* and below."""
        if self._done.get(path) or self._excluded(path):
            return
        spec, below = self._dir(path)
        if spec is None:
            return
        self._done[path] = True
        for name in below:
            self._tree(f"{path}/{name}")
        if (
            path != "/sys" and below and not (spec.files or spec.links or spec.dirs)
        ):  # it only leads to what is mounted there
            above, _, name = path.rpartition("/")
            del self.tree.at(above[4:]).dirs[name]

    def _parents(self, path: str) -> None:
        """The directories above, each with what is its own and no other device's."""
        while (path := path.rpartition("/")[0]) != DEVICES:
            self._own(path)

    def _own(self, path: str) -> None:
        if path in self._done or self._excluded(path):
            return
        spec, below = self._dir(path)
        self._done[path] = False
        for name in below if spec is not None else ():
            if self._is_group(f"{path}/{name}"):
                self._tree(f"{path}/{name}")

    def _is_group(self, path: str) -> bool:
        """Whether a directory is no kobject's and has none below: an attribute group like power."""
        names = self._names(path)
        return "uevent" not in names and not any("uevent" in self._names(f"{path}/{name}") for name in names)

    def _files(self, path: str) -> None:
        """The files of *path*, without its links and directories."""
        if path in self._done or self._excluded(path):
            return
        self._done[path] = False
        self._dir(path, links=False)

    def _dir(self, path: str, *, links: bool = True) -> tuple[Dir | None, list[str]]:
        """Record one directory; the names of those below. None: it went away, or is another file system."""
        try:
            st = self.reader.lstat(path)
        except OSError:
            return None, []
        if st.st_dev != self._dev:
            self._note("another file system is mounted there", path)
            return None, []
        self.progress(path)
        spec = self._make(path)
        below = []
        for name in sorted(self._names(path)):
            if self._excluded(f"{path}/{name}"):
                continue
            kind = self._entry(spec, path, name, links=links) if self._can_be_written(path, name) else 0
            if kind == stat.S_IFDIR:
                below.append(name)
        if links and "subsystem" in spec.links:
            self._devices.append(path)
        return spec, below

    def _entry(self, spec: Dir, path: str, name: str, *, links: bool) -> int:
        full = f"{path}/{name}"
        try:
            st = self.reader.lstat(full)
            kind = stat.S_IFMT(st.st_mode)
            if kind == stat.S_IFLNK and links:
                text = self.reader.readlink(full)
                if self._can_be_written(path, text):
                    spec.links[name] = text
            elif kind == stat.S_IFREG:
                spec.files[name] = self._file(full, name, st)
        except OSError:  # gone
            return 0
        return kind

    def _make(self, path: str) -> Dir:
        """The directory *path* of the recording, with its owner and mode, and those above."""
        where, at = self.tree, "/sys"
        for part in path.split("/")[2:]:
            at = f"{at}/{part}"
            if part not in where.dirs:
                made = where.dirs[part] = Dir()
                try:
                    st = self.reader.lstat(at)
                    made.mode, made.uid, made.gid = stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid
                except OSError:
                    continue
            where = where.dirs[part]
        return where

    def _link(self, path: str) -> None:
        """The symbolic link *path*, if it is there."""
        above, _, name = path.rpartition("/")
        if self._excluded(path):
            return
        try:
            text = self.reader.readlink(path)
        except OSError:
            return
        self._make(above).links[name] = text

    def _names(self, path: str) -> list[str]:
        try:
            return self.reader.listdir(path)
        except OSError:
            return []

    def _real(self, path: str) -> str:
        try:
            return self.reader.realpath(path)
        except OSError:
            return ""

    def _excluded(self, path: str) -> bool:
        return any(fnmatchcase(path, pattern) for pattern in self.exclude)

    def _can_be_written(self, path: str, text: str) -> bool:
        """Whether a name or a link's text in *path* is UTF-8, as TOML is."""
        try:
            os.fsencode(text).decode()
        except UnicodeDecodeError:
            self._note("a name is not UTF-8", path)
            return False
        return True

    # ---- files

    def _file(self, path: str, name: str, st: stat_result) -> Attr:
        attr = Attr(mode=stat.S_IMODE(st.st_mode), size=st.st_size, uid=st.st_uid, gid=st.st_gid)
        attr.binary = st.st_size != PAGE_SIZE
        if not attr.mode & 0o444:
            return attr
        if RESOURCE.fullmatch(name) and path.startswith("/sys/devices/pci"):
            attr.errno = errno.EIO
            return attr
        if path in ACTIONS:
            attr.left_out = True
            self._note("a read does something", path)
            return attr
        try:
            attr.data = self.reader.read(path, self.max_size)
        except TooBig:
            attr.left_out = True
            self._note(f"longer than {self.max_size} bytes", path)
        except Blocked:
            attr.left_out = True
            self._note("reading takes too long", path)
        except OSError as e:
            attr.errno = e.errno or errno.EIO
            if e.errno in (errno.EACCES, errno.EPERM):
                self._note("not allowed to read", path)
        attr.binary = attr.binary or len(attr.data) >= PAGE_SIZE or not _is_text(attr.data)
        if name == "config" and len(attr.data) == 64 < attr.size:
            self._note("only the first 64 bytes can be read without privilege", path)
        return self._redacted(attr, name) if self.redact else attr

    def _redacted(self, attr: Attr, name: str) -> Attr:
        if name == "uevent":
            rows = attr.data.decode("latin-1").split("\n")
            attr.data = "\n".join(_zero_value(row) for row in rows).encode("latin-1")
        elif PRIVATE.fullmatch(name):
            attr.data = b"\0" * len(attr.data) if attr.binary else re.sub(rb"[0-9A-Za-z\x80-\xff]", b"0", attr.data)
        return attr

    def _note(self, why: str, path: str) -> None:
        self.notes.setdefault(why, []).append(path)


def _zero_value(row: str) -> str:
    key, has, value = row.partition("=")
    return key + has + re.sub("[0-9A-Za-z\x80-\xff]", "0", value) if PRIVATE.fullmatch(key) else row


def _to_kernel(spec: Dir) -> Dir:
    return replace(
        spec,
        files={kernel_text(name): attr for name, attr in spec.files.items()},
        links={kernel_text(name): kernel_text(text) for name, text in spec.links.items()},
        dirs={kernel_text(name): _to_kernel(sub) for name, sub in spec.dirs.items()},
    )


def _is_text(data: bytes) -> bool:
    try:
        return b"\0" not in data and data.decode("utf-8") is not None
    except UnicodeDecodeError:
        return False


def record(reader: Reader, paths: Iterable[str]) -> Recorded:
    """What *paths* name, ready to be a machine's part. Raises RecordError."""
    recorder = Recorder(reader)
    for path in paths:
        recorder.record(path)
    return recorder.recorded()
