"""Kernels with the module vfio, and a client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from pykernel.kernel import Kernel, Leak
from pykernel.machine import Machine
from pykernel.start import boot

BootVfio = Callable[..., Kernel]


@pytest.fixture
def boot_vfio() -> Iterator[BootVfio]:
    """``boot_vfio("linux-6.12", args="...", config=[...])``: a machine without silicon, and the module vfio."""
    kernels: list[Kernel] = []

    def start(profile: str = "linux-6.1", *, args: str = "", config: tuple[str, ...] = ()) -> Kernel:
        kernel = boot(Machine("bare"), profile=profile, config=config)
        kernels.append(kernel)
        kernel.up()
        kernel.modules.modprobe("vfio", args)
        return kernel

    yield start
    for kernel in kernels:
        with suppress(Leak):
            kernel.shutdown()
        assert not kernel.oopses


@pytest.fixture(params=["linux-6.1", "linux-6.12"])
def vfio_kernel(request: pytest.FixtureRequest, boot_vfio: BootVfio) -> Kernel:
    """Such a kernel, of both releases that are read."""
    return boot_vfio(request.param)
