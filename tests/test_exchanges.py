"""Every exchange of table_exchanges.py adds up what NumPy adds up; the names are the same in code,
documents and messages.

How long: about eight seconds.
"""

from pathlib import Path
from typing import get_args

import pytest
from jobs import mpirun, needs_mpi
from table_exchanges import LAYOUTS

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet.parallel import trainer
from dist_dynet.parallel.exchange import engines
from dist_dynet.parallel.exchange.compression import CODES

ROOT = Path(__file__).parents[1]


def exchange_gaps(names):
    """Which of these names have no row in the table, and the other way round: a text that names the
    file to edit, or None."""
    said = [
        f"{name}: no row in tests/table_exchanges.py" for name in sorted({*names} - LAYOUTS.keys())
    ]
    unknown = sorted(LAYOUTS.keys() - {*names})
    where = "and is not in Engine of dist_dynet/parallel/exchange/engines.py"
    said += [f"{name}: has a row in tests/table_exchanges.py, {where}" for name in unknown]
    return "\n".join(said) or None


def test_table_has_every_exchange():
    assert not (gaps := exchange_gaps(engines.ENGINES)), gaps


def test_an_exchange_without_a_row_is_reported():
    assert exchange_gaps((*engines.ENGINES, "ring")) == "ring: no row in tests/table_exchanges.py"
    assert exchange_gaps(engines.ENGINES[1:]).startswith(f"{engines.ENGINES[0]}: has a row")


def test_messages_name_every_exchange(monkeypatch):
    monkeypatch.setenv("DIST_DYNET_EXCHANGE", "ring")
    with pytest.raises(ImportError, match="DIST_DYNET_EXCHANGE") as raised:
        parallel.DistributedTrainer(dy.SimpleSGDTrainer(dy.ParameterCollection()))
    missing = [name for name in engines.ENGINES if name not in str(raised.value)]
    assert not missing, f"the message about DIST_DYNET_EXCHANGE leaves out {missing}"


def test_document_names_every_exchange():
    text = (ROOT / "docs" / "parallel.md").read_text()
    missing = [name for name in engines.ENGINES if f'"{name}"' not in text]
    assert not missing, f"docs/parallel.md leaves out the exchanges {missing}"


def test_every_compression_is_typed_and_documented():
    file, names = "dist_dynet/parallel/exchange/engines.py", {*get_args(engines.Compression)}
    assert names == {*CODES}, f"{file}: Compression must name those of CODES, {[*CODES]}"
    text = (ROOT / "docs" / "parallel.md").read_text()
    missing = [name for name in CODES if f'compression="{name}"' not in text]
    assert not missing, f"docs/parallel.md leaves out the compressions {missing}"


@pytest.mark.parametrize("name", get_args(trainer.Average))
def test_averages_are_in_document_and_message(name):
    assert f'`"{name}"`' in (ROOT / "docs" / "parallel.md").read_text(), (
        f"docs/parallel.md leaves out average={name}"
    )
    with pytest.raises(ValueError, match=f"average must be .*{name}"):
        parallel.DistributedTrainer(dy.SimpleSGDTrainer(dy.ParameterCollection()), "median")


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize(
    ("engine", "layout"),
    [(engine, layout) for engine, layouts in LAYOUTS.items() for layout in layouts],
)
def test_exchange_adds_up_what_numpy_does(engine, layout):
    """In the double build with the first layout of each."""
    dtype = "float64" if layout == LAYOUTS[engine][0] else "float32"
    status, said, _ = mpirun(
        len(layout),
        *("as_hosts.py", layout, "exchanges.py", engine),
        DIST_DYNET_TRACEBACKS="full",
        DIST_DYNET_DTYPE=dtype,
    )
    assert (status, said) == (0, "ok\n"), said
