/* The Python extension _expression: the base of class Expression, and the calls that are made most often, as Python's own fast calls.
 *
 * A cffi call takes numbers; around it Python reads a handle from each argument, compares the result with zero and makes an object for it,
 * which costs three times what the node does. The functions here take expressions and return one. They know the quick way only: whatever else
 * can happen (an error, a parameter alone, an array, a wrong type) goes to a function in Python, which was given with the call. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "dn_api.h"

#include <stdlib.h>
#include <string.h>

static const dn_node_calls *calls;
/* Which graph is a thread's is decided in graph.py; it is kept here because asking there costs as much as making a node. */
static _Thread_local int current = -1;

/* ---- the base of Expression ---------------------------------------------------------------------------------------------------------- */

typedef struct { PyObject_HEAD int64_t handle; /* negative: none */ } Node;
static PyTypeObject *node_type;

static int is_node(PyObject *o) { return PyObject_TypeCheck(o, node_type); }
static int64_t handle_of(PyObject *o) { return is_node(o) ? ((Node *)o)->handle : -1; }

/* What is called after each expression is made, in all threads: a search's, else NULL. */
static PyObject *watch;

/* A node refers to nothing, so it is in no cycle, and Python's collector need not walk over the nodes of a graph: without them its full
 * collections, 10 ms each, become rare. */
static PyObject *new_node(PyTypeObject *cls, int64_t handle) {
    PyObject *node = PyType_GenericAlloc(cls, 0);
    if (!node) return NULL;
    if (PyType_GetFlags(cls) & Py_TPFLAGS_HAVE_GC) PyObject_GC_UnTrack(node);
    ((Node *)node)->handle = handle;
    if (!watch) return node;
    PyObject *told = PyObject_CallFunctionObjArgs(watch, NULL);
    Py_XDECREF(told);
    if (told) return node;
    Py_DECREF(node);
    return NULL;
}

static PyObject *node_new(PyTypeObject *cls, PyObject *args, PyObject *named) {
    if ((PyTuple_Size(args) || (named && PyDict_Size(named))) &&
        PyType_GetSlot(cls, Py_tp_init) == PyType_GetSlot(&PyBaseObject_Type, Py_tp_init))
        return PyErr_Format(PyExc_TypeError, "an expression takes no arguments. Use inputs, parameters and functions.");
    PyObject *node = new_node(cls, -1);
    if (node && PyType_GetFlags(cls) & Py_TPFLAGS_HAVE_GC) PyObject_GC_Track(node); /* a class of the user's, which may refer to anything */
    return node;
}

static void node_dealloc(PyObject *o) {
    PyTypeObject *cls = Py_TYPE(o);
    ((freefunc)PyType_GetSlot(cls, Py_tp_free))(o);
    Py_DECREF(cls);
}

static PyObject *get_handle(PyObject *o, void *unused) {
    (void)unused;
    if (((Node *)o)->handle < 0) return PyErr_Format(PyExc_AttributeError, "this expression has no handle");
    return PyLong_FromLongLong(((Node *)o)->handle);
}

static int set_handle(PyObject *o, PyObject *value, void *unused) {
    (void)unused;
    int64_t handle = value ? PyLong_AsLongLong(value) : -1;
    if (PyErr_Occurred()) return -1;
    ((Node *)o)->handle = handle;
    return 0;
}

/* ---- functions that make nodes ------------------------------------------------------------------------------------------------------- */

/* What a function made by call() makes: an expression of a class; otherwise(code, *arguments) does what the quick way does not: code is the
 * error of C, or NOT_TAKEN for arguments that this way does not take. It is the `self` of a built-in function. */
typedef struct { PyObject_HEAD int op; PyTypeObject *cls; PyObject *otherwise; } Maker;
static PyTypeObject *maker_type;
enum { NOT_TAKEN = -1000 };

static PyObject *other_way(const Maker *m, int64_t code, Py_ssize_t n, PyObject *const *args) {
    PyObject *all = PyTuple_New(n + 1), *number = all ? PyLong_FromLongLong(code) : NULL, *result = NULL;
    if (number) {
        PyTuple_SetItem(all, 0, number);
        for (Py_ssize_t i = 0; i < n; i++) {
            Py_INCREF(args[i]);
            PyTuple_SetItem(all, i + 1, args[i]);
        }
        result = PyObject_Call(m->otherwise, all, NULL);
    }
    Py_XDECREF(all);
    return result;
}

static PyObject *made(const Maker *m, int64_t handle, Py_ssize_t n, PyObject *const *args) {
    return handle >= 0 ? new_node(m->cls, handle) : other_way(m, handle, n, args);
}

static int counted(Py_ssize_t n, Py_ssize_t wanted) {
    if (n != wanted) PyErr_Format(PyExc_TypeError, "takes %zd arguments; got %zd.", wanted, n);
    return n == wanted;
}

/* A whole number that fits an int; 0: it is none, or does not fit. */
static int whole(PyObject *o, int *out) {
    if (!PyLong_Check(o)) return 0;
    int overflow;
    long value = PyLong_AsLongAndOverflow(o, &overflow);
    *out = (int)value;
    return !overflow && value == *out;
}

/* A number of Python's own as a double; 0: it is none, or too large. */
static int real(PyObject *o, double *out) {
    if (!PyFloat_CheckExact(o) && !PyLong_CheckExact(o)) return 0;
    *out = PyFloat_CheckExact(o) ? PyFloat_AsDouble(o) : PyLong_AsDouble(o);
    if (*out != -1 || !PyErr_Occurred()) return 1;
    PyErr_Clear();
    return 0;
}

/* What node_many gives, or node_parts where there are parts. */
static int64_t node_of(int op, int n, const int64_t *handles, int n_ints, const int *ints, int n_reals, const double *reals, int parts) {
    return parts ? calls->node_parts(op, n, handles, n_ints, ints, n_reals, reals, parts)
                 : calls->node_many(op, n, handles, n_ints, ints, n_reals, reals);
}

/* `result` is what a call with these inputs gave. Parameters alone belong to no graph: then the node is made in the current one. */
static int64_t in_current(int64_t result, int op, int n, int64_t *handles, int n_ints, const int *ints, int n_reals, const double *reals,
                          int parts) {
    if (result != DN_ERROR_NO_GRAPH || current < 0) return result;
    const int64_t first = calls->resolve(current, handles[0]);
    if (first < 0) return result;
    handles[0] = first;
    return node_of(op, n, handles, n_ints, ints, n_reals, reals, parts);
}

static int64_t node(int op, int n, int64_t *handles, int n_ints, const int *ints, int n_reals, const double *reals, int parts) {
    return in_current(node_of(op, n, handles, n_ints, ints, n_reals, reals, parts), op, n, handles, n_ints, ints, n_reals, reals, parts);
}

static int64_t node1(int op, int64_t a) { return in_current(calls->node1(op, a), op, 1, &a, 0, NULL, 0, NULL, 0); }
static int64_t node2(int op, int64_t a, int64_t b) {
    return in_current(calls->node2(op, a, b), op, 2, (int64_t[]){a, b}, 0, NULL, 0, NULL, 0);
}
static int64_t node1_real(int op, int64_t a, double r, double s) {
    return in_current(calls->node1_real(op, a, r, s), op, 1, &a, 0, NULL, 2, (double[]){r, s}, 0);
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
    return made(m, a < 0 || b < 0 ? NOT_TAKEN : node2(m->op, a, b), 2, args);
}

/* f(x, i): one attribute, a whole number */
static PyObject *with_int(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    const Maker *m = (Maker *)self;
    int i;
    if (!counted(n, 2)) return NULL;
    int64_t a = handle_of(args[0]);
    return made(m, a < 0 || !whole(args[1], &i) ? NOT_TAKEN : node(m->op, 1, &a, 1, &i, 0, NULL, 0), 2, args);
}

/* f(x, i): the attributes 0 and i, of a selection in the first dim */
static PyObject *at_index(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    const Maker *m = (Maker *)self;
    int ints[2] = {0, 0};
    if (!counted(n, 2)) return NULL;
    int64_t a = handle_of(args[0]);
    return made(m, a < 0 || !whole(args[1], &ints[1]) ? NOT_TAKEN : node(m->op, 1, &a, 2, ints, 0, NULL, 0), 2, args);
}

/* f(x, r, s): two real attributes */
static PyObject *with_reals(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    const Maker *m = (Maker *)self;
    double r, s;
    if (!counted(n, 3)) return NULL;
    const int64_t a = handle_of(args[0]);
    return made(m, a < 0 || !real(args[1], &r) || !real(args[2], &s) ? NOT_TAKEN : node1_real(m->op, a, r, s), 3, args);
}

/* A list or tuple of Python's own: how many items it has, and one of them; 0: it is none. */
static Py_ssize_t length(PyObject *from) {
    return PyList_CheckExact(from) ? PyList_Size(from) : PyTuple_CheckExact(from) ? PyTuple_Size(from) : 0;
}
static PyObject *item(PyObject *from, Py_ssize_t i) { return PyList_CheckExact(from) ? PyList_GetItem(from, i) : PyTuple_GetItem(from, i); }

/* The numbers of a list or tuple of Python's own numbers, in `few` (64 of them) or in memory to be freed; NULL: it is none, or there is no
 * memory. */
static double *numbers(PyObject *from, double *few, Py_ssize_t *n) {
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

/* The same for whole numbers. */
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
    if (i == n) result = node(op, (int)n, handles, (int)n_ints, ints, (int)n_reals, reals, 0);
    if (handles != few) free(handles);
    return result;
}

static PyObject *of_list(PyObject *self, PyObject *list) {
    const Maker *m = (Maker *)self;
    return made(m, node_of_list(m->op, list, 0, NULL, 0, NULL), 1, &list);
}

/* quick_node(class, op, expressions, ints, reals): an expression of the class for a node of any form; with None for the expressions one
 * without inputs. Else the error of C, or NOT_TAKEN. */
static PyObject *quick_node(PyObject *module, PyObject *const *args, Py_ssize_t n_args) {
    (void)module;
    int few_ints[64], op;
    double few_reals[64];
    Py_ssize_t n_ints = 0, n_reals = 0;
    int64_t handle = NOT_TAKEN;
    if (!counted(n_args, 5)) return NULL;
    if (!PyType_Check(args[0]) || !PyType_IsSubtype((PyTypeObject *)args[0], node_type) || !whole(args[1], &op))
        return PyErr_Format(PyExc_TypeError, "quick_node: takes a class of expressions and an operation; got %R, %R.", args[0], args[1]);
    int *ints = whole_numbers(args[3], few_ints, &n_ints);
    double *reals = numbers(args[4], few_reals, &n_reals);
    if (ints && reals && args[2] != Py_None) handle = node_of_list(op, args[2], n_ints, ints, n_reals, reals);
    else if (ints && reals && current >= 0 && n_ints <= INT32_MAX && n_reals <= INT32_MAX)
        handle = calls->leaf(current, op, (int)n_ints, ints, (int)n_reals, reals);
    if (ints != few_ints) free(ints);
    if (reals != few_reals) free(reals);
    return handle >= 0 ? new_node((PyTypeObject *)args[0], handle) : PyLong_FromLongLong(handle);
}

/* f(list, i) */
static PyObject *of_list_with_int(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    const Maker *m = (Maker *)self;
    int i;
    if (!counted(n, 2)) return NULL;
    return made(m, whole(args[1], &i) ? node_of_list(m->op, args[0], 1, &i, 0, NULL) : NOT_TAKEN, 2, args);
}

/* all_whole(x): whether it is a list or tuple, of Python's own, of whole numbers that fit an int */
static PyObject *all_whole(PyObject *module, PyObject *from) {
    (void)module;
    int number;
    const Py_ssize_t n = length(from);
    Py_ssize_t i = 0;
    while (i < n && whole(item(from, i), &number)) i++;
    return PyBool_FromLong(i == n && (n || PyList_CheckExact(from) || PyTuple_CheckExact(from)));
}

/* ---- many nodes in one call ---------------------------------------------------------------------------------------------------------- */

/* A list of n expressions, whose handles follow one another. */
static PyObject *nodes_from(PyTypeObject *cls, int64_t first, Py_ssize_t n) {
    PyObject *list = PyList_New(n);
    for (Py_ssize_t i = 0; list && i < n; i++) {
        PyObject *node = new_node(cls, first + i);
        if (node && !PyList_SetItem(list, i, node)) continue;
        Py_DECREF(list);
        return NULL;
    }
    return list;
}

/* The handles in `weights`, of which the first is a parameter's, and those of the expressions in `inputs`: in `few` (64 of them) or in memory
 * to be freed; NULL: something else is among them, or there is no memory. */
static int64_t *handles_in(PyObject *weights, PyObject *inputs, int64_t *few, Py_ssize_t *n) {
    const Py_ssize_t n_weights = length(weights), n_inputs = length(inputs);
    *n = n_weights + n_inputs;
    if (n_weights < 1 || n_inputs < 1 || *n > INT32_MAX) return NULL;
    int64_t *handles = *n <= 64 ? few : malloc((size_t)*n * sizeof *handles);
    for (Py_ssize_t i = 0; handles && i < *n; i++) {
        PyObject *o = i < n_weights ? item(weights, i) : item(inputs, i - n_weights);
        handles[i] = i >= n_weights ? handle_of(o) : PyLong_Check(o) ? PyLong_AsLongLong(o) : -1;
        if (handles[i] >= 0) continue;
        PyErr_Clear();
        if (handles != few) free(handles);
        return NULL;
    }
    return handles;
}

/* f(weights, inputs, reals, size): the outputs, vectors of that size, of a layer's node over a list of inputs */
static PyObject *sequence(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    const Maker *m = (Maker *)self;
    double few_reals[64];
    int64_t few[64], first = NOT_TAKEN;
    Py_ssize_t n, n_reals;
    int size;
    if (!counted(n_args, 4)) return NULL;
    double *reals = whole(args[3], &size) ? numbers(args[2], few_reals, &n_reals) : NULL;
    int64_t *handles = reals ? handles_in(args[0], args[1], few, &n) : NULL;
    if (handles) {
        const int ints[] = {(int)length(args[1]), DN_SEQUENCE_LIST};
        first = node(m->op, (int)n, handles, 2, ints, (int)n_reals, reals, 0);
        if (first >= 0) first = calls->parts(first, 0, ints[0], size);
    }
    if (handles != few) free(handles);
    if (reals != few_reals) free(reals);
    return first >= 0 ? nodes_from(m->cls, first, length(args[1])) : other_way(m, first, n_args, args);
}

/* f(weights, inputs, ints, reals, n): the first n outputs of a node of several, as a list */
static PyObject *outputs(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    const Maker *m = (Maker *)self;
    double few_reals[64];
    int64_t few[64], first = NOT_TAKEN;
    Py_ssize_t n, n_reals;
    int parts, ints[4];
    if (!counted(n_args, 5)) return NULL;
    const Py_ssize_t n_ints = length(args[2]);
    int good = n_ints <= 4 && whole(args[4], &parts) && parts > 0;
    for (Py_ssize_t i = 0; good && i < n_ints; i++) good = whole(item(args[2], i), &ints[i]);
    double *reals = good ? numbers(args[3], few_reals, &n_reals) : NULL;
    int64_t *handles = reals ? handles_in(args[0], args[1], few, &n) : NULL;
    if (handles) first = node(m->op, (int)n, handles, (int)n_ints, ints, (int)n_reals, reals, parts);
    if (handles != few) free(handles);
    if (reals != few_reals) free(reals);
    return first >= 0 ? nodes_from(m->cls, first, parts) : other_way(m, first, n_args, args);
}

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
        handle = pair[0] < 0 || pair[1] < 0 ? NOT_TAKEN : node(m->op, 2, pair, 1, &zero, 0, NULL, 0);
        PyObject *node = handle < 0 ? NULL : new_node(m->cls, handle);
        if (node) PyList_SetItem(list, i, node);
        else if (handle >= 0) Py_CLEAR(list);
    }
    if (!list || handle >= 0) return list;
    Py_DECREF(list);
    return other_way(m, handle, 2, args);
}

/* ---- inputs: nodes of the current graph ---------------------------------------------------------------------------------------------- */

static PyObject *scalar(PyObject *self, PyObject *x) {
    double value;
    return made((Maker *)self, current < 0 || !real(x, &value) ? NOT_TAKEN : calls->input_scalar(current, value), 1, &x);
}

static PyObject *zeros(PyObject *self, PyObject *x) {
    int n;
    return made((Maker *)self, current < 0 || !whole(x, &n) ? NOT_TAKEN : calls->input_zeros(current, n), 1, &x);
}

/* f(table, row) */
static PyObject *row(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    int i;
    if (!counted(n, 2)) return NULL;
    const int64_t table = handle_of(args[0]);
    return made((Maker *)self, current < 0 || table < 0 || !whole(args[1], &i) ? NOT_TAKEN : calls->lookup(current, table, i), 2, args);
}

/* f(table, rows) */
static PyObject *rows(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    int few[64];
    Py_ssize_t n;
    int64_t handle = NOT_TAKEN;
    if (!counted(n_args, 2)) return NULL;
    const int64_t table = handle_of(args[0]);
    int *numbered = current < 0 || table < 0 ? NULL : whole_numbers(args[1], few, &n);
    if (numbered && n <= INT32_MAX) handle = calls->lookup_batch(current, table, (int)n, numbered);
    if (numbered != few) free(numbered);
    return made((Maker *)self, handle, 2, args);
}

static PyObject *vector(PyObject *self, PyObject *from) {
    double few[64];
    Py_ssize_t n;
    int64_t handle = NOT_TAKEN;
    double *x = current < 0 ? NULL : numbers(from, few, &n);
    if (x && n <= INT32_MAX) handle = calls->input_numbers(current, (int)n, x);
    if (x != few) free(x);
    return made((Maker *)self, handle, 1, &from);
}

/* set(x, numbers): 0, a negative error, or DN_LONG_WAY */
static PyObject *set_input(PyObject *module, PyObject *const *args, Py_ssize_t n_args) {
    (void)module;
    double few[64];
    Py_ssize_t n;
    int code = DN_LONG_WAY;
    if (!counted(n_args, 2)) return NULL;
    const int64_t a = handle_of(args[0]);
    double *x = a < 0 ? NULL : numbers(args[1], few, &n);
    if (x) code = calls->input_set_numbers(a, n, x);
    if (x != few) free(x);
    return PyLong_FromLong(code);
}

/* ---- operators ----------------------------------------------------------------------------------------------------------------------- */

enum { ADD, SUBTRACT, MULTIPLY, DIVIDE, POWER, OPERATORS };
static struct { Maker *maker; PyObject *reflected; /* reflected(x, other) is other <operator> x */ } operators[OPERATORS];
static Maker *scale_shift; /* a x + b */

/* x <operator> number, or number <operator> x, as a x + b; 0: it is not of that form. */
static int as_scale_shift(int k, int is_reflected, double number, double *a, double *b) {
    *a = k == MULTIPLY ? number : k == DIVIDE ? 1 / number : k == SUBTRACT && is_reflected ? -1 : 1;
    *b = k == ADD ? number : k == SUBTRACT ? (is_reflected ? number : -number) : 0;
    return k == DIVIDE ? !is_reflected && number != 0 : k != POWER;
}

static PyObject *scaled(PyObject *x, double a, double b) {
    const int64_t given = ((Node *)x)->handle, handle = given < 0 ? NOT_TAKEN : node1_real(scale_shift->op, given, a, b);
    if (handle >= 0) return new_node(scale_shift->cls, handle);
    PyObject *args[] = {x, PyFloat_FromDouble(a), PyFloat_FromDouble(b)};
    PyObject *result = args[1] && args[2] ? other_way(scale_shift, handle, 3, args) : NULL;
    Py_XDECREF(args[1]);
    Py_XDECREF(args[2]);
    return result;
}

static PyObject *operate(int k, PyObject *left, PyObject *right) {
    PyObject *args[] = {left, right};
    const int64_t x = handle_of(left), y = handle_of(right);
    double number, a, b;
    if (!operators[k].maker) return PyErr_Format(PyExc_RuntimeError, "this operator has no operation");
    if (x >= 0 && y >= 0) return made(operators[k].maker, node2(operators[k].maker->op, x, y), 2, args);
    if (x >= 0 && real(right, &number) && as_scale_shift(k, 0, number, &a, &b)) return scaled(left, a, b);
    if (y >= 0 && real(left, &number) && as_scale_shift(k, 1, number, &a, &b)) return scaled(right, a, b);
    if (is_node(left)) return other_way(operators[k].maker, NOT_TAKEN, 2, args);
    return PyObject_CallFunctionObjArgs(operators[k].reflected, right, left, NULL);
}

static PyObject *add(PyObject *x, PyObject *y) { return operate(ADD, x, y); }
static PyObject *subtract(PyObject *x, PyObject *y) { return operate(SUBTRACT, x, y); }
static PyObject *multiply(PyObject *x, PyObject *y) { return operate(MULTIPLY, x, y); }
static PyObject *divide(PyObject *x, PyObject *y) { return operate(DIVIDE, x, y); }
static PyObject *power(PyObject *x, PyObject *y, PyObject *modulus) {
    if (modulus == Py_None) return operate(POWER, x, y);
    Py_INCREF(Py_NotImplemented);
    return Py_NotImplemented;
}
/* x[i] by a call of at_index, x[from:to:step] of the first dim by a node of this op; otherwise(x, index) does all else. */
static struct { Maker *index; int slice; PyTypeObject *cls; PyObject *otherwise; } subscripts;

/* The range of a slice as a node's whole numbers; 0: it is something else. */
static int range_of(int64_t x, PyObject *slice, int ints[4]) {
    dn_dim d;
    Py_ssize_t start, stop, step;
    if (!PySlice_Check(slice)) return 0;
    int error = calls->node_dim(x, &d);
    if (error == DN_ERROR_NO_GRAPH && current >= 0) error = calls->node_dim(calls->resolve(current, x), &d);
    if (error || d.nd < 1) return 0;
    if (PySlice_Unpack(slice, &start, &stop, &step)) {
        PyErr_Clear();
        return 0;
    }
    if (step < 1 || step > INT32_MAX) return 0;
    PySlice_AdjustIndices(d.d[0], &start, &stop, step);
    ints[0] = 0, ints[1] = (int)start, ints[2] = (int)(stop < start ? start : stop), ints[3] = (int)step;
    return 1;
}

static PyObject *subscript(PyObject *x, PyObject *index) {
    int64_t a = handle_of(x);
    int ints[4] = {0};
    if (!subscripts.otherwise) return PyErr_Format(PyExc_RuntimeError, "indices have no operation");
    if (a >= 0 && PyLong_CheckExact(index) && whole(index, &ints[1]) && ints[1] >= 0) {
        const int64_t handle = node(subscripts.index->op, 1, &a, 2, ints, 0, NULL, 0);
        if (handle >= 0) return new_node(subscripts.index->cls, handle);
    } else if (a >= 0 && range_of(a, index, ints)) {
        const int64_t handle = node(subscripts.slice, 1, &a, 4, ints, 0, NULL, 0);
        if (handle >= 0) return new_node(subscripts.cls, handle);
    }
    return PyObject_CallFunctionObjArgs(subscripts.otherwise, x, index, NULL);
}

static PyObject *negative(PyObject *x) { return scaled(x, -1, 0); }
static PyObject *positive(PyObject *x) {
    Py_INCREF(x);
    return x;
}

/* ---- values and gradients: the quick ways of csrc/forward.c and backward.c ----------------------------------------------------------- */

enum { ROOM = 256 }; /* numbers of a value that are read at once; a longer one takes its time anyway */

static int quick_numbers(PyObject *x, dn_dim *dim, int room, double *out) {
    const int64_t a = handle_of(x);
    return a < 0 ? DN_LONG_WAY : calls->quick_value(a, dim, room, out);
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

/* A number, a list of the numbers of vectors, or what quick_array() gives for all else. */
static PyObject *quick_value(PyObject *module, PyObject *x) {
    (void)module;
    dn_dim dim;
    double values[ROOM];
    if (quick_numbers(x, &dim, ROOM, values)) Py_RETURN_NONE;
    if (dim.nd > 1) return array_of(&dim, values);
    const Py_ssize_t n = (Py_ssize_t)dim.size * dim.batch;
    return n == 1 ? PyFloat_FromDouble(values[0]) : list_of(n, values);
}

static PyObject *quick_list(PyObject *module, PyObject *x) {
    (void)module;
    dn_dim dim;
    double values[ROOM];
    if (quick_numbers(x, &dim, ROOM, values)) Py_RETURN_NONE;
    return list_of((Py_ssize_t)dim.size * dim.batch, values);
}

static PyObject *quick_array(PyObject *module, PyObject *x) {
    (void)module;
    dn_dim dim;
    double values[ROOM];
    if (quick_numbers(x, &dim, ROOM, values)) Py_RETURN_NONE;
    return array_of(&dim, values);
}

/* ((sizes), batch size) */
static PyObject *quick_dim(PyObject *module, PyObject *x) {
    (void)module;
    dn_dim dim;
    const int64_t a = handle_of(x);
    if (a < 0 || calls->node_dim(a, &dim)) Py_RETURN_NONE;
    return Py_BuildValue("Ni", sizes(&dim), dim.batch);
}

/* What dn_quick_backward() returns. */
static PyObject *quick_backward(PyObject *module, PyObject *x) {
    (void)module;
    const int64_t a = handle_of(x);
    return PyLong_FromLong(a < 0 ? DN_LONG_WAY : calls->quick_backward(a));
}

/* A new graph in the place of the current one; False: ask the longer way. */
static PyObject *quick_renew(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyBool_FromLong(current >= 0 && calls->renew(current) >= 0);
}

/* ---- the module ---------------------------------------------------------------------------------------------------------------------- */

static PyObject *bind(PyObject *module, PyObject *address) {
    (void)module;
    calls = PyLong_AsVoidPtr(address);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

static PyObject *set_current(PyObject *module, PyObject *graph) {
    (void)module;
    const long number = PyLong_AsLong(graph);
    if (number == -1 && PyErr_Occurred()) return NULL;
    current = (int)number;
    Py_RETURN_NONE;
}

/* consecutive(cls, handle, n): a list of n expressions, whose handles follow one another */
static PyObject *consecutive(PyObject *module, PyObject *const *args, Py_ssize_t n_args) {
    (void)module;
    int n;
    if (!counted(n_args, 3)) return NULL;
    const int64_t first = PyLong_AsLongLong(args[1]);
    if (PyErr_Occurred()) return NULL;
    if (!PyType_Check(args[0]) || !PyType_IsSubtype((PyTypeObject *)args[0], node_type) || !whole(args[2], &n) || n < 0)
        return PyErr_Format(PyExc_TypeError, "consecutive: takes a class of expressions, a handle and a number; got %R, %R.", args[0], args[2]);
    return nodes_from((PyTypeObject *)args[0], first, n);
}

/* The function to be called after each expression is made, without arguments; None: no more. */
static PyObject *set_watch(PyObject *module, PyObject *function) {
    (void)module;
    PyObject *before = watch;
    Py_INCREF(function);
    watch = function == Py_None ? NULL : function;
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

static PyObject *get_current(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromLong(current);
}

/* A number that tells this thread's present graph from all others; negative: it has none. */
static PyObject *this_graph(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromLongLong(current < 0 ? current : calls->graph_version(current) << DN_GRAPH_BITS | current);
}

#define FAST(f) (PyCFunction)(void (*)(void))(f), METH_FASTCALL, NULL
static PyMethodDef kinds[] = {
    {"unary", unary, METH_O, NULL}, {"binary", FAST(binary)}, {"with_int", FAST(with_int)}, {"at_index", FAST(at_index)},
    {"with_reals", FAST(with_reals)}, {"of_list", of_list, METH_O, NULL}, {"of_list_with_int", FAST(of_list_with_int)},
    {"scalar", scalar, METH_O, NULL}, {"zeros", zeros, METH_O, NULL}, {"vector", vector, METH_O, NULL}, {"row", FAST(row)},
    {"rows", FAST(rows)},
    {"sequence", FAST(sequence)}, {"outputs", FAST(outputs)}, {"pairs", FAST(pairs)},
    {NULL, NULL, 0, NULL},
};

/* call(kind, op, cls, otherwise): the built-in function of this kind */
static PyObject *call(PyObject *module, PyObject *args) {
    (void)module;
    const char *kind;
    int op;
    PyObject *cls, *otherwise;
    if (!PyArg_ParseTuple(args, "siO!O", &kind, &op, &PyType_Type, &cls, &otherwise)) return NULL;
    PyMethodDef *method = kinds;
    while (method->ml_name && strcmp(method->ml_name, kind)) method++;
    if (!method->ml_name || !PyType_IsSubtype((PyTypeObject *)cls, node_type))
        return PyErr_Format(PyExc_ValueError, "call: takes a kind of call and a class of expressions; got %s, %R.", kind, cls);
    Maker *m = (Maker *)PyType_GenericAlloc(maker_type, 0);
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

/* operator(name, function of call("binary", ...), reflected), operator("scale_shift", function of call("with_reals", ...), None) */
static PyObject *set_operator(PyObject *module, PyObject *args) {
    (void)module;
    static const char *const names[] = {"add", "subtract", "multiply", "divide", "power", "scale_shift"};
    const char *name;
    PyObject *function, *reflected;
    if (!PyArg_ParseTuple(args, "sO!O", &name, &PyCFunction_Type, &function, &reflected)) return NULL;
    PyObject *maker = PyCFunction_GetSelf(function);
    int k = 0;
    while (k <= OPERATORS && strcmp(names[k], name)) k++;
    if (k > OPERATORS || !maker || !Py_IS_TYPE(maker, maker_type))
        return PyErr_Format(PyExc_ValueError, "operator: takes the name of one and a function of call(); got %s, %R.", name, function);
    Py_INCREF(maker); /* for the life of the process */
    Py_INCREF(reflected);
    if (k == OPERATORS) scale_shift = (Maker *)maker;
    else operators[k].maker = (Maker *)maker, operators[k].reflected = reflected;
    Py_RETURN_NONE;
}

/* subscript(function of call("at_index", ...), op of slices, class of slices, otherwise) */
static PyObject *set_subscript(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *function, *cls, *otherwise;
    int slice;
    if (!PyArg_ParseTuple(args, "O!iO!O", &PyCFunction_Type, &function, &slice, &PyType_Type, &cls, &otherwise)) return NULL;
    PyObject *maker = PyCFunction_GetSelf(function);
    if (!maker || !Py_IS_TYPE(maker, maker_type) || !PyType_IsSubtype((PyTypeObject *)cls, node_type))
        return PyErr_Format(PyExc_ValueError, "subscript: takes a function of call() and a class of expressions; got %R, %R.", function, cls);
    Py_INCREF(maker); /* for the life of the process */
    Py_INCREF(cls);
    Py_INCREF(otherwise);
    subscripts.index = (Maker *)maker, subscripts.slice = slice, subscripts.cls = (PyTypeObject *)cls, subscripts.otherwise = otherwise;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"bind", bind, METH_O, NULL},
    {"set_current", set_current, METH_O, NULL},
    {"current", get_current, METH_NOARGS, NULL},
    {"this_graph", this_graph, METH_NOARGS, NULL},
    {"watch", set_watch, METH_O, NULL},
    {"call", call, METH_VARARGS, NULL},
    {"operator", set_operator, METH_VARARGS, NULL},
    {"subscript", set_subscript, METH_VARARGS, NULL},
    {"set_input", FAST(set_input)},
    {"consecutive", FAST(consecutive)},
    {"quick_node", FAST(quick_node)},
    {"all_whole", all_whole, METH_O, NULL},
    {"quick_scalar", quick_scalar, METH_O, NULL},
    {"quick_value", quick_value, METH_O, NULL},
    {"quick_list", quick_list, METH_O, NULL},
    {"quick_array", quick_array, METH_O, NULL},
    {"quick_dim", quick_dim, METH_O, NULL},
    {"quick_backward", quick_backward, METH_O, NULL},
    {"quick_renew", quick_renew, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef node_attributes[] = {{"_h", get_handle, set_handle, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};
#define SLOT(name, f) {name, (void *)(f)}
static PyType_Slot node_slots[] = {
    SLOT(Py_tp_new, node_new), SLOT(Py_tp_dealloc, node_dealloc), SLOT(Py_tp_getset, node_attributes), SLOT(Py_nb_add, add),
    SLOT(Py_nb_subtract, subtract), SLOT(Py_nb_multiply, multiply), SLOT(Py_nb_matrix_multiply, multiply), SLOT(Py_nb_true_divide, divide),
    SLOT(Py_nb_power, power), SLOT(Py_nb_negative, negative), SLOT(Py_nb_positive, positive), SLOT(Py_mp_subscript, subscript), {0, NULL},
};
static PyType_Spec node_spec = {"dist_dynet._expression.Node", sizeof(Node), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, node_slots};
static PyType_Slot maker_slots[] = {SLOT(Py_tp_dealloc, maker_dealloc), {0, NULL}};
static PyType_Spec maker_spec = {"dist_dynet._expression.Maker", sizeof(Maker), 0, Py_TPFLAGS_DEFAULT, maker_slots};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_expression", "Fast calls on expressions.", -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__expression(void);
PyMODINIT_FUNC PyInit__expression(void) {
    PyObject *module = PyModule_Create(&definition);
    node_type = (PyTypeObject *)PyType_FromSpec(&node_spec);
    maker_type = (PyTypeObject *)PyType_FromSpec(&maker_spec);
    if (!module || !node_type || !maker_type || PyModule_AddIntMacro(module, NOT_TAKEN) ||
        PyModule_AddObject(module, "Node", (PyObject *)node_type)) return NULL;
    Py_INCREF(node_type); /* one reference is the module's, one ours */
    return module;
}
