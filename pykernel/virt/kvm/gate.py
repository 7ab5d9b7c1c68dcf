"""
Changing the PASID translation tables of a virtual machine while its processors run.

A structure that VMCSs point to may not be changed while a processor is in non-root mode with it, so all must come out
first. But who tells of a new or a lost PASID, a notifier, may not wait. Hence:

1. The notifier (of the CPU's priority, the first to hear) takes a reference of a bound PASID, closes the gate of VM
   entry, sends each processor in guest mode a kick, and queues the rest on ioasid's ordered work queue.
2. That work waits until no processor is in guest mode, changes the tables, opens the gate, and drops the references of
   what was unbound. Several changes that are pending are done in one go.
3. Who publishes an UNBIND calls ``ioasid_flush_work()`` before it touches the IOMMU's entry. So a command that was
   translated with the old entry arrives while the IOMMU's still stands, and once the PASID is unbound none does.

A processor that halts or is in user space needs no kick: the gate is enough. Notifiers of version 4 of the series stand
here: BIND and UNBIND only. FREE of an ID that is bound makes the IOMMU's driver unbind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.iommu.ioasid import (
    INVALID_IOASID,
    IOASID_NOTIFY_BIND,
    IOASID_NOTIFY_UNBIND,
    IOASID_PRIO_CPU,
    IoasidNbArgs,
    ioasid_find_mm_set,
    ioasid_flush_work,
    ioasid_get,
    ioasid_get_locked,
    ioasid_put,
    ioasid_queue_work,
    ioasid_register_notifier_mm,
    ioasid_unregister_notifier_mm,
)
from pykernel.lib.notifier import NOTIFY_DONE, NOTIFY_OK, NotifierBlock
from pykernel.log import ERR

if TYPE_CHECKING:
    from pykernel.virt.kvm.pasid import PasidTable
    from pykernel.virt.kvm.vm import Kvm

__all__ = ["PasidGate"]


class PasidGate:
    """
    Which of the host's PASIDs each of a guest's is, kept in *table*.

    Attributes:
        closed: no processor may enter the guest.
        bound: guest PASID -> the host's; a reference each.
        kicks: how many processors were kicked.
    """

    def __init__(self, vm: Kvm, table: PasidTable) -> None:
        self.vm, self.kernel, self.table = vm, vm.kernel, table
        self.closed = False
        self.bound: dict[int, int] = {}
        self.kicks = 0
        self.queue = vm.kernel.waitqueue()
        self.nb = NotifierBlock(self.notify, IOASID_PRIO_CPU)
        self._changes: list[tuple[int, int, bool]] = []  # guest's PASID, host's, bound
        self._register()

    # ---- who tells

    def _register(self) -> None:
        """Hear of the VMM's set and of those that come after it; of one that has IDs what it missed is looked up."""
        mm = self.vm.mm
        ioasid_register_notifier_mm(self.kernel, mm, self.nb, late=True)
        owner = ioasid_find_mm_set(self.kernel, mm)
        if owner is None:
            return
        for spid, data in list(owner.spids.items()):
            try:
                ioasid_get(self.kernel, owner, data.id)
            except OSError:
                continue  # it is being freed
            self._bind(spid, data.id)

    def notify(self, _nb: NotifierBlock, event: int, args: IoasidNbArgs) -> int:
        """C: ``int kvm_ioasid_notifier(struct notifier_block *, unsigned long, void *)``; it must not sleep."""
        if args.spid == INVALID_IOASID:
            return NOTIFY_DONE
        if event == IOASID_NOTIFY_BIND:
            if args.spid >> 20 or args.id >> 20:  # cut off it would be somebody else's
                self.kernel.log.printk(ERR, f"kvm: PASID {args.spid:#x} for {args.id:#x} has over 20 bits")
                return NOTIFY_DONE
            try:
                ioasid_get_locked(self.kernel, args.set, args.id)
            except OSError:
                return NOTIFY_DONE  # it is being freed
            self._bind(args.spid, args.id)
        elif event == IOASID_NOTIFY_UNBIND and self.bound.get(args.spid) == args.id:
            del self.bound[args.spid]
            self._change(args.spid, args.id, bound=False)
        else:
            return NOTIFY_DONE
        return NOTIFY_OK

    def _bind(self, pasid: int, host: int) -> None:
        self.bound[pasid] = host
        self._change(pasid, host, bound=True)

    def _change(self, pasid: int, host: int, *, bound: bool) -> None:
        self._changes.append((pasid, host, bound))
        self.closed = True
        for vcpu in self.vm.vcpus.values():
            self.kicks += vcpu.kick()
        ioasid_queue_work(self.kernel, self.update)

    # ---- what waits

    def update(self) -> None:
        """The work: wait for the processors, change the tables, let them in again."""
        if not self._changes:
            return  # an earlier one has done them, and the gate is open
        self.queue.wait_event(lambda: not any(vcpu.in_guest for vcpu in self.vm.vcpus.values()))
        changes, self._changes = self._changes, []
        for pasid, host, bound in changes:
            if self.kernel.trace:
                self.kernel.trace("kvm_pasid", pasid=pasid, host=host, bound=bound)
            if bound:
                self._set(pasid, host)
            else:
                self.table.clear(pasid)
        self.closed = False
        self.queue.wake_up()
        for _, host, bound in changes:
            if not bound:
                ioasid_put(self.kernel, None, host)

    def _set(self, pasid: int, host: int) -> None:
        try:
            self.table.set(pasid, host)
        except OSError:  # the guest's ENQCMD says "retry" for ever, and nothing of another's is reached
            self.kernel.log.printk(ERR, f"kvm: no memory for the translation of PASID {pasid}")

    def wait_open(self) -> None:
        """VM entry waits here."""
        if self.closed:
            self.queue.wait_event(lambda: not self.closed)

    def left(self) -> None:
        """A processor came out of guest mode."""
        if self.closed:
            self.queue.wake_up()

    def destroy(self) -> None:
        """No processor is left: hear no more, drop all references."""
        ioasid_unregister_notifier_mm(self.kernel, self.vm.mm, self.nb)
        if self._changes:
            ioasid_flush_work(self.kernel)
        for host in self.bound.values():
            ioasid_put(self.kernel, None, host)
        self.bound.clear()
