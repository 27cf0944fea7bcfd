/* What the compiled twins share. Callers check all sizes; the functions check again that no buffer is too short for
 * what they are told to do. Only Python's stable interface is used, and numpy not at all. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MOST_STATES 128 /* of the trellis */

#ifdef __GNUC__
#define ALWAYS_INLINE inline __attribute__((always_inline))
#else
#define ALWAYS_INLINE inline
#endif

void choose_forward(void);
Py_ssize_t step_symbols(uint32_t *state, const uint32_t *cells, const uint32_t *first_cell, uint8_t *symbol,
                        Py_ssize_t width, const uint16_t *words, Py_ssize_t position, Py_ssize_t available, int refills);

#define OFFERED(name) PyObject *name(PyObject *self, PyObject *args)
OFFERED(search);
OFFERED(encode);
OFFERED(decode);
OFFERED(decode_running);
OFFERED(trace);
OFFERED(histogram);
OFFERED(decode_segment);
OFFERED(settle);
OFFERED(shrink);
OFFERED(sparse_encode);
OFFERED(sparse_decode);
