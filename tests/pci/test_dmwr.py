"""Deferrable memory writes: registers that tell of them, the way to a function, completions (PCI Express 6.0)."""

from __future__ import annotations

import itertools

import pytest

import pykernel
from pykernel.kernel import Kernel
from pykernel.machine import MachineError, parse
from pykernel.pci.config import ConfigSpace
from pykernel.pci.core import Pci
from pykernel.pci.dmwr import Completion, ports_above
from pykernel.pci.function import PciFunction
from pykernel.pci.iomem import Iomem
from pykernel.uapi.linux import pci_regs as r

ROOT, UP, DOWN, HERE = "0000:64:00.0", "0000:65:00.0", "0000:66:00.0", "0000:67:00.0"
DATA = bytes(4) + bytes(range(4, 64))
EGRESS_BLOCKED = 0x08000000  # AER uncorrectable status, bit 27
REQUESTER, EGRESS = 1, 2  # DevCtl3


class Queue(PciFunction):
    """An enqueue register in BAR 0, registers in BAR 2; *room* commands fit."""

    def __init__(self, *, express: bool = True, completer: bool = True, room: int = 1 << 30) -> None:
        config = ConfigSpace(0x1234, 0x0D3A, 0x088000)
        config.add_bar(0, 0x1000)
        config.add_bar(2, 0x1000)
        if express:
            config.add_pcie(0x40, flags=0x02, devcap=0)
        if completer:
            config.add_dmwr_completer()
        config.settle()
        super().__init__(config)
        self.room, self.got = room, [(0, b"")][1:]

    def takes_dmwr(self, bar: int, off: int) -> bool:
        return bar == 0

    def dmwr(self, bar: int, off: int, data: bytes) -> bool:
        if len(self.got) == self.room:
            return False
        self.got.append((off, data))
        return True


def ports(root: str = "dmwr = true", up: str = "dmwr = true", down: str = "dmwr = true") -> str:
    """A root port and a switch; each has its own options."""
    rows = ((ROOT, "root-port", 0x65, root), (UP, "upstream-port", 0x66, up), (DOWN, "downstream-port", 0x67, down))
    return "".join(
        f'[[pci]]\nmodel = "{model}"\naddress = "{address}"\nsecondary = {below}\nsubordinate = 0x67\n{options}\n'
        for address, model, below, options in rows
    )


def machine(text: str, function: PciFunction, address: str = HERE) -> tuple[Kernel, Iomem]:
    """Boot it with *function* at *address*; BAR 0."""
    kernel = pykernel.boot(parse(text))
    kernel.sub(Pci).plug(address, function)
    kernel.up()
    dev = kernel.sub(Pci).devices[address]
    function.config_write(r.PCI_COMMAND, 2, r.PCI_COMMAND_MEMORY)
    return kernel, dev.iomap(0)


def answer(kernel: Kernel, io: Iomem) -> str:
    """The completion of one ENQCMDS, as the trace tells it."""
    events = kernel.trace.record()
    accepted = io.enqcmds(0x40, DATA)
    kernel.trace.listeners.remove(events.append)
    done = events[-1].fields
    assert done["accepted"] == accepted == (done["completion"] == "SC")
    return str(done["completion"])


def port_config(kernel: Kernel, address: str) -> ConfigSpace:
    return kernel.sub(Pci).slots[address].function.config


# ------------------------------------------------------------------ registers


def test_completion_codes() -> None:
    """3.6: SC 000, UR 001, CRS/RRS 010, CA 100."""
    assert {c.name: c.value for c in Completion} == {"SC": 0, "UR": 1, "RRS": 2, "CA": 4}


def test_device_capabilities_2_of_a_completer() -> None:
    """3.6: bit 28, and 30:29 are 00, 64 bytes; software cannot change it."""
    config = Queue().config
    at = config.caps[r.PCI_CAP_ID_EXP] + r.PCI_EXP_DEVCAP2
    assert config.read(at, 4) >> 28 & 7 == 1
    config.write(at, 4, 0)
    assert config.read(at, 4) >> 28 & 7 == 1
    config.reset()
    assert config.read(at, 4) >> 28 & 7 == 1


def test_a_dsa_completes_them() -> None:
    kernel = pykernel.boot("dsa")
    kernel.up()
    for slot in kernel.sub(Pci).slots.values():
        config = slot.function.config
        assert config.read(config.caps[r.PCI_CAP_ID_EXP] + r.PCI_EXP_DEVCAP2, 4) >> 28 & 7 == 1
    kernel.shutdown()


@pytest.mark.parametrize("model", ["root-port", "upstream-port", "downstream-port"])
def test_device_3_of_a_port(model: str) -> None:
    """3.6: extended capability 0x2F; DevCap3 +4 bit 0; DevCtl3 +8 bits 0 (a root port's) and 1; a list that ends."""
    from pykernel.hw import make

    config = make(model, {"secondary": 1, "dmwr": True}).config
    found = {}
    at = 0x100
    while at:
        head = config.read(at, 4)
        found[head & 0xFFFF] = at
        at = head >> 20
    dev3, aer = found[0x2F], found[1]
    assert config.read(dev3 + 4, 4) == 1
    assert config.read(dev3 + 8, 4) == (REQUESTER if model == "root-port" else 0)
    config.write(dev3 + 8, 4, 0xFFFFFFFF)
    assert config.read(dev3 + 8, 4) == (REQUESTER | EGRESS if model == "root-port" else EGRESS)
    config.put(aer + 4, 4, EGRESS_BLOCKED)
    config.write(aer + 4, 4, EGRESS_BLOCKED)
    assert config.read(aer + 4, 4) == 0
    plain = make(model, {"secondary": 1}).config
    assert 0x2F not in plain.ext_caps


def test_options_are_checked() -> None:
    for options, said in (('dmwr = "yes"', "dmwr"), ("dmwr_egress_block = true", "dmwr_egress_block is a control")):
        with pytest.raises(MachineError, match=said):
            parse(ports(root=options))


# ------------------------------------------------------------------ the way


def test_nothing_is_between_the_root_complex_and_what_it_integrates() -> None:
    """Today's DSA: no port to ask; UR without the completer bit."""
    for completer, completion in ((True, "SC"), (False, "UR")):
        queue = Queue(completer=completer)
        kernel, io = machine("", queue, "0000:6a:01.0")
        assert ports_above(kernel.sub(Pci).slots["0000:6a:01.0"]) == []
        assert answer(kernel, io) == completion
        assert queue.got == ([(0x40, DATA)] if completer else [])
        kernel.shutdown()


def test_every_port_on_the_way_is_asked_from_the_top() -> None:
    queue = Queue()
    kernel, io = machine(ports(), queue)
    events = kernel.trace.record()
    assert io.enqcmds(0x40, DATA) is True
    assert [(e.fields["port"], e.fields["kind"], e.fields["verdict"]) for e in events if e.name == "dmwr"] == [
        (ROOT, "root port", "routed"),
        (UP, "upstream port", "routed"),
        (DOWN, "downstream port", "routed"),
    ]
    assert (events[-1].fields["completion"], queue.got) == ("SC", [(0x40, DATA)])
    kernel.shutdown()


CHOICES = ("", "dmwr = true", "dmwr = true\ndmwr_egress_block = true")


@pytest.mark.parametrize(
    "options", list(itertools.product(CHOICES, repeat=3)), ids=lambda o: "-".join(str(len(x)) for x in o)
)
def test_the_path_rule(options: tuple[str, str, str]) -> None:
    """
    3.6: every switch port routes, the root port is an enabled requester, no port blocks where it leaves.

    A blocked port notes it in AER; the first that stops the request is the last that sees it. A request from above
    leaves a switch through the downstream port, so the block of an upstream port is for those from below.
    """
    stops = ["" in (o,) for o in options]
    blocks = ["block" in o for o in options]
    blocks[1] = False
    queue = Queue()
    kernel, io = machine(ports(*options), queue)
    bad = [s or b for s, b in zip(stops, blocks, strict=True)]
    assert answer(kernel, io) == ("UR" if any(bad) else "SC")
    assert len(queue.got) == (not any(bad))
    first = bad.index(True) if any(bad) else -1
    for n, address in enumerate((ROOT, UP, DOWN)):
        config = port_config(kernel, address)
        aer = config.ext_caps.get(r.PCI_EXT_CAP_ID_ERR)
        noted = aer is not None and config.read(aer + 4, 4)
        assert noted == (EGRESS_BLOCKED if n == first and blocks[n] else 0)
    kernel.shutdown()


def test_who_writes_devctl3_decides_from_then_on() -> None:
    """As setpci does: requester enable of the root port, egress blocking of the downstream port."""
    kernel, io = machine(ports(), Queue())
    for address, bit, on in ((ROOT, REQUESTER, True), (DOWN, EGRESS, False)):
        config = port_config(kernel, address)
        at = config.ext_caps[0x2F] + 8
        was = config.read(at, 4)
        assert answer(kernel, io) == "SC"
        config.write(at, 4, was ^ bit)
        assert (answer(kernel, io), bool(was & bit)) == ("UR", on)
        config.write(at, 4, was)
    assert answer(kernel, io) == "SC"
    kernel.shutdown()


# ------------------------------------------------------------------ completions


def test_a_full_queue_is_a_retry() -> None:
    """3.6: RRS, and ZF=1."""
    kernel, io = machine(ports(), Queue(room=1))
    assert [answer(kernel, io) for _ in range(3)] == ["SC", "RRS", "RRS"]
    kernel.shutdown()


def test_what_is_no_enqueue_register_is_an_unsupported_request() -> None:
    """3.6: UR; the processor still says ZF=1. Another BAR, behind the end, memory decoding off, no PCI Express."""
    queue = Queue()
    kernel, io = machine(ports(), queue)
    dev = kernel.sub(Pci).devices[HERE]
    assert answer(kernel, dev.iomap(2)) == "UR"
    events = kernel.trace.record()
    assert io.enqcmds(0x1000, DATA) is False
    assert events[-1].fields["completion"] == "UR"
    queue.config_write(r.PCI_COMMAND, 2, 0)
    assert answer(kernel, io) == "UR"
    kernel.shutdown()
    kernel, io = machine("", Queue(express=False, completer=False), "0000:6a:01.0")
    assert answer(kernel, io) == "UR"
    kernel.shutdown()


def test_by_physical_address() -> None:
    """What a virtual machine's tables lead to: a BAR, memory, or nothing."""
    queue = Queue(room=1)
    kernel, io = machine("", queue, "0000:6a:01.0")
    pci = kernel.sub(Pci)
    assert [pci.dmwr(io.start + 0x80, DATA) for _ in range(2)] == [True, False]
    assert (pci.dmwr(0x10000, DATA), pci.dmwr(1 << 45, DATA)) == (False, False)
    assert queue.got == [(0x80, DATA)]
    kernel.shutdown()


def test_kernel_submissions_are_enqcmds() -> None:
    """The processor looks at reserved bits and its CPUID; a fault in kernel mode is an oops. ENQCMD never."""
    from pykernel.errors import Oops

    queue = Queue()
    kernel, io = machine("", queue, "0000:6a:01.0")
    assert io.enqcmds(0, b"\xff\xff\x0f\x80" + bytes(60)) is True
    with pytest.raises(Oops, match=r"#GP: bits 30:20 .* in kernel mode"):
        io.enqcmds(0, b"\0\0\x10\0" + bytes(60))
    with pytest.raises(Oops, match="ENQCMD instruction"):
        io.enqcmd(0, bytes(64))
    assert len(queue.got) == 1
    kernel.shutdown()
    kernel, io = machine("[cpu]\nenqcmd = false", queue, "0000:6a:01.0")
    with pytest.raises(Oops, match="#UD"):
        io.enqcmds(0, bytes(64))
    kernel.shutdown()
