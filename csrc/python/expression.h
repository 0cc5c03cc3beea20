/* What the files of the Python extension _expression share: the layout of its objects, the way into C, and how arguments are read. */
#pragma once
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "dn_api.h"

#pragma GCC visibility push(hidden)

typedef struct { PyObject_HEAD int64_t handle; /* negative: none */ } Node;
extern PyTypeObject *dn__node_type;

/* What a function made by call() makes: an expression of a class; otherwise(code, *arguments) does what the quick way does not: code is the
 * error of C, or NOT_TAKEN for arguments that this way does not take. It is the `self` of a built-in function. */
typedef struct { PyObject_HEAD int op; PyTypeObject *cls; PyObject *otherwise; } Maker;
extern PyTypeObject *dn__maker_type;
enum { NOT_TAKEN = -1000 };

/* The calls of the number type in use. With the fast paths switched off each of them declines: NOT_TAKEN, or DN_LONG_WAY where it returns an
 * int. All that makes, reads or sets a node here goes through them; what does not asks dn__declines(). */
extern const dn_node_calls *dn__calls;
/* What can decline, by name: the calls, and what works without one. */
#define DN_DECLINING(X) DN_NODE_CALLS(X) X(int, all_whole, , ) X(int, operate, , )
enum dn_declining {
#define DN_DECLINING_NUMBER(result, name, params, args) DN_DECLINING_##name,
    DN_DECLINING(DN_DECLINING_NUMBER) DN_DECLINING_COUNT
#undef DN_DECLINING_NUMBER
};
/* Whether the fast paths are switched off; counts how often it was so for this one. */
int dn__declines(enum dn_declining which);
/* Which graph is a thread's is decided in graph.py; it is kept here because asking there costs as much as making a node. Negative: none. */
extern _Thread_local int dn__current;

/* expression.c */
/* An expression of this class, of a handle that is known to be good; negative: of none. */
PyObject *dn__new_node(PyTypeObject *cls, int64_t handle);
/* A list of n expressions, whose handles follow one another. */
PyObject *dn__nodes_from(PyTypeObject *cls, int64_t first, Py_ssize_t n);
/* Of the type dn__node_type. */
PyObject *dn__node_new(PyTypeObject *cls, PyObject *args, PyObject *named);
void dn__node_dealloc(PyObject *);
extern PyGetSetDef dn__node_attributes[];
extern PyMethodDef dn__base_functions[];
/* What m->otherwise gives for these arguments. */
PyObject *dn__other_way(const Maker *m, int64_t code, Py_ssize_t n, PyObject *const *args);

/* makers.c */
/* call(), quick_node() and all_whole() of the module. */
PyObject *dn__call(PyObject *module, PyObject *args);
PyObject *dn__kinds(void); /* the names of what call() makes */
PyObject *dn__quick_node(PyObject *module, PyObject *const *args, Py_ssize_t n_args);
PyObject *dn__all_whole(PyObject *module, PyObject *from);
/* A node's handle, or an error: node_parts() of C, or node_many() where parts is 0. Parameters alone belong to no graph: then the node is made
 * in the current one, and handles[0] may change. */
int64_t dn__node(int op, int n, int64_t *handles, int n_ints, const int *ints, int n_reals, const double *reals, int parts);
int64_t dn__node2(int op, int64_t a, int64_t b);
int64_t dn__node1_real(int op, int64_t a, double r, double s);
/* Makes dn__maker_type; NULL: an exception is set. */
PyTypeObject *dn__new_maker_type(void);
/* The numbers of a list or tuple of Python's own numbers, in `few` (64 of them) or in memory to be freed; NULL: it is none, or there is no
 * memory. */
double *dn__numbers(PyObject *from, double *few, Py_ssize_t *n);

/* states.c */
/* Puts the base of RNNState into the module; -1: an exception is set. */
int dn__add_states(PyObject *module);
/* dropping(class of expressions, ops cmult, dropout) of the module: what a step that drops is made of. */
PyObject *dn__set_dropping(PyObject *module, PyObject *args);

/* values.c */
/* The functions of the module that read and set values. */
extern PyMethodDef dn__value_functions[];

#pragma GCC visibility pop

static inline int is_node(PyObject *o) { return PyObject_TypeCheck(o, dn__node_type); }
static inline int64_t handle_of(PyObject *o) { return is_node(o) ? ((Node *)o)->handle : -1; }

static inline int counted(Py_ssize_t n, Py_ssize_t wanted) {
    if (n != wanted) PyErr_Format(PyExc_TypeError, "takes %zd arguments; got %zd.", wanted, n);
    return n == wanted;
}

/* A whole number that fits an int; 0: it is none, or does not fit. */
static inline int whole(PyObject *o, int *out) {
    if (!PyLong_Check(o)) return 0;
    int overflow;
    long value = PyLong_AsLongAndOverflow(o, &overflow);
    *out = (int)value;
    return !overflow && value == *out;
}

/* A number of Python's own as a double; 0: it is none, or too large. */
static inline int real(PyObject *o, double *out) {
    if (!PyFloat_CheckExact(o) && !PyLong_CheckExact(o)) return 0;
    *out = PyFloat_CheckExact(o) ? PyFloat_AsDouble(o) : PyLong_AsDouble(o);
    if (*out != -1 || !PyErr_Occurred()) return 1;
    PyErr_Clear();
    return 0;
}

/* A list or tuple of Python's own: how many items it has, and one of them; 0: it is none. */
static inline Py_ssize_t length(PyObject *from) {
    return PyList_CheckExact(from) ? PyList_Size(from) : PyTuple_CheckExact(from) ? PyTuple_Size(from) : 0;
}
static inline PyObject *item(PyObject *from, Py_ssize_t i) {
    return PyList_CheckExact(from) ? PyList_GetItem(from, i) : PyTuple_GetItem(from, i);
}

/* The expression of a handle; of a negative one what the other way gives. */
static inline PyObject *made(const Maker *m, int64_t handle, Py_ssize_t n, PyObject *const *args) {
    return handle >= 0 ? dn__new_node(m->cls, handle) : dn__other_way(m, handle, n, args);
}

/* A number that tells this thread's present graph from all others; negative: it has none. */
static inline int64_t this_graph(void) {
    return dn__current < 0 ? dn__current : (int64_t)(dn__calls->graph_version(dn__current) << DN_GRAPH_BITS | dn__current);
}

#define DN_SLOT(name, f) {name, (void *)(f)}
#define DN_FAST(f) (PyCFunction)(void (*)(void))(f), METH_FASTCALL, NULL
