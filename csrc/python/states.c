/* The bases of RNNState and Run (dist_dynet/nn/state.py): a state of a recurrent network, and the sequence that it belongs to.
 *
 * add_input() makes a node for each layer and the state after it in one call, dropout included, and so do transduce() and add_inputs() of a
 * list where nothing is dropped. This is where a layer is one operation. Whatever else can happen goes to the sequence's
 * methods in Python. */
#include "expression.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <structmember.h>

enum { MOST_WEIGHTS = 13, MOST_MASKS = 3 };

/* call: of the kind "outputs", made with the operation of a layer; none: step() and its like do all. weights: of each layer, its handles as
 * bytes. rates: of each mask, the name of the builder's attribute that says how much it drops; None: nothing. fixed: the
 * next sequence of the builder has the same weights. The rest is explained in state.py. */
typedef struct {
    PyObject_HEAD
    PyObject *builder, *call, *handles, *weights, *reals, *rates, *masks, *start, *last;
    int64_t graph;
    int input_dim, hidden_dim;
    char update, fixed, has_cells, drops_each_step;
} Run;
static PyTypeObject *run_type;

/* follow: c of a layer is the node after its h, until it is asked for. */
typedef struct {
    PyObject_HEAD
    PyObject *run, *prev, *h, *c, *later, *output;
    char follow;
} State;

static struct { PyObject *step, *later_cells, *dropout_x; } names;
static struct { int cmult, dropout, bernoulli; } ops;

static int given(PyObject *o) { return o && o != Py_None; }
static Py_ssize_t count(PyObject *o) { return o ? length(o) : 0; }
static PyObject *or_none(PyObject *o) {
    if (!o) o = Py_None;
    Py_INCREF(o);
    return o;
}

/* ---- a step -------------------------------------------------------------------------------------------------------------------------- */

/* What a step drops. */
typedef struct {
    PyObject *masks;            /* of each layer a tuple: of x, then of parts of the state; NULL: none */
    double rates[MOST_MASKS];   /* of these; 0: the mask is not used */
    double rate;                /* of what is drawn for this step alone */
} Dropped;

/* A rate of the builder; negative: it is not for the quick way. */
static double rate_of(const Run *run, PyObject *name) {
    double rate = -1;
    if (name == Py_None) return 0;
    PyObject *found = PyObject_GetAttr(run->builder, name);
    if (!found) PyErr_Clear();
    else if (!real(found, &rate)) rate = -1;
    Py_XDECREF(found);
    return rate;
}

/* The rates of masks: 1, some are not 0; 0, none; negative: it is not for the quick way. */
static int find_rates(const Run *run, Dropped *d) {
    const Py_ssize_t n = count(run->rates);
    int some = 0;
    for (Py_ssize_t k = 0; k < n && k < MOST_MASKS; k++) {
        if (!((d->rates[k] = rate_of(run, item(run->rates, k))) >= 0)) return -1;
        some |= d->rates[k] > 0;
    }
    return n > MOST_MASKS ? -1 : some;
}

/* A mask as Run.draw_masks() draws it; NULL: it cannot be made. */
static PyObject *drawn_mask(const Maker *m, int size, int batch, double rate) {
    const int ints[] = {batch, size};
    const double keep = 1.0f - (float)rate, reals[] = {keep, keep > 0 ? 1 / keep : 0};
    const int64_t handle = dn__calls->leaf(dn__current, ops.bernoulli, 2, ints, 2, reals);
    return handle < 0 ? NULL : dn__new_node(m->cls, handle);
}

/* Draws the masks of all layers for the batch size of x; 0: it is not for the quick way, or an exception is set. */
static int draw_masks(const Maker *m, Run *run, int64_t x, const double *rates) {
    const Py_ssize_t n = count(run->rates), layers = count(run->weights);
    dn_dim dim;
    int good = x >= 0 && dn__current >= 0 && !dn__calls->node_dim(x, &dim);
    for (Py_ssize_t layer = 0; good && layer < layers; layer++) {
        PyObject *masks = PyTuple_New(n);
        for (Py_ssize_t k = 0; masks && k < n; k++) {
            const int is_drawn = rates[k] > 0 || given(run->start); /* in DyNet's order those of rate 0 are, too */
            const int size = k || layer ? run->hidden_dim : run->input_dim;
            PyObject *mask = is_drawn ? drawn_mask(m, size, dim.batch, rates[k]) : or_none(NULL);
            if (mask) PyTuple_SetItem(masks, k, mask);
            else Py_CLEAR(masks);
        }
        good = masks && !PyList_Append(run->masks, masks);
        Py_XDECREF(masks);
    }
    if (!good) PyList_SetSlice(run->masks, 0, PyList_Size(run->masks), NULL);
    return good;
}

/* What a step drops, the first of which is over x; that one decides it for a sequence whose masks are drawn once, in DyNet's order each by
 * itself. 0: it is not for the quick way, or an exception is set. */
static int find_dropped(const Maker *m, Run *run, int64_t x, Dropped *d) {
    *d = (Dropped){0};
    if (!run->masks || !PyList_CheckExact(run->masks) || !given(run->builder)) return 0;
    if (run->drops_each_step) return (d->rate = rate_of(run, names.dropout_x)) >= 0;
    const int are_drawn = PyList_Size(run->masks) > 0;
    if (given(run->start) || !are_drawn) {
        const int some = find_rates(run, d);
        if (some > 0) d->masks = run->masks;
        if (some) return some > 0 && (are_drawn || draw_masks(m, run, x, d->rates));
        return given(run->start) || !PyList_Append(run->masks, Py_None);
    }
    if (PyList_GetItem(run->masks, 0) == Py_None) return 1;
    for (int k = 0; k < MOST_MASKS; k++) d->rates[k] = 1; /* all that are there are used, whatever the rates have become */
    d->masks = run->masks;
    return 1;
}

/* The operation of a layer where the quick way can go on from this state with x (negative: with a list), and what is dropped; else NULL. */
static const Maker *quick(const State *before, int64_t x, Dropped *d) {
    Run *run = (Run *)before->run;
    const Maker *m = given(run->call) && PyCFunction_Check(run->call) ? (const Maker *)PyCFunction_GetSelf(run->call) : NULL;
    return m && Py_IS_TYPE(m, dn__maker_type) && run->reals && count(run->weights) && find_dropped(m, run, x, d) ? m : NULL;
}

/* x as a layer reads it, and the masks of its state put after the n handles that are there, with their options; *n = 0: it is not for the quick
 * way. */
static int64_t drop(const Dropped *d, Py_ssize_t layer, int64_t x, int64_t *handles, int *n, int *options) {
    if (d->rate > 0) x = dn__node1_real(ops.dropout, x, d->rate, 0);
    PyObject *masks = d->masks && layer < PyList_Size(d->masks) ? PyList_GetItem(d->masks, layer) : NULL;
    if (d->masks && (!masks || !PyTuple_CheckExact(masks) || PyTuple_Size(masks) > MOST_MASKS)) *n = 0;
    for (Py_ssize_t k = 0; masks && *n && k < PyTuple_Size(masks); k++) {
        PyObject *mask = PyTuple_GetItem(masks, k);
        if (mask == Py_None || d->rates[k] == 0) continue;
        const int64_t handle = handle_of(mask);
        if (handle < 0) *n = 0;
        else if (!k) x = dn__node2(ops.cmult, x, handle);
        else handles[(*n)++] = handle, *options |= k == 1 ? DN_SEQUENCE_H_MASK : DN_SEQUENCE_C_MASK;
    }
    if (x < 0) *n = 0;
    return x;
}

/* The first handles of a layer's node: its weights and the state before; how many, 0: it is not for the quick way. */
static int before_x(const State *before, Py_ssize_t layer, int64_t handles[MOST_WEIGHTS + 2]) {
    const Run *run = (const Run *)before->run;
    PyObject *weights = item(run->weights, layer);
    const Py_ssize_t bytes = PyBytes_Check(weights) ? PyBytes_Size(weights) : 0;
    int n = (int)(bytes / (Py_ssize_t)sizeof *handles);
    if (!bytes || bytes > (Py_ssize_t)(MOST_WEIGHTS * sizeof *handles)) return 0;
    memcpy(handles, PyBytes_AsString(weights), (size_t)bytes);
    if (!given(before->h)) return n;
    const int64_t h = layer < count(before->h) ? handle_of(item(before->h, layer)) : -1;
    handles[n++] = h;
    if (h < 0 || !run->has_cells) return h < 0 ? 0 : n;
    const int64_t c = before->follow ? h + 1 : layer < count(before->c) ? handle_of(item(before->c, layer)) : -1;
    handles[n++] = c;
    return c < 0 ? 0 : n;
}

static int options_of(const State *before) { return DN_SEQUENCE_LIST | (given(before->h) ? DN_SEQUENCE_STATE : 0); }

/* The h of each layer after x; NULL: it is not for the quick way, or an exception is set. */
static PyObject *h_after(const Maker *m, const Dropped *d, const State *before, int64_t x) {
    const Run *run = (const Run *)before->run;
    const Py_ssize_t layers = count(run->weights);
    int64_t handles[MOST_WEIGHTS + 2 + MOST_MASKS];
    double few[64];
    Py_ssize_t n_reals;
    double *reals = dn__numbers(run->reals, few, &n_reals);
    PyObject *h = reals ? PyTuple_New(layers) : NULL;
    for (Py_ssize_t layer = 0; h && layer < layers; layer++) {
        int n = before_x(before, layer, handles), ints[] = {1, options_of(before)};
        if (n) x = drop(d, layer, x, handles, &n, &ints[1]);
        handles[n] = x;
        x = n ? dn__node(m->op, n + 1, handles, 2, ints, (int)n_reals, reals, 1 + run->has_cells) : -1;
        PyObject *node = x < 0 ? NULL : dn__new_node(m->cls, x);
        if (node) PyTuple_SetItem(h, layer, node);
        else Py_CLEAR(h);
    }
    if (reals != few) free(reals);
    return h;
}

static State *state_after(PyObject *before, PyObject *h) {
    State *after = h ? (State *)PyType_GenericAlloc(Py_TYPE(before), 0) : NULL;
    Run *run = (Run *)((State *)before)->run;
    if (!after) {
        Py_XDECREF(h);
        return NULL;
    }
    Py_INCREF(run);
    Py_INCREF(before);
    after->run = (PyObject *)run, after->prev = before, after->h = h;
    return after;
}

/* What a network gives that drops anew at each step; NULL: it is not for the quick way, or an exception is set. */
static PyObject *dropped_output(const Maker *m, const State *after, double rate) {
    const int64_t handle = dn__node1_real(ops.dropout, handle_of(item(after->h, count(after->h) - 1)), rate, 0);
    return handle < 0 ? NULL : dn__new_node(m->cls, handle);
}

static void note_last(Run *run, State *state) {
    if (!given(run->start)) return;
    PyObject *before = run->last;
    Py_INCREF(state);
    run->last = (PyObject *)state;
    Py_XDECREF(before);
}

/* add_input(x), or add_input(x=x) */
static PyObject *add_input(PyObject *self, PyObject *const *args, Py_ssize_t n_args, PyObject *named) {
    State *before = (State *)self;
    if (!counted(n_args + (named ? PyTuple_Size(named) : 0), 1)) return NULL;
    if (!n_args && PyUnicode_CompareWithASCIIString(PyTuple_GetItem(named, 0), "x"))
        return PyErr_Format(PyExc_TypeError, "add_input: takes x; got %R.", PyTuple_GetItem(named, 0));
    PyObject *x = args[0];
    Run *run = (Run *)before->run;
    const int64_t handle = handle_of(x);
    Dropped d;
    const Maker *m = handle < 0 ? NULL : quick(before, handle, &d);
    State *after = m ? state_after(self, h_after(m, &d, before, handle)) : NULL;
    if (after && d.rate > 0 && !(after->output = dropped_output(m, after, d.rate))) Py_CLEAR(after);
    if (!after) return PyErr_Occurred() ? NULL : PyObject_CallMethodObjArgs(before->run, names.step, self, x, NULL);
    after->follow = run->has_cells;
    note_last(run, after);
    return (PyObject *)after;
}

/* ---- a list of inputs ---------------------------------------------------------------------------------------------------------------- */

/* The nodes of all layers over a list of expressions: of each layer the node and the first of its outputs h. 0: it is not for the quick way. */
static int layers_over(const Maker *m, const State *before, PyObject *xs, int64_t *owners, int64_t *first) {
    const Run *run = (const Run *)before->run;
    const Py_ssize_t n = length(xs), layers = count(run->weights);
    const int ints[] = {(int)n, options_of(before)};
    int64_t few[64], *handles = n <= 48 ? few : malloc((size_t)(n + MOST_WEIGHTS + 2) * sizeof *handles);
    double few_reals[64];
    Py_ssize_t n_reals, layer = 0;
    double *reals = dn__numbers(run->reals, few_reals, &n_reals);
    for (; handles && reals && layer < layers; layer++) {
        const int begin = before_x(before, layer, handles);
        int good = begin > 0;
        for (Py_ssize_t t = 0; good && t < n; t++) good = (handles[begin + t] = layer ? first[layer - 1] + t : handle_of(item(xs, t))) >= 0;
        owners[layer] = good ? dn__node(m->op, begin + (int)n, handles, 2, ints, (int)n_reals, reals, 0) : -1;
        first[layer] = owners[layer] < 0 ? -1 : dn__calls->parts(owners[layer], 0, (int)n, run->hidden_dim);
        if (first[layer] < 0) break;
    }
    if (handles != few) free(handles);
    if (reals != few_reals) free(reals);
    return layer == layers;
}

/* The states at the ends of n inputs: each has h of each layer, and knows where its c is. */
static PyObject *states_over(const Maker *m, PyObject *self, Py_ssize_t n, Py_ssize_t layers, const int64_t *owners, const int64_t *first) {
    Run *run = (Run *)((State *)self)->run;
    PyObject *list = PyList_New(n), *handles = list ? PyList_New(layers) : NULL;
    for (Py_ssize_t i = 0; handles && i < layers; i++) {
        PyObject *handle = PyLong_FromLongLong(owners[i]);
        if (handle) PyList_SetItem(handles, i, handle);
        else Py_CLEAR(handles);
    }
    for (Py_ssize_t t = 0; handles && t < n; t++) {
        PyObject *h = PyTuple_New(layers);
        for (Py_ssize_t i = 0; h && i < layers; i++) {
            PyObject *node = dn__new_node(m->cls, first[i] + t);
            if (node) PyTuple_SetItem(h, i, node);
            else Py_CLEAR(h);
        }
        State *after = state_after(t ? PyList_GetItem(list, t - 1) : self, h);
        if (after && run->has_cells && !(after->later = Py_BuildValue("(On)", handles, n + t))) Py_CLEAR(after);
        if (after) PyList_SetItem(list, t, (PyObject *)after);
        else Py_CLEAR(handles);
    }
    if (!handles) Py_CLEAR(list);
    Py_XDECREF(handles);
    if (list) note_last(run, (State *)PyList_GetItem(list, n - 1));
    return list;
}

/* The outputs, or the states, after each of these inputs; None: it is not for the quick way. */
static PyObject *over_list(PyObject *self, PyObject *xs, int states) {
    const State *before = (State *)self;
    const Run *run = (const Run *)before->run;
    const Py_ssize_t n = PyList_CheckExact(xs) ? PyList_Size(xs) : 0, layers = count(run->weights);
    int64_t few[16], *owners = layers <= 8 ? few : malloc(2 * (size_t)layers * sizeof *owners), *first = owners + layers;
    PyObject *result = NULL;
    Dropped d;
    const Maker *m = owners && n && n < INT32_MAX / 2 && !given(run->start) ? quick(before, -1, &d) : NULL;
    if (m && !d.masks && d.rate == 0 && layers_over(m, before, xs, owners, first))
        result = states ? states_over(m, self, n, layers, owners, first) : dn__nodes_from(m->cls, first[layers - 1], n);
    if (owners != few) free(owners);
    return result || PyErr_Occurred() ? result : or_none(NULL);
}

static PyObject *quick_outputs(PyObject *self, PyObject *xs) { return over_list(self, xs, 0); }
static PyObject *quick_states(PyObject *self, PyObject *xs) { return over_list(self, xs, 1); }

/* ---- a sequence ---------------------------------------------------------------------------------------------------------------------- */

/* again(update, reals): the next sequence of the builder, in the current graph, if these are as they were; None: it must be made anew. */
static PyObject *again(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    const Run *run = (const Run *)self;
    if (!counted(n_args, 2)) return NULL;
    if (!run->fixed || !run->reals || dn__current < 0
        || args[0] != (run->update ? Py_True : Py_False)) return or_none(NULL);
    const int same = PyObject_RichCompareBool(run->reals, args[1], Py_EQ);
    if (same < 1) return same < 0 ? NULL : or_none(NULL);
    Run *next = (Run *)PyType_GenericAlloc(Py_TYPE(self), 0);
    if (!next || !(next->masks = PyList_New(0))) {
        Py_XDECREF(next);
        return NULL;
    }
    next->builder = or_none(run->builder), next->call = or_none(run->call), next->handles = or_none(run->handles);
    next->weights = or_none(run->weights), next->reals = or_none(run->reals), next->rates = or_none(run->rates);
    next->graph = this_graph(), next->input_dim = run->input_dim, next->hidden_dim = run->hidden_dim;
    next->update = run->update, next->fixed = run->fixed, next->has_cells = run->has_cells, next->drops_each_step = run->drops_each_step;
    return (PyObject *)next;
}

/* ---- parts of a state ---------------------------------------------------------------------------------------------------------------- */

/* The c of each layer, kept once they are made; None: it has none. */
static PyObject *cells(PyObject *self, void *unused) {
    (void)unused;
    State *s = (State *)self;
    if (!s->c && s->follow) {
        const Py_ssize_t n = count(s->h);
        PyObject *c = PyTuple_New(n);
        for (Py_ssize_t i = 0; c && i < n; i++) {
            PyObject *h = item(s->h, i), *node = dn__new_node(Py_TYPE(h), ((Node *)h)->handle + 1);
            if (node) PyTuple_SetItem(c, i, node);
            else Py_CLEAR(c);
        }
        if (!c) return NULL;
        s->c = c;
    } else if (!s->c && given(s->later)) {
        PyObject *c = PyObject_CallMethodObjArgs(self, names.later_cells, NULL);
        if (!c) return NULL;
        Py_XDECREF(s->c);
        s->c = c;
    }
    return or_none(s->c);
}

static PyObject *h(PyObject *self, PyObject *unused) {
    (void)unused;
    State *s = (State *)self;
    return given(s->h) ? or_none(s->h) : PyTuple_New(0);
}

static PyObject *s(PyObject *self, PyObject *unused) {
    PyObject *c = cells(self, NULL), *top = c ? h(self, unused) : NULL, *all = top;
    if (top && c != Py_None) {
        all = PySequence_Concat(c, top);
        Py_DECREF(top);
    }
    Py_XDECREF(c);
    return all;
}

static PyObject *output(PyObject *self, PyObject *unused) {
    (void)unused;
    State *s = (State *)self;
    const Py_ssize_t n = count(s->h);
    return or_none(given(s->output) || !n ? s->output : item(s->h, n - 1));
}

static PyObject *prev(PyObject *self, PyObject *unused) {
    (void)unused;
    return or_none(((State *)self)->prev);
}

/* ---- the types ----------------------------------------------------------------------------------------------------------------------- */

/* RNNState(run, prev, h, c, later, output) */
static PyObject *state_new(PyTypeObject *cls, PyObject *args, PyObject *named) {
    PyObject *run, *prev = NULL, *h = NULL, *c = NULL, *later = NULL, *output = NULL;
    if (named && PyDict_Size(named)) return PyErr_Format(PyExc_TypeError, "a state takes no named arguments.");
    if (!PyArg_ParseTuple(args, "O!|OOOOO", run_type, &run, &prev, &h, &c, &later, &output)) return NULL;
    State *s = (State *)PyType_GenericAlloc(cls, 0);
    if (!s) return NULL;
    PyObject *parts[] = {run, prev, h, given(c) ? c : NULL, later, output}, **to = &s->run;
    for (int i = 0; i < 6; i++) {
        Py_XINCREF(parts[i]);
        to[i] = parts[i];
    }
    return (PyObject *)s;
}

/* Both types are nothing but references, first to last. */
static int visit_all(PyObject *self, PyObject **first, PyObject **last, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    for (; first <= last; first++) Py_VISIT(*first);
    return 0;
}
static int clear_all(PyObject **first, PyObject **last) {
    for (; first <= last; first++) Py_CLEAR(*first);
    return 0;
}
static void freed(PyObject *self) {
    PyTypeObject *cls = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(cls, Py_tp_free))(self);
    Py_DECREF(cls);
}

static int state_traverse(PyObject *o, visitproc visit, void *arg) {
    return visit_all(o, &((State *)o)->run, &((State *)o)->output, visit, arg);
}
static int state_clear(PyObject *o) { return clear_all(&((State *)o)->prev, &((State *)o)->output); }
static void state_dealloc(PyObject *o) {
    PyObject_GC_UnTrack(o);
    clear_all(&((State *)o)->run, &((State *)o)->output);
    freed(o);
}
static int run_traverse(PyObject *o, visitproc visit, void *arg) { return visit_all(o, &((Run *)o)->builder, &((Run *)o)->last, visit, arg); }
static int run_clear(PyObject *o) { return clear_all(&((Run *)o)->builder, &((Run *)o)->last); }
static void run_dealloc(PyObject *o) {
    PyObject_GC_UnTrack(o);
    run_clear(o);
    freed(o);
}

#define PART(type, name) {#name, T_OBJECT, offsetof(type, name), 0, NULL}
#define PRIVATE_PART(name) {"_" #name, T_OBJECT, offsetof(State, name), 0, NULL}
static PyMemberDef run_members[] = {
    PART(Run, builder), PART(Run, call), PART(Run, handles), PART(Run, weights), PART(Run, reals), PART(Run, rates), PART(Run, masks),
    PART(Run, start), PART(Run, last),
    {"graph", T_LONGLONG, offsetof(Run, graph), 0, NULL}, {"input_dim", T_INT, offsetof(Run, input_dim), 0, NULL},
    {"hidden_dim", T_INT, offsetof(Run, hidden_dim), 0, NULL}, {"update", T_BOOL, offsetof(Run, update), 0, NULL},
    {"fixed", T_BOOL, offsetof(Run, fixed), 0, NULL}, {"has_cells", T_BOOL, offsetof(Run, has_cells), 0, NULL},
    {"drops_each_step", T_BOOL, offsetof(Run, drops_each_step), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyMemberDef state_members[] = {
    {"_run", T_OBJECT, offsetof(State, run), READONLY, NULL}, PRIVATE_PART(prev), PRIVATE_PART(h), PRIVATE_PART(later), PRIVATE_PART(output),
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef state_attributes[] = {{"_c", cells, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};
static PyMethodDef run_methods[] = {{"again", DN_FAST(again)}, {NULL, NULL, 0, NULL}};
static PyMethodDef state_methods[] = {
    {"_quick_outputs", quick_outputs, METH_O, NULL}, {"_quick_states", quick_states, METH_O, NULL},
    {"add_input", (PyCFunction)(void (*)(void))add_input, METH_FASTCALL | METH_KEYWORDS,
     "add_input($self, x)\n--\n\nThe state after one more input."},
    {"output", output, METH_NOARGS,
     "output($self, /)\n--\n\nThe h of the top layer (of a GRU with dropout: after dropout); None at the start without given vectors."},
    {"h", h, METH_NOARGS, "h($self, /)\n--\n\nThe h of each layer; empty at the start without given vectors."},
    {"s", s, METH_NOARGS, "s($self, /)\n--\n\n"
     "All of the state: of an LSTM c of each layer, then h of each layer; of others h. Empty at the start without given vectors."},
    {"prev", prev, METH_NOARGS, "prev($self, /)\n--\n\nThe state before; None at the start."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot run_slots[] = {
    DN_SLOT(Py_tp_traverse, run_traverse), DN_SLOT(Py_tp_clear, run_clear), DN_SLOT(Py_tp_dealloc, run_dealloc),
    DN_SLOT(Py_tp_members, run_members), DN_SLOT(Py_tp_methods, run_methods), {0, NULL},
};
static PyType_Slot state_slots[] = {
    DN_SLOT(Py_tp_new, state_new), DN_SLOT(Py_tp_traverse, state_traverse), DN_SLOT(Py_tp_clear, state_clear),
    DN_SLOT(Py_tp_dealloc, state_dealloc), DN_SLOT(Py_tp_members, state_members), DN_SLOT(Py_tp_getset, state_attributes),
    DN_SLOT(Py_tp_methods, state_methods), {0, NULL},
};
enum { FLAGS = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC };
static PyType_Spec run_spec = {"dist_dynet._expression.Run", sizeof(Run), 0, FLAGS, run_slots};
static PyType_Spec state_spec = {"dist_dynet._expression.State", sizeof(State), 0, FLAGS, state_slots};

PyObject *dn__set_dropping(PyObject *module, PyObject *args) {
    (void)module;
    if (!PyArg_ParseTuple(args, "iii", &ops.cmult, &ops.dropout, &ops.bernoulli)) return NULL;
    Py_RETURN_NONE;
}

int dn__add_states(PyObject *module) {
    names.step = PyUnicode_InternFromString("step"), names.later_cells = PyUnicode_InternFromString("_later_cells");
    names.dropout_x = PyUnicode_InternFromString("dropout_x");
    run_type = (PyTypeObject *)PyType_FromSpec(&run_spec);
    PyObject *state_type = PyType_FromSpec(&state_spec);
    if (!names.step || !names.later_cells || !names.dropout_x || !run_type || !state_type) return -1;
    Py_INCREF(run_type); /* one reference is the module's, one ours */
    return PyModule_AddObject(module, "Run", (PyObject *)run_type) || PyModule_AddObject(module, "State", state_type) ? -1 : 0;
}
