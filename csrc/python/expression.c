/* The base of class Expression; which graph is the present one; how functions in C stand for those
 * in Python. */
#include "expression.h"

const dn_node_calls *dn__calls;
_Thread_local int dn__current = -1;

/* ---- the base of Expression ----------------------------------------------------------- */

PyTypeObject *dn__node_type;

/* What is called after each expression is made, in all threads: a search's, else NULL. */
static PyObject *watch;

/* What is called with the handle of each node that is made from index `large` on, in any graph. */
enum { INDEX = (1 << DN_INDEX_BITS) - 1 };
static int64_t large = INDEX + 1;
static PyObject *on_large;

/* Below this index nothing is called when a node is made: one comparison for both. */
static int64_t unnoticed = INDEX + 1;

/* What is called, once, when so many expressions were made in this process. */
static int64_t made, many = INT64_MAX;
static PyObject *on_many;

/* Notifies of a node that was made; 0: an exception is set. */
static int notified(PyObject *by, PyObject *with) {
    PyObject *result = PyObject_CallFunctionObjArgs(by, with, NULL);
    Py_XDECREF(result);
    return result != NULL;
}
static int notified_of_large(int64_t handle) {
    PyObject *of = PyLong_FromLongLong(handle);
    const int good = of && notified(on_large, of);
    Py_XDECREF(of);
    return good;
}

/* Classes of expressions that were met, by address; held, so that no other class gets that. There
 * is room for more than a program has: to find one that is not there costs ten nodes.
 * spares: an object's memory may become that of an Expression, and the other way round: it is as
 * large, and whether the collector's header lies before it is the same. */
enum { KEPT = 256, PLACES = 8 };
static struct {
    PyTypeObject *cls;
    int spares;
} kept[KEPT + PLACES];

/* The first of the places where a class may be kept; where it is, or -1. */
static int first_place_of(const PyTypeObject *cls) { return (int)((uintptr_t)cls / 16 % KEPT); }
static int place_of(const PyTypeObject *cls) {
    const int first = first_place_of(cls);
    for (int at = first; at < first + PLACES; at++)
        if (kept[at].cls == cls) return at;
    return -1;
}

static int is_zero_of(PyTypeObject *cls, const char *attribute) {
    PyObject *value = PyObject_GetAttrString((PyObject *)cls, attribute);
    const int zero = value && PyLong_AsLong(value) == 0;
    Py_XDECREF(value);
    return zero;
}
/* A class of another metaclass may say anything, by code of the program's. */
static int is_like_expression(PyTypeObject *cls) {
    if (Py_TYPE(cls) != &PyType_Type) return 0;
    PyObject *mine = PyObject_GetAttrString((PyObject *)cls, "__basicsize__"),
             *its = PyObject_GetAttrString((PyObject *)dn__expression_type, "__basicsize__");
    const int as_large = mine && its && PyObject_RichCompareBool(mine, its, Py_EQ) == 1;
    Py_XDECREF(mine);
    Py_XDECREF(its);
    const unsigned long differ = PyType_GetFlags(cls) ^ PyType_GetFlags(dn__expression_type);
    return as_large && !(differ & Py_TPFLAGS_HAVE_GC) && is_zero_of(cls, "__dictoffset__") &&
           is_zero_of(cls, "__weakrefoffset__") && !PyType_GetSlot(cls, Py_tp_finalize);
}

PyTypeObject *dn__last_class;

int dn__is_node_class(PyTypeObject *cls) {
    if (place_of(cls) >= 0) {
        dn__last_class = cls;
        return 1;
    }
    if (!PyType_IsSubtype(cls, dn__node_type)) return 0;
    int at = first_place_of(cls);
    for (const int last = at + PLACES - 1; kept[at].cls && at < last;) at++;
    PyTypeObject *const before = kept[at].cls;
    Py_INCREF(cls);
    kept[at].cls = cls;
    kept[at].spares = dn__expression_type && is_like_expression(cls);
    PyErr_Clear(); /* for lack of memory: no code of the program's has run */
    dn__last_class = cls;
    Py_XDECREF(before);
    return 1;
}
/* Asks Python nothing, as an exception may be under way. */
static int is_spared(PyTypeObject *cls) {
    const int at = cls == dn__expression_type ? -1 : place_of(cls);
    return at < 0 ? cls == dn__expression_type : kept[at].spares;
}

/* Most expressions live for a few lines of a program, and to take their memory and give it back
 * costs as much as to make the node. So that of some is kept for the next ones. */
enum { MOST_SPARE = 1024 };
static struct {
    PyObject *at[MOST_SPARE];
    int n;
} spare;

static void free_node(PyTypeObject *cls, PyObject *node) {
    ((freefunc)PyType_GetSlot(cls, Py_tp_free))(node);
}

/* A node refers to nothing, so it is in no cycle, and Python's collector need not walk over the
 * nodes of a graph: without them its full collections, 10 ms each, become rare. */
static PyObject *take_node(PyTypeObject *cls) {
    if (spare.n && (cls == dn__expression_type || dn__is_node_class(cls)) && is_spared(cls))
        return PyObject_Init(spare.at[--spare.n], cls);
    PyObject *node = PyType_GenericAlloc(cls, 0);
    if (node && PyType_GetFlags(cls) & Py_TPFLAGS_HAVE_GC) PyObject_GC_UnTrack(node);
    return node;
}

PyObject *dn__new_node(PyTypeObject *cls, int64_t handle) {
    PyObject *node = take_node(cls);
    if (!node) return NULL;
    ((Node *)node)->handle = handle;
    const int are_many = ++made == many;
    if ((handle & INDEX) < unnoticed && !are_many) return node;
    const int is_large = handle >= 0 && (handle & INDEX) >= large;
    if (!(are_many && !notified(on_many, NULL)) && !(is_large && !notified_of_large(handle)) &&
        (!watch || notified(watch, NULL)))
        return node;
    Py_DECREF(node);
    return NULL;
}

PyObject *dn__node_new(PyTypeObject *cls, PyObject *args, PyObject *named) {
    if ((PyTuple_Size(args) || (named && PyDict_Size(named))) &&
        PyType_GetSlot(cls, Py_tp_init) == PyType_GetSlot(&PyBaseObject_Type, Py_tp_init))
        return PyErr_Format(
            PyExc_TypeError,
            "an expression takes no arguments. Use inputs, parameters and functions.");
    PyObject *node = dn__new_node(cls, -1);
    /* a class of the user's, which may refer to anything */
    if (node && PyType_GetFlags(cls) & Py_TPFLAGS_HAVE_GC) PyObject_GC_Track(node);
    return node;
}

void dn__node_dealloc(PyObject *o) {
    PyTypeObject *cls = Py_TYPE(o);
    if (spare.n < MOST_SPARE && is_spared(cls)) spare.at[spare.n++] = o;
    else free_node(cls, o);
    Py_DECREF(cls);
}

static PyObject *get_handle(PyObject *o, void *unused) {
    (void)unused;
    if (((Node *)o)->handle < 0)
        return PyErr_Format(PyExc_AttributeError, "this expression has no handle");
    return PyLong_FromLongLong(((Node *)o)->handle);
}

static int set_handle(PyObject *o, PyObject *value, void *unused) {
    (void)unused;
    int64_t handle = value ? PyLong_AsLongLong(value) : -1;
    if (PyErr_Occurred()) return -1;
    ((Node *)o)->handle = handle;
    return 0;
}

PyObject *dn__nodes_from(int64_t first, Py_ssize_t n) {
    PyObject *list = PyList_New(n);
    for (Py_ssize_t i = 0; list && i < n; i++) {
        PyObject *node = dn__new_node(dn__expression_type, first + i);
        if (node && !PyList_SetItem(list, i, node)) continue;
        Py_DECREF(list);
        return NULL;
    }
    return list;
}

PyGetSetDef dn__node_attributes[] = {{"_h", get_handle, set_handle, NULL, NULL},
                                     {NULL, NULL, NULL, NULL, NULL}};

/* ---- functions in C for functions in Python ------------------------------------------- */

PyObject *dn__general(PyObject *function, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    const Py_ssize_t n_named = names ? PyTuple_Size(names) : 0;
    PyObject *all = PyTuple_New(n), *named = all && n_named ? PyDict_New() : NULL, *result = NULL;
    int good = all && (named || !n_named);
    for (Py_ssize_t i = 0; good && i < n; i++) {
        Py_INCREF(args[i]);
        PyTuple_SetItem(all, i, args[i]);
    }
    for (Py_ssize_t i = 0; good && i < n_named; i++)
        good = !PyDict_SetItem(named, PyTuple_GetItem(names, i), args[n + i]);
    if (good) result = PyObject_Call(function, all, named);
    Py_XDECREF(all);
    Py_XDECREF(named);
    return result;
}

/* The built-in function that stands for this one; for a class, that of the module. */
static PyObject *accelerated(PyObject *module, PyObject *function) {
    static PyMethodDef *const tables[] = {dn__fast_numbers, dn__fast_nodes, dn__fast_values};
    const int is_class = PyType_Check(function);
    PyObject *name = PyObject_GetAttrString(function, "__name__"), *fast = NULL;
    PyObject *from = name ? PyObject_GetAttrString(function, "__module__") : NULL;
    if (from && is_class) fast = PyObject_GetAttr(module, name);
    for (size_t k = 0; from && !is_class && !fast && k < sizeof tables / sizeof *tables; k++)
        for (PyMethodDef *m = tables[k]; m->ml_name && !fast; m++)
            if (!PyUnicode_CompareWithASCIIString(name, m->ml_name))
                fast = PyCFunction_NewEx(m, function, from);
    if (!fast && !PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "accelerated: C has nothing that stands for %R.", function);
    Py_XDECREF(name);
    Py_XDECREF(from);
    return fast;
}

/* ---- functions of the module ---------------------------------------------------------- */

static PyObject *fail_in;
PyObject *dn__python_error(void) {
    return PyObject_CallFunction(fail_in, "ii", dn__current, DN_ERROR_PYTHON);
}

/* bind(address of the calls, {name: number} of the operations, fail_in(graph, code)) */
static PyObject *bind(PyObject *module, PyObject *const *args, Py_ssize_t n_args) {
    (void)module;
    if (!counted(n_args, 3)) return NULL;
    dn__calls = PyLong_AsVoidPtr(args[0]);
    if (PyErr_Occurred()) return NULL;
    dn__ops = args[1], fail_in = args[2];
    Py_INCREF(dn__ops); /* for the life of the process */
    Py_INCREF(fail_in);
    return Py_NewRef(Py_None);
}

/* expression_class(cls): what nodes are made as */
static PyObject *expression_class(PyObject *module, PyObject *cls) {
    (void)module;
    if (!PyType_Check(cls) || !PyType_IsSubtype((PyTypeObject *)cls, dn__node_type))
        return PyErr_Format(PyExc_TypeError,
                            "expression_class: takes a class of expressions; got %R.", cls);
    while (spare.n) free_node(dn__expression_type, spare.at[--spare.n]);
    for (int i = 0; i < KEPT + PLACES; i++) {
        Py_CLEAR(kept[i].cls);
        kept[i].spares = 0;
    }
    Py_INCREF(cls);
    dn__expression_type = (PyTypeObject *)cls;
    return Py_NewRef(Py_None);
}

static PyObject *set_current(PyObject *module, PyObject *graph) {
    (void)module;
    const long number = PyLong_AsLong(graph);
    if (number == -1 && PyErr_Occurred()) return NULL;
    dn__current = (int)number;
    return Py_NewRef(Py_None);
}

/* The function to be called after each expression is made, without arguments; None: no more. */
static PyObject *set_watch(PyObject *module, PyObject *function) {
    (void)module;
    PyObject *before = watch;
    Py_INCREF(function);
    watch = function == Py_None ? NULL : function;
    unnoticed = watch ? 0 : large;
    Py_XDECREF(before);
    return Py_NewRef(Py_None);
}

/* set_large(index, function): function(handle) is called for each node from this index on */
static PyObject *set_large(PyObject *module, PyObject *const *args, Py_ssize_t n_args) {
    (void)module;
    int64_t index;
    if (!counted(n_args, 2)) return NULL;
    if (!handle_from(args[0], &index))
        return PyErr_Format(PyExc_TypeError, "set_large: takes an index; got %R.", args[0]);
    PyObject *before = on_large;
    Py_INCREF(args[1]);
    large = index, on_large = args[1];
    unnoticed = watch ? 0 : large;
    Py_XDECREF(before);
    return Py_NewRef(Py_None);
}

/* set_many(n, function): function() is called when n more expressions were made */
static PyObject *set_many(PyObject *module, PyObject *const *args, Py_ssize_t n_args) {
    (void)module;
    int64_t n;
    if (!counted(n_args, 2)) return NULL;
    if (!handle_from(args[0], &n) || n > INT64_MAX - made)
        return PyErr_Format(PyExc_TypeError, "set_many: takes a number; got %R.", args[0]);
    PyObject *before = on_many;
    Py_INCREF(args[1]);
    many = made + n, on_many = args[1];
    Py_XDECREF(before);
    return Py_NewRef(Py_None);
}

/* without_collector(function, *arguments): its result; the collector is off meanwhile. Of a
   function of C's that runs no Python: no thread but this one runs until it returns. Frames of
   other threads must be read so. Python 3.11 makes their objects when they are asked for, which may
   collect garbage, and this lets other threads run; their frames end, and are read all the same. */
static PyObject *without_collector(PyObject *module, PyObject *args) {
    (void)module;
    const Py_ssize_t n = PyTuple_Size(args);
    PyObject *function = n > 0 ? PyTuple_GetItem(args, 0) : NULL;
    if (!function) return PyErr_Format(PyExc_TypeError, "without_collector: takes a function.");
    PyObject *arguments = PyTuple_GetSlice(args, 1, n);
    if (!arguments) return NULL;
    const int was_on = PyGC_Disable();
    PyObject *result = PyObject_CallObject(function, arguments);
    if (was_on) PyGC_Enable();
    Py_DECREF(arguments);
    return result;
}

static PyObject *get_current(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromLong(dn__current);
}

PyMethodDef dn__base_functions[] = {
    {"bind", DN_FAST(bind)},
    {"expression_class", expression_class, METH_O, NULL},
    {"accelerated", accelerated, METH_O, NULL},
    {"set_current", set_current, METH_O, NULL},
    {"current", get_current, METH_NOARGS, NULL},
    {"watch", set_watch, METH_O, NULL},
    {"set_large", DN_FAST(set_large)},
    {"set_many", DN_FAST(set_many)},
    {"without_collector", without_collector, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
