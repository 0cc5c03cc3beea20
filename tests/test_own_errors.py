"""What a program's own class raises where the package asks it for a number passes through: no fast
path takes it for an answer.

How long: about two seconds.
"""

import pytest

import dist_dynet as dy


class OwnError(Exception):
    """Of no class that a conversion raises."""


ERRORS = [KeyboardInterrupt, OwnError, MemoryError, RuntimeError]


class Index:
    """An integer that raises the first time it is asked, as a signal's handler may."""

    def __init__(self, error):
        self.error = error

    def __index__(self):
        if self.error:
            error, self.error = self.error, None
            raise error
        return 1


@pytest.mark.parametrize("error", ERRORS)
def test_errors_of_indices_pass(error):
    x = dy.inputTensor([[1.0, 2.0], [3.0, 4.0]])
    row = dy.inputVector([1, 2, 3])
    table = dy.ParameterCollection().add_lookup_parameters((3, 2))
    size = dy.cg()
    uses = {
        "x[i]": lambda i: x[i],
        "x[i:]": lambda i: x[i:],
        "x[:i]": lambda i: x[:i],
        "x[0:2:i]": lambda i: x[0:2:i],
        "x[:, i:]": lambda i: x[:, i:],
        "x[0, i]": lambda i: x[0, i],
        "table[i]": lambda i: table[i],
        "lookup_batch": lambda i: dy.lookup_batch(table, [0, i]),
        "pick": lambda i: dy.pick(row, i),
        "pick_range": lambda i: dy.pick_range(row, 0, i),
        "pickneglogsoftmax": lambda i: dy.pickneglogsoftmax(row, i),
        "reshape": lambda i: dy.reshape(row, (3, i)),
        "zeros": lambda i: dy.zeros(i),
        "select_rows": lambda i: dy.select_rows(x, [i]),
        "strided_select": lambda i: dy.strided_select(x, [i], [0], [1]),
    }
    for name, use in uses.items():
        before = size.number, repr(size)
        with pytest.raises(error):
            use(Index(error))
        assert before == (size.number, repr(size)), name
        use(Index(None)).value()


def test_errors_of_conversion_have_messages_of_their_own():
    x = dy.inputVector([1, 2, 3])
    with pytest.raises(TypeError, match="slice: start must be an integer"):
        x["a":]
    with pytest.raises(ValueError, match="slice: the step must be positive"):
        x[::0]
    assert x[1.0:].value() == [2, 3]


RATES = [
    *((cls, "dropout_x") for cls in (dy.GRUBuilder, dy.SimpleRNNBuilder)),
    (dy.SimpleRNNBuilder, "dropout_h"),
    *((dy.VanillaLSTMBuilder, rate) for rate in ("dropout_x", "dropout_h")),
    *((dy.CompactVanillaLSTMBuilder, rate) for rate in ("dropout_x", "dropout_h")),
    *((dy.CoupledLSTMBuilder, rate) for rate in ("dropout_x", "dropout_h")),
]
USES = {
    "add_input": lambda state, x: state.add_input(x).output(),
    "add_inputs": lambda state, x: state.add_inputs([x, x])[-1].output(),
    "transduce": lambda state, x: state.transduce([x, x])[-1],
}


@pytest.fixture(params=["keyed", "dynet"])
def rng(request):
    dy.init(rng=request.param)
    yield
    dy.init(rng="keyed")


@pytest.mark.parametrize("error", [*ERRORS, AttributeError])
@pytest.mark.parametrize(("cls", "rate"), RATES)
@pytest.mark.usefixtures("rng")
def test_errors_of_rates_pass(cls, rate, error):
    class Scheduled(cls):
        """Asks its program for a rate of dropout."""

        error = None

        def get(self):
            if self.error:
                raised, self.error = self.error, None
                raise raised("of a program")
            return 0.0

    setattr(Scheduled, rate, property(Scheduled.get, lambda self, rate: None))
    builder = Scheduled(1, 2, 2, dy.ParameterCollection())
    for name, use in USES.items():
        x = dy.inputVector([1, 2])
        state = builder.initial_state()
        nodes = repr(dy.cg())
        builder.error = error
        with pytest.raises(error, match="of a program"):
            use(state, x)
        assert repr(dy.cg()) == nodes, name
        use(state, x).value()
