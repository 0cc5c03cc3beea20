/* The LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000) over T steps
 * as one node (T = 1: a step of a network that decides as it goes). Gates in the order i, f, o, g.
 *
 * inputs: Wx (4h, k), Wh (4h, h), b (4h), then as sequence.h says;  floats: forget bias
 *   (i, f, o) = logistic(Wx x_t + Wh h_(t-1) + b + (0, forget bias, 0)),  g = tanh(...),
 *   c_t = f c_(t-1) + i g,  h_t = o tanh c_t */
#include "sequence.h"

DN_OP(lstm, -1, DN_BATCHES | DN_SEVERAL_OUTPUTS | DN_VARIABLE_LENGTH | DN_BROADCAST(7),
      "(h_t, c_t) = LSTM(x_t, h_(t-1), c_(t-1)) for t = 1 ... T")
static void run_lstm(const dn_sequence *q, const dn_matrix *w, const double *floats) {
    dn__lstm_sequence(q, (dn_real)floats[0], w);
}
static const dn_network LSTM = {.takes = "Wx, Wh, b",
                                .rule = "Wx must be (4h, k), Wh (4h, h) and b (4h)",
                                .weights = 3,
                                .has_c = 1,
                                .has_extra = 1,
                                .gates = 4,
                                .n_blocks = 1,
                                .blocks = {{4, 0, 2}},
                                .n_products = 1,
                                .products = {{1, 0, DN_OF_H_BEFORE}},
                                .forward = run_lstm,
                                .backward = dn__lstm_sequence_grad};
static int lstm_dims(dn_shape *s) { return dn__network_dims(s, &LSTM); }
static void lstm_forward(dn_call *c) { dn__network_forward(c, &LSTM); }
static void lstm_backward(dn_call *c) { dn__network_backward(c, &LSTM); }
