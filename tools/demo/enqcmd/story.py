"""
The nine steps of a submission, told from what two kernels traced and from what is in the memory of the machine.

Nothing here is known beforehand: each number is a field of an event or the content of an entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pykernel.cpu.msr import IA32_PASID
from pykernel.mm.phys import PhysMem
from pykernel.tools.demo.enqcmd.scene import DSA, SIZE, Outcome, Scene
from pykernel.tools.demo.enqcmd.tables import ADDRESS, translation
from pykernel.tools.demo.enqcmd.walk import walks
from pykernel.uapi.linux.idxd import dsa_completion_status, dsa_hw_desc, dsa_opcode

__all__ = ["PGTT", "STEPS", "Story"]

PGTT: Final = {1: "first-stage", 2: "second-stage", 3: "nested", 4: "pass-through"}
WIDTHS: Final = {1: 39, 2: 48, 3: 57}
TABLES: Final = {5: "PML5", 4: "PML4", 3: "PDPT", 2: "PD", 1: "PT"}
STEPS: Final = {  # number: title, who does it
    1: ("The process fills a descriptor", "guest: process at CPL 3, exc_general_protection()"),
    2: ("ENQCMD takes the PASID of the MSR", "processor, VMX non-root operation"),
    3: ("The processor translates the PASID", "processor, VMX; KVM wrote the tables"),
    4: ("A deferrable write goes to the device", "processor, EPT; PCI Express"),
    5: ("The shared queue takes it, or not", "DSA, work queue"),
    6: ("The engine's DMA: whose is it", "IOMMU, scalable mode"),
    7: ("The IOMMU walks GVA -> GPA -> HPA", "IOMMU, first stage nested in second stage"),
    8: ("The data, then the completion record", "DSA, engine"),
    9: ("The process finds its record", "guest: process, polling"),
}


class Story:
    """One submission in a scene: its numbers, and its steps as lines."""

    def __init__(self, scene: Scene, outcome: Outcome, before: int) -> None:
        self.scene, self.outcome = scene, outcome
        self.before = before  # IA32_PASID before it
        self.command = dict(outcome.named("enqcmds")[0])
        self.enqueue = outcome.named("dsa_enqueue")[0]
        self.asked = outcome.named("kvm_enqcmd")[0]
        self.complete = outcome.named("dsa_complete")[0]
        self.translation = translation(scene, scene.gpasid)
        self.walks = list(walks(outcome.events))
        kvm = scene.kvm
        self.portal_gpa = int(self.asked["gpa"])
        self.portal_hpa = kvm.mmu.translate(self.portal_gpa, write=True)

    def _last(self, name: str) -> dict[str, Any]:
        """What the IOMMU read last of the name: caches may have it from somebody before."""
        return next(event.fields for event in reversed(self.scene.events) if event.name == name)

    # ---- what stood before, in short

    def setup(self) -> list[tuple[str, str]]:
        """What was done before, a line each."""
        scene = self.scene
        events = {event.name: event.fields for event in scene.setup}
        allocated, bound, told = events["viommu_alloc_pasid"], events["viommu_bind"], events["kvm_pasid"]
        return [
            ("machine", f"host and guest {scene.host.profile.release}, {len(scene.kvm.vcpus)} virtual processor(s)"),
            ("device", f"DSA {DSA} below a switch; wq0.0: shared, {SIZE} entries, mdev"),
            ("tenant", f"a process of the host on wq0.1: PASID {scene.tenant_pasid}"),
            ("VCMD", f"vcmd_alloc_pasid() of the guest: gPASID {allocated['guest']};"),
            ("", f"the VMM got hPASID {allocated['host']} of /dev/ioasid for it"),
            ("bind", f"guest's PASID entry: first stage at GPA {bound['pgd']:#x};"),
            ("", f"iommu_uapi_sva_bind_gpasid() nests it for hPASID {bound['host']}"),
            ("KVM", f"kvm_ioasid_notifier(): translation table [{told['pasid']}] = {told['host']}"),
        ]  # fmt: skip

    # ---- the steps

    def step(self, number: int) -> list[tuple[str, str]]:
        """The lines of step *number*: a name and what there is to say."""
        tell: Callable[[], list[tuple[str, str]]] = getattr(self, f"_step{number}")
        return tell()

    def _step1(self) -> list[tuple[str, str]]:
        app = self.scene.app
        desc = dsa_hw_desc.from_bytes(app.descriptor())
        first, opcode = bytes(desc)[:4].hex(), dsa_opcode(desc.opcode).name.removeprefix("DSA_OPCODE_")
        fixed = [event.fields["pasid"] for event in self.outcome.inside if event.name == "enqcmd_fixup"]
        rows = [
            ("descriptor", f"{opcode}, {desc.xfer_size} bytes; bits 31:0 are {first}: no PASID yet"),
            ("addresses", f"source {desc.src_addr:#x}, destination {desc.dst_addr:#x},"),
            ("", f"completion record {desc.completion_addr:#x}: all GVAs"),
            ("IA32_PASID", f"MSR {IA32_PASID:#x} = {self.before:#x}{'' if fixed else ', valid already'}"),
        ]
        if fixed:
            rows.append(("#GP", f"not valid: try_fixup_enqcmd_gp() writes {self.scene.msr():#x},"))
            rows.append(("", f"PASID {fixed[0]} of the mm, and the instruction starts again"))
        return rows

    def _step2(self) -> list[tuple[str, str]]:
        event = next(event.fields for event in self.outcome.inside if event.name == "enqcmd")
        first = event["pasid"] | int(event["priv"]) << 31
        return [
            ("command", f"bits 31:0 = {first:#010x}: gPASID {event['pasid']}, PRIV {int(event['priv'])};"),
            ("", "bits 511:32 are the descriptor's"),
            ("target", f"portal GVA {event['addr']:#x} -> GPA {self.portal_gpa:#x}"),
        ]

    def _step3(self) -> list[tuple[str, str]]:
        t, pasid = self.translation, self.asked["pasid"]
        half = "high" if pasid >> 19 else "low"
        return [
            ("VMCS", f"field {t.field:#x}, {half} PASID directory (bit 19 = {pasid >> 19}), is at {t.directory:#x}"),
            ("directory", f"bits 18:10 = {t.index}: [{t.index}] at {t.directory_at:#x} = {t.directory_entry:#x},"),
            ("", f"Present {t.directory_entry & 1}, table at {t.table:#x}"),
            ("table", f"bits 9:0 = {t.slot}: [{t.slot}] at {t.at:#x} = {t.entry:#010x}, Valid {t.entry >> 31}"),
            ("PASID", f"gPASID {pasid} -> hPASID {self.asked['host']}{self._collision(pasid)}"),
        ]

    def _exits(self) -> str:
        """Whether the machine left guest mode between translation and completion."""
        names = [event.name for event in self.outcome.events]
        between = names[names.index("kvm_enqcmd") : names.index("enqcmds")]
        return "an exit" if {"ioctl", "syscall", "kvm_enqcmd_exit"} & set(between) else "no exit"

    def _collision(self, pasid: int) -> str:
        return f"; {pasid} of the host is the tenant's" if pasid == self.scene.tenant_pasid else ""

    def _step4(self) -> list[tuple[str, str]]:
        wq, page = divmod(self.command["off"] >> 12, 4)
        kind = ("unlimited", "limited", "unlimited, IMS", "limited, IMS")[page]
        where = f"BAR {self.command['bar']} + {self.command['off']:#x}"
        ports = [f"{e['port']} ({e['kind']}): {e['verdict']}" for e in self.outcome.named("dmwr")]
        wire = bytes.fromhex(self.command["data"])
        return [
            ("portal", f"GPA {self.portal_gpa:#x} -> EPT -> HPA {self.portal_hpa:#x}, {self._exits()}"),
            ("", f"{where}: WQ {wq}, page {page}: {kind}"),
            ("DMWr", f"{len(wire)} bytes, non-posted; the first are {wire[:8].hex(' ')}"),
            *(("" if n else "ports", port) for n, port in enumerate(ports)),
            ("completion", f"{self.command['completion']}: ZF={int(self.outcome.zf[0])}"),
        ]

    def _step5(self) -> list[tuple[str, str]]:
        e = self.enqueue
        verdict = "accepted" if e["accepted"] else "retry"
        return [
            ("WQ", f"{e['wq']} of {e['device']}: {e['occupancy']} of {SIZE} entries;"),
            ("", f"a limited portal, as every guest has, fills {e['room']}: {verdict}"),
            ("entry", f"has PASID {e['pasid']}: the device never sees the guest's {self.asked['pasid']}"),
        ]

    def _step6(self) -> list[tuple[str, str]]:
        root, context = self._last("vtd_root"), self._last("vtd_context")
        directory, entry = self._last("vtd_pasid_directory"), self._last("vtd_pasid_entry")
        rid, ctx, low = root["source"], context["entry"], entry["entry"]
        half = root["high"] if rid & 0x80 else root["entry"]
        kind = f"{PGTT.get(low >> 6 & 7, 'reserved')}, {WIDTHS[low >> 2 & 7]} bits"
        first = entry["first"] & ADDRESS
        return [
            ("request", f"RID {rid:#06x} ({DSA}), PASID {entry['pasid']}, GVA {self.walks[0].addr:#x}"),
            ("root", f"[{rid >> 8:#x}] at {root['at']:#x} = {half:#x}"),
            ("context", f"[{rid & 0x7F:#x}] at {context['at']:#x} = {ctx:#x}: PASIDE {ctx >> 3 & 1},"),
            ("", f"PRE {ctx >> 4 & 1}, DTE {ctx >> 2 & 1}, directory {ctx & ADDRESS:#x}"),
            ("directory", f"bits 19:6 = {directory['index']}: at {directory['at']:#x} = {directory['entry']:#x}"),
            ("entry", f"bits 5:0 = {entry['index']}: at {entry['at']:#x} = {low:#x}: {kind},"),
            ("", f"DID {entry['tag'] & 0xFFFF}, second stage HPA {low & ADDRESS:#x}, first GPA {first:#x}"),
        ]

    def _step7(self) -> list[tuple[str, str]]:
        first, *others = self.walks
        rows = [("GVA", f"{first.addr:#x}; each table's GPA goes through the second stage:")]
        for n, level in enumerate(first.levels):
            where = f"GPA {level.gpa:#x} -> HPA {level.hpa:#x}"
            rows.append((TABLES[level.level], f"{where}  [{level.index:#05x}] = {level.entry:#x}"))
            if not n and first.stages:
                steps = " ".join(f"[{e['index']:#x}]={e['entry']:#x}" for e in first.stages)
                rows.append(("", f"{steps}"))
        rows.append(("page", f"GPA {first.gpa:#x} -> HPA {first.hpa:#x}, {first.reads} entries read"))
        for walk in others:
            what = "write" if walk.write else "read"
            rows.append((what, f"GVA {walk.addr:#x} -> GPA {walk.gpa:#x} -> HPA {walk.hpa:#x}, {walk.reads} entries"))
        return rows

    def _step8(self) -> list[tuple[str, str]]:
        e, app = self.complete, self.scene.app
        status = dsa_completion_status(e["status"]).name
        return [
            ("read", f"{len(app.data)} bytes at HPA {self.walks[0].hpa:#x}, written to {self.walks[1].hpa:#x}"),
            ("record", f"status {e['status']:#04x} {status}, with the same PASID {e['pasid']},"),
            ("", f"to GVA {e['record']:#x}, which is HPA {self.walks[2].hpa:#x}"),
        ]

    def _step9(self) -> list[tuple[str, str]]:
        record, app = self.outcome.record, self.scene.app
        return [
            ("polled", f"{app.polls} time(s) at GVA {app.record:#x}: status {record.status:#04x}"),
            ("data", "is at the destination" if self.outcome.copied else "is NOT at the destination"),
        ]

    # ---- the same bytes

    def bytes_seen(self) -> list[tuple[str, int, bytes]]:
        """The destination as the process, the guest's kernel's memory, and the host's have it."""
        app, walk = self.scene.app, self.walks[1]
        n = len(app.data)
        return [
            ("GVA", app.dst, self.scene.run(app.arrived)),
            ("GPA", walk.gpa, bytes(self.scene.guest.sub(PhysMem).read(walk.gpa, n))),
            ("HPA", walk.hpa, bytes(self.scene.host.sub(PhysMem).read(walk.hpa, n))),
        ]

    # ---- the path, for a drawing

    def path(self) -> list[tuple[str, list[str], str]]:
        """Each station: its name, what it has, and what leaves it."""
        t, walk, e = self.translation, self.walks[1], self._last("vtd_pasid_entry")
        ports = " -> ".join(port["port"][5:] for port in self.outcome.named("dmwr"))
        status = f"completion {self.command['completion']}: ZF={int(self.outcome.zf[0])}"
        queue = f"WQ {self.enqueue['wq']}: {self.enqueue['occupancy']} of {self.enqueue['room']} entries"
        entry = f"directory[{e['pasid'] >> 6}], entry[{e['index']}]: {PGTT[e['entry'] >> 6 & 7]}"
        source = self._last("vtd_root")["source"]
        there = bytes(self.scene.host.sub(PhysMem).read(walk.hpa, 24))
        return [
            ("guest's process", [f"descriptor: GVA {walk.addr:#x}", f"IA32_PASID {self.scene.msr():#x}"],
             f"ENQCMD  gPASID {self.asked['pasid']}"),
            ("processor", [f"directory[{t.index}] = {t.directory_entry:#x}", f"table[{t.slot}] = {t.entry:#010x}"],
             f"DMWr 64 B  hPASID {self.asked['host']}  HPA {self.portal_hpa:#x}"),
            ("root port, switch", [ports, status], f"portal  BAR {self.command['bar']} + {self.command['off']:#x}"),
            ("DSA", [queue, "engine: read, write, completion record"],
             f"DMA  RID {source:#06x}  PASID {e['pasid']}  GVA {walk.addr:#x}"),
            ("IOMMU", [entry, f"GVA {walk.addr:#x} -> GPA {walk.gpa:#x}"], f"HPA {walk.hpa:#x}"),
            ("memory", [repr(there)], ""),
        ]  # fmt: skip
