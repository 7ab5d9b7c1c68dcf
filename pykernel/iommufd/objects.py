"""
The objects of an open ``/dev/iommu``: numbers, references, who may destroy what when (drivers/iommu/iommufd/main.c).

An object has two counts. ``users`` keeps it alive: its number, other objects, calls that are under way. ``shortterm``
counts only the latter, so that a driver that destroys its object can wait for them.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from errno import EBUSY, ENOENT
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pykernel.errors import Oops, err
from pykernel.lib.xarray import XaFlags, XaLimit, XArray
from pykernel.log import CRIT

if TYPE_CHECKING:
    from pykernel.fs.vfs import File
    from pykernel.iommufd.device import IommufdGroup
    from pykernel.iommufd.ioas import IommufdIoas
    from pykernel.kernel import Kernel

__all__ = ["ACCOUNT_MM", "ACCOUNT_NONE", "ACCOUNT_USER", "IommufdCtx", "IommufdObject"]

INT_MAX: Final = 0x7FFFFFFF
DESTROY_WAIT_NS: Final = 60_000_000_000

# drivers/iommu/iommufd/io_pagetable.h: who is charged for pinned pages
ACCOUNT_NONE: Final = 0
ACCOUNT_USER: Final = 1
ACCOUNT_MM: Final = 2


class IommufdObject:
    """``struct iommufd_object``: something with a number. It is found by it after :meth:`IommufdCtx.finalize`."""

    def __init__(self, ictx: IommufdCtx) -> None:
        # drivers/iommu/iommufd/main.c:_iommufd_object_alloc()
        self.ictx = ictx
        self.users = self.shortterm = 1
        self.id: int = ictx.objects.alloc(None, XaLimit(0, INT_MAX))

    def destroy(self) -> None:
        """``iommufd_object_ops.destroy``: nothing uses it any more."""

    def abort(self) -> None:
        """``iommufd_object_ops.abort``: it was made, but never found a user."""
        self.destroy()

    @contextmanager
    def held(self) -> Generator[None, None, None]:
        """iommufd_lock_obj() and iommufd_put_object(): a call works with it."""
        self.users += 1
        self.shortterm += 1
        try:
            yield
        finally:
            self.users -= 1
            self.shortterm -= 1
            if not self.shortterm:
                self.ictx.destroy_wait.wake_up()


T = TypeVar("T", bound=IommufdObject)


class IommufdCtx:
    """
    ``struct iommufd_ctx``: what one open of ``/dev/iommu`` has.

    Attributes:
        objects: by number, from 1 on; None is a number whose object is being made.
        groups: what is known of each IOMMU group, by the group's number.
        account_mode: who is charged for pinned pages.
        no_iommu_mode: a device without an IOMMU is attached by its VFIO group.
        vfio_ioas: the address space that the ioctls of VFIO's containers mean.
    """

    def __init__(self, kernel: Kernel, file: File) -> None:
        self.kernel, self.file = kernel, file
        self.objects: XArray[IommufdObject] = XArray(XaFlags.ALLOC1, faults=kernel.faults, where="iommufd")
        self.groups: dict[int, IommufdGroup] = {}
        self.account_mode = ACCOUNT_USER
        self.no_iommu_mode = False
        self.vfio_ioas: IommufdIoas | None = None
        self.destroy_wait = kernel.waitqueue()

    def get_ref(self) -> None:
        """C: ``void iommufd_ctx_get(struct iommufd_ctx *)``."""
        self.file.get()

    def put_ref(self) -> None:
        """C: ``void iommufd_ctx_put(struct iommufd_ctx *)``."""
        self.file.put()

    # ---- making

    def finalize(self, obj: IommufdObject) -> None:
        """C: ``void iommufd_object_finalize(struct iommufd_ctx *, struct iommufd_object *)``: others may find it."""
        self.objects.store(obj.id, obj)

    def abort(self, obj: IommufdObject) -> None:
        """C: ``void iommufd_object_abort(struct iommufd_ctx *, struct iommufd_object *)``: it never was."""
        self.objects.erase(obj.id)

    def abort_and_destroy(self, obj: IommufdObject) -> None:
        """C: ``void iommufd_object_abort_and_destroy(struct iommufd_ctx *, struct iommufd_object *)``."""
        obj.abort()
        self.abort(obj)

    # ---- finding

    def find(self, id: int, type: type[T]) -> T:
        """C: ``struct iommufd_object *iommufd_get_object(...)``, without the reference. Raises ENOENT."""
        obj = self.objects.load(id)
        if not isinstance(obj, type) or not obj.users or not obj.shortterm:
            raise err(ENOENT, f"object {id} is no {type.__name__}")
        return obj

    @contextmanager
    def get(self, id: int, type: type[T]) -> Generator[T, None, None]:
        """The object, with a reference while the body runs. Raises ENOENT: none of this type has the number."""
        obj = self.find(id, type)
        with obj.held():
            yield obj

    # ---- destroying

    def destroy(self, id: int) -> None:
        """IOMMU_DESTROY. Raises ENOENT; EBUSY: something uses it."""
        obj = self.objects.load(id)
        if obj is None:
            raise err(ENOENT, f"no object {id}")
        self._remove(obj)

    def put_and_try_destroy(self, obj: IommufdObject) -> None:
        """C: ``void iommufd_object_put_and_try_destroy(...)``: a reference less; without others it goes."""
        obj.users -= 1
        if obj.users == 1:
            self._remove(obj)

    def destroy_user(self, obj: IommufdObject) -> None:
        """
        C: ``void iommufd_object_destroy_user(...)``: the caller's reference is the last but the number's.

        Raises:
            Oops: something else uses it: the caller is wrong.
        """
        obj.shortterm -= 1
        if not self.destroy_wait.wait_event(lambda: obj.shortterm == 0, DESTROY_WAIT_NS):
            self.kernel.log.printk(CRIT, "iommufd: Time out waiting for iommufd object to become free")
            obj.shortterm += 1
            obj.users -= 1
            raise Oops(f"iommufd object {obj.id} is in use")
        obj.users -= 1
        if obj.users != 1:
            obj.shortterm = 1
            raise Oops(f"iommufd object {obj.id} has {obj.users - 1} more users")
        self._destroy(obj)

    def _remove(self, obj: IommufdObject) -> None:
        # drivers/iommu/iommufd/main.c:iommufd_object_remove()
        if obj.users != 1:
            raise err(EBUSY, f"object {obj.id} is in use")
        self._destroy(obj)

    def _destroy(self, obj: IommufdObject) -> None:
        obj.users = 0
        self.objects.erase(obj.id)
        if self.vfio_ioas is obj:
            self.vfio_ioas = None
        obj.destroy()

    def release(self) -> None:
        """The file is closed: what nothing uses goes, again and again. drivers/iommu/iommufd/main.c."""
        while not self.objects.empty():
            leaves: list[Any] = [obj for _, obj in self.objects.for_each() if obj.users == 1]
            if not leaves:
                raise Oops("iommufd: the references of objects are wrong")
            for obj in leaves:
                self._destroy(obj)
