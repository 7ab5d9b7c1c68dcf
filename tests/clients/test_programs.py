"""Programs of other kinds see the same tree: shells, a static busybox, a Go program; they say Linux's errors."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

SIZE = "/sys/bus/dsa/devices/wq0.0/size"

GO = """
package main

import (
	"fmt"
	"os"
)

func main() {
	entries, err := os.ReadDir("/sys/bus/dsa/devices")
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		fmt.Println(e.Name())
	}
	text, err := os.ReadFile("/sys/bus/dsa/devices/wq0.0/size")
	fmt.Printf("%q %v\\n", text, err)
	fmt.Println(os.WriteFile("/sys/bus/dsa/devices/wq0.0/size", []byte("99999\\n"), 0))
	info, err := os.Stat("/sys/bus/dsa/devices/wq0.0/size")
	fmt.Println(info.Size(), info.Mode(), err)
}
"""


@pytest.mark.parametrize(("shell", "words"), [("bash", "Invalid argument"), ("dash", "I/O error")])
def test_a_size_that_is_too_large_is_invalid_for_the_shell(pykernel_run: Run, shell: str, words: str) -> None:
    """echo 99999 to a size fails; bash tells the errno, dash's echo says "I/O error" to any."""
    done = pykernel_run("linux-6.1", shell, "-c", f"echo 99999 > {SIZE}")

    assert done.returncode != 0
    assert words in done.stderr


def test_nobody_may_not_write(pykernel_run: Run) -> None:
    """--as nobody: the shell says Permission denied."""
    done = pykernel_run("linux-6.1", "sh", "-c", f"echo 8 > {SIZE}", args=("--as", "nobody"))

    assert done.returncode != 0
    assert "Permission denied" in done.stderr


def test_static_busybox_sees_the_same_tree(pykernel_run: Run, require_program: Callable[[str], str]) -> None:
    """A static binary lists what a dynamic one lists."""
    busybox = require_program("busybox")

    static = pykernel_run("linux-6.1", busybox, "find", "/sys/bus", "/sys/class", "/dev/dsa")
    dynamic = pykernel_run("linux-6.1", "find", "/sys/bus", "/sys/class", "/dev/dsa")

    assert sorted(static.stdout.splitlines()) == sorted(dynamic.stdout.splitlines())
    assert "/sys/bus/dsa/devices/wq2.7" in static.stdout.splitlines()
    said = pykernel_run("linux-6.1", busybox, "sh", "-c", f"cat {SIZE}; echo 99999 > {SIZE}")
    assert said.stdout == "0\n"
    assert "Invalid argument" in said.stderr


def test_go_program_sees_the_same_tree(
    pykernel_run: Run, require_program: Callable[[str], str], tmp_path: Path
) -> None:
    """A Go binary, which makes its system calls itself, reads, fails and stats as others do."""
    go = require_program("go")
    (tmp_path / "main.go").write_text(GO)
    env = {
        **os.environ,
        "GOCACHE": str(tmp_path / "cache"),
        "GOFLAGS": "-mod=mod",
        "GO111MODULE": "off",
        "CGO_ENABLED": "0",
    }
    subprocess.run([go, "build", "-o", "see", "main.go"], cwd=tmp_path, env=env, check=True, timeout=300)

    done = pykernel_run("linux-6.1", str(tmp_path / "see"))

    lines = done.stdout.splitlines()
    listed = pykernel_run("linux-6.1", "ls", "/sys/bus/dsa/devices").stdout.split()
    assert sorted(lines[:-3]) == sorted(listed)
    assert lines[-3:] == [
        '"0\\n" <nil>',
        f"write {SIZE}: invalid argument",
        "4096 -rw-r--r-- <nil>",
    ]


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["no-such-program-at-all"], 127, "no-such-program-at-all"),
        (["/etc/passwd"], 126, "/etc/passwd"),
    ],
    ids=["missing program", "not executable"],
)
def test_a_program_that_cannot_run_is_one_sentence(pykernel_run: Run, argv: list[str], status: int, words: str) -> None:
    """As in a shell: 127 or 126, and a sentence that names it."""
    done = pykernel_run("linux-6.1", *argv)

    assert done.returncode == status
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
