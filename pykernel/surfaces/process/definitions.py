"""
What programs keep about an emulated machine's devices between two runs: mdevctl's definitions in /etc/mdevctl.d.

The host's own are of other devices, so a run never sees or changes them: it has a folder that was empty, or the user's.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from pykernel.surfaces.process.visibility import Bind

__all__ = ["MDEVCTL_D", "Definitions"]

MDEVCTL_D = "/etc/mdevctl.d"
SCRIPTS = ("callouts", "notifiers")  # mdevctl refuses to start without these folders


class Definitions:
    """
    The folder at /etc/mdevctl.d; *persist* is the user's, which is made if it is not there, else it lasts for one run.

    Raises:
        OSError: *persist* cannot be made, or is no folder. FileNotFoundError: this host has no place to put it.
    """

    def __init__(self, persist: str | None) -> None:
        self.folder: Path | None = None
        self.lasts = persist is not None
        if not os.path.isdir(MDEVCTL_D):
            if self.lasts:
                raise FileNotFoundError(f"this host has no {MDEVCTL_D} to put it at: install mdevctl")
            return
        self.folder = Path(persist).absolute() if persist is not None else Path(tempfile.mkdtemp(prefix="pykernel-"))
        for name in SCRIPTS:
            (self.folder / "scripts.d" / name).mkdir(parents=True, exist_ok=True)
        if not self.lasts:
            self.folder.chmod(0o755)

    @property
    def binds(self) -> list[Bind]:
        """What to mount."""
        return [Bind(str(self.folder), MDEVCTL_D, writable=True)] if self.folder is not None else []

    def close(self) -> None:
        """Remove what lasts for one run."""
        if self.folder is not None and not self.lasts:
            shutil.rmtree(self.folder, ignore_errors=True)
