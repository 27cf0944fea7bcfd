/* Functions of _sparse.c that _native.c offers to Python. */
PyObject *sparse_encode(PyObject *self, PyObject *args);
PyObject *sparse_decode(PyObject *self, PyObject *args);
