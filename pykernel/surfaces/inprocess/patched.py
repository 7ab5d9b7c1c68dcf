"""The context manager: which function of which module is replaced, by what, and how all of it is undone."""

from __future__ import annotations

import builtins
import fcntl
import io
import mmap
import os
import select
import selectors
import signal
import socket
import sys
import threading
import tokenize
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from pykernel.fs.anon import AnonInode
from pykernel.fs.vfs import File
from pykernel.mm.phys import PhysMem
from pykernel.surfaces.host_limits import ProgramTask
from pykernel.surfaces.inprocess.children import Children
from pykernel.surfaces.inprocess.descriptors import HostFdTable, sendmsg_of
from pykernel.surfaces.inprocess.fdcalls import FcntlCalls, FdCalls
from pykernel.surfaces.inprocess.files import open_code_of, opener_of
from pykernel.surfaces.inprocess.ids import Ids
from pykernel.surfaces.inprocess.libudev_abi import ctypes_rows
from pykernel.surfaces.inprocess.mapping import mmap_class
from pykernel.surfaces.inprocess.memory import HostMemory
from pykernel.surfaces.inprocess.paths import PathCalls
from pykernel.surfaces.inprocess.places import TOPS, Places
from pykernel.surfaces.inprocess.waiting import Waiter, adopting_register, epoll_class, poll_class, select_function
from pykernel.surfaces.unfaked import unfaked
from pykernel.syscalls import Pids, Process
from pykernel.task import Mm

if TYPE_CHECKING:
    from types import ModuleType

    from pykernel.kernel import Kernel
    from pykernel.surfaces.inprocess.world import World

__all__ = ["Patched"]

# sets of os that say what a function can do: the replacements can do the same
ABILITIES = ("supports_dir_fd", "supports_fd", "supports_follow_symlinks", "supports_effective_ids")
Row = tuple[Any, str, Any]  # the owner of a name, the name, what takes its place
SERVE_SIGNAL = signal.SIGURG  # ignored by default, so a late one does no harm


class Programs:
    """The contexts that are entered, the outermost first, and the world that their children share."""

    def __init__(self, kernel: Kernel) -> None:
        self.active: list[Patched] = []
        self.world: World | None = None

    @contextmanager
    def entered(self, patched: Patched) -> Generator[None, None, None]:
        """The body runs in *patched*; with the outermost one the world ends."""
        self.active.append(patched)
        try:
            yield
        finally:
            if len(self.active) == 1 and self.world is not None:
                self.world.close()
            self.active.remove(patched)

    @contextmanager
    def unpatched(self) -> Generator[None, None, None]:
        """The body has the real functions."""
        with ExitStack() as back:
            for patched in reversed(self.active):
                back.enter_context(patched._anew())
            yield


class Patched:
    """
    See the package's docstring.

    Args:
        kernel: whose /sys, /dev and /proc files are seen.
        real_files: True: other paths are the real ones; False: pyfakefs' fake file system.
        uid: emulated user id of the program; None: root, and os.getuid() tells the real one.
        gid: emulated group id.
        modules: modules whose own names for what is replaced (``from os import open``) are replaced, too.

    Attributes:
        process: the emulated kernel's idea of this program.
        fs: pyfakefs' FakeFilesystem, or None.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        real_files: bool = True,
        uid: int | None = None,
        gid: int | None = None,
        modules: Iterable[ModuleType] = (),
    ) -> None:
        self.kernel = kernel
        self.real_files = real_files
        self.modules = tuple(modules)
        self.fs: Any = None
        self._patcher: Any = None
        self._uid, self._gid = uid, gid
        self._process: Process | None = None
        self._ids: Ids | None = None
        self._places: Places
        self._children: Children
        self._programs = kernel.sub(Programs)
        self._rows: list[Row] = []
        self._fake_rows: list[Row] = []
        self._replaced = ExitStack()
        self._undo = ExitStack()

    @property
    def process(self) -> Process:
        """The program as a client of the kernel; it exists from the first ``with`` on until the kernel's shutdown."""
        if self._process is None:
            self._process = self._new_process()
            self._ids = Ids(lambda: self.process.task, self._uid, self._gid)
        return self._process

    def _new_process(self) -> Process:
        pids = self.kernel.sub(Pids)
        pid = os.getpid()
        if pid in pids.processes:
            pid = pids.alloc()
        comm = os.path.basename(sys.argv[0] or "python")[:15]
        task = ProgramTask(self.kernel, pid, comm, mm=Mm(HostMemory(self.kernel.sub(PhysMem))))
        host = File(AnonInode(self.kernel, 0, "file of the host"), os.O_RDWR)
        return pids.add(Process(self.kernel, task, HostFdTable(host), self.kernel.root))

    @property
    def _fds(self) -> HostFdTable:
        fds = self.process.fds
        assert isinstance(fds, HostFdTable)
        return fds

    def as_user(self, uid: int, gid: int | None = None) -> AbstractContextManager[None]:
        """Run the body of a ``with`` with other emulated ids."""
        assert self.process is not None
        assert self._ids is not None
        return self._ids.as_user(uid, gid)

    def raw_mmap(self, fd: int, length: int, prot: int, flags: int, offset: int) -> str:
        """mmap(2) and munmap(2) without the checks that Python makes first: "mapped", or raises OSError."""
        self.process.munmap(self.process.mmap(0, length, prot, flags, fd, offset), length)
        return "mapped"

    # ---- in and out

    def __enter__(self) -> Patched:
        self.kernel.check_alive()
        with unfaked():
            assert self.process is not None  # made with the real functions
        with ExitStack() as undo:
            if not self.real_files:
                self._fake_files(undo)
            self._make_rows(undo)
            undo.callback(self._put_back)
            self._put_in_place()
            self._serve_threads(undo)
            undo.enter_context(self._programs.entered(self))
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._undo.close()

    def _make_rows(self, undo: ExitStack) -> None:
        """What is replaced by what; the rows for pyfakefs' objects are for as long as it is not paused."""
        real, fake = os.getcwd, None if self._patcher is None else self._files_of("os").getcwd
        places = Places(self.kernel, self.process, lambda: fake() if fake is not None and self._is_fake else real())
        waiter = Waiter(places)
        rows = self._file_rows(undo, places, os, io)
        rows.append((tokenize, "_builtin_open", rows[0][2]))  # also below pyfakefs: tracebacks need real sources
        around = self._programs.active
        self._children = Children(places, self._world_of_children, around[-1]._children if around else None)
        rows += [*self._children.rows(), *ctypes_rows(places)]
        rows += [(fcntl, name, function) for name, function in FcntlCalls(places).table().items()]
        epoll, poll = epoll_class(waiter), poll_class(waiter)
        rows += [
            (mmap, "mmap", mmap_class(places)),
            (socket.socket, "sendmsg", sendmsg_of(places.files, socket.socket.sendmsg)),
            (select, "select", select_function(waiter)),
            (select, "poll", poll),
            (select, "epoll", epoll),
            (selectors.EpollSelector, "_selector_cls", epoll),
            (selectors.EpollSelector, "register", adopting_register(waiter, epoll)),
            (selectors.PollSelector, "_selector_cls", poll),
            (selectors.SelectSelector, "_select", staticmethod(select_function(waiter))),
        ]
        self._places, self._rows, self._fake_rows = places, rows, []
        if self._patcher is not None:
            from pykernel.surfaces.inprocess.fakefs import fake_rows

            self._fake_rows = [*fake_rows(places, self._patcher)]
            self._fake_rows += self._file_rows(undo, places, self._files_of("os"), self._files_of("io"))

    def _put_in_place(self) -> None:
        rows = [*self._rows, *(self._fake_rows if self._is_fake else ())]
        table = [(owner, name, _current(owner, name), new) for owner, name, new in rows]
        with ExitStack() as undo:
            for owner, name, _, new in table:
                _replace(undo, owner, name, new)
            self._names_of_modules(undo, {id(old): new for _, _, old, new in table if old is not None})
            undo.callback(setattr, self._fds, "alone", self._fds.alone)
            self._fds.alone = True
            self._replaced = undo.pop_all()
        self._places.moved(inside=self._places.cwd_inside)

    def _put_back(self) -> None:
        self._replaced.close()

    def paused(self) -> AbstractContextManager[None]:
        """The body has the real functions, as if nothing were patched."""
        return self._anew()

    @contextmanager
    def _anew(self) -> Generator[None, None, None]:
        """The body has the real functions, or pyfakefs' own; afterwards they are replaced anew."""
        self._put_back()
        try:
            yield
        finally:
            self._put_in_place()

    def _file_rows(self, undo: ExitStack, places: Places, os_: Any, io_: Any) -> list[Row]:
        """Rows for one os and one io: the real ones, or those of pyfakefs."""
        ids = self._ids
        assert ids is not None
        mine = PathCalls(places, ids, os_).table() | FdCalls(places, os_).table()
        mine |= {name: getattr(ids, name) for name in ids.names}
        mine["fork"] = self._fork(os_.fork)
        self._abilities(undo, os_, mine)
        open_ = opener_of(places, io_.open)
        code = open_code_of(places, io_.open_code, open_)
        opens = [(builtins, "open", open_), (io_, "open", open_), (io_, "open_code", code)]
        return [*opens, *((os_, name, new) for name, new in mine.items())]

    def _names_of_modules(self, undo: ExitStack, by_id: dict[int, Any]) -> None:
        for module in self.modules:
            for name, value in list(vars(module).items()):
                if id(value) in by_id:
                    _replace(undo, module, name, by_id[id(value)])

    @staticmethod
    def _abilities(undo: ExitStack, target_os: Any, mine: dict[str, Callable[..., Any]]) -> None:
        for ability in ABILITIES:
            can: set[Any] = getattr(target_os, ability)
            more = {mine[name] for name in mine if getattr(target_os, name) in can}
            can |= more
            undo.callback(can.difference_update, more)

    # ---- threads, forks, other programs

    def _world_of_children(self) -> World:
        programs = self._programs
        if programs.world is None:
            with unfaked():
                from pykernel.surfaces.inprocess.world import World

            programs.world = World(self.kernel, lambda: programs.active[-1].process, programs.unpatched)
        return programs.world

    def _serve_threads(self, undo: ExitStack) -> None:
        """Calls of other threads interrupt the owner where it waits, if it is the main thread; no other has signals."""
        kernel = self.kernel
        owner = kernel.owner
        if threading.current_thread() is not threading.main_thread() or owner != threading.get_ident():
            return

        def serve(_signum: int, _frame: object) -> None:
            if self._programs.world is not None:
                self._programs.world.serve()
            if not kernel.depth:
                kernel.serve_threads()

        def ring() -> None:
            signal.pthread_kill(owner, SERVE_SIGNAL)

        before = signal.signal(SERVE_SIGNAL, serve)
        kernel.doorbells.append(ring)
        undo.callback(signal.signal, SERVE_SIGNAL, before)
        undo.callback(kernel.doorbells.remove, ring)

    def _fork(self, real: Callable[[], int]) -> Callable[[], int]:
        def fork() -> int:
            self._world_of_children().ready()  # the child may become another program
            pid = real()
            if pid == 0:
                self._forked()
            else:
                self._world_of_children().started(pid)
            return pid

        return fork

    def _forked(self) -> None:
        """
        In the child: a new task and address space on the same open files; its kernel is a copy of the parent's.

        The parent stays in the copy as a process that does nothing: what it has open stays open.
        """
        kernel, process = self.kernel, self.process
        if self._programs.world is not None:
            self._programs.world.forked()
        kernel.owner = threading.get_ident()
        pids = kernel.sub(Pids)
        parent = Process(kernel, process.task, process.fds.fork(), process.cwd)
        pids.processes[parent.pid] = parent
        old = process.task
        process.task = ProgramTask(kernel, os.getpid(), old.comm, old.cred, Mm(process.mem.fork()), files=process.fds)
        pids.processes[process.pid] = process

    # ---- pyfakefs

    def _fake_files(self, undo: ExitStack) -> None:
        with unfaked():
            from pykernel.surfaces.inprocess.fakefs import fake_files

        self._patcher = undo.enter_context(fake_files(self._anew))
        self.fs = self._patcher.fs
        for top in TOPS:
            self.fs.makedirs(f"/{top}", exist_ok=True)
        undo.callback(self._no_fake_files)

    @property
    def _is_fake(self) -> bool:
        """Whether ordinary paths go to pyfakefs now."""
        return self._patcher is not None and bool(self._patcher.is_patching)

    def _no_fake_files(self) -> None:
        self._patcher = self.fs = None

    def _files_of(self, name: str) -> Any:
        """The module that ordinary paths go to, but for pyfakefs' pauses."""
        return {"os": os, "io": io}[name] if self._patcher is None else self._patcher.fake_modules[name]


def _current(owner: Any, name: str) -> Any:
    return vars(owner).get(name) if isinstance(owner, type) else getattr(owner, name)


def _replace(undo: ExitStack, owner: Any, name: str, new: Any) -> None:
    """Set an attribute, and put back exactly what was there, also when it was inherited."""
    own = vars(owner)
    if name in own:
        undo.callback(setattr, owner, name, own[name])
    else:
        undo.callback(delattr, owner, name)
    setattr(owner, name, new)
