/* The Python extension _expression: the base of class Expression, and the calls that are made most
 * often, as Python's own fast calls.
 *
 * The package is complete without it (DIST_DYNET_FAST_PATHS=0 does not load it): each function here
 * stands for one in Python of the same name, and calls that one for whatever else can happen (an
 * error, an array, a wrong type). A cffi call gives Python's lock up and takes numbers: around it
 * Python reads a handle from each argument and makes an object for the result, which costs three
 * times what the node does. The functions here take expressions and return one.
 *
 * This file has operators and subscripts, and the module; expression.c the base class, numbers.c
 * what an integer and a float is, node_functions.c the functions that make nodes, operation.c those
 * that users call for one node, states.c the steps of recurrent networks, composed.c those in
 * DyNet's operations, values.c what reads values. */
#include "numbers.h"

#include <string.h>

/* ---- operators ------------------------------------------------------------------------ */

enum { ADD, SUBTRACT, MULTIPLY, DIVIDE, POWER, NEGATE, OPERATORS };
/* general(x, other) is x <operator> other in Python, reflected(x, other) other <operator> x. */
static struct {
    int op;
    PyObject *general, *reflected;
} operators[OPERATORS];

/* What changes no number that it is added to: 0.0 would make -0.0 to 0.0. */
static const double NO_SHIFT = -0.0;
/* x <operator> number, or number <operator> x, as a x + b; 0: it is not of that form. */
static int as_scale_shift(int k, int is_reflected, double number, double *a, double *b) {
    *a = k == MULTIPLY ? number : k == DIVIDE ? 1 / number : k == SUBTRACT && is_reflected ? -1 : 1;
    *b = k == ADD ? number : k == SUBTRACT ? (is_reflected ? number : -number) : NO_SHIFT;
    return k == DIVIDE ? !is_reflected && number != 0 : k != POWER;
}

static int64_t scaled(int64_t x, double a, double b) {
    return dn__node1_float(operators[NEGATE].op, x, a, b);
}

/* x ** number, as pow(x, scalarInput(number)). */
static int64_t to_power(int64_t x, double number) {
    if (dn__current < 0) return NOT_HANDLED;
    const int size = dn__calls->graph_size(dn__current);
    const int64_t y = dn__calls->input_numbers(dn__current, 1, (int[]){1}, 1, &number),
                  handle = y < 0 ? NOT_HANDLED : dn__node2(operators[POWER].op, x, y);
    if (handle < 0) dn__calls->take_back(dn__current, size);
    return handle;
}

/* Differences are several nodes in DyNet; Python composes them where that matters. */
static int is_composed(int k) {
    return k == SUBTRACT && dn__current >= 0 && dn__calls->graph_follows_agenda(dn__current);
}

static PyObject *operate(int k, PyObject *left, PyObject *right) {
    const int64_t x = handle_of(left), y = handle_of(right);
    int64_t handle = NOT_HANDLED;
    double number, a, b;
    if (!operators[k].general)
        return PyErr_Format(PyExc_RuntimeError, "this operator has no operation");
    if (is_composed(k)) handle = NOT_HANDLED;
    else if (x >= 0 && y >= 0) handle = dn__node2(operators[k].op, x, y);
    else if (x >= 0 && as_double(right, &number) && as_scale_shift(k, 0, number, &a, &b))
        handle = scaled(x, a, b);
    else if (y >= 0 && as_double(left, &number) && as_scale_shift(k, 1, number, &a, &b))
        handle = scaled(y, a, b);
    else if (x >= 0 && k == POWER && as_double(right, &number)) handle = to_power(x, number);
    if (handle >= 0) return dn__new_node(dn__expression_type, handle);
    if (handle == DN_ERROR_PYTHON) return dn__python_error();
    if (is_node(left)) return PyObject_CallFunctionObjArgs(operators[k].general, left, right, NULL);
    return PyObject_CallFunctionObjArgs(operators[k].reflected, right, left, NULL);
}

static PyObject *add(PyObject *x, PyObject *y) { return operate(ADD, x, y); }
static PyObject *subtract(PyObject *x, PyObject *y) { return operate(SUBTRACT, x, y); }
static PyObject *multiply(PyObject *x, PyObject *y) { return operate(MULTIPLY, x, y); }
static PyObject *divide_expression(PyObject *x, PyObject *y) { return operate(DIVIDE, x, y); }
static PyObject *power(PyObject *x, PyObject *y, PyObject *modulus) {
    if (modulus == Py_None) return operate(POWER, x, y);
    Py_INCREF(Py_NotImplemented);
    return Py_NotImplemented;
}
static PyObject *negative(PyObject *x) {
    if (!operators[NEGATE].general)
        return PyErr_Format(PyExc_RuntimeError, "this operator has no operation");
    const int64_t given = ((Node *)x)->handle,
                  handle = given < 0 ? NOT_HANDLED : scaled(given, -1, NO_SHIFT);
    if (handle == DN_ERROR_PYTHON) return dn__python_error();
    return handle >= 0 ? dn__new_node(dn__expression_type, handle)
                       : PyObject_CallFunctionObjArgs(operators[NEGATE].general, x, NULL);
}
static PyObject *positive(PyObject *x) {
    Py_INCREF(x);
    return x;
}

/* x[i] by a node of `index`, of class cls; x[from:to:step, ...] by one of `slice`;
 * general(x, index) does all else. */
static struct {
    int index, slice;
    PyTypeObject *cls;
    PyObject *general;
} subscripts;

/* The dims of an expression; 0: an error. */
static int find_dims(PyObject *x, dn_dim *dims) {
    const int64_t a = node_of(x);
    return a >= 0 && !dn__calls->node_dim(a, dims);
}

/* An index of the first dim, from its end if it is negative; 0: it is something else. */
static int index_of(PyObject *x, PyObject *index, int *i) {
    dn_dim dims;
    if (!as_index(index, i)) return 0;
    if (*i < 0) *i += find_dims(x, &dims) && dims.nd ? dims.d[0] : 0;
    return *i >= 0;
}

/* The range of a slice of a dim of this size; 0: it is something else; -1: an exception is set. */
static int range_of(int size, PyObject *slice, int range[3]) {
    Py_ssize_t start, stop, step;
    if (!PySlice_Check(slice)) return 0;
    if (PySlice_Unpack(slice, &start, &stop, &step)) /* no integers, or a step of 0 */
        return drops(PyExc_TypeError) || drops(PyExc_ValueError) ||
                       drops(PyExc_DeprecationWarning) /* of truth values of older NumPys */
                   ? 0
                   : -1;
    if (step < 1 || step > INT32_MAX) return 0;
    PySlice_AdjustIndices(size, &start, &stop, step);
    range[0] = (int)start, range[1] = (int)(stop < start ? start : stop), range[2] = (int)step;
    return 1;
}

/* The integers of a node for a slice of the first dim, or a tuple of slices, one of each dim from
 * the first on; how many, 0: it is something else; -1: an exception is set. */
static int ranges_of(PyObject *x, PyObject *index, int ints[4 * DN_MAX_DIMS]) {
    dn_dim dims;
    const int is_tuple = PyTuple_CheckExact(index);
    const Py_ssize_t n = is_tuple ? PyTuple_Size(index) : 1;
    if (!(is_tuple || PySlice_Check(index)) || !find_dims(x, &dims) || n > dims.nd) return 0;
    for (int i = 0; i < n; i++) {
        PyObject *const slice = is_tuple ? PyTuple_GetItem(index, i) : index;
        const int is_range = range_of(dims.d[i], slice, &ints[4 * i + 1]);
        if (is_range <= 0) return is_range;
        ints[4 * i] = i;
    }
    return 4 * (int)n;
}

/* table[i], of class cls; general(table, i) does all else. */
static struct {
    PyTypeObject *type, *cls;
    PyObject *general;
} tables;

static PyObject *row_of(PyObject *table, PyObject *index) {
    const int64_t handle = dn__row(table, index);
    return handle >= 0 ? dn__new_node(tables.cls, handle)
                       : PyObject_CallFunctionObjArgs(tables.general, table, index, NULL);
}

static PyObject *subscript(PyObject *x, PyObject *index) {
    if (tables.type && PyType_IsSubtype(Py_TYPE(x), tables.type)) return row_of(x, index);
    int64_t a = handle_of(x), handle = NOT_HANDLED;
    PyTypeObject *cls = dn__expression_type;
    int ints[4 * DN_MAX_DIMS], n = 0;
    if (!subscripts.general) return PyErr_Format(PyExc_RuntimeError, "indices have no operation");
    ints[0] = 0; /* the first dim */
    if (a >= 0 && index_of(x, index, &ints[1])) {
        handle = dn__node(subscripts.index, 1, &a, 2, ints, 0, NULL, 0);
        cls = subscripts.cls;
    } else if (a >= 0 && (n = ranges_of(x, index, ints)) > 0)
        handle = dn__node(subscripts.slice, 1, &a, n, ints, 0, NULL, 0);
    if (n < 0) return NULL;
    if (handle == DN_ERROR_PYTHON) return dn__python_error();
    return handle >= 0 ? dn__new_node(cls, handle)
                       : PyObject_CallFunctionObjArgs(subscripts.general, x, index, NULL);
}

/* ---- the module ----------------------------------------------------------------------- */

/* operator("__add__", op, general, reflected) */
static PyObject *set_operator(PyObject *module, PyObject *args) {
    (void)module;
    static const char *const names[] = {"__add__",     "__sub__", "__mul__",
                                        "__truediv__", "__pow__", "__neg__"};
    const char *name;
    PyObject *op, *general, *reflected;
    if (!PyArg_ParseTuple(args, "sUOO", &name, &op, &general, &reflected)) return NULL;
    int k = 0;
    while (k < OPERATORS && strcmp(names[k], name)) k++;
    if (k == OPERATORS || dn__op(op) < 0)
        return PyErr_Format(PyExc_ValueError,
                            "operator: takes the name of one and that of an operation; got %s, %U.",
                            name, op);
    Py_INCREF(general); /* for the life of the process */
    Py_INCREF(reflected);
    operators[k].op = dn__op(op), operators[k].general = general,
    operators[k].reflected = reflected;
    return Py_NewRef(Py_None);
}

/* subscript(op of an index, its class, op of slices, general) */
static PyObject *set_subscript(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *index, *cls, *slice, *general;
    if (!PyArg_ParseTuple(args, "UO!UO", &index, &PyType_Type, &cls, &slice, &general)) return NULL;
    if (dn__op(index) < 0 || dn__op(slice) < 0 ||
        !PyType_IsSubtype((PyTypeObject *)cls, dn__node_type))
        return PyErr_Format(
            PyExc_ValueError,
            "subscript: takes two operations and a class of expressions; got %U, %U, %R.", index,
            slice, cls);
    Py_INCREF(cls); /* for the life of the process */
    Py_INCREF(general);
    subscripts.index = dn__op(index), subscripts.slice = dn__op(slice),
    subscripts.cls = (PyTypeObject *)cls, subscripts.general = general;
    return Py_NewRef(Py_None);
}

/* tables(their class, that of rows, general) */
static PyObject *set_tables(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *type, *cls, *general;
    if (!PyArg_ParseTuple(args, "O!O!O", &PyType_Type, &type, &PyType_Type, &cls, &general))
        return NULL;
    if (!PyType_IsSubtype((PyTypeObject *)type, dn__node_type) ||
        !PyType_IsSubtype((PyTypeObject *)cls, dn__node_type))
        return PyErr_Format(PyExc_ValueError,
                            "tables: takes two classes of expressions; got %R, %R.", type, cls);
    Py_INCREF(type); /* for the life of the process */
    Py_INCREF(cls);
    Py_INCREF(general);
    tables.type = (PyTypeObject *)type, tables.cls = (PyTypeObject *)cls, tables.general = general;
    return Py_NewRef(Py_None);
}

static PyMethodDef functions[] = {
    {"operator", set_operator, METH_VARARGS, NULL},
    {"subscript", set_subscript, METH_VARARGS, NULL},
    {"tables", set_tables, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot node_slots[] = {
    DN_SLOT(Py_tp_new, dn__node_new),
    DN_SLOT(Py_tp_dealloc, dn__node_dealloc),
    DN_SLOT(Py_tp_getset, dn__node_attributes),
    DN_SLOT(Py_nb_add, add),
    DN_SLOT(Py_nb_subtract, subtract),
    DN_SLOT(Py_nb_multiply, multiply),
    DN_SLOT(Py_nb_matrix_multiply, multiply),
    DN_SLOT(Py_nb_true_divide, divide_expression),
    DN_SLOT(Py_nb_power, power),
    DN_SLOT(Py_nb_negative, negative),
    DN_SLOT(Py_nb_positive, positive),
    DN_SLOT(Py_mp_subscript, subscript),
    {0, NULL},
};
static PyType_Spec node_spec = {"dist_dynet._expression.Node", sizeof(Node), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, node_slots};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                                        "_expression",
                                        "Fast calls on expressions.",
                                        -1,
                                        functions,
                                        NULL,
                                        NULL,
                                        NULL,
                                        NULL};

PyMODINIT_FUNC PyInit__expression(void);
PyMODINIT_FUNC PyInit__expression(void) {
    PyObject *module = PyModule_Create(&definition);
    dn__node_type = (PyTypeObject *)PyType_FromSpec(&node_spec);
    if (!module || !dn__node_type || PyModule_AddFunctions(module, dn__base_functions) ||
        PyModule_AddFunctions(module, dn__number_functions) || dn__add_states(module) ||
        dn__add_operations(module) || PyModule_AddObject(module, "Node", (PyObject *)dn__node_type))
        return NULL;
    Py_INCREF(dn__node_type); /* one reference is the module's, one ours */
    return module;
}
