"""Other programs: nothing is lost without a word, and what has nothing to do with the kernel works as ever."""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys

import pytest

from pykernel.surfaces.inprocess import world

pytestmark = pytest.mark.kernel(machine="dsa")

ECHO = ["/bin/echo", "-n", "shared"]


@pytest.fixture
def refused(raises_errno):
    """The call is refused with a sentence that says what to do."""

    def check(what, f, *args, **kw):
        e = raises_errno(errno.EOPNOTSUPP, f, *args, **kw)
        assert what in e.strerror
        assert "pykernel run" in e.strerror

    return check


@pytest.fixture
def mode(kernel, wq):
    """An emulated file, open for reading and writing; no call changes it."""
    fd = os.open(f"{wq}/mode", os.O_RDWR)
    before = os.pread(fd, 99, 0)
    yield fd
    assert os.pread(fd, 99, 0) == before
    os.close(fd)


@pytest.fixture
def no_world(monkeypatch):
    """This host allows no namespaces."""

    def refuse(*args):
        raise PermissionError(errno.EPERM, "unshare")

    monkeypatch.setattr(world, "_Session", refuse)


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
@pytest.mark.parametrize("close_fds", [True, False])  # False: CPython may take posix_spawn()
def test_a_stream_of_a_child(mode, wq, refused, stream, close_fds):
    refused(f"wq0.0/mode as its {stream}", subprocess.run, ECHO, **{stream: mode}, close_fds=close_fds)
    with open(f"{wq}/state") as f:
        refused(f"wq0.0/state as its {stream}", subprocess.Popen, ["true"], **{stream: f}, close_fds=close_fds)


def test_pass_fds(mode, refused):
    refused("wq0.0/mode as its descriptor", subprocess.run, ECHO, pass_fds=[mode])


def test_our_own_streams_are_inherited(mode, refused):
    saved = os.dup(0)
    os.dup2(mode, 0)
    try:
        refused("as its stdin", subprocess.run, ["true"])
        refused("as its stdin", os.system, "true")
        refused("as its stdin", os.posix_spawn, "/bin/true", ["true"], {})
        assert subprocess.run(["true"], stdin=subprocess.DEVNULL).returncode == 0
    finally:
        os.dup2(saved, 0)
        os.close(saved)


def test_an_inheritable_descriptor(mode, refused):
    other = os.dup2(mode, os.dup(mode))
    assert subprocess.run(["true"]).returncode == 0  # close_fds
    refused(f"as its descriptor {other}", subprocess.run, ["true"], close_fds=False)
    refused(f"as its descriptor {other}", os.posix_spawn, "/bin/true", ["true"], {})
    actions = [(os.POSIX_SPAWN_CLOSE, other)]
    pid = os.posix_spawn("/bin/true", ["true"], {}, file_actions=actions)
    assert os.waitpid(pid, 0)[1] == 0
    os.close(other)


def test_posix_spawn_with_actions(no_world, mode, wq, refused):
    spawn = ("/bin/true", ["true"], {})
    refused("as its stdout", os.posix_spawn, *spawn, file_actions=[(os.POSIX_SPAWN_DUP2, mode, 1)])
    opened = [(os.POSIX_SPAWN_OPEN, 0, f"{wq}/state", os.O_RDONLY, 0)]
    refused("cannot open the emulated file", os.posix_spawnp, *spawn, file_actions=opened)
    taken_over = [(os.POSIX_SPAWN_DUP2, mode, 1), (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    assert os.waitpid(os.posix_spawn(*spawn, file_actions=taken_over), 0)[1] == 0


def test_an_emulated_directory(no_world, kernel, wq, tmp_path, refused):
    refused("start in the emulated directory", subprocess.run, ["true"], cwd=wq)
    before = os.getcwd()
    os.chdir(wq)
    try:
        refused("current directory /sys/devices", subprocess.run, ["true"])
        refused("current directory /sys/devices", os.system, "true")
        refused("current directory /sys/devices", os.posix_spawn, "/bin/true", ["true"], {})
        refused("start in the emulated directory", subprocess.run, ["true"], cwd="power")
        assert subprocess.check_output(["pwd"], cwd=tmp_path, text=True) == f"{tmp_path}\n"
    finally:
        os.chdir(before)


def test_exec_is_refused_in_the_process_that_would_change(mode, refused):
    pid = os.fork()
    if pid == 0:
        os.dup2(mode, 1)
        try:
            os.execv("/bin/echo", ECHO)
        except OSError as e:
            os._exit(e.errno or 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == errno.EOPNOTSUPP


def _double(n):
    return 2 * n


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_ordinary_children(kernel, mode, tmp_path, method):
    """With an emulated file open beside them."""
    with open(tmp_path / "out", "w+") as f:
        subprocess.run(ECHO, stdout=f, check=True)
        f.seek(0)
        assert f.read() == "shared"
    code = "import sys; print(sys.stdin.read(), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], input="x", capture_output=True, text=True, close_fds=False)
    assert done.stderr == "x\n"
    r, w = os.pipe()
    subprocess.run([sys.executable, "-c", f"import os; os.write({w}, b'there')"], pass_fds=[w], check=True)
    assert os.read(r, 9) == b"there"
    os.close(r)
    os.close(w)
    assert os.system("exit 3") == 3 << 8
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map(_double, [1, 2]) == [2, 4]
