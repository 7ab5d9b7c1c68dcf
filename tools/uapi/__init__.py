"""``pykernel uapi``: the headers of Linux that uapi/ states, compared, printed, explained, written."""

from __future__ import annotations

import click

from pykernel.tools.uapi.headers import check, header, list_headers
from pykernel.tools.uapi.show import decode, show

__all__ = ["command"]


@click.group()
def command() -> None:
    """
    The C headers of Linux that this kernel knows: structs, constants, ioctl numbers.

    \b
    Examples:
      pykernel uapi check                            compare with the headers of this host
      pykernel uapi check --headers linux/usr/include vfio
      pykernel uapi show vfio_device_info            where the fields of a struct lie
      pykernel uapi decode 0x3b6b                    which ioctl is that?
      pykernel uapi header idxd > idxd.h             a C header of it
    """


for _one in (list_headers, check, show, decode, header):
    command.add_command(_one)
