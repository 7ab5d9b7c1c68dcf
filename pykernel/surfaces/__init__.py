"""The ways in: how clients of the kernel reach its system calls."""
