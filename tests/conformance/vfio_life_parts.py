"""Questions on lifetimes: close orders, dup, fork, binding and unbinding, sysfs and nodes, the mdev bus."""

from __future__ import annotations

import fcntl
import os
import select
import stat
from collections.abc import Callable

import vfio_abi as abi
from driver_core_parts import describe
from probing import Probe, call, opened, read_text, write_text
from subject import BUS, ID, OTHER
from vfio_abi import plain, tried, u32
from vfio_client import CONTAINER, Fds, Memory, Vfio, bound, client, count, eventfds
from vfio_container_parts import device, set_container
from vfio_irq_parts import enable

P = 4096
STATUS = u32(8, 0)


def state(f: Fds) -> list[object]:
    """What each descriptor that is open still does: version, status, registers; mapping, and opening the node."""
    out: list[object] = []
    if f.container >= 0:
        out.append(("container", plain(f.container, abi.CHECK_EXTENSION, 10), abi.unmapped(f.container, 0x90000, P)))
    if f.group >= 0:
        out.append(("group", tried(f.group, abi.GROUP_GET_STATUS, STATUS)))
    if f.device >= 0:
        out.append(("device", call(os.pread, f.device, 4, abi.CONFIG), plain(f.device, abi.RESET)))
    return out


def close_orders(q: Probe) -> None:
    """Every order in which the three descriptors can be closed, and what the others then do."""
    memory = Memory(1)
    orders = [
        ("container", "group", "device"), ("container", "device", "group"), ("group", "container", "device"),
        ("group", "device", "container"), ("device", "group", "container"), ("device", "container", "group"),
    ]  # fmt: skip
    with bound(q) as v:
        for order in orders:
            with client(v) as f:
                abi.mapped(f.container, memory.address, 0, P)
                for name in order:
                    f.shut(name)
                    again = call(os.open, v.node, os.O_RDWR)
                    if isinstance(again, int):
                        os.close(again)
                        again = "opened"
                    q.say(f"{', '.join(order)}: {name} closed", (state(f), again))
            with client(v, None) as f:
                q.say(f"{', '.join(order)}: then a new client", plain(f.container, abi.SET_IOMMU, 3))


def copies(q: Probe) -> None:
    """dup of each; two descriptors of one device; a closed group with a device."""
    with bound(q) as v:
        for name in ("container", "group", "device"):
            with client(v) as f:
                copy = os.dup(getattr(f, name))
                f.shut(name)
                setattr(f, name, copy)
                q.say(f"{name}: the dup", state(f))
        with client(v) as f:
            two = f.open_device()
            q.say("two device descriptors", [call(os.pread, n, 2, abi.CONFIG) for n in (f.device, two)])
            f.set_config(0x3C, 0x42, 1)
            q.say("one configuration space", os.pread(two, 1, abi.CONFIG + 0x3C))
            f.shut("device")
            q.say("one closed", (call(os.pread, two, 1, abi.CONFIG + 0x3C), plain(f.group, abi.UNSET_CONTAINER)))
            os.close(two)
            three = f.open_device()
            q.say("both closed, a third", (os.pread(three, 1, abi.CONFIG + 0x3C), plain(f.group, abi.UNSET_CONTAINER)))
            f.shut("group")
            q.say("group closed", (call(os.pread, three, 2, abi.CONFIG), call(os.open, v.node, os.O_RDWR)))
            os.close(three)
            q.ask("device closed: open", lambda: os.close(os.open(v.node, os.O_RDWR)))


def forks(q: Probe) -> None:
    """Children: descriptors are shared, closing in one of them is no close; mappings outlive their maker."""
    memory = Memory(4)
    with bound(q) as v, client(v) as f:
        abi.mapped(f.container, memory.address, 0, P)
        child = v.host.in_child
        q.say("in a child", child(lambda: state(f)))
        q.say("a child's map", child(lambda: abi.mapped(f.container, memory.address + P, P, P)))
        q.say("seen by the parent", abi.unmapped(f.container, P, P))
        q.say("a child's map of what the parent has", child(lambda: abi.mapped(f.container, memory.address, 0, P)))
        q.say("a child unmaps", child(lambda: abi.unmapped(f.container, 0, P)))
        q.say("gone for the parent", abi.unmapped(f.container, 0, P))
        q.say("a child closes all", child(lambda: [call(os.close, n) for n in (f.container, f.device, f.group)]))
        q.say("the parent's", state(f))
        q.say("a child's device", child(lambda: device(f.group, v.addr)))
        with eventfds(1) as (e,):
            q.say("a child's eventfd", child(lambda: enable(f, abi.MSI, e)))
            q.say("fires for the parent", (abi.set_irqs(f.device, 33, abi.MSI, 0, 1), count(e)))
        q.say("user 65534 opens", child(lambda: os.open(v.node, os.O_RDWR), 65534))
        q.say(
            "user 65534 opens the container",
            child(lambda: plain(os.open(CONTAINER, os.O_RDWR), abi.GET_API_VERSION), 65534),
        )
        q.say("user 65534 uses the group", child(lambda: state(f), 65534))
        os.chmod(v.node, 0o666)
        q.say("user 65534 opens, mode 0666", child(lambda: os.open(v.node, os.O_RDWR), 65534))
    with bound(q) as v:
        q.say("mode after binding anew", stat.filemode(os.stat(v.node).st_mode))


def nodes(q: Probe) -> None:
    """sysfs and /dev before, while and after the device is bound."""
    v = Vfio(q)
    look(q, v, "unbound")
    with bound(q) as v:
        look(q, v, "bound")
        describe(q, v.at("vfio-dev"), "vfio-dev")
        one = v.at("vfio-dev/") + os.listdir(v.at("vfio-dev"))[0]
        describe(q, one, "vfio-dev/N")
        describe(q, os.path.realpath(f"/sys/class/vfio/{v.group_id}"), "class/vfio/GROUP", hide=("dev",))
        q.ask("class/vfio link", lambda: os.readlink(f"/sys/class/vfio/{v.group_id}"))
        q.ask(
            "class/vfio-dev link",
            lambda: os.readlink(f"/sys/class/vfio-dev/{os.path.basename(one)}").replace(v.real[4:], "DEVICE"),
        )
        dev = read_text(f"/sys/class/vfio/{v.group_id}/dev").rstrip("\n").split(":")
        st = os.stat(v.node)
        q.say("the node's number is dev's", [str(os.major(st.st_rdev)), str(os.minor(st.st_rdev))] == dev)
        q.say("its minor", dev[1])
        q.ask("dev/char link", lambda: os.readlink(f"/sys/dev/char/{':'.join(dev)}"))
        q.ask("uevent of the group", lambda: read_text(f"/sys/class/vfio/{v.group_id}/uevent").replace(dev[0], "MAJ"))
        describe(q, f"/sys/kernel/iommu_groups/{v.group_id}", "iommu group")
        describe(q, f"/sys/kernel/iommu_groups/{v.group_id}/devices", "iommu group's devices")
        with client(v):
            look(q, v, "open")
            q.ask("group's type, open", read_text, f"/sys/kernel/iommu_groups/{v.group_id}/type")
    look(q, v, "unbound again")
    for path in ("/sys/class/vfio", "/sys/class/vfio-dev", "/sys/class/misc/vfio"):
        q.ask(f"{path} entries", lambda path=path: sorted(os.listdir(path)))
    describe(q, os.path.realpath("/sys/class/misc/vfio"), "misc/vfio")
    group_type(q, v)


def look(q: Probe, v: Vfio, what: str) -> None:
    """What shows the state of the binding."""
    q.ask(f"{what}: /dev/vfio", lambda: sorted(n.replace(v.group_id, "GROUP") for n in os.listdir("/dev/vfio")))
    q.ask(f"{what}: class/vfio", lambda: [n.replace(v.group_id, "GROUP") for n in os.listdir("/sys/class/vfio")])
    q.ask(f"{what}: class/vfio-dev", lambda: os.listdir("/sys/class/vfio-dev"))
    q.ask(f"{what}: driver", v.driver)
    q.ask(
        f"{what}: names of the device", lambda: sorted({"vfio-dev", "iommu_group", "driver"} & set(os.listdir(v.real)))
    )
    q.ask(
        f"{what}: refcnt of vfio_pci, vfio",
        lambda: [read_text(f"/sys/module/{n}/refcnt") for n in ("vfio_pci", "vfio")],
    )
    q.ask(f"{what}: type 1's refcnt", read_text, "/sys/module/vfio_iommu_type1/refcnt")
    q.ask(
        f"{what}: power",
        lambda: [read_text(v.at(f"power/{n}")) for n in ("runtime_status", "control", "runtime_usage")],
    )
    q.ask(f"{what}: enable, power_state", lambda: [read_text(v.at(n)) for n in ("enable", "power_state")])


def group_type(q: Probe, v: Vfio) -> None:
    """Stores to an IOMMU group's type, and its other files."""
    path = f"/sys/kernel/iommu_groups/{v.group_id}"
    texts = [
        "DMA",
        "DMA\n",
        "DMA-FQ",
        "identity",
        "auto",
        "auto\n",
        "blocked",
        "unmanaged",
        "x",
        "",
        "\n",
        "identity ",
        "Identity",
    ]
    q.stores(f"{path}/type", texts)
    with bound(q) as v:
        q.stores(f"{path}/type", ["DMA", "identity", "auto", "x"], "bound type")
        with client(v):
            q.stores(f"{path}/type", ["DMA", "identity", "auto", "x"], "used type")
    write_text(f"{path}/type", "auto")
    q.ask("write reserved_regions", write_text, f"{path}/reserved_regions", "x")
    q.ask("name", read_text, f"{path}/name")
    q.ask("make a directory there", os.mkdir, f"{path}/x")


def binding(q: Probe) -> None:
    """Bind and unbind vfio-pci: overrides, ids, another driver, an open group."""
    v = Vfio(q)
    q.say("bind without an override", v.then(f"{OTHER}/bind", v.addr))
    for name in ("vfio-pci", "vfio_pci", "vfio-pci ", "VFIO-PCI", "pci-stub", "none"):
        write_text(v.at("driver_override"), name)
        q.say(f"override {name!r}: bind", v.then(f"{OTHER}/bind", v.addr))
        q.say(f"override {name!r}: probe", v.then(f"{BUS}/drivers_probe", v.addr))
        v.release()
    q.say("new_id", v.then(f"{OTHER}/new_id", ID))
    q.say("new_id again", v.then(f"{OTHER}/new_id", ID))
    q.say("unbind", v.then(f"{OTHER}/unbind", v.addr))
    q.say("bind by id", v.then(f"{OTHER}/bind", v.addr))
    q.say("bind twice", v.then(f"{OTHER}/bind", v.addr))
    q.say("remove_id while bound", v.then(f"{OTHER}/remove_id", ID))
    q.say("still", v.driver())
    q.say("override while bound", v.then(v.at("driver_override"), "pci-stub"))
    q.say("probe while bound", v.then(f"{BUS}/drivers_probe", v.addr))
    q.say("unbind of another", [v.then(f"{OTHER}/unbind", text) for text in ("", "\n", "0000:00:00.0", "x")])
    q.say("unbind with a newline", v.then(f"{OTHER}/unbind", v.addr + "\n"))
    q.say("unbind unbound", v.then(f"{OTHER}/unbind", v.addr))
    v.release()
    write_text(v.at("driver_override"), "vfio-pci")
    q.say("drivers_probe with an override", v.then(f"{BUS}/drivers_probe", v.addr))
    g = os.open(v.node, os.O_RDWR)
    q.say("group open: unbind", v.then(f"{OTHER}/unbind", v.addr))
    q.say("the open group", [tried(g, abi.GROUP_GET_STATUS, STATUS), device(g, v.addr), plain(g, abi.UNSET_CONTAINER)])
    with opened(CONTAINER, os.O_RDWR) as c:
        q.say("the open group: SET_CONTAINER", (set_container(g, c), plain(c, abi.SET_IOMMU, 3), device(g, v.addr)))
        q.say("while its group is in use: bind", v.then(f"{OTHER}/bind", v.addr))
        q.say("the open group: status", tried(g, abi.GROUP_GET_STATUS, STATUS))
        q.say("the open group: device", device(g, v.addr))
        q.ask("node", lambda: os.close(os.open(v.node, os.O_RDWR)))
    os.close(g)
    q.say("after it: driver", v.driver())
    v.release()
    owned(q, v)


def owned(q: Probe, v: Vfio) -> None:
    """The group's DMA is a user's: other drivers cannot have the device; another driver's device makes no group."""
    v.bind()
    with client(v) as f:
        f.shut("device")
        q.say("user owned: unbind", v.then(f"{OTHER}/unbind", v.addr))
        write_text(v.at("driver_override"), "pci-stub")
        q.say("user owned: bind pci-stub", v.then(f"{BUS}/drivers/pci-stub/bind", v.addr))
        q.say("status", tried(f.group, abi.GROUP_GET_STATUS, STATUS))
        q.say("maps", abi.mapped(f.container, Memory(1).address, 0, P))
        q.say("device", device(f.group, v.addr))
    q.say("released: bind pci-stub", v.then(f"{BUS}/drivers/pci-stub/bind", v.addr))
    q.say("node", call(os.stat, v.node))
    v.release()


def blocking_unbind(q: Probe) -> None:
    """Unbind waits for the last device descriptor, and asks by the REQ eventfd, at once and every ten seconds."""
    for what in ("with an eventfd", "without"):
        with bound(q) as v, client(v) as f, eventfds(1) as (e,):
            if what != "without":
                enable(f, abi.REQ, e)
            done: list[object] = []
            thread = v.host.meanwhile(lambda done=done, v=v: done.append(call(write_text, f"{OTHER}/unbind", v.addr)))
            q.say(f"{what}: asked", count(e, 3000))
            q.say(f"{what}: waits", list(done))
            q.say(f"{what}: the device works", (call(f.config, 0, 2), plain(f.device, abi.RESET)))
            q.say(f"{what}: status", tried(f.group, abi.GROUP_GET_STATUS, STATUS))
            q.say(f"{what}: a second device descriptor", device(f.group, v.addr))
            q.say(f"{what}: sysfs", (v.driver(), sorted({"vfio-dev", "driver"} & set(os.listdir(v.real)))))
            q.say(f"{what}: asked again", (count(e, 12000), list(done)))
            f.shut("device")
            thread.join()
            q.say(f"{what}: device closed", (done, v.driver()))
            q.say(f"{what}: the group", [tried(f.group, abi.GROUP_GET_STATUS, STATUS), device(f.group, v.addr)])
            q.say(f"{what}: node", call(os.open, v.node, os.O_RDWR))
            f.shut("group")
            q.say(f"{what}: group closed", call(os.stat, v.node))
            v.clear()


def mdev_bus(q: Probe) -> None:
    """The mdev module's face without a parent."""
    describe(q, "/sys/bus/mdev", "bus/mdev")
    describe(q, "/sys/bus/mdev/devices", "bus/mdev/devices")
    describe(q, "/sys/bus/mdev/drivers", "bus/mdev/drivers")
    describe(q, "/sys/class/mdev_bus", "class/mdev_bus")
    q.stores("/sys/bus/mdev/drivers_probe", ["x", "", "12345678-1234-1234-1234-123456789abc", "\n"])
    q.stores("/sys/bus/mdev/drivers_autoprobe", ["0", "1", "x"])
    q.stores("/sys/bus/mdev/uevent", ["add", "x"])
    skip = ("coresize", "notes", "sections", "srcversion", "version", "vermagic")
    for name in ("mdev", "vfio", "vfio_pci", "vfio_pci_core", "vfio_iommu_type1"):
        describe(q, f"/sys/module/{name}", f"module/{name}", skip)
        q.ask(f"module/{name}/version", read_text, f"/sys/module/{name}/version")
        q.ask(f"module/{name}/parameters", lambda name=name: sorted(os.listdir(f"/sys/module/{name}/parameters")))
    q.ask("module vfio_virqfd", kind_of, "/sys/module/vfio_virqfd")


def kind_of(path: str) -> str:
    """Of the file itself."""
    return stat.filemode(os.lstat(path).st_mode)


def epolls(q: Probe) -> None:
    """select, poll and epoll on the three descriptors; non-blocking; fcntl."""
    with bound(q) as v, client(v) as f:
        for name in ("container", "group", "device"):
            fd = getattr(f, name)
            q.ask(f"{name}: select", lambda fd=fd: [len(part) for part in select.select([fd], [fd], [fd], 0)])

            def epoll(fd: int = fd) -> object:
                with select.epoll() as e:
                    e.register(fd, select.EPOLLIN | select.EPOLLOUT)
                    return len(e.poll(0))

            q.ask(f"{name}: epoll", epoll)
            q.ask(f"{name}: O_NONBLOCK", lambda fd=fd: fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK))
            q.ask(f"{name}: O_APPEND", lambda fd=fd: fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND))
            q.ask(f"{name}: O_ASYNC", lambda fd=fd: fcntl.fcntl(fd, fcntl.F_SETFL, os.O_ASYNC))
            q.ask(f"{name}: F_GETFL", lambda fd=fd: oct(fcntl.fcntl(fd, fcntl.F_GETFL)))
            q.ask(f"{name}: fchmod", lambda fd=fd: os.fchmod(fd, os.fstat(fd).st_mode & 0o777))
            q.ask(
                f"{name}: fstat", lambda fd=fd: (os.fstat(fd).st_size, os.fstat(fd).st_nlink, os.fstat(fd).st_blksize)
            )
            q.ask(f"{name}: fdatasync", lambda fd=fd: os.fdatasync(fd))


Part = Callable[[Probe], None]
PARTS: dict[str, Part] = {
    "close orders": close_orders,
    "copies": copies,
    "forks": forks,
    "nodes and sysfs": nodes,
    "binding vfio-pci": binding,
    "blocking unbind": blocking_unbind,
    "mdev bus": mdev_bus,
    "readiness": epolls,
}
