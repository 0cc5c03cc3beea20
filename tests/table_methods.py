"""Integers that constructors and methods take: of each a call that gives an expression, and an
integer for it. test_integers_of_methods.py tries them.
"""

import inspect

import numpy as np

import dist_dynet as dy

CLUSTERS = "0\ta\n0\tb\n1\tc\n1\td\n"
WORDS = {"a": 0, "b": 1, "c": 2, "d": 3}


def _numbers(*numbers):
    """Numbers as an expression, which the tests compare."""
    return dy.inputTensor(np.array(numbers, float).ravel())


def _count(make):
    """How many parameters the thing has that make(collection) adds."""
    m = dy.ParameterCollection()
    make(m)
    return _numbers(m.parameter_count())


def _constant(m):
    for p in m.parameters_list():
        p.set_value(np.full(p.shape(), 0.25))
    for p in m.lookup_parameters_list():
        p.init_from_array(np.full(p.shape(), 0.25))


def _with(make, use):
    """use(the thing that make(collection) makes, with parameters of 1/4)."""
    m = dy.ParameterCollection()
    thing = make(m)
    _constant(m)
    return use(thing)


def _file(tmp):
    path = tmp / "clusters"
    path.write_text(CLUSTERS)
    return str(path)


def _vectors(tmp):
    (path := tmp / "vectors").write_text("a 1 2\nb 3 5\n")
    return path


def _xs(n=3, batch=1):
    return [
        dy.inputTensor(np.arange(1.0, 2 * batch + 1).reshape(2, batch) / (k + 2), batched=True)
        for k in range(n)
    ]


def _columns():
    return dy.inputTensor(np.arange(12.0).reshape(2, 3, 2) / 9, batched=True)


def _nodes():
    dy.renew_cg()
    return [dy.scalarInput(k + 1) * 2 for k in range(3)]


def _in_graph(use):
    """use(n), then node n of a graph of numbers."""

    def call(n):
        nodes = _nodes()
        use(n)
        return nodes[0]

    return call


def _table():
    return dy.ParameterCollection().lookup_parameters_from_numpy(
        np.arange(12, dtype=float).reshape(4, 3)
    )


def _initialised(n):
    table = _table()
    table.init_row(n, [7, 8, 9])
    return dy.inputTensor(table.as_array())


def _subset(n, lookups=False):
    m = dy.ParameterCollection()
    ps = [
        m.add_lookup_parameters((1, 1), init=0) if lookups else m.add_parameters(1, init=0)
        for _ in range(3)
    ]
    dy.renew_cg()
    dy.esum([p[0] if lookups else p for p in ps]).backward()
    dy.SimpleSGDTrainer(m, 1).update_subset(*([[], [n]] if lookups else [[n], []]))
    return _numbers(*[p.as_array().ravel()[0] for p in ps])


def _trainer():
    m = dy.ParameterCollection()
    return dy.SimpleSGDTrainer(m, 1), m.add_parameters(1, init=0)


def _accumulated(n):
    trainer, _ = _trainer()
    trainer.set_accumulation(n)
    return _numbers(trainer.accumulation)


def _averaged(n):
    trainer, w = _trainer()
    average = dy.MovingAverage(trainer, None, n)
    for _ in range(2):
        dy.renew_cg()
        w.backward()
        trainer.update()
    return _numbers(average.state()["averaged"])


def _rates(make):
    schedule = make(_trainer()[0])
    rates = []
    for k in range(6):
        schedule.step(*([k] if isinstance(schedule, dy.schedules.Plateau) else []))
        rates.append(schedule._trainer.learning_rate)
    return _numbers(*rates)


def _tensor():
    return dy.inputTensor(np.log(np.arange(1.0, 9).reshape(4, 2))).tensor_value()


def _masks(n):
    lstm = dy.VanillaLSTMBuilder(1, 2, 2, dy.ParameterCollection())
    lstm.set_dropout(0.5)
    lstm.initial_state()
    lstm.set_dropout_masks(n)
    return _numbers(lstm._start._masks[0][0].dim()[1])


def _seeded(seed):
    dy.reset_random_seed(seed)
    return dy.inputTensor(dy.ParameterCollection().add_parameters(3).as_array())


def _crf(use):
    return _with(lambda m: dy.CRF(m, 2), lambda crf: use(crf, _xs(3, batch=2)))


def _words(kind):
    return lambda tmp: lambda use: _with(lambda m: kind(2, _file(tmp), WORDS, m), use)


def _sampled(kind, use):
    return _with(lambda m: kind(2, 4, m, 3), use)


X = lambda: dy.inputVector([1, 2])  # noqa: E731
STATE = lambda use: _with(  # noqa: E731
    lambda m: dy.VanillaLSTMBuilder(1, 2, 2, m), lambda b: use(b.initial_state())
)
BIRNN = lambda use: _with(lambda m: dy.BiRNNBuilder(1, 2, 2, m, dy.VanillaLSTMBuilder), use)  # noqa: E731

# function.argument -> (the call with the integer n, an integer that it takes); of files, a function
# of the folder that returns the call
METHODS = {
    "AdditiveAttention.__init__.hidden_dim": (
        lambda n: _count(lambda m: dy.AdditiveAttention(2, 2, n, m)),
        3,
    ),
    "AdditiveAttention.__init__.key_dim": (
        lambda n: _count(lambda m: dy.AdditiveAttention(2, n, 2, m)),
        3,
    ),
    "AdditiveAttention.__init__.query_dim": (
        lambda n: _count(lambda m: dy.AdditiveAttention(n, 2, 2, m)),
        3,
    ),
    "BiRNNBuilder.__init__.hidden_dim": (
        lambda n: _count(lambda m: dy.BiRNNBuilder(1, 2, n, m, dy.GRUBuilder)),
        4,
    ),
    "BiRNNBuilder.__init__.input_dim": (
        lambda n: _count(lambda m: dy.BiRNNBuilder(1, n, 2, m, dy.GRUBuilder)),
        3,
    ),
    "BiRNNBuilder.__init__.num_layers": (
        lambda n: _count(lambda m: dy.BiRNNBuilder(n, 2, 2, m, dy.GRUBuilder)),
        3,
    ),
    "BiRNNBuilder.add_inputs.lengths": (
        lambda n: BIRNN(lambda b: b.add_inputs(_xs(3, 2), lengths=[n, 3])[0][1].output()),
        2,
    ),
    "BiRNNBuilder.transduce.lengths": (
        lambda n: BIRNN(lambda b: b.transduce(_xs(3, 2), lengths=[n, 3])[1]),
        2,
    ),
    "BiRNNBuilder.transduce_matrix.lengths": (
        lambda n: BIRNN(lambda b: b.transduce_matrix(_columns(), lengths=[n, 3])[0]),
        2,
    ),
    "BiRNNBuilder.transduce_packed.lengths": (
        lambda n: BIRNN(lambda b: b.transduce_packed(dy.ones(2, batch_size=5), [n, 3])[0]),
        2,
    ),
    "CRF.__init__.tags": (lambda n: _count(lambda m: dy.CRF(m, n)), 3),
    "CRF.decode.lengths": (
        lambda n: _crf(lambda c, xs: _numbers(*np.concatenate(c.decode(xs, lengths=[n, 3])))),
        2,
    ),
    "CRF.log_partition.lengths": (lambda n: _crf(lambda c, xs: c.log_partition(xs, [n, 3])), 2),
    "CRF.neg_log_likelihood.lengths": (
        lambda n: _crf(lambda c, xs: c.neg_log_likelihood(xs, [[0, 1, 1], [1, 0, 1]], [n, 3])),
        2,
    ),
    "CRF.score.lengths": (
        lambda n: _crf(lambda c, xs: c.score(xs, [[0, 1, 1], [1, 0, 1]], [n, 3])),
        2,
    ),
    "CRF.viterbi.lengths": (lambda n: _crf(lambda c, xs: c.viterbi(xs, [n, 3])[1]), 2),
    "CompactVanillaLSTMBuilder.__init__.hidden_dim": (
        lambda n: _count(lambda m: dy.CompactVanillaLSTMBuilder(1, 2, n, m)),
        3,
    ),
    "CompactVanillaLSTMBuilder.__init__.input_dim": (
        lambda n: _count(lambda m: dy.CompactVanillaLSTMBuilder(1, n, 2, m)),
        3,
    ),
    "CompactVanillaLSTMBuilder.__init__.layers": (
        lambda n: _count(lambda m: dy.CompactVanillaLSTMBuilder(n, 2, 2, m)),
        3,
    ),
    "ComputationGraph.backward.index": (_in_graph(lambda n: dy.cg().backward(n)), 2),
    "ComputationGraph.expression.index": (lambda n: (_nodes(), dy.cg().expression(n))[1], 2),
    "ComputationGraph.forward.index": (_in_graph(lambda n: dy.cg().forward(n)), 2),
    "ComputationGraph.forward_scalar.index": (
        lambda n: (_nodes(), _numbers(dy.cg().forward_scalar(n)))[1],
        2,
    ),
    "ComputationGraph.forward_vec.index": (
        lambda n: (_nodes(), _numbers(dy.cg().forward_vec(n)))[1],
        2,
    ),
    "ComputationGraph.inc_forward.index": (_in_graph(lambda n: dy.cg().inc_forward(n)), 2),
    "ComputationGraph.inc_forward_scalar.index": (
        lambda n: (_nodes(), _numbers(dy.cg().inc_forward_scalar(n)))[1],
        2,
    ),
    "ComputationGraph.inc_forward_vec.index": (
        lambda n: (_nodes(), _numbers(dy.cg().inc_forward_vec(n)))[1],
        2,
    ),
    "ComputationGraph.uniform.n": (lambda n: _numbers(len(dy.cg().uniform(n))), 3),
    "HierarchicalSoftmaxBuilder.__init__.input_dim": (
        lambda tmp: (
            lambda n: _count(lambda m: dy.HierarchicalSoftmaxBuilder(n, _file(tmp), WORDS, m))
        ),
        3,
    ),
    "HierarchicalSoftmaxBuilder.neg_log_softmax.c": (
        lambda tmp: (
            lambda n: _words(dy.HierarchicalSoftmaxBuilder)(tmp)(
                lambda b: b.neg_log_softmax(X(), n)
            )
        ),
        2,
    ),
    "HierarchicalSoftmaxBuilder.neg_log_softmax_batch.c": (
        lambda tmp: (
            lambda n: _words(dy.HierarchicalSoftmaxBuilder)(tmp)(
                lambda b: b.neg_log_softmax_batch(X(), [n, 1])
            )
        ),
        2,
    ),
    "ClassFactoredSoftmaxBuilder.__init__.input_dim": (
        lambda tmp: (
            lambda n: _count(lambda m: dy.ClassFactoredSoftmaxBuilder(n, _file(tmp), WORDS, m))
        ),
        3,
    ),
    "ClassFactoredSoftmaxBuilder.neg_log_softmax.c": (
        lambda tmp: (
            lambda n: _words(dy.ClassFactoredSoftmaxBuilder)(tmp)(
                lambda b: b.neg_log_softmax(X(), n)
            )
        ),
        2,
    ),
    "ClassFactoredSoftmaxBuilder.neg_log_softmax_batch.c": (
        lambda tmp: (
            lambda n: _words(dy.ClassFactoredSoftmaxBuilder)(tmp)(
                lambda b: b.neg_log_softmax_batch(X(), [n, 1])
            )
        ),
        2,
    ),
    "ClassFactoredSoftmaxBuilder.subclass_log_distribution.classid": (
        lambda tmp: (
            lambda n: _words(dy.ClassFactoredSoftmaxBuilder)(tmp)(
                lambda b: b.subclass_log_distribution(X(), n)
            )
        ),
        1,
    ),
    "ClassFactoredSoftmaxBuilder.subclass_logits.classid": (
        lambda tmp: (
            lambda n: _words(dy.ClassFactoredSoftmaxBuilder)(tmp)(
                lambda b: b.subclass_logits(X(), n)
            )
        ),
        1,
    ),
    "InverseSquareRoot.__init__.warmup": (
        lambda n: _rates(lambda t: dy.schedules.InverseSquareRoot(t, warmup=n)),
        2,
    ),
    "LayerNorm.__init__.dim": (lambda n: _count(lambda m: dy.LayerNorm(n, m)), 3),
    "Linear.__init__.input_dim": (lambda n: _count(lambda m: dy.Linear(n, 2, m)), 3),
    "Linear.__init__.output_dim": (lambda n: _count(lambda m: dy.Linear(2, n, m)), 3),
    "Linear.__init__.steps": (lambda n: _rates(lambda t: dy.schedules.Linear(t, n)), 3),
    "Linear.__init__.warmup": (lambda n: _rates(lambda t: dy.schedules.Linear(t, 3, warmup=n)), 2),
    "LookupParameters.__getitem__.index": (lambda n: _table()[n], 2),
    "LookupParameters.batch.i": (lambda n: _table().batch([n, 1]), 2),
    "LookupParameters.init_row.i": (_initialised, 2),
    "LookupParameters.row_as_array.row": (lambda n: dy.inputTensor(_table().row_as_array(n)), 2),
    "LookupParameters.row_grad_as_array.row": (
        lambda n: dy.inputTensor(_table().row_grad_as_array(n)),
        2,
    ),
    "LookupParameters.rows_as_array.rows": (
        lambda n: dy.inputTensor(_table().rows_as_array([n, 1])),
        2,
    ),
    "LookupParameters.rows_grad_as_array.rows": (
        lambda n: dy.inputTensor(_table().rows_grad_as_array([n, 1])),
        2,
    ),
    "MLP.__init__.sizes": (lambda n: _count(lambda m: dy.MLP([n, 2], m)), 3),
    "MovingAverage.__init__.every": (_averaged, 2),
    "MultiHeadAttention.__init__.dim": (
        lambda n: _count(lambda m: dy.MultiHeadAttention(n, 2, m)),
        4,
    ),
    "MultiHeadAttention.__init__.heads": (
        lambda n: _count(lambda m: dy.MultiHeadAttention(4, n, m)),
        2,
    ),
    "MultiHeadAttention.__init__.key_dim": (
        lambda n: _count(lambda m: dy.MultiHeadAttention(4, 2, m, key_dim=n)),
        2,
    ),
    "NaryTreeLSTMBuilder.__init__.arity": (
        lambda n: _count(lambda m: dy.NaryTreeLSTMBuilder(n, 2, 2, m)),
        3,
    ),
    "NaryTreeLSTMBuilder.__init__.hidden_dim": (
        lambda n: _count(lambda m: dy.NaryTreeLSTMBuilder(2, 2, n, m)),
        3,
    ),
    "NaryTreeLSTMBuilder.__init__.input_dim": (
        lambda n: _count(lambda m: dy.NaryTreeLSTMBuilder(2, n, 2, m)),
        3,
    ),
    "BinaryTreeLSTMBuilder.__init__.hidden_dim": (
        lambda n: _count(lambda m: dy.BinaryTreeLSTMBuilder(2, n, m)),
        3,
    ),
    "BinaryTreeLSTMBuilder.__init__.input_dim": (
        lambda n: _count(lambda m: dy.BinaryTreeLSTMBuilder(n, 2, m)),
        3,
    ),
    "NoiseContrastiveEstimation.loss_batch.c": (
        lambda n: _sampled(dy.NoiseContrastiveEstimation, lambda b: b.loss_batch(X(), [n, 1], [0])),
        2,
    ),
    "NoiseContrastiveEstimation.loss_batch.negatives": (
        lambda n: _sampled(dy.NoiseContrastiveEstimation, lambda b: b.loss_batch(X(), [0], [n, 1])),
        2,
    ),
    "ParameterCollection.add_lookup_parameters.dim": (
        lambda n: _count(lambda m: m.add_lookup_parameters((n, 2), init=1)),
        3,
    ),
    "ParameterCollection.add_parameters.dim": (
        lambda n: _count(lambda m: m.add_parameters(n, init=1)),
        3,
    ),
    "Plateau.__init__.patience": (
        lambda n: _rates(lambda t: dy.schedules.Plateau(t, patience=n)),
        2,
    ),
    "RNNState.add_inputs.lengths": (
        lambda n: STATE(lambda s: s.add_inputs(_xs(3, 2), lengths=[n, 3])[-1].output()),
        2,
    ),
    "RNNState.transduce.lengths": (
        lambda n: STATE(lambda s: s.transduce(_xs(3, 2), lengths=[n, 3])[-1]),
        2,
    ),
    "RNNState.transduce_matrix.lengths": (
        lambda n: STATE(lambda s: s.transduce_matrix(_columns(), lengths=[n, 3])[0]),
        2,
    ),
    "RNNState.transduce_packed.lengths": (
        lambda n: STATE(lambda s: s.transduce_packed(dy.ones(2, batch_size=5), [n, 3])[0]),
        2,
    ),
    "RecurrentBuilder.__init__.hidden_dim": (
        lambda n: _count(lambda m: dy.GRUBuilder(1, 2, n, m)),
        3,
    ),
    "RecurrentBuilder.__init__.input_dim": (
        lambda n: _count(lambda m: dy.GRUBuilder(1, n, 2, m)),
        3,
    ),
    "RecurrentBuilder.__init__.layers": (lambda n: _count(lambda m: dy.GRUBuilder(n, 2, 2, m)), 3),
    "SampledSoftmax.loss_batch.c": (
        lambda n: _sampled(dy.SampledSoftmax, lambda b: b.loss_batch(X(), [n, 1], [0])),
        2,
    ),
    "SampledSoftmax.loss_batch.negatives": (
        lambda n: _sampled(dy.SampledSoftmax, lambda b: b.loss_batch(X(), [0], [n, 1])),
        2,
    ),
    "Sampler.__init__.n": (lambda n: _numbers(dy.Sampler(n, "uniform").log_probability([0])), 3),
    "Sampler.draw.n": (lambda n: _numbers(len(dy.Sampler(4).draw(n))), 3),
    "Sampler.log_probability.classes": (
        lambda n: _numbers(dy.Sampler(4).log_probability([n, 1])),
        2,
    ),
    "SoftmaxBuilder.neg_log_softmax.c": (
        lambda n: _with(
            lambda m: dy.StandardSoftmaxBuilder(2, 3, m), lambda b: b.neg_log_softmax(X(), n)
        ),
        2,
    ),
    "SoftmaxBuilder.neg_log_softmax_batch.c": (
        lambda n: _with(
            lambda m: dy.StandardSoftmaxBuilder(2, 3, m),
            lambda b: b.neg_log_softmax_batch(X(), [n, 1]),
        ),
        2,
    ),
    "StackLSTM.__init__.hidden_dim": (lambda n: _count(lambda m: dy.StackLSTM(1, 2, n, m)), 3),
    "StackLSTM.__init__.input_dim": (lambda n: _count(lambda m: dy.StackLSTM(1, n, 2, m)), 3),
    "StackLSTM.__init__.layers": (lambda n: _count(lambda m: dy.StackLSTM(n, 2, 2, m)), 3),
    "StackedRNNState.add_inputs.lengths": (
        lambda n: STATE(
            lambda s: dy.StackedRNNState([s]).add_inputs(_xs(3, 2), lengths=[n, 3])[-1].output()
        ),
        2,
    ),
    "StackedRNNState.transduce.lengths": (
        lambda n: STATE(lambda s: dy.StackedRNNState([s]).transduce(_xs(3, 2), lengths=[n, 3])[-1]),
        2,
    ),
    "StandardSoftmaxBuilder.__init__.input_dim": (
        lambda n: _count(lambda m: dy.StandardSoftmaxBuilder(n, 3, m)),
        3,
    ),
    "StandardSoftmaxBuilder.__init__.num_classes": (
        lambda n: _count(lambda m: dy.StandardSoftmaxBuilder(2, n, m)),
        3,
    ),
    "Tensor.argmax.dim": (lambda n: dy.inputTensor(_tensor().argmax(n).as_numpy()), 1),
    "Tensor.argmax.num": (lambda n: dy.inputTensor(_tensor().argmax(0, n).as_numpy()), 2),
    "Tensor.categorical_sample_log_prob.dim": (
        lambda n: _numbers(*_tensor().categorical_sample_log_prob(n).as_numpy().shape),
        1,
    ),
    "Tensor.categorical_sample_log_prob.num": (
        lambda n: _numbers(*_tensor().categorical_sample_log_prob(0, n).as_numpy().shape),
        2,
    ),
    "Tensor.topk.dim": (lambda n: dy.inputTensor(_tensor().topk(n)[0].as_numpy()), 1),
    "Tensor.topk.num": (lambda n: dy.inputTensor(_tensor().topk(0, n)[0].as_numpy()), 2),
    "WithSettings.set_accumulation.k": (_accumulated, 2),
    "Trainer.update_subset.updated_lookups": (lambda n: _subset(n, lookups=True), 1),
    "Trainer.update_subset.updated_params": (_subset, 1),
    "TwoRates.set_dropout_masks.batch_size": (_masks, 3),
    "UnsignedValue.__init__.val": (lambda n: _numbers(dy.UnsignedValue(n).get()), 3),
    "UnsignedValue.set.val": (
        lambda n: (v := dy.UnsignedValue(), v.set(n), _numbers(v.get()))[2],
        3,
    ),
    "UnsignedVectorValue.__init__.vals": (
        lambda n: _numbers(dy.UnsignedVectorValue([n, 1]).get()),
        3,
    ),
    "UnsignedVectorValue.set.newval": (
        lambda n: (v := dy.UnsignedVectorValue([]), v.set([n, 1]), _numbers(v.get()))[2],
        3,
    ),
    "VanillaLSTMBuilder.__init__.hidden_dim": (
        lambda n: _count(lambda m: dy.VanillaLSTMBuilder(1, 2, n, m)),
        3,
    ),
    "VanillaLSTMBuilder.__init__.input_dim": (
        lambda n: _count(lambda m: dy.VanillaLSTMBuilder(1, n, 2, m)),
        3,
    ),
    "VanillaLSTMBuilder.__init__.layers": (
        lambda n: _count(lambda m: dy.VanillaLSTMBuilder(n, 2, 2, m)),
        3,
    ),
    "_Projections.__init__.hidden_dim": (
        lambda n: _count(lambda m: dy.DotAttention(2, 2, n, m)),
        3,
    ),
    "_Projections.__init__.key_dim": (lambda n: _count(lambda m: dy.DotAttention(2, n, 2, m)), 3),
    "_Projections.__init__.query_dim": (lambda n: _count(lambda m: dy.DotAttention(n, 2, 2, m)), 3),
    "_SampledBuilder.__init__.input_dim": (
        lambda n: _count(lambda m: dy.SampledSoftmax(n, 4, m)),
        3,
    ),
    "_SampledBuilder.__init__.num_classes": (
        lambda n: _count(lambda m: dy.SampledSoftmax(2, n, m)),
        3,
    ),
    "_SampledBuilder.__init__.num_samples": (
        lambda n: _numbers(dy.SampledSoftmax(2, 4, dy.ParameterCollection(), n).num_samples),
        3,
    ),
    "_SampledBuilder.loss.c": (
        lambda n: _sampled(dy.SampledSoftmax, lambda b: b.loss(X(), n, [0])),
        2,
    ),
    "_SampledBuilder.loss.negatives": (
        lambda n: _sampled(dy.SampledSoftmax, lambda b: b.loss(X(), 0, [n, 1])),
        2,
    ),
    "_Schedule.__init__.warmup": (
        lambda n: _rates(lambda t: dy.schedules.InverseSquareRoot(t, warmup=n)),
        3,
    ),
    "_TreeBuilder.__init__.hidden_dim": (
        lambda n: _count(lambda m: dy.ChildSumTreeLSTMBuilder(2, n, m)),
        3,
    ),
    "_TreeBuilder.__init__.input_dim": (
        lambda n: _count(lambda m: dy.ChildSumTreeLSTMBuilder(n, 2, m)),
        3,
    ),
    "reset_random_seed.seed": (_seeded, 5),
    "_lookupBatchExpression.set.i": (
        lambda n: (e := dy.lookup_batch(_table(), [0, 1]), e.set([n, 1]), e)[2],
        2,
    ),
    "Profile.table.most": (lambda n: _numbers(len(dy.Profile().table(n))), 3),
    "Vocabulary.__init__.max_size": (
        lambda n: _numbers(len(dy.Vocabulary("abc", max_size=n))),
        2,
    ),
    "Vocabulary.__init__.min_count": (lambda n: _numbers(len(dy.Vocabulary("abbccc", n))), 2),
    "Vocabulary.name.number": (lambda n: _numbers(ord(dy.Vocabulary("abc").name(n))), 2),
    "Vocabulary.vectors.seed": (
        lambda tmp: lambda n: _numbers(*dy.Vocabulary("abc").vectors(_vectors(tmp), n)),
        3,
    ),
    "_lookupExpression.set.i": (lambda n: (e := _table()[0], e.set(n), e)[2], 2),
    "_pickedExpression.set_index.v": (
        lambda n: (e := dy.pickneglogsoftmax(X(), 0), e.set_index(n), e)[2],
        1,
    ),
    "_pickerBatchExpression.set_index.i": (
        lambda n: (e := dy.pick_batch(X(), [0, 1]), e.set_index([n, 1]), e)[2],
        1,
    ),
    "_pickerExpression.set_index.i": (lambda n: (e := dy.pick(X(), 0), e.set_index(n), e)[2], 1),
    "ComputationGraph.inputMatrixLiteral.batch_size": (
        lambda n: dy.cg().inputMatrixLiteral([1, 2, 3, 4], 2, n),
        2,
    ),
    "ComputationGraph.inputMatrixLiteral.d": (
        lambda n: dy.cg().inputMatrixLiteral([1, 2, 3, 4], n),
        4,
    ),
    "ComputationGraph.inputSparseTensor.batch_size": (
        lambda n: dy.cg().inputSparseTensor([0], [5], 2, n),
        2,
    ),
    "ComputationGraph.inputSparseTensor.dim": (lambda n: dy.cg().inputSparseTensor([0], [5], n), 3),
    "ComputationGraph.inputSparseTensor.idxs": (
        lambda n: dy.cg().inputSparseTensor([n], [5], 4),
        2,
    ),
}


def call_of(name, table, tmp_path):
    """A row's call, made for the folder where it needs one, and its integer."""
    call, n = table[name]
    return (call(tmp_path) if inspect.signature(call).parameters.keys() == {"tmp"} else call), n


def _params(name, n):
    params = dy.DynetParams()
    getattr(params, name)(n)
    return _numbers(*params.given().values())


def _renewed(graph, n):
    graph(n)
    return _numbers(1)


# settings: text and truth values are taken as well, and what makes no sense is a ValueError
SETTINGS = {
    "ComputationGraph.renew.autobatching": (
        lambda n: _renewed(lambda n: dy.cg().renew(autobatching=n), n),
        2,
    ),
    "DynetParams.set_autobatch.autobatch": (lambda n: _params("set_autobatch", n), 2),
    "DynetParams.set_gpu_mask.gpu_mask": (lambda n: _params("set_gpu_mask", [n]), 0),
    "DynetParams.set_profiling.profiling": (lambda n: _params("set_profiling", n), 1),
    "DynetParams.set_random_seed.random_seed": (lambda n: _params("set_random_seed", n), 5),
    "DynetParams.set_requested_gpus.requested_gpus": (
        lambda n: _params("set_requested_gpus", n),
        0,
    ),
    "DynetParams.set_threads.threads": (lambda n: _params("set_threads", n), 2),
    "renew_cg.autobatching": (lambda n: _renewed(lambda n: dy.renew_cg(autobatching=n), n), 2),
}
MADE_HERE = "a record that the package itself makes"
CHECKED = "add_parameters() calls it with dims that it has checked"
OTHER = {
    "ClassFactoredSoftmaxBuilder.__init__.dic": (
        "a dict; its numbers are classes, as neg_log_softmax takes them"
    ),
    "HierarchicalSoftmaxBuilder.__init__.dic": (
        "a dict; its numbers are classes, as neg_log_softmax takes them"
    ),
    "SoftmaxBuilder.__init__.input_dim": "an abstract class",
    "ComputationGraph.draw_from.counter": MADE_HERE,
    "ComputationGraph.draw_from.samples": MADE_HERE,
    "ComputationGraph.draw_from.stream": MADE_HERE,
    "DeviceInfo.__init__.id": MADE_HERE,
    "DeviceInfo.__init__.type": MADE_HERE,
    "GradientCheckError.__init__.compared": MADE_HERE,
    "NonFinite.__init__.element": MADE_HERE,
    **{
        f"{kind}Initializer.values.dims": CHECKED
        for kind in ("FromFile", "Identity", "Numpy", "Py", "Saxe")
    },
    "_Drawn.values.dims": CHECKED,
    "_ParameterBase.__init__.dims": MADE_HERE,
    "_ParameterBase.__init__.rows": MADE_HERE,
}
