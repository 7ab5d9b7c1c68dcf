"""
Who is charged for pinned pages (drivers/iommu/iommufd/pages.c): the user, the process, or nobody.

Documentation of uapi/linux/iommufd.h: IOMMU_OPTION_RLIMIT_MODE; nobody is who may lock memory (CAP_IPC_LOCK).
"""

from __future__ import annotations

from errno import ENOMEM

import pytest
from errnos import errno_of
from iommufdclient import PAGE, shared
from iommufdmock import START, Mock

from pykernel.iommufd.pages import UserLockedVm
from pykernel.task import RLIMIT_MEMLOCK
from pykernel.uapi.linux import iommufd as i

USER, BUFFER = 1000, 0x600000000000


@pytest.fixture
def config():
    return "IOMMUFD_TEST"


@pytest.fixture
def client(kernel, proc):
    """``client(pages, mode)``: an unprivileged client with so many pages of RLIMIT_MEMLOCK."""
    proc.chmod("/dev/iommu", 0o666)

    def make(pages: int, mode: int = 0, uid: int = USER) -> Mock:
        if mode:  # only the administrator may choose, and pass the descriptor on
            root = Mock(proc)
            root.option(i.IOMMU_OPTION_RLIMIT_MODE, i.IOMMU_OPTION_OP_SET, mode)
            child = proc.fork()
            child.setuid(uid)
            mock = Mock(child, root.fd)
        else:
            mock = Mock(kernel.process(uid=uid, gid=uid))
        mock.proc.setrlimit(RLIMIT_MEMLOCK, (pages * PAGE, pages * PAGE))
        assert shared(mock.proc, 64 * PAGE) == BUFFER
        return mock

    return make


def locked(kernel, mock: Mock) -> tuple[int, int]:
    """Pages charged to the user, and to the process."""
    mm = mock.proc.task.mm
    assert mm is not None
    return kernel.sub(UserLockedVm).pages.get(USER, 0), mm.locked_vm


@pytest.mark.parametrize(("mode", "who"), [(0, (8, 0)), (1, (0, 8))], ids=["user", "process"])
def test_who_is_charged(kernel, client, mode, who):
    mock = client(8, mode)
    ioas = mock.ioas()
    dev = mock.domain(ioas)
    mock.map_fixed(ioas, BUFFER, 8 * PAGE, START)
    assert locked(kernel, mock) == who
    assert errno_of(mock.map, ioas, BUFFER, PAGE) == ENOMEM
    assert locked(kernel, mock) == who
    mock.check_refs(BUFFER, 8 * PAGE, 1)  # what failed is unpinned again
    mock.copy(ioas, ioas, 8 * PAGE, START + (1 << 20), START)  # shared: charged once
    assert locked(kernel, mock) == who
    mock.unmap(ioas, START, 8 * PAGE)
    assert locked(kernel, mock) == who
    mock.destroy(dev.stdev)
    assert locked(kernel, mock) == (0, 0)


def test_nobody_is_charged_with_the_capability(kernel, client, proc):
    mock = Mock(proc)
    proc.setrlimit(RLIMIT_MEMLOCK, (0, 0))
    ioas = mock.ioas()
    mock.domain(ioas)
    mock.map(ioas, shared(proc, 8 * PAGE), 8 * PAGE)
    assert (kernel.sub(UserLockedVm).pages, proc.task.mm.locked_vm) == ({}, 0)
    assert proc.task.mm.pinned_pages == 8


def test_without_a_domain_nothing_is_pinned_or_charged(kernel, client):
    mock = client(0)
    ioas = mock.ioas()
    mock.map_fixed(ioas, BUFFER, 8 * PAGE, START)
    assert locked(kernel, mock) == (0, 0)
    assert errno_of(mock.domain, ioas) == ENOMEM
    assert locked(kernel, mock) == (0, 0)
    mock.check_refs(BUFFER, 8 * PAGE, 0)


def test_pins_of_a_driver_are_charged(kernel, client):
    mock = client(4)
    ioas = mock.ioas()
    mock.map_fixed(ioas, BUFFER, 8 * PAGE, START)
    access = mock.access(ioas, pins=True)
    assert errno_of(mock.access_pages, access, START, 5 * PAGE, 0) == ENOMEM
    first = mock.access_pages(access, START, 3 * PAGE, 0)
    mock.access_pages(access, START + PAGE, 3 * PAGE, 0)  # two of them are pinned already
    assert locked(kernel, mock) == (4, 0)
    mock.destroy_access_pages(access, first)
    assert locked(kernel, mock) == (3, 0)
    mock.proc.close(access)
    assert locked(kernel, mock) == (0, 0)


def test_processes_of_one_user_share_the_limit(kernel, client):
    first, second = client(8), client(8)
    for mock, error in ((first, 0), (second, ENOMEM)):
        ioas = mock.ioas()
        mock.domain(ioas)
        assert errno_of(mock.map_fixed, ioas, BUFFER, 5 * PAGE, START) == error
    other = client(8, uid=USER + 1)
    ioas = other.ioas()
    other.domain(ioas)
    other.map_fixed(ioas, BUFFER, 8 * PAGE, START)


def test_a_process_that_is_gone_is_not_charged_any_more(kernel, client):
    """Its descriptor lives on in another process, and with it what is pinned."""
    mock = client(8)
    ioas = mock.ioas()
    mock.domain(ioas)
    mock.map_fixed(ioas, BUFFER, 8 * PAGE, START)
    heir = Mock(mock.proc.fork(), mock.fd)
    mock.proc.exit()
    assert kernel.sub(UserLockedVm).pages[USER] == 8
    heir.unmap(ioas, START, 8 * PAGE)
    assert kernel.sub(UserLockedVm).pages[USER] == 0


def test_what_is_mapped_and_never_unmapped_is_named(kernel, proc):
    """The leak report has addresses and the line that mapped them, and not the descriptor alone."""
    kernel.track_origins = True
    mock = Mock(proc)
    ioas, va = mock.ioas(), shared(proc, 4 * PAGE)
    mock.map_fixed(ioas, va, 2 * PAGE, START)
    lines = [line for line in kernel.leaks() if "IOVA" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"IOVA {START:#x}-{START + 2 * PAGE - 1:#x} of IOAS {ioas}, 1 mapping of user memory, ")
    assert "iommufdclient.py" in lines[0]
    mock.map_fixed(ioas, va, PAGE, START + 8 * PAGE)
    mock.map_fixed(ioas, va, PAGE, START + 9 * PAGE)
    lines = [line for line in kernel.leaks() if "IOVA" in line]
    assert [line.split(" of ")[0] for line in lines] == [
        f"IOVA {first:#x}-{last - 1:#x}"
        for first, last in [(START, START + 2 * PAGE), (START + 8 * PAGE, START + 10 * PAGE)]
    ]
    assert "2 mappings of user memory" in lines[1]
    mock.close()
    assert not [line for line in kernel.leaks() if "IOVA" in line]
