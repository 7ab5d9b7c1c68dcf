"""Shared queues of a DSA below a switch that routes deferrable memory writes and one that does not; threads."""

from __future__ import annotations

import pytest

import pykernel
from pykernel.cpu import Fault
from pykernel.machine import parse
from pykernel.tools.dsa import Portal, enable_wq, memmove
from pykernel.uapi.linux.idxd import DSA_OPCODE_NOOP, dsa_hw_desc

ROWS = """
[[pci]]
model = "root-port"
address = "0000:64:00.0"
secondary = 0x65
subordinate = 0x67
{root}
[[pci]]
model = "upstream-port"
address = "0000:65:00.0"
secondary = 0x66
subordinate = 0x67
{switch}
[[pci]]
model = "downstream-port"
address = "0000:66:00.0"
secondary = 0x67
{switch}
[[pci]]
model = "dsa"
address = "0000:67:00.0"
[modules]
idxd = ""
"""
YES = "dmwr = true"


def below(root: str, switch: str, profile: str):
    kernel = pykernel.boot(parse(ROWS.format(root=root, switch=switch)), profile)
    proc = kernel.process()
    enable_wq(proc, "wq0.0", mode="shared", threshold=16)
    return kernel, proc


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12"])
def test_below_a_switch_that_routes(profile: str) -> None:
    kernel, proc = below(YES, YES, profile)
    assert memmove(proc, "/dev/dsa/wq0.0", b"through the switch") == b"through the switch"
    proc.exit()
    kernel.shutdown()


@pytest.mark.parametrize(("root", "switch"), [(YES, ""), ("", YES), ("", "")])
def test_below_one_that_does_not(root: str, switch: str) -> None:
    """The queue can be configured, and every ENQCMD says "retry": ZF=1 tells no reason."""
    kernel, proc = below(root, switch, "linux-6.1")
    with Portal(proc, "/dev/dsa/wq0.0") as portal:
        desc = bytes(dsa_hw_desc(opcode=DSA_OPCODE_NOOP))
        events = kernel.trace.record()
        assert [proc.enqcmd(portal.addr, desc) for _ in range(3)] == [True] * 3
        assert {e.fields["completion"] for e in events if e.name == "enqcmds"} == {"UR"}
    proc.exit()
    kernel.shutdown()


def test_a_dedicated_queue_needs_no_routing() -> None:
    """MOVDIR64B is a posted write as any other."""
    kernel = pykernel.boot(parse(ROWS.format(root="", switch="")))
    proc = kernel.process()
    enable_wq(proc, "wq0.0")
    assert memmove(proc, "/dev/dsa/wq0.0", b"posted") == b"posted"
    proc.exit()
    kernel.shutdown()


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12"])
def test_threads_and_children_at_a_real_queue(profile: str) -> None:
    """Each thread faults once and works in the process's PASID; a child has neither portal nor PASID."""
    kernel = pykernel.boot("dsa", profile)
    proc = kernel.process()
    enable_wq(proc, "wq0.0", mode="shared", threshold=16)
    with Portal(proc, "/dev/dsa/wq0.0") as portal:
        events = kernel.trace.record()
        threads = [proc, proc.thread(), proc.thread()]
        for thread in threads:
            portal.proc = thread
            assert portal.submit(opcode=DSA_OPCODE_NOOP).status == 1
            assert portal.submit(opcode=DSA_OPCODE_NOOP).status == 1
        assert [e.fields["pid"] for e in events if e.name == "enqcmd_fixup"] == [t.tid for t in threads]
        assert {e.fields["pasid"] for e in events if e.name == "enqcmd"} == {kernel.mm_pasid(proc.task.mm)}
        child = proc.fork()
        with pytest.raises(Fault) as e:
            child.enqcmd(portal.addr, bytes(64))
        assert (e.value.vector, e.value.signo) == (13, 11)
        child.exit()
        threads[1].exit()
        portal.proc = proc
        assert portal.submit(opcode=DSA_OPCODE_NOOP).status == 1

    proc.exit()
    kernel.shutdown()
