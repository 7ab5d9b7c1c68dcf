"""
What programs keep about an emulated machine's devices between two runs: mdevctl's definitions in /etc/mdevctl.d.

The host's own are of other devices, so a run never sees or changes them: it has a file system in memory, or a folder
of the user's.
"""

from __future__ import annotations

import os
from pathlib import Path

from pykernel.surfaces.process.visibility import Bind

__all__ = ["MDEVCTL_D", "SCRIPTS", "definitions"]

MDEVCTL_D = "/etc/mdevctl.d"
SCRIPTS = ("scripts.d/callouts", "scripts.d/notifiers")  # mdevctl refuses to start without these folders


def definitions(persist: str | None) -> tuple[list[Bind], dict[str, tuple[str, ...]]]:
    """
    What to mount at /etc/mdevctl.d: *persist*, which is made if it is not there, or a fresh place and its folders.

    Raises:
        OSError: *persist* cannot be made, is no folder or no name. FileNotFoundError: this host has no place to put it.
    """
    there = os.path.isdir(MDEVCTL_D)
    if persist is None:
        return [], {MDEVCTL_D: SCRIPTS} if there else {}
    if not persist:
        raise FileNotFoundError(f"this is no name of a folder to put at {MDEVCTL_D}")
    if not there:
        raise FileNotFoundError(f"this host has no {MDEVCTL_D} to put it at: install mdevctl")
    folder = os.path.abspath(persist)
    if os.path.islink(folder) and not os.path.exists(folder):
        raise FileNotFoundError(f"a symbolic link to {os.readlink(folder)}, which is not there")
    for name in SCRIPTS:
        Path(folder, name).mkdir(parents=True, exist_ok=True)
    return [Bind(folder, MDEVCTL_D, writable=True)], {}
