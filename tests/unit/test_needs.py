"""The tests' own rules: what is missing is said, and where all is required nothing is left out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import needs

REPOSITORY = Path(__file__).parents[2]
SUITE = """
import pytest
from tests.needs import need

def test_passes():
    pass

def test_wants_a_database():
    need("mongodb")

@pytest.mark.skip(reason="just so")
def test_skipped():
    pass
"""


class Suite:
    """A small suite of its own, run by another pytest with the project's conftest."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "test_small.py"
        self.file.write_text(SUITE)

    def run(self, *arguments: str, **environ: str) -> tuple[int, str]:
        command = (sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("TESP_")}
        ended = subprocess.run(
            (*command, "--rootdir", str(self.file.parent), "-c", os.devnull, *arguments, self.file),
            cwd=REPOSITORY,
            env={**inherited, "TESP_TEST_COMPONENTS": os.devnull, **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return ended.returncode, ended.stdout


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


def test_a_missing_component_is_listed_with_its_reason_and_number_of_tests(suite: Suite) -> None:
    status, output = suite.run()
    assert status == pytest.ExitCode.OK
    assert "mongodb: TESP_TEST_MONGODB_URI is not set (1 test skipped)" in output
    assert "just so" not in output


def test_where_all_is_required_a_missing_component_fails_its_test(suite: Suite) -> None:
    status, output = suite.run("-k", "database", TESP_TEST_REQUIRE="all")
    assert status == pytest.ExitCode.TESTS_FAILED
    assert "needs mongodb: TESP_TEST_MONGODB_URI is not set" in output


@pytest.mark.parametrize(
    ("arguments", "counts"),
    [
        (("--deselect", "test_small.py::test_wants_a_database"), "1 run, 1 skipped, 1 deselected"),
        (("-k", "passes"), "1 run, 0 skipped, 2 deselected"),
    ],
)
def test_where_all_is_required_anything_left_out_fails_the_run(
    suite: Suite, arguments: tuple[str, ...], counts: str
) -> None:
    status, output = suite.run(*arguments, TESP_TEST_REQUIRE="all")
    assert status == pytest.ExitCode.TESTS_FAILED
    assert f"required: {counts}" in output


def test_where_all_is_required_and_all_ran_the_run_succeeds(suite: Suite) -> None:
    suite.file.write_text("def test_passes(): pass\n")
    status, output = suite.run(TESP_TEST_REQUIRE="all")
    assert status == pytest.ExitCode.OK
    assert "required: 1 run, 0 skipped, 0 deselected" in output


def test_the_operators_settings_do_not_reach_the_tests_but_the_components_addresses_do(
    suite: Suite,
) -> None:
    suite.file.write_text(
        "import os\n"
        "def test_environment():\n"
        "    ours = {'TESP_SERVER__PORT', 'FASTAPI_PROFILE', 'CONTAINER_TYPE'}\n"
        "    assert not ours & set(os.environ)\n"
        "    assert os.environ['TESP_TEST_ARGS'] == '--a b'\n"
        "    assert os.environ['TESP_TEST_KEPT'] == 'mine'\n"
    )
    components = suite.file.with_name("components.env")
    components.write_text("TESP_TEST_ARGS='--a b'\nTESP_TEST_KEPT='theirs'\n")
    status, output = suite.run(
        TESP_TEST_COMPONENTS=str(components),
        TESP_TEST_KEPT="mine",
        TESP_SERVER__PORT="1",
        FASTAPI_PROFILE="x",
        CONTAINER_TYPE="host",
    )
    assert status == pytest.ExitCode.OK, output


def test_a_program_that_is_not_there_or_fails_is_named() -> None:
    assert needs._works("no-such-program") == "no-such-program is not installed"
    assert needs._works("false") == "`false` ended with 1"
    assert needs._works("sh", "-c", "echo one; echo two >&2; exit 3") == "two"
    assert needs._works("true") is None
