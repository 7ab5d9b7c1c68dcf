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
        OSError: *persist* cannot be made, or is no folder. FileNotFoundError: this host has no place to put it.
    """
    there = os.path.isdir(MDEVCTL_D)
    if persist is None:
        return [], {MDEVCTL_D: SCRIPTS} if there else {}
    if not there:
        raise FileNotFoundError(f"this host has no {MDEVCTL_D} to put it at: install mdevctl")
    for name in SCRIPTS:
        Path(persist, name).mkdir(parents=True, exist_ok=True)
    return [Bind(os.path.abspath(persist), MDEVCTL_D, writable=True)], {}
