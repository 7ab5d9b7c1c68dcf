"""
A tenant that never answers a page request holds nobody else up.

The device has one command register, and a drain of one tenant occupies it until that tenant's page requests are
answered: if nobody answers them, others could never close their queues.
"""

from __future__ import annotations

import pytest
from tenants import Tenants

from pykernel import boot
from pykernel.uapi.linux.idxd import (
    DSA_OPCODE_COMPARE,
    IDXD_OP_FLAG_BOF,
    IDXD_OP_FLAG_CRAV,
    IDXD_OP_FLAG_RCR,
    dsa_hw_desc,
)

SECOND = 10**9


@pytest.fixture(params=["linux-6.1", "linux-6.12"])
def tenants(request):
    made = Tenants(vms=1, each=1, here=1, block_on_fault=1, host=boot("vmm", request.param))
    yield made
    made.end()


def victim_of(tenants, vmm):
    return next(t for t, home in tenants.home.items() if home is vmm)


def stuck(tenants, *, drain):
    """A machine whose command waits for a page, and (*drain*) whose kernel waits for the command."""
    vmm = tenants.vms[0]
    victim = victim_of(tenants, vmm)
    vmm.requests._hand_on = lambda *_: None  # the VMM reads page requests, and that is all
    vmm.run(victim.stall)
    tenants.settle()
    if drain:
        thread = vmm.spawn(victim.close)
        tenants.settle()
        assert not thread.done
        del tenants.home[victim]
    return vmm


def in_time(tenants, fn, limit):
    """How many seconds *fn* takes as code of the host. Raises AssertionError: more than *limit*."""
    sched = tenants.host.sched
    began, thread = sched.clock_ns(), tenants.host.spawn(fn, "other")
    sched.idle_until(lambda: thread.done, limit * SECOND)
    assert thread.done, "it hangs"
    assert thread.error is None, thread.error
    return (sched.clock_ns() - began) / SECOND


def leave_here(tenants):
    here = victim_of(tenants, None)
    here.close()
    del tenants.home[here]


@pytest.mark.parametrize("drain", [False, True])
def test_a_vmm_that_dies_while_its_guest_drains(tenants, drain):
    """Its page requests are refused when it goes: the host's queue is free at once."""
    vmm = stuck(tenants, drain=drain)

    assert in_time(tenants, lambda: tenants.kill(vmm), 60) < 1
    assert in_time(tenants, lambda: leave_here(tenants), 60) < 1


@pytest.mark.parametrize("drain", [False, True])
def test_a_guest_that_stands_still_holds_others_up_for_seconds_only(tenants, drain):
    """A page request that nobody answers is answered by the kernel's clock."""
    stuck(tenants, drain=drain)

    assert in_time(tenants, lambda: leave_here(tenants), 60) <= (11 if drain else 0.1)


def test_a_guest_that_floods_holds_others_up_no_longer(tenants):
    """After one request that ran out of time the next ones fail at once, for as long."""
    vmm = stuck(tenants, drain=False)
    victim = victim_of(tenants, vmm)
    vmm.run(lambda: [victim.stall() for _ in range(8)])
    tenants.settle(11_000)

    began = tenants.host.sched.clock_ns()
    vmm.run(lambda: [(victim.stall(), victim.wait()) for _ in range(4)])
    assert tenants.host.sched.clock_ns() - began < SECOND
    assert in_time(tenants, lambda: leave_here(tenants), 60) < 1


def test_an_answer_after_the_time_is_nobody_s(tenants):
    """Stale: the group waits no more, and nothing oopses; from then on the guest is served again."""
    vmm, late = tenants.vms[0], []
    victim = victim_of(tenants, vmm)
    real = vmm.requests._hand_on
    vmm.requests._hand_on = lambda group, prm: late.append((group, prm))
    page = vmm.run(victim.stall)
    assert vmm.run(lambda: victim.wait() & 0x3F) == 4  # DSA_COMP_PAGE_FAULT_IR
    group, prm = late.pop()
    with pytest.raises(OSError, match="Invalid argument"):
        vmm.nesting.answer(group, prm, 0)
    vmm.requests._hand_on = real

    tenants.settle(11_000)
    assert page
    assert vmm.run(lambda: (victim.proc.mem.write(victim.record, bytes(32)), victim.stall(), victim.wait())[2]) == 1


def test_one_vmm_cannot_answer_for_another(tenants):
    """Page requests without a guest's PASID, of one parent device that all share, are answered by who bound it."""
    other = tenants.machine("vm1", 1)
    vmm, asked = tenants.vms[0], []
    vmm.requests._hand_on = lambda group, prm: asked.append((group, prm))
    victim = victim_of(tenants, vmm)
    vmm.run(victim.stall)
    tenants.settle()
    _, prm = asked[0]
    group = int(next(iter(other.container.groups)))

    with pytest.raises(OSError, match="Invalid argument"):
        other.nesting.answer(group, prm, 0)

    vmm.run(victim.wait)


def test_a_process_of_the_host_that_dies_holds_nobody_up(tenants):
    """Its page requests are the kernel's own to answer: a killed process leaves at once, whatever it waited for."""
    here = tenants.admit(None, "doomed")
    in_time(tenants, here.stall, 1)
    here.proc.exit(137)
    del tenants.home[here]

    assert in_time(tenants, lambda: leave_here(tenants), 60) < 1


def test_operands_that_take_turns_end_too(tenants):
    """
    A guest that says "success" and brings no page: each page of a descriptor is asked for some times, not for ever.

    Two operands whose pages are missing must not make each other's count begin anew.
    """
    vmm = tenants.vms[0]
    victim = victim_of(tenants, vmm)
    answer = vmm.nesting.answer
    asked = []

    def lie(group, prm):
        asked.append(prm.addr)
        assert len(asked) < 100, "it never ends"
        answer(group, prm, 0)

    vmm.requests._hand_on = lie
    compare = dsa_hw_desc(
        opcode=DSA_OPCODE_COMPARE,
        flags=IDXD_OP_FLAG_BOF | IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR,
        completion_addr=victim.record,
        src_addr=vmm.run(victim.fault_page),
        xfer_size=64,
    )
    compare.src2_addr = vmm.run(victim.fault_page)

    assert vmm.run(lambda: victim.submit(bytes(compare)))
    assert vmm.run(lambda: victim.wait()) & 0x3F == 4
