"""The fast paths that there are, each with a use that takes it; run by test_fast_paths.py with and without them.

`python fast_paths.py` uses each of them and prints by name what came out, and by how much each counter of declined calls rose meanwhile.
A new fast path gets a row in USES: what there is is found in the extension and in the sources.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

import dist_dynet as dy
from dist_dynet._ffi import calls, declined

NOT_FAST_PATHS = {
    "bind": "is what the switch is given to",
    "call": "makes calls, once for each operation",
    "consecutive": "makes expressions of handles; there is no other way",
    "current": "which graph is the thread's",
    "declined": "reads the counters",
    "dropping": "gives steps the operations of their masks, once",
    "operator": "gives operators their operations, once",
    "set_current": "which graph is the thread's",
    "subscript": "gives subscripts their operations, once",
    "this_graph": "which graph is the thread's",
    "watch": "is for a search for NaN",
    "State.h": "reads what the state holds",
    "State.output": "reads what the state holds",
    "State.prev": "reads what the state holds",
    "State.s": "reads what the state holds",
    "Node.__pos__": "returns its argument",
}
"""Functions of the extension, each with the reason."""


def found():
    """The names of all fast paths: functions, methods and kinds of call of the extension, and those that Python's own ask for by name."""
    functions = [name for name in vars(calls) if callable(getattr(calls, name)) and not isinstance(getattr(calls, name), type)]
    methods = [f"{kind}.{name}" for kind in ("Node", "State", "Run") for name, f in vars(getattr(calls, kind)).items()
               if callable(f) and name != "__new__"]  # fmt: skip
    sources = "".join(path.read_text() for path in Path(dy.__file__).parent.rglob("*.py"))
    asked = re.findall(r'(?:declines|fast_path)\("(\w[\w ]*)"\)', sources)
    kinds = [f"kind {kind}" for kind in calls.KINDS]
    return {*functions, *methods, *kinds, *(f"python {name}" for name in asked), "lists of numbers"} - NOT_FAST_PATHS.keys()


class Use(NamedTuple):
    """counter: what counts that this path was declined."""

    counter: str
    run: object


def use(counter, run):
    return Use(counter if " " in counter or counter in PYTHON else f"_expression.{counter}", run)


PYTHON = {"cell_call", "cell_many", "tree_node", "update"}
dy.reset_random_seed(3)
m = dy.ParameterCollection()
W, V = m.add_parameters((2, 2)), m.add_parameters(2)
TABLE = m.add_lookup_parameters((4, 2))
LSTM, TREE = dy.VanillaLSTMBuilder(2, 2, 2, m), dy.BinaryTreeLSTMBuilder(2, 2, m)


def x(*numbers):
    return dy.inputVector(numbers or [0.5, -2.0])


def matrix():
    return dy.inputTensor([[0.5, 2.0, -1.0], [1.5, 0.25, 3.0]])


@dy.traced
def step(*xs):
    return dy.tanh(W * dy.esum(list(xs)))


def cell_of(n):
    for _ in range(2):  # the first one is traced
        y = step(*[x(k, 1) for k in range(n)])
    return y


def renewed():
    before = dy.cg_version()
    dy.renew_cg()
    return dy.cg_version() - before


def set_anew():
    vector = dy.inputVector([1, 2])
    vector.set([3, 4])
    return vector


def after_backward(read):
    y = W * x()
    dy.squared_norm(y).backward()
    return read(y)


def sequences():
    for _ in range(2):  # the second one goes by the first
        states = LSTM.initial_state().add_inputs([x(), x(1, 2)])
    return states[-1].output()


def states():
    return [s.output() for s in LSTM.initial_state().add_inputs([x(), x(1, 2)])]


def first_values():
    return dy.ParameterCollection().add_parameters((3, 2))


def in_one_call():
    """Between ranks: mpi/fast_paths.py."""


def children():
    return TREE.node(x(), [TREE.node(x(1, 2)), TREE.node(x(2, 3))]).output()


USES = {
    "all_whole": use("all_whole", lambda: dy.hinge_dim(x(), [1])),
    "set_input": use("input_set_numbers", set_anew),
    "quick_array": use("quick_value", lambda: x().npvalue()),
    "quick_backward": use("quick_backward", lambda: after_backward(lambda y: W.grad_as_array())),
    "quick_dim": use("node_dim", lambda: x().dim()),
    "quick_gradient": use("quick_gradient", lambda: after_backward(lambda y: y.gradient())),
    "quick_list": use("quick_value", lambda: x().vec_value()),
    "quick_node": use("node_many", lambda: dy.affine_transform([V, W, x()])),
    "quick_param": use("quick_param", lambda: [W.as_array().tolist(), TABLE.row_as_array(1).tolist()]),
    "quick_renew": use("renew", renewed),
    "quick_scalar": use("quick_value", lambda: dy.scalarInput(3).scalar_value()),
    "quick_value": use("quick_value", lambda: x().value()),
    "kind unary": use("node1", lambda: dy.tanh(x())),
    "kind binary": use("node2", lambda: dy.cmult(x(), x(1, 2))),
    "kind with_int": use("node_many", lambda: dy.softmax(x(), 0)),
    "kind at_index": use("node_many", lambda: dy.pick(x(), 1)),
    "kind with_reals": use("node1_real", lambda: dy.elu(x(), 0.5)),
    "kind with_ints": use("node_many", lambda: dy.reshape(x(), (1, 2))),
    "kind with_int_and_real": use("node_many", lambda: dy.hinge(x(), 1, 2.0)),
    "kind binary_with_real": use("node_many", lambda: dy.huber_distance(x(), x(1, 2), 0.5)),
    "kind strided": use("node_many", lambda: dy.strided_select(matrix(), [1, 2], [0, 0], [2, 3])),
    "kind of_list": use("node_many", lambda: dy.esum([x(), x(1, 2)])),
    "kind of_list_with_int": use("node_many", lambda: dy.concatenate([x(), x(1, 2)])),
    "kind outputs": use("node_parts", lambda: after_steps(LSTM)),
    "kind pairs": use("node_many", lambda: dy.BiRNNBuilder(1, 2, 2, dy.ParameterCollection(), dy.GRUBuilder).transduce([x()])[0].dim()),
    "kind scalar": use("input_scalar", lambda: dy.scalarInput(3)),
    "kind zeros": use("input_zeros", lambda: dy.vecInput(3)),
    "kind vector": use("input_numbers", lambda: dy.inputVector([1, 2])),
    "kind source": use("leaf", lambda: dy.zeros((2, 2))),
    "kind tensor": use("input_numbers", lambda: dy.inputTensor(np.eye(2))),
    "kind row": use("lookup", lambda: TABLE[2]),
    "kind rows": use("lookup_batch", lambda: dy.lookup_batch(TABLE, [2, 1])),
    "Node.__add__": use("operate", lambda: [(x() + x(1, 2)).value(), (x() + 2).value()]),
    "Node.__radd__": use("operate", lambda: 2 + x()),
    "Node.__sub__": use("operate", lambda: [(x() - x(1, 2)).value(), (x() - 2).value()]),
    "Node.__rsub__": use("operate", lambda: 2 - x()),
    "Node.__mul__": use("operate", lambda: [(W * x()).value(), (x() * 2).value()]),
    "Node.__rmul__": use("operate", lambda: 2 * x()),
    "Node.__matmul__": use("operate", lambda: W @ x()),
    "Node.__rmatmul__": use("operate", lambda: np.eye(2) @ x()),
    "Node.__truediv__": use("operate", lambda: [(x() / x(1, 2)).value(), (x() / 2).value()]),
    "Node.__rtruediv__": use("operate", lambda: 2 / x()),
    "Node.__pow__": use("operate", lambda: x(1, 2) ** 3),
    "Node.__rpow__": use("operate", lambda: refused(lambda: 3 ** x(1, 2))),
    "Node.__neg__": use("node1_real", lambda: -x()),
    "Node.__getitem__": use("node_many", lambda: [x()[1].value(), matrix()[0:2].value(), matrix()[-1].value()]),
    "State.add_input": use("node_parts", lambda: LSTM.initial_state().add_input(x()).output()),
    "State._quick_outputs": use("node_many", lambda: LSTM.initial_state().transduce([x(), x(1, 2)])),
    "State._quick_states": use("node_many", states),
    "Run.again": use("again", sequences),
    "lists of numbers": use("lists of numbers", lambda: dy.dropout_dim(dy.affine_transform((V, W, x())), 0, 0.0)),
    "python cell_call": use("cell_call", lambda: cell_of(2)),
    "python cell_many": use("cell_many", lambda: cell_of(5)),
    "python first values": use("first values", first_values),
    "python tree_node": use("tree_node", children),
    "python update": use("update", in_one_call),
}


def refused(call):
    try:
        return call()
    except TypeError as error:
        return str(error)


def after_steps(builder):
    """A step with a mask, which the state's own call leaves to step(), and that to the call of the layer's operation."""
    builder.set_dropouts(0.5, 0.5)
    try:
        state = builder.initial_state()
        builder.set_dropout_masks()
        return state.add_input(x()).output()
    finally:
        builder.disable_dropout()


def plain(result):
    """Numbers in lists."""
    if isinstance(result, dy.Expression):
        return plain([*result.dim(), result.npvalue()])
    if isinstance(result, dy.Parameters):
        return plain(result.as_array())
    if isinstance(result, list | tuple):
        return [plain(r) for r in result]
    return result.tolist() if isinstance(result, np.ndarray) else result


def main():
    said = {}
    for name, (_, run) in USES.items():
        dy.reset_random_seed(7)
        dy.renew_cg()
        before = declined()
        result = run()
        counts = declined() - before
        said[name] = [plain(result), dict(counts)]
    print(json.dumps(said))


if __name__ == "__main__":
    main()
