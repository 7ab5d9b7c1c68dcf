"""Shared queues through the driver: whose PASID a descriptor has, retries, thresholds."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from errno import EAGAIN
from mmap import MAP_SHARED, PROT_WRITE
from typing import TYPE_CHECKING, Any

import pytest

from pykernel.base.module import Modules
from pykernel.drivers.idxd.dmaengine import DMA_PREP_INTERRUPT
from pykernel.iommu.dma import dma_alloc_coherent, dma_free_coherent
from pykernel.pci.core import Pci

if TYPE_CHECKING:
    from conftest import Accel

Make = Callable[..., "Accel"]
PROFILES = ("linux-6.1", "linux-6.12")
PAGE = 4096


def noop(first: int = 0) -> bytes:
    return struct.pack("<IIQQQIHH24s", first, 0, 0, 0, 0, 0, 0, 0, b"")


class Held:
    """Engines that stand still until :meth:`go`."""

    def __init__(self, one: Accel) -> None:
        self.one, self.steps = one, []
        one.silicon.port.call_soon = self.steps.append

    @property
    def pasids(self) -> list[int]:
        """Of what waits in queue 0."""
        return [work.pasid for work in self.one.silicon.wqs[0].entries]

    def go(self) -> None:
        del self.one.silicon.port.call_soon
        for step in self.steps:
            step()
        self.one.kernel.sched.run_ready()


def up(accel: Make, profile: str, **over: Any) -> Accel:
    one = accel(profile)
    one.up(**{"mode": "shared", "threshold": 8} | over)
    return one


def portal(one: Accel) -> tuple[int, int]:
    fd = one.proc.open(one.node, os.O_RDWR)
    return fd, one.proc.mmap(0, PAGE, PROT_WRITE, MAP_SHARED, fd, 0)


# ---- whose PASID


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("first", [0, 0x12345, 0x800FFFFF, 0x7FF00000, 0xFFFFFFFF])
def test_pasid_privilege_and_reserved_bits_that_a_user_writes_are_ignored(
    profile: str, accel: Make, first: int
) -> None:
    one = up(accel, profile)
    fd = one.proc.open(one.node, os.O_RDWR)
    mine = one.kernel.pasid_of(one.proc.task.mm)
    held = Held(one)
    assert one.proc.write(fd, noop(first)) == 64
    assert (held.pasids, [w.priv for w in one.silicon.wqs[0].entries]) == ([mine], [False])
    held.go()
    one.proc.close(fd)


@pytest.mark.parametrize("profile", PROFILES)
def test_enqcmd_with_a_pasid_in_its_source_is_an_exception(profile: str, accel: Make) -> None:
    """The processor fills it in; a source that has one is refused (#GP)."""
    one = up(accel, profile)
    fd, at = portal(one)
    held = Held(one)
    for first in (1, 0x12345, 1 << 31, 1 << 20):
        with pytest.raises(OSError):  # noqa: PT011 - the signal is what matters, and nothing arrives
            one.proc.enqcmd(at, noop(first))
    assert held.pasids == []
    held.go()
    one.proc.munmap(at, PAGE)
    one.proc.close(fd)


@pytest.mark.parametrize("profile", PROFILES)
def test_two_processes_have_two_pasids_in_one_queue(profile: str, accel: Make) -> None:
    one = up(accel, profile)
    other = one.kernel.process(comm="other")
    fds = [p.open(one.node, os.O_RDWR) for p in (one.proc, other)]
    held = Held(one)
    for p, fd in zip((one.proc, other), fds, strict=True):
        p.write(fd, noop())
    assert held.pasids == [one.kernel.pasid_of(p.task.mm) for p in (one.proc, other)]
    assert len(set(held.pasids)) == 2
    held.go()
    for p, fd in zip((one.proc, other), fds, strict=True):
        p.close(fd)
    other.exit()


@pytest.mark.parametrize("profile", PROFILES)
def test_user_mapping_always_uses_the_limited_portal(profile: str, accel: Make) -> None:
    one = up(accel, profile, size=16, threshold=4)
    fd, at = portal(one)
    held = Held(one)
    assert [one.proc.enqcmd(at, noop()) for _ in range(6)] == [False] * 4 + [True] * 2
    held.go()
    one.proc.munmap(at, PAGE)
    one.proc.close(fd)


@pytest.mark.parametrize("profile", PROFILES)
def test_release_drains_the_files_pasid(profile: str, accel: Make) -> None:
    one = up(accel, profile)
    fd = one.proc.open(one.node, os.O_RDWR)
    mine = one.kernel.pasid_of(one.proc.task.mm)
    drains: list[int] = []
    one.kernel.trace.listeners.append(
        lambda e: (
            drains.append(e.fields["value"] & 0xFFFFF)
            if e.name == "mmio_write" and e.fields["off"] == 0xA0 and e.fields["value"] >> 20 & 0x1F == 11
            else None
        )
    )
    one.proc.write(fd, noop())
    one.proc.close(fd)
    assert drains == [mine]


@pytest.mark.parametrize("profile", PROFILES)
def test_write_to_a_full_queue_is_eagain_after_the_retries(profile: str, accel: Make) -> None:
    one = up(accel, profile, threshold=2)
    fd = one.proc.open(one.node, os.O_RDWR)
    one.put("wq0.0/enqcmds_retries", "3")
    held = Held(one)
    events: list[bool] = []
    one.kernel.trace.listeners.append(
        lambda e: events.append(e.fields["accepted"]) if e.name == "dsa_enqueue" else None
    )
    assert one.proc.write(fd, noop() * 2) == 128
    with pytest.raises(OSError, match="temporarily unavailable") as caught:
        one.proc.write(fd, noop())
    assert caught.value.errno == EAGAIN
    assert events == [True] * 2 + [False] * 4  # one try, three retries
    held.go()
    one.proc.close(fd)


# ---- enqcmds_retries


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    ("text", "answer", "value"),
    [("0", 1, "0"), ("64", 2, "64"), ("65", 2, "64"), ("4294967295", 10, "64"), ("4294967296", "ERANGE", "32"),
     ("-1", "EINVAL", "32"), ("0x10", "EINVAL", "32"), ("", 0, "32")],
)  # fmt: skip
def test_enqcmds_retries_cap_64_default_32(profile: str, accel: Make, text: str, answer: int | str, value: str) -> None:
    one = accel(profile)
    assert one.get("wq0.0/enqcmds_retries") == "32\n"
    assert one.put("wq0.0/enqcmds_retries", text) == answer
    assert one.get("wq0.0/enqcmds_retries") == f"{value}\n"


# ---- kernel queues with ENQCMDS


def channel(one: Accel) -> Any:
    module: Any = one.kernel.sub(Modules).loaded["idxd"]
    return module.bus.devices["wq0.0"].idxd_chan


def kernel_queue(accel: Make, **over: Any) -> Accel:
    one = accel("linux-6.12")
    one.up("dmaengine", **{"mode": "shared", "threshold": 8, "type": "kernel", "driver_name": "dmaengine"} | over)
    return one


def test_shared_kernel_queue_copies_with_enqcmds_and_the_system_pasid(accel: Make) -> None:
    """6.12: a global PASID for the DMA domain, user privilege, PASID in the descriptor's own bits."""
    one = kernel_queue(accel)
    chan, pdev = channel(one), one.kernel.sub(Pci).devices["0000:6a:01.0"]
    src, dst = dma_alloc_coherent(pdev, PAGE), dma_alloc_coherent(pdev, PAGE)
    src.write(0, bytes(range(200)))
    results: list[str] = []
    desc = chan.prep_memcpy(dst.addr, src.addr, 200, DMA_PREP_INTERRUPT)
    desc.txd.callback = results.append
    held = Held(one)
    chan.tx_submit(desc)
    (work,) = one.silicon.wqs[0].entries
    assert (work.pasid, work.priv) == (chan.wq.idxd.pasid, False)
    held.go()
    assert (results, dst.read(0, 200)) == (["NOERROR"], bytes(range(200)))
    for buffer in (src, dst):
        dma_free_coherent(buffer)


def test_shared_kernel_queue_has_as_many_descriptors_as_its_threshold(accel: Make) -> None:
    one = kernel_queue(accel, size=16, threshold=5)
    assert len(channel(one).wq.descs) == 5


def test_shared_kernel_queue_that_others_filled_gives_eagain_and_takes_the_descriptor_back(accel: Make) -> None:
    one = kernel_queue(accel, size=16, threshold=2)
    chan = channel(one)
    one.put("wq0.0/enqcmds_retries", "0")
    held = Held(one)
    for _ in range(2):
        one.silicon.dmwr(2, 0x1000, noop(5))
    desc = chan.prep_interrupt(DMA_PREP_INTERRUPT)
    with pytest.raises(OSError, match="temporarily unavailable"):
        chan.tx_submit(desc)
    assert len(chan.wq.free_descs) == 2
    held.go()
