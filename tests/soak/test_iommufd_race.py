"""Clients of one context at once, under many orders: each call does all or nothing, and nothing stays behind."""

from __future__ import annotations

from errno import EADDRINUSE, EBUSY, EEXIST, EINVAL, ENOENT
from functools import partial

from iommufdclient import PAGE, shared
from iommufdmock import START, Mock

from pykernel import explore
from pykernel.iommufd.pages import UserLockedVm


def allowed(fn, *errors: int):
    """Its result, or None when it failed with one of *errors*."""
    try:
        return fn()
    except OSError as e:
        if e.errno not in errors:
            raise
        return None


def finish(kernel, mock: Mock, buffer: int, ioas: int) -> None:
    mock.unmap(ioas, 0, (1 << 64) - 1)
    mock.check_refs(buffer, 8 * PAGE, 0)
    assert not any(kernel.sub(UserLockedVm).pages.values())
    mock.proc.exit()


def start(kernel) -> tuple[Mock, int, int]:
    kernel.modules.modprobe("iommufd")
    mock = Mock(kernel.process())
    return mock, shared(mock.proc, 8 * PAGE), mock.ioas()


@explore(seeds=30, machine="dsa", profile="linux-6.12", config="IOMMUFD_TEST")
def test_maps_and_devices(kernel):
    mock, buffer, ioas = start(kernel)

    def maps() -> None:
        for _ in range(3):
            allowed(lambda: mock.map_fixed(ioas, buffer, 8 * PAGE, START), EEXIST)
            allowed(lambda: mock.unmap(ioas, START, 8 * PAGE), ENOENT, EBUSY)

    def devices() -> None:
        for _ in range(2):
            mock.destroy(mock.domain(ioas).stdev)

    def drivers() -> None:
        access = mock.access(ioas, pins=True)
        for _ in range(3):
            pages = allowed(lambda: mock.access_pages(access, START, PAGE, buffer), ENOENT, EINVAL)
            if pages is not None:
                allowed(partial(mock.destroy_access_pages, access, pages), ENOENT)
        mock.proc.close(access)

    kernel.gather(maps, maps, devices, drivers)
    finish(kernel, mock, buffer, ioas)


@explore(seeds=30, machine="dsa", profile="linux-6.12", config="IOMMUFD_TEST")
def test_an_ioas_is_destroyed_while_it_is_used(kernel):
    mock, buffer, ioas = start(kernel)
    gone = []

    def destroy() -> None:
        for _ in range(4):
            if allowed(lambda: mock.destroy(ioas) or 1, EBUSY, ENOENT):
                gone.append(1)
                return

    def use() -> None:
        allowed(lambda: mock.map(ioas, buffer, PAGE), ENOENT)
        device = allowed(lambda: mock.domain(ioas), ENOENT, EADDRINUSE, EINVAL)  # its number may be a device by now
        allowed(lambda: mock.copy(ioas, ioas, PAGE, START, PAGE), ENOENT, EEXIST, EINVAL)
        if device is not None:
            mock.destroy(device.stdev)

    kernel.gather(destroy, use, use)
    if gone:
        ioas = mock.ioas()
    finish(kernel, mock, buffer, ioas)
