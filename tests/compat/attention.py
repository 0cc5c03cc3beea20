"""An encoder-decoder with attention, in the manner of DyNet's own example: greedy, sampled and beam-searched output."""

import math
import random

import corpus
import dynet as dy

EOS = "<EOS>"
CHARACTERS = [*"abcdeiou", EOS]
int2char = list(CHARACTERS)
char2int = {c: i for i, c in enumerate(CHARACTERS)}
VOCAB_SIZE = len(CHARACTERS)
NUM_LAYERS, EMBEDDINGS_SIZE, STATE_SIZE, ATTENTION_SIZE = 1, 10, 14, 12

model = dy.ParameterCollection()
enc_fwd_lstm = dy.LSTMBuilder(NUM_LAYERS, EMBEDDINGS_SIZE, STATE_SIZE, model)
enc_bwd_lstm = dy.LSTMBuilder(NUM_LAYERS, EMBEDDINGS_SIZE, STATE_SIZE, model)
dec_lstm = dy.LSTMBuilder(NUM_LAYERS, STATE_SIZE * 2 + EMBEDDINGS_SIZE, STATE_SIZE, model)
input_lookup = model.add_lookup_parameters((VOCAB_SIZE, EMBEDDINGS_SIZE))
attention_w1 = model.add_parameters((ATTENTION_SIZE, STATE_SIZE * 2))
attention_w2 = model.add_parameters((ATTENTION_SIZE, STATE_SIZE * NUM_LAYERS * 2))
attention_v = model.add_parameters((1, ATTENTION_SIZE))
decoder_w = model.add_parameters((VOCAB_SIZE, STATE_SIZE))
decoder_b = model.add_parameters((VOCAB_SIZE))
output_lookup = model.add_lookup_parameters((VOCAB_SIZE, EMBEDDINGS_SIZE))


def embed_sentence(sentence):
    return [input_lookup[char2int[char]] for char in [EOS, *sentence, EOS]]


def run_lstm(init_state, input_vecs):
    s = init_state
    out_vectors = []
    for vector in input_vecs:
        s = s.add_input(vector)
        out_vectors.append(s.output())
    return out_vectors


def encode_sentence(sentence):
    sentence_rev = list(reversed(sentence))
    fwd_vectors = run_lstm(enc_fwd_lstm.initial_state(), sentence)
    bwd_vectors = list(reversed(run_lstm(enc_bwd_lstm.initial_state(), sentence_rev)))
    return [dy.concatenate(list(p)) for p in zip(fwd_vectors, bwd_vectors)]


def attend(input_mat, state, w1dt):
    w2, v = dy.parameter(attention_w2), dy.parameter(attention_v)
    w2dt = w2 * dy.concatenate(list(state.s()))
    unnormalized = dy.transpose(v * dy.tanh(dy.colwise_add(w1dt, w2dt)))
    return input_mat * dy.softmax(unnormalized)


def start(encoded):
    input_mat = dy.concatenate_cols(encoded)
    w1dt = dy.parameter(attention_w1) * input_mat
    s = dec_lstm.initial_state().add_input(dy.concatenate([dy.vecInput(STATE_SIZE * 2), output_lookup[char2int[EOS]]]))
    return input_mat, w1dt, s


def decode(vectors, output):
    w, b = dy.parameter(decoder_w), dy.parameter(decoder_b)
    input_mat, w1dt, s = start(vectors)
    last = output_lookup[char2int[EOS]]
    loss = []
    for char in [*output, EOS]:
        s = s.add_input(dy.concatenate([attend(input_mat, s, w1dt), last]))
        probs = dy.softmax(w * s.output() + b)
        last = output_lookup[char2int[char]]
        loss.append(-dy.log(dy.pick(probs, char2int[char])))
    return dy.esum(loss)


def sample(probs):
    rnd = random.random()
    for i, p in enumerate(probs):
        rnd -= p
        if rnd <= 0:
            break
    return i


def generate(text, choose):
    encoded = encode_sentence(embed_sentence(text))
    input_mat, w1dt, s = start(encoded)
    last, out, count = output_lookup[char2int[EOS]], "", 0
    while count < 12:
        s = s.add_input(dy.concatenate([attend(input_mat, s, w1dt), last]))
        probs = dy.softmax(decoder_w * s.output() + decoder_b).vec_value()
        nxt = choose(probs)
        last = output_lookup[nxt]
        if int2char[nxt] == EOS:
            break
        out += int2char[nxt]
        count += 1
    return out


def beam_search(text, width=3):
    input_mat, w1dt, s = start(encode_sentence(embed_sentence(text)))
    beam, done = [(0.0, "", s, output_lookup[char2int[EOS]])], []
    for _ in range(12):
        grown = []
        for score, out, state, last in beam:
            state = state.add_input(dy.concatenate([attend(input_mat, state, w1dt), last]))
            logs = dy.log_softmax(dy.affine_transform([decoder_b, decoder_w, state.output()])).npvalue()
            for i in logs.argsort()[::-1][:width]:
                grown.append((score + logs[i], out, int(i), state))
        grown.sort(key=lambda item: -item[0])
        beam = []
        for score, out, i, state in grown[:width]:
            if int2char[i] == EOS:
                done.append((score, out))
            else:
                beam.append((score, out + int2char[i], state, output_lookup[i]))
        if not beam:
            break
    done = done or [(score, out) for score, out, _, _ in beam]
    return max(done, key=lambda item: item[0] / (len(item[1]) + 1))


random.seed(11)
trainer = dy.SimpleSGDTrainer(model)
data = corpus.pairs(12)
for epoch in range(6):
    total = 0.0
    for source, target in data:
        dy.renew_cg()
        loss = decode(encode_sentence(embed_sentence(source)), target)
        total += loss.value()
        loss.backward()
        trainer.update()
    print("epoch", epoch, total / len(data), "perplexity", math.exp(total / sum(len(t) + 1 for _, t in data)))
dy.renew_cg()
print("greedy", generate(data[0][0], lambda probs: probs.index(max(probs))))
print("sampled", generate(data[1][0], sample))
print("beam", beam_search(data[2][0]))
