"""
The examples of README.md and docs/ run, and what they print is what the text says.

A python block is a program, one with a ``def test_`` is run by pytest. A toml or sh block that begins ``# NAME``
is that file. In a console block each ``$ COMMAND`` must print the lines below it, where a line ``...`` stands for any
lines and ``[...]`` for any text, and ``[N]`` at the end for an exit status that is not 0. The examples of a document
find its files in their directory.

A tutorial is followed from its beginning to its end in one directory: a python block that begins ``# NAME.py`` is
merged into that file as a reader would do it.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
TUTORIALS = [ROOT / "docs" / "tutorial.md"]
DOCUMENTS = [ROOT / "README.md", *sorted(set((ROOT / "docs").glob("*.md")) - set(TUTORIALS))]
LINKED = [*DOCUMENTS, *TUTORIALS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: Path) -> list[tuple[str, str, int]]:
    """Language, text and line of each fenced block."""
    text = document.read_text("utf-8")
    return [(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in BLOCK.finditer(text)]


def examples(kinds: set[str]) -> list:
    return [
        pytest.param(document, text, id=f"{document.name}:{line}")
        for document in DOCUMENTS
        for kind, text, line in blocks(document)
        if kind in kinds
    ]


@pytest.fixture
def place(request):
    """A directory, open to all users, with the files that the document of this example shows."""
    with tempfile.TemporaryDirectory(prefix="pykernel-docs-") as tmp:
        Path(tmp).chmod(0o755)
        for kind, text, _ in blocks(request.getfixturevalue("document")):
            name = re.match(r"# (\S+\.\w+)\n", text)
            if kind in ("toml", "sh") and name:
                Path(tmp, name[1]).write_text(text)
        yield Path(tmp)


@pytest.fixture
def fuse_or_fail():
    """The example runs programs: it needs /dev/fuse, and fails in CI without."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no /dev/fuse here")


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return dict(
        os.environ, PATH=path, COLUMNS="120", LC_ALL="C.UTF-8", PYTEST_ADDOPTS="-p no:asyncio -p no:cacheprovider"
    )


@pytest.mark.parametrize(("document", "text"), examples({"python"}))
def test_python(document, text, place, require_program):
    if "accel-config" in text:
        require_program("accel-config")
    file = place / "test_example.py"
    file.write_text(text)
    program = ["-m", "pytest", "-q", "-p", "no:cacheprovider"] if "def test_" in text else []

    done = subprocess.run(
        [sys.executable, *program, file], cwd=place, env=environment(), capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def pattern(lines: list[str]) -> str:
    parts = []
    for line in lines:
        parts.append(r"(?:.*\n)*" if line == "..." else re.escape(line).replace(r"\[\.\.\.\]", r".*") + r"\n")
    return "".join(parts)


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Each command with the lines that it should print."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


@pytest.mark.parametrize(("document", "text"), examples({"console"}))
def test_console(document, text, place, require_program, request):
    if "run" in text:
        request.getfixturevalue("fuse_or_fail")
    scripts = "".join(file.read_text() for file in place.glob("*.sh") if file.name in text)
    if "accel-config" in text + scripts:
        require_program("accel-config")
    check(text, place)


def check(text: str, place: Path, where: str = "") -> None:
    """Run the commands of a console block."""
    for command, expected in commands(text):
        done = subprocess.run(
            command, shell=True, cwd=place, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False,
        )  # fmt: skip
        status = f"[{done.returncode}]\n" if expected and re.fullmatch(r"\[\d+\]", expected[-1]) else ""
        assert re.fullmatch(pattern(expected), done.stdout + status), f"{where} {command}\n{done.stdout}{status}"


def merged(old: str, new: str) -> str:
    """*old* with what *new* defines: a definition takes the place of one with its name, imports go to the top."""

    def parts(text: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for node in ast.parse(text).body:
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
            source = "\n".join(text.splitlines()[first - 1 : node.end_lineno])
            kind = " import" if isinstance(node, ast.Import | ast.ImportFrom) else ""
            found[f"{kind}{getattr(node, 'name', source)}"] = source
        return found

    whole = parts(old) | parts(new)
    return "\n\n".join(sorted(whole.values(), key=lambda source: not source.startswith(("import ", "from "))))


def following(document: Path, place: Path) -> None:
    """Do what the tutorial says, block by block."""
    for kind, text, line in blocks(document):
        name = re.match(r"# (\S+\.\w+)\n", text)
        if name and kind == "python":
            file = place / name[1]
            file.write_text(merged(file.read_text() if file.exists() else "", text))
        elif name:
            (place / name[1]).write_text(text)
        elif kind == "console":
            check(text, place, f"{document.name}:{line}")


@pytest.mark.parametrize("document", TUTORIALS, ids=lambda d: d.stem)
def test_tutorial(document, tmp_path, require_program, fuse_or_fail):
    require_program("lspci")
    tmp_path.chmod(0o755)
    following(document, tmp_path)


@pytest.mark.parametrize("document", LINKED, ids=lambda d: d.name)
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text("utf-8"))

    assert [link for link in links if "://" not in link and not (document.parent / link).exists()] == []


def test_the_commands_of_the_documents_are_targets_of_make():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "".join(document.read_text("utf-8") for document in LINKED)
    named = set(re.findall(r"(?:`|    )make ([a-z]+)", text))

    assert {"demo", "test"} <= named
    assert named - targets == set()


def test_every_profile_of_the_readme_is_one():
    from pykernel.profile import PROFILES

    table = re.findall(r"^\| `(linux-[\d.]+)`[^|]*\| ([\d.]+) \|$", README, re.MULTILINE)

    assert table == [(name, row.release) for name, row in PROFILES.items()]


def test_the_operations_of_the_readme_are_those_that_the_silicon_runs():
    from pykernel.hw.dsa.execute import OPERATIONS
    from pykernel.uapi.linux.idxd import dsa_opcode

    names = [dsa_opcode(code).name.removeprefix("DSA_OPCODE_") for code in OPERATIONS]

    assert f"| DSA operations | {', '.join(names)}; " in README


def test_the_machines_of_the_readme_are_those_that_are_built_in():
    from pykernel.machine import built_in_names

    *first, last = (f"`{name}`" for name in built_in_names())
    assert f"Built in: {', '.join(first)} and {last}." in README
