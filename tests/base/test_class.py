"""Classes of devices."""

from __future__ import annotations

import pytest

from pykernel.base.class_ import Class
from pykernel.base.core import Device


def test_a_class_of_the_same_name_is_eexist(kernel):
    Class(kernel, "gadgets").register()
    with pytest.raises(FileExistsError):
        Class(kernel, "gadgets").register()


def test_coming_and_going_of_a_class_is_told(kernel, events):
    cls = Class(kernel, "gadgets")
    cls.register()
    cls.unregister()
    assert [(e["ACTION"], e["DEVPATH"], e["SUBSYSTEM"]) for e in events] == [
        ("add", "/class/gadgets", "class"),
        ("remove", "/class/gadgets", "class"),
    ]


def test_two_classes_below_one_parent_have_a_directory_each(kernel, make):
    parent = make("x.0")
    for name in ("left", "right"):
        cls = Class(kernel, name)
        cls.register()
        Device(kernel, "dev", parent=parent, class_=cls).register()
    p = kernel.process()
    assert [p.readlink(f"/sys/class/{n}/dev") for n in ("left", "right")] == [
        "../../devices/x.0/left/dev",
        "../../devices/x.0/right/dev",
    ]


def test_a_device_that_cannot_come_leaves_no_directory(kernel, make):
    cls = Class(kernel, "gadgets")
    cls.register()
    first, second = make("x.0"), make("y.0")
    Device(kernel, "dev", parent=first, class_=cls).register()
    with pytest.raises(FileExistsError):
        Device(kernel, "dev", parent=second, class_=cls).register()
    p = kernel.process()
    assert "gadgets" not in p.listdir("/sys/devices/y.0")
    assert p.readlink("/sys/class/gadgets/dev") == "../../devices/x.0/gadgets/dev"
