/* What an integer, a float and a list of them are, where they are Python's own or NumPy's and of 32
 * bits: all else, True and False too, is for the functions of these names in
 * dist_dynet/_integers.py, which say the rule. */
#include "numbers.h"

#include <stdlib.h>

/* NumPy's classes of integers, of floats of 32 bits and of arrays; NULL: not known yet. */
static PyTypeObject *numpy_integer, *numpy_single, *numpy_array;

/* number_classes(integer, single, array) */
static PyObject *number_classes(PyObject *module, PyObject *args) {
    (void)module;
    PyTypeObject **const classes[] = {&numpy_integer, &numpy_single, &numpy_array};
    PyObject *given[3];
    if (!PyArg_ParseTuple(args, "O!O!O!", &PyType_Type, &given[0], &PyType_Type, &given[1],
                          &PyType_Type, &given[2]))
        return NULL;
    for (int i = 0; i < 3; i++) /* for the life of the process */
        *classes[i] = (PyTypeObject *)Py_NewRef(given[i]);
    return Py_NewRef(Py_None);
}

/* Whether an array's items are integers; those of times look like some when they are listed. */
static int has_integers(PyObject *array) {
    PyObject *dtype = PyObject_GetAttrString(array, "dtype"),
             *kind = dtype ? PyObject_GetAttrString(dtype, "kind") : NULL;
    const int are = kind && (!PyUnicode_CompareWithASCIIString(kind, "i") ||
                             !PyUnicode_CompareWithASCIIString(kind, "u"));
    Py_XDECREF(dtype);
    Py_XDECREF(kind);
    return are;
}

PyObject *dn__as_list(PyObject *from) {
    if (PyList_CheckExact(from) || PyTuple_CheckExact(from)) return Py_NewRef(from);
    PyObject *list = NULL;
    if (Py_IS_TYPE(from, &PyRange_Type)) list = PySequence_List(from);
    else if (!numpy_array || !Py_IS_TYPE(from, numpy_array)) return NULL;
    else if (has_integers(from)) list = PyObject_CallMethod(from, "tolist", NULL);
    if (!list) PyErr_Clear(); /* for lack of memory: no code of a program's has run */
    return list;
}

/* NumPy's own classes are not made on the heap, so that no code of a program's runs below. The one
 * that was there last is mostly that of all numbers of a program. */
int dn__is_numpy_integer(PyObject *o) {
    static PyTypeObject *last;
    PyTypeObject *const cls = Py_TYPE(o);
    if (cls == last) return 1;
    if (!numpy_integer || PyType_GetFlags(cls) & Py_TPFLAGS_HEAPTYPE ||
        !PyType_IsSubtype(cls, numpy_integer))
        return 0;
    last = cls;
    return 1;
}

int dn__numpy_int(PyObject *o, int *out) {
    if (!dn__is_numpy_integer(o)) return 0;
    PyObject *number = PyNumber_Index(o);
    if (!number) PyErr_Clear(); /* a difference of times is one of them, and has no value */
    const int fits = number && as_int(number, out);
    Py_XDECREF(number);
    return fits;
}

int dn__numpy_double(PyObject *o, double *out) {
    int integer;
    if (numpy_single && Py_IS_TYPE(o, numpy_single)) *out = PyFloat_AsDouble(o);
    else if (dn__numpy_int(o, &integer)) *out = integer;
    else return 0;
    return 1;
}

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

int *dn__ints(PyObject *from, int *few, int *n) {
    PyObject *list = dn__as_list(from);
    const Py_ssize_t size = list ? length(list) : 0;
    int *out = size > INT32_MAX ? NULL : size <= DN_FEW ? few : malloc((size_t)size * sizeof *out);
    Py_ssize_t i = 0;
    while (out && i < size && as_index(item(list, i), &out[i])) i++;
    Py_XDECREF(list);
    *n = (int)size;
    if (size && i == size) return out;
    if (out != few) free(out);
    return NULL;
}

/* whole(value, function, name, ...) */
static PyObject *fast_whole(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    int i;
    if (!n || !as_index(args[0], &i)) return dn__general(self, args, n, names);
    return PyLong_CheckExact(args[0]) ? Py_NewRef(args[0]) : PyLong_FromLong(i);
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

/* What dn__ints() gives as a list; NULL: it is none, or an exception is set. */
static PyObject *list_of_ints(PyObject *from) {
    int few[DN_FEW], n = 0, *ints = dn__ints(from, few, &n);
    PyObject *list = ints ? PyList_New(n) : NULL;
    for (int i = 0; list && i < n; i++) {
        PyObject *number = PyLong_FromLong(ints[i]);
        if (number) PyList_SetItem(list, i, number);
        else Py_CLEAR(list);
    }
    if (ints != few) free(ints);
    return list;
}

/* indices(values, function) */
static PyObject *fast_indices(PyObject *self, PyObject *const *args, Py_ssize_t n,
                              PyObject *names) {
    if (n && all_ints(args[0], INT32_MIN)) return Py_NewRef(args[0]);
    PyObject *list = n ? list_of_ints(args[0]) : NULL;
    return list || PyErr_Occurred() ? list : dn__general(self, args, n, names);
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

PyMethodDef dn__number_functions[] = {
    {"number_classes", number_classes, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyMethodDef dn__fast_numbers[] = {
    {"whole", DN_FAST_NAMED(fast_whole)},
    {"real", DN_FAST_NAMED(fast_real)},
    {"indices", DN_FAST_NAMED(fast_indices)},
    {"as_dims", DN_FAST_NAMED(fast_dims)},
    {NULL, NULL, 0, NULL},
};
