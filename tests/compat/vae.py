"""A variational auto-encoder over minibatches: batched inputs, the reparametrisation with random_normal, an annealed KL term, sampling."""

import corpus
import dynet as dy
import numpy as np

DIM, HID, LATENT, BATCH = 12, 16, 3, 8
pc = dy.ParameterCollection()


class MLP(object):
    def __init__(self, pc, din, hid, dout, act=dy.rectify):
        self.pc = pc.add_subcollection("mlp")
        self.W1, self.b1 = self.pc.add_parameters((hid, din)), self.pc.add_parameters((hid,), init=0)
        self.W2, self.b2 = self.pc.add_parameters((dout, hid)), self.pc.add_parameters((dout,), init=0)
        self.act = act
        self.spec = din, hid, dout

    def __call__(self, x, drop=0.0):
        h = self.act(dy.affine_transform([self.b1, self.W1, x]))
        return dy.affine_transform([self.b2, self.W2, dy.dropout(h, drop) if drop else h])


encoder, decoder = MLP(pc, DIM, HID, 2 * LATENT), MLP(pc, LATENT, HID, DIM, dy.tanh)
trainer = dy.AdamTrainer(pc, alpha=0.01, beta_1=0.9, beta_2=0.999, eps=1e-8)
rng = np.random.RandomState(4)
patterns = (rng.rand(4, DIM) > 0.5).astype(float)
data = np.abs(patterns[rng.randint(4, size=64 * corpus.SCALE)] - (rng.rand(64 * corpus.SCALE, DIM) < 0.05))


def elbo(x, batch, weight, drop=0.1):
    h = encoder(x, drop)
    mu, logvar = dy.pick_range(h, 0, LATENT), dy.pick_range(h, LATENT, 2 * LATENT)
    eps = dy.random_normal(LATENT, batch_size=batch)
    z = mu + dy.cmult(dy.exp(logvar * 0.5), eps)
    probabilities = dy.logistic(decoder(z))
    reconstruction = -dy.sum_elems(
        dy.cmult(x, dy.log(probabilities + 1e-6)) + dy.cmult(-x + 1.0, dy.log(-probabilities + (1.0 + 1e-6)))
    )
    kl = dy.sum_elems(dy.exp(logvar) + dy.square(mu) - logvar - 1.0) * 0.5
    return dy.sum_batches(reconstruction + kl * weight) / batch, kl


for epoch in range(5):
    rng.shuffle(data)
    losses, kls = [], []
    for i in range(0, len(data), BATCH):
        dy.renew_cg()
        x = dy.inputTensor(data[i:i + BATCH].T, batched=True)
        loss, kl = elbo(x, BATCH, min(1.0, 0.2 * epoch))
        losses.append(loss.value())
        kls.append(kl.npvalue().mean())
        loss.backward()
        trainer.update()
    print("epoch", epoch, "loss", np.mean(losses), "kl", np.mean(kls))
dy.renew_cg()
for _ in range(3):
    print((dy.logistic(decoder(dy.random_normal((LATENT,)))).npvalue() > 0.5).astype(int).tolist())
print(dy.random_bernoulli((4,), 0.5).value(), dy.random_uniform((2, 2), -1, 1).npvalue().tolist(), dy.random_gumbel((3,)).value())
