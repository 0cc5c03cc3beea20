/* The Python extension _expression: the base of class Expression, and the calls that are made most often, as Python's own fast calls.
 *
 * A cffi call takes numbers; around it Python reads a handle from each argument, compares the result with zero and makes an object for it,
 * which costs three times what the node does. The functions here take expressions and return one. They know the quick way only: whatever else
 * can happen (an error, a parameter alone, an array, a wrong type) goes to a function in Python, which was given with the call.
 *
 * This file has operators and subscripts, and the module; expression.c the base class, makers.c
 * the functions that make nodes, states.c the steps of recurrent networks, values.c what reads values. */
#include "expression.h"

#include <string.h>

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
    {"call", dn__call, METH_VARARGS, NULL},
    {"operator", set_operator, METH_VARARGS, NULL},
    {"subscript", set_subscript, METH_VARARGS, NULL},
    {"dropping", dn__set_dropping, METH_VARARGS, NULL},
    {"consecutive", DN_FAST(consecutive)},
    {"quick_node", DN_FAST(dn__quick_node)},
    {"all_whole", dn__all_whole, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot node_slots[] = {
    DN_SLOT(Py_tp_new, dn__node_new), DN_SLOT(Py_tp_dealloc, dn__node_dealloc), DN_SLOT(Py_tp_getset, dn__node_attributes),
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
    if (!module || !dn__node_type || !dn__new_maker_type() || PyModule_AddFunctions(module, dn__base_functions) ||
        PyModule_AddFunctions(module, dn__value_functions) ||
        dn__add_states(module) || PyModule_AddIntMacro(module, NOT_TAKEN) || PyModule_AddObject(module, "KINDS", dn__kinds()) ||
        PyModule_AddObject(module, "Node", (PyObject *)dn__node_type)) return NULL;
    Py_INCREF(dn__node_type); /* one reference is the module's, one ours */
    return module;
}
