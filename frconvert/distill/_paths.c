/* Compiled twin of the search in paths.py: one lane of the trellis with feedback inside each row.
 *
 * It does what its numpy twin does, the same float32 operations in the same order. The module is optional; without it
 * the package runs on numpy alone, only slower.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MOST_STATES 128
#define FAR 1e30f

#if defined(__GNUC__) && defined(__x86_64__) && defined(__linux__)
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CLONES
#endif

/* Round half to even for magnitudes below 2^22, as numpy.rint does. */
static inline float nearest_integer(float x) { return (x + 12582912.0f) - 12582912.0f; }

typedef struct {
    float cost[2][MOST_STATES];   /* of the branches of either parity that leave a state */
    float symbol[2][MOST_STATES]; /* what they carry, in half steps */
    float wish[MOST_STATES];      /* the value after feedback from the same row */
} Branches;

/* past: [k][states] errors of the row so far. */
CLONES static void branch(Branches *b, const float *past, const float *pull, int k, float value, float weight,
                          const float *prices, float worth, int states) {
    for (int s = 0; s < states; s++) b->wish[s] = value;
    for (int i = 0; i < k; i++)
        for (int s = 0; s < states; s++) b->wish[s] -= past[(size_t)i * states + s] * pull[i];
    for (int parity = 0; parity < 2; parity++)
        for (int s = 0; s < states; s++) {
            float half = (float)(s & 1), coset = half + 2.0f * (float)parity, wish = b->wish[s];
            float near = nearest_integer((wish - coset) * 0.25f) * 4.0f + coset;
            float inner = near + (wish > 0.0f ? -4.0f : 4.0f);
            int place = (int)((near - half) * 0.5f), place_inner = (int)((inner - half) * 0.5f);
            place = place < -126 ? -126 : place > 126 ? 126 : place;
            place_inner = place_inner < -126 ? -126 : place_inner > 126 ? 126 : place_inner;
            int row = (s & 1) * 256 + 128;
            float gap = (wish - near) * weight, gap_inner = (wish - inner) * weight;
            float cost = gap * gap + worth * prices[row + place];
            float cost_inner = gap_inner * gap_inner + worth * prices[row + place_inner];
            b->cost[parity][s] = cost_inner < cost ? cost_inner : cost;
            b->symbol[parity][s] = cost_inner < cost ? inner : near;
        }
}

static PyObject *search(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer values, depths, pulls, weights, entries, prices, symbols, errors;
    float worth;
    int most, states, always, chosen;
    if (!PyArg_ParseTuple(args, "y*y*y*y*y*y*fiiiiw*w*", &values, &depths, &pulls, &weights, &entries, &prices, &worth,
                          &most, &states, &always, &chosen, &symbols, &errors))
        return NULL;
    Py_ssize_t count = values.len / 4, priced = prices.len / 4;
    int fits = most >= 1 && states >= 2 && states <= MOST_STATES && depths.len >= 4 * count && weights.len >= 4 * count &&
               pulls.len >= 4 * count * most && entries.len >= 4 * count && symbols.len >= 4 * count && errors.len >= 4 * count;
    const float *value = values.buf, *pull = pulls.buf, *weight = weights.buf, *price = prices.buf;
    const int32_t *depth = depths.buf, *entry = entries.buf;
    int32_t *out = symbols.buf;
    float *missed = errors.buf;
    for (Py_ssize_t t = 0; fits && t < count; t++)
        fits = depth[t] >= 0 && depth[t] < most && entry[t] >= 0 && entry[t] + 512 <= priced;
    float *past = calloc(2 * (size_t)states * most, sizeof(float)), *row = calloc(most, sizeof(float));
    uint8_t *from = malloc((size_t)count * states + 1);
    int16_t *carried = malloc(sizeof(int16_t) * ((size_t)count * states + 1));
    int failed = !fits || !past || !row || !from || !carried;
    if (!failed) {
        Py_BEGIN_ALLOW_THREADS
        Branches b;
        float cost[MOST_STATES], next[MOST_STATES], wrong[MOST_STATES];
        float *now = past, *then = past + (size_t)states * most;
        for (int s = 0; s < states; s++) cost[s] = s ? FAR : 0.0f;
        for (Py_ssize_t t = 0; t < count; t++) {
            int k = depth[t];
            branch(&b, now, pull + t * most, k, value[t], weight[t], price + entry[t], worth, states);
            uint8_t *source = from + t * states;
            int16_t *take = carried + t * states;
            for (int s = 0; s < states; s++) next[s] = 2 * FAR;
            for (int s = 0; s < states; s++)
                for (int parity = 0; parity < 2; parity++) {
                    int to = (s >> 1) ^ ((s & 1) ? always : 0) ^ (parity ? chosen : 0);
                    float total = cost[s] + b.cost[parity][s];
                    if (total < next[to]) {
                        next[to] = total;
                        source[to] = (uint8_t)s;
                        take[to] = (int16_t)b.symbol[parity][s];
                        wrong[to] = (b.wish[s] - b.symbol[parity][s]) * weight[t];
                    }
                }
            if (t + 1 < count && depth[t + 1]) {
                for (int i = 0; i < k; i++)
                    for (int s = 0; s < states; s++) then[(size_t)i * states + s] = now[(size_t)i * states + source[s]];
                for (int s = 0; s < states; s++) then[(size_t)k * states + s] = wrong[s];
                float *other = now;
                now = then;
                then = other;
            }
            float least = next[0];
            for (int s = 1; s < states; s++) least = next[s] < least ? next[s] : least;
            for (int s = 0; s < states; s++) cost[s] = next[s] - least;
        }
        int state = 0;
        for (int s = 1; s < states; s++) state = cost[s] < cost[state] ? s : state;
        for (Py_ssize_t t = count - 1; t >= 0; t--) {
            out[t] = carried[t * states + state];
            state = from[t * states + state];
        }
        for (Py_ssize_t t = 0; t < count; t++) {
            float wish = value[t];
            for (int i = 0; i < depth[t]; i++) wish -= row[i] * pull[t * most + i];
            missed[t] = row[depth[t]] = (wish - (float)out[t]) * weight[t];
        }
        Py_END_ALLOW_THREADS
    }
    free(past);
    free(row);
    free(from);
    free(carried);
    PyBuffer_Release(&values);
    PyBuffer_Release(&depths);
    PyBuffer_Release(&pulls);
    PyBuffer_Release(&weights);
    PyBuffer_Release(&entries);
    PyBuffer_Release(&prices);
    PyBuffer_Release(&symbols);
    PyBuffer_Release(&errors);
    if (!fits) PyErr_SetString(PyExc_ValueError, "buffers do not fit together");
    else if (failed) PyErr_NoMemory();
    if (failed) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"search", search, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_paths", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__paths(void) { return PyModule_Create(&module); }
