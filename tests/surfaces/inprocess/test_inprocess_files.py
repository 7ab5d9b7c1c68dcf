"""open() and pathlib on emulated files: live, with sysfs' own rules."""

from __future__ import annotations

import glob
import io
import linecache
import os
import pathlib
import tokenize
from typing import Any

import pytest

pytestmark = pytest.mark.kernel(machine="dsa")


def test_reading(kernel, wq):
    with open(f"{wq}/type") as f:
        assert f.read() == "none\n"
        assert f.read() == ""
    with open(f"{wq}/type", "rb") as f:
        assert f.readline() == b"none\n"
    assert list(open(f"{wq}/uevent")) != []  # noqa: SIM115  the list's end closes it


def test_a_store_is_one_write(kernel, wq):
    with open(f"{wq}/priority", "w") as f:
        assert f.write("9") == 1
    with open(f"{wq}/priority") as f:
        assert f.read() == "9\n"


def test_an_error_of_the_driver_comes_when_the_buffer_is_flushed(kernel, wq):
    """As on Linux: write() only fills the buffer."""
    f = open(f"{wq}/priority", "w")  # noqa: SIM115
    f.write("99")
    with pytest.raises(OSError, match="Invalid argument"):
        f.close()
    assert f.closed


def test_seek_to_the_start_reads_anew(kernel, wq):
    with open(f"{wq}/priority") as reader:
        first = reader.read()
        pathlib.Path(f"{wq}/priority").write_text("5")
        assert reader.read() == ""
        reader.seek(0)
        assert (first, reader.read()) != ("5\n", first)


def test_unbuffered(kernel, wq):
    with open(f"{wq}/priority", "r+b", buffering=0) as f:
        assert f.write(b"3") == 1
        assert f.seek(0) == 0
        assert f.read(1) == b"3"
        assert f.tell() == 1
        assert f.readall() == b"\n"
        buffer = bytearray(4)
        f.seek(0)
        assert (f.readinto(buffer), bytes(buffer[:2])) == (2, b"3\n")
        assert (f.readable(), f.writable(), f.seekable(), f.isatty()) == (True, True, True, False)


@pytest.mark.parametrize("mode", ["q", "rw", "rr", "", "tb", "r++", "U", "bw+b"])
def test_a_bad_mode_is_refused_in_the_same_words(kernel, wq, tmp_path, mode):
    said = []
    for path in (f"{wq}/type", tmp_path / "real"):
        (tmp_path / "real").touch()
        with pytest.raises(ValueError, match=r"\w") as e:
            open(path, mode)  # noqa: SIM115
        said.append(str(e.value))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    "options",
    [{"mode": "rb", "encoding": "utf-8"}, {"mode": "r", "buffering": 0}, {"mode": "r", "closefd": False}],
)
def test_bad_options_are_refused_in_the_same_words(kernel, wq, tmp_path, options):
    (tmp_path / "real").touch()
    said = []
    for path in (f"{wq}/type", tmp_path / "real"):
        with pytest.raises(ValueError, match=r"\w") as e:
            open(path, **options)  # noqa: SIM115
        said.append(str(e.value))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("path", "mode", "error"),
    [
        ("/sys/nothing", "r", FileNotFoundError),
        ("/sys/bus", "r", IsADirectoryError),
        ("/sys/bus", "w", IsADirectoryError),
        ("/sys/bus/dsa/devices/wq0.0/state", "w", PermissionError),
        ("/sys/bus/dsa/devices/wq0.0/type", "x", FileExistsError),
        ("/sys/bus/dsa/new", "w", PermissionError),
        ("/sys/bus/dsa/drivers/idxd/bind", "r", PermissionError),
    ],
)
def test_errors_name_the_file(kernel, path, mode, error):
    with pytest.raises(error) as e:
        open(path, mode)  # noqa: SIM115
    assert e.value.filename == path


def test_the_wrong_direction_is_unsupported(kernel, wq):
    with open(f"{wq}/type") as f, pytest.raises(io.UnsupportedOperation):
        f.write("x")
    with open(f"{wq}/type", "wb", buffering=0) as f, pytest.raises(io.UnsupportedOperation):
        f.read()


def test_what_a_file_says_of_itself(kernel, wq):
    f: Any
    with open(f"{wq}/type") as f:
        assert (f.name, f.mode, f.buffer.raw.mode, f.closed) == (f"{wq}/type", "r", "rb", False)
        assert os.fstat(f.fileno()).st_ino == os.stat(f"{wq}/type").st_ino
    with pytest.raises(ValueError, match="closed"):
        f.buffer.raw.read()


def test_descriptor_as_file(kernel, wq):
    fd = os.open(f"{wq}/type", os.O_RDONLY)
    with open(fd, closefd=False) as f:
        assert f.read() == "none\n"
    with os.fdopen(fd) as f:
        f.seek(0)
        assert f.read() == "none\n"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_opener(kernel, wq):
    """The idiom of Python's documentation for open() relative to a directory."""
    directory = os.open(wq, os.O_RDONLY)
    with open("type", opener=lambda path, flags: os.open(path, flags, dir_fd=directory)) as f:
        assert f.read() == "none\n"
    os.close(directory)


def test_a_forgotten_file_warns_and_is_closed(kernel, wq):
    with pytest.warns(ResourceWarning, match="unclosed file"):
        open(f"{wq}/type")  # noqa: SIM115


def test_pathlib(kernel, wq):
    path = pathlib.Path(wq)
    assert (path / "type").read_text() == "none\n"
    assert (path / "type").read_bytes() == b"none\n"
    assert (path / "priority").write_text("4") == 1
    assert path.is_symlink()
    assert path.is_dir()
    assert not (path / "nothing").exists()
    assert path.resolve() == pathlib.Path("/sys/devices/pci0000:6a/0000:6a:01.0/dsa0/wq0.0")
    assert path.readlink().name == "wq0.0"
    assert path.stat().st_ino == path.resolve().stat().st_ino
    assert "type" in {p.name for p in path.iterdir()}
    assert sorted(p.name for p in pathlib.Path("/sys/bus/dsa/devices").glob("wq0.[01]")) == ["wq0.0", "wq0.1"]
    assert pathlib.Path("/sys/bus/dsa/drivers/idxd/bind") in set(pathlib.Path("/sys/bus/dsa").rglob("bind"))
    with (path / "type").open() as f:
        assert f.readline() == "none\n"
    with pytest.raises(PermissionError):
        (path / "new").mkdir()


def test_glob(kernel):
    assert sorted(glob.glob("/sys/bus/dsa/devices/dsa*")) == ["/sys/bus/dsa/devices/dsa0", "/sys/bus/dsa/devices/dsa2"]
    assert "/sys/bus/dsa/devices/wq0.0/state" in glob.glob("/sys/bus/dsa/devices/wq*/state")
    assert "/sys/kernel" in glob.glob("/sys/*")


def test_fake_files_below(kernel):
    """The rest of the file system can be pyfakefs'."""
    with kernel.patched(real_files=False) as patched:
        patched.fs.create_file("/etc/app.conf", contents="x")
        path = pathlib.Path("/sys/bus/dsa/devices/wq0.0")
        assert (path / "type").read_text() == "none\n"
        assert os.path.exists(path)
        assert path.exists()
        assert [p.name for p in path.glob("typ*")] == ["type"]
        assert open("/etc/app.conf").read() == "x"  # noqa: SIM115
        assert os.listdir("/etc") == ["app.conf"]
        assert os.path.isdir("/sys/bus/dsa/drivers")
        assert {"sys", "dev", "proc", "etc"} <= set(os.listdir("/"))
        assert {"sys", "dev", "proc", "etc"} <= set(next(os.walk("/"))[1])
        os.chdir("/sys/bus")
        assert open("../../etc/app.conf").read() == "x"  # noqa: SIM115
        assert pathlib.Path("../../etc/app.conf").read_text() == "x"
        os.chdir("../..")
        assert os.path.exists("etc/app.conf")
    assert not os.path.exists("/etc/app.conf")


@pytest.mark.parametrize("real_files", [True, False])
def test_what_python_itself_reads_with(kernel, wq, real_files):
    """Modules that took open() for themselves, and the open of code."""
    path = f"{wq}/state"
    with kernel.patched(real_files=real_files):
        with tokenize.open(path) as f:
            assert f.read() == "disabled\n"
        with io.open_code(path) as f:
            assert f.read() == b"disabled\n"
        assert linecache.getline(path, 1) == "disabled\n"
        linecache.clearcache()
        with pytest.raises(FileNotFoundError):
            io.open_code("/nothing/at/all")  # noqa: SIM115
        assert linecache.getline(tokenize.__file__, 1) != ""
