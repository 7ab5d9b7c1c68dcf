"""What a parent and its types have in sysfs (drivers/vfio/mdev/mdev_sysfs.c)."""

from __future__ import annotations

import re
from contextlib import ExitStack
from errno import EINVAL, ENOMEM
from typing import TYPE_CHECKING

from pykernel.errors import err
from pykernel.fs.sysfs import AttrGroup, Kobject, Kset, raw

if TYPE_CHECKING:
    from pykernel.base.core import Device
    from pykernel.mdev.core import MdevParent

__all__ = ["UUID_STRING_LEN", "MdevType", "dev_driver_string", "guid_parse"]

UUID_STRING_LEN = 36
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def guid_parse(text: str) -> str:
    """The UUID that *text* begins with, in lower case. C: ``int guid_parse(const char *, guid_t *)``. Raises EINVAL."""
    m = UUID.match(text)
    if m is None:
        raise err(EINVAL, f"{text!r} is no UUID")
    return m[0].lower()


def dev_driver_string(dev: Device) -> str:
    """The name of its driver, bus or class. C: ``const char *dev_driver_string(const struct device *)``."""
    owner = dev.driver or dev.bus or dev.class_
    return owner.name if owner is not None else ""


class MdevType(Kobject):
    """
    ``struct mdev_type``: the directory ``mdev_supported_types/PREFIX-SYSFS_NAME`` of a parent.

    A vendor's subclass says what is particular to the type. One object is registered with one parent at a time.

    Attributes:
        mdev_parent: ``mdev_type.parent``, from its registration on.
        devices_kobj: the directory ``devices``.
    """

    attrs = AttrGroup("create", "device_api", "name", "available_instances", "description")

    mdev_parent: MdevParent
    devices_kobj: Kset

    def __init__(self, sysfs_name: str, pretty_name: str = "") -> None:
        self.sysfs_name = sysfs_name
        self.pretty_name = pretty_name

    def add_to(self, parent: MdevParent, kset: Kset) -> None:
        """C: ``int mdev_type_add(struct mdev_parent *, struct mdev_type *)``. Raises EEXIST; ENOMEM by faults."""
        dev = parent.dev
        super().__init__(dev.kernel, f"{dev_driver_string(dev)}-{self.sysfs_name}", None, kset)
        self.mdev_parent = parent
        self.devices_kobj = Kset(dev.kernel, "devices", self)
        dev.get()  # pairs with the put in release()
        try:
            dev.kernel.faults.alloc(f"kobject_init_and_add {self.name}")
            self.add()
            dev.kernel.faults.alloc("kobject_create_and_add devices")
            self.devices_kobj.add()
        except OSError:
            self.delete()
            self.put()
            raise

    def remove_from_parent(self) -> None:
        """C: ``void mdev_type_remove(struct mdev_type *)``."""
        self.devices_kobj.delete()
        self.delete()
        self.put()

    def release(self) -> None:
        """mdev_type_release()."""
        self.mdev_parent.dev.put()

    # ---- files

    def attr_is_visible(self, name: str) -> bool:
        """mdev_types_core_is_visible(): ``description`` is there when the driver writes one."""
        return name != "description" or self.mdev_parent.mdev_driver.has("show_description")

    def create_store(self, buf: str) -> None:
        """
        create_store(): 36 characters are a UUID; a 37th is not looked at.

        Raises:
            EINVAL: not so. ENOMEM: by fault injection. Else as mdev_device_create().
        """
        text = raw(buf)
        if not UUID_STRING_LEN <= len(text) <= UUID_STRING_LEN + 1:
            raise err(EINVAL, f"{len(text)} characters are no UUID")
        self.kernel.faults.alloc("kstrndup")
        self.mdev_parent.create(self, guid_parse(text))

    def device_api_show(self) -> str:
        """device_api_show()."""
        return f"{self.mdev_parent.mdev_driver.device_api}\n"

    def name_show(self) -> str:
        """name_show(): the pretty name if it has one."""
        return f"{self.pretty_name or self.sysfs_name}\n"

    def available_instances_show(self) -> str:
        """available_instances_show(): what the driver says, or what is left of its max_instances."""
        parent, driver = self.mdev_parent, self.mdev_parent.mdev_driver
        left = driver.get_available(self) if driver.has("get_available") else parent.available_instances
        return f"{left & 0xFFFFFFFF}\n"

    def description_show(self) -> str:
        """description_show()."""
        return self.mdev_parent.mdev_driver.show_description(self)


def parent_create_sysfs_files(parent: MdevParent) -> Kset:
    """
    C: ``int parent_create_sysfs_files(struct mdev_parent *)``.

    Raises:
        ENOMEM: there is such a directory already; by fault injection. EEXIST: two types have one name.
    """
    kernel = parent.dev.kernel
    kernel.faults.alloc("kset_create_and_add mdev_supported_types")
    kset = Kset(kernel, "mdev_supported_types", parent.dev)
    try:
        kset.add()
    except OSError as e:
        raise err(ENOMEM, str(e.strerror)) from e  # kset_create_and_add() says NULL whatever went wrong
    with ExitStack() as undo:
        undo.callback(kset.delete)
        for mtype in parent.types:
            mtype.add_to(parent, kset)
            undo.callback(mtype.remove_from_parent)
        undo.pop_all()
    return kset


def parent_remove_sysfs_files(parent: MdevParent, kset: Kset) -> None:
    """C: ``void parent_remove_sysfs_files(struct mdev_parent *)``."""
    for mtype in parent.types:
        mtype.remove_from_parent()
    kset.delete()
