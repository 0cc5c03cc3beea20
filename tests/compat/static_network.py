"""Networks that are made once: inputs, rows and targets are set anew, and everything is computed again."""

import dynet as dy

m = dy.ParameterCollection()
W, b, V = m.add_parameters((8, 2)), m.add_parameters(8), m.add_parameters((1, 8))
E, U = m.add_lookup_parameters((5, 3)), m.add_parameters((4, 3))

dy.renew_cg()
x, y = dy.vecInput(2), dy.scalarInput(0)
prediction = dy.logistic(V * dy.tanh(W * x + b))
loss = dy.binary_log_loss(prediction, y)
trainer = dy.SimpleSGDTrainer(m, learning_rate=0.5)
for epoch in range(40):
    total = 0.0
    for question, answer in ((0, 0), 0), ((0, 1), 1), ((1, 0), 1), ((1, 1), 0):
        x.set(question)
        y.set(answer)
        total += loss.value()
        loss.backward()
        trainer.update()
    if epoch % 10 == 9:
        print(epoch, f"{total / 4:.4f}")
for question in ((0, 0), (0, 1), (1, 0), (1, 1)):
    x.set(question)
    print(question, f"{prediction.value(recalculate=True):.4f}")

dy.renew_cg()
row, both = dy.lookup(E, 0), dy.lookup_batch(E, [0, 1])
scores = U * row
target, picked = dy.pickneglogsoftmax(scores, 0), dy.pick(scores, 0)
total = target + dy.squared_norm(picked) * 0.1 + dy.sum_batches(dy.squared_norm(both)) * 0.01
for step in range(6):
    row.set(step % 5)
    both.set([step % 3, (step + 1) % 5])
    print(step, f"{total.value(recalculate=True):.4f} {target.value():.4f} {picked.value():.4f}")
    total.backward()
    trainer.update()
