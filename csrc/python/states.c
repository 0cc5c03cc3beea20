/* The base of RNNState, which stands for class State of dist_dynet/nn/state.py, and its steps.
 *
 * What a step is made of is said by a Step (dist_dynet/nn/steps.py), whose methods make the same
 * nodes in Python; here are steps and lists of a network whose layers are nodes, or DyNet's
 * operations. Whatever else can happen, errors included, goes to those methods. */
#include "numbers.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <structmember.h>

/* The first fields of a Step. */
enum { BUILDER, RATES, TABLE, LAST, FIELDS };
enum { MOST_WEIGHTS = 13, MOST_MASKS = 3, MOST_BEFORE_X = MOST_WEIGHTS + 2 + MOST_MASKS };
enum { MOST_LAYERS = 32 };

/* table: the Step's; NULL: its steps are not made here. c: NULL: none, or an output of the node of
 * h that has no expression yet: h is t of a list of n, or, for n = 0, of a step. */
typedef struct {
    PyObject_HEAD PyObject *step, *masks, *prev, *h, *c, *output;
    const dn_layers *table;
    int t, n;
} State;

static struct { PyObject *after, *cells, *cmult, *dropout, *nothing; } names;

static int given(PyObject *o) { return o && o != Py_None; }
static PyObject *or_none(PyObject *o) {
    if (!o) o = Py_None;
    Py_INCREF(o);
    return o;
}
static PyObject *field(const State *s, int i) { return PyTuple_GetItem(s->step, i); }
static int64_t handle_in(PyObject *list, Py_ssize_t i) {
    return i < length(list) ? handle_of(item(list, i)) : -1;
}

/* A tuple of the expressions with these handles, each plus `offset`. */
static PyObject *tuple_of(Py_ssize_t n, const int64_t *handles, int64_t offset) {
    PyObject *tuple = PyTuple_New(n);
    for (Py_ssize_t i = 0; tuple && i < n; i++) {
        PyObject *node = dn__new_node(dn__expression_type, handles[i] + offset);
        if (node) PyTuple_SetItem(tuple, i, node);
        else Py_CLEAR(tuple);
    }
    return tuple;
}

/* Whether there is a node of this handle; a state keeps handles of what a revert took back. */
static int is_there(int64_t handle) {
    dn_dim dim;
    return !dn__calls->node_dim(handle, &dim);
}

/* The c of each layer, kept once they are made; None: it has none. */
static PyObject *get_c(PyObject *self, void *unused) {
    (void)unused;
    State *s = (State *)self;
    int64_t h[MOST_LAYERS];
    if (s->n && s->c && !is_there(handle_in(s->c, 0))) Py_CLEAR(s->c);
    if (s->c || !given(s->h) || !s->table || !s->table->has_c) return or_none(s->c);
    for (int i = 0; i < s->table->layers; i++) h[i] = handle_in(s->h, i);
    s->c = s->n ? PyObject_CallMethodObjArgs(s->step, names.cells, self, NULL)
                : tuple_of(s->table->layers, h, 1);
    return s->c ? or_none(s->c) : NULL;
}

/* ---- what is dropped ------------------------------------------------------------------------ */

/* The rates of the masks that there are, and of what is drawn anew at each step; 0: not used. */
typedef struct { double masks[MOST_MASKS], fresh; } Rates;

/* A rate of the builder; negative: not handled, or an exception is set, such as of a property. */
static double rate_of(const State *s, PyObject *name) {
    double rate = -1;
    if (name == Py_None) return 0;
    PyObject *found = PyObject_GetAttr(field(s, BUILDER), name);
    if (found && !as_double(found, &rate)) rate = -1;
    Py_XDECREF(found);
    return rate;
}

/* A mask of size x batch; NULL: not handled, or an exception is set. */
static PyObject *mask_of(double rate, int size, int batch) {
    const double share = 1.0f - (float)rate;
    const int64_t mask =
        dn__calls->leaf(dn__current, DN_OP_random_bernoulli, 2, (int[]){batch, size}, 2,
                        (double[]){share, share != 0 ? 1 / share : 0});
    return mask < 0 ? NULL : dn__new_node(dn__expression_type, mask);
}

/* Draws the masks of a sequence that begins with x, as Step.draw() in Python; in DyNet's order all
 * of them. 0: not handled, or an exception is set. */
static int draw(const State *s, int64_t x, const Rates *r) {
    const int every = field(s, LAST) != Py_None;
    const Py_ssize_t n = length(field(s, RATES));
    dn_dim dim;
    if (dn__calls->node_dim(x, &dim)) return 0;
    for (int layer = 0; layer < s->table->layers; layer++) {
        PyObject *masks = PyTuple_New(n);
        int size = layer ? s->table->hidden_dim : s->table->input_dim, good = masks != NULL;
        for (Py_ssize_t k = 0; good && k < n; k++, size = s->table->hidden_dim) {
            PyObject *mask =
                r->masks[k] > 0 || every ? mask_of(r->masks[k], size, dim.batch) : or_none(NULL);
            good = mask && !PyTuple_SetItem(masks, k, mask);
        }
        good = good && !PyList_Append(s->masks, masks);
        Py_XDECREF(masks);
        if (!good) return 0;
    }
    return 1;
}

/* As Step.masks() in Python; 0: not handled, or an exception is set. */
static int find_rates(const State *s, int64_t x, Rates *r) {
    const int in_order = field(s, LAST) != Py_None, decided = PyList_Size(s->masks) > 0;
    PyObject *rates = field(s, RATES);
    int some = 0;
    *r = (Rates){.masks = {1, 1, 1}};
    if (s->table->drops_each_step) return (r->fresh = rate_of(s, item(rates, 0))) >= 0;
    if (decided && !in_order) return 1; /* whatever the rates have become */
    for (Py_ssize_t k = 0; k < length(rates); k++) {
        if (k == MOST_MASKS || !((r->masks[k] = rate_of(s, item(rates, k))) >= 0)) return 0;
        some |= r->masks[k] > 0;
    }
    if (decided || (in_order && !some)) return 1;
    return some ? draw(s, x, r) : !PyList_Append(s->masks, names.nothing);
}

/* Whether there is a node of this handle. What an operation written in Python has raised is raised:
 * to make the node in Python would run that once more. */
static int is_made(int64_t handle) {
    if (handle == DN_ERROR_PYTHON) Py_XDECREF(dn__python_error());
    return handle >= 0;
}

static int64_t dropped(const Rates *r, PyObject *masks, int64_t x) {
    if (r->fresh > 0) return dn__node1_float(dn__op(names.dropout), x, r->fresh, 0);
    PyObject *mask = length(masks) && r->masks[0] > 0 ? item(masks, 0) : NULL;
    return given(mask) ? dn__node2(dn__op(names.cmult), x, handle_of(mask)) : x;
}

/* ---- nodes ---------------------------------------------------------------------------------- */

/* The inputs of a layer's node before x, and its options; how many, 0: not handled. */
static int inputs_before_x(const State *s, const Rates *r, int layer, PyObject *masks,
                           int64_t *handles, int *options) {
    int n = s->table->n_weights, good = 1;
    memcpy(handles, s->table->weights + layer * n, (size_t)n * sizeof *handles);
    if (given(s->h)) {
        const int64_t h = handles[n++] = handle_in(s->h, layer);
        if (s->table->has_c)
            handles[n++] = s->c ? handle_in(s->c, layer) : s->table->composed ? -1 : h + 1;
        good = h >= 0 && handles[n - 1] >= 0;
        *options |= DN_SEQUENCE_STATE;
    }
    for (Py_ssize_t k = 1; k < length(masks) && k < MOST_MASKS; k++) {
        if (item(masks, k) == Py_None || r->masks[k] == 0) continue;
        good &= (handles[n++] = handle_of(item(masks, k))) >= 0;
        *options |= k == 1 ? DN_SEQUENCE_H_MASK : DN_SEQUENCE_C_MASK;
    }
    return good ? n : 0;
}

/* Of each layer the first output of its node or, where it is composed, its h and c. */
typedef struct { int64_t h[MOST_LAYERS], c[MOST_LAYERS]; } Made;

/* A step of a composed layer; handles, options: as inputs_before_x gives them. */
static int64_t compose(const dn_layers *p, const int64_t *handles, int options, int64_t x,
                       int64_t *c) {
    dn_step_inputs in = {.weights = handles, .x = x, .h_mask = -1};
    handles += p->n_weights;
    if ((in.has_state = options & DN_SEQUENCE_STATE)) {
        in.h = *handles++;
        if (p->has_c) in.c = *handles++;
    }
    if (options & DN_SEQUENCE_H_MASK) in.h_mask = *handles;
    int64_t h;
    dn__composed_step(p, &in, &h, c);
    return h;
}

/* The nodes of all layers over n inputs, each with its first `parts` outputs. xs become what the
 * network gives. 0: not handled, or an exception is set. */
static int make_layers(State *s, const Rates *r, int n, int64_t *xs, int parts, Made *made) {
    const dn_layers *p = s->table;
    int64_t few[DN_FEW], *handles = few;
    int good = 1;
    if (n + MOST_BEFORE_X > DN_FEW) handles = malloc((size_t)(n + MOST_BEFORE_X) * sizeof *handles);
    for (int layer = 0; handles && good && layer < p->layers; layer++) {
        PyObject *masks = names.nothing;
        int ints[] = {n, DN_SEQUENCE_LIST};
        if (layer < PyList_Size(s->masks)) masks = PyList_GetItem(s->masks, layer);
        const int begin = inputs_before_x(s, r, layer, masks, handles, &ints[1]);
        good = begin > 0;
        for (int t = 0; good && t < n; t++)
            good = is_made(handles[begin + t] = dropped(r, masks, xs[t]));
        if (!good) break;
        made->h[layer] = p->composed ? compose(p, handles, ints[1], handles[begin], &made->c[layer])
                                     : dn__node(p->op, begin + n, handles, 2, ints, p->n_floats,
                                                p->floats, parts);
        good = is_made(made->h[layer]);
        for (int t = 0; t < n; t++) xs[t] = made->h[layer] + t;
    }
    if (handles != few) free(handles);
    for (int t = 0; good && t < n && r->fresh > 0; t++)
        good = is_made(xs[t] = dropped(r, names.nothing, xs[t]));
    return handles && good;
}

static void forget_masks(const State *s) {
    PyList_SetSlice(s->masks, 0, PyList_Size(s->masks), NULL);
}

/* Forgets masks that a revert took back. They were drawn together: the first says it of all. */
static void keep_masks_that_are_there(const State *s) {
    for (Py_ssize_t layer = 0; layer < PyList_Size(s->masks); layer++) {
        PyObject *masks = PyList_GetItem(s->masks, layer);
        for (Py_ssize_t k = 0; k < length(masks); k++) {
            if (item(masks, k) == Py_None) continue;
            if (!is_there(handle_of(item(masks, k)))) forget_masks(s);
            return;
        }
    }
}

/* Whether the step draws in DyNet's order in a batched graph, though its sequence began without
 * dropout: then NodeStep composes it in Python. */
static int begins_to_draw(const State *s, const Rates *r) {
    const dn_layers *p = s->table;
    int draws = r->fresh > 0;
    if (p->composed || !p->composable || field(s, LAST) == Py_None) return 0;
    for (Py_ssize_t k = 0; !p->drops_each_step && k < length(field(s, RATES)); k++)
        draws |= r->masks[k] > 0;
    return draws && dn__calls->graph_strategy(dn__current) != DN_AUTOBATCH_OFF;
}

/* The same, with all that comes before; what was made is taken back if it is not handled. */
static int advance(State *s, int n, int64_t *xs, int parts, Made *made) {
    Rates r;
    for (int t = 0; t < n; t++)
        if (xs[t] < 0) return 0;
    /* the c of a list: of all layers before the first node */
    PyObject *c = s->n ? get_c((PyObject *)s, NULL) : or_none(NULL);
    Py_XDECREF(c);
    if (!c || dn__current < 0) return 0;
    const int size = dn__calls->graph_size(dn__current);
    keep_masks_that_are_there(s);
    const Py_ssize_t masks = PyList_Size(s->masks);
    if (find_rates(s, xs[0], &r) && !begins_to_draw(s, &r) &&
        make_layers(s, &r, n, xs, parts, made))
        return 1;
    dn__calls->take_back(dn__current, size);
    if (!masks) forget_masks(s);
    return 0;
}

/* The state after `before`, of output t of each layer's node; top: the handle of its output(). */
static State *state_after(State *before, const Made *made, int t, int n, int64_t top) {
    const int layers = before->table->layers;
    State *after = (State *)PyType_GenericAlloc(Py_TYPE(before), 0);
    if (!after) return NULL;
    after->step = or_none(before->step), after->masks = or_none(before->masks);
    after->prev = or_none((PyObject *)before), after->table = before->table;
    after->t = t, after->n = n, after->h = tuple_of(layers, made->h, t);
    if (before->table->composed && before->table->has_c) after->c = tuple_of(layers, made->c, 0);
    if (top != made->h[layers - 1] + t) after->output = dn__new_node(dn__expression_type, top);
    if (after->h && !PyErr_Occurred()) return after;
    Py_DECREF(after);
    return NULL;
}

/* The state after x; NULL: not handled, or an exception is set. */
static State *step_from(State *s, int64_t x) {
    Made made;
    return advance(s, 1, &x, 1 + s->table->has_c, &made) ? state_after(s, &made, 0, 0, x) : NULL;
}

/* In DyNet's order: the state that was made last. */
static void note_last(const State *s, PyObject *state) {
    PyObject *last = field(s, LAST);
    if (last != Py_None) PyList_SetItem(last, 0, or_none(state));
}

/* add_input(x), or add_input(x=x) */
static PyObject *add_input(PyObject *self, PyObject *const *args, Py_ssize_t n_args,
                           PyObject *named) {
    State *s = (State *)self;
    const Py_ssize_t n = n_args + (named ? PyTuple_Size(named) : 0);
    if (n != 1) return PyErr_Format(PyExc_TypeError, "add_input: takes one input, x; got %zd.", n);
    PyObject *name = n_args ? NULL : PyTuple_GetItem(named, 0);
    if (name && PyUnicode_CompareWithASCIIString(name, "x"))
        return PyErr_Format(PyExc_TypeError, "add_input: takes x; got %R.", name);
    PyObject *after = s->table ? (PyObject *)step_from(s, handle_of(args[0])) : NULL;
    if (after) note_last(s, after);
    else if (!PyErr_Occurred())
        after = PyObject_CallMethodObjArgs(s->step, names.after, self, args[0], NULL);
    return after;
}

/* A list of the states after each of n inputs, by a step for each; NULL: not handled, or an
 * exception is set, and nothing is left of them. */
static PyObject *step_by_step(State *s, int n, const int64_t *xs) {
    if (dn__current < 0) return NULL;
    const int size = dn__calls->graph_size(dn__current), had_masks = PyList_Size(s->masks) > 0;
    State *const begin = s;
    PyObject *list = PyList_New(n);
    for (int t = 0; list && t < n; t++) {
        s = step_from(s, xs[t]);
        if (s) PyList_SetItem(list, t, (PyObject *)s);
        else Py_CLEAR(list);
    }
    if (list) return list;
    dn__calls->take_back(dn__current, size);
    if (!had_masks) forget_masks(begin);
    return NULL;
}

/* The same by one node for each layer. */
static PyObject *at_once(State *s, int n, int64_t *xs, int as_states) {
    Made made;
    if (!advance(s, n, xs, n, &made)) return NULL;
    if (!as_states) return dn__nodes_from(xs[0], n);
    PyObject *list = PyList_New(n);
    for (int t = 0; list && t < n; t++) {
        s = state_after(s, &made, t, n, xs[t]);
        if (s) PyList_SetItem(list, t, (PyObject *)s);
        else Py_CLEAR(list);
    }
    return list;
}

static PyObject *output(PyObject *self, PyObject *unused);

/* In DyNet's order a list makes states, and draws anew at each of them. */
static PyObject *in_order(State *s, int n, int64_t *xs, int as_states) {
    const int fresh = s->table->drops_each_step && rate_of(s, item(field(s, RATES), 0)) != 0;
    if (PyErr_Occurred()) return NULL;
    PyObject *list = s->table->composed || fresh ? step_by_step(s, n, xs) : at_once(s, n, xs, 1);
    if (list) note_last(s, PyList_GetItem(list, n - 1));
    for (int t = 0; list && !as_states && t < n; t++) {
        PyObject *y = output(PyList_GetItem(list, t), NULL);
        if (y) PyList_SetItem(list, t, y);
        else Py_CLEAR(list);
    }
    return list;
}

/* _over_list(xs, whether states are wanted, not outputs): None: not handled. */
static PyObject *over_list(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    State *s = (State *)self;
    int64_t few[DN_FEW], *xs = few;
    if (!counted(n_args, 2)) return NULL;
    const Py_ssize_t n = PyList_CheckExact(args[0]) ? PyList_Size(args[0]) : 0;
    if (!s->table || n < 1 || n > INT32_MAX / 2) return or_none(NULL);
    if (n > DN_FEW) xs = malloc((size_t)n * sizeof *xs);
    for (Py_ssize_t t = 0; xs && t < n; t++) xs[t] = handle_of(PyList_GetItem(args[0], t));
    PyObject *made = NULL;
    if (xs)
        made = (field(s, LAST) == Py_None ? at_once : in_order)(s, (int)n, xs, args[1] == Py_True);
    if (xs != few) free(xs);
    return made || PyErr_Occurred() ? made : or_none(NULL);
}

static PyObject *output(PyObject *self, PyObject *unused) {
    (void)unused;
    State *s = (State *)self;
    const Py_ssize_t n = length(s->h);
    return or_none(given(s->output) || !n ? s->output : item(s->h, n - 1));
}

/* ---- the type ------------------------------------------------------------------------------- */

/* The table of a Step, if steps are made here by it. */
static const dn_layers *table_of(PyObject *step) {
    const Py_ssize_t fields = PyTuple_Check(step) ? PyTuple_Size(step) : 0;
    PyObject *bytes = fields < FIELDS ? NULL : PyTuple_GetItem(step, TABLE);
    const Py_ssize_t size = bytes && PyBytes_Check(bytes) ? PyBytes_Size(bytes) : 0;
    if (size < (Py_ssize_t)sizeof(dn_layers)) return NULL;
    const dn_layers *p = (const dn_layers *)PyBytes_AsString(bytes);
    const size_t handles = (size_t)p->layers * (size_t)p->n_weights;
    const int fits = p->layers > 0 && p->layers <= MOST_LAYERS && p->n_weights <= MOST_WEIGHTS;
    return fits && (size_t)size == sizeof *p + handles * sizeof *p->weights ? p : NULL;
}

/* RNNState(step, masks, prev, h, c, output, t, n) */
static PyObject *state_new(PyTypeObject *cls, PyObject *args, PyObject *named) {
    State p = {.t = 0};
    if ((named && PyDict_Size(named)) ||
        !PyArg_ParseTuple(args, "O!O!|OOOOii", &PyTuple_Type, &p.step, &PyList_Type, &p.masks,
                          &p.prev, &p.h, &p.c, &p.output, &p.t, &p.n))
        return PyErr_Format(PyExc_TypeError,
                            "RNNState: cannot be made directly. Use "
                            "initial_state() of a builder, or add_input() of a state.");
    State *s = (State *)PyType_GenericAlloc(cls, 0);
    if (!s) return NULL;
    s->step = or_none(p.step), s->masks = or_none(p.masks), s->prev = or_none(p.prev);
    s->h = or_none(p.h), s->c = given(p.c) ? or_none(p.c) : NULL, s->output = or_none(p.output);
    s->table = table_of(s->step), s->t = p.t, s->n = p.n;
    return (PyObject *)s;
}

static int state_traverse(PyObject *self, visitproc visit, void *arg) {
    State *s = (State *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(s->step);
    Py_VISIT(s->masks);
    Py_VISIT(s->prev);
    Py_VISIT(s->h);
    Py_VISIT(s->c);
    Py_VISIT(s->output);
    return 0;
}
static int state_clear(PyObject *self) { /* all but step and masks, which are needed */
    State *s = (State *)self;
    Py_CLEAR(s->prev);
    Py_CLEAR(s->h);
    Py_CLEAR(s->c);
    Py_CLEAR(s->output);
    return 0;
}
static void state_dealloc(PyObject *self) {
    PyTypeObject *cls = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    state_clear(self);
    Py_CLEAR(((State *)self)->masks);
    Py_CLEAR(((State *)self)->step);
    ((freefunc)PyType_GetSlot(cls, Py_tp_free))(self);
    Py_DECREF(cls);
}

#define PART(name) {"_" #name, T_OBJECT, offsetof(State, name), READONLY, NULL}
static PyMemberDef members[] = {
    PART(step),
    PART(masks),
    PART(prev),
    PART(h),
    {"_t", T_INT, offsetof(State, t), READONLY, NULL},
    {"_n", T_INT, offsetof(State, n), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef attributes[] = {
    {"_c", get_c, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef methods[] = {
    {"_over_list", DN_FAST(over_list)},
    {"add_input", (PyCFunction)(void (*)(void))add_input, METH_FASTCALL | METH_KEYWORDS,
     "add_input($self, x)\n--\n\nThe state after one more input."},
    {"output", output, METH_NOARGS,
     "output($self, /)\n--\n\n"
     "The h of the top layer; None at the start without given vectors.\n\n"
     "Of a GRU with dropout: after dropout."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot slots[] = {
    DN_SLOT(Py_tp_new, state_new),     DN_SLOT(Py_tp_traverse, state_traverse),
    DN_SLOT(Py_tp_clear, state_clear), DN_SLOT(Py_tp_dealloc, state_dealloc),
    DN_SLOT(Py_tp_members, members),   DN_SLOT(Py_tp_getset, attributes),
    DN_SLOT(Py_tp_methods, methods),   {0, NULL},
};
enum { FLAGS = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC };
/* users know RNNState, the one class derived from it: Python's own messages name that */
static PyType_Spec spec = {"dist_dynet._expression.RNNState", sizeof(State), 0, FLAGS, slots};

int dn__add_states(PyObject *module) {
    names.after = PyUnicode_InternFromString("after");
    names.cells = PyUnicode_InternFromString("cells");
    names.cmult = PyUnicode_InternFromString("cmult");
    names.dropout = PyUnicode_InternFromString("dropout");
    names.nothing = PyTuple_New(0);
    PyObject *type = PyType_FromSpec(&spec);
    return PyErr_Occurred() || PyModule_AddObject(module, "State", type) ? -1 : 0;
}
