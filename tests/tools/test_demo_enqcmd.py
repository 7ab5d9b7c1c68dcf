"""
``pykernel demo enqcmd``: what it says of a command is what the machine's memory has; what it takes away is missed.

The expected values are computed here from raw memory by the layouts of the manuals (SDM 27.5.8, VT-d 9.1 to 9.8), or
are the manuals' own: flags, exit reasons, fault reasons, completion statuses, lines of the log.
"""

from __future__ import annotations

import json
import signal

import pytest

from pykernel.mm.phys import PhysMem
from pykernel.pci.core import Pci
from pykernel.profile import PROFILES
from pykernel.tools.demo.enqcmd.breaks import BREAKS
from pykernel.tools.demo.enqcmd.report import observed
from pykernel.tools.demo.enqcmd.scene import DSA, SIZE, THRESHOLD, TRIES, Scene
from pykernel.tools.demo.enqcmd.story import STEPS, Story
from pykernel.tools.demo.enqcmd.tables import pasid_entry, source_id, translation

FRAME = 0xFFFFFFFFFF000
MARKS = 1 << 5 | 1 << 6  # accessed and dirty: the walk itself sets them


def word(kernel, pa, size=8):
    return int.from_bytes(kernel.sub(PhysMem).read(pa, size), "little")


@pytest.fixture(scope="module", params=PROFILES)
def told(request):
    """A machine in which one command was submitted, and the story of it."""
    scene = Scene(request.param)
    yield Story(scene, scene.submission(), 0)
    scene.close()
    assert scene.host.oopses == scene.guest.oopses == []


@pytest.fixture
def scene():
    made = Scene()
    yield made
    made.close()
    assert made.host.oopses == made.guest.oopses == []


def said(story, step, name):
    """The text of a line and of those below it that have no name."""
    found, inside = [], False
    for key, text in story.step(step):
        inside = key == name or (inside and not key)
        found += [text] if inside else []
    return " ".join(found)


# ---- the steps against memory


def test_what_came_of_it(told):
    assert told.outcome.zf == [False]
    assert (told.outcome.record.status, told.outcome.copied) == (1, True)


def test_step_1_the_descriptor_has_the_process_s_own_addresses_and_no_pasid(told):
    """The MSR is invalid before the first ENQCMD of a thread (5.18 and later), and has bit 31 and the PASID after."""
    app, scene = told.scene.app, told.scene

    assert app.descriptor()[:4] == bytes(4)
    assert int.from_bytes(app.descriptor()[16:24], "little") == app.src
    assert all(f"{at:#x}" in said(told, 1, "addresses") for at in (app.src, app.dst, app.record))
    assert said(told, 1, "IA32_PASID") == "MSR 0xd93 = 0x0"
    assert f"{1 << 31 | scene.gpasid:#x}" in said(told, 1, "#GP")


def test_step_2_the_command_has_the_guest_s_pasid_and_priv_0(told):
    assert f"= {told.scene.gpasid:#010x}: gPASID {told.scene.gpasid}, PRIV 0" in said(told, 2, "command")


def test_step_3_is_the_processor_s_walk(told):
    """Low directory at VMCS 0x2038, entry of 8 bytes at bits 18:10; table, entry of 4 bytes at bits 9:0."""
    scene, pasid = told.scene, told.scene.gpasid
    low = scene.kvm.vcpus[0].vmcs.read(0x2038)
    directory = word(scene.host, low + (pasid >> 10) * 8)
    at = (directory & FRAME) + (pasid & 0x3FF) * 4
    entry = word(scene.host, at, 4)

    assert directory & 1
    assert entry == 1 << 31 | scene.hpasid
    assert f"is at {low:#x}" in said(told, 3, "VMCS")
    assert f"at {low:#x} = {directory:#x}, Present 1" in said(told, 3, "directory")
    assert f"at {at:#x} = {entry:#x}, Valid 1" in said(told, 3, "table")
    assert f"gPASID {pasid} -> hPASID {scene.hpasid}" in said(told, 3, "PASID")


def test_the_guest_s_number_is_another_s_on_the_host(told):
    """What translation is there for."""
    assert told.scene.gpasid == told.scene.tenant_pasid != told.scene.hpasid
    assert "is the tenant's" in said(told, 3, "PASID")


def test_step_4_the_portal_is_the_limited_one_for_ims_of_the_real_bar(told):
    """Four pages a queue: unlimited, limited, and both for IMS; guests with a shared queue get the last."""
    config = told.scene.host.sub(Pci).slots[DSA].function.config
    bar2 = config.get(0x18, 4) & ~0xF | config.get(0x1C, 4) << 32

    assert f"HPA {bar2 + 3 * 4096:#x}, no exit" in said(told, 4, "portal")
    assert "WQ 0, page 3: limited, IMS" in said(told, 4, "portal")
    assert said(told, 4, "ports").count("routed") == 3
    assert said(told, 4, "completion") == "SC: ZF=0"


def test_step_4_the_wire_has_the_host_s_pasid_and_else_the_descriptor(told):
    wire = bytes.fromhex(told.command["data"])

    assert wire == told.scene.hpasid.to_bytes(4, "little") + told.scene.app.descriptor()[4:]
    assert wire[:8].hex(" ") in said(told, 4, "DMWr")


def test_step_5_the_queue_has_the_host_s_pasid(told):
    assert f"1 of {SIZE} entries" in said(told, 5, "WQ")
    assert f"fills {THRESHOLD}: accepted" in said(told, 5, "WQ")
    assert f"PASID {told.scene.hpasid}:" in said(told, 5, "entry")


def test_step_6_is_the_walk_from_the_requester_to_the_entry(told):
    """Root entry of 16 bytes a bus, context of 32 bytes a function, directory of 8 at bits 19:6, entry of 64 at 5:0."""
    host, pasid = told.scene.host, told.scene.hpasid
    root = host.dmar.readq(0x20)
    bus, devfn = 0x67, 0x00
    assert root >> 10 & 3 == 1  # TTM: scalable mode
    root_at = (root & FRAME) + bus * 16
    context_at = (word(host, root_at) & FRAME) + devfn * 32
    context = word(host, context_at)
    directory_at = (context & FRAME) + (pasid >> 6) * 8
    at = (word(host, directory_at) & FRAME) + (pasid & 63) * 64
    low, tag, first = (word(host, at + n) for n in (0, 8, 16))

    assert f"at {root_at:#x} = {word(host, root_at):#x}" in said(told, 6, "root")
    assert f"at {context_at:#x} = {context:#x}: PASIDE 1" in said(told, 6, "context")
    assert f"= {pasid >> 6}: at {directory_at:#x} = {word(host, directory_at):#x}" in said(told, 6, "directory")
    assert low >> 6 & 7 == 3  # PGTT
    assert low >> 2 & 7 == 2  # AW
    assert f"= {pasid & 63}: at {at:#x} = {low:#x}: nested, 48 bits" in said(told, 6, "entry")
    assert f"DID {tag & 0xFFFF}, second stage HPA {low & FRAME:#x}, first GPA {first & FRAME:#x}" in said(
        told, 6, "entry"
    )


def second(host, root, gpa):
    """Where the host has a guest's address: a walk of four levels."""
    table = root
    for level in (4, 3, 2, 1):
        entry = word(host, table + (gpa >> 9 * level + 3 & 511) * 8)
        assert entry & 3
        if level == 1 or entry & 0x80:
            size = 4096 << 9 * (level - 1)
            return entry & FRAME & -size | gpa & size - 1
        table = entry & FRAME
    raise AssertionError


def nested(scene, gva):
    """Each table of the guest with what is read of it; the page; in the host's memory only."""
    at = pasid_entry(scene.host, source_id(DSA), scene.hpasid)
    stage, table = word(scene.host, at) & FRAME, word(scene.host, at + 16) & FRAME
    levels = []
    for level in (4, 3, 2, 1):
        where, index = second(scene.host, stage, table), gva >> 9 * level + 3 & 511
        entry = word(scene.host, where + index * 8)
        levels.append((level, table, where, index, entry | MARKS))
        table = entry & FRAME
    return levels, table | gva & 4095, second(scene.host, stage, table | gva & 4095)


def test_step_7_is_the_nested_walk_of_each_address(told):
    """Source, destination and record: tables, pointers, GPA and HPA as the tables in the host's memory have them."""
    app = told.scene.app
    assert [walk.addr for walk in told.walks] == [app.src, app.dst, app.record]
    assert [walk.write for walk in told.walks] == [False, True, True]
    for walk in told.walks:
        levels, gpa, hpa = nested(told.scene, walk.addr)

        assert [(x.level, x.gpa, x.hpa, x.index, x.entry | MARKS) for x in walk.levels] == levels
        assert (walk.gpa, walk.hpa) == (gpa, hpa)


def test_step_7_the_first_walk_reads_every_pointer_s_translation(told):
    """4 tables and the page, each by 4 levels of the second stage, and 4 entries of the guest: 24."""
    first = told.walks[0]

    assert [level.reads for level in first.levels] == [4, 4, 4, 4]
    assert first.reads == 24
    assert "24 entries read" in said(told, 7, "page")
    for level in first.levels:
        assert any(f"GPA {level.gpa:#x} -> HPA {level.hpa:#x}" in text for _, text in told.step(7))


def test_steps_8_and_9_the_record_is_where_the_process_polls(told):
    app, record = told.scene.app, told.walks[2]

    assert f"GVA {app.record:#x}, which is HPA {record.hpa:#x}" in said(told, 8, "record")
    assert word(told.scene.host, record.hpa, 1) == 1
    assert f"with the same PASID {told.scene.hpasid}" in said(told, 8, "record")
    assert f"GVA {app.record:#x}: status 0x01" in said(told, 9, "polled")


def test_the_bytes_are_the_same_by_all_three_addresses(told):
    rows = told.bytes_seen()

    assert [name for name, _, _ in rows] == ["GVA", "GPA", "HPA"]
    assert {data for _, _, data in rows} == {told.scene.app.data}
    assert len({addr for _, addr, _ in rows}) == 3


@pytest.mark.parametrize(
    ("pasid", "half", "index", "slot"),
    [(101, 0, 0, 101), (0xABCDE, 1, 175, 222), (0x7FFFF, 0, 511, 1023), (0x80000, 1, 0, 0), (0, 0, 0, 0)],
)
def test_the_indexes_of_the_processor_s_tables(told, pasid, half, index, slot):
    """Bit 19 is the directory, 18:10 its entry, 9:0 that of the table."""
    table = told.scene.kvm.pasid_table
    table.set(pasid, 0xFEDCB)

    found = translation(told.scene, pasid)

    table.clear(pasid)
    assert (found.field, found.index, found.slot, found.host) == ((0x2038, 0x203A)[half], index, slot, 0xFEDCB)
    assert found.directory_at == found.directory + 8 * index
    assert found.at == found.table + 4 * slot


@pytest.mark.parametrize(("pasid", "index"), [(201, 9), (202, 10)])
def test_the_indexes_of_the_iommu_s_tables(told, pasid, index):
    """Another split of the same number: 14 bits and 6, entries of 64 bytes."""
    assert pasid_entry(told.scene.host, source_id(DSA), pasid) % 4096 == index * 64


# ---- what is taken away


def acts(scene, name):
    return [act.outcome for act in BREAKS[name].acts(scene)]


def works_again(scene):
    outcome = scene.submission()
    return outcome.zf == [False] and outcome.record.status == 1 and outcome.copied


def logged(records, text):
    return [record.text for record in records if text in record.text]


@pytest.mark.parametrize("name", ["forge", "fixup"])
def test_without_a_pasid_of_the_kernel_s_the_process_gets_sigsegv(scene, name):
    """SDM: source bits 31:0 must be 0, IA32_PASID valid: #GP(0). Linux: SIGSEGV, SI_KERNEL; mended once a thread."""
    (outcome,) = acts(scene, name)

    assert outcome.fault is not None
    assert (outcome.fault.signo, outcome.fault.si_code, outcome.fault.vector) == (signal.SIGSEGV, 0x80, 13)
    assert outcome.named("kvm_enqcmd") == []
    assert bool(outcome.named("dsa_enqueue") or outcome.copied) is False
    scene.app.fault = None
    assert works_again(scene)


def test_a_number_in_the_descriptor_is_refused_also_after_the_fix_up(scene):
    """The kernel mends the first #GP, whatever it was for; the second is the process's."""
    (outcome,) = acts(scene, "forge")

    assert [event.fields["pasid"] for event in outcome.inside if event.name == "enqcmd_fixup"] == [scene.gpasid]


def test_without_translation_the_tenant_s_memory_is_used(scene):
    """Accepted, with the guest's number; what was read and written is the memory of who has that number on the host."""
    before = scene.tenant_bytes()

    (outcome,) = acts(scene, "control")

    assert outcome.zf == [False]
    assert [e["pasid"] for e in outcome.named("dsa_enqueue")] == [scene.gpasid] == [scene.tenant_pasid]
    assert (outcome.record.status, outcome.copied) == (0, False)
    assert before != scene.tenant_bytes() == scene.tenant.data
    assert works_again(scene)


def test_with_translation_the_tenant_s_memory_is_not_touched(scene):
    before = scene.tenant_bytes()

    assert works_again(scene)
    assert scene.tenant_bytes() == before


@pytest.mark.parametrize("name", ["directory", "entry", "reserved"])
def test_without_an_entry_there_is_exit_72_and_zf(scene, name):
    """Not present, not valid, a reserved bit: all are exit 72. KVM sets ZF=1 and clears CF, PF, AF, SF and OF."""
    (outcome,) = acts(scene, name)

    exits = outcome.named("kvm_enqcmd_exit")
    assert outcome.zf == [True] * TRIES
    assert [e["reason"] for e in exits] == [72] * TRIES
    assert {e["rflags"] & 0x8D5 for e in exits} == {0x40}
    assert outcome.exits == TRIES
    assert outcome.named("enqcmds") == outcome.host == []
    assert ("", "guest's RFLAGS 0x42: ZF=1, CF=0") in observed(scene, outcome)
    assert works_again(scene)


@pytest.mark.parametrize(("name", "port"), [("routing", "0000:66:00.0"), ("egress", "0000:64:00.0")])
def test_what_a_port_stops_is_unsupported_and_zf(scene, name, port):
    """PCIe 6.0, 6.32: a port that does not route, or blocks: UR, which ENQCMD cannot tell from a full queue."""
    (outcome,) = acts(scene, name)

    assert outcome.zf == [True] * TRIES
    assert {e["completion"] for e in outcome.named("enqcmds")} == {"UR"}
    assert {e["port"] for e in outcome.named("dmwr") if e["verdict"] != "routed"} == {port}
    assert outcome.named("dsa_enqueue") == []
    assert outcome.exits == 0
    assert works_again(scene)


def test_a_blocked_egress_is_an_error_of_the_port(scene):
    """AER uncorrectable error status, bit 27: DMWr Request Egress Blocked."""
    (act,) = BREAKS["egress"].acts(scene)

    assert act.more == (("AER", "root port's uncorrectable error status 0x8000000: bit 27"),)


def test_a_full_queue_says_retry_and_takes_the_command_later(scene):
    """A limited portal fills up to the threshold, however much room the queue has; RRS is ZF=1."""
    burst, again = acts(scene, "full")

    assert burst.zf == [False] * THRESHOLD + [True]
    assert [e["completion"] for e in burst.named("enqcmds")] == ["SC"] * THRESHOLD + ["RRS"]
    assert [e["occupancy"] for e in burst.named("dsa_enqueue")] == [*range(1, THRESHOLD + 1), THRESHOLD]
    assert THRESHOLD < SIZE
    assert again.zf == [False]
    assert again.copied


def test_without_the_iommu_s_entry_the_dma_faults_and_is_logged(scene):
    """Reason 0x59; the line is that of drivers/iommu/intel/dmar.c:dmar_fault_do_one()."""
    (outcome,) = acts(scene, "pasid-entry")

    assert outcome.zf == [False]
    assert {(e["reason"], e["pasid"]) for e in outcome.named("vtd_fault")} == {(0x59, scene.hpasid)}
    assert logged(outcome.host, "DMAR: [DMA Read")[0] == (
        f"DMAR: [DMA Read PASID {scene.hpasid:#x}] Request device [67:00.0] fault addr {scene.app.src:#x} "
        "[fault reason 0x59] SM: Present bit in PASID Table Entry is clear"
    )
    assert (outcome.record.status, outcome.copied) == (0, False)
    assert works_again(scene)


def test_a_page_that_is_not_there_is_asked_for_in_the_guest_s_number(scene):
    """First-stage not present, 0x71; the host hears of its PASID, the guest of its own, and the work goes on."""
    (outcome,) = acts(scene, "guest-page")

    assert [e["reason"] for e in outcome.named("vtd_refused")] == [0x71]
    assert [(e["pasid"], e["addr"]) for e in outcome.named("dsa_page_request")] == [(scene.hpasid, scene.app.dst)]
    inside = [e.fields for e in outcome.inside if e.name == "prq_report"]
    assert [(e["pasid"], e["addr"]) for e in inside] == [(scene.gpasid, scene.app.dst)]
    assert (outcome.record.status, outcome.copied) == (1, True)


def test_work_that_may_not_block_ends_in_the_middle(scene):
    """DSA_COMP_PAGE_FAULT_NOBOF, 3, with bit 7: a write; the address is the record's."""
    first, again = acts(scene, "no-block")

    assert (first.record.status, first.record.fault_addr) == (0x83, scene.app.dst)
    assert first.named("dsa_page_request") == []
    assert first.copied is False
    assert again.copied


def test_what_the_host_does_not_map_the_guest_s_tables_do_not_reach(scene):
    """Second-stage permission, 0x79: the answer of a translation request, and no fault is recorded (VT-d 7.1.3)."""
    (outcome,) = acts(scene, "second-stage")

    assert {e["reason"] for e in outcome.named("vtd_refused")} == {0x79}
    assert outcome.named("vtd_fault") == []
    assert (outcome.record.status, outcome.record.fault_addr) == (0x83, scene.app.dst)
    assert works_again(scene)


def test_without_a_record_s_page_both_kernels_log_the_software_error(scene):
    """SWERR 0x1a, completion record address: the host's has its PASID (bits 59:40 of err[0]), the guest's its own."""
    (outcome,) = acts(scene, "record")

    assert outcome.copied
    assert outcome.record.status == 0
    for records, pasid in ((outcome.host, scene.hpasid), (outcome.guest, scene.gpasid)):
        (line,) = logged(records, "err[0]")
        word = int(line.split()[-1], 16)
        assert (word & 1, word >> 8 & 0xFF, word >> 40 & 0xFFFFF) == (1, 0x1A, pasid)
    assert works_again(scene)


def test_unbinding_drains_then_kvm_s_entry_goes_then_the_iommu_s(scene):
    """What is accepted is done before the PASID goes; KVM hears of it first; the portal is unmapped: #PF, SIGSEGV."""
    pasid = scene.gpasid
    (outcome,) = acts(scene, "unbind")

    order = dict(observed(scene, outcome))["order"]
    assert order == "page request, completion, drained, unbind, KVM's table, IOMMU's entry"
    assert outcome.copied
    assert outcome.fault is not None
    assert (outcome.fault.signo, outcome.fault.vector, outcome.fault.si_addr) == (signal.SIGSEGV, 14, scene.app.portal)
    assert translation(scene, pasid).directory_entry & 1 == 0


def test_without_a_context_switch_of_the_register_another_process_s_memory_is_used(scene):
    """IA32_PASID is XSAVE's component 10: each task has its own. The command is accepted, and is somebody else's."""
    first, number = scene.app, scene.gpasid

    (act,) = BREAKS["xsave"].acts(scene)

    second = scene.apps[1]
    outcome = act.outcome
    assert scene.guest.mm_pasid(second.proc.task.mm) != number
    assert [event.fields["pasid"] for event in outcome.inside if event.name == "enqcmd"] == [number]
    assert outcome.zf == [False]
    assert (outcome.record.status, outcome.copied) == (0, False)
    assert scene.run(first.arrived) == first.data
    assert works_again(scene)
    scene.app = second
    assert works_again(scene)


def test_every_step_can_be_taken_away():
    assert {row.step for row in BREAKS.values()} == set(STEPS)


# ---- the command


def test_it_prints_all_steps_in_80_columns_the_same_each_time(pykernel):
    one, two = pykernel("demo", "enqcmd"), pykernel("demo", "enqcmd")

    assert (one.returncode, one.stderr) == (0, "")
    assert one.stdout == two.stdout
    assert [line for line in one.stdout.splitlines() if len(line) > 80] == []
    assert all(f"\n{number}  {title}\n" in one.stdout for number, (title, _) in STEPS.items())
    assert "\x1b" not in one.stdout


def test_boxes_are_of_what_the_terminal_has(pykernel):
    unicode, ascii_ = pykernel("demo", "enqcmd"), pykernel("demo", "enqcmd", PYTHONIOENCODING="ascii")

    assert "┌─ processor ─" in unicode.stdout
    assert ascii_.stdout.isascii()
    assert "+- processor -" in ascii_.stdout


def test_the_list_has_every_break(pykernel):
    done = pykernel("demo", "enqcmd", "--list")

    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith("   ")] == list(BREAKS)


TOLD = {
    ("linux-6.12", "entry"): ["72, ENQCMD PASID translation failure, 3 times", "ZF=1, CF=0", "data       is not at"],
    ("linux-7.2", "control"): [
        "on the wire, which is the tenant's",
        'is b"the tenant\'s"',
        "status 0x00: none arrived",
    ],
    ("linux-7.2", "unbind"): ["completion, drained, unbind, KVM's table, IOMMU's entry", "SIGSEGV", "data       is at"],
    ("linux-6.12", "full"): ["RRS, once", "8 entries, a limited portal may fill 8: no more", "SC, 8 times"],
}


@pytest.mark.parametrize(("profile", "name"), TOLD)
def test_a_break_tells_what_was_done_and_observed(pykernel, profile, name):
    done = pykernel("demo", "enqcmd", "--break", name, "--profile", profile, "--vcpus", "2")

    assert (done.returncode, done.stderr) == (0, "")
    assert BREAKS[name].missing in done.stdout
    for text in TOLD[profile, name]:
        assert text in done.stdout


@pytest.mark.parametrize("args", [("--break", "nothing"), ("--profile", "linux-1.0")])
def test_what_is_not_there_is_said_in_a_sentence(pykernel, args):
    done = pykernel("demo", "enqcmd", *args)

    assert done.returncode == 1
    assert done.stderr.startswith("pykernel: ")
    assert args[1] in done.stderr
    assert "Traceback" not in done.stderr


def test_a_trace_has_the_events_of_both_kernels(pykernel, tmp_path):
    file = tmp_path / "t.jsonl"

    done = pykernel("demo", "enqcmd", "--trace", str(file))

    assert done.returncode == 0, done.stderr
    names = [json.loads(line)["name"] for line in file.read_text().splitlines()]
    way = ["enqcmd_fixup", "enqcmd", "kvm_enqcmd", "dmwr", "dsa_enqueue", "enqcmds", "vtd_second", "dsa_complete"]
    assert [name for name in way if name in names] == way
    assert names.index("enqcmd") < names.index("kvm_enqcmd") < names.index("dsa_complete")
