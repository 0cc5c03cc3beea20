/* Functions whose arguments are those of one node: its inputs, then integers. As objects of type
 * Operation they are called without a frame of Python's, which costs half of what the node does.
 * Each stands for a function in Python, calls that one for all that it does not take, and is that
 * one for whoever looks at it: its attributes, its class too, are that function's. */
#include "expression.h"

#include <stddef.h>
#include <structmember.h>

/* So since Python 3.9; the stable ABI has the names of it since 3.12. */
typedef PyObject *(*vector_call)(PyObject *, PyObject *const *, size_t, PyObject *);
enum { HAS_VECTOR_CALL = 1 << 11 };

enum { MOST_INPUTS = 32, MOST_INTS = 2 };

/* n_inputs: -1: one list of any number. Integers that are not given are `ints`, those of them that
 * have a default: the last n_defaults. */
typedef struct {
    PyObject_HEAD vector_call call;
    PyObject *general, *weak;
    PyTypeObject *cls; /* of the result; NULL: Expression */
    int op, n_inputs, n_ints, n_defaults;
    int ints[MOST_INTS];
} Operation;

static int take_inputs(PyObject *const *from, Py_ssize_t n, int64_t *handles) {
    for (Py_ssize_t i = 0; i < n; i++)
        if ((handles[i] = handle_of(from[i])) < 0) return 0;
    return 1;
}

static int take_listed(PyObject *list, int64_t *handles) {
    const Py_ssize_t n = length(list);
    if (n > MOST_INPUTS) return 0;
    for (Py_ssize_t i = 0; i < n; i++)
        if ((handles[i] = handle_of(item(list, i))) < 0) return 0;
    return (int)n;
}

static int64_t node_of_arguments(const Operation *o, PyObject *const *args, Py_ssize_t n) {
    int64_t handles[MOST_INPUTS];
    int ints[MOST_INTS], n_inputs = o->n_inputs;
    const Py_ssize_t before = n_inputs < 0 ? 1 : n_inputs;
    if (n > before + o->n_ints || n < before + o->n_ints - o->n_defaults) return NOT_HANDLED;
    if (n_inputs < 0) n_inputs = take_listed(args[0], handles);
    else if (!take_inputs(args, n_inputs, handles)) return NOT_HANDLED;
    if (!n_inputs) return NOT_HANDLED;
    for (int i = 0; i < o->n_ints; i++) {
        if (before + i >= n) ints[i] = o->ints[i];
        else if (!PyLong_CheckExact(args[before + i]) || !as_int(args[before + i], &ints[i]))
            return NOT_HANDLED;
    }
    return dn__node(o->op, n_inputs, handles, o->n_ints, ints, 0, NULL, 0);
}

/* `flagged`: how many arguments there are, and a flag in the highest bit. */
static PyObject *call(PyObject *self, PyObject *const *args, size_t flagged, PyObject *names) {
    const Operation *o = (Operation *)self;
    const Py_ssize_t n = (Py_ssize_t)(flagged & (size_t)PY_SSIZE_T_MAX);
    const int64_t handle = names ? NOT_HANDLED : node_of_arguments(o, args, n);
    if (handle >= 0) return dn__new_node(o->cls ? o->cls : dn__expression_type, handle);
    if (handle == DN_ERROR_PYTHON) return dn__python_error();
    return dn__general(o->general, args, n, names);
}

/* f(*args) and the like, which come with a tuple */
static PyObject *call_general(PyObject *self, PyObject *args, PyObject *named) {
    return PyObject_Call(((Operation *)self)->general, args, named);
}

/* ---- an object like the function ------------------------------------------------------ */

static PyObject *get_attribute(PyObject *self, PyObject *name) {
    static PyObject *pickled, *wrapped;
    if (!wrapped && (!(pickled = PyUnicode_InternFromString("__reduce_ex__")) ||
                     !(wrapped = PyUnicode_InternFromString("__wrapped__"))))
        return NULL;
    PyObject *general = ((Operation *)self)->general;
    if (!PyUnicode_Compare(name, pickled)) return PyObject_GenericGetAttr(self, name);
    if (PyUnicode_Compare(name, wrapped)) return PyObject_GetAttr(general, name);
    Py_INCREF(general);
    return general;
}

static int set_attribute(PyObject *self, PyObject *name, PyObject *value) {
    return PyObject_SetAttr(((Operation *)self)->general, name, value);
}

/* As an attribute of a class it is a method of the class's objects. */
static PyObject *method_of(PyObject *self, PyObject *object, PyObject *cls) {
    if (object)
        return PyObject_CallMethod(((Operation *)self)->general, "__get__", "OO", object,
                                   cls ? cls : Py_None);
    Py_INCREF(self);
    return self;
}

static PyObject *repr(PyObject *self) { return PyObject_Repr(((Operation *)self)->general); }

/* Pickled, it is a name in its module, as a function is. */
static PyObject *name_in_module(PyObject *self, PyObject *unused) {
    (void)unused;
    return PyObject_GetAttrString(((Operation *)self)->general, "__qualname__");
}

static void dealloc(PyObject *self) {
    Operation *o = (Operation *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (o->weak) PyObject_ClearWeakRefs(self);
    Py_XDECREF(o->general);
    Py_XDECREF(o->cls);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyMemberDef members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Operation, call), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Operation, weak), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyMethodDef methods[] = {
    {"__reduce_ex__", name_in_module, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot slots[] = {
    DN_SLOT(Py_tp_call, call_general),
    DN_SLOT(Py_tp_getattro, get_attribute),
    DN_SLOT(Py_tp_setattro, set_attribute),
    DN_SLOT(Py_tp_repr, repr),
    DN_SLOT(Py_tp_dealloc, dealloc),
    DN_SLOT(Py_tp_members, members),
    DN_SLOT(Py_tp_methods, methods),
    DN_SLOT(Py_tp_descr_get, method_of),
    {0, NULL},
};
enum { FLAGS = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | HAS_VECTOR_CALL };
static PyType_Spec spec = {"dist_dynet._expression.Operation", sizeof(Operation), 0, FLAGS, slots};
static PyTypeObject *type;

/* The last of its integers that have a default; -1: an exception is set. */
static int note_defaults(Operation *o) {
    PyObject *defaults = PyObject_GetAttrString(o->general, "__defaults__");
    const Py_ssize_t n = defaults ? length(defaults) : 0;
    int good = defaults && n <= o->n_ints;
    for (Py_ssize_t i = 0; good && i < n; i++)
        good = as_int(item(defaults, i), &o->ints[o->n_ints - n + i]);
    o->n_defaults = (int)n;
    Py_XDECREF(defaults);
    if (!good && !PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "operation: %R has defaults that are no integers of it.",
                     o->general);
    return good ? 0 : -1;
}

/* operation(op, how many integers follow its inputs, class of the result or None, function) */
static PyObject *operation(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *op, *cls, *general;
    int n_ints;
    if (!PyArg_ParseTuple(args, "UiOO", &op, &n_ints, &cls, &general)) return NULL;
    const int number = dn__op(op), has_class = cls != Py_None;
    if (number < 0 || n_ints < 0 || n_ints > MOST_INTS ||
        (has_class && !(PyType_Check(cls) && PyType_IsSubtype((PyTypeObject *)cls, dn__node_type))))
        return PyErr_Format(PyExc_ValueError,
                            "operation: takes the name of one, at most %d integers and a class of "
                            "expressions; got %U, %d, %R.",
                            MOST_INTS, op, n_ints, cls);
    Operation *o = (Operation *)PyType_GenericAlloc(type, 0);
    if (!o) return NULL;
    o->call = call, o->op = number, o->n_inputs = dn__calls->op_inputs(number), o->n_ints = n_ints;
    if (has_class) o->cls = (PyTypeObject *)cls;
    Py_XINCREF(o->cls);
    Py_INCREF(o->general = general);
    if (!note_defaults(o)) return (PyObject *)o;
    Py_DECREF(o);
    return NULL;
}

static PyMethodDef functions[] = {
    {"operation", operation, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int dn__add_operations(PyObject *module) {
    type = (PyTypeObject *)PyType_FromSpec(&spec);
    if (!type || PyModule_AddFunctions(module, functions)) return -1;
    Py_INCREF(type); /* one reference is the module's, one ours */
    return PyModule_AddObject(module, "Operation", (PyObject *)type);
}
