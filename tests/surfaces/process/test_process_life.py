"""Exit status, signals, terminals, what cannot be run; and that nothing outlives a run (conftest looks after each)."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

PYTHON = "/usr/bin/python3"
IN_REMOVED = ("busybox", "sh", "-c", 'd=$(mktemp -d /dev/shm/gone.XXXXXX) && cd $d && rmdir $d && exec "$@"', "sh")


@pytest.mark.parametrize("status", [0, 1, 3, 255])
def test_the_exit_status_is_the_clients(surface: Any, status: int) -> None:
    assert surface.run("busybox", "sh", "-c", f"exit {status}").returncode == status


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV"])
def test_a_signal_is_128_plus_its_number(surface: Any, name: str) -> None:
    r = surface.run("busybox", "sh", "-c", f"kill -{name} $$")
    assert r.returncode == 128 + signal.Signals[f"SIG{name}"]


@pytest.mark.parametrize(
    ("program", "sentence", "status"),
    [
        ("/nowhere/prog", "pykernel run: /nowhere/prog: No such file or directory", 127),
        ("no-such-program", "pykernel run: no-such-program: No such file or directory", 127),
        ("/etc/passwd", "pykernel run: /etc/passwd: Permission denied", 126),
        ("/etc", "pykernel run: /etc: Permission denied", 126),
        ("", "pykernel run: '': No such file or directory", 127),
    ],
)
def test_what_cannot_be_run_is_said_like_a_shell(surface: Any, program: str, sentence: str, status: int) -> None:
    r = surface.run(program)
    assert (r.stderr.splitlines(), r.returncode) == ([sentence], status)


def test_a_user_that_is_not_there(surface: Any) -> None:
    r = surface.run("true", as_user="no-such-user")
    assert (r.stderr, r.returncode) == ("pykernel run: no user 'no-such-user' on this host\n", 125)


@pytest.mark.parametrize("uid", [2**32 - 1, 2**32, 99999999999])
def test_a_uid_that_no_user_has(surface: Any, uid: int) -> None:
    """-1 of setresuid(2) means "leave it": the program would run as root."""
    r = surface.run("busybox", "id", as_user=str(uid))
    assert (r.stdout, r.stderr) == ("", f"pykernel run: uid {uid}: must be 0..4294967294\n")
    assert r.returncode == 125


def test_the_last_uid(surface: Any) -> None:
    r = surface.run("busybox", "id", "-u", as_user="4294967294")
    assert r.stdout == "4294967294\n"


@pytest.mark.parametrize("who", [None, "1234"])
def test_root_of_a_user_namespace_is_no_root(surface: Any, who: str | None) -> None:
    """user_namespaces(7): setgroups() is denied there, and only one id is mapped."""
    r = surface.run(
        "busybox", "sh", "-c", "id -u; cat /sys/devices/toy/value", as_user=who, within=("unshare", "-U", "-r")
    )
    assert (r.stdout, r.returncode) == (f"{who or 0}\n1\n", 0)


def test_a_run_within_a_run(surface: Any) -> None:
    r = surface.run(*surface.command(), "busybox", "sh", "-c", "id -u; cat /sys/devices/toy/value")
    assert (r.stdout, r.returncode) == ("0\n1\n", 0)


def test_a_directory_that_was_removed(surface: Any) -> None:
    """The program stays there, as after any fork()."""
    r = surface.run("busybox", "sh", "-c", "readlink /proc/self/cwd", within=IN_REMOVED)
    assert r.returncode == 0
    assert r.stdout.endswith(" (deleted)\n")


def test_without_proc(surface: Any) -> None:
    r = surface.run("true", within=("unshare", "-U", "-r", "-m", "sh", "-c", 'mount -t tmpfs t /proc; exec "$@"', "sh"))
    assert (r.stdout, r.stderr, r.returncode) == ("", "pykernel run: /proc is not mounted here\n", 125)


def test_where_no_process_is_allowed(surface: Any) -> None:
    """RLIMIT_NPROC does not bind root."""
    limit = "import os, resource as r, sys; r.setrlimit(r.RLIMIT_NPROC, (1, 1)); os.execv(sys.argv[1], sys.argv[1:])"
    r = surface.run("true", within=(PYTHON, "-c", limit))
    if surface.privileged:
        assert r.returncode == 0
    else:
        assert r.stderr.startswith("pykernel run: this host allows no more processes (")
        assert (r.stderr.count("\n"), r.returncode) == (1, 125)


def test_arguments_environment_directory_and_streams_are_untouched(
    surface: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("X", "a b\udcff")
    code = "import os, sys; print(sys.argv[1:], os.environb[b'X'], os.getcwd(), sys.stdin.read())"
    r = surface.run(PYTHON, "-c", code, "", "a b", "-x", input="text")
    assert r.stdout == "['', 'a b', '-x'] b'a b\\xff' / text\n"


def test_signals_start_at_their_defaults(surface: Any) -> None:
    """Python ignores SIGPIPE and SIGXFSZ; programs must not inherit that, nor a blocked signal."""
    r = surface.run("busybox", "grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status")
    blocked, ignored, caught = (int(line.split()[1], 16) for line in r.stdout.splitlines())
    reserved = 0x180000000  # 32 and 33 are the C library's own; GNU make leaves them ignored in its children
    assert (blocked, ignored & ~reserved, caught) == (0, 0, 0)


def test_children_left_behind_end_with_the_client(surface: Any) -> None:
    """Orphans are adopted and end with pid 1 (conftest looks for them)."""
    r = surface.sh("(busybox sleep 1000 &); (exec 3</dev/toy/0; busybox sleep 1000) & echo started")
    assert (r.stdout, r.returncode) == ("started\n", 0)


def test_a_text_without_interpreter_line_goes_to_the_shell(surface: Any, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo shell $1\n")
    script.chmod(0o755)
    for directory in (tmp_path, *list(tmp_path.parents)[:3]):
        directory.chmod(0o755)
    assert surface.run(str(script), "arg").stdout == "shell arg\n"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_to_the_runner_reaches_the_client_once(surface: Any, signum: signal.Signals) -> None:
    code = (
        "import signal, sys\n"
        f"signal.signal({int(signum)}, lambda *_: None); signal.pthread_sigmask(signal.SIG_BLOCK, [{int(signum)}])\n"
        "print('ready', flush=True); open('/sys/devices/toy/value').read()\n"
        f"print(signal.sigwait([{int(signum)}]), signal.sigtimedwait([{int(signum)}], 0.1)); sys.exit(9)\n"
    )

    def heed() -> None:  # who started the tests in the background may have had it ignored
        signal.signal(signum, signal.SIG_DFL)

    how: Any = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True, "preexec_fn": heed}
    with surface.popen(PYTHON, "-c", code, **how) as p:
        assert p.stdout.readline() == "ready\n"
        p.send_signal(signum)
        assert p.stdout.read() == f"{int(signum)} None\n"
        assert p.wait() == 9


def read_until(fd: int, text: bytes) -> bytes:
    got = b""
    while text not in got and select.select([fd], [], [], 30)[0]:
        try:
            data = os.read(fd, 4096)
        except OSError:
            break
        if not data:
            break
        got += data
    return got


def on_terminal(surface: Any, *argv: str) -> tuple[int, Any]:
    """Start a run as the foreground job of a new terminal; the terminal's master and the process."""
    master, slave = pty.openpty()
    if not surface.privileged and os.geteuid() == 0:
        os.fchown(slave, surface.user, surface.user)

    def own() -> None:
        os.setsid()
        __import__("fcntl").ioctl(0, 0x540E, 0)  # TIOCSCTTY

    p = surface.popen(*argv, stdin=slave, stdout=slave, stderr=slave, preexec_fn=own)
    os.close(slave)
    return master, p


def test_ctrl_c_reaches_the_client_once(surface: Any) -> None:
    code = (
        "import signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [2]); print('ready', flush=True)\n"
        "print('got', signal.sigwait([2]), signal.sigtimedwait([2], 0.2), flush=True)\n"
    )
    master, p = on_terminal(surface, PYTHON, "-c", code)
    assert b"ready" in read_until(master, b"ready")
    os.write(master, b"\x03")
    assert b"got 2 None" in read_until(master, b"None")
    assert p.wait(30) == 0
    os.close(master)


def test_a_shell_has_job_control(surface: Any) -> None:
    """An interactive shell takes the terminal, runs a job, stops and continues it, and gives the terminal back."""
    master, p = on_terminal(surface, "bash", "--norc", "-i")
    os.write(master, b"PS1=; tty; sh -c 'cat /sys/devices/toy/value; echo run$((1+1)); exec sleep 1000'\n")
    assert b"/dev/pts/" in read_until(master, b"run2")
    os.write(master, b"\x1a")
    assert b"Stopped" in read_until(master, b"Stopped")
    os.write(master, b"kill -KILL %1; exit 5\nexit 5\n")
    read_until(master, b"exit 5\r\nexit")
    assert p.wait(30) == 5
    os.close(master)


def test_the_second_ctrl_c_ends_a_kernel_that_hangs(surface: Any) -> None:
    """A show that never returns: the traceback says where, and nothing is left."""
    code = (
        "import signal; signal.signal(2, signal.SIG_IGN)\n"
        "print('ready', flush=True); open('/sys/devices/toy/hang').read()"
    )
    with surface.popen(
        PYTHON, "-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as p:
        assert p.stdout.readline() == "ready\n"
        while p.poll() is None:
            p.send_signal(signal.SIGINT)
            select.select([p.stdout], [], [], 0.2)
        errors = p.stderr.read()
    assert "in hang_show" in errors
    assert "KeyboardInterrupt: the kernel hangs in request" in errors


@pytest.mark.parametrize("ends", ["exit 0", "kill -KILL $$"])
def test_a_bug_in_a_release_at_the_end_keeps_no_other_file_open(surface: Any, ends: str) -> None:
    """Each is an oops, not a traceback of the runner; conftest looks for files that stay open."""
    r = surface.sh(f"for fd in 3 4; do eval 'exec '$fd'<>/dev/toy/0'; printf crash >&$fd; done; {ends}")
    assert r.stderr.splitlines() == ["oops Oops('release')"] * 2
    assert r.returncode == (70 if ends == "exit 0" else 137)


def test_io_uring_cannot_pass_the_filter(surface: Any) -> None:
    code = (
        "import ctypes, errno; libc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.syscall(425, 1, None), errno.errorcode[ctypes.get_errno()])"
    )
    assert surface.run(PYTHON, "-c", code).stdout == "-1 ENOSYS\n"


def test_devices_of_the_host_still_work(surface: Any) -> None:
    """null, zero, urandom, full, a terminal of one's own, shared memory."""
    r = surface.sh(
        "echo x > /dev/null && busybox head -c 2 /dev/zero | busybox hexdump -ve '1/1 \"%d\"';"
        " busybox head -c 3 /dev/urandom | wc -c; echo x > /dev/full; echo x | cat /dev/stdin /dev/fd/0;"
        " test -w /dev/shm && echo shm; ls /sys/devices/system/cpu/online"
    )
    assert r.stdout.splitlines() == ["003", "x", "shm", "/sys/devices/system/cpu/online"]
    assert "No space left on device" in r.stderr
    code = "import os; m, s = os.openpty(); print(os.isatty(s) and os.ttyname(s).startswith('/dev/'))"
    assert surface.run(PYTHON, "-c", code).stdout == "True\n"


def test_the_hosts_nodes_cannot_be_changed(surface: Any) -> None:
    """Root of the run may be the host's root: modes and owners of what is the host's stay as they are."""
    paths = ("/dev/full", "/dev/null", "/sys/devices/system/cpu/online")
    before = [os.stat(path) for path in paths]
    all_of_them = " ".join((*paths, "/dev/.host/full"))
    r = surface.sh(f"for f in {all_of_them}; do chmod 600 $f; chown 1 $f; done; echo x > /dev/null && echo written")
    assert r.stdout == "written\n"
    assert all("Read-only file system" in line for line in r.stderr.splitlines())
    assert [(s.st_mode, s.st_uid) for s in map(os.stat, paths)] == [(s.st_mode, s.st_uid) for s in before]
