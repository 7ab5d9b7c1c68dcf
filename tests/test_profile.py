"""The table of kernels."""

from __future__ import annotations

import pytest

from pykernel.profile import PROFILES, get


def test_three_kernels() -> None:
    assert [(p.name, p.version) for p in PROFILES.values()] == [
        ("linux-6.1", (6, 1)),
        ("linux-6.12", (6, 12)),
        ("linux-7.2", (7, 2)),
    ]


def test_release_starts_with_the_version() -> None:
    for profile in PROFILES.values():
        assert profile.release.startswith("{}.{}.".format(*profile.version))


def test_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'linux-5.4'; known: linux-6.1, linux-6.12, linux-7.2"):
        get("linux-5.4")


def test_compat_is_not_configured_as_in_debian() -> None:
    assert not any("INTEL_IDXD_COMPAT" in profile.config for profile in PROFILES.values())
