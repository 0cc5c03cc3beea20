"""A word language model: minibatches with masks, a class-factored softmax, a sparse Adagrad, generation by sampling."""

import random
import tempfile
import time
from pathlib import Path

import corpus
import dynet as dy

start = time.time()
random.seed(8)
sentences = [[w for w, _ in s] + ["<s>"] for s in corpus.tagged(32, seed=9)]
vocabulary = sorted({w for s in sentences for w in s})
w2i = {w: i for i, w in enumerate(vocabulary)}
classes = {w: ("D" if w in corpus.DETERMINERS else "N" if w in corpus.NOUNS else "V" if w in corpus.VERBS else
               "E" if w == "<s>" else "O") for w in vocabulary}


class RNNLanguageModel:
    def __init__(self, model, layers, input_dim, hidden_dim, cluster_file, builder=dy.SimpleRNNBuilder):
        self.builder = builder(layers, input_dim, hidden_dim, model)
        self.lookup = model.add_lookup_parameters((len(w2i), input_dim), init="uniform", scale=0.2)
        self.softmax = dy.ClassFactoredSoftmaxBuilder(hidden_dim, cluster_file, w2i, model)
        self.full = dy.StandardSoftmaxBuilder(hidden_dim, len(w2i), model)

    def loss(self, sentence):
        dy.renew_cg()
        state = self.builder.initial_state()
        errs = []
        previous = w2i["<s>"]
        for word in sentence:
            state = state.add_input(dy.lookup(self.lookup, previous))
            errs.append(self.softmax.neg_log_softmax(state.output(), w2i[word]))
            previous = w2i[word]
        return dy.esum(errs)

    def batch_loss(self, batch):
        dy.renew_cg()
        longest = max(len(s) for s in batch)
        masks = [[1.0 if i < len(s) else 0.0 for s in batch] for i in range(longest)]
        ids = [[w2i[s[i]] if i < len(s) else w2i["<s>"] for s in batch] for i in range(longest)]
        state = self.builder.initial_state()
        previous, losses = [w2i["<s>"]] * len(batch), []
        for step, mask in zip(ids, masks):
            state = state.add_input(dy.lookup_batch(self.lookup, previous))
            loss = self.full.neg_log_softmax_batch(state.output(), step)
            if 0.0 in mask:
                loss = dy.cmult(loss, dy.reshape(dy.inputVector(mask), (1,), len(batch)))
            losses.append(loss)
            previous = step
        return dy.sum_batches(dy.esum(losses))

    def sample(self, nchars=10):
        dy.renew_cg()
        state = self.builder.initial_state()
        word, out = w2i["<s>"], []
        while len(out) < nchars:
            state = state.add_input(self.lookup[word])
            word = self.softmax.sample(state.output())
            out.append(vocabulary[word])
            if out[-1] == "<s>":
                break
        return out


with tempfile.TemporaryDirectory() as folder:
    clusters = Path(folder) / "clusters.txt"
    clusters.write_text("".join("%s %s 1\n" % (classes[w], w) for w in vocabulary))
    model = dy.ParameterCollection()
    lm = RNNLanguageModel(model, 1, 10, 16, str(clusters))
    gru = RNNLanguageModel(model, 2, 10, 16, str(clusters), dy.GRUBuilder)
gru.builder.set_dropout(0.2)
trainer = dy.AdagradTrainer(model, 0.1)
for epoch in range(3):
    random.shuffle(sentences)
    total, words = 0.0, 0
    for sentence in sentences:
        loss = lm.loss(sentence)
        total += loss.scalar_value()
        words += len(sentence)
        loss.backward()
        trainer.update()
    batched = 0.0
    for i in range(0, len(sentences), 8):
        loss = gru.batch_loss(sentences[i:i + 8])
        batched += loss.scalar_value()
        loss.backward()
        trainer.update()
    trainer.learning_rate = trainer.learning_rate * 0.9
    print("epoch", epoch, "nll", total / words, "batched", batched / words, "rate %.6f" % trainer.learning_rate)
    print("sample", *lm.sample())
assert time.time() > start
