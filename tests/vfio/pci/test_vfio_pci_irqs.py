"""VFIO_DEVICE_GET_IRQ_INFO and SET_IRQS of vfio-pci: rows of vfio_pci_intrs.c, on both kernels."""

from __future__ import annotations

import os
import re
import struct
from errno import EBADF, EBUSY, EFAULT, EINVAL, ENOTTY, ERANGE

import pytest
from errnos import errno_of
from vfiocard import Card

from pykernel.hw.edu import EduFunction
from pykernel.pci.config import COMMAND_RW
from pykernel.uapi.linux import pci_regs as r
from pykernel.uapi.linux import vfio as v
from pykernel.uapi.linux.eventpoll import EPOLL_CTL_ADD, EPOLLET, EPOLLIN, EPOLLOUT

INTX, MSI, MSIX, ERR, REQ = range(5)
NONE, BOOL, EVENTFD, MASK, UNMASK, TRIGGER = 1, 2, 4, 8, 16, 32
CLOSED = 999
THIS = None  # the index that a row is tried with


class Irqs:
    """What a client does with interrupts."""

    def __init__(self, box):
        self.box, self.proc = box, box.proc
        self.fds = [self.proc.eventfd(0, os.O_NONBLOCK) for _ in range(6)]

    def set(self, index, flags, start=0, count=0, data=b"", argsz=None):
        head = struct.pack("<5I", 20 + len(data) if argsz is None else argsz, flags, index, start, count)
        return self.proc.ioctl(self.box.device.fd, v.VFIO_DEVICE_SET_IRQS, bytearray(head + data))

    def eventfds(self, index, *fds, start=0, action=TRIGGER):
        return self.set(index, EVENTFD | action, start, len(fds), struct.pack(f"<{len(fds)}i", *fds))

    def off(self, index):
        return self.set(index, NONE | TRIGGER)

    def counts(self):
        """What each eventfd has counted since the last time."""
        found = []
        for fd in self.fds:
            try:
                found.append(int.from_bytes(self.proc.read(fd, 8), "little"))
            except BlockingIOError:
                found.append(0)
        return found

    def names(self):
        text = self.proc.read_text("/proc/interrupts")
        return [line.split()[-1] for line in text.splitlines() if "vfio" in line]


@pytest.fixture
def irqs(box):
    return Irqs(box)


def result(fn, *args, **kw):
    """0 or more, or a negative errno."""
    try:
        return fn(*args, **kw)
    except OSError as e:
        return -(e.errno or 0)


# ---- VFIO_DEVICE_GET_IRQ_INFO

INFO = [
    pytest.param({}, INTX, 1, {"*": 7}, id="INTx: eventfd, maskable, automasked"),
    pytest.param({"pin": 0}, INTX, 0, {"*": 7}, id="INTx without a pin"),
    pytest.param({}, MSI, 4, {"*": 9}, id="MSI"),
    pytest.param({"vectors_log2": 5}, MSI, 32, {"*": 9}, id="MSI, 32"),
    pytest.param({}, MSIX, 8, {"linux-6.1": 9, "linux-6.12": 1}, id="MSI-X: later kernels resize it"),
    pytest.param({"vectors": 0}, MSIX, 0, {"*": 9}, id="MSI-X without"),
    pytest.param({}, ERR, 1, {"*": 9}, id="ERR"),
    pytest.param({"express": False}, ERR, -EINVAL, {}, id="ERR of a conventional function"),
    pytest.param({}, REQ, 1, {"*": 9}, id="REQ"),
    pytest.param({}, 5, -EINVAL, {}, id="no such kind"),
]


@pytest.mark.parametrize(("silicon", "index", "count", "flags"), INFO)
def test_irq_info(make_box, profile, silicon, index, count, flags):
    box = make_box(Card(**silicon))
    if count < 0:
        assert errno_of(box.device.irq, index) == -count
        return
    info = box.device.irq(index)
    assert (info.count, info.flags) == (count, flags.get(profile, flags.get("*")))


@pytest.mark.parametrize(("argsz", "want"), [(15, EINVAL), (16, 0), (64, 0)])
def test_argsz_of_irq_info(box, argsz, want):
    row = bytearray(struct.pack("<4I", argsz, 0, 0, 0))
    assert errno_of(box.proc.ioctl, box.device.fd, v.VFIO_DEVICE_GET_IRQ_INFO, row) == want


# ---- VFIO_DEVICE_SET_IRQS: validation, in this order

U32 = 0xFFFFFFFF
INVALID = [
    pytest.param((INTX, NONE | TRIGGER, 0, 1), {"argsz": 19}, EINVAL, id="argsz"),
    pytest.param((5, NONE | TRIGGER, 0, 0), {}, EINVAL, id="index"),
    pytest.param((MSIX, NONE | TRIGGER, 1, U32 - 1), {}, EINVAL, id="count wraps"),
    pytest.param((MSIX, 0x40 | NONE | TRIGGER, 0, 1), {}, EINVAL, id="unknown flag"),
    pytest.param((MSIX, NONE | TRIGGER, 8, 0), {}, EINVAL, id="start is the count, nothing asked"),
    pytest.param((MSIX, NONE | TRIGGER, 7, 2), {}, EINVAL, id="one too many"),
    pytest.param((MSIX, TRIGGER, 0, 1), {}, EINVAL, id="no data type"),
    pytest.param((MSIX, NONE | BOOL | TRIGGER, 0, 1), {}, EINVAL, id="two data types"),
    pytest.param((MSIX, BOOL | TRIGGER, 0, 2), {"data": b"\1"}, EINVAL, id="bools too short"),
    pytest.param((MSIX, EVENTFD | TRIGGER, 0, 2), {"data": bytes(7)}, EINVAL, id="eventfds too short"),
    pytest.param((MSIX, NONE | MASK, 0, 1), {}, ENOTTY, id="MASK of MSI-X"),
    pytest.param((MSIX, NONE | UNMASK, 0, 1), {}, ENOTTY, id="UNMASK of MSI-X"),
    pytest.param((MSI, NONE | MASK, 0, 1), {}, ENOTTY, id="MASK of MSI"),
    pytest.param((ERR, NONE | MASK, 0, 1), {}, ENOTTY, id="MASK of ERR"),
    pytest.param((REQ, NONE | UNMASK, 0, 1), {}, ENOTTY, id="UNMASK of REQ"),
    pytest.param((INTX, NONE, 0, 1), {}, ENOTTY, id="no action"),
    pytest.param((INTX, NONE | MASK | TRIGGER, 0, 1), {}, ENOTTY, id="two actions"),
]


@pytest.mark.parametrize(("args", "kw", "want"), INVALID)
def test_what_set_irqs_refuses(irqs, args, kw, want):
    assert errno_of(lambda: irqs.set(*args, **kw)) == want


def test_unreadable_arguments(irqs, box):
    assert errno_of(box.proc.ioctl, box.device.fd, v.VFIO_DEVICE_SET_IRQS, 8) == EFAULT
    page = box.proc.mmap(0, 4096, 3, 0x22)
    box.proc.store(page + 4076, struct.pack("<5I", 28, EVENTFD | TRIGGER, MSIX, 0, 2))
    assert errno_of(box.proc.ioctl, box.device.fd, v.VFIO_DEVICE_SET_IRQS, page + 4076) == EFAULT


@pytest.mark.parametrize("index", [MSI, MSIX])
def test_an_index_without_interrupts_refuses_even_disabling(make_box, index):
    irqs = Irqs(make_box(EduFunction() if index == MSIX else Card(vectors_log2=0)))
    assert result(irqs.off, MSIX if index == MSIX else MSI) == -EINVAL


def test_err_of_a_conventional_function_is_refused_by_its_count(make_box):
    irqs = Irqs(make_box(EduFunction()))
    assert result(irqs.set, ERR, NONE | TRIGGER, 0, 1) == -EINVAL


# ---- INTx

ON = ("eventfds", INTX, "A")


def run(irqs, steps):
    """Each step's result; letters are the client's eventfds."""
    fds = dict(zip("ABCDEF", irqs.fds, strict=True)) | {"closed": CLOSED, "file": irqs.box.device.fd}
    out = []
    for name, index, *rest in steps:
        args = [fds.get(a, a) if isinstance(a, str) else a for a in rest]
        kw = args.pop() if args and isinstance(args[-1], dict) else {}
        out.append(result(getattr(irqs, name), index, *args, **kw))
    return out


INTX_ROWS = [
    pytest.param([("off", INTX)], [-EINVAL], [0], id="off while off"),
    pytest.param([ON, ("off", INTX), ("off", INTX)], [0, 0, -EINVAL], [0], id="on, off, off"),
    pytest.param([("eventfds", INTX, "closed")], [-EBADF], [0], id="closed descriptor"),
    pytest.param([("eventfds", INTX, "file")], [-EINVAL], [0], id="no eventfd"),
    pytest.param([("eventfds", INTX, -1), ("set", INTX, NONE | TRIGGER, 0, 1)], [0, 0], [0], id="on without a trigger"),
    pytest.param([ON, ("eventfds", INTX, "B"), ("set", INTX, NONE | TRIGGER, 0, 1)], [0, 0, 0], [0, 1], id="swapped"),
    pytest.param([ON, ("eventfds", INTX, -1), ("set", INTX, NONE | TRIGGER, 0, 1)], [0, 0, 0], [0], id="silenced"),
    pytest.param([ON, ("set", INTX, NONE | TRIGGER, 0, 1)] * 1, [0, 0], [1], id="looped back"),
    pytest.param([("set", INTX, NONE | TRIGGER, 0, 1)], [-EINVAL], [0], id="looped back while off"),
    pytest.param([ON, ("set", INTX, BOOL | TRIGGER, 0, 1, b"\1")], [0, 0], [1], id="looped back, true"),
    pytest.param([ON, ("set", INTX, BOOL | TRIGGER, 0, 1, b"\0")], [0, 0], [0], id="looped back, false"),
    pytest.param([("set", INTX, EVENTFD | TRIGGER, 0, 0)], [-EINVAL], [0], id="no eventfds"),
    pytest.param([ON, ("eventfds", MSI, "B")], [0, -EINVAL], [0], id="MSI while on"),
    pytest.param([ON, ("eventfds", MSIX, "B")], [0, -EINVAL], [0], id="MSI-X while on"),
    pytest.param([("eventfds", MSIX, "B"), ON], [0, -EINVAL], [0], id="on while MSI-X is"),
    pytest.param([("set", INTX, NONE | MASK, 0, 1)], [-EINVAL], [0], id="mask while off"),
    pytest.param([("set", INTX, NONE | UNMASK, 0, 1)], [-EINVAL], [0], id="unmask while off"),
    pytest.param([ON, ("set", INTX, NONE | MASK, 0, 0)], [0, -EINVAL], [0], id="mask none"),
    pytest.param([ON, ("set", INTX, NONE | MASK, 0, 1), ("set", INTX, NONE | UNMASK, 0, 1)], [0, 0, 0], [0], id="mask"),
    pytest.param([ON, ("set", INTX, BOOL | MASK, 0, 1, b"\0")], [0, 0], [0], id="mask, false"),
    pytest.param([ON, ("eventfds", INTX, "B", {"action": MASK})], [0, -ENOTTY], [0], id="mask by eventfd"),
    pytest.param([ON, ("eventfds", INTX, "B", {"action": UNMASK})], [0, 0], [0], id="unmask by eventfd"),
    pytest.param(
        [ON, ("eventfds", INTX, "B", {"action": UNMASK}), ("eventfds", INTX, "C", {"action": UNMASK})],
        [0, 0, -EBUSY],
        [0],
        id="unmask by two eventfds",
    ),
    pytest.param(
        [
            ON,
            ("eventfds", INTX, "B", {"action": UNMASK}),
            ("eventfds", INTX, -7, {"action": UNMASK}),
            ("eventfds", INTX, "C", {"action": UNMASK}),
        ],
        [0, 0, 0, 0],
        [0],
        id="unmask by another eventfd",
    ),
    pytest.param([ON, ("eventfds", INTX, "closed", {"action": UNMASK})], [0, -EBADF], [0], id="unmask by a closed one"),
    pytest.param([ON, ("eventfds", INTX, "file", {"action": UNMASK})], [0, -EINVAL], [0], id="unmask by no eventfd"),
]


@pytest.mark.parametrize(("steps", "want", "counts"), INTX_ROWS)
def test_intx(irqs, steps, want, counts):
    assert run(irqs, steps) == want
    assert irqs.counts()[: len(counts)] == counts


# ---- MSI and MSI-X

X = [pytest.param(MSI, id="MSI"), pytest.param(MSIX, id="MSI-X")]
MSG_ROWS = [
    pytest.param([("off", THIS)], [-EINVAL], [0], id="off while off"),
    pytest.param([("eventfds", THIS, "A", "B"), ("off", THIS), ("off", THIS)], [0, 0, -EINVAL], [0], id="on, off, off"),
    pytest.param([("set", THIS, EVENTFD | TRIGGER, 0, 0)], [-ERANGE], [0], id="on with none"),
    pytest.param([("eventfds", THIS, "A"), ("set", THIS, EVENTFD | TRIGGER, 0, 0)], [0, 0], [0], id="nothing to set"),
    pytest.param([("eventfds", THIS, "closed"), ("off", THIS)], [-EBADF, -EINVAL], [0], id="first one closed: all off"),
    pytest.param(
        [("eventfds", THIS, "A", "file"), ("off", THIS)], [-EINVAL, -EINVAL], [0], id="first no eventfd: all off"
    ),
    pytest.param(
        [
            ("eventfds", THIS, "A", "B", "C"),
            ("eventfds", THIS, "D", "closed", "E"),
            ("set", THIS, NONE | TRIGGER, 0, 3),
        ],
        [0, -EBADF, 0],
        [0, 0, 1, 0, 0],
        id="up to the one that fails, none is left",
    ),
    pytest.param(
        [("eventfds", THIS, "A", "B"), ("eventfds", THIS, -1), ("set", THIS, NONE | TRIGGER, 0, 2)],
        [0, 0, 0],
        [0, 1],
        id="one taken away",
    ),
    pytest.param(
        [("eventfds", THIS, "A", "B"), ("eventfds", THIS, "C", {"start": 1}), ("set", THIS, NONE | TRIGGER, 0, 2)],
        [0, 0, 0],
        [1, 0, 1],
        id="one replaced",
    ),
    pytest.param([("set", THIS, NONE | TRIGGER, 0, 1)], [-EINVAL], [0], id="looped back while off"),
    pytest.param(
        [("eventfds", THIS, "A", "B"), ("set", THIS, BOOL | TRIGGER, 0, 2, b"\0\1")], [0, 0], [0, 1], id="bools"
    ),
    pytest.param([("eventfds", THIS, "A"), ("eventfds", INTX, "B")], [0, -EINVAL], [0], id="INTx while on"),
]


@pytest.mark.parametrize("index", X)
@pytest.mark.parametrize(("steps", "want", "counts"), MSG_ROWS)
def test_messages(irqs, index, steps, want, counts):
    assert run(irqs, [(name, index if at is THIS else at, *rest) for name, at, *rest in steps]) == want
    assert irqs.counts()[: len(counts)] == counts


@pytest.mark.parametrize("index", X)
def test_vectors_that_are_nobodys(irqs, profile, index):
    """Two are enabled, none is given an eventfd: 6.1 takes start for one that is off."""
    want = [-EINVAL, -EINVAL] if profile == "linux-6.1" else [0, 0]
    assert run(irqs, [("set", index, EVENTFD | TRIGGER, 2, 0), ("off", index)]) == want


GROW = {
    (MSI, "linux-6.1"): ([0, -EINVAL, -EINVAL], [1, 0, 0]),
    (MSI, "linux-6.12"): ([0, -EINVAL, -EINVAL], [0, 0, 0]),
    (MSIX, "linux-6.1"): ([0, -EINVAL, -EINVAL], [1, 0, 0]),
    (MSIX, "linux-6.12"): ([0, 0, 0], [0, 1, 1]),
}


@pytest.mark.parametrize("index", X)
def test_more_than_are_on(irqs, profile, index):
    """MSI-X grows in later kernels; MSI does not, and there the vectors before the first that is off are gone."""
    want, counts = GROW[index, profile]
    steps = [("eventfds", index, "A"), ("eventfds", index, "B", {"start": 1}), ("eventfds", index, "B", "C")]
    assert run(irqs, steps) == want
    result(irqs.set, index, NONE | TRIGGER, 0, 1 if want[1] else 2)
    assert irqs.counts()[:3] == counts


def test_several_of_msi(irqs, box):
    """With interrupt remapping; QSIZE says how many, and each comes as its own."""
    box.device.enable_memory()
    assert run(irqs, [("eventfds", MSI, "A", "B", "C", "D")]) == [0]
    for vector in (0, 3, 3):
        box.silicon.raise_msi(vector)
    assert irqs.counts()[:4] == [1, 0, 0, 2]
    assert box.config(0x52, 2) & 0x70 == 0x00  # the user's own field is his to write
    box.set_config(0x52, 2, 0x81 | 0x70)
    assert box.hw(0x52, 2) & 0x71 == 0x21


def test_names_in_proc_interrupts(irqs):
    irqs.eventfds(INTX, irqs.fds[0])
    assert irqs.names() == ["vfio-intx(0000:6a:01.0)"]
    irqs.off(INTX)
    irqs.eventfds(MSI, irqs.fds[0])
    assert irqs.names() == ["vfio-msi[0](0000:6a:01.0)"]
    irqs.off(MSI)
    irqs.eventfds(MSIX, -1, irqs.fds[0])
    assert irqs.names() == ["vfio-msix[1](0000:6a:01.0)"]


# ---- ERR and REQ

K = [pytest.param(ERR, id="ERR"), pytest.param(REQ, id="REQ")]
SINGLE = [
    pytest.param([("set", THIS, NONE | TRIGGER, 0, 1)], [-EINVAL], [0], id="none there: signal"),
    pytest.param([("set", THIS, NONE | TRIGGER, 0, 0)], [-EINVAL], [0], id="none there: clear"),
    pytest.param([("eventfds", THIS, "A"), ("set", THIS, NONE | TRIGGER, 0, 1)], [0, 0], [1], id="signal"),
    pytest.param([("eventfds", THIS, "A"), ("off", THIS), ("off", THIS)], [0, 0, -EINVAL], [0], id="clear"),
    pytest.param([("set", THIS, BOOL | TRIGGER, 0, 0)], [-EINVAL], [0], id="no bool"),
    pytest.param([("set", THIS, BOOL | TRIGGER, 0, 1, b"\1")], [0], [0], id="bool, none there"),
    pytest.param([("eventfds", THIS, "A"), ("set", THIS, BOOL | TRIGGER, 0, 1, b"\1")], [0, 0], [1], id="bool"),
    pytest.param([("set", THIS, EVENTFD | TRIGGER, 0, 0)], [-EINVAL], [0], id="no eventfds"),
    pytest.param([("eventfds", THIS, -1)], [0], [0], id="-1, none there"),
    pytest.param(
        [("eventfds", THIS, "A"), ("eventfds", THIS, -1), ("off", THIS)], [0, 0, -EINVAL], [0], id="-1 clears"
    ),
    pytest.param([("eventfds", THIS, "closed")], [-EBADF], [0], id="closed"),
    pytest.param([("eventfds", THIS, "file")], [-EINVAL], [0], id="no eventfd"),
    pytest.param(
        [("eventfds", THIS, "A"), ("eventfds", THIS, "B"), ("set", THIS, NONE | TRIGGER, 0, 1)],
        [0, 0, 0],
        [0, 1],
        id="replaced",
    ),
    pytest.param([("eventfds", THIS, "A", {"start": 1})], [-EINVAL], [0], id="start"),
    pytest.param([("eventfds", THIS, "A", "B")], [-EINVAL], [0], id="two"),
]


@pytest.mark.parametrize("index", K)
@pytest.mark.parametrize(("steps", "want", "counts"), SINGLE)
def test_err_and_req(irqs, index, steps, want, counts):
    assert run(irqs, [(name, index, *rest) for name, _, *rest in steps]) == want
    assert irqs.counts()[: len(counts)] == counts


@pytest.mark.parametrize("index", K)
def test_below_minus_one(irqs, profile, index):
    """Nothing happens in 6.1; later it is refused."""
    assert run(irqs, [("eventfds", index, "A"), ("eventfds", index, -2)]) == [
        0,
        0 if profile == "linux-6.1" else -EINVAL,
    ]
    irqs.set(index, NONE | TRIGGER, 0, 1)
    assert irqs.counts()[0] == 1


def test_an_error_of_the_device_is_told(irqs, box):
    irqs.eventfds(ERR, irqs.fds[0])
    box.pdev.error_detected()
    assert irqs.counts()[0] == 1


# ---- what the silicon raises


def test_intx_masks_itself_until_it_is_unmasked(make_box):
    """Pending still, it comes again at once; acknowledged, it does not."""
    box = make_box(EduFunction())
    irqs, region = Irqs(box), box.device.region(0)
    irqs.eventfds(INTX, irqs.fds[0])
    region.write(0x60, b"\1\0\0\0")
    assert irqs.counts()[0] == 1
    assert box.hw(4, 2) & r.PCI_COMMAND_INTX_DISABLE  # by the kernel
    assert not box.config(4, 2) & r.PCI_COMMAND_INTX_DISABLE  # which the user does not see
    region.write(0x60, b"\2\0\0\0")
    assert irqs.counts()[0] == 0
    irqs.set(INTX, NONE | UNMASK, 0, 1)
    assert irqs.counts()[0] == 1
    region.write(0x64, b"\3\0\0\0")
    irqs.set(INTX, NONE | UNMASK, 0, 1)
    assert irqs.counts()[0] == 0
    region.write(0x60, b"\1\0\0\0")
    assert irqs.counts()[0] == 1


def test_loopback_does_not_mask(make_box):
    box = make_box(EduFunction())
    irqs = Irqs(box)
    irqs.eventfds(INTX, irqs.fds[0])
    irqs.set(INTX, NONE | TRIGGER, 0, 1)
    box.device.region(0).write(0x60, b"\1\0\0\0")
    assert irqs.counts()[0] == 2


def test_unmasking_by_eventfd(make_box):
    """One that was signalled before acts at once."""
    box = make_box(EduFunction())
    irqs, region = Irqs(box), box.device.region(0)
    irqs.eventfds(INTX, irqs.fds[0])
    region.write(0x60, b"\1\0\0\0")
    assert irqs.counts()[0] == 1
    irqs.proc.write(irqs.fds[1], (1).to_bytes(8, "little"))
    irqs.eventfds(INTX, irqs.fds[1], action=UNMASK)
    box.kernel.sched.run_ready()
    assert irqs.counts()[0] == 1
    irqs.proc.write(irqs.fds[1], (1).to_bytes(8, "little"))
    box.kernel.sched.run_ready()
    assert irqs.counts()[0] == 1


def test_the_virtual_disable_bit(make_box):
    """Set, it masks, and loopback is dropped; cleared, what is pending comes."""
    box = make_box(EduFunction())
    irqs, region = Irqs(box), box.device.region(0)
    box.set_config(4, 2, 0x403)
    irqs.eventfds(INTX, irqs.fds[0])  # starts masked
    irqs.set(INTX, NONE | TRIGGER, 0, 1)
    region.write(0x60, b"\1\0\0\0")
    irqs.set(INTX, NONE | UNMASK, 0, 1)
    assert irqs.counts()[0] == 0
    box.set_config(4, 2, 0x003)
    assert irqs.counts()[0] == 1


@pytest.mark.parametrize(
    ("function", "args"),
    [(lambda: EduFunction(), "nointxmask=1"), (lambda: Card(command_rw=COMMAND_RW & ~r.PCI_COMMAND_INTX_DISABLE), "")],
    ids=["nointxmask", "no bit in COMMAND"],
)
def test_a_pin_that_cannot_be_masked_in_the_device(make_box, function, args):
    """It is masked at the controller, and shared with nobody."""
    box = make_box(function(), args)
    irqs = Irqs(box)
    irqs.eventfds(INTX, irqs.fds[0])
    box.silicon.set_intx(asserted=True)
    assert irqs.counts()[0] == 1
    box.silicon.set_intx(asserted=False)
    box.silicon.set_intx(asserted=True)
    assert irqs.counts()[0] == 0
    irqs.set(INTX, NONE | UNMASK, 0, 1)
    assert irqs.counts()[0] == 1
    assert not box.hw(4, 2) & r.PCI_COMMAND_INTX_DISABLE
    irqs.off(INTX)
    box.pdev.request_irq(box.pdev.intx_irq, lambda: None, "neighbour")
    assert result(irqs.eventfds, INTX, irqs.fds[0]) == -EBUSY
    box.pdev.free_irq(box.pdev.intx_irq)


def test_msix_of_the_silicon(irqs, box):
    """Repeated interrupts add up; a vector that is nobody's is masked; after a reset they come as before."""
    box.device.enable_memory()
    irqs.eventfds(MSIX, irqs.fds[0], -1, irqs.fds[2])
    for vector in (0, 0, 1, 2):
        box.silicon.raise_msix(vector)
    assert irqs.counts()[:3] == [2, 0, 1]
    box.device.reset()
    box.silicon.raise_msix(2)
    assert irqs.counts()[:3] == [0, 0, 1]
    assert box.hw(0x72, 2) & r.PCI_MSIX_FLAGS_ENABLE
    irqs.off(MSIX)
    assert not box.hw(0x72, 2) & r.PCI_MSIX_FLAGS_ENABLE


def test_messages_need_bus_mastering(irqs, box):
    box.device.enable_memory(master=False)
    irqs.eventfds(MSI, irqs.fds[0])
    box.silicon.raise_msi()
    assert irqs.counts()[0] == 0
    box.device.enable_memory()
    box.silicon.raise_msi()
    assert irqs.counts()[0] == 1


def test_vectors_are_given_with_memory_decoding_off(irqs, box):
    """It is switched on meanwhile, for the table, and is off again."""
    box.set_config(4, 2, 0)
    assert irqs.eventfds(MSIX, irqs.fds[0]) == 0
    assert box.hw(4, 2) & 2 == 0
    assert not box.silicon.msix.masked(0)


def test_closing_the_device_switches_all_off(irqs, box):
    irqs.eventfds(MSIX, irqs.fds[0])
    irqs.eventfds(REQ, irqs.fds[1])
    box.device.close()
    assert irqs.names() == []
    assert not box.hw(0x72, 2) & r.PCI_MSIX_FLAGS_ENABLE
    box.device = box.container.device(box.path)
    assert result(irqs.off, MSIX) == -EINVAL
    assert result(irqs.set, REQ, NONE | TRIGGER, 0, 1) == -EINVAL


def test_an_interrupt_that_unmasks_itself(make_box):
    """System calls return, time-outs end, and acknowledging the device ends it."""
    box = make_box(EduFunction())
    irqs, region = Irqs(box), box.device.region(0)
    fd = irqs.fds[0]
    irqs.eventfds(INTX, fd)
    irqs.eventfds(INTX, fd, action=UNMASK)
    region.write(0x60, b"\1\0\0\0")
    assert irqs.counts()[0] == 0  # whoever unmasks took it
    epoll = irqs.proc.epoll_create()
    irqs.proc.epoll_ctl(epoll, EPOLL_CTL_ADD, irqs.fds[1], EPOLLIN)
    before = box.kernel.sched.clock_ns()
    assert irqs.proc.epoll_wait(epoll, 1, 50) == []
    assert box.kernel.sched.clock_ns() - before == 50_000_000
    assert box.kernel.sched.ready
    region.write(0x64, b"\1\0\0\0")
    assert not box.kernel.sched.ready


def left_in(proc, fd):
    """What one read gives, or 0."""
    try:
        return int.from_bytes(proc.read(fd, 8), "little")
    except BlockingIOError:
        return 0


def ioeventfd(box, fd, off, value, size=4):
    box.proc.ioctl(box.device.fd, v.VFIO_DEVICE_IOEVENTFD, bytearray(struct.pack("<IIQQi4x", 32, size, off, value, fd)))


TAKEN = [
    pytest.param(5, 0, 0, id="all of a counter"),
    pytest.param(5, os.EFD_SEMAPHORE, 4, id="one of a semaphore"),
    pytest.param(0, 0, 0, id="nothing"),
]
ENDS = ["eventfd -1", "INTx off", "close"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(("count", "flags", "left"), TAKEN)
def test_the_counter_goes_with_the_unmask_eventfd(box, count, flags, left, end):
    """Recorded: fs/eventfd.c:eventfd_ctx_remove_wait_queue() reads it, and wakes writers."""
    irqs, proc = Irqs(box), box.proc
    irqs.eventfds(INTX, irqs.fds[0])
    fd = proc.eventfd(count, os.O_NONBLOCK | flags)
    irqs.eventfds(INTX, fd, action=UNMASK)
    if end == "close":
        box.device.close()
    elif end == "INTx off":
        irqs.off(INTX)
    else:
        irqs.eventfds(INTX, -1, action=UNMASK)
    rest = 0
    while got := left_in(proc, fd):
        rest += got
    assert rest == left


@pytest.mark.parametrize("end", ["fd -1", "close"])
@pytest.mark.parametrize(("count", "flags", "left"), TAKEN)
def test_the_counter_goes_with_the_ioeventfd(box, count, flags, left, end):
    proc = box.proc
    fd = proc.eventfd(count, os.O_NONBLOCK | flags)

    ioeventfd(box, fd, 0x10, 1)
    if end == "close":
        box.device.close()
    else:
        ioeventfd(box, -1, 0x10, 1)
    rest = 0
    while got := left_in(proc, fd):
        rest += got
    assert rest == left


def test_taking_the_counter_wakes_writers(box):
    """An eventfd that is full is writable when its unmasking ends."""
    irqs, proc = Irqs(box), box.proc
    irqs.eventfds(INTX, irqs.fds[0])
    fd = proc.eventfd(0, os.O_NONBLOCK)
    proc.write(fd, (2**64 - 2).to_bytes(8, "little"))
    irqs.eventfds(INTX, fd, action=UNMASK)
    assert proc.poll([(fd, EPOLLOUT)], 0) == []
    epoll = proc.epoll_create()
    proc.epoll_ctl(epoll, EPOLL_CTL_ADD, fd, EPOLLOUT | EPOLLET)
    assert proc.epoll_wait(epoll, 1, 0) == []
    irqs.eventfds(INTX, -1, action=UNMASK)
    assert proc.epoll_wait(epoll, 1, 0) == [(fd, EPOLLOUT)]


FAILS = re.compile(r"vfio-pci 0000:6a:01\.0: irq bypass producer \(token (0{8}[0-9a-f]{8})\) registration fails: -16")


def test_an_eventfd_bypasses_but_once(box):
    """Recorded: the second vector works, and the log says so; each eventfd has its token."""
    irqs = Irqs(box)
    a, b, c = irqs.fds[:3]

    def tokens():
        return [found[1] for text in box.messages() if (found := FAILS.fullmatch(text))]

    irqs.eventfds(MSIX, a, b, a, a, b)
    told = tokens()
    assert (len(told), told[0] == told[1], told[0] == told[2]) == (3, True, False)
    irqs.set(MSIX, NONE | TRIGGER, 0, 5)
    assert irqs.counts()[:3] == [3, 2, 0]
    irqs.eventfds(MSIX, c)  # vector 0 no longer produces: another may
    irqs.eventfds(MSIX, a, start=3)
    assert tokens() == told
    irqs.eventfds(MSIX, a)
    assert tokens() == [*told, told[0]]
    irqs.off(MSIX)
    irqs.eventfds(MSI, a, b)
    box.close()
    box.open()
    irqs.eventfds(MSIX, a, b)
    assert len(tokens()) == 4


def test_an_eventfd_writes_a_register_that_signals_another(make_box):
    """The interrupt has come when write() returns."""
    box = make_box(EduFunction())
    irqs = Irqs(box)
    box.set_config(r.PCI_COMMAND, 2, r.PCI_COMMAND_MEMORY | r.PCI_COMMAND_MASTER)
    irqs.eventfds(MSI, irqs.fds[0])
    ioeventfd(box, irqs.fds[1], 0x60, 1)
    assert irqs.proc.write(irqs.fds[1], (7).to_bytes(8, "little")) == 8
    assert irqs.counts()[:2] == [1, 0]


def test_an_eventfd_that_signals_itself(make_box):
    """The interrupts go on for ever; system calls return, until the client takes the register away."""
    box = make_box(EduFunction())
    irqs, proc = Irqs(box), box.proc
    box.set_config(r.PCI_COMMAND, 2, r.PCI_COMMAND_MEMORY | r.PCI_COMMAND_MASTER)
    irqs.eventfds(MSI, irqs.fds[0])
    ioeventfd(box, irqs.fds[0], 0x60, 1)
    assert proc.write(irqs.fds[0], (1).to_bytes(8, "little")) == 8
    assert box.kernel.sched.ready
    ioeventfd(box, -1, 0x60, 1)
    assert not box.kernel.sched.ready
    assert irqs.counts()[0] == 1
    assert irqs.counts()[0] == 0
