"""A machine with an accelerator whose queue 0 is a dedicated one for mdevs and queue 1 a shared one; and a VMM."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from vfioclient import Container, Device, Region

from pykernel.iommu.ioasid import (
    IOASID_SET_TYPE_MM,
    IoasidSet,
    ioasid_alloc,
    ioasid_alloc_set,
    ioasid_attach_spid,
    ioasid_detach_spid,
    ioasid_flush_work,
    ioasid_free,
    ioasid_free_all_in_set,
    ioasid_set_free,
)
from pykernel.kernel import Kernel
from pykernel.machine import Cpu, IommuSpec, Machine, PciSpec
from pykernel.pci.core import Pci
from pykernel.start import boot

ADDRESS = "0000:6a:01.0"
BUS = "/sys/bus/dsa"
TYPES = f"/sys/class/mdev_bus/{ADDRESS}/mdev_supported_types"
MDEVS = "/sys/bus/mdev/devices"
DWQ, SWQ = "idxd-dsa-1dwq-v1", "idxd-dsa-1swq-v1"
HOST: dict[int, dict[str, str | int]] = {
    0: {"mode": "dedicated", "size": 16},
    1: {"mode": "shared", "size": 32, "threshold": 24, "block_on_fault": 1},
}

# CMD
ENABLE_DEV, DISABLE_DEV, DRAIN_ALL, ABORT_ALL, RESET_DEV = 1, 2, 3, 4, 5
ENABLE_WQ, DISABLE_WQ, DRAIN_WQ, ABORT_WQ, RESET_WQ, DRAIN_PASID, ABORT_PASID, REQUEST_INT, RELEASE_INT = range(6, 15)


def code(e: OSError) -> str:
    """The name of its errno."""
    return errno.errorcode[e.errno or 0]


class Host:
    """The kernel with the accelerator, and a process with all rights."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.proc = kernel.process(comm="host")
        self.made = 0

    @property
    def silicon(self) -> Any:
        """The function in the slot."""
        return self.kernel.sub(Pci).slots[ADDRESS].function

    def put(self, path: str, text: str | int) -> str:
        """One store: "" or the name of the errno."""
        try:
            self.proc.write_text(path, str(text))
        except OSError as e:
            return code(e)
        return ""

    def get(self, attr: str) -> str:
        """An attribute of the bus, stripped."""
        return self.proc.read_text(f"{BUS}/devices/{attr}").strip()

    def configure(self, n: int, **over: str | int) -> None:
        """A queue for mdevs, or what *over* says."""
        rows: dict[str, str | int] = {"group_id": 0, **HOST.get(n, HOST[0]), "priority": 10, "type": "mdev",
                                      "name": "guests"}  # fmt: skip
        if self.kernel.profile.idxd_driver_name:
            rows["driver_name"] = "mdev"
        for attr, text in (rows | over).items():
            assert self.put(f"{BUS}/devices/wq0.{n}/{attr}", text) == "", (n, attr, text)

    def bind(self, name: str, driver: str) -> str:
        """ "" or the name of the errno."""
        return self.put(f"{BUS}/drivers/{driver}/bind", name)

    def unbind(self, name: str, driver: str) -> str:
        """ "" or the name of the errno."""
        return self.put(f"{BUS}/drivers/{driver}/unbind", name)

    def up(self, *wqs: int, **over: str | int) -> None:
        """Queues for mdevs, bound."""
        for n in wqs:
            self.configure(n, **over)
        assert self.put(f"{BUS}/devices/engine0.0/group_id", 0) == ""
        assert self.bind("dsa0", "idxd") == ""
        for n in wqs:
            assert self.bind(f"wq0.{n}", "mdev") == ""

    def new_uuid(self) -> str:
        """Another one."""
        self.made += 1
        return f"{self.made:08x}-0000-4000-8000-000000000000"

    def create(self, kind: str, uuid: str = "") -> str:
        """A mediated device's UUID. Raises what sysfs says."""
        uuid = uuid or self.new_uuid()
        self.proc.write_text(f"{TYPES}/{kind}/create", uuid)
        return uuid

    def available(self, kind: str) -> int:
        """available_instances."""
        return int(self.proc.read_text(f"{TYPES}/{kind}/available_instances"))

    def hold(self) -> None:
        """Engines stand still until :meth:`run`."""
        self.held: list[Callable[[], None]] = []
        self.silicon.port.call_soon = self.held.append

    def run(self) -> None:
        """Let all that can run do so."""
        if "call_soon" in vars(self.silicon.port):
            del self.silicon.port.call_soon
            for step in self.held:
                step()
        self.kernel.sched.run_ready()

    def trace(self, name: str) -> list[dict[str, Any]]:
        """Fields of the events called *name* from now on."""
        found: list[dict[str, Any]] = []
        self.kernel.trace.listeners.append(lambda e: found.append(e.fields) if e.name == name else None)
        return found

    def commands(self) -> list[tuple[int, int]]:
        """CMD writes to the accelerator from now on: number and operand."""
        found: list[tuple[int, int]] = []

        def listen(e: Any) -> None:
            if e.name == "mmio_write" and (e.fields["bar"], e.fields["off"]) == (0, 0xA0):
                found.append((e.fields["value"] >> 20 & 0x1F, e.fields["value"] & 0xFFFFF))

        self.kernel.trace.listeners.append(listen)
        return found


class Vmm:
    """A process that opens mediated devices, with an ioasid set of its own."""

    def __init__(self, host: Host, comm: str = "vmm") -> None:
        self.host, self.kernel = host, host.kernel
        self.proc = host.kernel.process(comm=comm)
        self.container: Container | None = None
        self.ids: IoasidSet | None = None
        self.bound: dict[int, int] = {}

    def open(self, kind: str, uuid: str = "") -> Vdsa:
        """Make one and open it."""
        uuid = uuid or self.host.create(kind)
        self.container = self.container or Container(self.proc)
        return Vdsa(self, self.container.device(f"{MDEVS}/{uuid}"), uuid)

    def leave(self) -> None:
        """Close the container, when its devices are closed."""
        if self.container is not None:
            self.container.close()
        self.container = None

    def make_set(self) -> IoasidSet:
        """As the open of /dev/ioasid does."""
        if self.ids is None:
            self.ids = ioasid_alloc_set(self.kernel, self.proc.task.mm, 1000, IOASID_SET_TYPE_MM)
        return self.ids

    def bind(self, guest: int, low: int = 200) -> int:
        """A host PASID for the guest's *guest*, as binding its page table does; the host's number."""
        number = ioasid_alloc(self.make_set(), low, 0xFFFFF)
        ioasid_attach_spid(self.kernel, number, guest)
        ioasid_flush_work(self.kernel)
        self.bound[guest] = number
        return number

    def unbind(self, guest: int) -> None:
        """As unbinding does: the event, then the works, then (not here) the IOMMU's entry."""
        number = self.bound.pop(guest)
        ioasid_detach_spid(self.kernel, number)
        ioasid_flush_work(self.kernel)
        ioasid_free(self.make_set(), number)

    def exit(self) -> None:
        """It ends, and what /dev/ioasid would free is freed."""
        self.proc.exit()
        if self.ids is not None:
            for guest in list(self.bound):
                self.unbind(guest)
            ioasid_free_all_in_set(self.ids)
            ioasid_set_free(self.ids)


class Vdsa:
    """An open virtual device as its guest's driver sees it."""

    def __init__(self, vmm: Vmm, device: Device, uuid: str) -> None:
        self.vmm, self.device, self.uuid = vmm, device, uuid
        self.bar0: Region = device.region(0)
        self.bar2: Region = device.region(2)
        self.space: Region = device.config()

    def rd(self, off: int, size: int = 4) -> int:
        """A register."""
        return int.from_bytes(self.bar0.read(off, size), "little")

    def wr(self, off: int, value: int, size: int = 4) -> None:
        """A register."""
        self.bar0.write(off, value.to_bytes(size, "little"))

    def cfg(self, off: int, size: int = 4) -> int:
        """Configuration space."""
        return int.from_bytes(self.space.read(off, size), "little")

    def set_cfg(self, off: int, value: int, size: int = 4) -> None:
        """Configuration space."""
        self.space.write(off, value.to_bytes(size, "little"))

    def command(self, cmd: int, operand: int = 0, *, int_req: bool = False) -> int:
        """CMD; CMDSTS afterwards."""
        self.wr(0xA0, int_req << 31 | cmd << 20 | operand)
        return self.rd(0xA8)

    def master(self, *, pasid: bool = True) -> None:
        """Memory and bus mastering on; ATS, PRI and PASID, too, as an IOMMU driver does."""
        self.set_cfg(0x04, 6, 2)
        if pasid:
            self.set_cfg(0x106, 0x8000, 2)
            self.set_cfg(0x114, 1, 2)
            self.set_cfg(0x126, 5, 2)

    def set_pasid(self, pasid: int | None) -> None:
        """WQCFG dword 2 of a disabled queue."""
        flags = self.rd(0x508) & ~(0xFFFFF << 8 | 1 << 28)
        self.wr(0x508, flags if pasid is None else flags | pasid << 8 | 1 << 28)

    def up(self, pasid: int | None = None) -> None:
        """The device and its queue on."""
        self.master()
        assert self.command(ENABLE_DEV) == 0
        if self.rd(0x508) & 1:
            self.set_pasid(pasid)
        assert self.command(ENABLE_WQ) == 0

    @property
    def wq_state(self) -> int:
        """1: on."""
        return self.rd(0x518) >> 30

    def eventfds(self) -> list[int]:
        """Two, for the vectors."""
        fds = [self.vmm.proc.eventfd(0, os.O_NONBLOCK) for _ in range(2)]
        self.device.signal_by(2, fds)
        return fds

    def signals(self, fd: int) -> int:
        """How often it was signalled since it was asked last."""
        try:
            return int.from_bytes(self.vmm.proc.read(fd, 8), "little")
        except BlockingIOError:
            return 0


@pytest.fixture(params=["linux-6.1", "linux-6.12"])
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def machine(profile: str) -> Iterator[Callable[..., Host]]:
    """Machines: ``machine(sva=False, gencap=...)``; each is shut down at the end, which finds what leaked."""
    made: list[Host] = []

    def make(*, iommu: bool = True, sva: bool = True, enqcmd: bool = True, **options: Any) -> Host:
        spec = Machine(
            "vdsa",
            cpu=Cpu(enqcmd=enqcmd),
            iommu=IommuSpec(enabled=iommu, sva=sva),
            pci=(PciSpec("dsa", ADDRESS, options),),
            modules={"idxd": "", "vdsa": "", "vfio_iommu_type1": ""},
        )
        kernel = boot(spec, profile)
        kernel.up()
        made.append(Host(kernel))
        return made[-1]

    yield make
    for host in made:
        host.proc.exit()
        assert not host.kernel.oopses
        host.kernel.shutdown()


@pytest.fixture
def host(machine: Callable[..., Host]) -> Host:
    """Both queues up."""
    made = machine()
    made.up(0, 1)
    return made


@pytest.fixture
def vmm_on(machine: Callable[..., Host]) -> Iterator[Callable[[Host], Vmm]]:
    """VMMs; each ends before its machine does."""
    made: list[Vmm] = []

    def make(host: Host) -> Vmm:
        made.append(Vmm(host))
        return made[-1]

    yield make
    for vmm in made:
        vmm.exit()


@pytest.fixture
def vmm(host: Host, vmm_on: Callable[[Host], Vmm]) -> Vmm:
    return vmm_on(host)


@pytest.fixture
def another_vmm(host: Host, vmm_on: Callable[[Host], Vmm]) -> Vmm:
    return vmm_on(host)


@pytest.fixture
def dwq(vmm: Vmm) -> Vdsa:
    """A device with the dedicated queue."""
    return vmm.open(DWQ)


@pytest.fixture
def swq(vmm: Vmm) -> Vdsa:
    """A device with the shared queue."""
    return vmm.open(SWQ)
