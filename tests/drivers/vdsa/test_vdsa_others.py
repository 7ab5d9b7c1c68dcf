"""Whom a stuck drain holds up: nobody for longer than a page request may wait, those without a queue neither."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tenants import Tenants

from pykernel import boot
from pykernel.iommu import ioasid as i

SECOND = 10**9


@pytest.fixture
def tenants() -> Iterator[Tenants]:
    made = Tenants(vms=2, each=1, here=0, block_on_fault=1, host=boot("vmm"))
    yield made
    made.end()


def seconds(host: Any, fn: Callable[[], object]) -> float:
    began, thread = host.sched.clock_ns(), host.spawn(fn, "other")
    host.sched.idle_until(lambda: thread.done, 60 * SECOND)
    assert thread.done, "it hangs"
    assert thread.error is None, thread.error
    return float(host.sched.clock_ns() - began) / SECOND


def test_a_stuck_drain_holds_a_tenant_without_any_queue_up_for_seconds_only(tenants: Tenants) -> None:
    """Another guest's UNBIND waits for the command register with the ordered work queue in its hand."""
    host = tenants.host
    stuck, other = (next(t for t, home in tenants.home.items() if home is vmm) for vmm in tenants.vms)
    tenants.vms[0].requests._hand_on = lambda *_: None  # type: ignore[method-assign]
    tenants.vms[0].run(stuck.stall)
    tenants.settle()
    drain = tenants.vms[0].spawn(stuck.close)
    tenants.settle()
    assert not drain.done
    del tenants.home[stuck]
    tenants.vms[1].spawn(other.close)  # whose PASID goes
    del tenants.home[other]
    tenants.settle()

    plain = host.process(comm="no-dsa")
    owner = i.ioasid_alloc_set(host, plain.task.mm, 10, i.IOASID_SET_TYPE_MM)

    def bind_and_unbind() -> None:
        number = i.ioasid_alloc(owner, 1, 0xFFFFF)
        i.ioasid_attach_spid(host, number, 7)
        i.ioasid_flush_work(host)
        i.ioasid_detach_spid(host, number)
        i.ioasid_flush_work(host)
        i.ioasid_free(owner, number)

    assert seconds(host, bind_and_unbind) <= 11
    tenants.settle(11_000)
    assert drain.done
    i.ioasid_set_free(owner)
    plain.exit()
