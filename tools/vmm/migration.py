"""
Live migration: a machine goes on on another host, with its guest's PASIDs and none of the host's.

Memory is copied while the guest runs, round after round what was written meanwhile. Then its processors stop, outside
of the guest and between two instructions: a command of ENQCMD was accepted or was not. The devices stop next, which
waits until all that the guest submitted has its completion record; so nothing on its way has a host's PASID, nothing is
lost and nothing is done twice. A page that such work asks the guest for is brought by letting the guest run for as long
as it takes. On the other side each of the guest's PASIDs gets one of that host's and is bound, which fills KVM's table
and the IOMMU's, before the devices have their state and long before the first VM entry.

Dirty pages come from KVM's log alone. KVM's is made by comparing, so writes of devices are in it; no accessed or dirty
bits of second-stage tables are needed, and type1 without them would call every pinned page dirty.

Until the last step the source has all that it had. Whatever fails, the destination's process ends, and the guest goes
on here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from typing import TYPE_CHECKING, Final

from pykernel.tools.vmm.state import Clock, MachineState, VcpuState, features
from pykernel.uapi.linux import vfio as v

if TYPE_CHECKING:
    from pykernel.kernel import Kernel
    from pykernel.sched import Thread
    from pykernel.tools.vmm.device import AssignedDevice
    from pykernel.tools.vmm.memory import Area
    from pykernel.tools.vmm.vmm import Vmm

__all__ = ["Migration", "MigrationError", "Progress"]

PAGE: Final = 4096
CHUNK: Final = 1 << 20
ROUNDS: Final = 8  # then it stops, however much is dirty
FEW: Final = 64  # pages that are left for when the guest is stopped
ROUND_NS: Final = 1_000_000  # for which the guest runs between two rounds
ANSWER_NS: Final = 10**9  # for which a page request waits for the guest
STOPS: Final = 100  # how often devices are stopped anew because the guest ran for its page requests
ZEROS: Final = bytes(CHUNK)


class MigrationError(Exception):
    """The machine did not move, and goes on where it was: why."""


@dataclass(frozen=True)
class Progress:
    """
    How far a migration is.

    Attributes:
        step: what is to be done next: check, prepare, copy, stop, quiesce, rest, save, iommu, devices, processors,
            memory, run.
        round: of copying.
        sent: pages so far.
        dirty: pages that are to be sent in the next round.
    """

    step: str
    round: int = 0
    sent: int = 0
    dirty: int = 0


class Migration:
    """
    One machine on its way from *source* to host *to*.

    Attributes:
        destination: the VMM there, once there is one.
    """

    def __init__(
        self, source: Vmm, to: Kernel, parent: str, progress: Callable[[Progress], None] | None = None
    ) -> None:
        self.source, self.to, self.parent = source, to, parent
        self.destination: Vmm | None = None
        self._tell = progress or (lambda _progress: None)
        self._sent = 0
        self._covered = 0  # what the guest sees in the place of portals
        self._undo: list[Callable[[], None]] = []

    def run(self) -> Vmm:
        """Do it. Raises MigrationError."""
        try:
            destination = self._move()
        except Exception as e:
            self._roll_back()
            raise e if isinstance(e, MigrationError) else MigrationError(f"{self.source.name}: {e}") from e
        self._commit(destination)
        return destination

    def _roll_back(self) -> None:
        """The guest goes on here: each step that was done is undone, the last first."""
        while self._undo:
            self._undo.pop()()

    def _step(self, step: str, round: int = 0, dirty: int = 0) -> None:
        self._tell(Progress(step, round, self._sent, dirty))

    def _move(self) -> Vmm:
        source = self.source
        self._step("check")
        self._check()
        self._step("prepare")
        destination = self._prepare()
        self._copy(destination)
        self._step("stop")
        self._undo.append(source.resume)
        source.pause()
        self._step("quiesce")
        self._undo.append(self._restart_devices)
        self._quiesce()
        self._step("rest")
        self._send(destination, self._dirty())
        self._step("save")
        state = self._save()
        self._load(destination, state)
        self._step("memory")
        self._undo.append(lambda: source.vm.back(source.ram))
        source.vm.leave()
        self._undo.append(destination.vm.leave)
        destination.vm.back(source.ram)
        self._step("run")
        for device in destination.devices.values():
            device.device.set_state(v.VFIO_DEVICE_STATE_RUNNING)
        return destination

    # ---- whether it can be

    def _check(self) -> None:
        """What is known without the destination. Raises MigrationError."""
        source = self.source
        if source.proc.exited is not None or all(t.done for t in source.threads):
            raise MigrationError(f"{source.name} does not run")
        if self.to is source.host:
            raise MigrationError(f"{source.name} is on that host")
        stays = [address for address, device in source.devices.items() if not device.device.migrates()]
        if stays:
            raise MigrationError(f"{', '.join(stays)} is a whole function, whose state VFIO cannot read")
        if source.pasids.policy == "identity":
            raise MigrationError("the guest's PASIDs are this host's own (identity): another host has given them away")

    def _prepare(self) -> Vmm:
        """The machine there, without a guest. Raises MigrationError: it is not like this one; OSError."""
        source = self.source
        self.destination = there = type(source)(
            self.to,
            name=source.name,
            memory=source.memory.size,
            vcpus=len(source.vcpus),
            parent=self.parent,
            mdev=source.kind,
            incoming=source,
        )
        self._undo.append(lambda: there.retire(1))
        mine, theirs = features(source.vm), features(there.vm)
        for (leaf, subleaf, register), bits in mine.items():
            if missing := bits & ~theirs.get((leaf, subleaf, register), 0):
                where = f"CPUID {leaf:#x}.{subleaf}:E{'ABCD'[register]}X"
                raise MigrationError(f"the processors there have not all that the guest may use: {where} {missing:#x}")
        for address, device in source.devices.items():
            if device.identity() != there.devices[address].identity():
                raise MigrationError(f"{address}: the accelerator there has other capabilities")
        return there

    # ---- memory

    def _copy(self, to: Vmm) -> None:
        """All of it, then what was written meanwhile, until that is little."""
        source = self.source
        self._step("copy", dirty=source.memory.size // PAGE)
        for slot in self._slots():
            self._undo.append(lambda slot=slot: source.vm.log(slot, on=False))  # type: ignore[misc]
            source.vm.log(slot, on=True)
        self._send(to, ((area.gpa, area.size) for area in source.memory.areas))
        for round in range(1, ROUNDS):
            source.host.sched.idle_until(lambda: False, ROUND_NS)
            runs = list(self._dirty())
            dirty = sum(size for _, size in runs) // PAGE
            self._step("copy", round, dirty)
            self._send(to, runs)
            if dirty <= FEW:
                break

    def _slots(self) -> dict[int, Area]:
        """The memory slots that are RAM."""
        areas = {(area.gpa, area.size, area.hva): area for area in self.source.memory.areas}
        return {slot: areas[where] for slot, where in self.source.vm.slots.items() if where in areas}

    def _dirty(self) -> Iterator[tuple[int, int]]:
        """What was written since the last call: guest-physical address, bytes."""
        proc, vm = self.source.proc, self.source.vm
        for slot, area in self._slots().items():
            size = -(-area.size // (8 * PAGE) // PAGE) * PAGE
            buffer = proc.mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
            try:
                bits = int.from_bytes(vm.dirty(slot, buffer), "little")
            finally:
                proc.munmap(buffer, size)
            for first, n in _runs(bits):
                yield area.gpa + first * PAGE, n * PAGE

    def _send(self, to: Vmm, runs: Iterator[tuple[int, int]] | list[tuple[int, int]]) -> None:
        """The memory there is zeros at first: what is here, too, need not be written."""
        fresh = not self._sent
        for gpa, size in runs:
            for at in range(gpa, gpa + size, CHUNK):
                data = self.source.memory.read(at, min(CHUNK, gpa + size - at))
                if not fresh or data != ZEROS[: len(data)]:
                    to.memory.write(at, data)
            self._sent += size // PAGE

    # ---- stopping

    def _quiesce(self) -> None:
        """Devices stop when all that was submitted is done. Raises MigrationError, OSError."""
        for _ in range(STOPS):
            alone = [self._stop(device) for device in self.source.devices.values()]
            if all(alone):
                return
            self._restart_devices()  # the guest ran, and may have submitted more
        raise MigrationError("the guest's work asks for pages without end")

    def _stop(self, device: AssignedDevice) -> bool:
        """
        Stop one; False: the guest had to run meanwhile, to bring pages, and could submit.

        To a shared queue it could not: its portals were covered. A dedicated queue's cannot be, for MOVDIR64B does not
        hear of it.
        """
        source, requests = self.source, self.source.requests
        sched, failed = source.host.sched, list[OSError]()

        def stop() -> None:
            try:
                device.device.set_state(v.VFIO_DEVICE_STATE_STOP)
            except OSError as e:
                failed.append(e)

        thread, alone = sched.spawn(stop, f"{source.name}/stop"), True
        while not thread.done:
            if not sched.idle_until(lambda: thread.done or bool(requests.waiting), ANSWER_NS):
                sched.kill(thread)
                raise MigrationError("the device does not stop")
            if not thread.done:
                alone = source.kind == "1swq"
                if alone:
                    self._cover(device)
                self._answer(thread)
        if failed:
            raise failed[0]
        return alone

    def _answer(self, thread: Thread) -> None:
        """Let the guest answer its page requests; what it does not is refused."""
        source, requests = self.source, self.source.requests
        source.resume()
        source.host.sched.idle_until(lambda: thread.done or not requests.waiting, ANSWER_NS)
        source.pause()
        requests.refuse()

    def _cover(self, device: AssignedDevice) -> None:
        if not self._covered:
            proc = self.source.proc
            self._covered = proc.mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
            self._undo.append(self._uncover)
            device.cover(self._covered)

    def _uncover(self) -> None:
        for device in self.source.devices.values():
            device.cover(0)
        self.source.proc.munmap(self._covered, PAGE)

    def _restart_devices(self) -> None:
        for device in self.source.devices.values():
            device.device.set_state(v.VFIO_DEVICE_STATE_RUNNING)

    # ---- state

    def _save(self) -> MachineState:
        source = self.source
        return MachineState(
            tuple(VcpuState.of(vcpu) for vcpu in source.vcpus),
            {address: device.save() for address, device in source.devices.items()},
            source.viommu.save(),
            Clock.of(source.vm),
        )

    def _load(self, to: Vmm, state: MachineState) -> None:
        """PASIDs first: a dedicated queue is programmed with one. Raises OSError, ValueError."""
        self._step("iommu")
        to.viommu.load(state.iommu)
        self._step("devices")
        for address, device in state.devices.items():
            to.devices[address].load(device)
        self._step("processors")
        state.clock.load(to.vm)
        for vcpu, registers in zip(to.vcpus, state.vcpus, strict=True):
            registers.load(vcpu)

    def _commit(self, to: Vmm) -> None:
        """The guest is there from now on."""
        source = self.source
        for mine, theirs in zip(source.vcpus, to.vcpus, strict=True):
            theirs.adopt(mine)
        pairs = [(mine.silicon, theirs.silicon) for mine, theirs in zip(source.vcpus, to.vcpus, strict=True)]
        to.guest.moved(pairs, to.vcpus[0].silicon.rdtsc)
        to.resume()
        source.retire()


def _runs(bits: int) -> Iterator[tuple[int, int]]:
    """Stretches of ones: the first bit, how many."""
    at = 0
    while bits:
        zeros = (bits & -bits).bit_length() - 1
        at, bits = at + zeros, bits >> zeros
        ones = (~bits & bits + 1).bit_length() - 1
        yield at, ones
        at, bits = at + ones, bits >> ones
