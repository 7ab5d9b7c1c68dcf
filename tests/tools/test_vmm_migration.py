"""A machine moves while its guest submits: nothing is lost, nothing done twice, no number of the host goes along."""

from __future__ import annotations

import pytest
from guestload import Host, KernelCopies, Process, Run


@pytest.fixture
def hosts():
    made = [Host.boot("a"), Host.boot("b", shift=100)]
    yield made
    for host in made:
        host.shutdown()


def test_processes_on_a_shared_queue(hosts):
    """There and back, with PASIDs that are others each time."""
    run = Run(hosts)
    run.start(*(Process(run, n, 40, shared=True) for n in range(3)))
    for n, to in ((10, 1), (40, 0), (80, 1)):
        run.until(n)
        run.move(to)
    run.finish()
    run.close()


def test_a_process_on_a_dedicated_queue(hosts):
    run = Run(hosts, kind="1dwq")
    run.start(Process(run, 0, 60, shared=False, depth=8))
    for n, to in ((10, 1), (30, 0), (50, 1)):
        run.until(n)
        run.move(to)
    run.finish()
    run.close()


@pytest.mark.parametrize(("kind", "profile"), [("1swq", "linux-6.12"), ("1dwq", "linux-6.1")])
def test_the_guest_s_kernel_copies(hosts, kind, profile):
    """By ENQCMDS where the queue is shared; its interrupts come from the other host's accelerator."""
    run = Run(hosts, kind=kind, profile=profile, user=False)
    run.start(KernelCopies(run, 30))
    for n, to in ((5, 1), (12, 0), (20, 1)):
        run.until(n)
        run.move(to)
    run.finish()
    run.close()


@pytest.mark.parametrize("vcpus", [1, 2, 4])
def test_work_that_waits_for_pages(vcpus):
    """Page requests that are on their way when the machine stops are the guest's to answer, and it does."""
    hosts = [Host.boot("a", block_on_fault=1), Host.boot("b", shift=100, block_on_fault=1)]
    run = Run(hosts, vcpus=vcpus)
    run.start(*(Process(run, n, 20, shared=True, block=True) for n in range(3)))
    for n, to in ((5, 1), (20, 0), (40, 1)):
        run.until(n)
        run.move(to)
    run.finish()
    run.close()
    for host in hosts:
        host.shutdown()
