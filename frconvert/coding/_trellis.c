/* The compiled twin of the search in trellis.py: the same float32 operations in the same order. */
#include "_native.h"

#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>
#define X86 1
#endif

#define GROUP 16 /* lanes searched side by side */

/* Round half to even for magnitudes below 2^22, as numpy.rint does. */
static inline float nearest_integer(float x) { return (x + 12582912.0f) - 12582912.0f; }

static inline float candidate(float target, float coset) {
    float turns = nearest_integer((target - coset) * 0.25f);
    return turns * 4.0f + coset;
}

/* One step of the Viterbi algorithm for GROUP lanes: new costs by state, and for which lanes the branch of odd parity
 * was the better one (a bit a lane). Branches stand in order of their coset. All versions add and compare alike. */
typedef void forward_step(const float *cost, float *next, const float *branch, uint16_t *turned, int half, int always,
                          int chosen);

#define FOR_EACH_STATE(...)                                                        \
    for (int quantiser = 0; quantiser < 2; quantiser++) {                          \
        const float *straight = branch + quantiser * GROUP;                        \
        const float *other = branch + (quantiser + 2) * GROUP;                     \
        (void)straight, (void)other;                                               \
        for (int r = 0; r < half; r++) {                                           \
            const float *a = cost + (2 * r + quantiser) * GROUP;                   \
            const float *b = cost + (2 * (r ^ chosen) + quantiser) * GROUP;        \
            float *to = next + (quantiser ? r ^ always : r) * GROUP;               \
            uint16_t *mark = turned + quantiser * half + r;                        \
            __VA_ARGS__                                                            \
        }                                                                          \
    }

static void forward_plain(const float *cost, float *next, const float *branch, uint16_t *turned, int half, int always,
                          int chosen) {
    FOR_EACH_STATE(
        unsigned bits = 0;
        for (int lane = 0; lane < GROUP; lane++) {
            float x = a[lane] + straight[lane];
            float y = b[lane] + other[lane];
            bits |= (unsigned)(y < x) << lane;
            to[lane] = y < x ? y : x;
        }
        *mark = (uint16_t)bits;)
}

#ifdef X86
__attribute__((target("avx2"))) static void forward_avx2(const float *cost, float *next, const float *branch,
                                                         uint16_t *turned, int half, int always, int chosen) {
    FOR_EACH_STATE(
        __m256 x0 = _mm256_add_ps(_mm256_loadu_ps(a), _mm256_loadu_ps(straight));
        __m256 x1 = _mm256_add_ps(_mm256_loadu_ps(a + 8), _mm256_loadu_ps(straight + 8));
        __m256 y0 = _mm256_add_ps(_mm256_loadu_ps(b), _mm256_loadu_ps(other));
        __m256 y1 = _mm256_add_ps(_mm256_loadu_ps(b + 8), _mm256_loadu_ps(other + 8));
        int low = _mm256_movemask_ps(_mm256_cmp_ps(y0, x0, _CMP_LT_OQ));
        int high = _mm256_movemask_ps(_mm256_cmp_ps(y1, x1, _CMP_LT_OQ));
        _mm256_storeu_ps(to, _mm256_min_ps(y0, x0));
        _mm256_storeu_ps(to + 8, _mm256_min_ps(y1, x1));
        *mark = (uint16_t)(low | high << 8);)
}

__attribute__((target("avx512f"))) static void forward_avx512(const float *cost, float *next, const float *branch,
                                                              uint16_t *turned, int half, int always, int chosen) {
    FOR_EACH_STATE(
        __m512 x = _mm512_add_ps(_mm512_loadu_ps(a), _mm512_loadu_ps(straight));
        __m512 y = _mm512_add_ps(_mm512_loadu_ps(b), _mm512_loadu_ps(other));
        *mark = (uint16_t)_mm512_cmp_ps_mask(y, x, _CMP_LT_OQ);
        _mm512_storeu_ps(to, _mm512_min_ps(y, x));)
}
#endif

static forward_step *forward = forward_plain;

void choose_forward(void) {
#ifdef X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        forward = forward_avx512;
    else if (__builtin_cpu_supports("avx2"))
        forward = forward_avx2;
#endif
}

static int search_group(const float *targets, const float *values, const int32_t *entries, const float *prices,
                        Py_ssize_t steps, Py_ssize_t lanes, Py_ssize_t first, int width, int states, int always,
                        int chosen, int32_t *symbols, uint8_t *quantisers, uint16_t *turned) {
    int half = states / 2;
    float costs[2][MOST_STATES * GROUP];
    float branch[4 * GROUP], target[GROUP], integer[GROUP];
    for (int i = 0; i < states * GROUP; i++) costs[0][i] = i < GROUP ? 0.0f : 1e30f;
    memset(target, 0, sizeof target);
    int now = 0;
    for (Py_ssize_t step = 0; step < steps; step++) {
        Py_ssize_t at = step * lanes + first;
        memcpy(target, targets + at, (size_t)width * sizeof(float));
        for (int coset = 0; coset < 4; coset++) {
            for (int lane = 0; lane < GROUP; lane++) integer[lane] = candidate(target[lane], (float)coset);
            float *price = branch + coset * GROUP;
            if (!entries) {
                for (int lane = 0; lane < GROUP; lane++) {
                    float gap = target[lane] - integer[lane];
                    price[lane] = gap * gap;
                }
                continue;
            }
            int half_way = coset & 1;
            for (int lane = 0; lane < width; lane++) {
                int32_t entry = (int32_t)((integer[lane] - (float)half_way) * 0.5f);
                entry = entry < -128 ? -128 : entry > 127 ? 127 : entry;
                float gap = values[at + lane] - integer[lane];
                gap *= gap;
                price[lane] = gap + prices[entry + entries[at + lane] + 128 + 256 * half_way];
            }
            for (int lane = width; lane < GROUP; lane++) price[lane] = 0.0f;
        }
        forward(costs[now], costs[1 - now], branch, turned + step * states, half, always, chosen);
        now = 1 - now;
    }
    for (int lane = 0; lane < width; lane++) {
        int state = 0;
        for (int other = 1; other < states; other++)
            if (costs[now][other * GROUP + lane] < costs[now][state * GROUP + lane]) state = other;
        for (Py_ssize_t step = steps - 1; step >= 0; step--) {
            int quantiser = state >= half;
            if (quantiser) state ^= always;
            int parity = turned[step * states + quantiser * half + state] >> lane & 1;
            Py_ssize_t at = step * lanes + first + lane;
            float whole = candidate(targets[at], (float)(quantiser + 2 * parity));
            symbols[at] = ((int32_t)whole - quantiser) >> 1;
            quantisers[at] = (uint8_t)quantiser;
            state = 2 * (state ^ (parity ? chosen : 0)) + quantiser;
        }
    }
    return 0;
}

/* Whether every price list that the entries name lies inside the prices. */
static int lists_are_inside(const int32_t *entries, Py_ssize_t count, Py_ssize_t prices) {
    for (Py_ssize_t at = 0; at < count; at++)
        if (entries[at] < 0 || entries[at] + 512 > prices) return 0;
    return 1;
}

static int too_short(const Py_buffer *view, Py_ssize_t bytes) {
    if (view->len >= bytes) return 0;
    PyErr_SetString(PyExc_ValueError, "a buffer is too short");
    return 1;
}

/* search(targets, values, entries, prices, steps, lanes, state_bits, always, chosen, symbols, quantisers); empty
 * entries mean squared distances alone. */
PyObject *search(PyObject *self, PyObject *args) {
    Py_buffer targets, values, entries, prices, symbols, quantisers;
    Py_ssize_t steps, lanes;
    int state_bits, always, chosen;
    if (!PyArg_ParseTuple(args, "y*y*y*y*nniiiw*w*", &targets, &values, &entries, &prices, &steps, &lanes,
                          &state_bits, &always, &chosen, &symbols, &quantisers))
        return NULL;
    int failed = 1;
    Py_ssize_t count = steps * lanes;
    int states = 1 << state_bits;
    if (state_bits < 3 || state_bits > 7 || always >= states || chosen >= states / 2 || steps < 0 || lanes < 0) {
        PyErr_SetString(PyExc_ValueError, "no such trellis");
    } else if (!too_short(&targets, 4 * count) && !too_short(&symbols, 4 * count) &&
               !too_short(&quantisers, count) &&
               (!entries.len || (!too_short(&entries, 4 * count) && !too_short(&values, 4 * count) &&
                                 (lists_are_inside(entries.buf, count, prices.len / 4) ||
                                  too_short(&prices, PY_SSIZE_T_MAX))))) {
        uint16_t *turned = malloc((size_t)(steps ? steps : 1) * (size_t)states * sizeof(uint16_t));
        if (!turned) {
            PyErr_NoMemory();
        } else {
            Py_BEGIN_ALLOW_THREADS
            for (Py_ssize_t first = 0; first < lanes; first += GROUP) {
                int width = (int)(lanes - first < GROUP ? lanes - first : GROUP);
                search_group(targets.buf, values.buf, entries.len ? entries.buf : NULL, prices.buf, steps, lanes,
                             first, width, states, always, chosen, symbols.buf, quantisers.buf, turned);
            }
            Py_END_ALLOW_THREADS
            free(turned);
            failed = 0;
        }
    }
    PyBuffer_Release(&targets);
    PyBuffer_Release(&values);
    PyBuffer_Release(&entries);
    PyBuffer_Release(&prices);
    PyBuffer_Release(&symbols);
    PyBuffer_Release(&quantisers);
    if (failed) return NULL;
    Py_RETURN_NONE;
}

