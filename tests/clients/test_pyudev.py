"""pyudev, unmodified, in the test's own process; and libudev's functions beside the host's libudev on the same tree."""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import importlib.util
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pyudev

import pykernel
from pykernel.kernel import Kernel
from pykernel.tools.dsa import enable_wq

DSA = "0000:6a:01.0"
DUMP = Path(__file__).parent / "libudev_dump.py"
IDXD = "/sys/bus/pci/drivers/idxd"

pytestmark = pytest.mark.kernel(machine="dsa")


@pytest.fixture
def context(kernel: Kernel) -> pyudev.Context:
    """pyudev's context; its library is ours."""
    return pyudev.Context()


def _dump() -> Any:
    spec = importlib.util.spec_from_file_location("libudev_dump", DUMP)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return json.loads(json.dumps(module.dump()))


@pytest.mark.parametrize("enabled", [False, True])
def test_what_libudev_says_is_what_the_hosts_libudev_says(enabled: bool) -> None:
    """Of every device, property, attribute and search: the real library looks at the same tree from a child."""

    def machine() -> Kernel:
        kernel = pykernel.boot("dsa")
        if enabled:
            enable_wq(kernel.process(), "wq0.0")
        return kernel

    with machine().patched():
        mine = _dump()
    with machine().patched():
        # libudev asks statfs(2) whether /sys is sysfs, unless it is told not to
        env = {**os.environ, "SYSTEMD_DEVICE_VERIFY_SYSFS": "0"}
        done = subprocess.run([sys.executable, str(DUMP)], env=env, capture_output=True, text=True)
    if "libudev.so.1: cannot open" in done.stderr and not os.environ.get("CI"):
        pytest.skip("no libudev: apt-get install libudev1")
    assert done.stderr == ""
    real = json.loads(done.stdout)

    assert len(mine["devices"]) > 80
    for part, told in real.items():
        assert mine[part] == told, part


def test_devices(context: pyudev.Context) -> None:
    """Enumerating finds what sysfs has, with the names that it has."""
    found = list(context.list_devices(subsystem="pci"))
    assert [device.sys_name for device in found] == [DSA, "0000:6a:02.0", "0000:6f:01.0"]
    assert {device.driver for device in found} == {"idxd"}
    queues = list(context.list_devices(subsystem="dsa", DEVTYPE="wq"))
    assert {device.device_type for device in queues} == {"wq"}
    assert "wq0.0" in {device.sys_name for device in queues}
    assert [d.sys_name for d in context.list_devices(subsystem="dsa").match_attribute("max_engines", "4")][:1] == [
        "dsa0"
    ]


def test_a_device(context: pyudev.Context) -> None:
    """Properties are those of the uevent file, attributes the text without newline, parents the directories above."""
    pci = pyudev.Devices.from_path(context, f"/sys/bus/pci/devices/{DSA}")
    assert dict(pci.properties) == {
        "DEVPATH": f"/devices/pci0000:6a/{DSA}", "SUBSYSTEM": "pci", "DRIVER": "idxd", "PCI_CLASS": "88000",
        "PCI_ID": "8086:0B25", "PCI_SUBSYS_ID": "8086:0000", "PCI_SLOT_NAME": DSA,
        "MODALIAS": "pci:v00008086d00000B25sv00008086sd00000000bc08sc80i00",
    }  # fmt: skip
    assert pci.attributes.asstring("vendor") == "0x8086"
    assert pci.attributes.asint("numa_node") in (0, -1)
    with pytest.raises(KeyError):
        pci.attributes.asstring("nothing")
    dsa = pyudev.Devices.from_name(context, "dsa", "dsa0")
    assert (dsa.parent, dsa.find_parent("pci"), dsa.driver) == (pci, pci, None)
    assert dsa in list(pci.children)
    with pytest.raises(pyudev.DeviceNotFoundAtPathError):
        pyudev.Devices.from_path(context, "/sys/bus/pci/devices/0000:00:00.0")


def test_a_device_node(kernel: Kernel, context: pyudev.Context) -> None:
    """A queue's node leads to its device, and udev has set it up."""
    enable_wq(kernel.process(), "wq0.0")
    device = pyudev.Devices.from_device_file(context, "/dev/dsa/wq0.0")
    number = os.stat("/dev/dsa/wq0.0").st_rdev
    assert (device.device_node, device.device_number) == ("/dev/dsa/wq0.0", number)
    assert device.properties["DEVNAME"] == "/dev/dsa/wq0.0"
    assert (device.properties["MAJOR"], device.properties["MINOR"]) == (str(os.major(number)), str(os.minor(number)))
    assert device.is_initialized
    assert pyudev.Devices.from_device_number(context, "char", number) == device
    assert device.parent is not None
    assert device.parent.sys_name == "wq0.0"


def _rebind() -> None:
    Path(IDXD, "unbind").write_text(DSA)
    Path(IDXD, "bind").write_text(DSA)


@pytest.mark.parametrize("source", ["kernel", "udev"])
def test_a_monitor(context: pyudev.Context, source: str) -> None:
    """Events come in their order, with the properties of the event; only those that the filter passes."""
    monitor = pyudev.Monitor.from_netlink(context, source)
    monitor.filter_by("pci")
    assert monitor.poll(0) is None
    _rebind()
    Path(f"/sys/bus/pci/devices/{DSA}/uevent").write_text("change\n")

    events = list(iter(lambda: monitor.poll(0), None))
    assert [event.action for event in events] == ["unbind", "bind", "change"]
    assert {event.sys_name for event in events} == {DSA}
    assert [event.driver for event in events[1:]] == ["idxd", "idxd"]
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(numbers)
    assert "MODALIAS" not in events[0].properties
    assert events[2].properties["SYNTH_UUID"] == "0"
    assert [event.is_initialized for event in events] == [source == "udev"] * 3
    assert ("USEC_INITIALIZED" in events[1].properties) == (source == "udev")


def test_a_monitor_of_one_kind(context: pyudev.Context) -> None:
    monitor = pyudev.Monitor.from_netlink(context)
    monitor.filter_by("dsa", "wq")
    monitor.start()
    _rebind()
    events = list(iter(lambda: monitor.poll(0), None))
    assert {event.device_type for event in events} == {"wq"}
    assert [event.action for event in events[:8]] == ["remove"] * 8
    monitor.remove_filter()
    Path(f"/sys/bus/pci/devices/{DSA}/uevent").write_text("change\n")
    assert getattr(monitor.poll(1), "action", None) == "change"


def test_an_observer(context: pyudev.Context) -> None:
    """A thread of pyudev's own hears of what this one does."""
    heard: list[tuple[str, str]] = []
    enough = threading.Event()

    def hear(device: pyudev.Device) -> None:
        heard.append((str(device.action), device.sys_name))
        if len(heard) == 2:
            enough.set()

    monitor = pyudev.Monitor.from_netlink(context, "kernel")
    monitor.filter_by("pci")
    monitor.start()  # the thread would, some time later
    observer = pyudev.MonitorObserver(monitor, callback=hear, name="observer")
    observer.start()
    _rebind()
    assert enough.wait(30)
    observer.stop()
    assert heard == [("unbind", DSA), ("bind", DSA)]


def test_the_descriptor_of_a_monitor(context: pyudev.Context) -> None:
    """select, poll, epoll and asyncio wait for it."""
    monitor = pyudev.Monitor.from_netlink(context, "kernel")
    monitor.start()
    fd = monitor.fileno()
    poll, epoll = select.poll(), select.epoll()
    poll.register(fd, select.POLLIN)
    epoll.register(fd, select.EPOLLIN)
    assert (select.select([fd], [], [], 0)[0], poll.poll(0), epoll.poll(0)) == ([], [], [])
    _rebind()
    assert (select.select([fd], [], [], 0)[0], poll.poll(0), epoll.poll(0)) == ([fd], [(fd, 1)], [(fd, 1)])
    epoll.close()

    async def first() -> str:
        loop, heard = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(fd, heard.set)
        await asyncio.wait_for(heard.wait(), 30)
        loop.remove_reader(fd)
        return str(getattr(monitor.poll(0), "action", None))

    assert asyncio.run(first()) == "remove"


def test_the_library_itself(kernel: Kernel) -> None:
    """argtypes, restype and errcheck are honoured; names that libudev has not are an AttributeError."""
    found = ctypes.util.find_library("udev")
    assert found is not None
    lib = ctypes.CDLL(found, use_errno=True)
    assert lib.udev_new is lib.udev_new
    assert not hasattr(lib, "udev_get_sys_path")  # libudev has it no longer
    lib.udev_new.restype = ctypes.c_void_p
    udev = ctypes.c_void_p(lib.udev_new())
    make = lib.udev_device_new_from_syspath
    make.argtypes, make.restype = (ctypes.c_void_p, ctypes.c_char_p), ctypes.c_void_p
    with pytest.raises(ctypes.ArgumentError):
        make(udev, 1)

    def check(result: Any, _function: Any, _arguments: Any) -> Any:
        return result or ctypes.get_errno()

    make.errcheck = check
    assert make(udev, b"/sys/nothing") == 19
    lib.udev_unref(udev)
    assert ctypes.CDLL(None).getpid() == os.getpid()


def test_outside_the_context_libudev_is_the_hosts() -> None:
    kernel = pykernel.boot("dsa")
    with kernel.patched():
        inside = type(ctypes.CDLL("libudev.so.1"))
    kernel.shutdown()
    assert inside.__name__ == "LibUdev"
    found: Callable[..., Any] = ctypes.util.find_library
    assert found("udev") is None or type(ctypes.CDLL(str(found("udev")))) is ctypes.CDLL
