"""
Whatever allocation or copy fails, what was done before is undone, and the same works afterwards.

The scenarios are those of tools/testing/selftests/iommu/iommufd_fail_nth.c of Linux 6.12, by their names.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from iommufdclient import PAGE, shared
from iommufdmock import START, Mock

from pykernel.machine import Machine
from pykernel.start import boot

SIZE = 64 * PAGE
Scenario = Callable[[Mock, int], None]


def basic(mock: Mock, buffer: int) -> None:
    ioas = mock.ioas()
    mock.allow(ioas, (16 * 1024, 16 * 1024 + SIZE - 1), (0x100000, 0x100000 + SIZE))
    iova = mock.map(ioas, buffer, 16 * PAGE)
    mock.copy(ioas, ioas, 16 * PAGE, 0, iova, 6)
    mock.unmap(ioas, 0, (1 << 64) - 1)
    mock.destroy(ioas)


def map_domain(mock: Mock, buffer: int) -> None:
    ioas = mock.ioas()
    dev = mock.domain(ioas)
    mock.map(ioas, buffer, SIZE)
    mock.destroy(dev.stdev)
    mock.domain(ioas)


def map_two_domains(mock: Mock, buffer: int) -> None:
    ioas = mock.ioas()
    devices = [mock.domain(ioas), mock.domain(ioas)]
    mock.map(ioas, buffer, SIZE)
    for dev in devices:
        mock.destroy(dev.stdev)
    mock.domain(ioas)
    mock.domain(ioas)


def access_rw(mock: Mock, buffer: int) -> None:
    ioas = mock.ioas()
    iova = mock.map(ioas, buffer, SIZE)
    access = mock.access(ioas, pins=False)
    tmp = mock.proc.mem.alloc(4096)
    for flags in (0, 1, 4, 5):
        mock.access_rw(access, iova, 32, tmp, flags)
        mock.access_rw(access, iova + PAGE - 16, 32, tmp, flags)


def access_pin(mock: Mock, buffer: int) -> None:
    ioas = mock.ioas()
    iova = mock.map(ioas, buffer, SIZE)
    access = mock.access(ioas, pins=True)
    pages = mock.access_pages(access, iova, SIZE, buffer)
    mock.access_pages(access, iova, SIZE, buffer)
    mock.destroy_access_pages(access, pages)


def access_pin_domain(mock: Mock, buffer: int) -> None:
    ioas = mock.ioas()
    mock.map_fixed(ioas, buffer, SIZE, START)
    access = mock.access(ioas, pins=True)
    mock.access_pages(access, START, SIZE, buffer)
    dev = mock.domain(ioas)
    mock.destroy(dev.stdev)
    mock.unmap(ioas, START, SIZE)


def device(mock: Mock, buffer: int) -> None:
    first, second = mock.ioas(), mock.ioas()
    for ioas in (first, second):
        mock.map_fixed(ioas, buffer, PAGE, START)
    dev = mock.domain(first)
    hwpt = mock.hwpt(dev.idev, first)
    mock.replace(dev.stdev, second)
    mock.replace(dev.stdev, hwpt)


SCENARIOS = [basic, map_domain, map_two_domains, access_rw, access_pin, access_pin_domain, device]


@pytest.mark.parametrize("kind", ["alloc", "copy"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=[fn.__name__ for fn in SCENARIOS])
def test_fail_nth(scenario: Scenario, kind: str):
    kernel = boot(Machine("fail", modules={"iommufd": ""}), "linux-6.12", config="IOMMUFD_TEST")
    kernel.up()
    client = kernel.process()
    buffer = shared(client, SIZE)
    fired, nth = 1, 0
    while fired:
        nth += 1
        child = client.fork()  # its descriptors go with it
        with kernel.faults.fail(kind, nth=nth) as rule:
            try:
                scenario(Mock(child), buffer)
            except OSError:
                assert rule.fired
            fired = rule.fired
        child.exit()
        Mock(client).check_refs(buffer, SIZE, 0)
        for fd in list(client.fds.files):
            client.close(fd)
        assert not kernel.oopses
    client.exit()
    kernel.shutdown()
