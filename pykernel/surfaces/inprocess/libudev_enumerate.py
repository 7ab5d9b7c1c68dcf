"""Enumerating and watching devices (systemd 252: device-enumerator.c, device-monitor.c)."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from errno import EAGAIN, EINVAL, ENOENT
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.lib.names import kernel_text
from pykernel.surfaces.inprocess.libudev_device import Device, device_at, from_event
from pykernel.surfaces.inprocess.udevd import GROUPS, UdevSocket

if TYPE_CHECKING:
    from pykernel.syscalls import Process

__all__ = ["Enumerator", "Monitor"]

Patterns = dict[str, list[str | None]]


class Enumerator:
    """``struct sd_device_enumerator``. What is added to one of the fields narrows the result."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.subsystems: list[str] = []
        self.not_subsystems: list[str] = []
        self.sysattrs: Patterns = {}
        self.not_sysattrs: Patterns = {}
        self.properties: Patterns = {}
        self.sysnames: list[str] = []
        self.tags: list[str] = []
        self.parents: list[str] = []
        self.only_set_up = False
        self._found: dict[str, Device] = {}
        self._scanned = ""
        self._listed: list[str] | None = None

    # ---- scanning

    def narrowed(self) -> None:
        """One of the fields was changed: the next scan looks again."""
        self._scanned = ""
        self._listed = None

    def add(self, device: Device) -> None:
        """One more in the result of the last scan."""
        self._found[device.syspath] = device
        self._listed = None

    def result(self) -> list[str]:
        """The paths that the last scan found; until something is added the same as before, whatever is scanned."""
        if self._listed is None:
            self._listed = sorted(self._found, key=_order)
        return self._listed

    def scan_devices(self) -> None:
        """Find devices of buses and classes."""
        if self._scanned != "devices":
            self._found = {device.syspath: device for device in self._devices()}
            self._scanned = "devices"

    def scan_subsystems(self) -> None:
        """Find modules, buses and drivers."""
        if self._scanned != "subsystems":
            self._found = {device.syspath: device for device in self._subsystems()}
            self._scanned = "subsystems"

    def _devices(self) -> Iterator[Device]:
        if self.tags:
            return  # /run/udev/tags: nothing is tagged
        if self.parents:
            yield from self._of_parents()
            return
        for bus in self._matching_subsystems("/sys/bus"):
            yield from self._of_dir(f"/sys/bus/{bus}/devices")
        for name in self._matching_subsystems("/sys/class"):
            yield from self._of_dir(f"/sys/class/{name}")

    def _subsystems(self) -> Iterator[Device]:
        if self._wants("module"):
            yield from self._of_dir("/sys/module")
        if self._wants("subsystem"):
            yield from self._of_dir("/sys/bus")
        if self._wants("drivers"):
            for bus in self._names("/sys/bus"):
                yield from self._of_dir(f"/sys/bus/{bus}/drivers")

    def _matching_subsystems(self, path: str) -> list[str]:
        return [name for name in self._names(path) if self._wants(name)]

    def _names(self, path: str, kinds: tuple[int, ...] = (stat.S_IFDIR, stat.S_IFLNK)) -> list[str]:
        try:
            entries = self.process.scandir(path.encode("latin-1"))
        except OSError as e:
            if e.errno != ENOENT:
                raise
            return []
        return [kernel_text(name) for name, inode in entries if name[0] != "." and stat.S_IFMT(inode.mode) in kinds]

    def _of_dir(self, path: str) -> Iterator[Device]:
        """With their parents, of which no directory of a bus or class may have a link."""
        for name in self._names(path):
            if not _matches(self.sysnames, name):
                continue
            device = device_at(self.process, f"{path}/{name}")
            if device is None or not self._passes(device):
                continue
            yield device
            parent = device.parent()
            while parent is not None:
                if _matches(self.sysnames, parent.sysname) and self._passes(parent):
                    yield parent
                parent = parent.parent()

    def _of_parents(self) -> Iterator[Device]:
        todo = list(self.parents)
        while todo:
            path = todo.pop()
            device = device_at(self.process, path)
            name = path.rpartition("/")[2]
            if device is not None and _matches(self.sysnames, name) and self._passes(device):
                yield device
            todo += (f"{path}/{child}" for child in self._names(path, (stat.S_IFDIR,)))

    def _wants(self, subsystem: str) -> bool:
        return _matches(self.subsystems, subsystem, self.not_subsystems)

    def _passes(self, device: Device) -> bool:
        try:
            if not self._wants(device.subsystem()):
                return False
        except OSError as e:
            if e.errno != ENOENT:
                raise
            return False
        if self.parents and not any(f"{device.syspath}/".startswith(f"{parent}/") for parent in self.parents):
            return False
        if self.tags or (self.only_set_up and device.devnum() and not device.is_initialized()):
            return False
        if self.properties and not self._has_property(device):
            return False
        return all(self._has_sysattr(device, *row) for row in self.sysattrs.items()) and not any(
            self._has_sysattr(device, *row) for row in self.not_sysattrs.items()
        )

    def _has_property(self, device: Device) -> bool:
        return any(
            fnmatchcase(key, pattern) and any(fnmatchcase(value, one or "") for one in values)
            for pattern, values in self.properties.items()
            for key, value in device.properties().items()
        )

    @staticmethod
    def _has_sysattr(device: Device, name: str, values: list[str | None]) -> bool:
        try:
            value = device.sysattr(name)
        except OSError:
            return False
        wanted = [one for one in values if one is not None]
        return not wanted or any(fnmatchcase(value, one) for one in wanted)


def _order(syspath: str) -> tuple[bool, list[str]]:
    # device_compare(): compound block devices come last
    return "/block/md" in syspath or "/block/dm-" in syspath, syspath.split("/")


def _matches(include: list[str], name: str, exclude: Iterable[str] = ()) -> bool:
    # src/basic/set.c:set_fnmatch()
    if any(fnmatchcase(name, one) for one in exclude):
        return False
    return not include or any(fnmatchcase(name, one) for one in include)


class Monitor:
    """``struct sd_device_monitor``: a socket of *group*. Raises EINVAL: no such group."""

    def __init__(self, process: Process, group: str | None) -> None:
        if group not in GROUPS:
            raise err(EINVAL)
        self.process = process
        self.socket = UdevSocket(process.kernel, group)
        self.fd = process.fds.install(self.socket, cloexec=True)
        self.filters: list[tuple[str, str | None]] = []
        self.tags: list[str] = []

    def close(self) -> None:
        """Its descriptor; one that the program closed is none any more."""
        if self.process.fds.files.get(self.fd) is self.socket:
            self.process.close(self.fd)

    def update(self) -> None:
        """The filter of now is the socket's: of udev's events those that it does not pass are not queued."""
        if self.socket.group == "udev":
            filters, tags = tuple(self.filters), tuple(self.tags)
            self.socket.passes = lambda env: _event_passes(env, filters, tags)

    def receive(self) -> Device:
        """The next that passes the filter. Raises EAGAIN: none."""
        while True:
            env = self.socket.receive()[1]
            device = from_event(self.process, env)
            if self.socket.group == "udev":
                device.set_up = True
            if _event_passes(env, self.filters, self.tags):
                return device
            if not self.socket.messages:
                raise err(EAGAIN)


def _event_passes(env: dict[str, str], filters: Iterable[tuple[str, str | None]], tags: Iterable[str]) -> bool:
    # check_subsystem_filter(), check_tag_filter(): nothing is tagged
    rows = list(filters)
    subsystem, devtype = env.get("SUBSYSTEM"), env.get("DEVTYPE")
    if rows and not any(one == subsystem and kind in (None, devtype) for one, kind in rows):
        return False
    return not list(tags)
