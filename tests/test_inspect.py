"""Reading: Tensor, values of lists, a graph's methods by index, dumps and drawings.

How long: about two seconds.
"""

import io
import re
import shutil
import stat

import numpy as np
import pytest
from processes import output_of

import dist_dynet as dy
from dist_dynet import inspection


def close(a, b, tolerance=1e-6):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# ---- Tensor ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 3), (2, 1, 3), (2, 3, 4, 2)])
@pytest.mark.parametrize("batch", [1, 3])
def test_as_numpy_is_npvalue(rng, shape, batch):
    a = rng.normal(size=(*shape, batch))
    e = dy.inputTensor(a, batched=True)
    t = e.tensor_value()
    np.testing.assert_array_equal(t.as_numpy(), e.npvalue())
    assert t.as_numpy().dtype == np.float64
    t.as_numpy()[:] = 0
    np.testing.assert_array_equal(t.as_numpy(), e.npvalue())


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("batch", [1, 3])
def test_largest_entries(rng, dim, batch):
    a = rng.permutation(2 * 5 * batch).reshape(2, 5, batch).astype(float)
    t = dy.inputTensor(a, batched=True).tensor_value()
    order = np.argsort(-a, axis=dim)
    squeezed = (lambda x: x[..., 0]) if batch == 1 else (lambda x: x)
    for num in range(1, a.shape[dim] + 1):
        expected = np.take(order, range(num), axis=dim)
        for indices in (t.argmax(dim, num), t.topk(dim, num)[1]):
            np.testing.assert_array_equal(indices.as_numpy(), squeezed(expected))
            assert indices.as_numpy().dtype == np.int64
        np.testing.assert_array_equal(
            t.topk(dim, num)[0].as_numpy(), squeezed(np.take_along_axis(a, expected, dim))
        )


def test_defaults_and_forms():
    t = dy.inputVector([1, 7, 3]).tensor_value()
    assert t.argmax().as_numpy().tolist() == [1]
    values, indices = t.topk()
    assert values.as_numpy().tolist() == [7] and indices.as_numpy().tolist() == [1]
    assert [str(x) for x in (t, values, indices, t.argmax(), t.categorical_sample_log_prob())] == [
        "<Dynet Tensor:float>",
        "<Dynet Tensor:float>",
        "<Dynet Tensor:int>",
        "<Dynet Tensor:int>",
        "<Dynet Tensor:int>",
    ]
    assert isinstance(t, dy.Tensor) and repr(t) == str(t)
    with pytest.raises(TypeError, match=r"^Tensor: cannot be made directly"):
        dy.Tensor()


def test_ties_infinities_and_nan():
    t = dy.inputVector([2, 5, 5, -np.inf, np.inf, np.nan]).tensor_value()
    assert t.argmax(num=6).as_numpy().tolist()[:4] == [4, 1, 2, 0]
    assert t.argmax().as_numpy().tolist() == [4]
    assert dy.inputVector([3, 3]).tensor_value().argmax().as_numpy().tolist() == [0]
    assert dy.inputVector([np.nan, 1]).tensor_value().argmax().as_numpy().tolist() == [1]


def test_recalculate():
    x = dy.random_normal(100)
    first = x.tensor_value().as_numpy()
    np.testing.assert_array_equal(x.tensor_value().as_numpy(), first)
    assert (x.tensor_value(recalculate=True).as_numpy() != first).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.argmax(2), r"^argmax: dim 2 is not a dim of \(2, 3\). Dims run from 0 to 1"),
        (lambda t: t.topk(-1), "^topk: dim -1 is not a dim"),
        (lambda t: t.topk(0, 3), "^topk: num must be at most 2, the size of dim 0; got 3"),
        (lambda t: t.argmax(0, 0), "^argmax: num must be positive; got 0"),
        (
            lambda t: t.categorical_sample_log_prob(2),
            "^categorical_sample_log_prob: dim 2 is not a dim",
        ),
        (
            lambda t: t.categorical_sample_log_prob(0, 0),
            "^categorical_sample_log_prob: num must be positive",
        ),
        (
            lambda t: dy.inputVector([-np.inf] * 2).tensor_value().categorical_sample_log_prob(),
            "^categorical_sample_log_prob: entries must be log",
        ),
        (
            lambda t: dy.inputVector([np.nan, 1]).tensor_value().categorical_sample_log_prob(),
            "^categorical_sample_log_prob: entries must be log",
        ),
        (
            lambda t: dy.zeros(0).tensor_value().categorical_sample_log_prob(),
            "^categorical_sample_log_prob: entries must be log",
        ),
        (lambda t: dy.zeros(0).tensor_value().argmax(), "^argmax: num must be at most 0"),
    ],
)
def test_tensor_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call(dy.zeros((2, 3)).tensor_value())


def test_samples_have_the_probabilities():
    p = np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]]).T
    with np.errstate(divide="ignore"):
        t = dy.inputTensor(np.log(p), batched=True).tensor_value()
    n = 20_000
    drawn = t.categorical_sample_log_prob(num=n).as_numpy()
    assert drawn.shape == (n, 2) and drawn.dtype == np.int64
    for b in range(2):
        shares = np.bincount(drawn[:, b], minlength=3) / n
        assert (np.abs(shares - p[:, b]) < 5 * np.sqrt(p[:, b] * (1 - p[:, b]) / n) + 1e-12).all()
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 5 / np.sqrt(n)
    assert abs(np.corrcoef(drawn[1:, 0], drawn[:-1, 0])[0, 1]) < 5 / np.sqrt(n)


def test_samples_along_another_dim():
    t = dy.inputTensor([[0, -1e9, -1e9], [-1e9, -1e9, 0]]).tensor_value()
    assert t.categorical_sample_log_prob(1).as_numpy().tolist() == [[0], [2]]
    assert t.categorical_sample_log_prob(1, num=2).as_numpy().tolist() == [[0, 0], [2, 2]]


def test_samples_repeat_with_the_seed_and_differ_from_draw_to_draw():
    t = dy.zeros(1000).tensor_value()

    def draw():
        return t.categorical_sample_log_prob(num=20).as_numpy().tolist()

    dy.reset_random_seed(3)
    first, second = draw(), draw()
    dy.renew_cg()
    third = draw()
    dy.reset_random_seed(3)
    dy.renew_cg()
    assert [draw(), draw(), draw()] == [first, second, third]
    assert first != second != third


@pytest.mark.parametrize("how", ["keyed", "dynet"])
def test_vectors_have_the_samples_and_places_of_a_matrix_of_one_column(how):
    """Vectors have a short way."""
    special = [[np.nan, 1], [-np.inf, 2], [-np.inf, -np.inf], [np.inf, 1, np.inf], [3, 3], [1]]
    drawn = [dy.log_softmax(dy.random_normal(20)).npvalue() for _ in range(20)]

    def read(make):
        dy.reset_random_seed(3)
        dy.renew_cg()
        for numbers in special + drawn:
            t = make(np.array(numbers)).tensor_value()
            for call in (t.argmax, t.categorical_sample_log_prob):
                try:
                    yield call().as_numpy().ravel().tolist()
                except ValueError as error:
                    yield str(error)

    dy.init(rng=how)
    try:
        vectors = list(read(dy.inputVector))
        assert vectors == list(read(lambda numbers: dy.inputTensor(numbers[:, None])))
        assert len({v[0] for v in vectors[-40:]}) > 3
    finally:
        dy.init(rng="keyed")


def test_sampling_leaves_the_draws_of_nodes_alone():
    def noise(sample):
        dy.reset_random_seed(3)
        dy.renew_cg()
        x = dy.random_normal(5)
        if sample:
            x.tensor_value().categorical_sample_log_prob(num=3)
        dy.renew_cg()
        return dy.random_normal(5).value(), dy.ParameterCollection().add_parameters(
            3
        ).as_array().tolist()

    assert noise(False) == noise(True)


def test_forward_of_a_list_computes_all_of_it_and_refuses_what_is_stale():
    m = dy.ParameterCollection()
    w, table = m.add_parameters(2, init=1), m.add_lookup_parameters((3, 2), init=1)
    dy.renew_cg()
    xs = [w + 1, dy.inputVector([1, 2]), w * 3, w + 4]
    dy.forward([xs[3], w, xs[0], table, xs[2]])
    assert dy.values([w, *xs, w]) == [[1, 1], [2, 2], [1, 2], [3, 3], [5, 5], [1, 1]]
    dy.forward([w, table])
    with pytest.raises(ValueError, match="stands for nothing"):
        dy.forward([xs[0], dy.Expression()])
    with pytest.raises(TypeError, match="takes a list of expressions; got int"):
        dy.forward([xs[0], 1])
    dy.renew_cg()
    for given in (xs, [*xs, w + 1], [w + 1, *xs], [w, *xs]):
        with pytest.raises(RuntimeError, match="renew_cg"):
            dy.forward(given)


# ---- lists -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", [list, tuple, iter, lambda xs: (x for x in xs)])
def test_values_of_any_iterable(form):
    w = dy.ParameterCollection().add_parameters(2, init=3)
    xs = [dy.scalarInput(1), w, dy.inputTensor([[1, 2]]), w * 2]
    values = dy.values(form(xs))
    assert values[:2] == [1, [3, 3]] and values[3] == [6, 6]
    assert [a.tolist() for a in dy.npvalues(form(xs))] == [[1], [3, 3], [[1, 2]], [6, 6]]
    assert dy.forward(form(xs)) is None
    assert dy.values(form([])) == dy.npvalues(form([])) == []


def test_values_recalculated():
    x = dy.random_normal(50)
    before = dy.npvalues((x, x))
    after = dy.npvalues((x, x), recalculate=True)
    assert (
        (before[0] == before[1]).all()
        and (after[0] == after[1]).all()
        and (before[0] != after[0]).any()
    )


# ---- a graph's methods by index --------------------------------------------------------


def test_graph_methods_by_index():
    graph = dy.cg()
    w = dy.ParameterCollection().add_parameters(2, init=3)
    y = w * 2
    s = dy.sum_elems(y)
    assert graph.forward(y.index()) is None and graph.inc_forward(s.index()) is None
    assert graph.inc_forward_vec(y.index()) == [6, 6] and graph.inc_forward_scalar(s.index()) == 12
    w.set_value([1, 2])
    assert graph.inc_forward_vec(y.index()) == [6, 6]
    assert graph.forward_vec(y.index()) == [2, 4]
    w.set_value([1, 1])
    assert graph.forward_scalar(s.index()) == 4
    assert graph.backward(s.index()) is None
    assert w.grad_as_array().tolist() == [2, 2]
    graph.backward(s.index(), True)
    assert w.grad_as_array().tolist() == [4, 4]
    with pytest.raises(ValueError, match="node 99: this graph has 3 nodes"):
        graph.forward(99)
    with pytest.raises(ValueError, match="scalar_value"):
        graph.forward_scalar(y.index())


def test_literals_of_a_graph():
    graph = dy.cg()
    assert graph.inputMatrixLiteral([1, 2, 3, 4, 5, 6], (2, 3)).npvalue().tolist() == [
        [1, 3, 5],
        [2, 4, 6],
    ]
    assert graph.inputMatrixLiteral(range(4), 2, 2).npvalue().tolist() == [[0, 2], [1, 3]]
    assert graph.inputSparseTensor([0, 3], [7, 8], (2, 3)).npvalue().tolist() == [
        [7, 0, 0],
        [0, 8, 0],
    ]
    assert graph.inputSparseTensor([0, 3], (7, 8), 2, 2, defval=1).npvalue().tolist() == [
        [7, 1],
        [1, 8],
    ]
    with pytest.raises(ValueError, match="takes one index per number; got 1 indices and 2 numbers"):
        graph.inputSparseTensor([0], [1, 2], 3)
    for i in (-1, 3):
        with pytest.raises(ValueError, match=f"index {i} is outside of"):
            graph.inputSparseTensor([i], [1], 3)


# ---- DOT -------------------------------------------------------------------------------


@pytest.fixture
def drawn():
    m = dy.ParameterCollection()
    W, E = (
        m.add_parameters((2, 3), init=1, name="W"),
        m.add_lookup_parameters((5, 2), init=1, name="E"),
    )
    y = dy.tanh(W * dy.inputVector([1, 5, 3]))
    unused = dy.inputVector([1])
    f = dy.function(lambda x: x, lambda xs, y, d: [d], lambda d: d, name="mine")
    z = f(dy.concatenate([y, dy.lookup_batch(E, [1, 0]), dy.pick_range(y, 0, 1)]))
    return m, unused, dy.sum_batches(dy.sum_elems(z))


NODES = [
    r"v\d+ = parameter\(/W\)",
    r"v\d+ = input\(\)",
    r"v\d+ = matmul\(v\d+, v\d+\)",
    r"v\d+ = tanh\(v\d+\)",
    r"v\d+ = lookup_batch\(/E\[1, 0\]\)",
    r"v\d+ = function\(v\d+, mine\)",
    r"v\d+ = sum_batches\(v\d+\)",
]


def check_dot(text):
    """It is DOT as far as a few rules tell."""
    lines = text.splitlines()
    assert lines[0] == "digraph G {" and lines[-1] == "}" and text.endswith("}\n")
    declared = set()
    for line in lines[1:-1]:
        declaration = re.fullmatch(r'  (N\d+) \[label="(?:[^"\\]|\\.)*", shape=\w+\];', line)
        edge = re.fullmatch(r"  (N\d+) -> (N\d+);", line)
        assert declaration or edge or line in ("  rankdir=LR;", "  nodesep=.05;"), line
        if declaration:
            declared.add(declaration[1])
        if edge:
            assert set(edge.groups()) <= declared
    return declared


def test_text_graphviz_on_stderr(drawn, capsys):
    dy.print_text_graphviz()
    out, err = capsys.readouterr()
    assert out == "" and len(check_dot(err)) == len(dy.cg())
    for pattern in NODES:
        assert len(re.findall(rf'label="{pattern}\\n', err)) >= 1, pattern
    for other in (dy.print_graphviz, dy.cg().print_graphviz):
        other()
        assert capsys.readouterr().err == err


def test_graphviz_options(drawn, capsys):
    *_, loss = drawn
    dy.print_graphviz(
        compact=True,
        show_dims=False,
        expression_names={loss: 'the "loss"'},
        lookup_names={},
        collapse_birnns=True,
    )
    err = capsys.readouterr().err
    check_dot(err)
    assert r"the \"loss\" = sum_batches(" in err and r"\n(" not in err


def test_draw_graph_writes_dot_files(drawn, tmp_path):
    _, unused, loss = drawn
    for name in ("g.dot", "g.gv"):
        dy.draw_graph(tmp_path / name)
        assert len(check_dot((tmp_path / name).read_text())) == len(dy.cg())
    dy.draw_graph(str(tmp_path / "g.dot"), loss)
    declared = check_dot((tmp_path / "g.dot").read_text())
    assert (
        f"N{loss.index()}" in declared
        and f"N{unused.index()}" not in declared
        and len(declared) == len(dy.cg()) - 1
    )
    with pytest.raises(
        ValueError,
        match=r"^draw_graph: the file name must end in .dot, .gv, .svg, .png or .pdf; got 'g.txt'",
    ):
        dy.draw_graph(tmp_path / "g.txt")


def test_bad_arguments_of_draw_graph(drawn, tmp_path):
    for call in (
        lambda: dy.draw_graph(tmp_path / "g.dot", 3),
        lambda: dy.print_graphviz(expression_names=[1]),
    ):
        with pytest.raises(TypeError, match=r"got int|got list"):
            call()


def test_pictures_need_the_program_dot(drawn, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        RuntimeError,
        match=r"^draw_graph: a .svg file needs Graphviz's program `dot`, which is not installed",
    ):
        dy.draw_graph(tmp_path / "g.svg")
    program = tmp_path / "dot"
    program.write_text('#!/bin/sh\necho "drawn with $1"\n/bin/cat\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    for form in ("svg", "png", "pdf"):
        dy.draw_graph(tmp_path / f"g.{form}")
        first, rest = (tmp_path / f"g.{form}").read_text().split("\n", 1)
        assert first == f"drawn with -T{form}"
        check_dot(rest)
    program.write_text("#!/bin/sh\necho no fonts >&2\nexit 1\n")
    with pytest.raises(RuntimeError, match=r"^draw_graph: dot failed: no fonts"):
        dy.draw_graph(tmp_path / "g.svg")


def test_a_real_dot_draws_it(drawn, tmp_path):
    if shutil.which("dot") is None:
        pytest.skip("Graphviz's program dot is not installed")
    dy.draw_graph(tmp_path / "g.svg")
    assert "<svg" in (tmp_path / "g.svg").read_text()


def test_a_long_chain_is_drawn():
    x = dy.scalarInput(1)
    for _ in range(20_000):
        x = x + 1
    out = io.StringIO(inspection.dot(x))
    assert sum(1 for _ in out) > 40_000


# ---- dumps -----------------------------------------------------------------------------


def test_dump_has_all_nodes_with_values_and_gradients(drawn, tmp_path, capsys):
    *_, loss = drawn
    loss.backward()
    dy.dump_cg()
    text = capsys.readouterr().out
    sections = re.split(r"^(?=Node \d+: )", text, flags=re.M)[1:]
    assert len(sections) == len(dy.cg()) == loss.index() + 1
    for pattern in NODES:
        assert re.search(rf"^Node \d+: {pattern}, \(", text, re.M), pattern
    assert all("\nValue:\n" in s and "\nGradient:\n" in s for s in sections)
    assert float(sections[-1].split("Value:\n")[1].split()[0]) == pytest.approx(
        loss.value(), rel=1e-5
    )
    assert float(sections[-1].split("Gradient:\n")[1]) == 1
    for write in (dy.dump_cg, dy.cg().dump):
        write(tmp_path / "dump.txt")
        assert (tmp_path / "dump.txt").read_text() == text
        write(str(tmp_path / "dump.txt"), False, True)
        assert "Value" not in (tmp_path / "dump.txt").read_text()
        write(str(tmp_path / "dump.txt"), True, False)
        assert "Gradient" not in (tmp_path / "dump.txt").read_text()


def test_dump_shows_every_number(rng, tmp_path):
    a = rng.normal(size=(2, 3, 2, 2))
    dy.inputTensor(a, batched=True)
    dy.inputTensor(a[:, :, 0, 0])
    dy.inputTensor(a[:, 0, 0], batched=True)
    dy.dump_cg(tmp_path / "dump.txt", show_gradients=False)
    for section, array in zip(
        (tmp_path / "dump.txt").read_text().split("Node")[1:],
        (a, a[:, :, 0, 0], a[:, 0, 0]),
        strict=True,
    ):
        shown = [float(x) for x in section.split("Value:\n")[1].split()]
        close(sorted(shown), sorted(array.ravel()), 1e-5)
    assert "\n\n" in (tmp_path / "dump.txt").read_text()


def test_dump_of_nan(tmp_path, capsys):
    x = dy.inputVector([1, 0])
    dy.sum_elems(dy.log(x)).backward(full=True)
    dy.cg().dump("", True, True, True)
    lines = capsys.readouterr().out.splitlines()
    assert (
        "Value: 1 of 2 numbers are NaN or infinite, the first at (1,)" in lines
        and "Value: finite" in lines
    )
    assert "Gradient: 1 of 2 numbers are NaN or infinite, the first at (1,)" in lines


def test_dump_continues_after_errors(tmp_path):
    def fails(x):
        raise KeyError("mine")

    dy.square(dy.function(fails, None, 1)(dy.scalarInput(2)))
    dy.dump_cg(tmp_path / "dump.txt")
    text = (tmp_path / "dump.txt").read_text()
    assert (
        text.count("Value: none ('mine')") == 2
        and text.count("Gradient: none (Requested gradient") == 3
    )


def test_dump_where_nobody_can_write(drawn, tmp_path):
    with pytest.raises(OSError):
        dy.dump_cg(tmp_path / "missing" / "dump.txt")
    with pytest.raises(OSError):
        dy.draw_graph(tmp_path / "missing" / "graph.dot")


def test_parameters_that_are_gone_have_no_name():
    code = """
import gc, dist_dynet as dy
y = dy.ParameterCollection().add_parameters(2, name="W") * 2
gc.collect()
dy.dump_cg(show_values=False, show_gradients=False)
"""
    assert output_of(code).splitlines()[0] in (
        "Node 0: v0 = parameter(), (2,)",
        "Node 0: v0 = parameter(/W), (2,)",
    )
