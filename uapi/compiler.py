"""A C compiler, and the headers that it is pointed at."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from pykernel.uapi import ctext
from pykernel.uapi.history import Version

__all__ = ["CheckError", "Compiler", "HeaderAbsent", "HeaderBroken"]

_PRELUDE = r"""
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <linux/ioctl.h>
{include}
#include <linux/types.h>
static void number(int i, unsigned long long n) {{ printf("%d %#llx\n", i, n); }}
static void dump(int i, const void *p, size_t n)
{{
    printf("%d 0x", i);
    for (size_t k = 0; k < n; k++) printf("%02x", ((const unsigned char *)p)[k]);
    puts("");
}}
"""


class CheckError(RuntimeError):
    """The check cannot be made: no C compiler, no such header, or nobody knows of which kernel the headers are."""


class HeaderAbsent(CheckError):
    """None of the headers is there."""


class HeaderBroken(CheckError):
    """The header itself does not compile."""

    def __init__(self, name: str, stderr: str) -> None:
        first = next(
            (line.partition("error: ")[2] for line in stderr.splitlines() if "error: " in line), stderr.strip()
        )
        super().__init__(f"{name} does not compile: {first}")


class Compiler:
    """
    *cc*, pointed at the headers in *headers_dir* (None: those that it finds by itself).

    What a header includes may come from elsewhere, the header itself may not. *empty* is a directory for headers that
    only a kernel tree has: there its ``include/uapi`` asks for them, installing takes that away.
    """

    def __init__(self, cc: str, headers_dir: Path | None, empty: Path | None = None) -> None:
        self.cc, self.headers_dir = cc, headers_dir
        # these annotations, too, stand only in a kernel tree's headers
        self.flags = ["-std=gnu11", "-D__force=", "-D__user=", "-Werror=implicit-function-declaration"]
        self.flags += [f"-I{headers_dir}"] if headers_dir else []
        if empty:
            (empty / "linux").mkdir()
            for name in ("compiler.h", "compiler_types.h"):
                (empty / "linux" / name).touch()
            self.flags += ["-idirafter", str(empty)]

    def include(self, names: tuple[str, ...]) -> str:
        """The line that includes the first of *names* that there is. Raises HeaderAbsent."""
        if self.headers_dir is None:
            lines = [f"#{'el' * (n > 0)}if __has_include(<{h}>)\n#include <{h}>" for n, h in enumerate(names)]
            return "\n".join([*lines, "#else", "#error no-header", "#endif"])
        for name in names:
            if (self.headers_dir / name).is_file():
                return f"#include <{name}>"
        raise HeaderAbsent(f"no header {' or '.join(names)} in {self.headers_dir}")

    def run(self, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run the compiler. Raises CheckError: there is none."""
        argv, env = [self.cc, *self.flags, *args], {**os.environ, "LC_ALL": "C"}
        try:
            # a header may have any bytes in its comments
            return subprocess.run(
                argv, input=stdin, capture_output=True, encoding="utf-8", errors="replace", env=env, check=False
            )
        except OSError as e:
            raise CheckError(f"no C compiler: {self.cc}: {e.strerror}") from None

    def version(self) -> tuple[Version, str]:
        """The kernel of the headers, and its name in full, from ``linux/version.h``. Raises CheckError: not there."""
        if self.headers_dir and not (self.headers_dir / "linux/version.h").is_file():
            raise CheckError(f"{self.headers_dir} has no linux/version.h: say of which kernel the headers are")
        done = self.run("-E", "-dM", "-", stdin="#include <linux/version.h>\n")
        found = re.search(r"#define LINUX_VERSION_CODE (\d+)", done.stdout)
        if not found:
            raise CheckError("there is no linux/version.h: say of which kernel the headers are")
        code = int(found[1])
        version = Version(code >> 16, code >> 8 & 0xFF)
        return version, f"{version}.{code & 0xFF}" if code & 0xFF else str(version)

    def text(self, names: tuple[str, ...]) -> str:
        """The header itself, preprocessed, with its own macro definitions; nothing of what it includes."""
        done = self.run("-E", "-dD", "-", stdin=self.include(names) + "\n")
        if "no-header" in done.stderr:
            raise HeaderAbsent(f"no header {' or '.join(names)}")
        if done.returncode:
            raise HeaderBroken(names[0], done.stderr)
        return ctext.own_text(done.stdout, names)

    def ask(self, names: tuple[str, ...], questions: Mapping[int, str], where: str) -> dict[int, str]:
        """
        What the statements in *questions* print, by their number; those that do not compile have no answer.

        Raises HeaderBroken.
        """
        left, program = dict(questions), f"{where}/facts"
        include = _PRELUDE.format(include=self.include(names))
        while True:
            done = self.run("-x", "c", "-o", program, "-", stdin=_source(include, left))
            if done.returncode == 0:
                output = _output(program)
                return {int(i): text for i, text in (line.split() for line in output.splitlines())}
            wrong = left.keys() & set(_wrong_functions(done.stderr))
            if not wrong:
                raise HeaderBroken(names[0], done.stderr)
            left = {i: c for i, c in left.items() if i not in wrong}


def _output(program: str) -> str:
    """What the program prints. Raises CheckError: it cannot be run here."""
    try:
        return subprocess.run([program], capture_output=True, text=True, check=True).stdout
    except PermissionError:
        where = Path(program).parent.parent
        raise CheckError(f"programs in {where} cannot be run (noexec?): set TMPDIR to another directory") from None
    except (OSError, subprocess.CalledProcessError) as e:
        raise CheckError(f"what the C compiler makes does not run here: {e}") from None


def _source(include: str, left: Mapping[int, str]) -> str:
    functions = [f'#line {i} "facts"\nstatic void f{i}(void) {{ {c} }}' for i, c in left.items()]
    calls = "".join(f" f{i}();" for i in left)
    return "\n".join([include, *functions, f"int main(void) {{{calls} return 0; }}\n"])


def _wrong_functions(stderr: str) -> Iterator[int]:
    """The numbers of the functions with errors, also where the error is told of the header that holds the macro."""
    function = -1
    for line in stderr.splitlines():
        if heading := re.search(r"In function .f(\d+)", line):
            function = int(heading[1])
        elif "error:" in line:
            here = re.match(r"facts:(\d+):", line)
            yield int(here[1]) if here else function
