"""Forks beside threads that compute: the child waits for none of them, as it has none of them.

How long: some seconds.
"""

import os

import pytest
from processes import output_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

BESIDE_THREADS = """
import os, signal, threading, numpy as np, dist_dynet as dy
m = dy.ParameterCollection()
W, E = m.add_parameters((50, 50)), m.add_lookup_parameters((9, 50))
trainer, x = dy.AdamTrainer(m), np.ones((50, 40))
def step():
    dy.renew_cg()
    y = dy.tanh(W * dy.inputTensor(x, batched=True)) + E[3]
    dy.sum_batches(dy.sum_elems(y)).backward()
    if UPDATES: trainer.update()
def work():
    while True: step()
for _ in range(2 - UPDATES): threading.Thread(target=work, daemon=True).start()
for _ in range(40):
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        m.reset_gradients()
        step()
        W.set_value(W.as_array() + 1)
        dy.ParameterCollection().add_parameters(3)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
print("done", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("updates", [0, 1])
def test_child_waits_for_no_thread_of_its_parent(updates):
    assert output_of(BESIDE_THREADS.replace("UPDATES", str(updates))) == "done\n"


IN_BACKWARD = """
import os, signal, time, dist_dynet as dy
m = dy.ParameterCollection()
W = m.add_parameters((2, 2), init=1)
forked = []
def backward(xs, y, dy):
    forked.append(os.fork())
    if not forked[0]: signal.alarm(20)
    return [2 * dy]
twice = dy.function(lambda x: 2 * x, backward, lambda d: d)
begin = time.monotonic()
loss = dy.sum_elems(W * twice(W * dy.inputVector([1, 1])))
loss.backward()
m.reset_gradients()
forked.append(0)
dy.renew_cg()
dy.sum_elems(W * dy.inputVector([1, 1])).backward()
assert time.monotonic() - begin < 3
if not forked[0]: os._exit(int(W.grad_as_array().sum()))
print(os.waitstatus_to_exitcode(os.waitpid(forked[0], 0)[1]), W.grad_as_array().sum())
"""


def test_fork_in_a_function_that_backward_calls():
    assert output_of(IN_BACKWARD) == "4 4.0\n"
