"""Runs a test suite in a pytest of its own, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

INI = "[pytest]\naddopts = --strict-markers --strict-config\nasyncio_default_fixture_loop_scope = function\n"


@dataclass(frozen=True)
class Case:
    """One test of the inner suite: "passed", "failed", "error", "skipped"; the texts of all that went wrong."""

    outcome: str
    text: str
    properties: dict[str, str]


@dataclass(frozen=True)
class Run:
    """A run of the inner suite: its tests by name, and its output."""

    cases: dict[str, Case]
    stdout: str
    returncode: int

    def outcomes(self) -> dict[str, str]:
        """By name."""
        return {name: case.outcome for name, case in self.cases.items()}


def run_suite(where: Path, text: str, *args: str, ini: str = "", env: dict[str, str] | None = None) -> Run:
    """Run a file test_it.py with *text*."""
    (where / "pytest.ini").write_text(INI + ini)
    (where / "test_it.py").write_text(textwrap.dedent(text))
    out = where / "junit.xml"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--timeout=60", f"--junitxml={out}", *args]
    done = subprocess.run(argv, cwd=where, env=clean | (env or {}), capture_output=True, text=True)
    cases: dict[str, Case] = {}
    for node in ET.parse(out).iter("testcase") if out.exists() else ():
        wrong = [n for n in node if n.tag in ("failure", "error", "skipped")]
        texts = "\n".join(f"{n.get('message')}\n{n.text}" for n in wrong)
        outcome = {"failure": "failed"}.get(wrong[0].tag, wrong[0].tag) if wrong else "passed"
        told = {str(n.get("name")): str(n.get("value")) for n in node.iter("property")}
        name = str(node.get("name"))
        if name in cases:  # it failed, and then its teardown
            outcome, texts = cases[name].outcome, f"{cases[name].text}\n{texts}"
        cases[name] = Case(outcome, texts, told)
    return Run(cases, done.stdout + done.stderr, done.returncode)
