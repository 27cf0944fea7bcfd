/* Compiled twins of the innermost loops of this folder's modules.
 *
 * Each function does what its numpy twin does, number for number. The module is optional; without it the package runs
 * on numpy alone, only slower.
 */
#include "_native.h"

#define INTERFACE 1 /* changes with any function; native.py knows which one it can use */

static PyMethodDef methods[] = {
    {"search", search, METH_VARARGS, NULL},
    {"encode", encode, METH_VARARGS, NULL},
    {"decode", decode, METH_VARARGS, NULL},
    {"decode_running", decode_running, METH_VARARGS, NULL},
    {"trace", trace, METH_VARARGS, NULL},
    {"histogram", histogram, METH_VARARGS, NULL},
    {"decode_segment", decode_segment, METH_VARARGS, NULL},
    {"settle", settle, METH_VARARGS, NULL},
    {"shrink", shrink, METH_VARARGS, NULL},
    {"sparse_encode", sparse_encode, METH_VARARGS, NULL},
    {"sparse_decode", sparse_decode, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_native", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) {
    choose_forward();
    PyObject *made = PyModule_Create(&module);
    if (made && PyModule_AddIntConstant(made, "INTERFACE", INTERFACE)) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
