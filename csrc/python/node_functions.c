/* The functions that make nodes: of expressions, from attributes alone, inputs, rows of tables.
 * They stand for those of the same name in dist_dynet/ops (expression.h: accelerated). */
#include "numbers.h"

#include <stdlib.h>

PyTypeObject *dn__expression_type;

/* ---- one node ------------------------------------------------------------------------- */

PyObject *dn__ops;

/* takes_list: its inputs are one list, of any number. */
typedef struct {
    PyObject *name;
    int number, takes_list;
} Op;

/* Names are constants of programs: which object a name was when it was last looked up is kept, and
 * saves a search. NULL: there is no such operation. */
static const Op *find_op(PyObject *name) {
    enum { KEPT = 256 };
    static Op kept[KEPT];
    Op *op = &kept[(uintptr_t)name / 16 % KEPT];
    if (op->name == name) return op;
    PyObject *number = PyUnicode_CheckExact(name) ? PyDict_GetItemWithError(dn__ops, name) : NULL;
    if (!number) return NULL;
    Py_INCREF(name);
    Py_XDECREF(op->name);
    *op = (Op){name, (int)PyLong_AsLong(number), 0};
    op->takes_list = dn__calls->op_inputs(op->number) < 0;
    return op;
}

int dn__op(PyObject *name) {
    const Op *op = find_op(name);
    return op ? op->number : -1;
}

/* What node_many gives, or node_with_views where there are parts. */
static int64_t made_of(int op, int n, const int64_t *handles, int n_ints, const int *ints,
                       int n_floats, const double *floats, int parts) {
    return parts ? dn__calls->node_with_views(op, n, handles, n_ints, ints, n_floats, floats, parts)
                 : dn__calls->node_many(op, n, handles, n_ints, ints, n_floats, floats);
}

int64_t dn__node(int op, int n, int64_t *handles, int n_ints, const int *ints, int n_floats,
                 const double *floats, int parts) {
    const int64_t result = made_of(op, n, handles, n_ints, ints, n_floats, floats, parts);
    if (result != DN_ERROR_NO_GRAPH || dn__current < 0) return result;
    const int64_t first = dn__calls->resolve(dn__current, handles[0]);
    if (first < 0) return result;
    handles[0] = first;
    return made_of(op, n, handles, n_ints, ints, n_floats, floats, parts);
}

int64_t dn__node2(int op, int64_t a, int64_t b) {
    return dn__node(op, 2, (int64_t[]){a, b}, 0, NULL, 0, NULL, 0);
}
int64_t dn__node1_float(int op, int64_t a, double r, double s) {
    return dn__node(op, 1, &a, 0, NULL, 2, (double[]){r, s}, 0);
}

/* What a node is made of: the expressions, integers and floats among the arguments, in their
 * order. */
enum { FEW = 32 };
typedef struct {
    int n, n_ints, n_floats;
    int64_t *handles;
    int *ints;
    double *floats;
    void *memory; /* NULL: they are few, and lie here */
    int64_t few_handles[FEW];
    int few_ints[FEW];
    double few_floats[FEW];
} Given;

/* An argument, or an item of a list; 0: it is none of the three. */
static int take_argument(Given *g, PyObject *o) {
    if (!PyLong_Check(o) && is_node(o)) return (g->handles[g->n++] = ((Node *)o)->handle) >= 0;
    if (!PyFloat_Check(o)) return as_int(o, &g->ints[g->n_ints++]);
    g->floats[g->n_floats++] = PyFloat_AsDouble(o);
    return 1;
}

/* A list is of one kind: of expressions, if these are all inputs; or of numbers. */
static int take_list(Given *g, PyObject *list, int inputs) {
    const Py_ssize_t n = length(list);
    const int ints_before = g->n_ints, floats_before = g->n_floats;
    for (Py_ssize_t i = 0; i < n; i++)
        if (!take_argument(g, item(list, i))) return 0;
    return inputs ? g->n == n : g->n_ints - ints_before == n || g->n_floats - floats_before == n;
}

/* Reads arguments; inputs_listed: the first one is the list of inputs. 0: not handled. g->memory is
 * to be freed. */
static int take_all(Given *g, PyObject *const *args, Py_ssize_t n, int inputs_listed) {
    Py_ssize_t most = n;
    for (Py_ssize_t i = 0; i < n; i++) most += length(args[i]);
    g->n = g->n_ints = g->n_floats = 0;
    g->handles = g->few_handles, g->ints = g->few_ints, g->floats = g->few_floats, g->memory = NULL;
    if (most > FEW) {
        const size_t each = sizeof *g->handles + sizeof *g->floats + sizeof *g->ints;
        if (most > INT32_MAX || !(g->memory = malloc((size_t)most * each))) return 0;
        g->handles = g->memory, g->floats = (double *)(g->handles + most),
        g->ints = (int *)(g->floats + most);
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        const int is_list = PyList_CheckExact(args[i]) || PyTuple_CheckExact(args[i]);
        if (!(is_list ? take_list(g, args[i], inputs_listed && !i) : take_argument(g, args[i])))
            return 0;
        if (inputs_listed && g->n && !i && !is_list) return 0;
    }
    return 1;
}

static int is_class(PyObject *o) {
    return PyType_Check(o) && PyType_IsSubtype((PyTypeObject *)o, dn__node_type);
}

/* The class that arguments by name ask for, which are cls and what, as constants of programs; NULL:
 * not handled. */
static PyTypeObject *class_of(PyObject *const *named, PyObject *names) {
    static PyObject *of_class, *of_what;
    PyTypeObject *cls = dn__expression_type;
    if (!of_what && (!(of_class = PyUnicode_InternFromString("cls")) ||
                     !(of_what = PyUnicode_InternFromString("what"))))
        return NULL;
    for (Py_ssize_t i = 0; i < PyTuple_Size(names); i++) {
        PyObject *name = PyTuple_GetItem(names, i);
        if (name == of_class && is_class(named[i])) cls = (PyTypeObject *)named[i];
        else if (name != of_what) return NULL;
    }
    return cls;
}

/* A node of one or two expressions and nothing else, the most frequent kind. */
static int64_t node_of_few(const Op *op, PyObject *const *x, int n) {
    int64_t handles[2];
    for (int i = 0; i < n; i++)
        if (!is_node(x[i]) || (handles[i] = ((Node *)x[i])->handle) < 0) return NOT_HANDLED;
    return dn__node(op->number, n, handles, 0, NULL, 0, NULL, 0);
}

/* A node of a list of expressions and nothing else. */
static int64_t node_of_list(const Op *op, PyObject *list) {
    int64_t handles[FEW];
    const Py_ssize_t n = PyList_CheckExact(list) ? PyList_Size(list) : 0;
    if (n < 1 || n > FEW) return NOT_HANDLED;
    for (Py_ssize_t i = 0; i < n; i++)
        if ((handles[i] = handle_of(PyList_GetItem(list, i))) < 0) return NOT_HANDLED;
    return dn__node(op->number, (int)n, handles, 0, NULL, 0, NULL, 0);
}

/* node(op, *expressions and attributes, what="", cls=Expression) */
static PyObject *node(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    Given g;
    PyTypeObject *cls = names ? class_of(args + n, names) : dn__expression_type;
    const Op *op = n && cls ? find_op(args[0]) : NULL;
    int64_t handle = NOT_HANDLED;
    if (op && op->takes_list) handle = n == 2 ? node_of_list(op, args[1]) : NOT_HANDLED;
    else if (op && (n == 2 || n == 3)) handle = node_of_few(op, args + 1, (int)n - 1);
    if (op && handle == NOT_HANDLED) {
        if (take_all(&g, args + 1, n - 1, op->takes_list)) {
            if (g.n)
                handle =
                    dn__node(op->number, g.n, g.handles, g.n_ints, g.ints, g.n_floats, g.floats, 0);
            else if (dn__current >= 0)
                handle = dn__calls->leaf(dn__current, op->number, g.n_ints, g.ints, g.n_floats,
                                         g.floats);
        }
        free(g.memory);
    }
    if (handle == DN_ERROR_PYTHON) return dn__python_error();
    return handle >= 0 ? dn__new_node(cls, handle) : dn__general(self, args, n, names);
}

/* listed(expressions, function): a list of them as it is */
static PyObject *listed(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    const Py_ssize_t n_items = n && PyList_CheckExact(args[0]) ? PyList_Size(args[0]) : 0;
    Py_ssize_t i = 0;
    while (i < n_items && is_node(PyList_GetItem(args[0], i))) i++;
    if (!n_items || i < n_items) return dn__general(self, args, n, names);
    Py_INCREF(args[0]);
    return args[0];
}

/* Entry i of a list or tuple of integers, `otherwise` behind its end; 0: it is no such list. */
static int entry(PyObject *list, Py_ssize_t i, int otherwise, int *out) {
    *out = otherwise;
    if (!PyList_CheckExact(list) && !PyTuple_CheckExact(list)) return 0;
    return i >= length(list) || as_index(item(list, i), out);
}

/* strided_node(x, strides, from, to) */
static PyObject *strided_node(PyObject *self, PyObject *const *args, Py_ssize_t n_args,
                              PyObject *names) {
    int ints[4 * (DN_MAX_DIMS + 1)];
    dn_dim d;
    int64_t x = n_args == 4 && !names ? node_of(args[0]) : -1, handle = NOT_HANDLED;
    Py_ssize_t n = 0;
    for (int k = 1; x >= 0 && k < 4; k++) n = length(args[k]) > n ? length(args[k]) : n;
    int good = x >= 0 && !dn__calls->node_dim(x, &d) && n <= d.nd + 1;
    for (int i = 0; good && i < n; i++) {
        int *range = ints + 4 * i;
        const int is_dim = i < d.nd, size = is_dim ? d.d[i] : d.batch;
        range[0] = is_dim ? i : -1;
        good = entry(args[2], i, 0, &range[1]) && entry(args[3], i, size, &range[2]) &&
               entry(args[1], i, 1, &range[3]);
        if (0 <= range[2] && range[2] < range[1] && range[1] <= size) range[2] = range[1];
    }
    if (good)
        handle = dn__node(n > d.nd ? DN_OP_slice_batch : DN_OP_slice, 1, &x, 4 * (int)n, ints, 0,
                          NULL, 0);
    if (handle == DN_ERROR_PYTHON) return dn__python_error();
    return handle >= 0 ? dn__new_node(dn__expression_type, handle)
                       : dn__general(self, args, n_args, names);
}

/* ---- many nodes in one call ----------------------------------------------------------- */

/* concatenate_pairs(xs, ys): [concatenate([x, y]) for x, y in zip(xs, ys)] */
static PyObject *pairs(PyObject *self, PyObject *const *args, Py_ssize_t n_args, PyObject *names) {
    static PyObject *name;
    const int op = n_args == 2 && (name || (name = PyUnicode_InternFromString("concatenate")))
                       ? dn__op(name)
                       : -1;
    const Py_ssize_t n = op < 0 ? 0 : length(args[0]);
    int made = n > 0 && n == length(args[1]);
    int64_t handle = NOT_HANDLED;
    PyObject *list = PyList_New(n);
    for (Py_ssize_t i = 0; list && made && i < n; i++) {
        int64_t pair[] = {handle_of(item(args[0], i)), handle_of(item(args[1], i))};
        handle = pair[0] < 0 || pair[1] < 0 ? NOT_HANDLED
                                            : dn__node(op, 2, pair, 1, (int[]){0}, 0, NULL, 0);
        PyObject *node = handle < 0 ? NULL : dn__new_node(dn__expression_type, handle);
        if (node) PyList_SetItem(list, i, node);
        else if (handle < 0) made = 0;
        else Py_CLEAR(list);
    }
    if (!list || made) return list;
    Py_DECREF(list);
    return handle == DN_ERROR_PYTHON ? dn__python_error() : dn__general(self, args, n_args, names);
}

/* expressions_from(handle, n) */
static PyObject *consecutive(PyObject *self, PyObject *const *args, Py_ssize_t n_args,
                             PyObject *names) {
    int n;
    int64_t first;
    if (n_args != 2 || !handle_from(args[0], &first) || !as_int(args[1], &n) || n < 0)
        return dn__general(self, args, n_args, names);
    return dn__nodes_from(first, n);
}

/* ---- nodes of the current graph: inputs and rows -------------------------------------- */

/* The sizes of an input: an integer or several; how many, 0: not handled. */
static int sizes_of(PyObject *from, int sizes[DN_MAX_DIMS + 1]) {
    if (is_integer(from)) return as_int(from, sizes);
    const Py_ssize_t n = length(from);
    for (Py_ssize_t i = 0; i < n && i <= DN_MAX_DIMS; i++)
        if (!as_int(item(from, i), &sizes[i])) return 0;
    return n <= DN_MAX_DIMS + 1 ? (int)n : 0;
}

/* input_node(cls, function, numbers, sizes, batched): of a list, column-major, or of one number,
 * which all elements are. Without sizes (None) a vector; batched: the last size is the batch's. */
static PyObject *input_node(PyObject *self, PyObject *const *args, Py_ssize_t n_args,
                            PyObject *names) {
    double few[DN_FEW], *x = few;
    int sizes[DN_MAX_DIMS + 1];
    Py_ssize_t n = 1;
    int64_t handle = NOT_HANDLED;
    if (n_args != 5 || names || dn__current < 0 || !is_class(args[0]) || !PyBool_Check(args[4]))
        return dn__general(self, args, n_args, names);
    const int is_one = PyLong_CheckExact(args[3]);
    if (is_one ? !as_double(args[2], few) : !(x = dn__numbers(args[2], few, &n)))
        return dn__general(self, args, n_args, names);
    int n_dims = 1, batch = 1;
    if (args[3] == Py_None) sizes[0] = n <= INT32_MAX ? (int)n : -1;
    else n_dims = sizes_of(args[3], sizes);
    if (n_dims) {
        if (args[4] == Py_True) batch = sizes[--n_dims];
        int64_t wanted = batch;
        for (int i = 0; i < n_dims; i++) wanted *= sizes[i];
        if (n_dims == 0) sizes[n_dims++] = 1; /* a batch of single numbers */
        const double *data = is_one && wanted != 1 && *x == 0 ? NULL : x;
        if (!data || wanted == n)
            handle = dn__calls->input_numbers(dn__current, n_dims, sizes, batch, data);
    }
    if (x != few) free(x);
    return handle >= 0 ? dn__new_node((PyTypeObject *)args[0], handle)
                       : dn__general(self, args, n_args, names);
}

/* leaf(op, what, dims, batch_size, *floats) */
static PyObject *leaf(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    enum { MOST_FLOATS = 4 };
    int ints[DN_MAX_DIMS + 2];
    double floats[MOST_FLOATS];
    const int n_floats = (int)n - 4;
    const Op *op = n_floats >= 0 && n_floats <= MOST_FLOATS && !names && dn__current >= 0
                       ? find_op(args[0])
                       : NULL;
    const int n_dims = op && as_int(args[3], ints) ? sizes_of(args[2], ints + 1) : 0;
    int good = n_dims > 0 && n_dims <= DN_MAX_DIMS;
    for (int i = 0; good && i < n_floats; i++) good = as_double(args[4 + i], &floats[i]);
    const int64_t handle =
        good ? dn__calls->leaf(dn__current, op->number, 1 + n_dims, ints, n_floats, floats)
             : NOT_HANDLED;
    return handle >= 0 ? dn__new_node(dn__expression_type, handle)
                       : dn__general(self, args, n, names);
}

int64_t dn__row(PyObject *table, PyObject *index) {
    int i;
    const int64_t a = handle_of(table);
    return dn__current >= 0 && a >= 0 && as_int(index, &i) ? dn__calls->lookup(dn__current, a, i)
                                                           : NOT_HANDLED;
}

/* row(cls, table, row) */
static PyObject *row(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    const int64_t handle =
        n == 3 && !names && is_class(args[0]) ? dn__row(args[1], args[2]) : NOT_HANDLED;
    return handle >= 0 ? dn__new_node((PyTypeObject *)args[0], handle)
                       : dn__general(self, args, n, names);
}

/* rows(cls, table, rows) */
static PyObject *row_nodes(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    int few[DN_FEW], n_rows = 0;
    const int64_t table =
        n == 3 && !names && dn__current >= 0 && is_class(args[0]) ? handle_of(args[1]) : -1;
    int *indices = table >= 0 ? dn__ints(args[2], few, &n_rows) : NULL;
    const int64_t handle =
        indices ? dn__calls->lookup_batch(dn__current, table, n_rows, indices) : NOT_HANDLED;
    if (indices != few) free(indices);
    return handle >= 0 ? dn__new_node((PyTypeObject *)args[0], handle)
                       : dn__general(self, args, n, names);
}

/* ---- handles: of nodes that are not expressions yet ----------------------------------- */

/* resolved(handle) */
static PyObject *resolved(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    int64_t given;
    const int64_t handle = n == 1 && dn__current >= 0 && handle_from(args[0], &given)
                               ? dn__calls->resolve(dn__current, given)
                               : NOT_HANDLED;
    return handle >= 0 ? PyLong_FromLongLong(handle) : dn__general(self, args, n, names);
}

/* parameter_node(p, update) */
static PyObject *parameter_node(PyObject *self, PyObject *const *args, Py_ssize_t n,
                                PyObject *names) {
    int64_t a = n == 2 && !names && PyBool_Check(args[1]) ? handle_of(args[0]) : -1;
    if (a >= 0 && args[1] == Py_False) a = dn__calls->constant_of(a);
    const int64_t handle =
        a >= 0 && dn__current >= 0 ? dn__calls->resolve(dn__current, a) : NOT_HANDLED;
    return handle >= 0 ? dn__new_node(dn__expression_type, handle)
                       : dn__general(self, args, n, names);
}

/* constant_of(p) */
static PyObject *constant_of(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    const int64_t a = n == 1 && !names ? handle_of(args[0]) : -1,
                  handle = a >= 0 ? dn__calls->constant_of(a) : NOT_HANDLED;
    return handle >= 0 ? dn__new_node(dn__expression_type, handle)
                       : dn__general(self, args, n, names);
}

/* traced_call(traced, *handles): a handle, or the error of C */
static PyObject *traced_call(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    int64_t handles[FEW];
    int good = n > 1 && n <= FEW;
    for (Py_ssize_t i = 0; good && i < n; i++) good = handle_from(args[i], &handles[i]);
    if (!good) return dn__general(self, args, n, names);
    return PyLong_FromLongLong(dn__calls->traced_call(handles[0], (int)n - 1, handles + 1));
}

/* tree_node(weights, n_ary, x, *children): a handle, or an error of C. A leaf of a parameter goes
 * to the current graph: that is not handled here. */
static PyObject *tree_node(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    int64_t x = 0, children[2] = {0, 0};
    const int64_t *weights = n > 2 && PyBytes_Check(args[0])
                                 ? (const int64_t *)(const void *)PyBytes_AsString(args[0])
                                 : NULL;
    int good =
        weights && PyBytes_Size(args[0]) == 6 * sizeof x && n <= 5 && handle_from(args[2], &x);
    for (Py_ssize_t i = 3; good && i < n; i++) good = handle_from(args[i], &children[i - 3]);
    const int64_t handle = good ? dn__calls->tree_node(weights, args[1] == Py_True, x, (int)n - 3,
                                                       children[0], children[1])
                                : DN_ERROR_NO_GRAPH;
    return handle == DN_ERROR_NO_GRAPH ? dn__general(self, args, n, names)
                                       : PyLong_FromLongLong(handle);
}

PyMethodDef dn__fast_nodes[] = {
    {"node", DN_FAST_NAMED(node)},
    {"strided_node", DN_FAST_NAMED(strided_node)},
    {"listed", DN_FAST_NAMED(listed)},
    {"concatenate_pairs", DN_FAST_NAMED(pairs)},
    {"expressions_from", DN_FAST_NAMED(consecutive)},
    {"input_node", DN_FAST_NAMED(input_node)},
    {"leaf", DN_FAST_NAMED(leaf)},
    {"row", DN_FAST_NAMED(row)},
    {"rows", DN_FAST_NAMED(row_nodes)},
    {"resolved", DN_FAST_NAMED(resolved)},
    {"parameter_node", DN_FAST_NAMED(parameter_node)},
    {"constant_of", DN_FAST_NAMED(constant_of)},
    {"traced_call", DN_FAST_NAMED(traced_call)},
    {"tree_node", DN_FAST_NAMED(tree_node)},
    {NULL, NULL, 0, NULL},
};
