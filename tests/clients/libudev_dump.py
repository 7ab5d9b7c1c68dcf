"""All that libudev says of /sys, by ctypes, as JSON: run with the host's library and with ours."""

import ctypes
import json
import os
import sys
from ctypes import c_char, c_char_p, c_int, c_size_t, c_ulonglong, c_void_p

STRINGS = ("devpath", "subsystem", "devtype", "syspath", "sysname", "sysnum", "devnode", "driver", "action")
UDEVS_OWN = ("USEC_INITIALIZED", "TAGS", "CURRENT_TAGS", "DEVLINKS")  # the host's database is not the machine's
NET = "/virtual/net/"  # programs see the host's
SEARCHES = {
    "everything": (),
    "a bus": (("match_subsystem", "dsa"),),
    "a pattern": (("match_subsystem", "p*"),),
    "two": (("match_subsystem", "pci"), ("match_subsystem", "dsa"), ("match_sysname", "*0.0")),
    "not": (("nomatch_subsystem", "mem"), ("nomatch_subsystem", "module")),
    "attribute": (("match_sysattr", "vendor", "0x8086"),),
    "attribute that is there": (("match_sysattr", "max_engines", None),),
    "not attribute": (("match_subsystem", "dsa"), ("nomatch_sysattr", "group_id", "-1")),
    "property": (("match_property", "DEVTYPE", "wq"), ("match_property", "DRIVER", "id?d")),
    "tag": (("match_tag", "systemd"),),
    "no such bus": (("match_subsystem", "nothing"),),
    "module": (("match_subsystem", "module"),),
    "drivers": (("match_subsystem", "drivers"),),
    "subsystem": (("match_subsystem", "subsystem"),),
}
MADE = (
    ("new_from_syspath", "/sys/bus/pci/devices/0000:6a:01.0"),
    ("new_from_syspath", "/sys/bus/pci/drivers/idxd"),
    ("new_from_syspath", "/sys/module/idxd"),
    ("new_from_syspath", "/sys/bus/dsa/devices/../devices/wq0.1"),
    ("new_from_syspath", "/sys/devices/pci0000:6a"),
    ("new_from_syspath", "/sys/bus"),
    ("new_from_syspath", "/sys"),
    ("new_from_syspath", "/sys/nothing"),
    ("new_from_syspath", "/sys/bus/dsa/devices/wq0.0/size"),
    ("new_from_syspath", "/sys/devices/pci0000:6a/0000:6a:01.0/power"),
    ("new_from_syspath", "/etc"),
    ("new_from_syspath", ""),
    ("new_from_syspath", "/dev/null"),
    ("new_from_device_id", "c1:3"),
    ("new_from_device_id", "b1:3"),
    ("new_from_device_id", "c0:0"),
    ("new_from_device_id", "+pci:0000:6a:01.0"),
    ("new_from_device_id", "+drivers:pci:idxd"),
    ("new_from_device_id", "+dsa:dsa0"),
    ("new_from_device_id", "+dsa:"),
    ("new_from_device_id", "dsa0"),
    ("new_from_device_id", "c1"),
    ("new_from_device_id", ""),
    ("new_from_device_id", "n"),
    ("new_from_subsystem_sysname", "pci", "0000:6a:01.0"),
    ("new_from_subsystem_sysname", "subsystem", "dsa"),
    ("new_from_subsystem_sysname", "subsystem", "mem"),
    ("new_from_subsystem_sysname", "drivers", "dsa:user"),
    ("new_from_subsystem_sysname", "drivers", "dsa:drivers"),
    ("new_from_subsystem_sysname", "module", "idxd"),
    ("new_from_subsystem_sysname", "mem", "null"),
    ("new_from_subsystem_sysname", "dsa", "nothing"),
    ("new_from_subsystem_sysname", "dsa", "../dsa"),
    ("new_from_subsystem_sysname", "", "dsa0"),
)


class Udev:
    """The library, with types set as a careful program does."""

    def __init__(self) -> None:
        lib = self.lib = ctypes.CDLL("libudev.so.1", use_errno=True)
        for name in ("udev_new", "udev_enumerate_new", "udev_device_get_parent", "udev_monitor_new_from_netlink"):
            getattr(lib, name).restype = c_void_p
        for kind in ("properties", "sysattr", "tags", "devlinks"):
            getattr(lib, f"udev_device_get_{kind}_list_entry").restype = c_void_p
        for name in STRINGS:
            getattr(lib, f"udev_device_get_{name}").restype = c_char_p
        for name in ("new_from_syspath", "new_from_device_id", "new_from_subsystem_sysname", "new_from_devnum"):
            getattr(lib, f"udev_device_{name}").restype = c_void_p
        lib.udev_device_get_parent_with_subsystem_devtype.restype = c_void_p
        lib.udev_device_get_sysattr_value.restype = c_char_p
        lib.udev_device_get_property_value.restype = c_char_p
        lib.udev_device_get_devnum.restype = c_ulonglong
        lib.udev_device_new_from_devnum.argtypes = (c_void_p, c_char, c_ulonglong)
        lib.udev_enumerate_get_list_entry.restype = c_void_p
        lib.udev_list_entry_get_next.restype = c_void_p
        lib.udev_list_entry_get_name.restype = c_char_p
        lib.udev_list_entry_get_value.restype = c_char_p
        lib.udev_util_encode_string.argtypes = (c_char_p, c_char_p, c_size_t)
        lib.udev_util_encode_string.restype = c_int
        self.udev = c_void_p(lib.udev_new())

    def call(self, name, *args):
        ctypes.set_errno(0)
        texts = [a.encode() if isinstance(a, str) else a for a in args]
        return getattr(self.lib, f"udev_{name}")(*texts)

    def rows(self, entry):
        while entry:
            value = self.lib.udev_list_entry_get_value(c_void_p(entry))
            yield _text(self.lib.udev_list_entry_get_name(c_void_p(entry))), _text(value)
            entry = self.lib.udev_list_entry_get_next(c_void_p(entry))

    def device(self, pointer):
        """What it says of one device, in an order that a program may ask in."""
        dev = c_void_p(pointer)
        told = {name: _text(self.call(f"device_get_{name}", dev)) for name in STRINGS}
        told["devnum"] = self.call("device_get_devnum", dev)
        told["seqnum"] = self.call("device_get_seqnum", dev)
        properties = dict(self.rows(self.call("device_get_properties_list_entry", dev)))
        kernels = {k: v for k, v in properties.items() if k not in UDEVS_OWN and not str(k).startswith("ID_")}
        told["properties"] = kernels
        told["DRIVER"] = _text(self.call("device_get_property_value", dev, "DRIVER"))
        told["NOTHING"] = [_text(self.call("device_get_property_value", dev, "NOTHING")), ctypes.get_errno()]
        names = [name for name, _ in self.rows(self.call("device_get_sysattr_list_entry", dev))]
        told["sysattrs"] = [(name, *self.sysattr(dev, name)) for name in (*names, "power", "nothing")]
        parent = self.call("device_get_parent", dev)
        told["parent"] = _text(self.call("device_get_syspath", c_void_p(parent))) if parent else None
        above = self.call("device_get_parent_with_subsystem_devtype", dev, "pci", None)
        told["pci"] = _text(self.call("device_get_syspath", c_void_p(above))) if above else ctypes.get_errno()
        return told

    def sysattr(self, dev, name):
        value = self.call("device_get_sysattr_value", dev, name)
        return (_text(value), 0) if value is not None else (None, ctypes.get_errno())

    def search(self, rows, *scans):
        found = c_void_p(self.lib.udev_enumerate_new(self.udev))
        told = [self.call(f"enumerate_add_{name}", found, *args) for name, *args in rows]
        for scan in scans:
            told.append(self.call(f"enumerate_{scan}", found))
            rows_found = self.rows(self.call("enumerate_get_list_entry", found))
            names = [name for name, _ in rows_found if NET not in str(name)]
            told.append(names or ctypes.get_errno())
        return told

    def of_parent(self, path, *rows):
        found = c_void_p(self.lib.udev_enumerate_new(self.udev))
        self.call("enumerate_add_match_parent", found, c_void_p(self.call("device_new_from_syspath", self.udev, path)))
        for name, *args in rows:
            self.call(f"enumerate_add_{name}", found, *args)
        self.call("enumerate_scan_devices", found)
        return [name for name, _ in self.rows(self.call("enumerate_get_list_entry", found))]

    def made(self, name, *args):
        pointer = self.call(f"device_{name}", self.udev, *args)
        return _text(self.call("device_get_syspath", c_void_p(pointer))) if pointer else ctypes.get_errno()

    def wrong(self):
        """What it says to calls that are wrong."""
        dev = c_void_p(self.call("device_new_from_syspath", self.udev, "/sys/bus/dsa/devices/wq0.0"))
        monitor = self.call("monitor_new_from_netlink", self.udev, "nothing")
        room = ctypes.create_string_buffer(64)
        return {
            "no device": [self.call("device_get_syspath", None), ctypes.get_errno()],
            "no name": [self.call("device_get_property_value", dev, None), ctypes.get_errno()],
            "set, wrong": self.call("device_set_sysattr_value", dev, "size", "100000"),
            "set, right": [
                self.call("device_set_sysattr_value", dev, "priority", "5\n"),
                self.sysattr(dev, "priority"),
            ],
            "set, nothing": self.call("device_set_sysattr_value", dev, "nothing", "1"),
            "set, long": self.call("device_set_sysattr_value", dev, "name", "x" * 5000),
            "forget": [self.call("device_set_sysattr_value", dev, "priority", None), self.sysattr(dev, "priority")],
            "monitor": [monitor, ctypes.get_errno()],
            "devnum": self.call("device_new_from_devnum", self.udev, b"x", os.makedev(1, 3)),
            "encode": [self.call("util_encode_string", "a b/ü\\", room, 64), room.value.decode()],
            "encode, short": self.call("util_encode_string", "abc", room, 3),
        }


def _text(value):
    return None if value is None else value.decode("latin-1")


def dump():
    """Everything."""
    udev = Udev()
    searches = {name: udev.search(rows, "scan_devices") for name, rows in SEARCHES.items()}
    searches |= {f"{name}: others": udev.search(rows, "scan_subsystems") for name, rows in SEARCHES.items()}
    searches["again"] = udev.search((), "scan_devices", "scan_subsystems")
    everything = [*searches["everything"][-1], *searches["everything: others"][-1]]
    return {
        "searches": searches,
        "devices": [udev.device(udev.call("device_new_from_syspath", udev.udev, path)) for path in everything],
        "parent": udev.of_parent("/sys/bus/pci/devices/0000:6a:01.0", ("match_subsystem", "dsa")),
        "parent itself": udev.of_parent("/sys/bus/dsa/devices/wq0.0"),
        "made": [(*row, udev.made(*row)) for row in MADE],
        "wrong": udev.wrong(),
    }


if __name__ == "__main__":
    json.dump(dump(), sys.stdout)
