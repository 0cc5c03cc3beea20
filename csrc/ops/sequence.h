/* Recurrent networks over sequences as one node: what all of them share. A network says which
 * inputs are weights and how its gates make blocks (dn_network); the steps themselves are kernels
 * (kernels.h, dn_sequence). Here: the inputs in the order of the kernels, the input projections of
 * all steps as one product for each block, results and gradients brought to their places, weight
 * gradients as one product for each matrix.
 *
 * inputs: the weights, [h_0, c_0], [masks of h and c], x in one of four forms (dn_sequence_form in
 *         dn_api.h)
 * ints:   T, dn_sequence_option + form, then nothing (all positions are real), or the length of
 *         each batch element, or, with DN_SEQUENCE_MASK, T x batch zeros and ones
 * output: h_1 ... h_T, then c_1 ... c_T where there is a c, each h x batch and dense, so that
 *         `output_view` nodes can name them; with DN_SEQUENCE_BY_ELEMENT the h of batch element 0,
 *         1, ..., each h x T (of packed sequences h x its length), then the last h and c, h x batch
 *         (with DN_SEQUENCE_EVERY_C: then c like h)
 * A position that is not real passes the state on; x is not read there. */
#pragma once

#include "sequence_plan.h"

int dn__network_dims(dn_shape *, const dn_network *);
void dn__network_forward(dn_call *, const dn_network *);
void dn__network_backward(dn_call *, const dn_network *);
