"""Morphological inflection: pointers into the word, states set by hand, subclassed builders, user classes in dy.save, scheduled rates."""

import random
import tempfile
from pathlib import Path

import corpus
import dynet as dy
import numpy as np

BEGIN, END, STEP = "<", ">", "^"
ALPHABET = [*"abcdeiou", BEGIN, END, STEP]
c2i = {c: i for i, c in enumerate(ALPHABET)}


class Dense:
    def __init__(self, model, out_dim, in_dim):
        self.pc = model.add_subcollection("dense")
        self.spec = (out_dim, in_dim)
        self.W = self.pc.add_parameters((out_dim, in_dim), init=dy.GlorotInitializer(gain=0.5), name="W")
        self.b = self.pc.add_parameters((out_dim,), init=0, name="b")

    def param_collection(self):
        return self.pc

    @classmethod
    def from_spec(cls, spec, model):
        return cls(model, *spec)

    def __call__(self, x):
        return self.W * x + self.b


class Decoder(dy.CoupledLSTMBuilder):
    """A builder of one's own."""

    def zero_state(self):
        return self.initial_state([dy.vecInput(10), dy.vecInput(10)])


class Inflector(object):
    def __init__(self):
        self.model = dy.ParameterCollection()
        self.E = self.model.add_lookup_parameters((len(ALPHABET), 8))
        self.encoder = dy.BiRNNBuilder(1, 8, 12, self.model, lambda layers, i, h, m: dy.LSTMBuilder(layers, i, h, m))
        self.decoder = Decoder(1, 12 + 8, 10, self.model)
        self.out = Dense(self.model, len(ALPHABET), 10)
        self.bridge = Dense(self.model, 10, 12)

    def loss(self, source, target):
        xs = [self.E[c2i[c]] for c in BEGIN + source + END]
        blstm = self.encoder.transduce(xs)
        pointer, previous = 0, self.E[c2i[BEGIN]]
        state = self.decoder.zero_state()
        state = state.set_h([dy.tanh(self.bridge(blstm[-1]))])
        losses = []
        for c in self.actions(source, target):
            state = state.add_input(dy.concatenate([blstm[pointer], previous]))
            losses.append(dy.pickneglogsoftmax(self.out(state.output()), c2i[c]))
            previous = self.E[c2i[c]]
            if c == STEP:
                pointer = min(pointer + 1, len(xs) - 1)
        return dy.average(losses)

    @staticmethod
    def actions(source, target):
        result = []
        for i, c in enumerate(target):
            result.append(c)
            if i < len(source):
                result.append(STEP)
        return [*result, END]


random.seed(1)
data = corpus.pairs(16, seed=12)
inflector = Inflector()
trainer = dy.AdadeltaTrainer(inflector.model)
half = dy.CyclicalSGDTrainer(inflector.model, learning_rate_min=0.01, learning_rate_max=0.1, step_size=10)
inflector.decoder.set_dropout(0.25)
for epoch in range(4):
    random.shuffle(data)
    trainer_now = trainer if epoch < 2 else half
    total = 0.0
    for i in range(0, len(data), 4):
        dy.renew_cg()
        loss = dy.esum([inflector.loss(s, t) for s, t in data[i:i + 4]])
        total += loss.value()
        loss.backward()
        trainer_now.update()
    print("epoch", epoch, "loss", total / len(data))
inflector.decoder.disable_dropout()
with tempfile.TemporaryDirectory() as folder:
    base = str(Path(folder) / "inflector")
    dy.save(base, [inflector.out, inflector.E])
    pc = dy.ParameterCollection()
    out, E = dy.load(base, pc)
    dy.renew_cg()
    print(np.round(out(dy.ones(10)).npvalue(), 5).tolist(), E.shape(), [p.name() for p in pc.parameters_list()])
    print(isinstance(out, Dense), isinstance(E, dy.LookupParameters), isinstance(inflector.decoder, dy.CoupledLSTMBuilder))
