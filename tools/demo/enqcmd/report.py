"""What a submission came to, as lines: flags, signals, exits, faults, records, logs. Only what was observed."""

from __future__ import annotations

import signal
from collections import Counter
from typing import TYPE_CHECKING, Final

from pykernel.cpu.trap import NAMES
from pykernel.hw.vtd.codes import Reason
from pykernel.uapi.linux.idxd import dsa_completion_status

if TYPE_CHECKING:
    from pykernel.tools.demo.enqcmd.scene import Outcome, Scene

__all__ = ["observed"]

EXITS: Final = {72: "ENQCMD PASID translation failure", 73: "ENQCMDS PASID translation failure"}
WRITE_FAULT: Final = 0x80  # bit 7 of a completion status
ZF, CF = 1 << 6, 1 << 0
Rows = list[tuple[str, str]]


def observed(scene: Scene, outcome: Outcome) -> Rows:
    """Everything of *outcome* that can be told, in the order of the way; a name and a text each."""
    return [
        *_flags(outcome),
        *_signal(outcome),
        *_exits(outcome),
        *_wire(scene, outcome),
        *_queue(outcome),
        *_faults(outcome),
        *_requests(outcome),
        *_unbound(outcome),
        *_end(outcome),
        *(("host log", record.text) for record in outcome.host),
        *(("guest log", record.text) for record in outcome.guest),
    ]


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


def _flags(outcome: Outcome) -> Rows:
    rows = [
        (f"ZF={zf:d}", f"{_times(n)}: {'retry, the flag has no reason' if zf else 'the queue has the command'}")
        for zf, n in sorted(Counter(outcome.zf).items())
    ]
    return [("ENQCMD", f"{name} {text}") for name, text in rows]


def _signal(outcome: Outcome) -> Rows:
    fault = outcome.fault
    if fault is None:
        return []
    why = fault.__notes__[0]
    return [
        ("signal", f"{signal.Signals(fault.signo).name}, si_code {fault.si_code:#x}; vector {fault.vector}"),
        ("", why if why.startswith(NAMES[fault.vector]) else f"{NAMES[fault.vector]}: {why}"),
    ]


def _exits(outcome: Outcome) -> Rows:
    exits = outcome.named("kvm_enqcmd_exit")
    if not exits:
        return []
    last = exits[-1]
    return [
        ("VM exit", f"{last['reason']}, {EXITS[last['reason']]}, {_times(len(exits))}"),
        ("", f"guest's RFLAGS {last['rflags']:#x}: ZF={last['rflags'] & ZF and 1}, CF={last['rflags'] & CF}"),
    ]


def _wire(scene: Scene, outcome: Outcome) -> Rows:
    rows: Rows = []
    for e in outcome.named("dmwr"):
        row = ("DMWr", f"ends at {e['port']}, {e['kind']}: {e['verdict']}")
        if e["verdict"] != "routed" and row not in rows:
            rows.append(row)
    commands = outcome.named("enqcmds")
    for (completion, data), n in Counter((e["completion"], e["data"][:8]) for e in commands).items():
        pasid = int.from_bytes(bytes.fromhex(data), "little") & 0xFFFFF
        whose = "" if pasid == scene.hpasid_was else f", which is {_owner(scene, pasid)}"
        rows.append(("completion", f"{completion}, {_times(n)}; PASID {pasid} on the wire{whose}"))
    return rows


def _owner(scene: Scene, pasid: int) -> str:
    return "the tenant's" if pasid == scene.tenant_pasid else "somebody else's"


def _queue(outcome: Outcome) -> Rows:
    return [
        ("queue", f"{e['occupancy']} entries, a limited portal may fill {e['room']}: no more")
        for e in outcome.named("dsa_enqueue")
        if not e["accepted"]
    ]


def _faults(outcome: Outcome) -> Rows:
    rows: Rows = []
    for event in outcome.events:
        e = event.fields
        if event.name not in ("vtd_fault", "vtd_refused"):
            continue
        how = "recorded" if event.name == "vtd_fault" else "to ATS"
        row = ("IOMMU", f"{e['reason']:#x} {Reason(e['reason']).name}, PASID {e['pasid']}, {e['addr']:#x}: {how}")
        if row not in rows:
            rows.append(row)
    return rows


def _requests(outcome: Outcome) -> Rows:
    rows = [
        ("PRI", f"page request: {e['device']}, PASID {e['pasid']}, GVA {e['addr']:#x}")
        for e in outcome.named("dsa_page_request")
    ]
    rows += [
        ("", f"in the guest's queue: {e.fields['device']}, PASID {e.fields['pasid']}, GVA {e.fields['addr']:#x}")
        for e in outcome.inside
        if e.name == "prq_report"
    ]
    return rows


def _unbound(outcome: Outcome) -> Rows:
    """The order of what ends a PASID."""
    said = {
        "dsa_complete": "completion",
        "vdsa_cmd": "drained",
        "dsa_page_request": "page request",
        "viommu_unbind": "unbind",
        "kvm_pasid": "KVM's table",
        "vtd_invalidate": "IOMMU's entry",
    }
    names = [
        said[event.name]
        for event in outcome.events
        if event.name in said and event.fields.get("kind", "PASID") == "PASID"
    ]
    return [("order", ", ".join(names))] if "unbind" in names else []


def _end(outcome: Outcome) -> Rows:
    status = outcome.record.status
    if status:
        name = dsa_completion_status(status & ~WRITE_FAULT).name
        where = f", {'write' if status & WRITE_FAULT else 'read'} of {outcome.record.fault_addr:#x}"
        rows = [("record", f"status {status:#04x} {name}{where if outcome.record.fault_addr else ''}")]
    else:
        rows = [("record", "status 0x00: none arrived")]
    return [*rows, ("data", "is at the destination" if outcome.copied else "is not at the destination")]
