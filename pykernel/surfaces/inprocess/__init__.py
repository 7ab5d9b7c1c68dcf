"""
The patched surface: unmodified Python code of this process sees the emulated kernel.

Inside ``with kernel.patched():`` the usual calls - open, pathlib, os, os.path, glob, shutil, fcntl, mmap, select,
selectors, asyncio - reach the emulated kernel for /sys, for /dev and for those files of /proc that it has, and for
descriptors that came from there. Everything else goes to the real function, or to pyfakefs with ``real_files=False``.
Which names of /dev stay the host's is one table: :data:`~pykernel.surfaces.inprocess.places.HOST_NODES`.

What cannot be seen from here:

* Code in C that opens files itself: ``io.FileIO(path)``, C extensions, libc through ctypes, sub-processes (they get
  the real /sys). A child that would get an emulated descriptor or start in an emulated directory is refused with
  EOPNOTSUPP. ``pykernel run`` serves whole processes.
* Names taken before: ``from os import open`` in a module that was imported earlier keeps the real function, unless
  the module is named: ``kernel.patched(modules=[module])``.
* Real symbolic links into /sys or /dev, and ``..`` after real links.
* An emulated mapping has no buffer: ``ctypes.from_buffer(m)`` and ``memoryview(m)`` raise TypeError, slices work.

A fork copies the kernel with the process: the child has the same open files and a new address space, but what it stores
is not seen by the parent. os.set*id() changes the emulated ids only. Calls of other threads are served by the thread
that booted the kernel: at once if that is the main thread, else when it next enters the kernel.
"""

from __future__ import annotations

from pykernel.surfaces.inprocess.patched import Patched

__all__ = ["Patched"]
