/* The base of class Expression; which graph is the present one; the switch of the fast paths. */
#include "expression.h"

#include <string.h>

const dn_node_calls *dn__calls;
_Thread_local int dn__current = -1;

/* ---- the switch of the fast paths ---------------------------------------------------------------------------------------------------- */

static int switched_off;
static int64_t declined[DN_DECLINING_COUNT];

int dn__declines(enum dn_declining which) {
    declined[which] += switched_off;
    return switched_off;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#define DECLINED_int DN_LONG_WAY
#define DECLINED_int64_t NOT_TAKEN
#define DECLINING_CALL(result, name, params, args) \
    static result declining_##name params { \
        dn__declines(DN_DECLINING_##name); \
        return DECLINED_##result; \
    }
DN_NODE_CALLS(DECLINING_CALL)
#pragma GCC diagnostic pop

#define DECLINING_FIELD(result, name, params, args) .name = declining_##name,
static dn_node_calls declining = {DN_NODE_CALLS(DECLINING_FIELD)};

/* ---- the base of Expression ---------------------------------------------------------------------------------------------------------- */

PyTypeObject *dn__node_type;

/* What is called after each expression is made, in all threads: a search's, else NULL. */
static PyObject *watch;

/* A node refers to nothing, so it is in no cycle, and Python's collector need not walk over the nodes of a graph: without them its full
 * collections, 10 ms each, become rare. */
PyObject *dn__new_node(PyTypeObject *cls, int64_t handle) {
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

PyObject *dn__node_new(PyTypeObject *cls, PyObject *args, PyObject *named) {
    if ((PyTuple_Size(args) || (named && PyDict_Size(named))) &&
        PyType_GetSlot(cls, Py_tp_init) == PyType_GetSlot(&PyBaseObject_Type, Py_tp_init))
        return PyErr_Format(PyExc_TypeError, "an expression takes no arguments. Use inputs, parameters and functions.");
    PyObject *node = dn__new_node(cls, -1);
    if (node && PyType_GetFlags(cls) & Py_TPFLAGS_HAVE_GC) PyObject_GC_Track(node); /* a class of the user's, which may refer to anything */
    return node;
}

void dn__node_dealloc(PyObject *o) {
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

PyObject *dn__nodes_from(PyTypeObject *cls, int64_t first, Py_ssize_t n) {
    PyObject *list = PyList_New(n);
    for (Py_ssize_t i = 0; list && i < n; i++) {
        PyObject *node = dn__new_node(cls, first + i);
        if (node && !PyList_SetItem(list, i, node)) continue;
        Py_DECREF(list);
        return NULL;
    }
    return list;
}

PyGetSetDef dn__node_attributes[] = {{"_h", get_handle, set_handle, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};

PyObject *dn__other_way(const Maker *m, int64_t code, Py_ssize_t n, PyObject *const *args) {
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

/* ---- functions of the module --------------------------------------------------------------------------------------------------------- */

/* bind(address of the calls, whether the fast paths are taken) */
static PyObject *bind(PyObject *module, PyObject *const *args, Py_ssize_t n_args) {
    (void)module;
    if (!counted(n_args, 2)) return NULL;
    dn__calls = PyLong_AsVoidPtr(args[0]);
    if (PyErr_Occurred()) return NULL;
    switched_off = args[1] == Py_False;
    if (switched_off) {
        declining.graph_version = dn__calls->graph_version; /* which graph is the current one is asked on all paths */
        dn__calls = &declining;
    }
    Py_RETURN_NONE;
}

/* How often each of what can decline has done so, by name. */
static PyObject *get_declined(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
#define DECLINED_NAME(result, name, params, args) #name,
    static const char *const of_each[] = {DN_DECLINING(DECLINED_NAME)};
    PyObject *counts = PyDict_New();
    for (int i = 0; counts && i < DN_DECLINING_COUNT; i++) {
        PyObject *count = PyLong_FromLongLong(declined[i]);
        if (!count || PyDict_SetItemString(counts, of_each[i], count)) Py_CLEAR(counts);
        Py_XDECREF(count);
    }
    return counts;
}

static PyObject *set_current(PyObject *module, PyObject *graph) {
    (void)module;
    const long number = PyLong_AsLong(graph);
    if (number == -1 && PyErr_Occurred()) return NULL;
    dn__current = (int)number;
    Py_RETURN_NONE;
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
    return PyLong_FromLong(dn__current);
}

static PyObject *get_this_graph(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromLongLong(this_graph());
}

PyMethodDef dn__base_functions[] = {
    {"bind", DN_FAST(bind)},
    {"declined", get_declined, METH_NOARGS, NULL},
    {"set_current", set_current, METH_O, NULL},
    {"current", get_current, METH_NOARGS, NULL},
    {"this_graph", get_this_graph, METH_NOARGS, NULL},
    {"watch", set_watch, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
