"""Standard streams that are closed, full or not read: a sentence, an exit status, and programs are run all the same."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

CLI = shlex.join([sys.executable, "-m", "pykernel.tools.cli"])
STATE = "/sys/bus/dsa/devices/dsa0/state"
VIEWS = ["tree", "dmesg", "dmesg --json", "ioctls", "ioctls --json", "module list", "trace --name uevent", "--help"]


def sh(line: str) -> tuple[int, str, str]:
    """What a shell gets from ``pykernel``: exit status, output, errors."""
    env = dict(os.environ, LC_ALL="C.UTF-8")
    done = subprocess.run(["sh", "-c", f"{CLI} {line}"], capture_output=True, text=True, check=False, env=env)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", VIEWS)
@pytest.mark.parametrize(("to", "why"), [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")])
def test_output_that_is_lost_is_one_sentence_and_no_success(command, to, why):
    assert sh(f"{command} {to}") == (1, "", f"pykernel: standard output: {why}\n")


@pytest.mark.parametrize("to", ["2>&-", "2>/dev/full"])
def test_the_exit_status_of_a_mistake_stays_when_nobody_can_be_told(to):
    assert sh(f"nothing {to}") == (2, "", "")


def test_a_closed_stdin_cannot_be_read():
    assert sh("trace - <&-") == (1, "", "pykernel: -: Bad file descriptor\n")


def test_a_reader_that_has_seen_enough_is_no_mistake():
    assert sh("ioctls --json | head -c 1") == (0, "{", "")


@pytest.mark.usefixtures("fuse")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_program_is_run_and_its_exit_status_given_whatever_is_closed(tmp_path, closed):
    seen = tmp_path / "seen"

    assert sh(f"run -- sh -c 'cat {STATE} >{seen}; exit 7' {closed}")[0] == 7
    assert seen.read_text() == "disabled\n"


@pytest.mark.usefixtures("fuse")
def test_a_program_has_those_streams_closed_that_the_caller_closed(tmp_path):
    """As a shell hands them to a program without pykernel between them."""
    script = tmp_path / "look.py"
    # asked for by number, before anything is opened that would take one
    script.write_text(
        "import os\n"
        "def there(n):\n"
        "    try:\n"
        "        return bool(os.fstat(n))\n"
        "    except OSError:\n"
        "        return False\n"
        "got = [there(n) for n in range(3)]\n"
        f"open({str(tmp_path / 'seen')!r}, 'w').write(repr(got))\n"
    )
    python = shlex.join([sys.executable, str(script)])

    assert sh(f"run -- {python} <&- 2>&-")[0] == 0
    assert (tmp_path / "seen").read_text() == "[False, True, False]"


@pytest.mark.usefixtures("fuse")
def test_what_the_program_writes_to_a_closed_stdout_fails_as_without_us():
    assert sh(f"run -- cat {STATE} >&-") == (1, "", "cat: standard output: Bad file descriptor\n")


@pytest.mark.usefixtures("fuse")
@pytest.mark.parametrize(("program", "status"), [("true", 74), ("sh -c 'exit 7'", 7)])
class TestWhatCannotBeWrittenDown:
    """74 is sysexits.h:EX_IOERR; the status of a program that failed by itself says more."""

    def test_a_trace_that_is_lost_is_said(self, program, status):
        assert sh(f"run --trace /dev/full -- {program}") == (
            status,
            "",
            "pykernel: /dev/full: No space left on device; the trace is incomplete\n",
        )

    @pytest.mark.parametrize("to", ["2>&-", "2>/dev/full"])
    @pytest.mark.parametrize("what", ["--trace -", "--dmesg"])
    def test_a_trace_or_log_on_a_stderr_that_takes_nothing(self, program, status, what, to):
        assert sh(f"run {what} -- {program} {to}") == (status, "", "")
