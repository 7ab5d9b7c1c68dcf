"""Names and link texts that are long or not ASCII: each answer is the host kernel's and Python's."""

from __future__ import annotations

import os
from typing import Any

import pytest


def call(fn: Any, *args: Any) -> Any:
    try:
        return fn(*args)
    except OSError as e:
        return "errno", e.errno


@pytest.mark.parametrize("length", [0, 1, 255, 4094, 4095, 4096, 5000])
def test_the_text_of_a_link_is_shorter_than_path_max(twins, length):
    """fs/namei.c:getname(): the text is copied before anything else of the call is looked at."""

    def script(w: Any) -> Any:
        text = ("a/" * 2500)[:length]
        made = [call(w.symlink, text, name) for name in ("l", "l", "none/l", "")]
        return made, w.listdir("."), call(w.readlink, "l")

    twins.same(script)
