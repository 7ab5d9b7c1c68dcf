"""
The two processes between K and the client: the launcher, which makes the namespaces, and init, their pid 1.

Messages to K on the control socket (SOCK_SEQPACKET): a word, and what belongs to it::

    fuse                 /dev/fuse, already mounted               (descriptor)
    init                 init's pidfd                             (descriptor)
    client               the client's pidfd                       (descriptor)
    exec <errno>         the program could not be executed
    error <sentence>     the surface could not be set up
    looked               the path that K sent was looked at

FUSE is mounted by the launcher, which is still in K's PID namespace: so requests name their callers by K's pids.
/dev/fuse is opened inside the user namespace (``fs/fuse/inode.c:fuse_fill_super()`` asks for that) and closed here as
soon as K has it: at K's death the last copy goes and the host ends every request that waits for an answer.
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from errno import ENOEXEC, ENOSYS
from typing import NoReturn

from pykernel.surfaces.process import host, seccomp
from pykernel.surfaces.process.statfs import StatfsCalls
from pykernel.surfaces.process.visibility import HOST_DEV, Bind

__all__ = ["Plan", "SetupError", "launcher"]

_STAGE = "/sys"  # where the whole of the emulated tree is mounted while it is taken apart
_MOUNT_FLAGS = host.MS_NOSUID | host.MS_NODEV | host.MS_NOEXEC
_PATH_MAX = 4096
_RESET = (signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores them, programs expect them


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What K wants. *uid*, *gid*, *groups*: the client's emulated ones; *userns*: K's host user is not privileged.
    *fresh* are places for what lasts as long as the run, with the folders to make there. An empty *cwd* stays where K
    is. *stdio* are K's descriptors for the client's standard streams, if not K's own.
    """

    argv: list[str]
    env: dict[str, str]
    cwd: str
    uid: int
    gid: int
    groups: list[int]
    userns: bool
    binds: list[Bind]
    empty: list[str]
    fresh: dict[str, tuple[str, ...]]
    proc: list[str]
    sigmask: set[int]
    kernel_pid: int
    stdio: tuple[int, int, int] | None = None


class SetupError(Exception):
    """The surface cannot be set up on this host: one sentence."""


def launcher(plan: Plan, control: socket.socket) -> NoReturn:
    """The launcher's life, in the child of a fork; never returns."""
    status = 125
    try:
        gc.disable()
        _close_private(control.fileno(), *(plan.stdio or ()))
        host.set_pdeathsig(signal.SIGKILL)
        if os.getppid() == plan.kernel_pid:
            status = _launch(plan, control)
    except (SetupError, OSError) as e:
        _say(control, f"error {e if isinstance(e, SetupError) else f'cannot set up the namespaces: {e}'}")
    finally:
        os._exit(status)


def _launch(plan: Plan, control: socket.socket) -> int:
    _enter_namespaces(plan)
    trees = [(_tree(b), b.target) for b in plan.binds]
    fuse = _mount_fuse(plan)
    _say(control, "fuse", fuse)
    os.close(fuse)
    host.unshare(host.CLONE_NEWPID)
    alive, mine = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(mine)
        _init(plan, control, trees, alive)
    os.close(alive)
    for tree, _ in trees:
        os.close(tree)
    _say(control, "init", pidfd := os.pidfd_open(pid))
    _look_until(pidfd, control)
    return _code(os.waitpid(pid, 0)[1])


def _look_until(ended: int, control: socket.socket) -> None:
    """Until *ended* is readable, look at what K says (``flush.py``)."""
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(control, select.POLLIN)
    while all(fd != ended for fd, _ in poll.poll()):
        path = control.recv(_PATH_MAX)
        if not path:
            return
        with suppress(OSError):
            host.look(path)
        _say(control, "looked")


def _tree(bind: Bind) -> int:
    """A copy of the host's mounts; read-only where the client must not change the host, if this host can do that."""
    tree = host.open_tree(bind.source, recursive=True)
    if not bind.writable:
        try:
            host.make_read_only(tree, recursive=bind.target != HOST_DEV)
        except OSError as e:
            if e.errno != ENOSYS:
                raise
    return tree


def _enter_namespaces(plan: Plan) -> None:
    uid, gid = os.geteuid(), os.getegid()
    try:
        host.unshare(host.CLONE_NEWNS | (host.CLONE_NEWUSER if plan.userns else 0))
    except OSError as e:
        what = "user namespaces" if plan.userns else "mount namespaces"
        raise SetupError(f"this host does not allow {what} ({e.strerror})") from e
    if plan.userns:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{plan.uid} {uid} 1"),
            ("gid_map", f"{plan.gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as f:
                f.write(text)
        host.set_pdeathsig(signal.SIGKILL)  # the change of credentials cleared it
    host.mount("none", "/", flags=host.MS_REC | host.MS_PRIVATE)


def _mount_fuse(plan: Plan) -> int:
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as e:
        raise SetupError(f"/dev/fuse cannot be opened ({e.strerror})") from e
    ids = (plan.uid, plan.gid) if plan.userns else (0, 0)
    options = f"fd={fd},rootmode=40000,user_id={ids[0]},group_id={ids[1]},allow_other"
    if not plan.userns or ids[0] == 0:
        options += ",default_permissions"  # elsewhere only one id is mapped, and K checks by itself
    try:
        host.mount("pykernel", _STAGE, "fuse.pykernel", _MOUNT_FLAGS, options)
    except OSError as e:
        raise SetupError(f"this host does not allow a FUSE mount ({e.strerror})") from e
    return fd


def _init(plan: Plan, control: socket.socket, trees: list[tuple[int, str]], alive: int) -> NoReturn:
    """Pid 1: lays out the tree, starts the client, reaps; its end is the end of every process in the namespace."""
    status = 125
    try:
        host.set_pdeathsig(signal.SIGKILL)
        os.set_blocking(alive, False)
        if _parent_lives(alive):
            _lay_out(plan, trees)
            ours, theirs = socket.socketpair()
            client = os.fork()
            if client == 0:
                _client(plan, control, theirs)
            theirs.close()
            StatfsCalls.start(ours)
            _say(control, "client", pidfd := os.pidfd_open(client))
            os.close(pidfd)
            status = _reap_until(client)
    except OSError as e:
        _say(control, f"error cannot set up the file system: {e}")
    finally:
        os._exit(status)


def _lay_out(plan: Plan, trees: list[tuple[int, str]]) -> None:
    parts = [(host.open_tree(f"{_STAGE}/{name}"), f"/{name}") for name in ("sys", "dev")]
    with suppress(PermissionError):  # parts of this host's /proc are masked: its own instance stays, with its own pids
        host.mount("proc", "/proc", "proc", _MOUNT_FLAGS)
    parts += [(host.open_tree(f"{_STAGE}/proc/{n}"), f"/proc/{n}") for n in plan.proc if os.path.lexists(f"/proc/{n}")]
    for path in plan.empty:
        host.mount("none", path, "tmpfs", _MOUNT_FLAGS | host.MS_RDONLY, "mode=755")
    for path, folders in plan.fresh.items():
        host.mount("none", path, "tmpfs", _MOUNT_FLAGS, "mode=755")
        for folder in folders:
            os.makedirs(f"{path}/{folder}")
    host.umount(_STAGE)
    for tree, target in parts + trees:
        host.move_mount(tree, target)


def _client(plan: Plan, control: socket.socket, init: socket.socket) -> NoReturn:
    """Become the program."""
    try:
        _put_filter(init)
        init.close()
        if not plan.userns:
            _become(plan)
        for n, fd in enumerate(plan.stdio or ()):
            os.dup2(fd, n)
        if plan.cwd:
            os.chdir(plan.cwd)
        for signum in _RESET:
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, plan.sigmask)
        _exec(plan)
    except OSError as e:
        _say(control, f"exec {e.errno or ENOSYS}" if e.filename != plan.cwd else f"error {plan.cwd}: {e.strerror}")
    except SetupError as e:
        _say(control, f"error {e}")
    except Exception as e:
        _say(control, f"error cannot start the program: {e}")
    finally:
        os._exit(127)


def _put_filter(init: socket.socket) -> None:
    """The filter, for this process and all that it starts; init listens to it, if the host lets anybody."""
    if StatfsCalls.possible():
        with suppress(OSError):  # EBUSY: somebody listens to all of us already
            listener = seccomp.listen(seccomp.client_filter(notify=True))
            socket.send_fds(init, [b"l"], [listener])
            os.close(listener)
            return
    program = seccomp.client_filter()
    if program:
        seccomp.install(program, privileged=True)


def _become(plan: Plan) -> None:
    """Raises SetupError."""
    try:
        os.setgroups(plan.groups)
        os.setresgid(plan.gid, plan.gid, plan.gid)
        os.setresuid(plan.uid, plan.uid, plan.uid)
    except OSError as e:
        raise SetupError(f"this host does not allow to become uid {plan.uid}, gid {plan.gid} ({e.strerror})") from e


def _exec(plan: Plan) -> NoReturn:
    """execvp(3): PATH of the given environment, and a text without #! goes to the shell."""
    try:
        os.execvpe(plan.argv[0], plan.argv, plan.env)
    except OSError as e:
        if e.errno != ENOEXEC:
            raise
        os.execve("/bin/sh", ["sh", *plan.argv], plan.env)


def _reap_until(client: int) -> int:
    """Take in all children, our own and adopted ones, until the client ends."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == client:
            return _code(status)


def _code(status: int) -> int:
    """A shell's exit code for a wait status."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _parent_lives(alive: int) -> bool:
    """Is the other end of the pipe open? Its owner may have died before we asked to be told."""
    try:
        return bool(os.read(alive, 1))
    except BlockingIOError:
        return True


def _say(control: socket.socket, text: str, *fds: int) -> None:
    socket.send_fds(control, [text.encode("utf-8", "surrogateescape")], list(fds))


def _close_private(*keep: int) -> None:
    """Close every descriptor that a program would not inherit: K's own, which must not outlive K."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if fd not in keep and fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                os.close(fd)
        except OSError:
            continue  # the listing's own
