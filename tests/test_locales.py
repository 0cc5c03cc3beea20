"""Programs that choose the user's locale: numbers with a comma, capital letters of other languages.

How long: ten seconds.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
from jobs import mpirun, needs_mpi
from processes import output_of

NUMBERS = """
import locale, sys
import dist_dynet as dy
locale.setlocale(locale.LC_ALL, "")
assert locale.localeconv()["decimal_point"] == ",", "the locale has no comma"
m = dy.ParameterCollection()
w = m.add_parameters((2, 2), init=1.5)
for use in (
    lambda: dy.dropout(dy.ones(1), 1.5),
    lambda: dy.noise(dy.ones(1), -0.5),
    lambda: dy.hinge(dy.ones(2), 0, -0.25),
    lambda: dy.huber_distance(dy.ones(1), dy.ones(1), -0.75),
):
    try:
        use()
    except ValueError as error:
        print(str(error).rpartition(" ")[2])
"""


@pytest.fixture(scope="module")
def locales(tmp_path_factory):
    """The folder for LOCPATH, with a German and a Turkish locale."""
    if not shutil.which("localedef") or not Path("/usr/share/i18n/locales/tr_TR").exists():
        pytest.skip("needs localedef and the sources of locales (Debian: locales)")
    folder = tmp_path_factory.mktemp("locales")
    for name in ("de_DE", "tr_TR"):
        command = [
            "localedef",
            "--quiet",
            "-c",
            "-i",
            name,
            "-f",
            "UTF-8",
            f"{folder}/{name}.UTF-8",
        ]
        subprocess.run(command, check=True, capture_output=True)
    return str(folder)


def test_messages_have_numbers_as_programs_write_them(locales):
    said = output_of(NUMBERS, LOCPATH=locales, LC_ALL="de_DE.UTF-8")
    assert said.split() == ["1.5.", "-0.5.", "-0.25.", "-0.75."]


@pytest.mark.mpi
@needs_mpi
def test_ranks_start_where_the_capital_of_i_has_a_dot(locales):
    """UCX, of MPICH's wheels, compares its words without regard to capitals, as the locale has
    them: it knows no "diag" there."""
    status, said, _ = mpirun(
        2, "environment.py", LOCPATH=locales, LC_ALL="tr_TR.UTF-8", PYTHONHASHSEED="0"
    )
    assert status == 0 and said.endswith("ok\n"), said
