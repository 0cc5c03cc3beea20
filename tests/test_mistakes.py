"""What beginners write, many of them by habit from PyTorch and NumPy: each is an error with a
message, or has the result that was meant.

How long: three seconds.
"""

import copy
import math
import pickle
import re
import sys
from operator import attrgetter

import numpy as np
import pytest

import dist_dynet as dy
from dist_dynet import _hints
from dist_dynet._hints import WRITTEN_HERE
from dist_dynet._tracebacks import shorten


def surroundings():
    """The names that a line below may use."""
    m = dy.ParameterCollection()
    names = {
        "dy": dy,
        "np": np,
        "copy": copy,
        "pickle": pickle,
        "m": m,
        "W": m.add_parameters((2, 3)),
        "b": m.add_parameters(2),
    }
    names |= {
        "E": m.add_lookup_parameters((10, 3)),
        "lstm": dy.VanillaLSTMBuilder(1, 3, 2, m),
        "trainer": dy.SimpleSGDTrainer(m),
    }
    names |= {
        "x": dy.inputVector([1, 2, 3]),
        "y": dy.inputVector([3, 2, 1]),
        "M": dy.inputTensor([[0, 1, 2], [3, 4, 5]]),
    }
    return names | {
        "xb": dy.inputTensor(np.ones((3, 2)), batched=True),
        "s": dy.sum_elems(names["W"] * names["x"]),
    }


MISTAKES = [
    # numbers that differ from what is allowed in their last digits
    ("dy.dropout(x, 1 + 1e-7)", ValueError, "must lie in [0, 1]; got p = 1.0000001."),
    ("dy.dropout_batch(x, 1 + 2**-52)", ValueError, "[0, 1]; got p = 1.0000000000000002."),
    ("dy.random_bernoulli(3, 1 + 1e-9)", ValueError, "[0, 1]; got p = 1.000000001."),
    ("dy.cross_entropy(x, 1, label_smoothing=1 + 1e-9)", ValueError, "got 1.000000001."),
    # arguments that are missing, or not there: the class is the one that was called
    ("dy.DotAttention()", TypeError, "DotAttention.__init__() missing 4 required"),
    ("dy.AdamTrainer()", TypeError, "AdamTrainer.__init__() missing 1 required"),
    ("dy.AmsgradTrainer(m, beta1=0.5)", TypeError, "AmsgradTrainer.__init__() got an unexpected"),
    ("dy.schedules.Cosine()", TypeError, "Cosine.__init__() missing 2 required"),
    ("dy.parallel.DistributedTrainer(trainer).log(0.5)", TypeError, "log() takes 1 positional"),
    ("E.scale()", TypeError, "scale() missing 1 required"),
    ("E.batch()", TypeError, "LookupParameters.batch() missing 1 required"),
    ("lstm.initial_state().add_input()", TypeError, "add_input"),
    ("lstm.initial_state().add_input(x, y)", TypeError, "add_input"),
    # a block, or a list, in place of a collection
    *(
        (call, TypeError, "ollection; got VanillaLSTMBuilder. Its param_collection() is one.")
        for call in (
            "dy.AdamTrainer(lstm)",
            "dy.MovingAverage(lstm)",
            "dy.parallel.Checkpointer('unused', lstm, trainer)",
            "dy.parallel.assert_in_sync(lstm)",
            "dy.save_safetensors(lstm, 'unused')",
            "m.copy_from(lstm)",
        )
    ),
    ("dy.Linear(2, 3, lstm)", TypeError, "go into; got VanillaLSTMBuilder. Its param_collection()"),
    ("dy.check_gradient(s, lstm)", TypeError, "got VanillaLSTMBuilder. Its param_collection()"),
    ("dy.AdamTrainer([W])", TypeError, "got list. For some parameters of one: update_subset()."),
    ("dy.save('unused', m)", TypeError, "Write save(name, [x]); a collection has its own save()."),
    # indices as in NumPy
    ("x[[0, 1]]", TypeError, "got [0, 1] for dim 0. Use select_rows() for lists."),
    ("M[:, [0, 1]]", TypeError, "got [0, 1] for dim 1. Use select_cols() for lists in dim 1."),
    ("x[None]", TypeError, "got None for dim 0. Use reshape() for more dims."),
    ("M[..., 0]", TypeError, "got Ellipsis for dim 0. Write a slice `:` for each dim before"),
    ("x[::-1]", ValueError, "got -1 in dim 0. Use select_rows() or select_cols() for"),
    ("E[1:3]", TypeError, "got slice(1, 3, None). For several: lookup_batch()."),
    # a list in place of an expression, an expression in place of an index
    ("dy.softmax([x, y])", TypeError, "softmax: takes expressions; got list. Join them by concat"),
    ("dy.squared_norm([x])", TypeError, "squared_norm: takes expressions; got list. Join them by"),
    ("E[dy.argmax(x, 'zero_gradient')]", TypeError, "(3,). It is a number of Python's, such as"),
    ("dy.pick(x, dy.scalarInput(1))", TypeError, "(1,). It is a number of Python's, such as"),
    # what others make
    ("dy.Stack()", TypeError, "Stack: cannot be made directly. Get the empty one from"),
    ("dy.Parameters()", TypeError, "Parameters: made by ParameterCollection.add_parameters()"),
    ("dy.LookupParameters((2, 3))", TypeError, "made by ParameterCollection.add_parameters()"),
    ("dy.RNNState()", TypeError, "RNNState: cannot be made directly. Use initial_state()"),
    # sizes that are no integers
    ("dy.Linear(5 / 2, 2, m)", TypeError, "Linear: sizes must be integers; got 2.5."),
    ("dy.Linear('3', 2, m)", TypeError, "Linear: sizes must be integers; got '3'."),
    (
        "dy.VanillaLSTMBuilder(1, 3, 5 / 2, m)",
        TypeError,
        "VanillaLSTMBuilder: sizes must be integers; got 2.5.",
    ),
    (
        "dy.BiRNNBuilder(1, 3, '4', m, dy.GRUBuilder)",
        TypeError,
        "BiRNNBuilder: sizes must be integers; got '4'.",
    ),
    (
        "dy.MLP(3, m)",
        TypeError,
        "MLP: sizes must be a list, of the input and of each layer; got 3.",
    ),
    ("dy.MLP([3, 2.5], m)", TypeError, "MLP: sizes must be integers; got 2.5."),
    ("dy.CRF(m, 2.5)", TypeError, "CRF: sizes must be integers; got 2.5."),
    (
        "dy.BiRNNBuilder(1, 3, 4, m, lstm)",
        TypeError,
        "BiRNNBuilder: rnn_builder_factory must make builders",
    ),
    # indices
    ("E['dog']", TypeError, "lookup: the index must be an integer; got 'dog'."),
    ("E[None]", TypeError, "lookup: the index must be an integer; got None."),
    ("E[1.5]", TypeError, "lookup: the index must be an integer; got 1.5."),
    (
        "E[[1, 2]]",
        TypeError,
        "lookup: the index must be an integer; got [1, 2]. For several: lookup_batch().",
    ),
    (
        "dy.lookup(E, (1, 2))",
        TypeError,
        "lookup: the index must be an integer; got (1, 2). For several: lookup_batch().",
    ),
    (
        "E[10 ** 20]",
        OverflowError,
        "lookup: the index must have at most 31 bits; got 100000000000000000000.",
    ),
    ("dy.pick(x, 'a')", TypeError, "pick: the index must be an integer; got 'a'."),
    (
        "dy.pick(x, [0])",
        TypeError,
        "pick: the index must be an integer; got [0]. For several: pick_batch().",
    ),
    ("dy.pick(x, 1, dim='a')", TypeError, "pick: a dim must be an integer; got 'a'."),
    (
        "dy.pickneglogsoftmax(x, 'NOUN')",
        TypeError,
        "pickneglogsoftmax: the index must be an integer; got 'NOUN'.",
    ),
    ("dy.pickneglogsoftmax(x, [1])", TypeError, "got [1]. For several: pickneglogsoftmax_batch()."),
    (
        "x[np.array([0, 1])]",
        TypeError,
        (
            "x[i]: an index must be an integer or a slice; got array([0, 1]). Use select_rows() for"
            " lists."
        ),
    ),
    ("dy.softmax(M, d='rows')", TypeError, "softmax: a dim must be an integer; got 'rows'."),
    ("dy.concatenate(x, y)", TypeError, "Expressions go into one list: concatenate([x, y])."),
    ("dy.forward([x, 3])", TypeError, "forward: takes a list of expressions; got int in it."),
    ("dy.values([x, 'y'])", TypeError, "values: takes a list of expressions; got str in it."),
    (
        "dy.npvalues([W, None])",
        TypeError,
        "npvalues: takes a list of expressions; got NoneType in it.",
    ),
    (
        "dy.draw_graph('graph.dot', 3)",
        TypeError,
        "draw_graph: expr must be an expression; got int.",
    ),
    (
        "dy.print_graphviz(expression_names=['x'])",
        TypeError,
        "print_graphviz: expression_names must be a dict of expressions and names",
    ),
    (
        "dy.UnsignedVectorValue([1, -1])",
        OverflowError,
        "UnsignedVectorValue: takes integers, 0 or more; got -1.",
    ),
    ("lstm.set_dropout(1.5)", ValueError, "set_dropout: the rate must lie in [0, 1]; got 1.5."),
    (
        "lstm.set_dropouts(0.5, -1)",
        ValueError,
        "set_dropouts: the rate must lie in [0, 1]; got -1.",
    ),
    (
        "dy.MLP([2, 3], m).set_dropout(2)",
        ValueError,
        "set_dropout: the rate must lie in [0, 1]; got 2.",
    ),
    # numbers
    ("dy.inputVector([1, 'a'])", TypeError, "inputVector: takes numbers; got [1, 'a']."),
    ("dy.inputVector([1, None])", TypeError, "inputVector: takes numbers; got [1, None]."),
    ("dy.inputVector([1 + 2j])", TypeError, "inputVector: takes numbers; got [(1+2j)]."),
    (
        "dy.inputVector([[1, 2], [3, 4]])",
        TypeError,
        "inputVector: takes a vector of numbers; got shape (2, 2). Use inputTensor().",
    ),
    (
        "dy.inputVector({1, 2})",
        TypeError,
        "inputVector: takes numbers in their order; got a set. Make a list of it.",
    ),
    (
        "dy.inputVector({1: 2})",
        TypeError,
        "inputVector: takes numbers in their order; got a dict. Make a list of it.",
    ),
    (
        "dy.inputVector([s, s])",
        TypeError,
        "inputVector: takes numbers; got expressions. To join expressions: concatenate().",
    ),
    ("dy.inputTensor(x)", TypeError, "got expressions. To join expressions: concatenate()."),
    (
        "dy.inputTensor([[1, 2], [3]])",
        TypeError,
        "The detected shape was (2,) + inhomogeneous part.",
    ),
    (
        "dy.inputTensor(np.ma.array([1, 2], mask=[0, 1]))",
        TypeError,
        "got masked ones. Say what stands for them: array.filled(0).",
    ),
    (
        "dy.lookup_batch(E, np.array([True, False]))",
        TypeError,
        "lookup_batch: indices must be integers; got array([ True, False]).",
    ),
    (
        "dy.lookup_batch(E, np.array([1.5, 2]))",
        TypeError,
        "lookup_batch: indices must be integers; got array([1.5, 2. ]).",
    ),
    (
        "dy.lookup_batch(E, np.array([[0, 1]]))",
        TypeError,
        "lookup_batch: indices must be integers in one flat list; got array([[0, 1]]).",
    ),
    (
        "dy.lookup_batch(E, [[0, 1], [2]])",
        TypeError,
        "lookup_batch: indices must be integers in one flat list; got [[0, 1], [2]].",
    ),
    (
        "dy.pickneglogsoftmax_batch(xb, 1)",
        TypeError,
        "indices must be integers in one flat list; got 1.",
    ),
    ("dy.inputVector([1, 10**400])", OverflowError, "inputVector: takes numbers; "),
    ("dy.scalarInput(10**400)", OverflowError, "scalarInput: takes numbers; "),
    ("dy.scalarInput('3')", TypeError, "scalarInput: takes numbers; got '3'."),
    ("dy.scalarInput(None)", TypeError, "scalarInput: takes numbers; "),
    ("x.set(['a', 1, 2])", TypeError, "set: takes numbers; got ['a', 1, 2]."),
    ("dy.dropout(x, '0.5')", TypeError, "dropout: takes numbers; got '0.5'."),
    ("dy.dropout(x, None)", TypeError, "dropout: takes numbers; "),
    (
        "dy.tanh(2)",
        TypeError,
        (
            "tanh: takes expressions; got int. Make one of numbers by scalarInput(), inputVector()"
            " or inputTensor()."
        ),
    ),
    (
        "lstm.initial_state().add_input([1, 2, 3])",
        TypeError,
        "got list. Make one of numbers by scalarInput(), ",
    ),
    ("dy.tanh(None)", TypeError, "tanh: takes expressions; got NoneType."),
    # initial values
    (
        "m.add_parameters((2, 3), init=dy.NumpyInitializer(np.ones((3, 2))))",
        ValueError,
        "the array must have the parameter's dims; got",
    ),
    # trainers
    ("dy.AdamWTrainer(m).learning_rte = 0.1", AttributeError, "learning_rte"),
    ("dy.parallel.DistributedTrainer(trainer).learning_rte = 0.1", AttributeError, "learning_rte"),
    (
        "trainer.learning_rate = 'fast'",
        TypeError,
        "learning_rate: the rate must be a number; got 'fast'.",
    ),
    (
        "trainer.learning_rate = float('nan')",
        ValueError,
        "learning_rate: the rate must be a number; got nan.",
    ),
    (
        "dy.AdamTrainer(m, None)",
        TypeError,
        "AdamTrainer: the learning rate must be a number; got None.",
    ),
    (
        "dy.AdamTrainer(m, float('nan'))",
        ValueError,
        "AdamTrainer: the learning rate must be a number; got nan.",
    ),
    (
        "dy.SimpleSGDTrainer(m, float('inf'))",
        ValueError,
        "SimpleSGDTrainer: the learning rate must be finite as float",
    ),
    (
        "trainer.learning_rate = -1e309",
        ValueError,
        "learning_rate: the rate must be finite as float",
    ),
    (
        "trainer.restart(1e309)",
        ValueError,
        "restart: the learning rate must be finite as float",
    ),
    ("dy.AdamTrainer(m, eps=1e309)", ValueError, "AdamTrainer: eps must be finite as float"),
    (
        "trainer.set_clip_threshold(None)",
        TypeError,
        "set_clip_threshold: the norm must be a number; got None.",
    ),
    (
        "trainer.set_clip_threshold(float('nan'))",
        ValueError,
        "set_clip_threshold: the norm must be a number; got nan.",
    ),
    ("dy.schedules.Cosine(m, 3)", TypeError, "Cosine: takes a trainer; got ParameterCollection."),
    # examples in rows, as in PyTorch
    *(
        (call, ValueError, f"{got} = (2, 3). Did you mean {meant}?")
        for call, got, meant in (
            ("dy.affine_transform([y, W, M])", "x_1", "W * transpose(x)"),
            ("lstm.initial_state().transduce(M)", "x", "transpose(x)"),
        )
    ),
    *(
        (call, ValueError, f"{name} must have 3 rows; got dim (2, 3). Did you mean transpose(")
        for call, name in (
            ("dy.Linear(3, 4, m)(M)", "x"),
            ("dy.MLP([3, 4], m)(M)", "x"),
            ("dy.LayerNorm(3, m)(M)", "x"),
            ("dy.MultiHeadAttention(3, 1, m)(M, M)", "query"),
        )
    ),
    (
        "lstm.initial_state().add_input(M)",
        ValueError,
        "got x_1 = (2, 3). A batch of inputs is inputTensor(a.T, batched=True).",
    ),
    # names of other toolkits
    (
        "dy.relu(x)",
        AttributeError,
        "module 'dist_dynet' has no attribute 'relu'. Write dy.rectify() here.",
    ),
    (
        "dy.schedules.StepLR(trainer, 10)",
        AttributeError,
        "module 'dist_dynet.schedules' has no attribute 'StepLR'. Learning-rate schedules are",
    ),
    (
        "dy.multinomial(dy.softmax(x), 1)",
        AttributeError,
        "Write dy.sample_categorical(x) of scores x, or of dy.log(p) of probabilities p, here.",
    ),
    ("dy.distributions.Categorical(x)", AttributeError, "Write dy.sample_categorical(x) of scores"),
    ("dy.scatter_add(x, 0, [1], y)", AttributeError, "x * A with a matrix A of ones and zeros"),
    ("x.scatter_add(0, [1], y)", AttributeError, "x * A with a matrix A of ones and zeros"),
    (
        "x.retain_grad()",
        AttributeError,
        "Write x.gradient() after backward(full=True) here.",
    ),
    ("x.long()", AttributeError, "has no attribute 'long'. Write x.npvalue() here."),
    ("dy.cat([x, y])", AttributeError, "Write dy.concatenate() here."),
    ("dy.Embedding(10, 3)", AttributeError, "Write m.add_lookup_parameters() here."),
    ("x.shape", AttributeError, "has no attribute 'shape'. Write x.dim() here."),
    ("s.item()", AttributeError, "has no attribute 'item'. Write x.value() here."),
    ("x.detach()", AttributeError, "has no attribute 'detach'. Write dy.nobackprop() here."),
    ("W.T", AttributeError, "has no attribute 'T'. Write dy.transpose() here."),
    (
        "W.grad",
        AttributeError,
        (
            "'Parameters' object has no attribute 'grad'. Write p.grad_as_array() or"
            " p.set_gradient() here."
        ),
    ),
    ("W.grad = 3", AttributeError, "Write p.grad_as_array() or p.set_gradient() here."),
    ("trainer.lr = 0.1", AttributeError, "Write trainer.learning_rate here."),
    (
        "W.data",
        AttributeError,
        "'Parameters' object has no attribute 'data'. Write p.as_array() here.",
    ),
    (
        "E.weight",
        AttributeError,
        "'LookupParameters' object has no attribute 'weight'. Write p.as_array() here.",
    ),
    (
        "m.parameters()",
        AttributeError,
        (
            "'ParameterCollection' object has no attribute 'parameters'. Write m.parameters_list()"
            " here."
        ),
    ),
    (
        "m.state_dict()",
        AttributeError,
        "'ParameterCollection' object has no attribute 'state_dict'. Write m.save() here.",
    ),
    ("m.nonsense", AttributeError, "'ParameterCollection' object has no attribute 'nonsense'"),
    (
        "trainer.step()",
        AttributeError,
        "'SimpleSGDTrainer' object has no attribute 'step'. Write trainer.update() here.",
    ),
    (
        "trainer.zero_grad()",
        AttributeError,
        "no attribute 'zero_grad'. Leave it out: update() forgets the gradients.",
    ),
    (
        "dy.parallel.DistributedTrainer(trainer).step()",
        AttributeError,
        "has no attribute 'step'. Write trainer.update() here.",
    ),
    ("trainer.lr", AttributeError, "has no attribute 'lr'. Write trainer.learning_rate here."),
    ("dy.nonsense(x)", AttributeError, "module 'dist_dynet' has no attribute 'nonsense'"),
    (
        "dy.parallel.get_rank()",
        AttributeError,
        "module 'dist_dynet.parallel' has no attribute 'get_rank'. Write dy.parallel.rank() here.",
    ),
    (
        "dy.parallel.init()",
        AttributeError,
        "has no attribute 'init'. Leave it out: dy.parallel finds the ranks that mpirun has",
    ),
    ("m.save('model', W)", TypeError, "save: the key must be text; got Parameters."),
    ("m.save('model', None)", TypeError, "save: the key must be text; got NoneType."),
    ("W.save('model', ['W'])", TypeError, "save: the key must be text; got list."),
    ("m.populate('model', W)", TypeError, "populate: the key must be text; got Parameters."),
    ("W.populate('model', 3)", TypeError, "populate: the key must be text; got int."),
    ("m.load_param('model', W)", TypeError, "load_param: the key must be text; got Parameters."),
    ("dy.esum([[x]])", TypeError, "esum: takes expressions; got list."),
    (
        "lstm.transduce([x])",
        AttributeError,
        "has no attribute 'transduce'. Write builder.initial_state().transduce() here.",
    ),
    (
        "lstm.add_input(x)",
        AttributeError,
        "has no attribute 'add_input'. Write builder.initial_state().add_input() here.",
    ),
    (
        "dy.BiRNNBuilder(1, 3, 4, m, dy.GRUBuilder).initial_state()",
        AttributeError,
        "has no attribute 'initial_state'. Write birnn.transduce(), or birnn.add_inputs() here.",
    ),
    ("m.load('file')", AttributeError, "has no attribute 'load'. Write m.populate() here."),
    # values
    (
        "s > 0",
        TypeError,
        "expressions have no order; got 'Expression' > 'int'. Compare values, as by x.value().",
    ),
    ("if 0 >= W: pass", TypeError, "expressions have no order; got 'Parameters' <= 'int'."),
    ("max([s, s])", TypeError, "Compare values, as by x.value()."),
    ("sorted([(1, x), (1, y)])", TypeError, "Compare values, as by x.value()."),
    ("f'{x:.3f}'", ValueError, "the expression must be one number; got (3,) x 1."),
    (
        "W * [1, 2, 3]",
        TypeError,
        "matmul: takes expressions, numbers and arrays; got list. Make one of numbers by inputVec",
    ),
    ("(1, 2, 3) * x", TypeError, "matmul: takes expressions, numbers and arrays; got tuple."),
    ("x - [1, 2, 3]", TypeError, "subtract: takes expressions, numbers and arrays; got list."),
    ("E[x.tensor_value()]", TypeError, "lookup: the index must be an integer; got <Dynet"),
    ("int(xb.tensor_value().argmax())", TypeError, "Tensor: must hold one integer; got (1, 2) of"),
    ("float(x.tensor_value())", TypeError, "Tensor: must hold one number; got (3,) of them."),
    (
        "dy.average([dy.squared_norm(x) for _ in []])",
        AssertionError,
        "nothing to average. Where that may be, as on a rank that is left without examples, write",
    ),
    # states, trainers, functions
    (
        "dy.concatenate([lstm.initial_state().add_input(x), x])",
        TypeError,
        "concatenate: takes expressions; got RNNState. That of a state is state.output().",
    ),
    ("dy.tanh(lstm.initial_state())", TypeError, "tanh: takes expressions; got RNNState. That of"),
    ("dy.Linear(2, 2, m)(lstm.initial_state())", TypeError, "That of a state is state.output()."),
    ("dy.training.Run(m)", TypeError, "training.Run: takes a trainer; got ParameterCollection."),
    # numbers that are none
    ("W.scale('a')", TypeError, "scale: takes numbers; got 'a'."),
    ("E.scale(None)", TypeError, "scale: takes numbers; float() argument"),
    ("W.scale_gradient('a')", TypeError, "scale_gradient: takes numbers; got 'a'."),
    ("W.clip_inplace(1, -1)", ValueError, "clip_inplace: left must not be above right; got left"),
    ("W.clip_inplace(0, np.nan)", ValueError, "must not be above right; got left = 0, right = nan"),
    ("m.copy_from(m, share='a')", TypeError, "copy_from: share: takes numbers; got 'a'."),
    ("m.set_weight_decay('a')", TypeError, "set_weight_decay: takes numbers; got 'a'."),
    ("dy.BinaryTreeLSTMBuilder(1, 1, m, 'a')", TypeError, "forget_bias: takes numbers; got 'a'."),
    (
        "dy.schedules.Linear(trainer, 3, end=1e309)",
        ValueError,
        "Linear: end must be finite as float",
    ),
    ("dy.schedules.Constant(trainer, 'a')", TypeError, "Constant: base must be a number; got 'a'."),
    ("dy.schedules.Linear(trainer, 3, None)", TypeError, "Linear: end must be a number; got None."),
    ("dy.schedules.Plateau(trainer).step('a')", TypeError, "step: the measure must be a number"),
    ("dy.parallel.barrier('1')", TypeError, "barrier: timeout must be a number; got '1'"),
    ("dy.parallel.barrier(-1)", ValueError, "barrier: timeout must be 0 seconds or more; got -1"),
    ("trainer.log(loss='0.1')", TypeError, "log: loss must be a number; got '0.1'."),
    ("trainer.log(loss=10**400)", TypeError, "log: loss must be a number; got 1000"),
    ("dy.AdamTrainer(m, '0.1')", TypeError, "the learning rate must be a number; got '0.1'."),
    ("dy.parallel.DistributedTrainer(trainer).update(x)", TypeError, "shard(); got an expression"),
    ("dy.training.Run(trainer).log(loss='a')", TypeError, "log: loss must be a number; got 'a'."),
    ("dy.training.Run(trainer).log('a', x=1)", TypeError, "log: the weight must be a number"),
    ("dy.training.Best(m).update(10**400)", TypeError, "Best: the score must be a number; got"),
    ("dy.parallel.broadcast_parameters(trainer)", TypeError, "takes a ParameterCollection; got"),
    ("dy.parallel.assert_in_sync(None)", TypeError, "takes a ParameterCollection; got None"),
    (
        "dy.parallel.evaluate([1, 2], len)",
        TypeError,
        "evaluate: takes a function, then the data; got list and builtin_function_or_method.",
    ),
    (
        "dy.parallel.evaluate(len, 5)",
        TypeError,
        "evaluate: takes a function, then the data; got builtin_function_or_method and int.",
    ),
    (
        "dy.parallel.DistributedTrainer(trainer, reproducible=True, compression='bf16')",
        ValueError,
        "reproducible=True takes no compression and no accumulation",
    ),
    # names in a vocabulary
    ("dy.Vocabulary(['a'])[5]", TypeError, "Vocabulary: names must be texts; got 5."),
    ("dy.Vocabulary(['a']).ids([['a']])", TypeError, "texts; got ['a']. For sentences: a flat"),
    ("dy.Vocabulary(['a']).ids([None])", TypeError, "Vocabulary: names must be texts; got None."),
    (
        "dy.Vocabulary([['a', 'b'], ['c']])",
        TypeError,
        "Vocabulary: names must be texts; got ['a', 'b']. For sentences: a flat list of their",
    ),
    ("dy.Vocabulary(3)", TypeError, "Vocabulary: names must be texts in a list; got 3."),
    # a graph for each example
    (
        "for loss in [dy.squared_norm(W * x)] * 2: loss.backward(); trainer.update()",
        RuntimeError,
        "renew_cg()",
    ),
    # expressions belong to a graph of this process
    (
        "pickle.dumps(x)",
        TypeError,
        "an expression cannot be pickled: its graph lives in this process.",
    ),
    ("pickle.dumps({'loss': s})", TypeError, "Take its numbers, by value() or npvalue()."),
]


@pytest.mark.parametrize(("line", "error", "words"), MISTAKES, ids=[line for line, *_ in MISTAKES])
def test_mistake_is_an_error_in_a_message(line, error, words):
    with pytest.raises(error, match=re.escape(words)):
        exec(line, surroundings())
    assert dy.inputVector([1, 2]).value() == [1, 2]  # and all goes on


MEANT = [
    ("dy.Linear(6 / 2, np.int64(2), m).spec", (3, 2, True)),
    ("dy.VanillaLSTMBuilder(1, 3, 4 / 2, m).spec[:3]", (1, 3, 2)),
    (
        "m.add_parameters((2, 3), init=dy.NumpyInitializer(np.arange(6))).as_array().tolist()",
        [[0, 2, 4], [1, 3, 5]],
    ),
    (
        "m.add_parameters(3, init=dy.NumpyInitializer([[1], [2], [3]])).as_array().tolist()",
        [1, 2, 3],
    ),
    (
        (
            "dy.lookup_batch(E, np.array([1.0, 2.0])).vec_value() == dy.lookup_batch(E, [1,"
            " 2]).vec_value()"
        ),
        True,
    ),
    ("dy.inputTensor(np.ma.array([1, 2])).value()", [1, 2]),
    ("E[2.0].value() == E[np.int64(2)].value() == E[np.array(2)].value()", True),
    ("dy.pickneglogsoftmax(x, np.array(1)).value() == dy.pickneglogsoftmax(x, 1.0).value()", True),
    ("dy.inputVector(range(3)).value()", [0, 1, 2]),
    ("dy.inputVector((k for k in (1, True, np.float32(3)))).value()", [1, 1, 3]),
    ("dy.inputVector([np.float64(1), np.array(2)]).value()", [1, 2]),
    ("copy.copy(x).value(), copy.deepcopy([x])[0].value()", ([1, 2, 3], [1, 2, 3])),
    (
        (
            "copy.deepcopy(W).as_array().tolist() == W.as_array().tolist() and copy.deepcopy(W) is"
            " not W"
        ),
        True,
    ),
    ("pickle.loads(pickle.dumps(W)).shape()", (2, 3)),
    ("f'{dy.scalarInput(1.5):.2f} {dy.scalarInput(3):8.1e}'", "1.50  3.0e+00"),
    ("f'{x}'", "input (3,)"),
    ("abs(x - y).value(), abs(dy.sum_elems(-W)).value() > 0", ([2, 0, 2], True)),
    ("round(dy.scalarInput(1.25), 1), round(dy.scalarInput(2.75))", (1.2, 3)),
    # indices that are tensors
    ("x.tensor_value().argmax() == 2, x.tensor_value().argmax() != 1", (True, True)),
    ("(xb.tensor_value().argmax() == [0, 1]).tolist()", [[True, False]]),
    ("x.tensor_value().argmax() in (0, None, 2), x.tensor_value() == None", (True, False)),
    ("E[x.tensor_value().argmax()].value() == E[2].value()", True),
    ("'abc'[x.tensor_value().argmax()], float(dy.ones(1).tensor_value())", ("c", 1)),
    ("np.argmax(x.tensor_value()), np.asarray(y.tensor_value()).tolist()", (2, [3, 2, 1])),
]


@pytest.mark.parametrize(("line", "result"), MEANT, ids=[line for line, _ in MEANT])
def test_habit_has_the_result_that_was_meant(line, result):
    assert eval(line, surroundings()) == result


def test_subclasses_of_trainers_may_use_names_of_other_toolkits():
    class Warm(dy.SimpleSGDTrainer):
        def __init__(self, m):
            super().__init__(m)
            self.step = 3

        def zero_grad(self):
            return "mine"

    trainer = Warm(dy.ParameterCollection())
    assert trainer.step == 3 and trainer.zero_grad() == "mine" and not hasattr(trainer, "lr")
    trainer.lr = 0.5
    assert trainer.lr == 0.5


def test_names_of_other_toolkits_lead_to_names_that_there_are():
    owners = {
        "m": dy.ParameterCollection,
        "x": dy.Expression,
        "loss": dy.Expression,
        "parallel": dy.parallel,
    }
    for theirs, here in WRITTEN_HERE.items():
        assert not hasattr(dy, theirs), theirs
        owner, _, name = here.rpartition(".")
        assert hasattr(owners.get(owner, dy), name), here
    for owner, name, sentence in (
        *((dy, *item) for item in _hints.SENTENCES.items()),
        *((dy.parallel, *item) for item in _hints.OF_PARALLEL.items()),
    ):
        assert not hasattr(owner, name) and not (owner is dy and name in WRITTEN_HERE), name
        for path in re.findall(r"\bdy\.(\w+(?:\.\w+)*)", sentence):
            assert attrgetter(path)(dy), sentence


def test_nothing_else_is_suggested_where_there_is_a_hint(capsys):
    for name in {**WRITTEN_HERE, **_hints.SENTENCES}:
        with pytest.raises(AttributeError) as caught:
            getattr(dy, name)
        for _ in range(2):
            shorten(caught.value)
        sys.__excepthook__(AttributeError, caught.value, None)
        written = capsys.readouterr().err
        assert written.endswith(f"{_hints.hint(name)}\n") and "Did you mean" not in written


@pytest.mark.parametrize("name", _hints.of_functions(dy.ops.OPERATIONS))
def test_functions_that_are_asked_of_expressions_are_hinted_at(name):
    m = dy.ParameterCollection()
    for thing in dy.ones(2), m.add_parameters(2), m.add_lookup_parameters((2, 2)):
        try:
            assert callable(getattr(thing, name)), name
        except AttributeError as error:
            assert re.search(r"'\. [A-Zd].+\.$", str(error)), error
            assert name not in dir(thing)


@pytest.mark.parametrize("module", [dy, dy.nn, dy.parallel, dy.schedules])
def test_a_name_without_a_hint_ends_as_python_s_does(module):
    with pytest.raises(AttributeError, match=r"has no attribute 'nonsense'$"):
        module.nonsense  # noqa: B018


Y = np.array([3, -0.5, 1], np.float32)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("leaky_relu", lambda x, a: np.maximum(x, a * x)),
        ("softplus", lambda x, a: np.logaddexp(0, x)),
        ("var", lambda x, a: np.var(x)),
        ("prod", lambda x, a: np.prod(x)),
        ("zeros_like", lambda x, a: np.zeros_like(x)),
        ("ones_like", lambda x, a: np.ones_like(x)),
        ("cosine_similarity", lambda x, a: x @ Y / np.sqrt(x @ x * (Y @ Y))),
        ("diag", lambda x, a: np.diag(x)),
        ("expm1", lambda x, a: np.expm1(x)),
        ("glu", lambda x, a: x / (1 + np.exp(-Y))),
        ("log10", lambda x, a: np.log10(x)),
        ("log1p", lambda x, a: np.log1p(x)),
        ("log2", lambda x, a: np.log2(x)),
        ("logaddexp", lambda x, a: np.logaddexp(x, Y)),
        ("normalize", lambda x, a: x / np.sqrt(x @ x)),
        ("pad", lambda x, a: np.pad(x, (0, 3))),
        ("pairwise_distance", lambda x, a: np.linalg.norm(x - Y)),
        ("power", lambda x, a: x**3),
        ("reciprocal", lambda x, a: 1 / x),
        ("sign", lambda x, a: np.sign(x)),
        ("softmin", lambda x, a: np.exp(-x) / np.exp(-x).sum()),
        ("tril", lambda x, a: np.tril(np.outer(np.ones(3), x))),
        ("triu", lambda x, a: np.triu(np.outer(np.ones(3), x))),
        ("trace", lambda x, a: x.sum()),
        ("triplet_margin_loss", lambda x, a: 1 + np.linalg.norm(x - Y)),
    ],
)
def test_formulas_in_place_of_functions_give_their_values(name, value):
    sentence = _hints.SENTENCES[name]
    formula = re.fullmatch(r"Write (.+?)(,? of .+| for .+)? here.*", sentence)[1]
    positive = name == "prod" or "log" in name
    array = np.array([0.5, 2, 3] if positive else [-2, 0.5, 3], np.float32)
    x, y = dy.inputVector(array), dy.inputVector(Y)
    if name in ("tril", "triu", "trace"):  # a matrix with x in each row, or in its diagonal
        x = dy.inputTensor(np.diag(array) if name == "trace" else np.outer(np.ones(3), array))
    names = {"a": 0.25, "n": 3, "dy": dy, "numpy": np, "math": math, "same": y, "other": x}
    found = eval(formula, names | {"x": x, "y": y}).npvalue()
    np.testing.assert_allclose(found.squeeze(), value(array, 0.25), rtol=1e-5)


@pytest.mark.parametrize(
    ("cls", "attributes"),
    [
        (dy.Expression, _hints.OF_EXPRESSIONS),
        (dy.Parameters, _hints.OF_PARAMETERS),
        (dy.LookupParameters, _hints.OF_TABLES),
        (dy.ParameterCollection, _hints.OF_COLLECTIONS),
        (dy.Trainer, _hints.OF_TRAINERS),
        (dy.parallel.DistributedTrainer, _hints.OF_TRAINERS),
        (dy.VanillaLSTMBuilder, _hints.OF_OWNERS),
        (dy.Linear, _hints.OF_OWNERS),
        (dy.Vocabulary, _hints.OF_VOCABULARIES),
        (dy.schedules.Cosine, _hints.OF_SCHEDULES),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_attributes_of_other_toolkits_lead_to_what_there_is(cls, attributes):
    owners = {
        "m": dy.ParameterCollection,
        "x": dy.Expression,
        "p": dy.Parameters,
        "E": dy.LookupParameters,
        "trainer": dy.Trainer,
        "words": dy.Vocabulary,
        "dy": dy,
    }
    for theirs, here in attributes.items():
        with pytest.raises(AttributeError, match=re.escape(here)):
            getattr(cls, theirs)
        for owner, name in re.findall(r"(\w+)\.(\w+)", here):
            assert hasattr(owners.get(owner, np.ndarray), name), here


def test_attributes_of_other_toolkits_are_not_offered():
    m = dy.ParameterCollection()
    for thing in (
        m,
        dy.SimpleSGDTrainer(m),
        m.add_parameters(2),
        m.add_lookup_parameters((2, 2)),
        dy.scalarInput(1),
    ):
        assert all(hasattr(thing, name) for name in dir(thing)), thing
