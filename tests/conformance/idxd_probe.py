"""Questions on the idxd driver's sysfs and character devices; the recorded answers are in data/idxd.

``run(parts, say, poke, messages)`` asks whatever kernel the process talks to. On a real one, as root, with one DSA or
IAX device whose BAR 0 has the model's back door at 0x8000::

    python3 idxd_probe.py [PART...]

Without names every part runs but "halt ..." and "module", which leave the device in ruins: one boot each.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Sequence

import idxd_bind_parts
import idxd_cdev_parts
import idxd_sysfs_parts
from idxd_device import Idxd, read
from probing import Say, call

PARTS: dict[str, Callable[[Idxd], None]] = {
    **idxd_sysfs_parts.PARTS,
    **idxd_bind_parts.PARTS,
    **idxd_cdev_parts.PARTS,
}
NEED_CONFIGURABLE = {"bind errors", "enabled", "cdev", "errors"}
ONLY_BY_NAME = {"halt software", "halt flr", "halt warm", "halt cold", "module"}
MESSAGE = re.compile(r"idxd|dsa|iax|wq\d|WARN|BUG|Oops|RIP: 0010|deprecated")


def fork_child(f: Callable[[], object]) -> object:
    """What ``f()`` returns or raises in a forked child."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(w, repr(call(f)).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    answer = ast.literal_eval(os.read(r, 1000).decode())
    os.close(r)
    os.close(w)
    return answer


def no_op() -> None:
    """Nothing to do on this kernel."""


def run(
    parts: Collection[str],
    say: Say,
    poke: Callable[[int, Sequence[int]], None],
    messages: Callable[[], list[str]],
    *,
    settle: Callable[[], None] = no_op,
    child: Callable[[Callable[[], object]], object] = fork_child,
    allow_sva: Callable[[], None] = no_op,
    begin: Callable[[str], None] = lambda name: None,
) -> None:
    """Run the named parts (without names: all that leave the device well) in the recorded order.

    ``say(what, text)``: an answer's key and its ``repr``.   ``begin(name)`` goes before each part.
    ``poke(value, words)``: the silicon's back door: ``words`` to 0x8010 on, then ``value`` to 0x8000 of BAR 0.
    ``messages()``: the kernel log's lines since the last call, as ``"<4> idxd 0000:6a:01.0: text"``.
    ``settle()`` lets delayed work finish.   ``child(f)`` calls ``f`` in a forked process.
    ``allow_sva()`` does what the machine still needs for user work queues, before the part "cdev".
    """
    count = 0

    def counted(what: str, text: str) -> None:
        nonlocal count
        count += 1
        say(what, text)

    device = Idxd(counted, poke, messages, settle, child, allow_sva, alone=len(parts) == 1)
    for name, part in PARTS.items():
        wanted = name in parts if parts or name in ONLY_BY_NAME else True
        if not wanted:
            continue
        if name in NEED_CONFIGURABLE and not device.configurable:
            continue
        begin(name)
        part(device)
    say("answers", repr(count))


class Guest:
    """The hooks on a real kernel: /dev/kmsg and the back door through the PCI resource file."""

    def __init__(self) -> None:
        self.kmsg = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.kmsg, 0, os.SEEK_END)

    def messages(self) -> list[str]:
        """The records since the last call that are about the driver, as level and text."""
        out: list[str] = []
        while isinstance(record := call(os.read, self.kmsg, 8192), bytes):
            head, _, text = record.decode("latin-1").partition(";")
            text = text.split("\n")[0]
            if MESSAGE.search(text):
                text = re.sub(r"^(idxd|user|dmaengine) (\S+): ", r"\1 \2: ", text)
                out.append(f"<{int(head.split(',')[0]) & 7}> {text}")
        return out

    def poke(self, value: int, words: Sequence[int]) -> None:
        """Store ``words`` and then ``value`` to the model's back door."""
        import ctypes
        import mmap

        fd = os.open(f"/sys/bus/pci/devices/{Idxd.pci_address()}/resource0", os.O_RDWR)
        door = mmap.mmap(fd, 0x10000)
        os.close(fd)
        base = ctypes.addressof(ctypes.c_char.from_buffer(door))
        for i, word in enumerate(words):
            ctypes.c_uint64.from_address(base + 0x8010 + 8 * i).value = word
        ctypes.c_uint64.from_address(base + 0x8000).value = value
        time.sleep(0.05)

    def allow_sva(self) -> None:
        """Set VTD_FLAG_SVM_CAPABLE (bit 2 of intel_iommu.flags, 0x1a4 above cap): QEMU has no ECAP.SMPWC."""
        iommu = "/sys/class/iommu/dmar0/intel-iommu"
        capabilities = [int(str(read(f"{iommu}/{name}")), 16) for name in ("cap", "ecap")]
        self.poke(6, [*capabilities, 4, 0x1BC - 0x18])
        time.sleep(1)


def main() -> None:
    """Print every answer of the parts that the arguments name."""
    count = 0

    def say(what: str, text: str) -> None:
        nonlocal count
        count += 1
        print(f"{count:03d} {what}: {text}", flush=True)

    guest = Guest()
    run(
        sys.argv[1:],
        say,
        guest.poke,
        guest.messages,
        settle=lambda: time.sleep(1.5),
        allow_sva=guest.allow_sva,
        begin=lambda name: print(f"# {name}", flush=True),
    )


if __name__ == "__main__":
    main()
