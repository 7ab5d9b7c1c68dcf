"""Programs that patched code starts see the emulated kernel, and the program that has it sees what they do."""

from __future__ import annotations

import errno
import os
import select
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import pykernel
from pykernel.surfaces.inprocess.patched import Programs
from pykernel.surfaces.process import host

pytestmark = [
    pytest.mark.kernel(machine="dsa"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse") and not os.environ.get("CI"), reason="this host has no FUSE"),
]

DSA = "/sys/bus/dsa/devices"
STATE = f"{DSA}/wq0.0/state"


def _output(*words, **kw):
    return subprocess.run(words, check=True, capture_output=True, text=True, **kw).stdout


def test_a_child_reads_and_writes_the_same_files(kernel, wq):
    """At the same time: what one changes the other sees."""
    Path(wq, "priority").write_text("7\n")
    assert _output("cat", f"{wq}/priority") == "7\n"
    subprocess.run(["sh", "-c", f"echo 9 > {wq}/priority"], check=True)
    assert Path(wq, "priority").read_text() == "9\n"


def test_the_errno_is_the_emulated_kernels(kernel, wq):
    done = subprocess.run(["tee", f"{wq}/size"], input="1000\n", capture_output=True, text=True)
    assert done.returncode == 1
    assert "Invalid argument" in done.stderr


def test_the_ways_to_wait(kernel):
    """The kernel is served while its own program waits in any way."""
    words = ["cat", STATE]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout is not None
        assert p.stdout.read() == "disabled\n"  # in C
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as p:
        assert os.waitpid(p.pid, 0)[1] == 0
        p.returncode = 0
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as p:
        assert p.wait(timeout=60) == 0
    with os.popen(f"cat {STATE}") as f:
        assert f.read() == "disabled\n"
    r, w = os.pipe()
    with subprocess.Popen(words, stdout=w) as p:
        assert select.select([r], [], [], 60)[0] == [r]
        assert os.read(r, 99) == b"disabled\n"
    os.close(r)
    os.close(w)


def test_every_way_to_start(kernel, capfd, tmp_path):
    assert os.system(f"cat {STATE}; exit 3") == 3 << 8
    assert os.waitpid(os.posix_spawn("/bin/cat", ["cat", STATE], {}), 0)[1] == 0
    assert os.waitpid(os.posix_spawnp("cat", ["cat", STATE], os.environ), 0)[1] == 0
    pid = os.fork()
    if pid == 0:
        os.execvp("cat", ["cat", STATE])
    assert os.waitpid(pid, 0)[1] == 0
    assert capfd.readouterr().out == 4 * "disabled\n"
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, STATE, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, tmp_path / "out", 0o101, 0o600),
    ]
    assert os.waitpid(os.posix_spawn("/bin/cat", ["cat"], {}, file_actions=actions), 0)[1] == 0
    assert (tmp_path / "out").read_text() == "disabled\n"


def test_posix_spawn_as_the_real_one(kernel, raises_errno, tmp_path):
    """Its errors and attributes are the C library's."""
    raises_errno(2, os.posix_spawn, "/no/such", ["x"], {})
    raises_errno(13, os.posix_spawn, str(tmp_path), ["x"], {})
    raises_errno(9, os.posix_spawn, "/bin/true", ["true"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, 987, 1)])
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {}, setsid=True, setsigmask=[], setsigdef=[15])
    assert os.getsid(pid) == pid
    os.kill(pid, 15)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -15
    nonsense: Any = {"nonsense": 1}
    with pytest.raises(TypeError):
        os.posix_spawn("/bin/true", ["true"], {}, **nonsense)


def test_directories(kernel, wq, tmp_path):
    """A child starts where its parent is, or where it says."""
    assert _output("pwd", cwd=wq).strip() == os.path.realpath(wq)
    assert _output("cat", "wq0.0/state", cwd=DSA) == "disabled\n"
    with pytest.raises(FileNotFoundError) as e:
        subprocess.run(["true"], cwd=f"{DSA}/nothing")
    assert e.value.filename == f"{DSA}/nothing"
    with pytest.raises(FileNotFoundError) as e:
        subprocess.run(["/no/such/program"], cwd=wq)
    assert e.value.filename == "/no/such/program"
    before = os.getcwd()
    os.chdir(wq)
    try:
        assert _output("cat", "state") == "disabled\n"
        assert _output("cat", "control", cwd="power") == "auto\n"
        assert _output("pwd", cwd=tmp_path) == f"{tmp_path}\n"
        os.chdir(tmp_path)
        assert _output("pwd") == f"{tmp_path}\n"
    finally:
        os.chdir(before)


def test_what_the_parent_removed_is_gone(kernel):
    """Also where the host had its name."""
    assert "0000:6a:01.0" in _output("ls", "/sys/bus/pci/devices")
    assert _output("cat", STATE) == "disabled\n"
    Path("/sys/bus/pci/drivers/idxd/unbind").write_text("0000:6a:01.0")
    assert "wq0.0" not in _output("ls", DSA)
    assert subprocess.run(["cat", STATE], capture_output=True).returncode == 1
    Path("/sys/bus/pci/drivers/idxd/bind").write_text("0000:6a:01.0")
    assert _output("cat", STATE) == "disabled\n"


def test_a_world_is_made_each_time():
    """The helper lives until it is told to end."""
    for _ in range(5):
        kernel = pykernel.boot("dsa")
        with kernel.patched():
            assert _output("cat", STATE) == "disabled\n"
        kernel.shutdown()


def test_the_emulated_user(kernel, wq):
    """A child may what its parent may."""
    write = ["sh", "-c", f"echo 3 > {wq}/priority"]
    with kernel.patched(uid=1000):
        done = subprocess.run(write, capture_output=True, text=True)
        assert "Permission denied" in done.stderr
    subprocess.run(write, check=True)
    assert Path(wq, "priority").read_text() == "3\n"


def test_a_python_child_and_its_children(kernel):
    code = f"import subprocess; print(open('{STATE}').read() + subprocess.check_output(['cat', '{STATE}'], text=True))"
    assert _output(sys.executable, "-c", code).split() == ["disabled", "disabled"]


def test_a_thread_starts_a_child(kernel):
    found = []
    thread = threading.Thread(target=lambda: found.append(_output("cat", STATE)))
    thread.start()
    thread.join()
    assert found == ["disabled\n"]


def test_a_copy_of_the_program_starts_a_child(kernel):
    """The parent serves the children of what it forked."""
    _output("true")
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(_output("cat", STATE) != "disabled\n")
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert _output("cat", STATE) == "disabled\n"


def test_preexec_and_groups(kernel, tmp_path):
    """What subprocess does between fork and exec is done there, too."""
    assert _output("sh", "-c", "cd -P .; pwd; umask", umask=0o27, preexec_fn=lambda: os.chdir(tmp_path)).split() == [
        str(tmp_path),
        "0027",
    ]
    with pytest.raises(subprocess.SubprocessError):
        subprocess.run(["true"], preexec_fn=lambda: 1 // 0)


def test_nothing_is_left():
    """The helper ends with the context, and no child is found that the program did not start."""
    kernel = pykernel.boot("dsa")
    with kernel.patched():
        _output("cat", STATE)
        world: Any = kernel.sub(Programs).world
        session = world._session
        helper = session.server.flusher.tid
        with pytest.raises(ChildProcessError):
            os.waitpid(helper, os.WNOHANG)
        pidfd = os.pidfd_open(helper)
        holder: Any = subprocess.Popen(["sh", "-c", f"exec < {STATE}; echo; exec sleep 60"], stdout=subprocess.PIPE)
        holder.stdout.readline()
        holder.kill()
        holder.communicate()
    assert select.select([pidfd], [], [], 60)[0] == [pidfd]
    os.close(pidfd)
    kernel.shutdown()


def test_a_kernel_of_another_thread(tmp_path):
    """It cannot be interrupted, so its children see the host."""
    seen: list[Any] = []

    def work():
        kernel = pykernel.boot("dsa")
        with kernel.patched():
            seen.append(subprocess.run(["test", "-e", "/sys/bus/dsa/devices/wq0.0"]).returncode)
            world: Any = kernel.sub(Programs).world
            seen.append(world.why_not)
        kernel.shutdown()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [1, "the kernel belongs to a thread that has no signals"]


@pytest.mark.skipif(bool(host.cannot_become(0, 0)), reason="cannot become another user")
def test_a_child_of_another_user(kernel, wq):
    """Ids that the program gives its child are the child's ids in the emulated kernel."""
    done = subprocess.run(["sh", "-c", f"id -u; echo 3 > {wq}/priority"], user=65534, capture_output=True, text=True)
    assert done.stdout == "65534\n"
    assert "Permission denied" in done.stderr


def test_an_answer_that_the_host_refuses_is_one_request_with_eio(kernel):
    """fs/fuse/dev.c:fuse_dev_do_write(): a link's text longer than a page. The others go on."""
    kernel.root.lookup("dev").symlink("long", "a/" * 2500)  # no system call makes it
    done = subprocess.run(["readlink", "-v", "/dev/long"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Input/output error" in done.stderr
    assert [e.errno for e in kernel.oopses] == [errno.EINVAL]
    kernel.oopses.clear()
    assert _output("cat", STATE) == "disabled\n"


def test_a_child_sees_the_names_that_python_gave(kernel):
    """UTF-8 on both ways, on each surface; a look into the directory is no oops."""
    os.mkdir("/dev/dü€")
    kernel.process().symlink("dü€/ł", "/dev/ł")
    subprocess.run(["mkdir", "/dev/dü€/é"], check=True)
    assert subprocess.check_output(["ls", "-1", "/dev/dü€", "/dev/ł"], env={"PATH": os.environ["PATH"]}) == (
        "/dev/ł\n\n/dev/dü€:\né\n".encode()
    )
    assert os.listdir("/dev/dü€") == kernel.process().listdir("/dev/dü€") == ["é"]
    assert os.readlink("/dev/ł") == kernel.process().readlink("/dev/ł") == "dü€/ł"
    assert [e.name for e in os.scandir("/dev/dü€")] == ["é"]
    assert [e.is_dir() for e in os.scandir("/dev/dü€")] == [True]
    assert not kernel.oopses
