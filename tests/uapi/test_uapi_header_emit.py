"""Headers written from the tables: strict compilers take them, and they say again all that the tables say."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pykernel.uapi import catalog, cexpr, emit
from pykernel.uapi.check import compare, facts
from pykernel.uapi.history import AGELESS

MODULES = catalog.header_modules()
STRICT = ["-Wall", "-Wextra", "-pedantic-errors", "-Werror", "-fsyntax-only"]
LANGUAGES = {"cc": ["-std=c11", "-x", "c"], "c++": ["-std=c++17", "-x", "c++"]}


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("emitted")
    emit.write(where, MODULES)
    return where


def compile_with(program: str, where: Path, source: str) -> None:
    argv = [program, *LANGUAGES[Path(program).name], *STRICT, "-I", str(where), "-"]
    done = subprocess.run(argv, input=source, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("kernel_headers")
@pytest.mark.parametrize("language", LANGUAGES)
def test_strict_compilers_take_every_header_alone_twice_and_together(
    written: Path, require_program: Any, language: str
) -> None:
    program = require_program(language)
    every = sorted(str(path.relative_to(written)) for path in written.rglob("*.h"))
    assert len(every) == len(MODULES)
    for name in every:
        compile_with(program, written, f"#include <{name}>\n#include <{name}>\n")
    compile_with(program, written, "".join(f"#include <{name}>\n" for name in every if name.startswith("linux/")))


@pytest.mark.usefixtures("kernel_headers")
def test_written_headers_say_what_the_tables_say(written: Path, cc: str) -> None:
    """The way round: compared with its own header, no module differs, and every fact was compared."""
    reports = compare(written, MODULES, cc=cc, version=AGELESS)

    assert [str(d) for report in reports for d in report.differences] == []
    assert [report.agree for report in reports] == [len(facts(module)) for module in MODULES]


@pytest.fixture
def of_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """``of_source(text)`` is a header module read from a file, as real ones are."""

    def load(source: str) -> ModuleType:
        path = tmp_path / "made.py"
        path.write_text(source)
        spec = spec_from_file_location("made", path)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "made", module)
        spec.loader.exec_module(module)
        return module

    return load


SOURCE = '''\
"""``made.h``: a header of one's own."""

from enum import IntEnum
from typing import Annotated

from pykernel.uapi.ioctl import _IO, _IOR, _IOWR
from pykernel.uapi.struct import Bits, Struct, u8, u32

HEADERS = ("made.h",)
OMITTED = {"MADE_VOID": "has no value"}
NEWER = {"MADE_NEW": "6.5"}
OLDER = {"MADE_OLD": "5.1"}

# Plain numbers
MADE_DEC = 10
MADE_HEX = 0x0010
MADE_OCT = 0o17
MADE_BIG = 0x8000_0000
MADE_HUGE = 1 << 40
MADE_MINUS = -3
MADE_LOWEST = -(1 << 31)
MADE_LOWER = -(1 << 33)
MADE_SUM = MADE_HEX | 1 << 3
MADE_TOP = 1 << 31
MADE_NAME = "made"
MADE_NEW = 1
MADE_OLD = 2


class made_kind(IntEnum):
    """Kinds."""

    MADE_KIND_A = 1
    MADE_KIND_B = 0xFFFF_FFFF


def MADE_HIGH(x):
    """Bits 15:8."""
    return x >> 8 & 0xFF


def MADE_CHOOSE(x, y):
    low = x & 0xF
    if low == 3:
        return y * 2 % 8
    return (low + 1) // 2 if y > 4 and not low else ~y & 0xFF


class made_info(Struct):
    """``struct made_info``: what is told /* of it */."""

    size: u32 = 0
    new: u8 = 0
    width: Annotated[u8, Bits(3)] = 0


MADE_INFO = _IOR(ord(";"), 100 + 7, made_info)
MADE_QUOTE = _IO(ord("'"), 1)
MADE_RAW = _IOWR(0xAF, 0x12, "unsigned int")
'''


@pytest.fixture
def made(of_source: Callable[[str], ModuleType]) -> ModuleType:
    return of_source(SOURCE)


@pytest.mark.usefixtures("kernel_headers")
def test_every_kind_of_row_goes_to_c_and_back(made: ModuleType, tmp_path: Path, cc: str, require_program: Any) -> None:
    """Signs, sizes, keywords of C++, macros with statements: nothing is lost on the way."""
    emit.write(tmp_path, [made])

    (report,) = compare(tmp_path, [made], cc=cc, version=AGELESS)
    assert ([str(d) for d in report.differences], report.agree) == ([], len(facts(made)))
    for program in LANGUAGES:
        compile_with(require_program(program), tmp_path, "#include <made.h>\n")


def test_header_reads_like_one(made: ModuleType) -> None:
    """Guard, remarks, literals as in the source, ages, what is left out."""
    text = emit.header(made)
    assert text.startswith("/* made.h: a header of one's own. */\n")
    for line in (
        "#ifndef PYKERNEL_UAPI_MADE_H",
        "#include <linux/types.h>",
        "/* Plain numbers */\n#define MADE_DEC 10",
        "#define MADE_HEX 0x0010",
        "#define MADE_OCT 017",
        "#define MADE_SUM (MADE_HEX | (1 << 3))",
        "#define MADE_TOP 0x80000000U",
        '#define MADE_NAME "made"',
        "#define MADE_NEW 1 /* since Linux 6.5 */",
        "#define MADE_OLD 2 /* until Linux 5.1 */",
        "#define MADE_HIGH(x) (((x) >> 8) & 0xff)",
        "/* struct made_info: what is told / * of it * /. */\n__extension__ struct made_info {\n\t__u32 size;",
        "#ifdef __cplusplus\n\t__u8 new_;\n#else\n\t__u8 new;\n#endif\n\t__u8 width:3;\n};",
        "#define MADE_INFO _IOR(';', 100 + 7, struct made_info)",
        "#define MADE_QUOTE _IO('\\'', 1)",
        "#define MADE_RAW _IOWR(0xaf, 0x12, unsigned int)",
        "/* not here: MADE_VOID: has no value */",
    ):
        assert f"\n{line}\n" in text


@pytest.mark.parametrize(
    "body",
    ["return bytes(x)[0]", "for i in x: pass\n return 1", "return y", "x.a = 1\n return x", "return 1 < x < 3", "pass"],
)
def test_python_that_has_no_counterpart_is_refused(body: str) -> None:
    """Better no macro than another one."""
    source = f"def f(x):\n {body}"
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    with pytest.raises(cexpr.NotInC):
        cexpr.macro(function, source.splitlines(), cexpr.known({}))


def test_macro_without_a_c_form_is_a_remark(of_source: Callable[[str], ModuleType]) -> None:
    made = of_source("HEADERS = ('made.h',)\ndef MADE_LOOP(x):\n    while x: x >>= 1\n    return x\n")
    assert "/* not here: MADE_LOOP: it is more than an expression */" in emit.header(made)
