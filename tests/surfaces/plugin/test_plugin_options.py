"""Which kernel a test gets: marks, the closest first; several values; options; what is wrong is one sentence."""

from __future__ import annotations

import re

import pytest


def test_marks_and_their_order(suite):
    run = suite(
        """
        import pytest
        pytestmark = [pytest.mark.machine("dsa"), pytest.mark.profile("linux-6.12"), pytest.mark.seed(3)]

        def booted(kernel):
            return len(kernel.machine.pci), kernel.profile.name, kernel.sched.seed, kernel.sched.virtual

        def test_module(kernel, kernel_machine, kernel_profile, kernel_seed):
            assert booted(kernel) == (3, "linux-6.12", 3, True)
            assert (kernel_machine, kernel_profile, kernel_seed) == ("dsa", "linux-6.12", 3)

        @pytest.mark.profile("linux-7.2")
        class TestClass:
            def test_class(self, kernel):
                assert booted(kernel) == (3, "linux-7.2", 3, True)

            @pytest.mark.kernel(profile="linux-6.1", clock="monotonic", config=["-INTEL_IDXD_SVM"])
            def test_function(self, kernel):
                assert booted(kernel) == (3, "linux-6.1", 3, False)
                assert "INTEL_IDXD_SVM" not in kernel.profile.config

            @pytest.mark.seed(8)
            def test_two(self, kernel):
                assert booted(kernel) == (3, "linux-7.2", 8, True)

        @pytest.mark.kernel(uid=1000, gid=1001)
        def test_ids(kernel, kernel_process):
            import os
            assert (os.getuid(), os.getgid()) == (1000, 1001)
            assert (kernel_process.task.cred.uid, kernel_process.task.cred.gid) == (1000, 1001)

        def test_root(kernel_process):
            assert kernel_process.task.cred.uid == 0

        def test_two_fixtures_one_kernel(kernel_process, kernel):
            assert kernel_process.kernel is kernel
        """
    )
    assert set(run.outcomes().values()) == {"passed"}, run.stdout
    assert len(run.cases) == 7


def test_several_values_make_several_tests(suite):
    run = suite(
        """
        import pytest

        @pytest.mark.profile("linux-6.1", "linux-6.12")
        def test_profiles(kernel, kernel_profile):
            assert kernel.profile.name == kernel_profile

        @pytest.mark.seed(1, 2)
        @pytest.mark.machine("dsa", "full")
        @pytest.mark.usefixtures("kernel")
        def test_product(kernel_machine, kernel_seed, request):
            kernel = request.getfixturevalue("kernel")
            assert kernel.sched.seed == kernel_seed

        @pytest.mark.profile("linux-6.1", "linux-6.12")
        class TestClass:
            def test_all(self, kernel): ...

            @pytest.mark.profile("linux-7.2")
            def test_one(self, kernel):
                assert kernel.profile.name == "linux-7.2"

        @pytest.mark.parametrize("kernel_profile", ["linux-7.2"])
        def test_by_hand(kernel):
            assert kernel.profile.name == "linux-7.2"

        @pytest.mark.profile("any", "thing")
        def test_without_a_kernel(): ...
        """
    )
    assert run.outcomes() == dict.fromkeys(
        (
            "test_profiles[linux-6.1]",
            "test_profiles[linux-6.12]",
            *(f"test_product[{m}-{n}]" for m in ("dsa", "full") for n in (1, 2)),
            "test_all[linux-6.1]",
            "test_all[linux-6.12]",
            "test_one",
            "test_by_hand[linux-7.2]",
            "test_without_a_kernel",
        ),
        "passed",
    ), run.stdout


DEFAULTS = """
    import pytest

    def test_default(kernel):
        assert (len(kernel.machine.pci), kernel.profile.name, kernel.sched.seed) == EXPECTED

    @pytest.mark.kernel(machine="full", profile="linux-6.1", seed=0)
    def test_marked(kernel):
        assert (kernel.profile.name, kernel.sched.seed) == ("linux-6.1", 0)
"""


@pytest.mark.parametrize("how", ["ini", "options"])
def test_defaults(suite, how):
    """The configuration file, and the command line before it; a mark before both."""
    text = DEFAULTS.replace("EXPECTED", '(3, "linux-6.12", 7)')
    if how == "ini":
        run = suite(text, ini="kernel_profile = linux-6.12\nkernel_machine = dsa\nkernel_seed = 7\n")
    else:
        options = ("--kernel-profile=linux-6.12", "--kernel-machine", "dsa", "--kernel-seed=7")
        run = suite(text, *options, ini="kernel_profile = linux-7.2\n")
    assert run.outcomes() == {"test_default": "passed", "test_marked": "passed"}, run.stdout


def test_several_defaults(suite):
    """Every test that does not say which runs with each."""
    run = suite(
        """
        import pytest
        def test_default(kernel): ...
        @pytest.mark.profile("linux-7.2")
        def test_marked(kernel): ...
        """,
        "--kernel-profile=linux-6.1,linux-6.12",
    )
    assert set(run.cases) == {"test_default[linux-6.1]", "test_default[linux-6.12]", "test_marked"}


def test_a_machine_beside_the_test(suite, tmp_path):
    """A relative file that is not where pytest was started lies beside the test."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "empty.toml").write_text("[cpu]\nmovdir64b = false\n")
    (tmp_path / "sub" / "test_sub.py").write_text(
        "import pykernel, pytest\nfrom pathlib import Path\n"
        "def check(kernel):\n    assert not kernel.cpu.has('movdir64b')\n"
        "@pytest.mark.machine('empty.toml')\ndef test_str(kernel): check(kernel)\n"
        "@pytest.mark.machine(Path('empty.toml'))\ndef test_path(kernel): check(kernel)\n"
        "@pytest.mark.kernel(machine=Path(__file__).parent / 'empty.toml')\ndef test_whole(kernel): check(kernel)\n"
        "def test_boot(): check(pykernel.boot(Path(__file__).parent / 'empty.toml'))\n"
    )
    run = suite("", "sub")
    assert run.outcomes() == dict.fromkeys(("test_str", "test_path", "test_whole", "test_boot"), "passed")


WRONG = [
    ('profile("linux-6.99")', r"no profile 'linux-6.99'; known: linux-6.1, linux-6.12, linux-7.2"),
    ('machine("nothing.toml")', r".*nothing.toml.*"),
    ('machine("nothing")', r".*nothing.*"),
    ("profile()", r"pytest.mark.profile takes one value or several, as in profile\('linux-6.1'\)"),
    ("profile(6.1)", r"pytest.mark.profile takes values of type str, not 6.1"),
    ("seed('x')", r"pytest.mark.seed takes values of type int, not 'x'"),
    ("seed(True)", r"pytest.mark.seed takes values of type int, not True"),
    ("kernel(machin='dsa')", r"pytest.mark.kernel takes the keywords machine, profile, .*, not machin"),
    ("kernel('dsa')", r"pytest.mark.kernel takes the keywords machine, profile, .*, not 'dsa'"),
    ("kernel(clock='fast')", r"clock must be 'virtual' or 'monotonic', not 'fast'"),
    ("kernel(config=['NOTHING'])", r"no configuration option CONFIG_NOTHING; known: .*"),
    ("kernel(config='CONFIG_X=n')", r"no configuration option CONFIG_X=n; known: .*"),
    ("kernel(config=3)", r"config takes names of options, not 3"),
    ("kernel(machine=None)", r"machine takes a name, the path of a file or a Machine, not None"),
    ("kernel(modules=['os'])", r"modules takes modules that were imported, not \['os'\]"),
    ("kernel(seed='abc')", r"seed takes a number, not 'abc'"),
    ("kernel(uid='x')", r"uid takes a number or None, not 'x'"),
    ("kernel(gid=-1)", r"gid takes a number or None, not -1"),
    ("kernel(profile=6.1)", r"profile takes a name, not 6.1"),
    ("kernel(clock=None)", r"clock takes a name, not None"),
]


def test_what_is_wrong_is_a_sentence_with_its_place(suite):
    """File and line of the mark; nothing of our own code."""
    text = "import pytest\n"
    for n, (mark, _) in enumerate(WRONG):
        text += f"\n@pytest.mark.skipif(False, reason='')\n@pytest.mark.{mark}\ndef test_{n}(kernel): ...\n"
    lines = text.splitlines()
    run = suite(text)
    for n, (mark, sentence) in enumerate(WRONG):
        line = lines.index(f"@pytest.mark.{mark}") + 1
        found = run.cases[f"test_{n}"]
        assert found.outcome == "error", mark
        assert "Error" not in found.text
        assert re.search(rf"^\S*test_it\.py:{line}: {sentence}$", found.text, re.M), (mark, found.text)


def test_a_classes_and_a_modules_mark_have_places_too(suite):
    run = suite(
        """
        import pytest

        @pytest.mark.usefixtures()
        @pytest.mark.profile("nope")
        class TestIt:
            @pytest.mark.machine("dsa")
            def test_class(self, kernel): ...

        pytestmark = pytest.mark.machine("neither")
        def test_module(kernel): ...
        """
    )
    assert "test_it.py:5: no profile 'nope'" in run.cases["test_class"].text
    assert re.search(r"test_it.py:10: .*neither", run.cases["test_module"].text)


def test_a_wrong_option_is_told_at_once(suite):
    run = suite("def test_it(kernel): ...", "--kernel-seed=x")
    assert "--kernel-seed: 'x' is not a number" in run.stdout
    for option in ("--kernel-seed=x", "-okernel_seed=zz", "--kernel-machine=dsa,,full", "--kernel-profile=,"):
        run = suite("import pytest\n@pytest.mark.seed(3)\ndef test_it(kernel): ...", option)
        lines = [line for line in run.stdout.splitlines() if line]
        assert len(lines) == 1, run.stdout
        assert re.match(r"ERROR: (--|ini )kernel.(seed|machine|profile): ", lines[0])
        assert run.returncode == pytest.ExitCode.USAGE_ERROR
    run = suite("def test_it(kernel): ...", "--kernel-profile=x")
    assert "--kernel-profile: no profile 'x'" in run.stdout


def test_several_values_for_a_test_that_is_made_once(suite):
    run = suite(
        """
        import pytest, unittest

        @pytest.mark.profile("linux-6.1", "linux-6.12")
        @pytest.mark.usefixtures("kernel")
        class TestCase(unittest.TestCase):
            def test_case(self): ...

        @pytest.mark.profile("linux-6.1", "linux-6.12")
        def test_late(request):
            request.getfixturevalue("kernel")
        """
    )
    for name in ("test_case", "test_late"):
        assert "several values of profile need a test that names the fixture 'kernel'" in run.cases[name].text
