"""Numbers that are taken before there is a file (fs/file.c)."""

from __future__ import annotations

import os
from errno import EBADF, EBUSY, EFAULT

import pytest
from errnos import errno_of

from pykernel.errors import err
from pykernel.fs.anon import AnonInode
from pykernel.fs.fdtable import FdTable
from pykernel.fs.vfs import File


@pytest.fixture
def table(kernel):
    table = FdTable()
    table.install(File(AnonInode(kernel, 0, "test"), os.O_RDWR))
    yield table
    table.exit()


def test_a_number_without_a_file_is_nobody_elses(table):
    """close() and fdget(): EBADF; dup2(): EBUSY (do_dup2()); a fork has it free (dup_fd())."""
    with table.unused_fd() as fd:
        assert fd == 1
        assert (errno_of(table.get, fd), errno_of(table.close, fd)) == (EBADF, EBADF)
        assert errno_of(table.dup2, 0, fd) == EBUSY
        assert table.install(table.get(0).get()) == 2
        child = table.fork()
        assert child.install(table.get(0).get()) == fd
        child.exit()
        table.fd_install(fd, table.get(0).get(), cloexec=True)
    assert table.get(1) is table.get(0)
    assert table.cloexec == {1}


def _fail(table: FdTable) -> None:
    with table.unused_fd():
        raise err(EFAULT)


def test_a_call_that_fails_leaves_the_number_free(table):
    assert errno_of(_fail, table) == EFAULT
    assert table.install(table.get(0).get()) == 1
