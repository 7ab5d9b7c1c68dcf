"""Long random sequences of writes to the card's configuration space, with resets and interrupts in between."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from random import Random

import vfio_abi as abi
from probing import Probe, call
from vfio_abi import DATA_EVENTFD, TRIGGER, plain, set_irqs, u32
from vfio_card_parts import card, control
from vfio_client import Fds, eventfds
from vfio_irq_parts import disable

OPS = 400
BARS = range(0x10, 0x34)
PLACES = [*range(0x10), *range(0x34, 0x50), *range(0x9C, 0xB0), *range(0xC4, 0x120), *range(0x13C, 0x154)]


class Config:
    """The steps, on one client of the card."""

    def __init__(self, random: Random, f: Fds, fds: list[int]) -> None:
        self.random = random
        self.f = f
        self.fds = fds
        self.steps: list[Callable[[], tuple[str, object]]] = [self.write] * 14 + [self.command] * 3 + [self.power] * 2
        self.steps += [self.read, self.bar, self.vectors, self.vectors, self.off, self.reset]

    def write(self) -> tuple[str, object]:
        """A write of 1 to 4 bytes anywhere but to BARs; what reads there then."""
        at, n = self.random.choice(PLACES), self.random.choice([1, 2, 4, 4, 3])
        value = self.random.choice([self.random.getrandbits(8 * n), (1 << 8 * n) - 1, 0])
        if set(range(at, at + n)) & set(BARS):
            return f"not at {at:#x}", None
        result = call(os.pwrite, self.f.device, value.to_bytes(n, "little"), abi.CONFIG + at)
        return f"{n} bytes {value:#x} at {at:#x}", (result, f"{self.f.config(at, n):x}", control(self.f))

    def command(self) -> tuple[str, object]:
        """COMMAND with sensible bits."""
        value = self.random.choice([0, 1, 2, 3, 7, 0x407, 0x403, 0x107])
        self.f.set_config(4, value, 2)
        return f"COMMAND {value:#x}", (control(self.f), call(os.pread, self.f.device, 4, (3 << 40) + 0x1000))

    def power(self) -> tuple[str, object]:
        """The power state."""
        value = self.random.choice([0, 0, 3, 1])
        self.f.set_config(0xCC, value, 2)
        return f"PM {value}", (f"{self.f.config(0xCC, 4):x}", call(os.pread, self.f.device, 4, (3 << 40) + 0x1000))

    def read(self) -> tuple[str, object]:
        """All but the BARs and MSI's address and data, which may be the machine's."""
        data = os.pread(self.f.device, 0x160, abi.CONFIG)
        parts = ((0, 0x10), (0x34, 0x40), (0xA0, 0xD4), (0xE0, 0x160))
        return "all", [data[low:high].hex(" ", 4) for low, high in parts]

    def bar(self) -> tuple[str, object]:
        """A BAR's size, by writing ones; put back."""
        at = self.random.choice([0x10, 0x14, 0x18, 0x1C, 0x20, 0x24, 0x30])
        first = self.f.config(at, 4)
        self.f.set_config(at, 0xFFFFFFFF, 4)
        size = self.f.config(at, 4)
        self.f.set_config(at, first, 4)
        return f"size of {at:#x}", (f"{size:x}", self.f.config(at, 4) == first)

    def vectors(self) -> tuple[str, object]:
        """SET_IRQS of a kind."""
        index, n = self.random.choice([0, 1, 2, 2]), self.random.randrange(1, 5)
        result = set_irqs(self.f.device, TRIGGER | DATA_EVENTFD, index, 0, n, u32(*self.fds[:n]))
        return f"{abi.IRQ_NAMES[index]}: {n}", (result, control(self.f))

    def off(self) -> tuple[str, object]:
        """All kinds are disabled."""
        return "disable", ([disable(self.f, index) for index in range(3)], control(self.f))

    def reset(self) -> tuple[str, object]:
        """VFIO_DEVICE_RESET."""
        return "RESET", (plain(self.f.device, abi.RESET), control(self.f))


def random_config(q: Probe, seed: int) -> None:
    """As many writes."""
    random = Random(seed)
    with card(q) as f, eventfds(4) as fds:
        steps = Config(random, f, fds)
        for _ in range(OPS):
            q.say(*random.choice(steps.steps)())
        disable(f, abi.MSIX)
        f.set_config(0xCC, 0, 2)


Part = Callable[[Probe], None]
PARTS: dict[str, Part] = {f"random card {seed}": partial(random_config, seed=seed) for seed in range(1, 6)}
