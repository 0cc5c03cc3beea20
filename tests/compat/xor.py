"""The first program of everybody: xor, once in one graph whose inputs are set, once with a graph for each example, and on with wrong answers."""

import corpus
import dynet as dy

m = dy.Model()
pW = m.add_parameters((8, 2))
pV = m.add_parameters((1, 8))
pb = m.add_parameters(8)
trainer = dy.SimpleSGDTrainer(m)

dy.renew_cg()
W, V, b = dy.parameter(pW, pV, pb)
x = dy.vecInput(2)
y = dy.scalarInput(0)
output = dy.logistic(V * (dy.tanh((W * x) + b)))
loss = dy.binary_log_loss(output, y)

questions = [((0, 0), 0), ((0, 1), 1), ((1, 0), 1), ((1, 1), 0)]
for epoch in range(60 * corpus.SCALE):
    total = 0
    for question, answer in questions:
        x.set(question)
        y.set(answer)
        total += loss.value()
        loss.backward()
        trainer.update()
    if epoch % 10 == 9:
        print("static", epoch, total / 4)

for epoch in range(60 * corpus.SCALE):
    total = 0
    for question, answer in questions:
        dy.renew_cg()
        W = dy.parameter(pW)
        V = dy.parameter(pV)
        b = dy.parameter(pb)
        x = dy.inputVector(question)
        loss = dy.binary_log_loss(dy.logistic(V * dy.tanh(W * x + b)), dy.scalarInput(answer))
        total += loss.scalar_value()
        loss.backward()
        trainer.update()
    if epoch % 10 == 9:
        print("dynamic", epoch, total / 4)

pV.scale(30)  # so sure of itself that logistic() gives exactly 0 or 1
for question, answer in questions * 3:
    dy.renew_cg()
    loss = dy.binary_log_loss(dy.logistic(pV * dy.tanh(pW * dy.inputVector(question) + pb)), dy.scalarInput(1 - answer))
    hidden = dy.squared_norm(pW) * 0.01
    print("sure", loss.value(), hidden.value())
    (loss + hidden).backward()
    trainer.update()
