/* Other recurrent networks over T steps as one node (T = 1: a step); sequence.h says what inputs,
 * ints and the result are. */
#include "sequence.h"

/* ---- simple network (Elman 1990); inputs: Wx (h, k), Wh (h, h), b (h) ----------------- */

DN_OP(simple_rnn, -1, DN_BATCHES | DN_SEVERAL_OUTPUTS | DN_VARIABLE_LENGTH | DN_BROADCAST(7),
      "h_t = tanh(Wx x_t + Wh h_(t-1) + b) for t = 1 ... T")
static void run_simple(const dn_sequence *q, const dn_matrix *w, const double *floats) {
    (void)floats;
    dn__simple_sequence(q, w);
}
static const dn_network SIMPLE = {.takes = "Wx, Wh, b",
                                  .rule = "Wx must be (h, k), Wh (h, h) and b (h)",
                                  .weights = 3,
                                  .gates = 1,
                                  .n_blocks = 1,
                                  .blocks = {{1, 0, 2}},
                                  .n_products = 1,
                                  .products = {{1, 0, DN_OF_H_BEFORE}},
                                  .forward = run_simple,
                                  .backward = dn__simple_sequence_grad};
static int simple_rnn_dims(dn_shape *s) { return dn__network_dims(s, &SIMPLE); }
static void simple_rnn_forward(dn_call *c) { dn__network_forward(c, &SIMPLE); }
static void simple_rnn_backward(dn_call *c) { dn__network_backward(c, &SIMPLE); }

/* ---- GRU (Cho et al. 2014); inputs: Wzx (h, k), Wzh (h, h), bz (h), the same for r and n
 *   z, r = logistic(W x_t + W h_(t-1) + b),  n = tanh(Wnx x_t + Wnh (r h_(t-1)) + bn),
 *   h_t = (1 - z) h_(t-1) + z n */

DN_OP(gru, -1, DN_BATCHES | DN_SEVERAL_OUTPUTS | DN_VARIABLE_LENGTH | DN_BROADCAST(255),
      "h_t = GRU(x_t, h_(t-1)) for t = 1 ... T")
static void run_gru(const dn_sequence *q, const dn_matrix *w, const double *floats) {
    (void)floats;
    dn__gru_sequence(q, w);
}
static const dn_network GRU = {.takes = "Wx, Wh, b of z, r, n",
                               .rule = "each gate has Wx (h, k), Wh (h, h) and b (h)",
                               .weights = 9,
                               .has_extra = 1,
                               .gates = 3,
                               .n_blocks = 3,
                               .blocks = {{1, 0, 2}, {1, 3, 5}, {1, 6, 8}},
                               .n_products = 3,
                               .products = {{1, 0, DN_OF_H_BEFORE},
                                            {4, 1, DN_OF_H_BEFORE},
                                            {7, 2, DN_OF_EXTRA}},
                               .forward = run_gru,
                               .backward = dn__gru_sequence_grad};
static int gru_dims(dn_shape *s) { return dn__network_dims(s, &GRU); }
static void gru_forward(dn_call *c) { dn__network_forward(c, &GRU); }
static void gru_backward(dn_call *c) { dn__network_backward(c, &GRU); }

/* ---- LSTM with coupled gates, f = 1 - i (Greff et al. 2015); inputs: Wix (h, k), Wih (h, h), Wic
 * (h, h), bi (h), the same for o, then Wgx, Wgh, bg
 *   i = logistic(Wix x_t + Wih h_(t-1) + Wic c_(t-1) + bi),  g = tanh(Wgx x_t + Wgh h_(t-1) + bg),
 *   c_t = (1 - i) c_(t-1) + i g,
 *   o = logistic(Wox x_t + Woh h_(t-1) + Woc c_t + bo),  h_t = o tanh c_t */

DN_OP(coupled_lstm, -1, DN_BATCHES | DN_SEVERAL_OUTPUTS | DN_VARIABLE_LENGTH | DN_BROADCAST(255),
      "(h_t, c_t) = LSTM with f = 1 - i and peepholes for t = 1 ... T")
static void run_coupled(const dn_sequence *q, const dn_matrix *w, const double *floats) {
    (void)floats;
    dn__coupled_sequence(q, w);
}
static const dn_network COUPLED = {
    .takes = "Wx, Wh, Wc, b of i and o, Wx, Wh, b of g",
    .rule = "each gate has Wx (h, k), Wh (h, h), peepholes (h, h) and b (h)",
    .weights = 11,
    .has_c = 1,
    .has_extra = 1,
    .has_peepholes = 1,
    .gates = 3,
    .n_blocks = 3,
    .blocks = {{1, 0, 3}, {1, 4, 7}, {1, 8, 10}},
    .n_products = 5,
    .products = {{1, 0, DN_OF_H_BEFORE},
                 {5, 1, DN_OF_H_BEFORE},
                 {9, 2, DN_OF_H_BEFORE},
                 {2, 0, DN_OF_C_BEFORE},
                 {6, 1, DN_OF_C_NOW}},
    .forward = run_coupled,
    .backward = dn__coupled_sequence_grad};
static int coupled_lstm_dims(dn_shape *s) { return dn__network_dims(s, &COUPLED); }
static void coupled_lstm_forward(dn_call *c) { dn__network_forward(c, &COUPLED); }
static void coupled_lstm_backward(dn_call *c) { dn__network_backward(c, &COUPLED); }

/* ---- the same without peepholes; inputs: Wix, Wih, bi, Wox, Woh, bo, Wgx, Wgh, bg ----- */

DN_OP(fast_lstm, -1, DN_BATCHES | DN_SEVERAL_OUTPUTS | DN_VARIABLE_LENGTH | DN_BROADCAST(255),
      "(h_t, c_t) = LSTM with f = 1 - i for t = 1 ... T")
static const dn_network FAST = {.takes = "Wx, Wh, b of i, o, g",
                                .rule = "each gate has Wx (h, k), Wh (h, h) and b (h)",
                                .weights = 9,
                                .has_c = 1,
                                .has_extra = 1,
                                .gates = 3,
                                .n_blocks = 3,
                                .blocks = {{1, 0, 2}, {1, 3, 5}, {1, 6, 8}},
                                .n_products = 3,
                                .products = {{1, 0, DN_OF_H_BEFORE},
                                             {4, 1, DN_OF_H_BEFORE},
                                             {7, 2, DN_OF_H_BEFORE}},
                                .forward = run_coupled,
                                .backward = dn__coupled_sequence_grad};
static int fast_lstm_dims(dn_shape *s) { return dn__network_dims(s, &FAST); }
static void fast_lstm_forward(dn_call *c) { dn__network_forward(c, &FAST); }
static void fast_lstm_backward(dn_call *c) { dn__network_backward(c, &FAST); }
