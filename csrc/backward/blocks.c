/* The backward of a product whose value's gradient is put off (put_off.c), in blocks of columns. */
#include "kernels/rounded.h"
#include "schedule/group.h"
#include "backward_pass.h"

enum { BLOCK = 256 }; /* columns */

/* The call as a whole, and the block that is at hand. */
typedef struct dn_in_blocks {
    dn_call *all;
    dn_grad *slots; /* of all's inputs, once they were asked for; dx NULL: not, or none */
    uint8_t *asked;
    int from, is_last;
} dn_in_blocks;

static dn_in_blocks *blocks_of(const dn_call *c) { return c->tape->backward->blocks; }

static int block_wants(const dn_call *c, int k) {
    return blocks_of(c)->all->routes->wants(blocks_of(c)->all, k);
}
/* An input of its own for each batch element is written block by block, one for all is added to. */
static dn_grad block_dx(dn_call *c, int k) {
    const dn_in_blocks *b = blocks_of(c);
    if (!b->asked[k]) {
        b->slots[k] = b->all->routes->dx(b->all, k);
        b->asked[k] = 1;
    }
    dn_grad g = b->slots[k];
    if (!g.dx) return g;
    g.dx += (size_t)b->from * b->all->x[k].stride;
    if (!b->all->x[k].stride && b->from) g.beta = 1;
    return g;
}
static void block_weight_gradient(dn_call *c, int k, int m, int kk, int n, const dn_real *dy,
                                  const dn_real *x) {
    const dn_grad g = block_dx(c, k);
    if (g.dx) dn__product_dw(m, kk, n, dn__rounds(c, k), dy, m, x, kk, g.beta, g.dx, m);
    else c->workspace->out_of_memory = 1;
}
static void block_input_done(dn_call *c, int k) {
    if (blocks_of(c)->is_last) blocks_of(c)->all->routes->input_done(blocks_of(c)->all, k);
}

/* The gradient of columns from ... from + n - 1. */
static void compute_block(dn_tape *t, int32_t entries, size_t size, int from, int n, dn_real *dy) {
    for (int32_t at = entries; at && !t->workspace.out_of_memory;) {
        const dn_put_off *p = &t->backward->put_off[at - 1];
        const int begin = p->from > from ? p->from : from,
                  end = p->from + p->n < from + n ? p->from + p->n : from + n;
        if (begin < end)
            dn__put_off_columns(t, p, begin, end - begin, 0, dy + (size_t)(begin - from) * size);
        at = p->next;
    }
}

static void call_in_blocks(dn_tape *t, int32_t entries, dn_call *all) {
    const int batch = all->dim->batch, many = (batch + BLOCK - 1) / BLOCK,
              most = ((batch + many - 1) / many + 15) / 16 * 16;
    const size_t size = (size_t)all->dim->size, n_inputs = (size_t)all->n;
    dn_in *x = dn__memory(t, DN_SCRATCH, 2 * n_inputs * sizeof *x), *part = x + n_inputs;
    dn_dim *dims = dn__memory(t, DN_SCRATCH, n_inputs * sizeof *dims), y_dim = *all->dim;
    dn_grad *slots = dn__memory(t, DN_SCRATCH, n_inputs * sizeof *slots);
    uint8_t *asked = dn__memory(t, DN_SCRATCH, n_inputs);
    dn_real *dy = dn__memory(t, DN_SCRATCH, (size_t)most * size * sizeof *dy);
    if (!x || !dims || !slots || !asked || !dy) {
        t->workspace.out_of_memory = 1;
        return;
    }
    dn_gradient_routes routes = *all->routes;
    routes.wants = block_wants;
    routes.dx = block_dx;
    routes.weight_gradient = block_weight_gradient;
    routes.input_done = block_input_done;
    for (int k = 0; k < all->n; k++) {
        x[k] = all->x[k];
        dims[k] = *x[k].dim;
        asked[k] = 0;
    }
    all->x = x;
    dn_in_blocks b = {.all = all, .slots = slots, .asked = asked};
    t->backward->blocks = &b;
    for (; b.from < batch && !t->workspace.out_of_memory; b.from += most) {
        const int n = batch - b.from < most ? batch - b.from : most;
        compute_block(t, entries, size, b.from, n, dy);
        dn_call c = *all;
        y_dim.batch = n;
        for (int k = 0; k < all->n; k++) {
            if (x[k].stride) dims[k].batch = n;
            part[k] = (dn_in){&dims[k], x[k].v + (size_t)b.from * x[k].stride, x[k].stride};
        }
        c.x = part;
        c.dim = &y_dim;
        c.total = (size_t)n * size;
        c.y = all->y + (size_t)b.from * size;
        c.dy = dy;
        c.routes = &routes;
        b.is_last = b.from + n == batch;
        if (!t->workspace.out_of_memory) c.node->op->backward(&c);
    }
    t->backward->blocks = NULL;
}

void dn__node_in_blocks(dn_tape *t, int i) {
    dn_call c;
    dn__prepare_call(t, &t->nodes[i], &c);
    call_in_blocks(t, t->schedule->seats[i].put_off, &c);
}

int dn__group_in_blocks(dn_tape *t, int group) {
    dn_group *g = &t->schedule->groups[group];
    int columns = 0;
    for (int32_t at = g->put_off; at; at = t->backward->put_off[at - 1].next)
        columns += t->backward->put_off[at - 1].n;
    if (columns < g->batch) { /* the others got nothing */
        dn__group_grads(t, group);
        return 0;
    }
    dn_call c;
    dn_dim y_dim;
    if (dn__group_prepare(t, group, &c, &y_dim)) t->workspace.out_of_memory = 1;
    else call_in_blocks(t, g->put_off, &c);
    return 1;
}
