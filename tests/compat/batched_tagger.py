"""A tagger over words and characters, trained on minibatches that are batched on the fly; sentences of unlike lengths."""

import dynet as dy

TEXT = ["the dog barks", "a cat sleeps on the mat", "dogs bark", "the old cat sees a dog", "mats lie"]
TAGS = [[0, 1, 2], [0, 1, 2, 3, 0, 1], [1, 2], [0, 4, 1, 2, 0, 1], [1, 2]]
words = sorted({w for line in TEXT for w in line.split()})
letters = sorted({c for w in words for c in w})
W, C = {w: i for i, w in enumerate(words)}, {c: i for i, c in enumerate(letters)}

m = dy.ParameterCollection()
trainer = dy.AdamTrainer(m)
E, L = m.add_lookup_parameters((len(W), 6)), m.add_lookup_parameters((len(C), 4))
ahead, back = dy.VanillaLSTMBuilder(1, 4, 3, m), dy.VanillaLSTMBuilder(1, 4, 3, m)
rnn, H, O = dy.BiRNNBuilder(1, 12, 8, m, dy.VanillaLSTMBuilder), m.add_parameters((6, 8)), m.add_parameters((5, 6))


def represent(word):
    cs = [L[C[c]] for c in word]
    return dy.concatenate([E[W[word]], ahead.initial_state().transduce(cs)[-1], back.initial_state().transduce(cs[::-1])[-1]])


def scores(sentence):
    return [O * dy.tanh(H * h) for h in rnn.transduce([represent(w) for w in sentence])]


def losses(line, tags):
    return [dy.pickneglogsoftmax(s, t) for s, t in zip(scores(line.split()), tags)]


for epoch in range(6):
    dy.renew_cg(autobatching=epoch % 2 == 1)
    loss = dy.esum([each for line, tags in zip(TEXT, TAGS) for each in losses(line, tags)])
    print(epoch, f"{loss.value():.4f}")
    loss.backward()
    trainer.update()
dy.renew_cg()
print([[f"{v:.3f}" for v in s.npvalue()] for s in scores("the mat barks".split())])
