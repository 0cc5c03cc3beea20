/* Values in and out: the quick ways of csrc/graph/values.c and csrc/graph/gradient.c for
 * numbers that fit on the stack. None, DN_LONG_WAY or a negative error: graph.py and expression.py
 * go the longer way, which takes its time and has the words. */
#include "expression.h"

#include <stdlib.h>

/* set(x, numbers): 0, a negative error, or DN_LONG_WAY */
static PyObject *set_input(PyObject *module, PyObject *const *args, Py_ssize_t n_args) {
    (void)module;
    double few[64];
    Py_ssize_t n;
    int code = DN_LONG_WAY;
    if (!counted(n_args, 2)) return NULL;
    const int64_t a = handle_of(args[0]);
    double *x = a < 0 ? NULL : dn__numbers(args[1], few, &n);
    if (x) code = dn__calls->input_set_numbers(a, n, x);
    if (x != few) free(x);
    return PyLong_FromLong(code);
}

enum { LIST_ROOM = 1 << 16 }; /* numbers of a value that are read at once to be made a list of; more take their time anyway */

static int quick_numbers(PyObject *x, dn_dim *dim, int room, double *out) {
    const int64_t a = handle_of(x);
    return a < 0 ? DN_LONG_WAY : dn__calls->quick_value(a, dim, room, out);
}

/* The value of a node that is one number; None, here and below: ask the longer way. */
static PyObject *quick_scalar(PyObject *module, PyObject *x) {
    (void)module;
    dn_dim dim;
    double value;
    if (quick_numbers(x, &dim, 1, &value)) Py_RETURN_NONE;
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
    return Py_BuildValue("NNi", PyByteArray_FromStringAndSize((const char *)values, bytes), sizes(dim), dim->batch);
}

/* The value of a node as a list, where it is more than DN_QUICK_ROOM numbers; vectors: only if it has one dim. */
static PyObject *long_list(PyObject *x, int vectors) {
    dn_dim dim;
    const int64_t a = handle_of(x);
    if (a < 0 || dn__calls->node_dim(a, &dim) || (vectors && dim.nd > 1)) Py_RETURN_NONE;
    const int64_t n = (int64_t)dim.size * dim.batch;
    if (n <= DN_QUICK_ROOM || n > LIST_ROOM) Py_RETURN_NONE;
    double *values = malloc((size_t)n * sizeof *values);
    PyObject *list = NULL;
    const int quick = values && !dn__calls->quick_value(a, &dim, (int)n, values);
    if (quick) list = list_of((Py_ssize_t)n, values);
    free(values);
    if (quick) return list;
    Py_RETURN_NONE;
}

/* A number, a list of the numbers of vectors, or what quick_array() gives for all else. */
static PyObject *quick_value(PyObject *module, PyObject *x) {
    (void)module;
    dn_dim dim;
    double values[DN_QUICK_ROOM];
    if (quick_numbers(x, &dim, DN_QUICK_ROOM, values)) return long_list(x, 1);
    if (dim.nd > 1) return array_of(&dim, values);
    const Py_ssize_t n = (Py_ssize_t)dim.size * dim.batch;
    return n == 1 ? PyFloat_FromDouble(values[0]) : list_of(n, values);
}

static PyObject *quick_list(PyObject *module, PyObject *x) {
    (void)module;
    dn_dim dim;
    double values[DN_QUICK_ROOM];
    if (quick_numbers(x, &dim, DN_QUICK_ROOM, values)) return long_list(x, 0);
    return list_of((Py_ssize_t)dim.size * dim.batch, values);
}

static PyObject *quick_array(PyObject *module, PyObject *x) {
    (void)module;
    dn_dim dim;
    double values[DN_QUICK_ROOM];
    if (quick_numbers(x, &dim, DN_QUICK_ROOM, values)) Py_RETURN_NONE;
    return array_of(&dim, values);
}

static PyObject *quick_gradient(PyObject *module, PyObject *x) {
    (void)module;
    dn_dim dim;
    double values[DN_QUICK_ROOM];
    const int64_t a = handle_of(x);
    if (a < 0 || dn__calls->quick_gradient(a, &dim, DN_QUICK_ROOM, values)) Py_RETURN_NONE;
    return array_of(&dim, values);
}

/* quick_param(parameter, row): the values of one row of a table; row -1: all of a parameter's, as it is stored. */
static PyObject *quick_param(PyObject *module, PyObject *const *args, Py_ssize_t n_args) {
    (void)module;
    dn_dim dim;
    double values[DN_QUICK_ROOM];
    int row;
    if (!counted(n_args, 2)) return NULL;
    const int64_t a = handle_of(args[0]);
    if (a < 0 || !whole(args[1], &row) || dn__calls->quick_param(a, row, &dim, DN_QUICK_ROOM, values)) Py_RETURN_NONE;
    return array_of(&dim, values);
}

/* ((sizes), batch size) */
static PyObject *quick_dim(PyObject *module, PyObject *x) {
    (void)module;
    dn_dim dim;
    const int64_t a = handle_of(x);
    if (a < 0 || dn__calls->node_dim(a, &dim)) Py_RETURN_NONE;
    return Py_BuildValue("Ni", sizes(&dim), dim.batch);
}

/* What dn_quick_backward() returns. */
static PyObject *quick_backward(PyObject *module, PyObject *x) {
    (void)module;
    const int64_t a = handle_of(x);
    return PyLong_FromLong(a < 0 ? DN_LONG_WAY : dn__calls->quick_backward(a));
}

/* A new graph in the place of the current one; False: ask the longer way. */
static PyObject *quick_renew(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyBool_FromLong(dn__current >= 0 && !dn__calls->renew(dn__current));
}

PyMethodDef dn__value_functions[] = {
    {"set_input", DN_FAST(set_input)},
    {"quick_scalar", quick_scalar, METH_O, NULL},
    {"quick_value", quick_value, METH_O, NULL},
    {"quick_list", quick_list, METH_O, NULL},
    {"quick_array", quick_array, METH_O, NULL},
    {"quick_gradient", quick_gradient, METH_O, NULL},
    {"quick_param", DN_FAST(quick_param)},
    {"quick_dim", quick_dim, METH_O, NULL},
    {"quick_backward", quick_backward, METH_O, NULL},
    {"quick_renew", quick_renew, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
