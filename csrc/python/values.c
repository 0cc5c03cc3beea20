/* Values in and out, of numbers that fit on the stack, by the fast calls of csrc/graph/values.c
 * and csrc/graph/gradient.c. They stand for the functions of the same name in expression.py,
 * graph.py, parameters.py and ops/inputs.py. */
#include "numbers.h"

#include <stdlib.h>

static PyObject *general(PyObject *function, PyObject *x) {
    return PyObject_CallFunctionObjArgs(function, x, NULL);
}

/* set_numbers(x, numbers) */
static PyObject *set_numbers(PyObject *self, PyObject *const *args, Py_ssize_t n_args,
                             PyObject *names) {
    double few[DN_FEW], *x = NULL;
    Py_ssize_t n;
    int code = DN_FALLBACK;
    const int64_t a = n_args == 2 && !names ? handle_of(args[0]) : -1;
    if (a >= 0 && (x = dn__numbers(args[1], few, &n))) code = dn__calls->input_set_numbers(a, n, x);
    if (x != few) free(x);
    if (code) return dn__general(self, args, n_args, names);
    return Py_NewRef(Py_None);
}

/* numbers of a value that are read at once to be made a list of; more take their time anyway */
enum { LIST_ROOM = 1 << 16 };

static int fast_numbers(PyObject *x, dn_dim *dim, int capacity, double *out) {
    const int64_t a = node_of(x);
    return a < 0 ? DN_FALLBACK : dn__calls->fast_value(a, dim, capacity, out);
}

/* compute(x) */
static PyObject *compute_node(PyObject *self, PyObject *x) {
    const int64_t a = node_of(x);
    if (a < 0 || dn__calls->fast_forward(a)) return general(self, x);
    return Py_NewRef(Py_None);
}

/* forget(x) */
static PyObject *forget(PyObject *self, PyObject *x) {
    dn_dim dim;
    const int64_t a = node_of(x);
    if (a < 0 || dn__calls->node_dim(a, &dim) ||
        dn__calls->graph_invalidate((int)(a >> (DN_INDEX_BITS + DN_EPOCH_BITS))))
        return general(self, x);
    return Py_NewRef(Py_None);
}

/* scalar_of(x) */
static PyObject *scalar_of(PyObject *self, PyObject *x) {
    dn_dim dim;
    double value;
    if (fast_numbers(x, &dim, 1, &value)) return general(self, x);
    return PyFloat_FromDouble(value);
}

static PyObject *list_of(Py_ssize_t n, const double *values) {
    PyObject *list = PyList_New(n);
    for (Py_ssize_t i = 0; list && i < n; i++) {
        PyObject *number = PyFloat_FromDouble(values[i]);
        if (number && !PyList_SetItem(list, i, number)) continue;
        Py_DECREF(list);
        return NULL;
    }
    return list;
}

static PyObject *sizes(const dn_dim *dim) {
    PyObject *result = PyTuple_New(dim->nd);
    for (int i = 0; result && i < dim->nd; i++) {
        PyObject *size = PyLong_FromLong(dim->d[i]);
        if (size && !PyTuple_SetItem(result, i, size)) continue;
        Py_DECREF(result);
        return NULL;
    }
    return result;
}

/* (the numbers as doubles in a bytearray, the sizes, the batch size) */
static PyObject *array_of(const dn_dim *dim, const double *values) {
    const Py_ssize_t bytes = (Py_ssize_t)sizeof *values * dim->size * dim->batch;
    return Py_BuildValue("NNi", PyByteArray_FromStringAndSize((const char *)values, bytes),
                         sizes(dim), dim->batch);
}

/* The value of a node as a list, where it is more than DN_FAST_CAPACITY numbers; vectors: only if
 * it has one dim. */
static PyObject *long_list(PyObject *function, PyObject *x, int vectors) {
    dn_dim dim;
    const int64_t a = node_of(x);
    if (a < 0 || dn__calls->node_dim(a, &dim) || (vectors && dim.nd > 1))
        return general(function, x);
    const int64_t n = (int64_t)dim.size * dim.batch;
    double *values =
        n <= DN_FAST_CAPACITY || n > LIST_ROOM ? NULL : malloc((size_t)n * sizeof *values);
    const int fast = values && !dn__calls->fast_value(a, &dim, (int)n, values);
    PyObject *list = fast ? list_of((Py_ssize_t)n, values) : NULL;
    free(values);
    return fast ? list : general(function, x);
}

/* value_of(x): a number, or a list of the numbers of vectors; arrays are for Python */
static PyObject *number_or_list(PyObject *self, PyObject *x) {
    dn_dim dim;
    double values[DN_FAST_CAPACITY];
    if (fast_numbers(x, &dim, DN_FAST_CAPACITY, values)) return long_list(self, x, 1);
    if (dim.nd > 1) return general(self, x);
    const Py_ssize_t n = (Py_ssize_t)dim.size * dim.batch;
    return n == 1 ? PyFloat_FromDouble(values[0]) : list_of(n, values);
}

/* list_of(x) */
static PyObject *flat_list(PyObject *self, PyObject *x) {
    dn_dim dim;
    double values[DN_FAST_CAPACITY];
    if (fast_numbers(x, &dim, DN_FAST_CAPACITY, values)) return long_list(self, x, 0);
    return list_of((Py_ssize_t)dim.size * dim.batch, values);
}

/* What a call reads of x, as array_of; self(x) where it cannot. */
static PyObject *array_by(int (*read)(int64_t, dn_dim *, int, double *), PyObject *self,
                          PyObject *x) {
    dn_dim dim;
    double values[DN_FAST_CAPACITY];
    const int64_t a = node_of(x);
    if (a < 0 || read(a, &dim, DN_FAST_CAPACITY, values)) return general(self, x);
    return array_of(&dim, values);
}

static PyObject *numbers_of(PyObject *self, PyObject *x) {
    return array_by(dn__calls->fast_value, self, x);
}
static PyObject *probabilities_of(PyObject *self, PyObject *x) {
    return array_by(dn__calls->fast_probabilities, self, x);
}
static PyObject *gradient_of(PyObject *self, PyObject *x) {
    return array_by(dn__calls->fast_gradient, self, x);
}

/* stored(parameter, row): row -1: all of a parameter's values, as they are stored */
static PyObject *stored(PyObject *self, PyObject *const *args, Py_ssize_t n_args, PyObject *names) {
    dn_dim dim;
    double values[DN_FAST_CAPACITY];
    int row;
    const int64_t a = n_args == 2 && !names ? handle_of(args[0]) : -1;
    if (a < 0 || !as_int(args[1], &row) ||
        dn__calls->fast_param(a, row, &dim, DN_FAST_CAPACITY, values))
        return dn__general(self, args, n_args, names);
    return array_of(&dim, values);
}

/* set_row(table, i, numbers) */
static PyObject *set_row(PyObject *self, PyObject *const *args, Py_ssize_t n_args,
                         PyObject *names) {
    double few[DN_FEW], *x = NULL;
    Py_ssize_t n;
    int row, code = DN_FALLBACK;
    const int64_t a = n_args == 3 && !names ? handle_of(args[0]) : -1;
    if (a >= 0 && as_int(args[1], &row) && (x = dn__numbers(args[2], few, &n)))
        code = dn__calls->fast_row_set(a, row, n, x);
    if (x != few) free(x);
    if (code) return dn__general(self, args, n_args, names);
    return Py_NewRef(Py_None);
}

/* dim_of(x): ((sizes), batch size) */
static PyObject *dim_of(PyObject *self, PyObject *x) {
    dn_dim dim;
    const int64_t a = node_of(x);
    if (a < 0 || dn__calls->node_dim(a, &dim)) return general(self, x);
    return Py_BuildValue("Ni", sizes(&dim), dim.batch);
}

/* begin_backward(x, full): what dn_backward() returns */
static PyObject *begin_backward(PyObject *self, PyObject *const *args, Py_ssize_t n_args,
                                PyObject *names) {
    const int64_t a = n_args == 2 && !names && PyBool_Check(args[1]) ? handle_of(args[0]) : -1;
    const int code = a < 0 ? DN_FALLBACK : dn__calls->fast_backward(a, args[1] == Py_True);
    return code == DN_FALLBACK ? dn__general(self, args, n_args, names) : PyLong_FromLong(code);
}

/* update_all(c, address): what dn_trainer_update() of the trainer there returns */
static PyObject *update_all(PyObject *self, PyObject *const *args, Py_ssize_t n_args,
                            PyObject *names) {
    const long long trainer = n_args == 2 && !names ? PyLong_AsLongLong(args[1]) : -1;
    if (trainer == -1 && PyErr_Occurred()) return NULL;
    const int code = trainer == -1 ? DN_FALLBACK : dn__calls->fast_update(trainer);
    return code == DN_FALLBACK ? dn__general(self, args, n_args, names) : PyLong_FromLong(code);
}

/* renew_current(): a new graph in the place of the current one */
static PyObject *renew_current(PyObject *self, PyObject *unused) {
    (void)unused;
    if (dn__current < 0 || dn__calls->renew(dn__current))
        return PyObject_CallFunctionObjArgs(self, NULL);
    return Py_NewRef(Py_None);
}

/* checkpoint_current() and revert_current(), of the current graph */
static PyObject *checkpoint_current(PyObject *self, PyObject *unused) {
    (void)unused;
    const int graph = dn__current, n = graph < 0 ? 0 : dn__calls->graph_size(graph);
    if (graph < 0 || (n && dn__calls->fast_forward(dn__calls->graph_node(graph, n - 1))) ||
        dn__calls->graph_checkpoint(graph))
        return PyObject_CallFunctionObjArgs(self, NULL);
    return Py_NewRef(Py_None);
}
static PyObject *revert_current(PyObject *self, PyObject *unused) {
    (void)unused;
    if (dn__current < 0 || dn__calls->graph_revert(dn__current))
        return PyObject_CallFunctionObjArgs(self, NULL);
    return Py_NewRef(Py_None);
}

/* this_graph() */
static PyObject *get_this_graph(PyObject *self, PyObject *unused) {
    (void)unused;
    return dn__current < 0 ? PyObject_CallFunctionObjArgs(self, NULL)
                           : PyLong_FromLongLong(this_graph());
}

PyMethodDef dn__fast_values[] = {
    {"this_graph", get_this_graph, METH_NOARGS, NULL},
    {"set_numbers", DN_FAST_NAMED(set_numbers)},
    {"compute", compute_node, METH_O, NULL},
    {"forget", forget, METH_O, NULL},
    {"scalar_of", scalar_of, METH_O, NULL},
    {"value_of", number_or_list, METH_O, NULL},
    {"list_of", flat_list, METH_O, NULL},
    {"numbers_of", numbers_of, METH_O, NULL},
    {"probabilities_of", probabilities_of, METH_O, NULL},
    {"gradient_of", gradient_of, METH_O, NULL},
    {"stored", DN_FAST_NAMED(stored)},
    {"set_row", DN_FAST_NAMED(set_row)},
    {"dim_of", dim_of, METH_O, NULL},
    {"begin_backward", DN_FAST_NAMED(begin_backward)},
    {"update_all", DN_FAST_NAMED(update_all)},
    {"renew_current", renew_current, METH_NOARGS, NULL},
    {"checkpoint_current", checkpoint_current, METH_NOARGS, NULL},
    {"revert_current", revert_current, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
