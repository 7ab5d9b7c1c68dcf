"""SR-IOV: virtual functions with queues, BARs and requester IDs of their own, under the same driver."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pykernel.hw import make
from pykernel.kernel import Kernel
from pykernel.machine import IommuSpec, Machine, PciSpec
from pykernel.pci.core import Pci
from pykernel.pci.function import DmaFault
from pykernel.start import boot

PF = "0000:6a:01.0"
VFS = [f"0000:6a:11.{n}" for n in range(4)]
NUMVFS = f"/sys/bus/pci/devices/{PF}/sriov_numvfs"


@pytest.fixture
def machine() -> Iterator[Callable[..., Kernel]]:
    made: list[Kernel] = []

    def make_one(profile: str = "linux-6.12", *, iommu: bool = False, **options: Any) -> Kernel:
        spec = Machine(
            "vf",
            iommu=IommuSpec(enabled=iommu, sva=iommu),
            pci=(PciSpec("dsa", PF, {"vfs": 4, **options}),),
            modules={"idxd": ""},
        )
        made.append(boot(spec, profile))
        made[-1].up()
        return made[-1]

    yield make_one
    for kernel in made:
        assert not kernel.oopses
        kernel.shutdown()


def vfs(kernel: Kernel, n: int) -> None:
    proc = kernel.process()
    proc.write_text(NUMVFS, str(n))
    proc.exit()


def silicon(kernel: Kernel, name: str) -> Any:
    return kernel.sub(Pci).slots[name].function


def test_part_without_the_option_has_no_capability() -> None:
    assert 0x10 not in make("dsa", {}).config.ext_caps
    assert make("dsa", {"vfs": 4}).config.get(0x180 + 0x0E, 2) == 4


@pytest.mark.parametrize("options", [{"vfs": 65}, {"vfs": -1}, {"vf_wqs": 0}, {"vf_wqs": 9}, {"vf_wq_size": 0}])
def test_options_out_of_range_are_named(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        make("dsa", {"vfs": 1} | options)


def test_virtual_functions_come_and_go_as_accelerators(machine: Callable[..., Kernel]) -> None:
    kernel = machine()
    proc = kernel.process()
    vfs(kernel, 3)
    assert [d for d in sorted(proc.listdir("/sys/bus/dsa/devices")) if d.startswith("dsa")] == ["dsa0", "dsa1", "dsa2",
                                                                                              "dsa3"]  # fmt: skip
    for n in range(3):
        assert proc.readlink(f"/sys/bus/pci/devices/{VFS[n]}/driver").endswith("/idxd")
        assert proc.read_text(f"/sys/bus/pci/devices/{VFS[n]}/device") == "0x0b25\n"
    vfs(kernel, 0)
    assert [d for d in proc.listdir("/sys/bus/dsa/devices") if d.startswith("dsa")] == ["dsa0"]
    proc.exit()


def test_each_has_one_queue_one_group_one_engine(machine: Callable[..., Kernel]) -> None:
    kernel = machine()
    vfs(kernel, 1)
    proc = kernel.process()
    attrs = {"max_work_queues": "1", "max_work_queues_size": "16", "max_groups": "1", "max_engines": "1"}
    assert {a: proc.read_text(f"/sys/bus/dsa/devices/dsa1/{a}").strip() for a in attrs} == attrs
    proc.exit()


def test_options_say_how_many_queues_and_entries(machine: Callable[..., Kernel]) -> None:
    kernel = machine(vf_wqs=4, vf_wq_size=8)
    vfs(kernel, 1)
    proc = kernel.process()
    found = [
        proc.read_text(f"/sys/bus/dsa/devices/dsa1/{a}").strip() for a in ("max_work_queues", "max_work_queues_size")
    ]
    assert found == ["4", "32"]
    proc.exit()


def configure(kernel: Kernel, dev: int, *, driver: str = "dmaengine", **over: str | int) -> None:
    rows: dict[str, str | int] = {"group_id": 0, "mode": "dedicated", "size": 8, "priority": 10, "type": "kernel",
                                  "name": "copy", "driver_name": "dmaengine"}  # fmt: skip
    proc = kernel.process()
    where = f"/sys/bus/dsa/devices/wq{dev}.0"
    for attr, text in (rows | over).items():
        proc.write_text(f"{where}/{attr}", str(text))
    proc.write_text(f"/sys/bus/dsa/devices/engine{dev}.0/group_id", "0")
    proc.write_text("/sys/bus/dsa/drivers/idxd/bind", f"dsa{dev}")
    proc.write_text(f"/sys/bus/dsa/drivers/{driver}/bind", f"wq{dev}.0")
    proc.exit()


def test_same_driver_runs_it(machine: Callable[..., Kernel]) -> None:
    kernel = machine()
    vfs(kernel, 2)
    configure(kernel, 2)
    proc = kernel.process()
    assert proc.read_text("/sys/bus/dsa/devices/wq2.0/state") == "enabled\n"
    assert proc.read_text("/sys/bus/dsa/devices/dsa1/state") == "disabled\n"
    proc.exit()
    assert (silicon(kernel, VFS[1]).wqs[0].enabled, silicon(kernel, VFS[0]).wqs[0].enabled) == (True, False)
    vfs(kernel, 0)


def test_dma_carries_its_own_requester_id(machine: Callable[..., Kernel]) -> None:
    """With an IOMMU each virtual function is in a group of its own, and what one may reach another may not."""
    kernel = machine(iommu=True)
    vfs(kernel, 2)
    proc = kernel.process()
    groups = {proc.readlink(f"/sys/bus/pci/devices/{name}/iommu_group") for name in (PF, *VFS[:2])}
    assert len(groups) == 3
    assert [silicon(kernel, name).port.dev.devfn for name in VFS[:2]] == [0x88, 0x89]
    proc.exit()


def test_shared_queue_of_a_virtual_function_reaches_its_users_memory(machine: Callable[..., Kernel]) -> None:
    """ENQCMD to the portal of a virtual function: the PASID is in its own table, under its own requester ID."""
    kernel = machine(iommu=True)
    vfs(kernel, 2)
    configure(kernel, 1, mode="shared", threshold=8, type="user", driver_name="user", driver="user")
    proc = kernel.process()
    fd = proc.open("/dev/dsa/wq1.0", 2)
    at = proc.mmap(0, 4096, 2, 1, fd, 0)
    src, dst, record = (proc.mem.alloc(4096, align=4096) for _ in range(3))
    proc.mem.write(src, bytes(range(256)))
    proc.mem.write(dst, bytes(256))
    proc.mem.write(record, bytes(32))
    assert proc.enqcmd(at, struct.pack("<IIQQQIHH24s", 0, 0xC | 3 << 24, record, src, dst, 256, 0, 0, b"")) is False
    kernel.sched.run_ready()
    assert (proc.mem.read(record, 1), proc.mem.read(dst, 256)) == (b"\1", bytes(range(256)))
    other = silicon(kernel, VFS[1])
    pasid = kernel.pasid_of(proc.task.mm)
    with pytest.raises(DmaFault):
        other.port.dma_read(src, 8, pasid)
    proc.munmap(at, 4096)
    proc.close(fd)
    proc.exit()
    vfs(kernel, 0)


def test_memory_decoding_is_the_physical_functions(machine: Callable[..., Kernel]) -> None:
    kernel = machine()
    vfs(kernel, 1)
    vf, pf = silicon(kernel, VFS[0]), silicon(kernel, PF)
    assert vf.mmio_read(0, 0, 4) == 0x100
    control = 0x180 + 0x08
    pf.config_write(control, 2, pf.config_read(control, 2) & ~8)
    assert vf.mmio_read(0, 0, 4) == 0xFFFFFFFF
    pf.config_write(control, 2, pf.config_read(control, 2) | 8)
    vf.config_write(4, 2, 0)
    assert vf.mmio_read(0, 0, 4) == 0x100


def test_pasid_and_pri_are_the_physical_functions(machine: Callable[..., Kernel]) -> None:
    kernel = machine()
    vfs(kernel, 1)
    vf, pf = silicon(kernel, VFS[0]), silicon(kernel, PF)
    assert {0x1B, 0x13} & set(vf.config.ext_caps) == set()
    for value in (1, 0):
        pf.config_write(0x126, 2, value)
        pf.config_write(0x114, 2, value)
        assert (vf.pasid_enabled, vf.pri_enabled) == (bool(value), bool(value))


def test_reset_of_the_physical_function_resets_them_all(machine: Callable[..., Kernel]) -> None:
    kernel = machine()
    vfs(kernel, 1)
    configure(kernel, 1)
    vf = silicon(kernel, VFS[0])
    assert vf.wqs[0].enabled
    silicon(kernel, PF).flr()
    assert not vf.wqs[0].enabled


def test_one_cannot_be_reached_through_anothers_portal(machine: Callable[..., Kernel]) -> None:
    kernel = machine()
    vfs(kernel, 2)
    configure(kernel, 1)
    first, second = (silicon(kernel, name) for name in VFS[:2])
    second.posted_write(2, 0x1000, struct.pack("<IIQQQIHH24s", 0, 0, 0, 0, 0, 0, 0, 0, b""))
    assert (len(first.wqs[0].entries), len(second.wqs[0].entries)) == (0, 0)
    first.posted_write(2, 0x1000, struct.pack("<IIQQQIHH24s", 0, 0, 0, 0, 0, 0, 0, 0, b""))
    assert len(first.wqs[0].entries) == 1
    kernel.sched.run_ready()
