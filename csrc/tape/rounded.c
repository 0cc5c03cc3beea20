/* Which products are rounded to bfloat16: those whose matrix is a parameter of two dims, as its own
 * precision says or, if it has none, the graph's. Neither batching nor the number of columns has a
 * part in it. */
#include "tape.h"

static int default_precision; /* (atomic) */
void dn_set_precision(int precision) {
    __atomic_store_n(&default_precision, precision, __ATOMIC_RELAXED);
}

void dn__settle_precision(dn_tape *t) {
    t->workspace.precision.bf16 =
        __atomic_load_n(&default_precision, __ATOMIC_RELAXED) == DN_PRECISION_BF16;
}

int dn__rounds_node(const dn_tape *t, const dn_node *node) {
    const dn_param *p = node->param;
    if (!t->workspace.precision.rounds || t->workspace.precision.exact || !p || p->rows ||
        node->op != dn_ops[DN_OP_parameter] || p->dim.nd != 2 || !p->dim.size)
        return 0;
    return p->precision == DN_PRECISION_DEFAULT ? t->workspace.precision.bf16
                                                : p->precision == DN_PRECISION_BF16;
}

static const dn_node *matrix_of_call(const dn_call *c, int k) {
    return &c->tape->nodes[c->tape->args[c->node->args + k]];
}
int dn__route_rounds(const dn_call *c, int k) {
    return dn__rounds_node(c->tape, matrix_of_call(c, k));
}

#ifdef DN_DOUBLE
size_t dn__copy_bytes(const dn_tape *t, const dn_node *node) {
    return (void)t, dn__elements(&node->dim) * sizeof(dn_real);
}
void dn__pack_copy(const dn_tape *t, dn_node *node) { (void)t, (void)node; }
const uint16_t *dn__route_packed(dn_call *c, int k, int transposed) {
    return (void)c, (void)k, (void)transposed, NULL;
}
#else
/* Where the packed form of a copied value lies behind it. */
static size_t packed_at(const dn_node *node, int transposed) {
    const size_t values = dn__aligned(dn__elements(&node->dim)) * sizeof(dn_real),
                 first = dn__packed_numbers(node->param, 0) * sizeof(uint16_t);
    return transposed ? values + dn__aligned(first) : values;
}
static uint16_t *packed_of_copy(const dn_node *node, int transposed) {
    return (uint16_t *)((char *)node->value + packed_at(node, transposed));
}

size_t dn__copy_bytes(const dn_tape *t, const dn_node *node) {
    if (!dn__rounds_node(t, node)) return dn__elements(&node->dim) * sizeof(dn_real);
    return packed_at(node, 1) + dn__packed_numbers(node->param, 1) * sizeof(uint16_t);
}

void dn__pack_copy(const dn_tape *t, dn_node *node) {
    if (!dn__rounds_node(t, node)) return;
    for (int i = 0; i < 2; i++) dn__pack(node->param, i, node->value, packed_of_copy(node, i));
    node->copied = 2;
}

const uint16_t *dn__route_packed(dn_call *c, int k, int transposed) {
    const dn_node *node = matrix_of_call(c, k);
    if (!dn__rounds_node(c->tape, node)) return NULL;
    if (node->copied) return node->copied == 2 ? packed_of_copy(node, transposed) : NULL;
    const uint16_t *packed = dn__param_packed(node->param, transposed);
    if (!packed) c->workspace->out_of_memory = 1;
    return packed;
}
#endif
