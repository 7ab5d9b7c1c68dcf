"""Questions on binding: what the drivers refuse and say, what the attributes take while things are enabled."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from idxd_device import BUS, Idxd, read, write
from probing import call

DEVICE_REFUSALS = [*range(1, 5), *range(0x10, 0x1A), 0x20, 0x31, 0x32, 0x41, 0xFF]
WQ_REFUSALS = [*range(1, 5), *range(0x20, 0x2E), 0x31, 0x41, 0xFF]
"""Completion codes of the commands "enable device" and "enable WQ"."""
GROUP_ATTRIBUTES = [
    *("use_read_buffer_limit", "read_buffers_allowed", "read_buffers_reserved", "tokens_allowed", "traffic_class_a"),
    *("traffic_class_b", "desc_progress_limit", "batch_progress_limit"),
]


def store_while_enabled(d: Idxd, what: str, wqs: Iterable[str]) -> None:
    """Texts that a disabled device refuses and takes, to every writable attribute."""
    for name, attributes in (
        (d.device, ["read_buffer_limit", "token_limit", "event_log_size", "cmd_status"]),
        (d.engine + "0", ["group_id"]),
        (d.group + "0", GROUP_ATTRIBUTES),
    ):
        for attribute in attributes:
            if d.has(name, attribute):
                for text in ("x", "99999", "64" if attribute == "event_log_size" else "0"):
                    d.store(name, attribute, text, what)
    for wq in wqs:
        _store_to_wq(d, what, wq)


def _store_to_wq(d: Idxd, what: str, wq: str) -> None:
    for attribute, good, bad in (
        ("group_id", "0", "99"),
        ("mode", "dedicated", "foo"),
        ("size", "16", "9999"),
        ("priority", "10", "99"),
        ("block_on_fault", "0", "x"),
        ("threshold", "1", "9999"),
        ("type", "user", "foo"),
        ("name", "app", "a" * 2000),
        ("driver_name", "user", "a" * 2000),
        ("max_transfer_size", "2097152", "0"),
        ("max_batch_size", "32", "0"),
        ("ats_disable", "0", "x"),
        ("prs_disable", "0", "x"),
        ("enqcmds_retries", "32", "x"),
        ("op_config", str(call(d.read, d.device, "op_cap")), "zz"),
    ):
        if d.has(wq, attribute):
            for text in (bad, good):
                d.store(wq, attribute, text, what)


def bind_errors(d: Idxd) -> None:
    """Every reason not to bind, from the bus to the hardware's completion codes."""
    d.clean()
    _wrong_names(d)
    _unfit_devices(d)
    _shared_queues(d)
    _device_refusals(d)
    _unfit_queues(d)
    for code in WQ_REFUSALS:
        d.setup(d.wq + "0", size=None)
        d.poke(3 | code << 8)
        if d.bind(d.wq + "0", "user", f"enable wq answers {code:#x}: "):
            d.unbind(d.wq + "0", "user")
    d.ask_read("type after", d.wq + "0", "type")
    d.clean()


def _wrong_names(d: Idxd) -> None:
    drivers, w, g, e = f"{BUS}/drivers", d.wq + "0", d.group + "0", d.engine + "0"

    def told(what: str, path: str, text: str | None) -> None:
        d.messages()
        result = call(read, path) if text is None else call(write, path, text)
        d.say(what, (result, *d.status(), d.messages()))

    told("bind junk", f"{drivers}/idxd/bind", "junk")
    told("bind empty", f"{drivers}/idxd/bind", "")
    told("bind newline", f"{drivers}/idxd/bind", "\n")
    told("bind a wq to idxd", f"{drivers}/idxd/bind", w)
    told("bind device to user", f"{drivers}/user/bind", d.device)
    told("bind group to idxd", f"{drivers}/idxd/bind", g)
    told("bind group to user", f"{drivers}/user/bind", g)
    told("bind engine to user", f"{drivers}/user/bind", e)
    told("unbind unbound", f"{drivers}/idxd/unbind", d.device)
    told("unbind junk", f"{drivers}/idxd/unbind", "junk")
    told("unbind wq unbound", f"{drivers}/user/unbind", w)
    told("read bind", f"{drivers}/idxd/bind", None)
    told("drivers_probe device", f"{BUS}/drivers_probe", d.device)
    told("drivers_probe wq", f"{BUS}/drivers_probe", w)
    told("drivers_probe junk", f"{BUS}/drivers_probe", "junk")
    told("drivers_probe group", f"{BUS}/drivers_probe", g)


def _unfit_devices(d: Idxd) -> None:
    w, e = d.wq + "0", d.engine
    d.bind(d.device, "idxd", "nothing configured: ")
    d.setup(w)
    d.bind(w, "user", "device disabled: ")
    d.bind(w, "dmaengine", "device disabled: ")
    d.ask_read("type after failed wq bind", w, "type")
    d.ask_read("name after", w, "name")
    d.bind(d.device, "idxd", "wq grouped, no engine: ")
    d.quiet(e + "0", "group_id", "1")
    d.bind(d.device, "idxd", "engine in another group: ")
    d.quiet(e + "1", "group_id", "0")
    d.bind(d.device, "idxd", "group 1 has an engine only: ")
    d.quiet(e + "0", "group_id", "-1")
    d.quiet(w, "size", "0")
    d.bind(d.device, "idxd", "size 0: ")
    d.ask_read("size after bind", w, "size")
    d.bind(d.device, "idxd", "again: ")
    d.ask("driver link", lambda: os.path.basename(os.readlink(d.path(d.device, "driver"))))
    d.ask("device entries", lambda: sorted(os.listdir(d.path(d.device))))
    d.ask("driver entries", lambda: sorted(os.listdir(f"{BUS}/drivers/idxd")))
    d.unbind(d.device, "idxd")
    d.unbind(d.device, "idxd", "again: ")
    d.ask_read("wq group after unbind", w, "group_id")
    d.ask_read("engine group", e + "1", "group_id")
    d.ask_read("wq size", w, "size")


def _shared_queues(d: Idxd) -> None:
    w, e = d.wq + "0", d.engine + "0"
    d.setup(w, mode="shared", type="none", name="\n")
    d.quiet(e, "group_id", "0")
    d.bind(d.device, "idxd", "shared, type none: ")
    d.setup(w, mode="shared", threshold="8")
    d.bind(d.device, "idxd", "shared user: ")
    d.bind(w, "user", "shared user: ")
    d.dump(w, "shared enabled ")
    d.unbind(w, "user")
    d.unbind(d.device, "idxd")
    d.setup(w, mode="shared", type="kernel", threshold="8", driver_name="dmaengine")
    d.quiet(e, "group_id", "0")
    d.bind(d.device, "idxd", "shared kernel: ")
    d.bind(w, "dmaengine", "shared kernel: ")
    d.unbind(w, "dmaengine")
    d.unbind(d.device, "idxd")


def _device_refusals(d: Idxd) -> None:
    for code in DEVICE_REFUSALS:
        d.setup(d.wq + "0")
        d.quiet(d.engine + "0", "group_id", "0")
        d.poke(3 | code << 8)
        if d.bind(d.device, "idxd", f"enable device answers {code:#x}: "):
            d.unbind(d.device, "idxd")
    call(write, f"{BUS}/drivers/idxd/unbind", d.device)


def _unfit_queues(d: Idxd) -> None:
    w, other = d.wq + "0", d.wq + "1"
    d.setup(w)
    d.quiet(d.engine + "0", "group_id", "0")
    d.bind(d.device, "idxd", "good: ")
    d.quiet(w, "group_id", "-1")
    d.bind(w, "user", "no group: ")
    d.ask_read("type after", w, "type")
    d.ask_read("name after", w, "name")
    d.bind(d.device, "idxd", "device again: ")
    d.setup(w, size=None, name=None, type=None)
    d.quiet(w, "type", "user")
    d.quiet(w, "name", "\n")
    d.bind(w, "user", "no name: ")
    _driver_names(d, w)
    d.setup(w, size=None, priority="0")
    d.bind(w, "user", "priority 0: ")
    d.setup(w, size=None, mode="shared", threshold="0")
    d.bind(w, "user", "shared, no threshold: ")
    d.setup(other, size=None, group_id="1")
    d.setup(w, size=None)
    d.bind(w, "user", "another wq in an engineless group: ")
    d.unbind(w, "user")
    d.quiet(other, "group_id", "0")
    d.bind(other, "user", "size 0 wq: ")
    d.ask_read("size", other, "size")
    d.quiet(other, "group_id", "-1")


def _driver_names(d: Idxd, w: str) -> None:
    d.setup(w, size=None, driver_name="dmaengine")
    d.bind(w, "user", "driver_name dmaengine: ")
    d.ask_read("type after", w, "type")
    d.setup(w, size=None, driver_name="\n")
    d.bind(w, "user", "driver_name empty: ")
    d.setup(w, size=None, driver_name="userx")
    d.bind(w, "user", "driver_name userx: ")
    d.unbind(w, "user")
    d.setup(w, size=None, driver_name="use")
    d.bind(w, "user", "driver_name use: ")


def enabled(d: Idxd) -> None:
    """The good paths: stores while enabled, the character device, several queues, the dmaengine driver."""
    w, second = d.wq + "0", d.wq + "1"
    d.clean()
    _two_queues(d)
    d.bind(d.device, "idxd")
    store_while_enabled(d, "device on: ", [w])
    d.ask_read("engine after", d.engine + "0", "group_id")
    d.setup(w, size=None)
    d.setup(second, size=None, name="second")
    d.bind(w, "user")
    store_while_enabled(d, "wq on: ", [w, second])
    d.quiet(d.engine + "0", "group_id", "0")
    d.quiet(second, "group_id", "0")
    d.setup(second, size=None, name="second")
    for name in (d.device, w, d.group + "0"):
        d.dump(name, "on ")
    d.ask("wq entries", lambda: sorted(os.listdir(d.path(w))))
    _character_device(d, w)
    _second_queue(d, w, second)
    _idle_queue(d, w, second)
    _dmaengine(d, w)
    _eight_queues(d)


def _two_queues(d: Idxd) -> None:
    d.setup(d.wq + "0")
    d.setup(d.wq + "1", name="second", size="8")
    d.quiet(d.engine + "0", "group_id", "0")


def _character_device(d: Idxd, w: str) -> None:
    cdev = d.cdev(w)
    d.ask("cdev dir", lambda: sorted(os.listdir(d.path(w, cdev))))
    d.ask("cdev link in bus", os.readlink, d.path(cdev))
    d.ask("cdev dev", lambda: re.sub(r"^\d+:", "MAJ:", str(d.read(w, f"{cdev}/dev"))))
    d.ask("cdev uevent", lambda: re.sub(r"MAJOR=\d+", "MAJOR=MAJ", str(d.read(w, f"{cdev}/uevent"))))
    d.ask("cdev subsystem", os.readlink, d.path(w, f"{cdev}/subsystem"))
    d.ask_read("cdev_minor", w, "cdev_minor")
    d.ask("node", lambda: (oct(os.stat(d.node(w)).st_mode), os.minor(os.stat(d.node(w)).st_rdev)))
    d.ask("wq driver link", lambda: os.path.basename(os.readlink(d.path(w, "driver"))))
    d.ask_read("wq uevent", w, "uevent")


def _second_queue(d: Idxd, w: str, second: str) -> None:
    d.bind(w, "user", "already: ")
    d.bind(w, "dmaengine", "already to user: ")
    d.bind(second, "user", "second: ")
    d.ask_read("minor of second", second, "cdev_minor")
    d.unbind(w, "dmaengine", "wrong driver: ")
    d.unbind(w, "user")
    d.ask("node gone", os.path.exists, d.node(w))
    d.dump(w, "after unbind ")
    d.setup(second, size=None, name=None, type=None, mode=None)
    d.bind(w, "user", "unconfigured again: ")
    d.setup(w, size=None)
    d.bind(w, "user", "reconfigured: ")
    d.ask_read("minor now", w, "cdev_minor")
    d.unbind(d.device, "idxd", "with two wqs on: ")
    for name in (d.device, w, second, d.group + "0", d.engine + "0"):
        d.dump(name, "after device unbind ")


def _idle_queue(d: Idxd, w: str, second: str) -> None:
    """The pitfall: an unbound queue is back to mode shared and type none, and still in its group."""
    _two_queues(d)
    d.bind(d.device, "idxd")
    d.bind(w, "user")
    d.unbind(w, "user")
    d.bind(second, "user", "with an idle grouped wq: ")
    d.quiet(w, "group_id", "-1")
    d.bind(second, "user", "idle wq ungrouped: ")
    d.clean()


def _dmaengine(d: Idxd, w: str) -> None:
    d.setup(w, type="kernel", driver_name="dmaengine", name="dma")
    d.quiet(d.engine + "0", "group_id", "0")
    d.bind(d.device, "idxd")
    d.bind(w, "dmaengine")
    d.ask("class dma", lambda: sorted(os.listdir("/sys/class/dma")))
    d.dump(w, "kernel on ")
    d.ask("dma channel", _dma_channels)
    d.unbind(w, "dmaengine")
    d.ask("class dma", lambda: sorted(os.listdir("/sys/class/dma")))
    d.clean()
    d.setup(w, driver_name="dmaengine", name="dma")
    d.quiet(d.engine + "0", "group_id", "0")
    d.bind(d.device, "idxd")
    d.bind(w, "dmaengine", "type user: ")
    d.ask_read("type now", w, "type")
    d.clean()


def _dma_channels() -> object:
    attributes = ("in_use", "bytes_transferred", "memcpy_count")
    return {a: read(f"/sys/class/dma/{channel}/{a}") for channel in os.listdir("/sys/class/dma") for a in attributes}


def _eight_queues(d: Idxd) -> None:
    for i in range(8):
        d.setup(f"{d.wq}{i}", group_id=str(i % 4), name=f"w{i}")
    for i in range(4):
        d.quiet(f"{d.engine}{i}", "group_id", str(i))
    d.bind(d.device, "idxd", "eight: ")
    for i in range(8):
        d.bind(f"{d.wq}{i}", "user", "eight: ")
    d.ask("minors", lambda: [d.read(f"{d.wq}{i}", "cdev_minor") for i in range(8)])
    d.ask(
        "groups",
        lambda: [(d.read(f"{d.group}{i}", "work_queues"), d.read(f"{d.group}{i}", "engines")) for i in range(4)],
    )
    d.unbind(d.wq + "3", "user")
    d.unbind(d.wq + "1", "user")
    d.setup(d.wq + "3", group_id="3", size=None, name="w3")
    d.setup(d.wq + "1", group_id="1", size=None, name="w1")
    d.bind(d.wq + "3", "user")
    d.ask_read("minor of wq 3", d.wq + "3", "cdev_minor")
    d.clean()


PARTS = {"bind errors": bind_errors, "enabled": enabled}
