/* call(kind, op, cls, otherwise): the built-in functions that make nodes, one kind for each frequent form of call. Each knows the quick way
 * only; what else can happen goes to the function in Python that was given with it (expression.h: Maker). */
#include "expression.h"

#include <stdlib.h>
#include <string.h>

PyTypeObject *dn__maker_type;

double *dn__numbers(PyObject *from, double *few, Py_ssize_t *n) {
    if (!PyList_CheckExact(from) && !PyTuple_CheckExact(from)) return NULL;
    *n = length(from);
    double *out = *n <= 64 ? few : malloc((size_t)*n * sizeof *out);
    for (Py_ssize_t i = 0; out && i < *n; i++)
        if (!real(item(from, i), &out[i])) {
            if (out != few) free(out);
            return NULL;
        }
    return out;
}

/* ---- one node ------------------------------------------------------------------------------------------------------------------------ */

/* What node_many gives, or node_parts where there are parts. */
static int64_t node_of(int op, int n, const int64_t *handles, int n_ints, const int *ints, int n_reals, const double *reals, int parts) {
    return parts ? dn__calls->node_parts(op, n, handles, n_ints, ints, n_reals, reals, parts)
                 : dn__calls->node_many(op, n, handles, n_ints, ints, n_reals, reals);
}

/* `result` is what a call with these inputs gave. Parameters alone belong to no graph: then the node is made in the current one. */
static int64_t in_current(int64_t result, int op, int n, int64_t *handles, int n_ints, const int *ints, int n_reals, const double *reals,
                          int parts) {
    if (result != DN_ERROR_NO_GRAPH || dn__current < 0) return result;
    const int64_t first = dn__calls->resolve(dn__current, handles[0]);
    if (first < 0) return result;
    handles[0] = first;
    return node_of(op, n, handles, n_ints, ints, n_reals, reals, parts);
}

int64_t dn__node(int op, int n, int64_t *handles, int n_ints, const int *ints, int n_reals, const double *reals, int parts) {
    return in_current(node_of(op, n, handles, n_ints, ints, n_reals, reals, parts), op, n, handles, n_ints, ints, n_reals, reals, parts);
}

static int64_t node1(int op, int64_t a) { return in_current(dn__calls->node1(op, a), op, 1, &a, 0, NULL, 0, NULL, 0); }
int64_t dn__node2(int op, int64_t a, int64_t b) {
    return in_current(dn__calls->node2(op, a, b), op, 2, (int64_t[]){a, b}, 0, NULL, 0, NULL, 0);
}
int64_t dn__node1_real(int op, int64_t a, double r, double s) {
    return in_current(dn__calls->node1_real(op, a, r, s), op, 1, &a, 0, NULL, 2, (double[]){r, s}, 0);
}

static PyObject *unary(PyObject *self, PyObject *x) {
    const Maker *m = (Maker *)self;
    const int64_t a = handle_of(x);
    return made(m, a < 0 ? NOT_TAKEN : node1(m->op, a), 1, &x);
}

static PyObject *binary(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    const Maker *m = (Maker *)self;
    if (!counted(n, 2)) return NULL;
    const int64_t a = handle_of(args[0]), b = handle_of(args[1]);
    return made(m, a < 0 || b < 0 ? NOT_TAKEN : dn__node2(m->op, a, b), 2, args);
}

/* f(x, i): one attribute, a whole number */
static PyObject *with_int(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    const Maker *m = (Maker *)self;
    int i;
    if (!counted(n, 2)) return NULL;
    int64_t a = handle_of(args[0]);
    return made(m, a < 0 || !whole(args[1], &i) ? NOT_TAKEN : dn__node(m->op, 1, &a, 1, &i, 0, NULL, 0), 2, args);
}

/* f(x, i): the attributes 0 and i, of a selection in the first dim */
static PyObject *at_index(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    const Maker *m = (Maker *)self;
    int ints[2] = {0, 0};
    if (!counted(n, 2)) return NULL;
    int64_t a = handle_of(args[0]);
    return made(m, a < 0 || !whole(args[1], &ints[1]) ? NOT_TAKEN : dn__node(m->op, 1, &a, 2, ints, 0, NULL, 0), 2, args);
}

/* f(x, r, s): two real attributes */
static PyObject *with_reals(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    const Maker *m = (Maker *)self;
    double r, s;
    if (!counted(n, 3)) return NULL;
    const int64_t a = handle_of(args[0]);
    return made(m, a < 0 || !real(args[1], &r) || !real(args[2], &s) ? NOT_TAKEN : dn__node1_real(m->op, a, r, s), 3, args);
}

/* f(x, i, ...): whole numbers as attributes, up to 16; the last argument may be a list or tuple of several */
static PyObject *with_ints(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    enum { MOST = 16 };
    const Maker *m = (Maker *)self;
    int ints[MOST], n_ints = 0;
    int64_t a = n > 0 ? handle_of(args[0]) : -1;
    for (Py_ssize_t i = 1; a >= 0 && i < n; i++) {
        const int several = i == n - 1 && !PyLong_Check(args[i]);
        const Py_ssize_t wanted = several ? length(args[i]) : 1;
        if (wanted < 1 || wanted > MOST - n_ints) a = -1;
        for (Py_ssize_t k = 0; a >= 0 && k < wanted; k++)
            if (!whole(several ? item(args[i], k) : args[i], &ints[n_ints++])) a = -1;
    }
    return made(m, a < 0 ? NOT_TAKEN : dn__node(m->op, 1, &a, n_ints, ints, 0, NULL, 0), n, args);
}

/* f(x, i, r): a whole number and a real one */
static PyObject *with_int_and_real(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    const Maker *m = (Maker *)self;
    int i;
    double r;
    if (!counted(n, 3)) return NULL;
    int64_t a = handle_of(args[0]);
    return made(m, a < 0 || !whole(args[1], &i) || !real(args[2], &r) ? NOT_TAKEN : dn__node(m->op, 1, &a, 1, &i, 1, &r, 0), 3, args);
}

/* f(x, y, r): two expressions and a real attribute */
static PyObject *binary_with_real(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    const Maker *m = (Maker *)self;
    double r;
    if (!counted(n, 3)) return NULL;
    int64_t xs[] = {handle_of(args[0]), handle_of(args[1])};
    return made(m, xs[0] < 0 || xs[1] < 0 || !real(args[2], &r) ? NOT_TAKEN : dn__node(m->op, 2, xs, 0, NULL, 1, &r, 0), 3, args);
}

/* f(x, steps, starts, stops): the cut start:stop:step in each dim, of lists of one length */
static PyObject *strided(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    const Maker *m = (Maker *)self;
    int ints[4 * DN_MAX_DIMS];
    if (!counted(n_args, 4)) return NULL;
    int64_t a = handle_of(args[0]);
    const Py_ssize_t n = length(args[1]);
    if (n > DN_MAX_DIMS || length(args[2]) != n || length(args[3]) != n) a = -1;
    for (Py_ssize_t i = 0; a >= 0 && i < n; i++) {
        int *cut = &ints[4 * i];
        cut[0] = (int)i;
        if (!whole(item(args[2], i), &cut[1]) || !whole(item(args[3], i), &cut[2]) || !whole(item(args[1], i), &cut[3])) a = -1;
    }
    return made(m, a < 0 || n < 1 ? NOT_TAKEN : dn__node(m->op, 1, &a, 4 * (int)n, ints, 0, NULL, 0), 4, args);
}

/* As dn__numbers(), for whole numbers. */
static int *whole_numbers(PyObject *from, int *few, Py_ssize_t *n) {
    if (!PyList_CheckExact(from) && !PyTuple_CheckExact(from)) return NULL;
    *n = length(from);
    int *out = *n <= 64 ? few : malloc((size_t)*n * sizeof *out);
    for (Py_ssize_t i = 0; out && i < *n; i++)
        if (!whole(item(from, i), &out[i])) {
            if (out != few) free(out);
            return NULL;
        }
    return out;
}

/* A node of the expressions in a list. Handles are read without calling Python: the list stays as it is. */
static int64_t node_of_list(int op, PyObject *list, Py_ssize_t n_ints, const int *ints, Py_ssize_t n_reals, const double *reals) {
    const Py_ssize_t n = length(list);
    if (n < 1 || n > INT32_MAX || n_ints > INT32_MAX || n_reals > INT32_MAX) return NOT_TAKEN;
    int64_t few[16], *handles = n <= 16 ? few : malloc((size_t)n * sizeof *handles), result = NOT_TAKEN;
    Py_ssize_t i = 0;
    for (; handles && i < n; i++)
        if ((handles[i] = handle_of(item(list, i))) < 0) break;
    if (i == n) result = dn__node(op, (int)n, handles, (int)n_ints, ints, (int)n_reals, reals, 0);
    if (handles != few) free(handles);
    return result;
}

static PyObject *of_list(PyObject *self, PyObject *list) {
    const Maker *m = (Maker *)self;
    return made(m, node_of_list(m->op, list, 0, NULL, 0, NULL), 1, &list);
}

/* quick_node(class, op, expressions, ints, reals): an expression of the class for a node of any form; with None for the expressions one
 * without inputs. Else the error of C, or NOT_TAKEN. */
PyObject *dn__quick_node(PyObject *module, PyObject *const *args, Py_ssize_t n_args) {
    (void)module;
    int few_ints[64], op;
    double few_reals[64];
    Py_ssize_t n_ints = 0, n_reals = 0;
    int64_t handle = NOT_TAKEN;
    if (!counted(n_args, 5)) return NULL;
    if (!PyType_Check(args[0]) || !PyType_IsSubtype((PyTypeObject *)args[0], dn__node_type) || !whole(args[1], &op))
        return PyErr_Format(PyExc_TypeError, "quick_node: takes a class of expressions and an operation; got %R, %R.", args[0], args[1]);
    int *ints = whole_numbers(args[3], few_ints, &n_ints);
    double *reals = dn__numbers(args[4], few_reals, &n_reals);
    if (ints && reals && args[2] != Py_None) handle = node_of_list(op, args[2], n_ints, ints, n_reals, reals);
    else if (ints && reals && dn__current >= 0 && n_ints <= INT32_MAX && n_reals <= INT32_MAX)
        handle = dn__calls->leaf(dn__current, op, (int)n_ints, ints, (int)n_reals, reals);
    if (ints != few_ints) free(ints);
    if (reals != few_reals) free(reals);
    return handle >= 0 ? dn__new_node((PyTypeObject *)args[0], handle) : PyLong_FromLongLong(handle);
}

/* f(list, i) */
static PyObject *of_list_with_int(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    const Maker *m = (Maker *)self;
    int i;
    if (!counted(n, 2)) return NULL;
    return made(m, whole(args[1], &i) ? node_of_list(m->op, args[0], 1, &i, 0, NULL) : NOT_TAKEN, 2, args);
}

/* all_whole(x): whether it is a list or tuple, of Python's own, of whole numbers that fit an int */
PyObject *dn__all_whole(PyObject *module, PyObject *from) {
    (void)module;
    int number;
    const Py_ssize_t n = dn__declines(DN_DECLINING_all_whole) ? -1 : length(from);
    Py_ssize_t i = 0;
    while (i < n && whole(item(from, i), &number)) i++;
    return PyBool_FromLong(i == n && (n || PyList_CheckExact(from) || PyTuple_CheckExact(from)));
}

/* ---- many nodes in one call ---------------------------------------------------------------------------------------------------------- */

/* f(xs, ys): [g([x, y], 0) for x, y in zip(xs, ys)] */
static PyObject *pairs(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    const Maker *m = (Maker *)self;
    const int zero = 0;
    if (!counted(n_args, 2)) return NULL;
    const Py_ssize_t n = length(args[0]);
    int64_t handle = n > 0 && n == length(args[1]) ? 0 : NOT_TAKEN;
    PyObject *list = PyList_New(n);
    for (Py_ssize_t i = 0; list && handle >= 0 && i < n; i++) {
        int64_t pair[] = {handle_of(item(args[0], i)), handle_of(item(args[1], i))};
        handle = pair[0] < 0 || pair[1] < 0 ? NOT_TAKEN : dn__node(m->op, 2, pair, 1, &zero, 0, NULL, 0);
        PyObject *node = handle < 0 ? NULL : dn__new_node(m->cls, handle);
        if (node) PyList_SetItem(list, i, node);
        else if (handle >= 0) Py_CLEAR(list);
    }
    if (!list || handle >= 0) return list;
    Py_DECREF(list);
    return dn__other_way(m, handle, 2, args);
}

/* ---- inputs: nodes of the current graph ---------------------------------------------------------------------------------------------- */

static PyObject *scalar(PyObject *self, PyObject *x) {
    double value;
    return made((Maker *)self, dn__current < 0 || !real(x, &value) ? NOT_TAKEN : dn__calls->input_scalar(dn__current, value), 1, &x);
}

static PyObject *zeros(PyObject *self, PyObject *x) {
    int n;
    return made((Maker *)self, dn__current < 0 || !whole(x, &n) ? NOT_TAKEN : dn__calls->input_zeros(dn__current, n), 1, &x);
}

/* f(dims, batch, r, ...): a node without inputs of these dims, a number or several, with up to 4 reals */
static PyObject *source(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    const Maker *m = (Maker *)self;
    int ints[1 + DN_MAX_DIMS];
    double reals[4];
    int taken = dn__current >= 0 && n_args >= 2 && n_args <= 6 && whole(args[1], ints);
    const int several = taken && !PyLong_CheckExact(args[0]);
    const Py_ssize_t n = several ? length(args[0]) : 1;
    if (n < 1 || n > DN_MAX_DIMS) taken = 0;
    for (Py_ssize_t i = 0; taken && i < n; i++) taken = whole(several ? item(args[0], i) : args[0], &ints[1 + i]) && ints[1 + i] >= 0;
    for (Py_ssize_t i = 2; taken && i < n_args; i++) taken = real(args[i], &reals[i - 2]);
    return made(m, taken ? dn__calls->leaf(dn__current, m->op, 1 + (int)n, ints, (int)n_args - 2, reals) : NOT_TAKEN, n_args, args);
}

/* f(table, row) */
static PyObject *row(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    int i;
    if (!counted(n, 2)) return NULL;
    const int64_t table = handle_of(args[0]);
    const int taken = dn__current >= 0 && table >= 0 && whole(args[1], &i);
    return made((Maker *)self, taken ? dn__calls->lookup(dn__current, table, i) : NOT_TAKEN, 2, args);
}

/* f(table, rows) */
static PyObject *rows(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    int few[64];
    Py_ssize_t n;
    int64_t handle = NOT_TAKEN;
    if (!counted(n_args, 2)) return NULL;
    const int64_t table = handle_of(args[0]);
    int *numbered = dn__current < 0 || table < 0 ? NULL : whole_numbers(args[1], few, &n);
    if (numbered && n <= INT32_MAX) handle = dn__calls->lookup_batch(dn__current, table, (int)n, numbered);
    if (numbered != few) free(numbered);
    return made((Maker *)self, handle, 2, args);
}

/* f(numbers, sizes, batched): of a list, column-major; batched: the last size is the batch's */
static PyObject *tensor(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    double few[64];
    int sizes[DN_MAX_DIMS + 1];
    Py_ssize_t n;
    int64_t handle = NOT_TAKEN;
    if (!counted(n_args, 3)) return NULL;
    const Py_ssize_t n_sizes = length(args[1]);
    int taken = dn__current >= 0 && PyBool_Check(args[2]) && n_sizes > 0 && n_sizes <= DN_MAX_DIMS + 1;
    for (Py_ssize_t i = 0; taken && i < n_sizes; i++) taken = whole(item(args[1], i), &sizes[i]);
    double *x = taken ? dn__numbers(args[0], few, &n) : NULL;
    if (x) {
        int n_dims = (int)n_sizes, batch = args[2] == Py_True ? sizes[--n_dims] : 1;
        int64_t wanted = batch;
        for (int i = 0; i < n_dims; i++) wanted *= sizes[i];
        if (n_dims == 0) sizes[n_dims++] = 1; /* a batch of single numbers */
        if (wanted == n) handle = dn__calls->input_numbers(dn__current, n_dims, sizes, batch, x);
    }
    if (x != few) free(x);
    return made((Maker *)self, handle, 3, args);
}

static PyObject *vector(PyObject *self, PyObject *from) {
    double few[64];
    Py_ssize_t n;
    int64_t handle = NOT_TAKEN;
    double *x = dn__current < 0 ? NULL : dn__numbers(from, few, &n);
    if (x && n <= INT32_MAX) handle = dn__calls->input_numbers(dn__current, 1, (int[]){(int)n}, 1, x);
    if (x != few) free(x);
    return made((Maker *)self, handle, 1, &from);
}

/* ---- their kinds --------------------------------------------------------------------------------------------------------------------- */

static PyMethodDef kinds[] = {
    {"unary", unary, METH_O, NULL}, {"binary", DN_FAST(binary)}, {"with_int", DN_FAST(with_int)}, {"at_index", DN_FAST(at_index)},
    {"with_reals", DN_FAST(with_reals)}, {"with_ints", DN_FAST(with_ints)}, {"with_int_and_real", DN_FAST(with_int_and_real)},
    {"binary_with_real", DN_FAST(binary_with_real)}, {"strided", DN_FAST(strided)}, {"of_list", of_list, METH_O, NULL},
    {"of_list_with_int", DN_FAST(of_list_with_int)},
    {"pairs", DN_FAST(pairs)}, {"scalar", scalar, METH_O, NULL}, {"zeros", zeros, METH_O, NULL}, {"vector", vector, METH_O, NULL},
    {"source", DN_FAST(source)}, {"tensor", DN_FAST(tensor)}, {"row", DN_FAST(row)}, {"rows", DN_FAST(rows)},
    {NULL, NULL, 0, NULL},
};

PyObject *dn__kinds(void) {
    const Py_ssize_t n = (Py_ssize_t)(sizeof kinds / sizeof *kinds) - 1;
    PyObject *names = PyTuple_New(n);
    for (Py_ssize_t i = 0; names && i < n; i++) {
        PyObject *name = PyUnicode_FromString(kinds[i].ml_name);
        if (name) PyTuple_SetItem(names, i, name);
        else Py_CLEAR(names);
    }
    return names;
}

/* call(kind, op, cls, otherwise): the built-in function of this kind */
PyObject *dn__call(PyObject *module, PyObject *args) {
    (void)module;
    const char *kind;
    int op;
    PyObject *cls, *otherwise;
    if (!PyArg_ParseTuple(args, "siO!O", &kind, &op, &PyType_Type, &cls, &otherwise)) return NULL;
    PyMethodDef *method = kinds;
    while (method->ml_name && strcmp(method->ml_name, kind)) method++;
    if (!method->ml_name || !PyType_IsSubtype((PyTypeObject *)cls, dn__node_type))
        return PyErr_Format(PyExc_ValueError, "call: takes a kind of call and a class of expressions; got %s, %R.", kind, cls);
    Maker *m = (Maker *)PyType_GenericAlloc(dn__maker_type, 0);
    if (!m) return NULL;
    Py_INCREF(cls);
    Py_INCREF(otherwise);
    m->op = op;
    m->cls = (PyTypeObject *)cls;
    m->otherwise = otherwise;
    PyObject *function = PyCFunction_NewEx(method, (PyObject *)m, NULL);
    Py_DECREF(m);
    return function;
}

static void maker_dealloc(PyObject *o) {
    PyTypeObject *cls = Py_TYPE(o);
    Py_XDECREF(((Maker *)o)->cls);
    Py_XDECREF(((Maker *)o)->otherwise);
    PyObject_Free(o);
    Py_DECREF(cls);
}

PyTypeObject *dn__new_maker_type(void) {
    static PyType_Slot slots[] = {DN_SLOT(Py_tp_dealloc, maker_dealloc), {0, NULL}};
    static PyType_Spec spec = {"dist_dynet._expression.Maker", sizeof(Maker), 0, Py_TPFLAGS_DEFAULT, slots};
    return dn__maker_type = (PyTypeObject *)PyType_FromSpec(&spec);
}
