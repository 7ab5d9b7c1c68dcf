"""A virtual machine's kernel without KVM: a processor of the test's, and a board with one card on it."""

from __future__ import annotations

import os
from errno import EIO

import pytest

from pykernel import boot
from pykernel.hw import make
from pykernel.mm.phys import PhysMem
from pykernel.tools.vmm.guest import CONSOLE_IRQ, IA32_TSC_DEADLINE, Guest
from pykernel.tools.vmm.layout import ECAM_BASE, ECAM_SIZE, ecam_address, ecam_offset

SLOT = "0000:00:05.0"


class Idle(BaseException):
    """The processor halts, and nothing will wake it."""


class Processor:
    """A processor on a board with *cards* (address -> function); its clock jumps while it halts."""

    def __init__(self, cards):
        self.cards = cards
        self.now = 0
        self.deadline = 0
        self.seen = []

    def _bar(self, gpa):
        for card in self.cards.values():
            for bar, size in card.bar_sizes.items():
                base = card.config.get(0x10 + 4 * bar, 4) & ~0xF
                if base <= gpa < base + size:
                    return card, bar, gpa - base
        return None

    def mmio_read(self, gpa, size):
        self.seen.append((gpa, size))
        if 0 <= gpa - ECAM_BASE < ECAM_SIZE:
            address, off = ecam_address(gpa - ECAM_BASE)
            return self.cards[address].config_read(off, size) if address in self.cards else (1 << 8 * size) - 1
        hit = self._bar(gpa)
        return hit[0].mmio_read(hit[1], hit[2], size) if hit else (1 << 8 * size) - 1

    def mmio_write(self, gpa, size, value):
        self.seen.append((gpa, size, value))
        if 0 <= gpa - ECAM_BASE < ECAM_SIZE:
            address, off = ecam_address(gpa - ECAM_BASE)
            self.cards[address].config_write(off, size, value)
        elif hit := self._bar(gpa):
            hit[0].mmio_write(hit[1], hit[2], size, value)

    def movdir64b(self, gpa, data):
        raise AssertionError("no card here has a portal")

    def enqcmd(self, gpa, cmd, supervisor=False):
        raise AssertionError("no card here has an enqueue register")

    def wrmsr(self, index, value):
        assert index == IA32_TSC_DEADLINE
        self.deadline = value

    def boundary(self):
        pass

    def hlt(self):
        if not self.deadline:
            raise Idle
        self.now, self.deadline = max(self.now, self.deadline), 0


def start(cards=None):
    cpu = Processor(cards or {})
    guest = Guest(PhysMem(size=64 << 20), functions=cpu.cards, now_ns=lambda: cpu.now)
    guest.vcpu = cpu
    return cpu, guest


def run(cpu, guest, fn):
    """Let *fn* be a client of the guest: its result."""
    thread = guest.spawn(fn)
    with pytest.raises(Idle):
        guest.run(cpu)
    if thread.error is not None:
        raise thread.error
    return thread.result


def test_an_address_of_configuration_space_names_a_function():
    assert ecam_offset("0000:6a:1f.7") == 0x6A << 20 | 0x1F << 15 | 7 << 12
    assert ecam_address(ecam_offset("0000:6a:1f.7") + 0x123) == ("0000:6a:1f.7", 0x123)


def test_a_task_of_the_guest_runs_while_its_processor_does():
    cpu, guest = start()

    assert run(cpu, guest, lambda: guest.kernel.process().listdir("/sys/bus")) == without_cards().listdir("/sys/bus")


def without_cards():
    from pykernel.machine import Machine

    return boot(Machine(name="empty")).process()


def test_time_passes_while_it_halts_and_only_then():
    cpu, guest = start()

    def sleep():
        guest.kernel.process().poll([], 250)
        return guest.kernel.sched.clock_ns()

    assert run(cpu, guest, sleep) == cpu.now == 250_000_000


def test_a_card_is_found_through_configuration_space_and_its_registers_through_its_bar():
    card = make("edu", {})
    cpu, guest = start({SLOT: card})

    def look():
        proc = guest.kernel.process()
        fd = proc.open(f"/sys/bus/pci/devices/{SLOT}/config")
        head = proc.read(fd, 4)
        proc.close(fd)
        proc.write_text(f"/sys/bus/pci/devices/{SLOT}/enable", "1")
        fd = proc.open(f"/sys/bus/pci/devices/{SLOT}/resource0", os.O_RDWR)
        at = proc.mmap(0, 4096, 3, 1, fd, 0)
        proc.store(at + 4, (0x12345678).to_bytes(4, "little"))
        inverted = proc.load(at + 4, 4)
        proc.munmap(at, 4096)
        proc.close(fd)
        return head, int.from_bytes(inverted, "little")

    head, inverted = run(cpu, guest, look)

    assert head == bytes.fromhex("34 12 e8 11")
    assert inverted == ~0x12345678 & 0xFFFFFFFF
    base = card.config.get(0x10, 4) & ~0xF
    assert (base + 4, 4, 0x12345678) in cpu.seen


def test_an_interrupt_is_an_interrupt_of_the_guest():
    cpu, guest = start()

    guest.interrupt(0xFEE00000, CONSOLE_IRQ)

    (line,) = [
        row
        for row in run(cpu, guest, lambda: guest.kernel.process().read_text("/proc/interrupts")).splitlines()
        if "ttyS0" in row
    ]
    assert line.split()[:2] == [f"{CONSOLE_IRQ}:", "1"]


def test_its_memory_is_what_the_vmm_gave_it():
    ram = PhysMem(size=32 << 20)
    guest = Guest(ram, now_ns=lambda: 0)
    used = ram.used

    proc = guest.kernel.process()
    proc.mem.write(proc.mem.alloc(8192), b"x" * 8192)

    assert ram.used >= used + 2


def test_a_machine_that_is_switched_off_gives_what_is_left_over():
    cpu, guest = start()
    guest.spawn(lambda: guest.kernel.process().open("/dev/null"))
    with pytest.raises(Idle):
        guest.run(cpu)

    guest.power_off()
    guest.run(cpu)

    assert "/dev/null" in str(guest.error)


def test_a_machine_that_lost_its_power_ends_its_tasks_without_a_word_to_the_hardware():
    cpu, guest = start({SLOT: make("edu", {})})
    guest.spawn(lambda: guest.kernel.process().poll([], -1))
    with pytest.raises(Idle):
        guest.run(cpu)
    seen = len(cpu.seen)

    guest.crash()

    assert not guest.kernel.sched.threads
    assert len(cpu.seen) == seen
    with pytest.raises((RuntimeError, OSError), match=f"shut down|{EIO}"):
        guest.kernel.process()
