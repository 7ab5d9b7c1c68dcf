"""The system calls by kind; :mod:`pykernel.syscalls` puts them together."""
