"""``pykernel soak``: the same seeds fail whoever runs them, and no crash, hang or kill ends a campaign."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pykernel.tools.soak.dask import luggage
from pykernel.tools.soak.pool import Job

PLANTED = Path(__file__).parents[1] / "soak"
SOAK = [sys.executable, "-m", "pykernel.tools.cli", "soak"]
HEAD = "import os, signal, time\nfrom pykernel import explore\n"


@pytest.fixture
def here(tmp_path):
    """A folder with a test file: ``here("body of a test(kernel)")``."""

    def make(body, head=HEAD):
        (tmp_path / "test_it.py").write_text(
            f"{head}\n@explore(seeds=2, machine='dsa')\ndef test_it(kernel):\n"
            + "".join(f"    {line}\n" for line in body.splitlines())
        )
        return tmp_path

    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    return make


def soak(where, *args, test="test_it.py::test_it"):
    return subprocess.run([*SOAK, test, *args], cwd=where, capture_output=True, text=True, timeout=200)


def failing(state: Path):
    """The failing seeds of a state file, and how many there are in all."""
    rows = [json.loads(line) for line in state.read_text().splitlines()[1:]]
    assert len({row["seed"] for row in rows}) == len(rows)
    return {row["seed"] for row in rows if "why" in row}, len(rows)


def workers_of(pid):
    """The worker processes whose parent is *pid*."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except OSError:
            continue
    return found


def gone(pid):
    """It ended, or waits for nobody but init."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until(cond, seconds=30.0):
    end = time.monotonic() + seconds
    while not cond():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_same_seeds_fail_with_one_worker_with_two_and_on_a_cluster(tmp_path):
    """200 seeds of a planted race, one of which is found by replaying it with pytest."""
    distributed = pytest.importorskip("distributed")
    test = "test_planted.py::test_a_lost_update"
    found = {}
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        for name, *args in (("one", "-w1"), ("two", "-w2"), ("dask", "--dask", cluster.scheduler_address)):
            state = tmp_path / f"{name}.jsonl"
            done = soak(PLANTED, "-n200", f"--state={state}", *args, test=test)
            assert done.returncode == 1, done.stderr
            found[name], total = failing(state)
            assert total == 200
            assert re.search(rf"^200 of 200 seeds, {len(found[name])} failed, in ", done.stdout, re.M)
    assert found["one"] == found["two"] == found["dask"]
    assert 0 < len(found["one"]) < 200
    seed = min(found["one"])
    assert f"seed {seed}: AssertionError: assert '1\\n' == '2\\n'" in done.stdout
    assert f"    pytest {test} --kernel-seed={seed}\n" in done.stdout
    replay = [sys.executable, "-m", "pytest", "-q", "--runxfail", test, f"--kernel-seed={seed}"]
    assert subprocess.run(replay, cwd=PLANTED, capture_output=True).returncode == 1


def test_a_worker_elsewhere_gets_the_test_with_what_lies_beside_it(here, tmp_path):
    """On a Dask worker that has no such folder; what the test imports from beside it comes along."""
    distributed = pytest.importorskip("distributed")
    from pykernel.tools.soak.dask import run_chunk

    where = here("assert kernel.sched.seed != helper.BAD", HEAD + "import helper\n")
    (where / "helper.py").write_text("BAD = 3\n")
    (where / "conftest.py").write_text(f"import sys; sys.path.insert(0, __file__.rpartition('/')[0])\n")  # noqa: F541
    job = Job("test_it.py::test_it", cwd=str(where))
    files = luggage(job)
    assert set(files) == {"test_it.py", "helper.py", "conftest.py", "pytest.ini"}
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        elsewhere = replace(job, cwd="/nonexistent")
        found, why = client.submit(run_chunk, elsewhere, [1, 2, 3], files, "stop").result()
    assert (found, why) == ([(1, ""), (2, ""), (3, "assert 3 != 3")], "")


def test_a_worker_that_dies_or_hangs_costs_one_seed(here):
    """os._exit(), a crash, an endless loop, too many seconds: failing seeds; all others are run."""
    where = here(
        "seed = kernel.sched.seed\n"
        "if seed == 3: os._exit(4)\n"
        "if seed == 20: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "while seed == 21: pass\n"
        "assert seed != 30, 'plain'"
    )
    done = soak(where, "-n40", "-w2", "--timeout=2")
    assert done.returncode == 1
    for line in (
        "seed 3: the process ended: exit status 4",
        "seed 20: the process ended: signal SIGSEGV: Fatal Python error: Segmentation fault",
        "seed 21: no end after 2 s: it hangs",
        "seed 30: AssertionError: plain",
        "40 of 40 seeds, 4 failed, in ",
    ):
        assert line in done.stdout


def test_a_killed_campaign_goes_on_where_it_was(here):
    """kill -9 of the master: its workers end, each seed is run once in all, the same fail as in one go."""
    where = here("open(f'ran-{kernel.sched.seed}-{os.getpid()}', 'x').close()\nassert kernel.sched.seed % 7")
    state = where / ".pykernel-soak" / "test_it.py-test_it.jsonl"
    master = subprocess.Popen([*SOAK, "test_it.py::test_it", "-n", "400", "-w2"], cwd=where, stderr=subprocess.PIPE)
    wait_until(lambda: state.exists() and len(state.read_text().splitlines()) > 60)
    workers = workers_of(master.pid)
    assert len(workers) == 2
    master.kill()
    master.communicate()
    wait_until(lambda: all(map(gone, workers)))
    known = len(state.read_text().splitlines()) - 1
    assert known < 400
    done = soak(where, "-n400", "-w2")
    assert f"{known} of 400 seeds were done; --fresh runs them again" in done.stderr
    assert failing(state) == ({*range(0, 400, 7)}, 400)
    ran = [name.split("-")[1] for name in os.listdir(where) if name.startswith("ran-")]
    assert len(set(ran)) == 400
    assert len(ran) - 400 <= 2 * 64  # what was under way, or not yet written, when the master was killed
    assert "400 of 400 seeds, 58 failed" in done.stdout


def test_ctrl_c_ends_all_and_the_campaign_goes_on(here):
    where = here("assert kernel.sched.seed != 5")
    state = where / "s.jsonl"
    argv = [*SOAK, "test_it.py::test_it", "-n", "5000", "-w2", f"--state={state}"]
    master = subprocess.Popen(argv, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: state.exists() and len(state.read_text().splitlines()) > 40)
    workers = workers_of(master.pid)
    master.send_signal(signal.SIGINT)
    out, err = master.communicate(timeout=30)
    assert master.returncode == 130
    assert "seed 5: assert 5 != 5" in out
    assert re.search(r"^\d+ of 5000 seeds, 1 failed", out, re.M)
    assert "interrupted: the same command goes on" in err
    assert "Traceback" not in err
    assert len(workers) == 2
    assert all(map(gone, workers))


def test_a_change_of_the_test_starts_anew(here):
    where = here("pass")
    assert soak(where, "-n5").returncode == 0
    again = soak(where, "-n8")
    assert "5 of 8 seeds were done" in again.stderr
    assert "8 of 8 seeds, 0 failed" in again.stdout
    here("assert kernel.sched.seed != 2")
    changed = soak(where, "-n8")
    assert "other sources: starting anew" in changed.stderr
    assert "8 of 8 seeds, 1 failed" in changed.stdout
    assert changed.returncode == 1
    assert soak(where, "-n8", "-p", "linux-6.12").stderr.count("other options: starting anew") == 1
    assert soak(where, "-n8", "--fresh", "-p", "linux-6.12").stderr == ""


def test_a_state_file_that_was_cut_off_is_read_as_far_as_it_goes(here):
    where = here("pass")
    state = where / ".pykernel-soak" / "test_it.py-test_it.jsonl"
    assert soak(where, "-n5").returncode == 0
    state.write_text(state.read_text() + '{"seed": 5, "w')
    assert "5 of 6 seeds were done" in soak(where, "-n6").stderr
    state.write_text("something else\n")
    assert "it is no state of pykernel soak: starting anew" in soak(where, "-n6").stderr


def test_first_machine_and_options(here):
    """--first says where to begin; --machine is for a test without marks, and part of the replay."""
    where = here("assert kernel.sched.seed != 1001 or len(os.listdir('/sys/bus/pci/devices')) < 3")
    (where / "test_it.py").write_text((where / "test_it.py").read_text().replace(", machine='dsa'", ""))
    done = soak(where, "--first=1000", "-n3", "-m", "dsa")
    assert "3 of 3 seeds, 1 failed" in done.stdout
    assert "pytest test_it.py::test_it --kernel-machine=dsa --kernel-seed=1001" in done.stdout


@pytest.mark.parametrize(
    ("text", "test", "why"),
    [
        ("", "nothing.py::test_it", "no such test"),
        ("", "test_it.py::test_other", "no such test"),
        ("def test_plain(): pass", "test_it.py::test_plain", "test_plain does not explore: decorate it with"),
        ("def test_plain(): pass", "test_it.py", "2 tests where one is needed"),
        ("import nothing_of_that_name", "test_it.py::test_it", "No module named 'nothing_of_that_name'"),
        ("def test_x(", "test_it.py::test_it", "SyntaxError"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(here, text, test, why):
    where = here("pass", f"{HEAD}{text}\n")
    done = soak(where, "-n5", test=test)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"pykernel: {test}: ")
    assert why in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_cluster_or_the_package(here, tmp_path):
    where = here("pass")
    assert "no Dask scheduler at tcp://127.0.0.1:1" in soak(where, "-n5", "--dask", "tcp://127.0.0.1:1").stderr
    hide = "import sys; sys.modules['distributed'] = None; from pykernel.tools.cli import main; main()"
    argv = [sys.executable, "-c", hide, "soak", "test_it.py::test_it", "--dask", "tcp://127.0.0.1:1"]
    done = subprocess.run(argv, cwd=where, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "pykernel: --dask needs the package distributed: pip install 'pykernel-mock[dask]'\n",
    )


def test_a_terminal_has_a_bar(here):
    where = here("assert kernel.sched.seed != 2")
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*SOAK, "test_it.py::test_it", "-n", "30"], cwd=where, stdout=subprocess.PIPE, stderr=slave,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(slave)
    shown = b""
    try:
        while data := os.read(master, 4096):
            shown += data
    except OSError:
        pass  # the other side is closed
    os.close(master)
    process.communicate()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"30/30 +seeds, 1 failed, \d+/s", text)
