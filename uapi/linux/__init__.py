"""``include/uapi/linux``: one module a header, names and values as in C."""
