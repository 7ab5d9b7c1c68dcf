"""
The process surface: unmodified programs run against the emulated kernel.

Processes, from the outside in:

- **K**, the kernel: who called :func:`run`. One thread, one :class:`~pykernel.surfaces.process.server.Loop`; serves FUSE.
- **launcher**: its child; new mount (and user) namespace, mounts FUSE, hands /dev/fuse to K (``launcher.py``).
- **init**: pid 1 of a new PID namespace; lays out /sys, /dev and /proc, starts the client, reaps (``launcher.py``).
- **clients**: the program and its children.

Each dies with the one before it, the kernel of the host ends the PID namespace with its pid 1, and mounts end with their
namespace: whoever is killed, nothing is left.
"""

from pykernel.surfaces.process.run import RunError, run

__all__ = ["RunError", "run"]
