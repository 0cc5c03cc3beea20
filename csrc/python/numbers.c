/* What an integer, a float and a list of them are, where they are Python's own and of 32 bits: all
 * else, True and False too, is for the functions of these names in dist_dynet/_integers.py, which
 * say the rule. */
#include "expression.h"

#include <stdlib.h>

double *dn__numbers(PyObject *from, double *few, Py_ssize_t *n) {
    if (!PyList_CheckExact(from) && !PyTuple_CheckExact(from)) return NULL;
    PyObject *(*const get)(PyObject *, Py_ssize_t) =
        PyList_CheckExact(from) ? PyList_GetItem : PyTuple_GetItem;
    const Py_ssize_t size = *n = length(from);
    double *out = size <= DN_FEW ? few : malloc((size_t)size * sizeof *out);
    for (Py_ssize_t i = 0; out && i < size; i++)
        if (!as_double(get(from, i), &out[i])) {
            if (out != few) free(out);
            return NULL;
        }
    return out;
}

/* whole(value, function, name, ...) */
static PyObject *fast_whole(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    int i;
    if (!n || !PyLong_CheckExact(args[0]) || !as_int(args[0], &i))
        return dn__general(self, args, n, names);
    Py_INCREF(args[0]);
    return args[0];
}

/* real(value, function) */
static PyObject *fast_real(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    double x;
    if (!n || !as_double(args[0], &x)) return dn__general(self, args, n, names);
    if (!PyFloat_CheckExact(args[0])) return PyFloat_FromDouble(x);
    Py_INCREF(args[0]);
    return args[0];
}

/* Whether it is a list or tuple, of Python's own, of integers from `least` on. */
static int all_ints(PyObject *from, int least) {
    int number;
    const Py_ssize_t n = length(from);
    Py_ssize_t i = 0;
    while (i < n && PyLong_CheckExact(item(from, i)) && as_int(item(from, i), &number) &&
           number >= least)
        i++;
    return i == n && (n || PyList_CheckExact(from) || PyTuple_CheckExact(from));
}

/* indices(values, function) */
static PyObject *fast_indices(PyObject *self, PyObject *const *args, Py_ssize_t n,
                              PyObject *names) {
    if (!n || !all_ints(args[0], INT32_MIN)) return dn__general(self, args, n, names);
    Py_INCREF(args[0]);
    return args[0];
}

/* as_dims(dims, function) */
static PyObject *fast_dims(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    int size;
    PyObject *dims = n ? args[0] : Py_None;
    if (PyLong_CheckExact(dims) && as_int(dims, &size) && size >= 0) return PyTuple_Pack(1, dims);
    if (!PyTuple_CheckExact(dims) || !length(dims) || length(dims) > DN_MAX_DIMS ||
        !all_ints(dims, 0))
        return dn__general(self, args, n, names);
    Py_INCREF(dims);
    return dims;
}

PyMethodDef dn__fast_numbers[] = {
    {"whole", DN_FAST_NAMED(fast_whole)},
    {"real", DN_FAST_NAMED(fast_real)},
    {"indices", DN_FAST_NAMED(fast_indices)},
    {"as_dims", DN_FAST_NAMED(fast_dims)},
    {NULL, NULL, 0, NULL},
};
