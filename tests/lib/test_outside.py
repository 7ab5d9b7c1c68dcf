"""Classes from files that do not belong to pykernel; what is wrong with a file is one sentence with the line."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import get_type_hints

import pytest

from pykernel.lib.outside import entry_point, entry_point_names, is_path, load_class, load_file, resolve


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "mine.py") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    before = set(sys.modules)
    yield write
    for name in set(sys.modules) - before:
        if name.startswith("pykernel_file_"):
            del sys.modules[name]


def test_what_is_a_path():
    assert [is_path(n) for n in ("idxd", "./idxd.py", "idxd.py", "a/b", "pci-stub")] == [False, True, True, True, False]


def test_a_path_is_meant_beside_the_file_that_names_it():
    assert resolve("./d.py", "/etc/machines/m.toml") == "/etc/machines/d.py"
    assert resolve("/x/d.py", "/etc/machines/m.toml") == "/x/d.py"
    assert resolve("idxd", "/etc/machines/m.toml") == "idxd"


def test_an_edited_file_is_executed_anew_and_an_unchanged_one_is_not(write):
    first = load_file(write("x = object()"))
    assert load_file(write("x = object()")) is first
    assert load_file(write("x = 2")).x == 2


def test_a_file_that_the_program_imported_is_taken_as_it_is(write, monkeypatch, tmp_path):
    write("class A(Exception): pass", "imported_by_the_program.py")
    monkeypatch.syspath_prepend(tmp_path)
    imported = import_module("imported_by_the_program")
    path = str(tmp_path / "imported_by_the_program.py")
    assert load_class(path, Exception) is imported.A
    monkeypatch.delitem(sys.modules, "imported_by_the_program")


def test_annotations_of_the_file_can_be_looked_up(write):
    module = load_file(write("from __future__ import annotations\nclass T: x: C\nclass C: ..."))
    assert get_type_hints(module.T) == {"x": module.C}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\nclass A(:\n", r"mine\.py:2: invalid syntax"),
        ("x = 1\n\ny = x.z\n", r"mine\.py:3: AttributeError: 'int' object has no attribute 'z'"),
        ("import no_such_module_at_all", r"mine\.py:1: ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("x = 1", r"mine\.py: it must have one class that is a Exception; it has none"),
        ("class A(Exception): ...\nclass B(A): ...\nclass _C(A): ...", r"mine\.py: it must .*; it has A, B$"),
        ("from json import JSONDecodeError", r"it has none"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(write, text, said):
    with pytest.raises(ValueError, match=said):
        load_class(write(text), Exception)


def test_a_file_that_is_not_there():
    with pytest.raises(ValueError, match=r"^/no/such\.py: No such file or directory$"):
        load_file("/no/such.py")


def test_entry_points_of_installed_packages(tmp_path, monkeypatch):
    meta = tmp_path / "card-1.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: card\nVersion: 1\n")
    (meta / "entry_points.txt").write_text("[pykernel.test]\nnice = json:JSONDecodeError\n")
    monkeypatch.syspath_prepend(tmp_path)
    import json

    load = entry_point("pykernel.test", "nice")
    assert load is not None
    assert load() is json.JSONDecodeError
    assert entry_point("pykernel.test", "other") is None
    assert entry_point_names("pykernel.test") == ["nice"]
