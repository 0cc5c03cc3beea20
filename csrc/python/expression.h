/* What the files of the Python extension _expression share: the layout of its objects, the way into
 * C, and how arguments other than numbers are read. */
#pragma once
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "dn_api.h"

#pragma GCC visibility push(hidden)

typedef struct { PyObject_HEAD int64_t handle; /* negative: none */ } Node;
extern PyTypeObject *dn__node_type;

/* Instead of a handle: the fast path does not handle these arguments. */
enum { NOT_HANDLED = -1000 };

/* The calls of the number type in use: all that makes, reads or sets a node here goes through
 * them. */
extern const dn_node_calls *dn__calls;
/* Class Expression: what nodes are made as where no other class is asked for. */
extern PyTypeObject *dn__expression_type;
/* Which graph is a thread's is decided in graph.py; it is kept here because asking there costs as
 * much as making a node. Negative: none. */
extern _Thread_local int dn__current;

/* expression.c */
/* An expression of this class, of a handle that is known to be good; negative: of none. */
PyObject *dn__new_node(PyTypeObject *cls, int64_t handle);
/* A list of n expressions, whose handles follow one another. */
PyObject *dn__nodes_from(int64_t first, Py_ssize_t n);
/* Of the type dn__node_type. */
PyObject *dn__node_new(PyTypeObject *cls, PyObject *args, PyObject *named);
void dn__node_dealloc(PyObject *);
extern PyGetSetDef dn__node_attributes[];
extern PyMethodDef dn__base_functions[];

/* The functions that stand for others of the same name, written in Python: each has that one as its
 * `self`, and calls it for all that it does not take. accelerated(function) gives the one for a
 * function. */
extern PyMethodDef dn__fast_numbers[], dn__fast_nodes[], dn__fast_values[];
/* What the function in Python gives for these arguments; names: of those that are named, which come
 * last. */
PyObject *dn__general(PyObject *function, PyObject *const *args, Py_ssize_t n, PyObject *names);

/* Raises what an operation written in Python has raised, where a node's call returned
 * DN_ERROR_PYTHON: to call once more would run that again. */
PyObject *dn__python_error(void);

/* node_functions.c */
/* {name: number} of the operations; the number of one, negative: there is none. */
extern PyObject *dn__ops;
int dn__op(PyObject *name);
/* The node of a table's row in the current graph; negative: an error, or left to Python. */
int64_t dn__row(PyObject *table, PyObject *index);
/* A node's handle, or an error: node_with_views() of C, or node_many() where parts is 0. Parameters
 * alone belong to no graph: then the node is made in the current one, and handles[0] may change. */
int64_t dn__node(int op, int n, int64_t *handles, int n_ints, const int *ints, int n_floats,
                 const double *floats, int parts);
int64_t dn__node2(int op, int64_t a, int64_t b);
int64_t dn__node1_float(int op, int64_t a, double r, double s);

/* composed.c */
/* What a step of a layer is made of; h_mask: negative: none. */
typedef struct {
    const int64_t *weights;
    int64_t x, h, c, h_mask;
    int has_state;
} dn_step_inputs;
/* Makes it in DyNet's operations: its h and, if it has one, its c; negative: an error, or not
 * handled. */
void dn__composed_step(const dn_layers *, const dn_step_inputs *, int64_t *h, int64_t *c);

/* states.c */
/* Puts State, which stands for the class of nn/state.py, into the module; -1: an exception is
 * set. */
int dn__add_states(PyObject *module);

/* operation.c */
/* Puts type Operation and operation(), which makes them, into the module; -1: an exception is
 * set. */
int dn__add_operations(PyObject *module);

/* The one that dn__is_node_class() has known last; NULL: none. */
extern PyTypeObject *dn__last_class;

/* Whether a class is one of expressions; those that are stay known, since to ask Python takes as
 * long as half a node. */
int dn__is_node_class(PyTypeObject *);

#pragma GCC visibility pop

static inline int is_node(PyObject *o) {
    return Py_IS_TYPE(o, dn__expression_type) || Py_IS_TYPE(o, dn__last_class) ||
           dn__is_node_class(Py_TYPE(o));
}
static inline int64_t handle_of(PyObject *o) { return is_node(o) ? ((Node *)o)->handle : -1; }
/* The same; of a parameter, whose handle is larger than those of any graph, that of its node in the
 * current graph. */
static inline int64_t node_of(PyObject *o) {
    const int64_t a = handle_of(o);
    if (a < 0 || !(a >> (DN_INDEX_BITS + DN_EPOCH_BITS + DN_GRAPH_BITS))) return a;
    return dn__current < 0 ? NOT_HANDLED : dn__calls->resolve(dn__current, a);
}

static inline int counted(Py_ssize_t n, Py_ssize_t wanted) {
    if (n != wanted) PyErr_Format(PyExc_TypeError, "takes %zd arguments; got %zd.", wanted, n);
    return n == wanted;
}

/* Drops an exception of this class, which the function in Python raises anew, with its message; 0:
 * it is another one, such as that of a signal's handler or of a program's own class, and stays. */
static inline int drops(PyObject *kind) {
    const int is_it = PyErr_ExceptionMatches(kind);
    if (is_it) PyErr_Clear();
    return is_it;
}

/* A handle, as Python holds it; 0: it is no integer of 64 bits. */
static inline int handle_from(PyObject *o, int64_t *out) {
    int overflow;
    if (!PyLong_CheckExact(o)) return 0;
    *out = PyLong_AsLongLongAndOverflow(o, &overflow);
    return !overflow;
}

/* A list or tuple of Python's own: how many items it has, and one of them; 0: it is none. */
static inline Py_ssize_t length(PyObject *from) {
    return PyList_CheckExact(from)    ? PyList_Size(from)
           : PyTuple_CheckExact(from) ? PyTuple_Size(from)
                                      : 0;
}
static inline PyObject *item(PyObject *from, Py_ssize_t i) {
    return PyList_CheckExact(from) ? PyList_GetItem(from, i) : PyTuple_GetItem(from, i);
}

/* A number that tells this thread's present graph from all others; negative: it has none. */
static inline int64_t this_graph(void) {
    return dn__current < 0
               ? dn__current
               : (int64_t)(dn__calls->graph_version(dn__current) << DN_GRAPH_BITS | dn__current);
}

#define DN_SLOT(name, f) {name, (void *)(f)}
#define DN_FAST(f) (PyCFunction)(void (*)(void))(f), METH_FASTCALL, NULL
#define DN_FAST_NAMED(f) (PyCFunction)(void (*)(void))(f), METH_FASTCALL | METH_KEYWORDS, NULL
