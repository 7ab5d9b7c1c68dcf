"""The real mdevctl on the machine ``mdev``: what it prints, what it keeps, what it complains about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
OTHER = "11111111-2222-3333-4444-555555555555"
CAUSE = "\n\nCaused by:\n    "
PROFILES = ["linux-6.1", "linux-6.12"]


@pytest.fixture
def mdevctl(pykernel_run, script, require_program):
    """``mdevctl(profile, SCRIPT)``: a shell script with mdevctl in it; what it printed and its exit status."""
    require_program("mdevctl")

    def run(profile: str, text: str, persist: Path | str | None = None):
        args = () if persist is None else ("--persist", str(persist))
        return pykernel_run(profile, "sh", script(text), machine="mdev", args=args)

    return run


@pytest.mark.parametrize("profile", PROFILES)
def test_types(mdevctl, profile):
    """Parents and types, as the samples of Linux have them."""
    done = mdevctl(profile, "mdevctl types -p mtty && mdevctl types --dumpjson")
    text, _, dump = done.stdout.partition("\n\n")
    types = {
        name: row
        for (parent,) in [json.loads(dump)]
        for rows in parent.values()
        for t in rows
        for name, row in t.items()
    }

    assert done.returncode == 0, done.stderr
    assert text.splitlines() == [
        "mtty",
        "  mtty-1",
        "    Available instances: 24",
        "    Device API: vfio-pci",
        "    Name: Single port serial",
        "  mtty-2",
        "    Available instances: 12",
        "    Device API: vfio-pci",
        "    Name: Dual port serial",
    ]
    assert types["mtty-2"] == {"available_instances": 12, "device_api": "vfio-pci", "name": "Dual port serial"}
    assert types["mdpy-xga"]["description"] == "virtual display, 1024x768 framebuffer"


@pytest.mark.parametrize("profile", PROFILES)
def test_a_device_from_start_to_stop(mdevctl, profile):
    """start, list in its three forms, stop; the pool has what was given back."""
    done = mdevctl(
        profile,
        f"""set -e
        mdevctl start -u {UUID} -p mtty -t mtty-2
        mdevctl list; mdevctl list -v; lsmdev
        mdevctl list --dumpjson
        cat /sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/available_instances
        readlink /sys/bus/mdev/devices/{UUID}
        mdevctl stop -u {UUID}
        cat /sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/available_instances
        mdevctl list""",
    )
    lines = [line for line in done.stdout.splitlines() if line]
    dump = "\n".join(lines[3 : lines.index("]") + 1])
    rest = lines[lines.index("]") + 1 :]

    assert done.returncode == 0, done.stderr
    assert lines[:3] == [f"{UUID} mtty mtty-2 manual"] * 3
    assert json.loads(dump) == [{"mtty": [{UUID: {"mdev_type": "mtty-2", "start": "manual", "attrs": []}}]}]
    assert rest == ["22", f"../../../devices/virtual/mtty/mtty/{UUID}", "24"]


@pytest.mark.parametrize("profile", PROFILES)
def test_definitions(mdevctl, profile):
    """define of an active device, modify, list -d, undefine; a definition is enough to start."""
    done = mdevctl(
        profile,
        f"""set -e
        mdevctl start -u {UUID} -p mtty -t mtty-2
        mdevctl define -u {UUID}
        mdevctl list -d
        mdevctl modify -u {UUID} -a
        mdevctl list -d -v
        mdevctl stop -u {UUID}
        mdevctl list -d
        mdevctl start -u {UUID}
        mdevctl list
        mdevctl modify -u {UUID} --addattr vendor/sample_mdev_dev --value 1
        mdevctl list -d --dumpjson -u {UUID}
        mdevctl undefine -u {UUID}
        mdevctl list -d""",
    )
    lines = [line for line in done.stdout.splitlines() if line]
    row = json.loads("\n".join(lines[4:]))

    assert done.returncode == 0, done.stderr
    assert lines[:4] == [
        f"{UUID} mtty mtty-2 manual (active)",
        f"{UUID} mtty mtty-2 auto (active)",
        f"{UUID} mtty mtty-2 auto",
        f"{UUID} mtty mtty-2 auto (defined)",
    ]
    assert row == {"mdev_type": "mtty-2", "start": "auto", "attrs": [{"vendor/sample_mdev_dev": "1"}]}


def test_definitions_last_in_the_folder_that_persist_names(mdevctl, tmp_path):
    """Across two machines; without it, every machine begins without definitions, and the host has none of them."""
    persist = tmp_path / "definitions"
    first = mdevctl("linux-6.1", f"mdevctl define -u {UUID} -p mtty -t mtty-1 -a", persist)
    second = mdevctl("linux-6.1", "mdevctl list -d; mdevctl start-parent-mdevs mtty; mdevctl list", persist)
    fresh = mdevctl("linux-6.1", "mdevctl list -d")

    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert json.loads((persist / "mtty" / UUID).read_text())["start"] == "auto"
    assert second.stdout.split("\n") == [f"{UUID} mtty mtty-1 auto", "", f"{UUID} mtty mtty-1 auto (defined)", "", ""]
    assert fresh.stdout.strip() == ""
    assert not Path("/etc/mdevctl.d/mtty").exists()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "'': this is no name of a folder to put at /etc/mdevctl.d"),
        ("dangling", "{0}/dangling: a symbolic link to nowhere, which is not there"),
        ("dangling/", "{0}/dangling/: a symbolic link to nowhere, which is not there"),
        ("file", "{0}/file: Not a directory"),
    ],
)
def test_what_persist_cannot_name(mdevctl, tmp_path, name, sentence):
    """One sentence, and nothing is made: not where the link leads, nor in the working directory."""
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").touch()
    done = mdevctl("linux-6.1", "true", name and f"{tmp_path}/{name}")

    assert (done.returncode, done.stderr) == (125, f"pykernel: {sentence.format(tmp_path)}\n")
    assert not (tmp_path / "nowhere").exists()
    assert not Path("scripts.d").exists()


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (f"start -u {OTHER} -p nope -t mtty-1", "Error: Unable to find parent device 'nope'"),
        (f"start -u {OTHER} -p MTTY -t mtty-1", "Error: Unable to find parent device 'MTTY'. Did you mean 'mtty'?"),
        (f"start -u {OTHER} -p mtty -t mtty-9", "Error: Parent mtty does not support mdev type mtty-9"),
        (f"start -u {OTHER}", "Error: Device is insufficiently specified"),
        (f"start -u {UUID} -p mtty -t mtty-2", "Error: Device already exists"),
        (f"start -u {UUID} -p mtty -t mtty-1", "Error: Device exists with different type"),
        (f"stop -u {OTHER}", f"Error: Error removing device {OTHER}{CAUSE}No such file or directory (os error 2)"),
        (f"undefine -u {OTHER}", "Error: No devices match the specified uuid"),
        ("start -p mdpy -t mdpy-vga", "Error: No available instances of mdpy-vga on mdpy"),
    ],
    ids=lambda value: None if value.startswith("Error") else value,
)  # fmt: skip
def test_its_error_texts(mdevctl, command, error):
    """One device is active, and no display is left."""
    done = mdevctl(
        "linux-6.1",
        f"""mdevctl start -u {UUID} -p mtty -t mtty-2
        for n in 1 2 3 4; do mdevctl start -p mdpy -t mdpy-vga >/dev/null || exit 99; done
        mdevctl {command}""",
    )

    assert done.returncode == 1
    assert done.stderr.strip() == error


def test_what_a_driver_refuses_is_told_and_undone(mdevctl):
    """An attribute that cannot be written: the device that was made for it goes again."""
    done = mdevctl(
        "linux-6.1",
        f"""mdevctl define -u {UUID} -p mtty -t mtty-1
        mdevctl modify -u {UUID} --addattr vendor/sample_mdev_dev --value 1
        mdevctl start -u {UUID}; echo $?; mdevctl list""",
    )

    assert done.stdout.split() == ["1"]
    assert done.stderr.strip() == (
        f"Error: Failed to write 1 to attribute vendor/sample_mdev_dev{CAUSE}Permission denied (os error 13)"
    )


def test_no_ports_are_left(mdevctl):
    """24 cards of one port, then the tool says so, and the kernel too: ENOSPC."""
    done = mdevctl(
        "linux-6.1",
        f"""for n in $(seq 24); do mdevctl start -p mtty -t mtty-1 >/dev/null || exit 99; done
        mdevctl start -p mtty -t mtty-1
        env printf {UUID} > /sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/create""",
    )

    assert "Error: No available instances of mtty-1 on mtty\n" in done.stderr
    assert done.stderr.rstrip().endswith("No space left on device")
