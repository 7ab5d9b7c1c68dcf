"""Kernel queues as channels of the DMA engine. Truth: drivers/dma/idxd/dma.c, submit.c, drivers/dma/dmaengine.c."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from pykernel.base.module import Modules
from pykernel.drivers.idxd.dmaengine import DMA_PREP_INTERRUPT
from pykernel.iommu.dma import dma_alloc_coherent, dma_free_coherent
from pykernel.pci.core import Pci

if TYPE_CHECKING:
    from conftest import Accel

Make = Callable[..., "Accel"]
PROFILES = ("linux-6.1", "linux-6.12", "linux-7.2")


def channel(one: Accel) -> Any:
    """The channel of queue 0."""
    module: Any = one.kernel.sub(Modules).loaded["idxd"]
    return module.bus.devices["wq0.0"].idxd_chan


@pytest.mark.parametrize("profile", PROFILES)
def test_channel_in_sysfs(profile: str, accel: Make) -> None:
    """dma0chan0 comes with the binding and goes with it; the configured type does not matter."""
    one = accel(profile)
    one.up("dmaengine", driver_name="dmaengine")
    assert one.proc.listdir("/sys/class/dma") == ["dma0chan0"]
    texts = [
        one.proc.read_text(f"/sys/class/dma/dma0chan0/{a}") for a in ("in_use", "bytes_transferred", "memcpy_count")
    ]
    assert (texts, one.get("wq0.0/type")) == (["0\n", "0\n", "0\n"], "kernel\n")
    one.unbind("wq0.0", "dmaengine")
    assert one.proc.listdir("/sys/class/dma") == []


@pytest.mark.parametrize("profile", PROFILES)
def test_every_refusal_is_enxio(profile: str, accel: Make) -> None:
    """Also the EBUSY and EINVAL of drv_enable_wq()."""
    one = accel(profile)
    one.configure(type="kernel", driver_name="dmaengine")
    one.bind("dsa0", "idxd")
    one.set("wq0.0", name="\n")
    assert (one.bind("wq0.0", "dmaengine"), one.status()) == ("ENXIO", "0x80040000")


@pytest.mark.parametrize("profile", ["linux-6.12", "linux-7.2"])
def test_wrong_driver_name_resets_the_type(profile: str, accel: Make) -> None:
    """Unlike the user driver, this one falls back to type none."""
    one = accel(profile)
    one.configure(type="kernel", driver_name="user")
    one.bind("dsa0", "idxd")
    assert (one.bind("wq0.0", "dmaengine"), one.status()) == ("ENODEV", "0x80200000")
    assert one.get("wq0.0/type") == "none\n"


@pytest.mark.parametrize("profile", PROFILES)
def test_memcpy(profile: str, accel: Make) -> None:
    """A copy between two buffers, completed by the queue's interrupt."""
    one = accel(profile)
    one.up("dmaengine", type="kernel", driver_name="dmaengine", name="dma")
    chan, pdev = channel(one), one.kernel.sub(Pci).devices["0000:6a:01.0"]
    src, dst = dma_alloc_coherent(pdev, 4096), dma_alloc_coherent(pdev, 4096)
    src.write(0, bytes(range(200)))
    results: list[str] = []

    chan.chan_get()
    desc = chan.prep_memcpy(dst.addr, src.addr, 200, DMA_PREP_INTERRUPT)
    desc.txd.callback = results.append
    assert chan.tx_submit(desc) == 1
    one.kernel.sched.run_ready()

    assert (results, dst.read(0, 200)) == (["NOERROR"], bytes(range(200)))
    assert (one.get("wq0.0/clients"), one.proc.read_text("/sys/class/dma/dma0chan0/in_use")) == ("1\n", "1\n")
    chan.chan_put()
    for buffer in (src, dst):
        dma_free_coherent(buffer)


def test_failed_copy_is_reported(accel: Make) -> None:
    """A destination that is no memory: WRITE_FAILED."""
    one = accel("linux-6.12")
    one.up("dmaengine", type="kernel", driver_name="dmaengine", name="dma")
    chan = channel(one)
    results: list[str] = []
    desc = chan.prep_memcpy(0x1000, 0x2000, 64, DMA_PREP_INTERRUPT)
    desc.txd.callback = results.append
    chan.tx_submit(desc)
    one.kernel.sched.run_ready()
    assert results == ["WRITE_FAILED"]


def test_a_queue_that_goes_drops_what_is_left(accel: Make) -> None:
    """No callback is called after the unbind, as its module may be gone."""
    one = accel("linux-6.12")
    one.up("dmaengine", type="kernel", driver_name="dmaengine", name="dma")
    chan = channel(one)
    results: list[str] = []
    desc = chan.prep_interrupt(DMA_PREP_INTERRUPT)
    desc.txd.callback = results.append
    chan.wq.ie.pending.append(desc)
    one.unbind("wq0.0", "dmaengine")
    assert results == []


@pytest.mark.parametrize("profile", ["linux-6.12", "linux-7.2"])
def test_shared_kernel_queue_needs_the_system_pasid(profile: str, accel: Make) -> None:
    """With SVA there is one, and ENQCMDS works; 6.1 has none and refuses the device."""
    one = accel(profile)
    one.configure(mode="shared", threshold=8, type="kernel", driver_name="dmaengine", name="dma")
    assert one.bind("dsa0", "idxd") == 4
    assert one.bind("wq0.0", "dmaengine") == 5
    assert one.silicon.mmio_read(0, 0x80, 4) >> 12 & 1 == 1


def test_shared_kernel_queue_of_6_1(accel: Make) -> None:
    one = accel("linux-6.1")
    one.configure(mode="shared", threshold=8, type="kernel", name="dma")
    assert (one.bind("dsa0", "idxd"), one.status()) == ("ENXIO", "0x800c0000")
