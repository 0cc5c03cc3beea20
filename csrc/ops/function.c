/* Operations written in Python (dist_dynet/ops/function.py): the tape treats them as any other. */
#include "kernels/kernels.h"
#include "op.h"

static int (*run_python)(const dn_python_call *);
void dn_set_python(int (*run)(const dn_python_call *)) { run_python = run; }

/* ints: id of the function, whether it has a backward, batch, sizes... */
DN_OP(function, -1, 0, "y = f(x_1, x_2, ...), f written in Python over NumPy arrays")
static int function_dims(dn_shape *s) {
    return dn__set_dims(s, s->n_ints - 3, s->ints + 3, s->ints[2]);
}

/* The call for this node; y and all gradients are left to be filled in. NULL: no memory. */
static dn_python_array *arrays(dn_call *c, dn_python_call *call) {
    dn_python_array *x = dn__scratch_of(c, (size_t)c->n, sizeof *x);
    if (!x) return NULL;
    for (int k = 0; k < c->n; k++)
        x[k] = (dn_python_array){c->x[k].dim, (dn_real *)c->x[k].v, NULL};
    *call = (dn_python_call){.id = c->ints[0], .n = c->n, .x = x, .y = {c->dim, c->y, NULL}};
    return x;
}

static void function_forward(dn_call *c) {
    dn_python_call call;
    if (arrays(c, &call)) c->workspace->raised = run_python(&call);
}

/* The function writes into memory of its own: if it raises, no gradient may be left half
 * written. */
static void function_backward(dn_call *c) {
    dn_python_call call;
    dn_python_array *x = c->ints[1] ? arrays(c, &call) : NULL;
    int wanted = 0;
    for (int k = 0; x && k < c->n; k++) {
        if (!dn__wants(c, k)) continue;
        if (!(x[k].gradient = dn__scratch(c, dn__elements(x[k].dim)))) return;
        wanted = 1;
    }
    if (!wanted) return;
    call.backward = 1;
    call.y.gradient = (dn_real *)c->dy;
    dn__let_go(c); /* it may look at parameters, and other threads must not wait for it */
    c->workspace->raised = run_python(&call);
    dn__take_back(c);
    for (int k = 0; k < c->n && !c->workspace->raised; k++) {
        dn_grad g = x[k].gradient ? dn__dx(c, k) : (dn_grad){0};
        if (g.dx) dn__axpy(dn__elements(x[k].dim), 1, x[k].gradient, g.beta, g.dx);
    }
}
