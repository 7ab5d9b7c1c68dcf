"""
libudev for patched programs: its ABI, implemented here, over the emulated /sys and the emulated kernel's uevents.

The real library makes system calls of its own, which no patch of Python's functions reaches. So ``ctypes.CDLL`` of
libudev gives an object whose functions are those of this module (``libudev_abi.py``). They behave as libudev of systemd
252 does (src/libudev): what fails gives a null pointer, 0 or a negative errno, and errno is set; results live as long
as the object that they were asked of. Every other library is the host's, and its system calls are the host's.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from errno import EBUSY, EINVAL, ENODATA, ENOENT
from typing import TYPE_CHECKING, Any

from pykernel.errors import err
from pykernel.surfaces.inprocess import libudev_device as devices
from pykernel.surfaces.inprocess.libudev_abi import SONAME, Functions, Held
from pykernel.surfaces.inprocess.libudev_device import Device
from pykernel.surfaces.inprocess.libudev_enumerate import Enumerator, Monitor, Patterns
from pykernel.surfaces.inprocess.libudev_sym import SIGNATURES
from pykernel.surfaces.inprocess.udevd import Udevd

if TYPE_CHECKING:
    from pykernel.syscalls import Process

__all__ = ["Library"]

LOG_INFO = 6
PLAIN = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz#+-.:=@_")


class Library(Functions):
    """
    The functions of libudev for one *process*. *load* is ``ctypes.CDLL.__init__`` of the host's libraries.

    A method is the C function of its name, without "udev".
    """

    def __init__(self, process: Process, load: Callable[..., None]) -> None:
        super().__init__(process.kernel, SIGNATURES)
        self.process = process
        self._kernel(self.kernel.up)  # what happened at boot is no news to a program
        self.udevd = process.kernel.sub(Udevd)
        self._load = load
        self._log_priority = LOG_INFO

    def _kernel(self, fn: Callable[[], Any]) -> Any:
        """In the kernel's thread."""
        same = self.kernel.owner == threading.get_ident()
        return fn() if same else self.kernel.call_from_thread(fn)

    def _take(self, held: Held) -> Held:
        held.refs += 1
        return held

    _ref = _device_ref = _monitor_ref = _enumerate_ref = _queue_ref = _hwdb_ref = _take

    def _give(self, word: int) -> None:
        self.drop(word)

    _device_unref = _monitor_unref = _enumerate_unref = _queue_unref = _hwdb_unref = _give

    def _udev(self, held: Held) -> Held | None:
        return held.udev

    _device_get_udev = _monitor_get_udev = _enumerate_get_udev = _queue_get_udev = _udev

    # ---- the context

    def _new(self) -> Held:
        return self.hold(None)

    def _unref(self, word: int) -> Held | None:
        self.drop(word)
        return self.live.get(word)

    def _get_userdata(self, udev: Held) -> int:
        return udev.userdata

    def _set_userdata(self, udev: Held, userdata: int) -> None:
        udev.userdata = userdata

    def _get_log_priority(self, _udev: int) -> int:
        return self._log_priority

    def _set_log_priority(self, _udev: int, priority: int) -> None:
        self._log_priority = priority

    def _set_log_fn(self, _udev: Held, _fn: int) -> None:
        """Nothing, as there."""

    # ---- lists

    def _list_entry_get_next(self, word: int) -> Held | None:
        entry = self.live.get(word)
        return None if entry is None else entry.parent

    def _list_entry_get_by_name(self, word: int, name: str) -> Held | None:
        entry = self.live.get(word)
        while entry is not None and entry.obj[0] != name:
            entry = entry.parent
        return entry

    def _list_entry_get_name(self, entry: Held) -> str:
        return str(entry.obj[0])

    def _list_entry_get_value(self, entry: Held) -> str | None:
        value: str | None = entry.obj[1]
        return value

    def _names(self, held: Held, what: str, names: list[str]) -> Held | None:
        return self.entries(held, what, [(name, None) for name in sorted(names)])

    # ---- devices

    def _device(self, udev: int, device: Device) -> Held:
        return self.hold(device, self.live.get(udev))

    def _device_new_from_syspath(self, udev: int, path: str) -> Held:
        return self._device(udev, devices.from_syspath(self.process, path))

    def _device_new_from_devnum(self, udev: int, kind: str, number: int) -> Held:
        return self._device(udev, devices.from_devnum(self.process, kind, number))

    def _device_new_from_subsystem_sysname(self, udev: int, subsystem: str, sysname: str) -> Held:
        return self._device(udev, devices.from_subsystem_sysname(self.process, subsystem, sysname))

    def _device_new_from_device_id(self, udev: int, text: str) -> Held:
        return self._device(udev, devices.from_device_id(self.process, text))

    def _device_new_from_environment(self, udev: int) -> Held:
        env = {k.decode("latin-1"): v.decode("latin-1") for k, v in os.environb.items()}
        return self._device(udev, devices.from_event(self.process, env))

    def _device_get_parent(self, device: Held) -> Held:
        if device.parent is None:
            found = device.obj.parent()
            if found is None:
                raise err(ENOENT)
            device.parent = self.hold(found, device.udev)
        return device.parent

    def _device_get_parent_with_subsystem_devtype(self, device: Held, subsystem: str, devtype: str | None) -> Held:
        while True:
            device = self._device_get_parent(device)
            found: Device = device.obj
            if _subsystem(found) == subsystem and devtype in (None, _devtype(found)):
                return device

    def _device_get_devpath(self, device: Held) -> str:
        return str(device.obj.devpath)

    def _device_get_syspath(self, device: Held) -> str:
        return str(device.obj.syspath)

    def _device_get_sysname(self, device: Held) -> str:
        return str(device.obj.sysname)

    def _device_get_sysnum(self, device: Held) -> str | None:
        number: str | None = device.obj.sysnum
        return number

    def _device_get_subsystem(self, device: Held) -> str:
        return str(device.obj.subsystem())

    def _device_get_driver(self, device: Held) -> str:
        return str(device.obj.driver())

    def _device_get_devtype(self, device: Held) -> str | None:
        return _devtype(device.obj)

    def _device_get_devnode(self, device: Held) -> str:
        device.obj.devnum()
        if device.obj.devname is None:
            raise err(ENOENT)
        return str(device.obj.devname)

    def _device_get_devnum(self, device: Held) -> int:
        return int(device.obj.devnum())

    def _device_get_action(self, device: Held) -> str | None:
        action: str | None = device.obj.action
        return action

    def _device_get_seqnum(self, device: Held) -> int:
        return int(device.obj.seqnum)

    def _device_get_is_initialized(self, device: Held) -> int:
        return int(device.obj.is_initialized())

    def _device_get_usec_since_initialized(self, device: Held) -> int:
        if not device.obj.is_initialized():
            raise err(EBUSY)
        if not device.obj.initialized_us:
            raise err(ENODATA)
        return max(0, self.udevd.now_us() - int(device.obj.initialized_us))

    def _device_get_devlinks_list_entry(self, _device: Held) -> None:
        """No rule makes any."""

    _device_get_tags_list_entry = _device_get_current_tags_list_entry = _device_get_devlinks_list_entry

    def _device_has_tag(self, _device: Held, _tag: str) -> int:
        return 0

    _device_has_current_tag = _device_has_tag

    def _device_get_properties_list_entry(self, device: Held) -> Held | None:
        try:
            found = device.obj.properties()
        except OSError as e:
            if e.errno != ENOENT:
                raise
            return None
        return self.entries(device, "properties", sorted(found.items()))

    def _device_get_property_value(self, device: Held, key: str) -> str:
        found: dict[str, str] = device.obj.properties()
        if key not in found:
            raise err(ENOENT)
        return found[key]

    def _device_get_sysattr_list_entry(self, device: Held) -> Held | None:
        if "sysattrs" not in device.lists:
            return self._names(device, "sysattrs", device.obj.sysattrs())
        made = device.lists["sysattrs"][1]
        return made[0] if made else None

    def _device_get_sysattr_value(self, device: Held, name: str) -> str:
        return str(device.obj.sysattr(name))

    def _device_set_sysattr_value(self, device: Held, name: str, value: str | None) -> None:
        device.obj.set_sysattr(name, value)

    # ---- monitors

    def _monitor_new_from_netlink(self, udev: int, name: str | None) -> Held:
        monitor: Monitor = self._kernel(lambda: Monitor(self.process, name))
        held = self.hold(monitor, self.live.get(udev))
        held.end = monitor.close
        return held

    def _monitor_enable_receiving(self, monitor: Held) -> None:
        monitor.obj.update()
        monitor.obj.socket.bound = True

    def _monitor_set_receive_buffer_size(self, _monitor: Held, size: int) -> None:
        """Every message is queued."""
        if size < 0:
            raise err(EINVAL)

    def _monitor_get_fd(self, monitor: Held) -> int:
        return int(monitor.obj.fd)

    def _monitor_receive_device(self, monitor: Held) -> Held:
        return self.hold(monitor.obj.receive(), monitor.udev)

    def _monitor_filter_add_match_subsystem_devtype(self, monitor: Held, subsystem: str, devtype: str | None) -> None:
        monitor.obj.filters.append((subsystem, devtype))

    def _monitor_filter_add_match_tag(self, monitor: Held, tag: str) -> None:
        monitor.obj.tags.append(tag)

    def _monitor_filter_update(self, monitor: Held) -> None:
        monitor.obj.update()

    def _monitor_filter_remove(self, monitor: Held) -> None:
        monitor.obj.filters.clear()
        monitor.obj.tags.clear()
        monitor.obj.update()

    # ---- enumerating

    def _enumerate_new(self, udev: int) -> Held:
        return self.hold(Enumerator(self.process), self.live.get(udev))

    def _enumerate_add_match_subsystem(self, enumerate: Held, name: str | None) -> None:
        _narrow(enumerate.obj, enumerate.obj.subsystems, name)

    def _enumerate_add_nomatch_subsystem(self, enumerate: Held, name: str | None) -> None:
        _narrow(enumerate.obj, enumerate.obj.not_subsystems, name)

    def _enumerate_add_match_sysname(self, enumerate: Held, name: str | None) -> None:
        _narrow(enumerate.obj, enumerate.obj.sysnames, name)

    def _enumerate_add_match_tag(self, enumerate: Held, tag: str | None) -> None:
        _narrow(enumerate.obj, enumerate.obj.tags, tag)

    def _enumerate_add_match_parent(self, enumerate: Held, parent: int) -> None:
        held = self.live.get(parent)
        _narrow(enumerate.obj, enumerate.obj.parents, None if held is None else held.obj.syspath)

    def _enumerate_add_match_sysattr(self, enumerate: Held, name: str | None, value: str | None) -> None:
        _narrow_by_value(enumerate.obj, enumerate.obj.sysattrs, name, value)

    def _enumerate_add_nomatch_sysattr(self, enumerate: Held, name: str | None, value: str | None) -> None:
        _narrow_by_value(enumerate.obj, enumerate.obj.not_sysattrs, name, value)

    def _enumerate_add_match_property(self, enumerate: Held, name: str | None, value: str | None) -> None:
        _narrow_by_value(enumerate.obj, enumerate.obj.properties, name, value)

    def _enumerate_add_match_is_initialized(self, enumerate: Held) -> None:
        enumerate.obj.only_set_up = True
        enumerate.obj.narrowed()

    def _enumerate_add_syspath(self, enumerate: Held, path: str | None) -> None:
        if path is not None:
            enumerate.obj.add(devices.from_syspath(self.process, path))

    def _enumerate_scan_devices(self, enumerate: Held) -> None:
        enumerate.obj.scan_devices()

    def _enumerate_scan_subsystems(self, enumerate: Held) -> None:
        enumerate.obj.scan_subsystems()

    def _enumerate_get_list_entry(self, enumerate: Held) -> Held:
        found = self.entries(enumerate, "devices", [(path, None) for path in enumerate.obj.result()])
        if found is None:
            raise err(ENODATA)
        return found

    # ---- the queue of udevd, which has done everything when anybody asks

    def _queue_new(self, udev: int) -> Held:
        return self.hold(None, self.live.get(udev))

    def _queue_get_kernel_seqnum(self, _queue: Held) -> int:
        return 0

    _queue_get_udev_seqnum = _queue_get_kernel_seqnum

    def _queue_get_udev_is_active(self, _queue: Held) -> int:
        return 1

    _queue_get_queue_is_empty = _queue_get_udev_is_active

    def _queue_get_seqnum_is_finished(self, *_args: Any) -> int:
        return 1

    _queue_get_seqnum_sequence_is_finished = _queue_get_seqnum_is_finished

    def _queue_get_queued_list_entry(self, _queue: Held) -> None:
        raise err(ENODATA)

    def _queue_get_fd(self, queue: Held) -> int:
        """A descriptor that never becomes readable."""
        if queue.obj is None:
            fd: int = self.process.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            queue.obj, queue.end = fd, lambda: self.process.close(fd)
        return int(queue.obj)

    def _queue_flush(self, queue: Held) -> None:
        if queue.obj is None:
            raise err(EINVAL)

    # ---- the hardware database is a file of the host, and so is the library that reads it

    def _hwdb_new(self, _udev: int) -> Held:
        host = ctypes.CDLL.__new__(ctypes.CDLL)
        try:
            self._load(host, SONAME, use_errno=True)
        except OSError:
            raise err(ENOENT) from None
        for name in ("new", "get_properties_list_entry"):
            getattr(host, f"udev_hwdb_{name}").restype = ctypes.c_void_p
        hwdb = host.udev_hwdb_new(None)
        if not hwdb:
            raise err(ctypes.get_errno() or ENOENT)
        held = self.hold((host, ctypes.c_void_p(hwdb)))
        held.end = lambda: host.udev_hwdb_unref(ctypes.c_void_p(hwdb))
        return held

    def _hwdb_get_properties_list_entry(self, hwdb: Held, modalias: str, flags: int) -> Held | None:
        host, pointer = hwdb.obj
        entry, rows = host.udev_hwdb_get_properties_list_entry(pointer, modalias.encode("latin-1"), flags), []
        next_, name, value = (getattr(host, f"udev_list_entry_get_{what}") for what in ("next", "name", "value"))
        next_.restype, name.restype, value.restype = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p
        while entry:
            at = ctypes.c_void_p(entry)
            rows.append((name(at).decode("latin-1"), value(at).decode("latin-1")))
            entry = next_(at)
        if not rows:
            raise err(ENODATA)
        return self.entries(hwdb, "properties", rows)

    # ---- strings

    def _util_encode_string(self, text: str, to: int, size: int) -> None:
        """src/shared/device-nodes.c:encode_devnode_name(). Raises EINVAL: it does not fit."""
        if not to:
            raise err(EINVAL)
        raw = text.encode("latin-1").decode("utf-8", "surrogateescape")
        encoded = b"".join(_encode(character) for character in raw)
        if len(encoded) >= size:
            raise err(EINVAL)
        ctypes.memmove(to, encoded + b"\0", len(encoded) + 1)


def _encode(character: str) -> bytes:
    raw = character.encode("utf-8", "surrogateescape")
    return raw if len(raw) > 1 or character in PLAIN else b"\\x%02x" % raw[0]


def _devtype(device: Device) -> str | None:
    device.devnum()  # reads the uevent file
    return device.devtype


def _subsystem(device: Device) -> str | None:
    try:
        return device.subsystem()
    except OSError as e:
        if e.errno != ENOENT:
            raise
        return None


def _narrow(enumerator: Enumerator, to: list[str], what: str | None) -> None:
    if what is not None:
        to.append(what)
        enumerator.narrowed()


def _narrow_by_value(enumerator: Enumerator, to: Patterns, name: str | None, value: str | None) -> None:
    if name is not None:
        to.setdefault(name, []).append(value)
        enumerator.narrowed()
