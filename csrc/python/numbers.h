/* How numbers among the arguments are read: integers, floats, and lists of them (numbers.c). */
#pragma once
#include "expression.h"

#pragma GCC visibility push(hidden)

extern PyMethodDef dn__number_functions[];
/* Whether it is one of NumPy's integers, none of a program's own class; and as_int(), as_double()
 * of those, and of its floats of 32 bits; 0: it is neither, or does not fit. */
int dn__is_numpy_integer(PyObject *);
int dn__numpy_int(PyObject *, int *out);
int dn__numpy_double(PyObject *, double *out);
/* A list or tuple itself, or the list of a range or of a NumPy array of integers: a new
 * reference. NULL: it is none, or there is no memory; no exception is set. */
PyObject *dn__as_list(PyObject *);
/* so many numbers or handles lie on the stack; more in memory */
enum { DN_FEW = 64 };
/* The numbers of a list or tuple, Python's own or NumPy's, in `few` (DN_FEW of them) or in memory
 * to be freed; NULL: it is none, or there is no memory. */
double *dn__numbers(PyObject *from, double *few, Py_ssize_t *n);
/* The same for integers of 32 bits, at least one, of what dn__as_list() takes. */
int *dn__ints(PyObject *from, int *few, int *n);

#pragma GCC visibility pop

/* An integer of Python's own or of NumPy's, which True and False are not. */
static inline int is_integer(PyObject *o) {
    return PyLong_CheckExact(o) || dn__is_numpy_integer(o);
}

/* An integer that fits an int; 0: it is none, or does not fit. */
static inline int as_int(PyObject *o, int *out) {
    if (!PyLong_CheckExact(o) && !PyLong_Check(o)) return dn__numpy_int(o, out);
    int overflow;
    long value = PyLong_AsLongAndOverflow(o, &overflow);
    *out = (int)value;
    return !overflow && value == *out;
}

/* The same of an integer that is no truth value. */
static inline int as_index(PyObject *o, int *out) { return is_integer(o) && as_int(o, out); }

/* A number of Python's own or of NumPy's as a double; 0: it is none, or too large. */
static inline int as_double(PyObject *o, double *out) {
    if (!PyLong_CheckExact(o)) {
        if (!PyFloat_Check(o)) return dn__numpy_double(o, out);
        *out = PyFloat_AsDouble(o);
        return 1;
    }
    *out = PyLong_AsDouble(o);
    if (*out != -1 || !PyErr_Occurred()) return 1;
    PyErr_Clear(); /* an OverflowError: of an integer of Python's own there is no other */
    return 0;
}
