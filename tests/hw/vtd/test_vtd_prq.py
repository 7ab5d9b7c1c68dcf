"""5.4: page requests: the descriptor, the event, the answer, what is too much (VT-d 7.4 to 7.7)."""

from __future__ import annotations

import pytest

from pykernel.hw.vtd import regs as r

SOURCE = 0x6A08
PAGE_IRQ = 91
PASIDE, PRE, DTE = 8, 16, 4


def response(group, code=0, *, source=SOURCE, pasid=201, present=1):
    return (9 | present << 4 | code << 12 | source << 16 | pasid << 32, group << 3 | 1 << 2)


@pytest.fixture
def prq(bench):
    """A unit with a ring of one page, and a device whose entry lets it ask."""
    b = bench()
    b.scalable(flags=1 | PASIDE | PRE)
    b.on()
    b.ring = b.page()
    b.unit.writeq(r.PQA, b.ring)
    b.codes = []

    def ask(addr=0x7000, *, write=False, pasid=201, priv=False):
        b.unit.request_page(b.slot, addr, write, pasid, priv, b.codes.append)

    b.ask = ask
    return b


@pytest.mark.parametrize(("write", "priv"), [(False, False), (True, False), (False, True)])
def test_the_descriptor(prq, write, priv):
    """32 bytes: type, PASID, requester; read, write, last in its group, group, page."""
    prq.ask(0x7FFF_1234_5678, write=write, priv=priv)
    low, high, *private = (prq.word(prq.ring + 8 * n) for n in range(4))
    assert low == 1 | 1 << 8 | SOURCE << 16 | 201 << 32 | priv << 53
    assert high == 1 | write << 1 | 1 << 2 | 0 << 3 | 0x7FFF_1234_5000
    assert private == [0, 0]
    assert (prq.unit.readl(r.PQT), prq.unit.readl(r.PQH)) == (32, 0)
    assert (prq.unit.readl(r.PRS), prq.raised, prq.codes) == (r.PRS_PPR, [PAGE_IRQ], [])


def test_without_a_pasid(prq):
    prq.ask(pasid=None)
    assert prq.word(prq.ring) == 1 | SOURCE << 16
    prq.submit(response(0, pasid=0, present=0))
    assert prq.codes == [0]


@pytest.mark.parametrize("code", [0, 1, 0xF])
def test_the_response_ends_the_request(prq, code):
    prq.ask()
    prq.submit(response(0, code))
    assert prq.codes == [code]
    prq.submit(response(0, code))
    assert prq.codes == [code], "once"


@pytest.mark.parametrize("wrong", [{"group": 1}, {"group": 0, "source": 0x6A10}, {"group": 0, "pasid": 202}])
def test_a_response_for_another_is_dropped(prq, wrong):
    prq.ask()
    prq.submit(response(**wrong))
    assert prq.codes == []
    assert prq.unit.readl(r.FSTS) == 0


def test_answers_come_in_any_order(prq):
    heard = []
    for n in range(3):
        prq.unit.request_page(
            prq.slot, n << 12, write=False, pasid=201, priv=False, done=lambda code, n=n: heard.append((n, code))
        )
    prq.submit(response(2), response(0, 1), response(1, 0xF))
    assert heard == [(2, 0), (0, 1), (1, 0xF)]


def test_the_event_comes_once_until_software_looked(prq):
    for _ in range(3):
        prq.ask()
    assert prq.raised == [PAGE_IRQ]
    prq.unit.writel(r.PRS, r.PRS_PPR)
    prq.ask()
    assert prq.raised == [PAGE_IRQ] * 2


def test_a_masked_event_is_pending(prq):
    prq.unit.writel(r.PECTL, r.IM)
    prq.ask()
    assert (prq.raised, prq.unit.readl(r.PECTL)) == ([], r.IM | r.IP)
    prq.unit.writel(r.PECTL, 0)
    assert prq.raised == [PAGE_IRQ]


def test_a_full_ring_loses_requests(prq):
    """One place stays empty. PRO; a lost request is answered with success: the device tries again, and asks anew."""
    for _ in range(127):
        prq.ask()
    assert (prq.unit.readl(r.PQT), prq.codes) == (127 * 32, [])
    prq.ask()
    assert prq.unit.readl(r.PRS) == r.PRS_PPR | r.PRS_PRO
    assert (prq.raised, prq.codes) == ([PAGE_IRQ] * 2, [0])
    prq.unit.writel(r.PQH, 64 * 32)
    prq.ask()
    assert prq.codes == [0, 0], "while PRO is set all are lost"
    prq.unit.writel(r.PRS, r.PRS_PRO)
    prq.ask()
    assert (prq.unit.readl(r.PQT), len(prq.codes)) == (0, 2)


def test_the_ring_wraps_around(prq):
    for n in range(300):
        prq.ask(n << 12)
        at = prq.unit.readl(r.PQH)
        assert prq.word(prq.ring + at + 8) >> 12 == n
        group = prq.word(prq.ring + at + 8) >> 3 & 0x1FF
        prq.unit.writel(r.PQH, (at + 32) % 4096)
        prq.submit(response(group))
    assert prq.codes == [0] * 300


def test_a_ring_of_more_pages(prq):
    prq.unit.writeq(r.PQA, prq.phys.alloc_pages(2) | 1)
    for _ in range(255):
        prq.ask()
    assert prq.codes == []
    prq.ask()
    assert prq.codes == [0]


def test_no_more_groups_than_512(prq):
    prq.unit.writeq(r.PQA, prq.phys.alloc_pages(8) | 3)
    for _ in range(512):
        prq.ask()
    assert prq.codes == []
    prq.ask()
    assert prq.codes == [0]


@pytest.mark.parametrize(("flags", "reason"), [(1 | PASIDE, 0x47), (0, 0x41)])
def test_who_may_not_ask(prq, flags, reason):
    """PRE of the context entry is clear: a failure, and a fault."""
    prq.scalable(flags=flags)
    prq.submit((1 | 1 << 4, 0))
    prq.ask()
    assert (prq.codes, prq.unit.readl(r.PQT)) == ([0xF], 0)
    assert prq.fault()[0] == reason


@pytest.mark.parametrize("pasid", [201 | 1 << 20, -1])
def test_a_pasid_of_other_than_20_bits_asks_nothing(prq, pasid):
    prq.ask(pasid=pasid)
    assert (prq.codes, prq.unit.readl(r.PQT)) == ([0xF], 0)


def test_in_legacy_mode_nobody_asks(bench):
    b = bench("sva = false")
    b.mode = 0
    b.on()
    codes = []
    b.unit.request_page(b.slot, 0, write=False, pasid=None, priv=False, done=codes.append)
    assert (codes, b.fault()[0]) == ([0xF], 0x32)


def test_a_ring_out_of_memory(prq):
    prq.unit.writeq(r.PQA, 1 << 40)
    prq.ask()
    assert prq.codes == [0]


def test_the_port_waits_for_the_response(prq):
    """``page_request()`` is the asynchronous one and a wait; work that answers runs meanwhile."""
    prq.kernel.sched.call_later(5000, lambda: prq.submit(response(0)))
    assert prq.slot.page_request(0x7000, write=True, pasid=201)
    prq.kernel.sched.call_later(5000, lambda: prq.submit(response(1, 1)))
    assert not prq.slot.page_request(0x7000, write=True, pasid=201)


def test_drain_after_an_overflow(prq):
    """Spec 7.10: the wait descriptor with PD; what was in the ring before it is there when its status comes."""
    prq.ask()
    prq.submit((5 | 1 << 5 | 1 << 7 | 3 << 32, prq.status))
    assert (prq.word(prq.status), prq.unit.readl(r.PQT)) == (3, 32)
