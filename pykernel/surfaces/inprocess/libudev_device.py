"""
A device as libudev sees it: a directory of sysfs with its uevent file.

As src/libsystemd/sd-device/sd-device.c of systemd 252 has it. There are no udev rules in the emulated machine, so udev
knows no links, tags and properties of its own. Its database says of a device that has a node when it was set up, and
nothing of the others (device-private.c:device_should_have_db()).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from errno import EACCES, EINVAL, EISDIR, ENODEV, ENOENT, ENOTDIR, ENXIO, EPERM
from typing import TYPE_CHECKING

from pykernel.base.uevent import KOBJ_ACTIONS
from pykernel.errors import err
from pykernel.lib.names import kernel_text
from pykernel.surfaces.inprocess.udevd import Udevd

if TYPE_CHECKING:
    from pykernel.syscalls import Process

__all__ = ["Device", "devnum", "from_device_id", "from_devnum", "from_event", "from_subsystem_sysname", "from_syspath"]

NEWLINE = "\n\r"
VALUE_LINKS = ("driver", "subsystem", "module")  # links of which the last part of the target is the value
NAME_MAX = 255
SYSNUM = re.compile(r"[0-9]+\Z")
IMPLICIT = ((re.compile("/module/."), "module"), (re.compile("/(class|bus)/."), "subsystem"))


class Device:
    """``struct sd_device``. What is asked for once is remembered, as libudev does."""

    def __init__(self, process: Process, syspath: str) -> None:
        self.process = process
        self.syspath = syspath
        self.devpath = syspath.removeprefix("/sys")
        self.action: str | None = None
        self.seqnum = 0
        self.sealed = False  # made of an event: neither the uevent file nor the database is read
        self.initialized_us = 0  # what the database or an event says
        self.set_up: bool | None = None
        self.devname: str | None = None
        self.devtype: str | None = None
        self.number: int | None = None
        self.driver_subsystem = ""
        self._properties = {"DEVPATH": self.devpath}
        self._uevent_read = False
        self._subsystem: tuple[str | None] | None = None
        self._driver: tuple[str | None] | None = None
        self._parent: tuple[Device | None] | None = None
        self._sysattrs: dict[str, str | None] = {}

    # ---- names

    @property
    def sysname(self) -> str:
        """The last part of the path, "!" as "/"."""
        return self.devpath.rpartition("/")[2].replace("!", "/")

    @property
    def sysnum(self) -> str | None:
        """The digits at the end of the name; None without, and for a name that is a number."""
        found = SYSNUM.search(self.sysname)
        return found[0] if found is not None and found.start() else None

    def subsystem(self) -> str:
        """Raises ENOENT: of none."""
        if self._subsystem is None:
            self.set_subsystem(self._find_subsystem())
        assert self._subsystem is not None
        if self._subsystem[0] is None:
            raise err(ENOENT)
        return self._subsystem[0]

    def _find_subsystem(self) -> str | None:
        found = self._link("subsystem")
        if found is not None:
            return found
        if IMPLICIT[0][0].match(self.devpath):
            return IMPLICIT[0][1]
        head, middle, _ = f"{self.devpath}/".partition("/drivers/")
        if middle:
            self.driver_subsystem = head.rpartition("/")[2]
            return "drivers"
        return IMPLICIT[1][1] if IMPLICIT[1][0].match(self.devpath) else None

    def set_subsystem(self, name: str | None) -> None:
        """It is a property, too."""
        self._subsystem = (name,)
        self._set("SUBSYSTEM", name)

    def driver(self) -> str:
        """Raises ENOENT: unbound."""
        if self._driver is None:
            self.set_driver(self._link("driver"))
        assert self._driver is not None
        if self._driver[0] is None:
            raise err(ENOENT)
        return self._driver[0]

    def set_driver(self, name: str | None) -> None:
        """It is a property, too."""
        self._driver = (name,)
        self._set("DRIVER", name)

    def device_id(self) -> str:
        """The name in the database. Raises ENOENT: no subsystem."""
        subsystem = self.subsystem()
        number = self.devnum()
        if number:
            return f"{'b' if subsystem == 'block' else 'c'}{os.major(number)}:{os.minor(number)}"
        name = self.devpath.rpartition("/")[2]
        return f"+drivers:{self.driver_subsystem}:{name}" if subsystem == "drivers" else f"+{subsystem}:{name}"

    def devnum(self) -> int:
        """``dev_t``; 0 without a node."""
        self._read_uevent()
        return self.number or 0

    def parent(self) -> Device | None:
        """The next directory upwards that is a device."""
        if self._parent is None:
            self._parent = (self._find_parent(),)
        return self._parent[0]

    def _find_parent(self) -> Device | None:
        path = self.syspath
        while (path := path.rpartition("/")[0]) not in ("/sys", ""):
            if device := device_at(self.process, path):
                return device
        return None

    # ---- properties

    def properties(self) -> dict[str, str]:
        """All of them. Raises ENOENT: no subsystem."""
        self._read_uevent()
        self._read_db()
        return self._properties

    def _set(self, key: str, value: str | None) -> None:
        if value is None:
            self._properties.pop(key, None)
        else:
            self._properties[key] = value

    def amend(self, key: str, value: str) -> None:
        """A property that the kernel or udev tells, and what follows from it."""
        if key == "DEVTYPE":
            self.devtype = value
        elif key == "DEVNAME":
            self.devname = value = value if value.startswith("/dev/") else f"/dev/{value}"
        elif key == "USEC_INITIALIZED":
            self.initialized_us = int(value)
        elif key == "SUBSYSTEM":
            self.set_subsystem(value)
        elif key == "DRIVER" and self.sealed:
            self.set_driver(value)
        self._set(key, value)

    def set_devnum(self, major: str, minor: str) -> None:
        """Of two properties."""
        self.number = os.makedev(int(major), int(minor or "0"))
        self._set("MAJOR", major)
        self._set("MINOR", minor or None)

    def _read_uevent(self) -> None:
        if self._uevent_read or self.sealed:
            return
        self._uevent_read = True
        try:
            text = self.process.read_text(_path(f"{self.syspath}/uevent"))
        except OSError as e:
            if e.errno in (EACCES, ENODEV, ENXIO, ENOENT):
                return
            raise
        found = dict(line.split("=", 1) for line in re.split("[\n\r]", text) if "=" in line)
        major, minor = found.pop("MAJOR", None), found.pop("MINOR", "")
        for key, value in found.items():
            self.amend(key, value)
        if major is not None:
            self.set_devnum(major, minor)

    def _read_db(self) -> None:
        """/run/udev/data: udev has set every node up before anybody looks. Raises ENOENT: no subsystem."""
        if self.set_up is None and not self.sealed:
            self.device_id()
            self.set_up = bool(self.devnum())
            if self.set_up:
                self.initialized_us = self.process.kernel.sub(Udevd).set_up_us(self.devpath)
                self._set("USEC_INITIALIZED", str(self.initialized_us))

    def is_initialized(self) -> bool:
        """Whether the database has it."""
        try:
            self._read_db()
        except OSError as e:
            if e.errno != ENOENT:
                raise
        return bool(self.set_up)

    # ---- attributes

    def sysattrs(self) -> list[str]:
        """All files that their owner may read or write and all links, also of the directories that are its own."""
        found: list[str] = []
        todo = [""]
        while todo:
            where = todo.pop()
            names = {kernel_text(n): inode for n, inode in self.process.scandir(_path(f"{self.syspath}/{where}"))}
            if where and "uevent" in names:
                continue  # a child
            for name, inode in names.items():
                kind, path = stat.S_IFMT(inode.mode), f"{where}/{name}" if where else name
                if kind == stat.S_IFDIR:
                    todo.append(path)
                elif kind in (stat.S_IFLNK, stat.S_IFREG) and inode.mode & (stat.S_IRUSR | stat.S_IWUSR):
                    found.append(path)
        return found

    def sysattr(self, name: str) -> str:
        """
        The text without newlines at its end.

        Raises:
            ENOENT: none, now or when it was first asked for.
            EINVAL: a link whose target is not a value.
            EISDIR: a directory.
            EPERM: not readable by its owner.
            OSError: what reading says.
        """
        if name in self._sysattrs:
            cached = self._sysattrs[name]
            if cached is None:
                raise err(ENOENT)
            return cached
        path = f"{self.syspath}/{name}"
        try:
            mode = self.process.lstat(_path(path)).st_mode
        except OSError:
            self._sysattrs[name] = None
            raise
        if stat.S_ISLNK(mode):
            if name not in VALUE_LINKS:
                raise err(EINVAL)
            value = kernel_text(self.process.readlink(_path(path))).rpartition("/")[2]
        elif stat.S_ISDIR(mode):
            raise err(EISDIR)
        elif not mode & stat.S_IRUSR:
            raise err(EPERM)
        else:
            value = self.process.read_text(_path(path)).rstrip(NEWLINE)
        self._sysattrs[name] = value
        return value

    def set_sysattr(self, name: str, value: str | None) -> None:
        """
        Write, and remember what was written; None forgets.

        Raises:
            EINVAL: longer than 4096 bytes.
            OSError: what writing says.
        """
        self._sysattrs.pop(name, None)
        if value is None:
            return
        value = value.rstrip(NEWLINE)
        if len(value) > 4096:
            raise err(EINVAL)
        process = self.process
        fd = process.open(_path(f"{self.syspath}/{name}"), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            # src/basic/fileio.c:write_string_file(): adds a newline
            process.write(fd, f"{value}\n".encode("latin-1"))
        finally:
            process.close(fd)
        if name != "uevent":
            self._sysattrs[name] = value

    def _link(self, name: str) -> str | None:
        try:
            return kernel_text(self.process.readlink(_path(f"{self.syspath}/{name}"))).rpartition("/")[2]
        except OSError as e:
            if e.errno != ENOENT:
                raise
            return None


def _path(text: str) -> bytes:
    """What a system call takes: the C library's strings are one character a byte here, as the kernel's."""
    return text.encode("latin-1")


# ---- where devices come from


def from_syspath(process: Process, path: str) -> Device:
    """
    Of a path that may lead there by links. C: ``int sd_device_new_from_syspath(sd_device **, const char *)``.

    Raises:
        EINVAL: it does not begin with /sys.
        ENODEV: it does not exist, is not in sysfs, or is no device.
        OSError: what walking it says.
    """
    if [part for part in path.split("/") if part not in ("", ".")][:1] != ["sys"] or path[0] != "/":
        raise err(EINVAL)
    try:
        real = kernel_text(process.realpath(_path(path)))
        if not real.startswith("/sys/") or process.statfs(_path(real)).type != process.statfs("/sys").type:
            raise err(ENODEV)
        if f"{real}/".startswith("/sys/devices/"):
            process.access(_path(f"{real}/uevent"))
        elif not stat.S_ISDIR(process.lstat(_path(real)).st_mode):
            raise err(ENODEV)
    except OSError as e:
        if e.errno in (ENOENT, ENOTDIR):
            raise err(ENODEV) from None
        raise
    return Device(process, real)


def device_at(process: Process, path: str) -> Device | None:
    """As :func:`from_syspath`; None where there is no device. Raises EINVAL, and what walking the path says."""
    try:
        return from_syspath(process, path)
    except OSError as e:
        if e.errno != ENODEV:
            raise
        return None


def devnum(kind: str, number: int) -> str:
    """The path of a device number. Raises ENODEV: no major."""
    if not os.major(number):
        raise err(ENODEV)
    return f"/sys/dev/{'block' if kind == 'b' else 'char'}/{os.major(number)}:{os.minor(number)}"


def from_devnum(process: Process, kind: str, number: int) -> Device:
    """Raises EINVAL: *kind* is not b or c; ENODEV; ENXIO: it is another device."""
    if kind not in ("b", "c"):
        raise err(EINVAL)
    device = from_syspath(process, devnum(kind, number))
    if device.devnum() != number:
        raise err(ENXIO)
    return device


def _check_normalized(name: str) -> None:
    # src/basic/path-util.c:path_is_normalized()
    if not name or {".", ".."} & set(name.split("/")) or "//" in name:
        raise err(EINVAL)


def from_subsystem_sysname(process: Process, subsystem: str, sysname: str) -> Device:
    """Raises EINVAL; ENODEV."""
    _check_normalized(subsystem)
    _check_normalized(sysname)
    name = sysname.replace("/", "!")
    paths: list[str] = []
    if subsystem == "subsystem":
        paths += (f"/sys/bus/{name}", f"/sys/class/{name}")
    elif subsystem == "module":
        paths.append(f"/sys/module/{name}")
    elif subsystem == "drivers":
        bus, _, driver = name.partition(":")
        if driver:
            paths.append(f"/sys/bus/{bus}/drivers" + ("" if driver == "drivers" else f"/{driver}"))
    paths += (
        f"/sys/bus/{subsystem}/devices/{name}",
        f"/sys/class/{subsystem}/{name}",
        f"/sys/firmware/{subsystem}/{name}",
    )
    for path in paths:
        if device := device_at(process, path):
            return device
    raise err(ENODEV)


def from_device_id(process: Process, text: str) -> Device:
    """Raises EINVAL: no id; ENODEV."""
    number = re.fullmatch(r"([bc])([0-9]+):([0-9]+)", text)
    if number is not None:
        return from_devnum(process, number[1], os.makedev(int(number[2]), int(number[3])))
    if text[:1] == "n":
        raise err(ENODEV if text[1:].isdecimal() else EINVAL)  # the emulated machine has no network
    subsystem, colon, sysname = text[1:].partition(":")
    if text[:1] != "+" or not colon or len(subsystem) > NAME_MAX:
        raise err(EINVAL)
    return from_subsystem_sysname(process, subsystem, sysname)


def from_event(process: Process, env: Mapping[str, str]) -> Device:
    """
    Of an event's properties (device_new_from_nulstr(), device_new_from_strv()).

    Raises:
        EINVAL: DEVPATH, SUBSYSTEM, ACTION or SEQNUM is not there or wrong.
    """
    devpath, seqnum = env.get("DEVPATH", ""), env.get("SEQNUM", "")
    if not devpath.startswith("/") or "SUBSYSTEM" not in env or not seqnum.isdecimal() or not int(seqnum):
        raise err(EINVAL)
    if env.get("ACTION") not in KOBJ_ACTIONS:
        raise err(EINVAL)
    device = Device(process, f"/sys{devpath}")
    device.sealed = True
    device.action, device.seqnum = env["ACTION"], int(seqnum)
    for key, value in env.items():
        if key not in ("MAJOR", "MINOR", "DEVPATH"):
            device.amend(key, value)
    if "MAJOR" in env:
        device.set_devnum(env["MAJOR"], env.get("MINOR", ""))
    return device
