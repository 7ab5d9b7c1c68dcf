"""Compare the emulated kernel with what real kernels answered: ``python tests/conformance/compare.py [NAME...]``.

Each set is a probe, a recording of a real kernel (data/) and a machine like the recorded one. The probe runs in-process
on the patched surface, the one about character devices on the direct one; questions are paired by their text, in order.
Every difference needs a row in differences.py that says why it is right; one without makes the exit status 1.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import chardev_probe  # noqa: E402
import driver_core_parts  # noqa: E402
import driver_core_probe  # noqa: E402
import idxd_probe  # noqa: E402
import probing  # noqa: E402
import process_os  # noqa: E402
import stand_ins  # noqa: E402
import vfio_bus_probe  # noqa: E402
import vfio_card_probe  # noqa: E402
import vfio_emulated  # noqa: E402
import vfio_probe  # noqa: E402
import vfio_random_probe  # noqa: E402
from differences import DIFFERENCES, reason  # noqa: E402

import pykernel  # noqa: E402
from pykernel.machine import Cpu, IommuSpec, Machine, PciSpec  # noqa: E402
from pykernel.pci.core import Pci  # noqa: E402

__all__ = ["DIFFERENCES", "SETS", "Answer", "RecordedSet", "Result", "compare", "parse", "run_set"]


@dataclass(frozen=True)
class Answer:
    """One question and the text of its answer, in a part of a probe."""

    part: str
    what: str
    text: str


@dataclass(frozen=True)
class RecordedSet:
    """A recording and how to ask the emulated kernel the same."""

    name: str
    data: str
    profile: str
    probe: str
    pci: tuple[tuple[str, str, dict[str, Any]], ...]
    iommu: IommuSpec = field(default_factory=IommuSpec)
    cpu: Cpu = field(default_factory=lambda: Cpu(count=1))
    module_args: str = ""
    modules: tuple[str, ...] = ("idxd",)
    separate: tuple[str, ...] = ()
    config: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The recording's file."""
        return HERE / "data" / self.data

    def machine(self) -> Machine:
        """A machine like the recorded one."""
        pci = tuple(PciSpec(model, address, dict(options)) for model, address, options in self.pci)
        return Machine("recorded", self.cpu, self.iommu, pci, dict.fromkeys(self.modules, self.module_args))


EDU = (("edu", "0000:00:02.0", {}),)
NO_SVA = IommuSpec(enabled=True, sva=False)
QEMU_VTD = IommuSpec(enabled=True, sva=False, address_width=39, snoop_control=False, dirty_tracking=False)
NO_IOMMU = IommuSpec(enabled=False, sva=False)
VFIO_MODULES = ("vfio", "vfio_iommu_type1", "vfio_pci", "mdev", "pci_stub")
CARD = (("edu", "0000:00:01.0", {}), (f"{HERE}/vfio_card.py", "0000:00:03.0", {}))
EDU_FIRST = (("edu", "0000:00:01.0", {}),)
PORTS = (
    ("root-port", "0000:00:04.0", {"secondary": 1}),
    ("root-port", "0000:00:05.0", {"secondary": 2}),
    ("edu", "0000:01:00.0", {}),
    ("edu", "0000:01:00.1", {}),
    ("edu", "0000:02:00.0", {}),
)
VFIO_PROBES = {
    "vfio": vfio_probe.PARTS,
    "vfio bus": vfio_bus_probe.PARTS,
    "vfio random": vfio_random_probe.PARTS,
    "vfio card": vfio_card_probe.PARTS,
}
HALTS = ("halt software", "halt flr", "halt warm", "halt cold", "module")


def _dsa(preset: str) -> tuple[tuple[str, str, dict[str, Any]], ...]:
    model = "iax" if preset == "iax" else "dsa"
    options: dict[str, Any] = {} if preset in ("spr", "iax") else {"preset": preset}
    return ((model, "0000:00:08.0", options),)


SETS: tuple[RecordedSet, ...] = (
    RecordedSet("chardev, Linux 6.1", "chardev-linux-6.1.txt", "linux-6.1", "chardev", EDU, NO_SVA, modules=()),
    RecordedSet("chardev, Linux 6.12", "chardev-linux-6.12.txt", "linux-6.12", "chardev", EDU, NO_SVA, modules=()),
    RecordedSet(
        "driver core, Linux 6.1", "driver-core-linux-6.1.txt", "linux-6.1", "driver core", EDU, NO_SVA, modules=()
    ),
    RecordedSet(
        "driver core, Linux 6.12",
        "driver-core-linux-6.12.txt",
        "linux-6.12",
        "driver core",
        EDU,
        NO_SVA,
        modules=(),
        config=("-IOMMUFD",),
    ),
    RecordedSet(
        "vfio, Linux 6.1", "vfio-linux-6.1.txt", "linux-6.1", "vfio", EDU_FIRST, QEMU_VTD, modules=VFIO_MODULES
    ),
    RecordedSet(
        "vfio, Linux 6.12",
        "vfio-linux-6.12.txt",
        "linux-6.12",
        "vfio",
        EDU_FIRST,
        QEMU_VTD,
        modules=VFIO_MODULES,
        config=("-IOMMUFD",),
    ),
    RecordedSet(
        "vfio on a bus, Linux 6.1",
        "vfio-bus-linux-6.1.txt",
        "linux-6.1",
        "vfio bus",
        PORTS,
        QEMU_VTD,
        modules=VFIO_MODULES,
    ),
    RecordedSet(
        "vfio on a bus, Linux 6.12",
        "vfio-bus-linux-6.12.txt",
        "linux-6.12",
        "vfio bus",
        PORTS,
        QEMU_VTD,
        modules=VFIO_MODULES,
        config=("-IOMMUFD",),
    ),
    RecordedSet(
        "vfio at random, Linux 6.1",
        "vfio-random-linux-6.1.txt",
        "linux-6.1",
        "vfio random",
        EDU_FIRST,
        QEMU_VTD,
        modules=VFIO_MODULES,
    ),
    RecordedSet(
        "vfio at random, Linux 6.12",
        "vfio-random-linux-6.12.txt",
        "linux-6.12",
        "vfio random",
        EDU_FIRST,
        QEMU_VTD,
        modules=VFIO_MODULES,
        config=("-IOMMUFD",),
    ),
    RecordedSet(
        "vfio card, Linux 6.1",
        "vfio-card-linux-6.1.txt",
        "linux-6.1",
        "vfio card",
        CARD,
        QEMU_VTD,
        modules=VFIO_MODULES,
    ),
    RecordedSet(
        "vfio card, Linux 6.12",
        "vfio-card-linux-6.12.txt",
        "linux-6.12",
        "vfio card",
        CARD,
        QEMU_VTD,
        modules=VFIO_MODULES,
        config=("-IOMMUFD",),
    ),
    RecordedSet(
        "idxd, Linux 6.1", "idxd/answers-idxd-6.1.txt", "linux-6.1", "idxd", _dsa("spr"), NO_SVA, separate=HALTS
    ),
    RecordedSet("idxd, Linux 7.2", "idxd/answers-idxd-7.2.txt", "linux-7.2", "idxd", _dsa("spr"), separate=HALTS),
    RecordedSet(
        "idxd not configurable, Linux 7.2", "idxd/answers-idxd-7.2-fixed.txt", "linux-7.2", "idxd", _dsa("fixed")
    ),
    RecordedSet("iax, Linux 7.2", "idxd/answers-idxd-7.2-iax.txt", "linux-7.2", "idxd", _dsa("iax")),
    RecordedSet(
        "idxd sva=0, Linux 7.2", "idxd/answers-idxd-7.2-sva0.txt", "linux-7.2", "idxd", _dsa("spr"), module_args="sva=0"
    ),
    RecordedSet(
        "idxd without IOMMU, Linux 7.2", "idxd/answers-idxd-7.2-noiommu.txt", "linux-7.2", "idxd", _dsa("spr"), NO_IOMMU
    ),
)


def parse(text: str) -> list[Answer]:
    """A recording's answers: ``NNN what: repr`` lines below ``# part`` lines."""
    part, answers = "", []
    for line in text.splitlines():
        if line.startswith("# "):
            part = line[2:]
        elif m := re.match(r"\d+ (.*?): ((?:['\"\[({]|b['\"]|-?\d|True$|False$|None$|set\().*)$", line):
            answers.append(Answer(part, m[1], m[2]))
    return [a for a in answers if a.what != "answers"]


class Recorder:
    """Collects answers as a probe says them."""

    def __init__(self) -> None:
        self.part = ""
        self.answers: list[Answer] = []

    def begin(self, name: str) -> None:
        """A part starts."""
        self.part = name

    def say(self, what: str, text: str) -> None:
        """An answer."""
        self.answers += parse(f"# {self.part}\n0 {what}: {text}\n")


class Door:
    """The model's back door as methods of the emulated silicon, and the kernel's log as the probe wants it."""

    def __init__(self, kernel: pykernel.Kernel) -> None:
        self.kernel = kernel
        self.seq = 0

    @property
    def silicon(self) -> Any:
        """The one function of the machine."""
        return next(iter(self.kernel.sub(Pci).slots.values())).function

    def poke(self, value: int, words: Sequence[int]) -> None:
        """``value`` to the door: which fault, and of what."""
        op, a, b = value & 0xFF, value >> 8 & 0xFF, value >> 16 & 0xFFFF
        acts: dict[int, Callable[[], None]] = {
            1: lambda: self.silicon.raise_swerr(list(words)),
            2: lambda: self.silicon.halt(a),
            3: lambda: self.silicon.fail_command(a),
            4: lambda: self.silicon.set_occupancy(a, b),
            5: lambda: self.silicon.raise_cause(value >> 32),
            7: lambda: self.silicon.set_gensts(a),
        }
        acts[op]()
        self.settle()

    def settle(self) -> None:
        """Let interrupts and work run."""
        self.kernel.sched.run_ready()

    def messages(self) -> list[str]:
        """The log since the last call, as the probe's Guest reads it from /dev/kmsg."""
        out = []
        for r in self.kernel.log.since(self.seq):
            self.seq = r.seq + 1
            if idxd_probe.MESSAGE.search(r.text):
                out.append(f"<{r.level}> " + re.sub(r"^(idxd|user|dmaengine) (\S+): ", r"\1 \2: ", r.text))
        return out


def run_set(recorded: RecordedSet) -> list[Answer]:
    """Ask the emulated kernel everything that the recording asks."""
    if recorded.probe == "chardev":
        return _chardev(recorded)
    if recorded.probe == "driver core":
        return _driver_core(recorded)
    if recorded.probe in VFIO_PROBES:
        return _vfio(recorded)
    asked = list(dict.fromkeys(a.part for a in parse(recorded.path.read_text("utf-8"))))
    together = [p for p in asked if p not in recorded.separate]
    answers = _idxd(recorded, together)
    for part in asked:
        if part in recorded.separate:
            answers += _idxd(recorded, [part])
    return answers


def _chardev(recorded: RecordedSet) -> list[Answer]:
    kernel, recorder = pykernel.boot(recorded.machine(), recorded.profile), Recorder()
    process = kernel.process()
    for _ in range(3):
        process.open("/dev/null", os.O_RDWR)  # standard input, output and error
    world = process_os.World(process)
    hooks = {"in_child": world.in_child, "exec_errno": world.exec_errno}
    with process_os.lent(world, chardev_probe, probing, **hooks):
        probing.run(chardev_probe.PARTS, [], recorder.begin, recorder.say, world.raw_mmap)
    process.exit()
    kernel.shutdown()
    return recorder.answers


def _driver_core(recorded: RecordedSet) -> list[Answer]:
    kernel = pykernel.boot(recorded.machine(), recorded.profile, config=recorded.config)
    kernel.up()
    for name in ("vfio_iommu_type1", "vfio_pci"):  # as the recorded kernels had
        kernel.modules.modprobe(name)
    recorder = Recorder()
    with kernel.patched() as patched:

        def raw_mmap(fd: int, length: int, prot: int, flags: int, offset: int) -> str:
            address = patched.process.mmap(0, length, prot, flags, fd, offset)
            patched.process.munmap(address, length)
            return "mapped"

        driver_core_parts.__dict__["socket"] = stand_ins.UeventSocket(kernel)  # netlink sockets are the host's
        probing.run(driver_core_probe.PARTS, [], recorder.begin, recorder.say, raw_mmap)
    return recorder.answers


def _vfio(recorded: RecordedSet) -> list[Answer]:
    kernel = pykernel.boot(recorded.machine(), recorded.profile, config=recorded.config)
    kernel.initcalls.insert(2, lambda: vfio_emulated.firmware(kernel))
    recorder = Recorder()
    with kernel.patched() as patched:
        host = vfio_emulated.EmulatedHost(kernel, patched)
        probing.run(VFIO_PROBES[recorded.probe], [], recorder.begin, recorder.say, patched.raw_mmap, host)
    return recorder.answers


def _idxd(recorded: RecordedSet, parts: list[str]) -> list[Answer]:
    kernel = pykernel.boot(recorded.machine(), recorded.profile)
    door, recorder = Door(kernel), Recorder()
    with kernel.patched():
        idxd_probe.run(parts, recorder.say, door.poke, door.messages, settle=door.settle, begin=recorder.begin)
    return recorder.answers


@dataclass
class Result:
    """What a comparison found; a pair's half is None where only one side was asked."""

    agree: int = 0
    differ: list[tuple[Answer | None, Answer | None]] = field(default_factory=list)


def compare(real: list[Answer], ours: list[Answer]) -> Result:
    """Pair the questions by part and text, in order, and compare the answers."""
    result = Result()
    matcher = SequenceMatcher(None, [(a.part, a.what) for a in real], [(a.part, a.what) for a in ours], autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            for a, b in zip(real[i1:i2], ours[j1:j2], strict=True):
                if normal(a.text) == normal(b.text) or both_descriptors(a, b):
                    result.agree += 1
                else:
                    result.differ.append((a, b))
            continue
        result.differ += [(a, None) for a in real[i1:i2]] + [(None, b) for b in ours[j1:j2]]
    return result


def both_descriptors(a: Answer, b: Answer) -> bool:
    """Both are what open() returned: the lowest free number of different processes."""
    return a.what == "open" and a.text.isdigit() and b.text.isdigit()


def normal(text: str) -> str:
    """
    An answer without what differs from boot to boot: a dynamic major, an IOMMU group's number.

    A fault of a request without PASID has none; QEMU's VT-d in scalable mode records PASID 0.
    """
    text = text.replace("PASID 0x0]", "NO_PASID]")
    text = re.sub(r"iommu group \d+", "iommu group N", text)
    return re.sub(r"MAJ(OR)?=\d+|^'2[345]\d\\n'$", "MAJOR", text)


def report(recorded: RecordedSet, result: Result, *, verbose: bool) -> Iterator[str]:
    """Lines of text about one set."""
    by_reason: dict[str, int] = {}
    for a, b in result.differ:
        why = reason(recorded.name, (a or b).part, (a or b).what)  # type: ignore[union-attr]
        by_reason[why] = by_reason.get(why, 0) + 1
        if not why or verbose:
            one = a or b
            assert one is not None
            yield f"    [{one.part}] {one.what}"
            yield f"      Linux:    {a.text if a else '(not asked)'}"
            yield f"      pykernel: {b.text if b else '(not asked)'}"
    unexplained = by_reason.pop("", 0)
    yield f"{recorded.name}: {result.agree} agree, {len(result.differ)} differ ({unexplained} unexplained)"
    for why, n in sorted(by_reason.items(), key=lambda kv: -kv[1]):
        yield f"  {n:4d}  {why}"


def main(argv: list[str]) -> int:
    """Compare the sets whose names contain an argument (none: all)."""
    verbose = "-v" in argv
    names = [a for a in argv if a != "-v"]
    bad = total = agreed = 0
    for recorded in SETS:
        if names and not any(n in recorded.name for n in names):
            continue
        result = compare(parse(recorded.path.read_text("utf-8")), run_set(recorded))
        for line in report(recorded, result, verbose=verbose):
            print(line, flush=True)
        total += result.agree + len(result.differ)
        agreed += result.agree
        bad += sum(not reason(recorded.name, (a or b).part, (a or b).what) for a, b in result.differ)  # type: ignore[union-attr]
    print(f"{agreed} of {total} answers agree; {total - agreed} differ, {bad} of them unexplained")
    return 1 if bad else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    sys.exit(main(sys.argv[1:]))
