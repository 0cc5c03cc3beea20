/* Functions whose arguments are those of one node: its inputs, then what its attributes are made
 * of. As objects of type Operation they are called without a frame of Python's, which costs half of
 * what the node does.
 * Each stands for a function in Python, calls that one for all that it does not take, and is that
 * one for whoever looks at it: its attributes, its class too, are that function's. */
#include "numbers.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <structmember.h>

/* So since Python 3.9; the stable ABI has the names of it since 3.12. */
typedef PyObject *(*vector_call)(PyObject *, PyObject *const *, size_t, PyObject *);
enum { HAS_VECTOR_CALL = 1 << 11 };

enum {
    MOST_INPUTS = 32,
    MOST_PARAMETERS = MOST_INPUTS - 2,
    FEW_INTS = 32,
    MOST_FLOATS = 4,
    MOST_ATTRIBUTES = 8
};

/* An attribute: of a parameter an integer, a float, a truth value, a list of integers (if `number`
 * is not 0: so many), or one integer or a list; none, but that it is True; or `number` itself. */
enum kind { INTEGER = 'i', REAL = 'f', TRUTH = 'b', LIST = 'l', ONE_OR_MORE = 'm', IS_TRUE = 't' };
enum { FIXED_INTEGER = 'I', FIXED_REAL = 'F' };
typedef struct {
    int kind, parameter;
    double number;
} Attribute;

/* n_inputs: -1: one list of any number. n_parameters: with the inputs; the last ones have
 * `defaults`. named: a bit for each parameter that is an input or of an attribute; the others must
 * be their defaults. */
typedef struct {
    PyObject_HEAD vector_call call;
    PyObject *general, *weak, *defaults, *names; /* names: of the parameters */
    PyTypeObject *cls;                           /* of the result; NULL: Expression */
    int op, n_inputs, n_parameters, n_attributes, named;
    Attribute attributes[MOST_ATTRIBUTES];
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

/* memory: NULL: the integers are few, and lie here. */
typedef struct {
    int *ints, n_ints, n_floats, few[FEW_INTS + MOST_ATTRIBUTES], *memory;
    double floats[MOST_FLOATS];
} Attributes;

static int take_integer(PyObject *value, Attributes *to) {
    return as_index(value, &to->ints[to->n_ints++]);
}

/* Space for a list of n integers, besides one for each attribute; 0: there is no memory. */
static int reserve_ints(Attributes *to, Py_ssize_t n) {
    if (n > INT32_MAX - to->n_ints - MOST_ATTRIBUTES) return 0;
    const size_t most = (size_t)(to->n_ints + n) + MOST_ATTRIBUTES;
    if (most <= FEW_INTS + MOST_ATTRIBUTES) return 1;
    int *ints = realloc(to->memory, most * sizeof *ints);
    if (!ints) return 0;
    if (!to->memory) memcpy(ints, to->few, (size_t)to->n_ints * sizeof *ints);
    to->ints = to->memory = ints;
    return 1;
}

static int take_integers(const Attribute *a, PyObject *from, Attributes *to) {
    PyObject *list = dn__as_list(from);
    const Py_ssize_t n = list ? length(list) : 0;
    int good = n && (a->number <= 0 || n == (Py_ssize_t)a->number) && reserve_ints(to, n);
    for (Py_ssize_t i = 0; good && i < n; i++) good = take_integer(item(list, i), to);
    Py_XDECREF(list);
    return good;
}

/* 0: the value is for the function. */
static int take_attribute(const Attribute *a, PyObject *value, Attributes *to) {
    switch (a->kind) {
    case INTEGER: return take_integer(value, to);
    case ONE_OR_MORE:
        return is_integer(value) ? take_integer(value, to) : take_integers(a, value, to);
    case LIST: return take_integers(a, value, to);
    case IS_TRUE: return value == Py_True;
    case TRUTH:
        to->ints[to->n_ints++] = value == Py_True;
        return value == Py_True || value == Py_False;
    case REAL: return as_double(value, &to->floats[to->n_floats++]);
    case FIXED_INTEGER: to->ints[to->n_ints++] = (int)a->number; return 1;
    default: to->floats[to->n_floats++] = a->number; return 1;
    }
}

/* What parameter i is given, or its default. */
static PyObject *argument(const Operation *o, PyObject *const *args, Py_ssize_t n, int i) {
    return i < n ? args[i]
                 : PyTuple_GetItem(o->defaults, i - o->n_parameters + PyTuple_Size(o->defaults));
}

static int is_equal(PyObject *value, PyObject *otherwise) {
    int a, b;
    return value == otherwise || (as_index(value, &a) && as_index(otherwise, &b) && a == b);
}

static int take_attributes(const Operation *o, PyObject *const *args, Py_ssize_t n,
                           Attributes *to) {
    to->n_ints = to->n_floats = 0;
    to->ints = to->few, to->memory = NULL;
    for (int k = 0; k < o->n_attributes; k++) {
        const Attribute *a = &o->attributes[k];
        PyObject *value = a->parameter < 0 ? NULL : argument(o, args, n, a->parameter);
        if (!take_attribute(a, value, to)) return 0;
    }
    return 1;
}

static int64_t node_of_arguments(const Operation *o, PyObject *const *args, Py_ssize_t n) {
    int64_t handles[MOST_INPUTS], handle = NOT_HANDLED;
    Attributes to;
    int n_inputs = o->n_inputs;
    if (n > o->n_parameters || n < o->n_parameters - PyTuple_Size(o->defaults)) return NOT_HANDLED;
    if (n_inputs < 0) n_inputs = take_listed(args[0], handles);
    else if (!take_inputs(args, n_inputs, handles)) return NOT_HANDLED;
    if (!n_inputs && o->n_inputs) return NOT_HANDLED;
    for (int i = 0; i < n; i++)
        if (!(o->named >> i & 1) && !is_equal(args[i], argument(o, NULL, 0, i))) return NOT_HANDLED;
    const int taken = take_attributes(o, args, n, &to);
    if (taken && o->n_inputs)
        handle = dn__node(o->op, n_inputs, handles, to.n_ints, to.ints, to.n_floats, to.floats, 0);
    /* f(2, 3) of dims is a matter of its own: _manner.py */
    else if (taken && dn__current >= 0 && !(n == 2 && is_integer(args[0])))
        handle = dn__calls->leaf(dn__current, o->op, to.n_ints, to.ints, to.n_floats, to.floats);
    free(to.memory);
    return handle;
}

/* The parameter of this name; negative: there is none. */
static int parameter_named(const Operation *o, PyObject *name) {
    int i = o->n_parameters - 1; /* names are constants of programs: mostly the same object */
    while (i >= 0 && PyTuple_GetItem(o->names, i) != name) i--;
    return i;
}

/* The arguments by place, where some are given by name; how many, negative: they are for the
 * function. */
static Py_ssize_t by_place(const Operation *o, PyObject *const *args, Py_ssize_t n, PyObject *names,
                           PyObject *placed[MOST_PARAMETERS]) {
    const Py_ssize_t n_named = PyTuple_Size(names),
                     required = o->n_parameters - PyTuple_Size(o->defaults);
    Py_ssize_t end = n;
    if (n > o->n_parameters) return -1;
    for (int i = 0; i < o->n_parameters; i++)
        placed[i] = i < n ? args[i] : i < required ? NULL : argument(o, NULL, 0, i);
    int is_given[MOST_PARAMETERS] = {0};
    for (Py_ssize_t k = 0; k < n_named; k++) {
        const int i = parameter_named(o, PyTuple_GetItem(names, k));
        if (i < n || is_given[i]++) return -1;
        placed[i] = args[n + k];
        if (i >= end) end = i + 1;
    }
    for (Py_ssize_t i = 0; i < required; i++)
        if (!placed[i]) return -1;
    return end;
}

/* `flagged`: how many arguments there are, and a flag in the highest bit. */
static PyObject *call(PyObject *self, PyObject *const *args, size_t flagged, PyObject *names) {
    const Operation *o = (Operation *)self;
    const Py_ssize_t n = (Py_ssize_t)(flagged & (size_t)PY_SSIZE_T_MAX);
    PyObject *placed[MOST_PARAMETERS];
    const Py_ssize_t n_placed = names ? by_place(o, args, n, names, placed) : n;
    const int64_t handle = node_of_arguments(o, names ? placed : args, n_placed);
    if (handle >= 0) return dn__new_node(o->cls ? o->cls : dn__expression_type, handle);
    if (handle == DN_ERROR_PYTHON) return dn__python_error();
    /* it may be declared to be another node, too */
    return Py_IS_TYPE(o->general, Py_TYPE(self)) ? call(o->general, args, flagged, names)
                                                 : dn__general(o->general, args, n, names);
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
    Py_XDECREF(o->defaults);
    Py_XDECREF(o->names);
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

/* How many numbers of each kind there may be is known but for lists, which are looked at. */
static int can_be(const Operation *o, const Attribute *a, const int of_kind[2]) {
    const int has_parameter = a->kind != FIXED_INTEGER && a->kind != FIXED_REAL;
    return has_parameter == (a->parameter >= 0) && a->parameter < o->n_parameters &&
           of_kind[0] < MOST_ATTRIBUTES && of_kind[1] <= MOST_FLOATS;
}

/* Its attributes: a tuple of (kind, parameter or -1, number); 0: they cannot be. */
static int note_attributes(Operation *o, PyObject *attributes) {
    int of_kind[2] = {0, 0}; /* integers and their lists, floats */
    const Py_ssize_t n = PyTuple_Size(attributes);
    for (int i = 0; i < (o->n_inputs < 0 ? 1 : o->n_inputs); i++) o->named |= 1 << i;
    for (Py_ssize_t k = 0; k < n && n <= MOST_ATTRIBUTES; k++) {
        Attribute *a = &o->attributes[o->n_attributes++];
        if (!PyArg_ParseTuple(PyTuple_GetItem(attributes, k), "Cid", &a->kind, &a->parameter,
                              &a->number))
            return 0;
        of_kind[a->kind == REAL || a->kind == FIXED_REAL]++;
        if (!can_be(o, a, of_kind)) return 0;
        if (a->parameter >= 0) o->named |= 1 << a->parameter;
    }
    return n <= MOST_ATTRIBUTES;
}

/* operation(op, names of its parameters, their defaults, attributes, class of the result or None,
 * function) */
static PyObject *operation(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *op, *names, *defaults, *attributes, *cls, *general;
    if (!PyArg_ParseTuple(args, "UO!O!O!OO", &op, &PyTuple_Type, &names, &PyTuple_Type, &defaults,
                          &PyTuple_Type, &attributes, &cls, &general))
        return NULL;
    const Py_ssize_t n = PyTuple_Size(names);
    const int number = dn__op(op), has_class = cls != Py_None;
    const int inputs = number < 0 ? 0 : dn__calls->op_inputs(number);
    if (number < 0 || n < (inputs < 0 ? 1 : inputs) || n > MOST_PARAMETERS ||
        (has_class && !(PyType_Check(cls) && PyType_IsSubtype((PyTypeObject *)cls, dn__node_type))))
        return PyErr_Format(PyExc_ValueError,
                            "operation: takes the name of one, a function with as many parameters "
                            "as it has inputs or more, and a class of expressions; got %U, %R, %R.",
                            op, names, cls);
    Operation *o = (Operation *)PyType_GenericAlloc(type, 0);
    if (!o) return NULL;
    o->call = call, o->op = number, o->n_inputs = inputs, o->n_parameters = (int)n;
    if (has_class) o->cls = (PyTypeObject *)cls;
    Py_XINCREF(o->cls);
    Py_INCREF(o->general = general);
    Py_INCREF(o->defaults = defaults);
    Py_INCREF(o->names = names);
    if (note_attributes(o, attributes)) {
        const int all = (1 << n) - 1,
                  with_default = all & ~((1 << (n - PyTuple_Size(defaults))) - 1);
        if (((o->named | with_default) & all) == all) return (PyObject *)o;
    }
    Py_DECREF(o);
    if (!PyErr_Occurred())
        PyErr_Format(PyExc_ValueError,
                     "operation: the attributes %R of %U cannot be, or leave parameters of %R out "
                     "that have no default.",
                     attributes, op, general);
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
