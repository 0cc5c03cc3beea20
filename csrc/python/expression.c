/* The Python extension _expression: the base of class Expression, and the calls that are made most often, as Python's own fast calls.
 *
 * A cffi call takes numbers; around it Python reads a handle from each argument, compares the result with zero and makes an object for it,
 * which costs three times what the node does. The functions here take expressions and return one. They know the quick way only: whatever else
 * can happen (an error, a parameter alone, an array, a wrong type) goes to a function in Python, which was given with the call.
 *
 * This file has the base class with its operators and subscripts, and the module; makers.c the functions that make nodes, states.c the steps of
 * recurrent networks, values.c what reads values. */
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

static PyObject *node_new(PyTypeObject *cls, PyObject *args, PyObject *named) {
    if ((PyTuple_Size(args) || (named && PyDict_Size(named))) &&
        PyType_GetSlot(cls, Py_tp_init) == PyType_GetSlot(&PyBaseObject_Type, Py_tp_init))
        return PyErr_Format(PyExc_TypeError, "an expression takes no arguments. Use inputs, parameters and functions.");
    PyObject *node = dn__new_node(cls, -1);
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
    const int64_t given = ((Node *)x)->handle, handle = given < 0 ? NOT_TAKEN : dn__node1_real(scale_shift->op, given, a, b);
    if (handle >= 0) return dn__new_node(scale_shift->cls, handle);
    PyObject *args[] = {x, PyFloat_FromDouble(a), PyFloat_FromDouble(b)};
    PyObject *result = args[1] && args[2] ? dn__other_way(scale_shift, handle, 3, args) : NULL;
    Py_XDECREF(args[1]);
    Py_XDECREF(args[2]);
    return result;
}

static PyObject *operate(int k, PyObject *left, PyObject *right) {
    PyObject *args[] = {left, right};
    const int64_t x = handle_of(left), y = handle_of(right);
    double number, a, b;
    if (!operators[k].maker) return PyErr_Format(PyExc_RuntimeError, "this operator has no operation");
    const int declines = dn__declines(DN_DECLINING_operate);
    if (!declines && x >= 0 && y >= 0) return made(operators[k].maker, dn__node2(operators[k].maker->op, x, y), 2, args);
    if (!declines && x >= 0 && real(right, &number) && as_scale_shift(k, 0, number, &a, &b)) return scaled(left, a, b);
    if (!declines && y >= 0 && real(left, &number) && as_scale_shift(k, 1, number, &a, &b)) return scaled(right, a, b);
    if (is_node(left)) return dn__other_way(operators[k].maker, NOT_TAKEN, 2, args);
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
    int error = dn__calls->node_dim(x, &d);
    if (error == DN_ERROR_NO_GRAPH && dn__current >= 0) error = dn__calls->node_dim(dn__calls->resolve(dn__current, x), &d);
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
        const int64_t handle = dn__node(subscripts.index->op, 1, &a, 2, ints, 0, NULL, 0);
        if (handle >= 0) return dn__new_node(subscripts.index->cls, handle);
    } else if (a >= 0 && range_of(a, index, ints)) {
        const int64_t handle = dn__node(subscripts.slice, 1, &a, 4, ints, 0, NULL, 0);
        if (handle >= 0) return dn__new_node(subscripts.cls, handle);
    }
    return PyObject_CallFunctionObjArgs(subscripts.otherwise, x, index, NULL);
}

static PyObject *negative(PyObject *x) { return scaled(x, -1, 0); }
static PyObject *positive(PyObject *x) {
    Py_INCREF(x);
    return x;
}

/* ---- the module ---------------------------------------------------------------------------------------------------------------------- */

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

/* consecutive(cls, handle, n): a list of n expressions, whose handles follow one another */
static PyObject *consecutive(PyObject *module, PyObject *const *args, Py_ssize_t n_args) {
    (void)module;
    int n;
    if (!counted(n_args, 3)) return NULL;
    const int64_t first = PyLong_AsLongLong(args[1]);
    if (PyErr_Occurred()) return NULL;
    if (!PyType_Check(args[0]) || !PyType_IsSubtype((PyTypeObject *)args[0], dn__node_type) || !whole(args[2], &n) || n < 0)
        return PyErr_Format(PyExc_TypeError, "consecutive: takes a class of expressions, a handle and a number; got %R, %R.", args[0], args[2]);
    return dn__nodes_from((PyTypeObject *)args[0], first, n);
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
    if (k > OPERATORS || !maker || !Py_IS_TYPE(maker, dn__maker_type))
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
    if (!maker || !Py_IS_TYPE(maker, dn__maker_type) || !PyType_IsSubtype((PyTypeObject *)cls, dn__node_type))
        return PyErr_Format(PyExc_ValueError, "subscript: takes a function of call() and a class of expressions; got %R, %R.", function, cls);
    Py_INCREF(maker); /* for the life of the process */
    Py_INCREF(cls);
    Py_INCREF(otherwise);
    subscripts.index = (Maker *)maker, subscripts.slice = slice, subscripts.cls = (PyTypeObject *)cls, subscripts.otherwise = otherwise;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"bind", DN_FAST(bind)},
    {"declined", get_declined, METH_NOARGS, NULL},
    {"set_current", set_current, METH_O, NULL},
    {"current", get_current, METH_NOARGS, NULL},
    {"this_graph", get_this_graph, METH_NOARGS, NULL},
    {"watch", set_watch, METH_O, NULL},
    {"call", dn__call, METH_VARARGS, NULL},
    {"operator", set_operator, METH_VARARGS, NULL},
    {"subscript", set_subscript, METH_VARARGS, NULL},
    {"dropping", dn__set_dropping, METH_VARARGS, NULL},
    {"consecutive", DN_FAST(consecutive)},
    {"quick_node", DN_FAST(dn__quick_node)},
    {"all_whole", dn__all_whole, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef node_attributes[] = {{"_h", get_handle, set_handle, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot node_slots[] = {
    DN_SLOT(Py_tp_new, node_new), DN_SLOT(Py_tp_dealloc, node_dealloc), DN_SLOT(Py_tp_getset, node_attributes),
    DN_SLOT(Py_nb_add, add), DN_SLOT(Py_nb_subtract, subtract), DN_SLOT(Py_nb_multiply, multiply),
    DN_SLOT(Py_nb_matrix_multiply, multiply), DN_SLOT(Py_nb_true_divide, divide), DN_SLOT(Py_nb_power, power),
    DN_SLOT(Py_nb_negative, negative), DN_SLOT(Py_nb_positive, positive), DN_SLOT(Py_mp_subscript, subscript),
    {0, NULL},
};
static PyType_Spec node_spec = {"dist_dynet._expression.Node", sizeof(Node), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, node_slots};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_expression", "Fast calls on expressions.", -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__expression(void);
PyMODINIT_FUNC PyInit__expression(void) {
    PyObject *module = PyModule_Create(&definition);
    dn__node_type = (PyTypeObject *)PyType_FromSpec(&node_spec);
    if (!module || !dn__node_type || !dn__new_maker_type() || PyModule_AddFunctions(module, dn__value_functions) ||
        dn__add_states(module) || PyModule_AddIntMacro(module, NOT_TAKEN) || PyModule_AddObject(module, "KINDS", dn__kinds()) ||
        PyModule_AddObject(module, "Node", (PyObject *)dn__node_type)) return NULL;
    Py_INCREF(dn__node_type); /* one reference is the module's, one ours */
    return module;
}
