/* Compiled twins of the innermost loops of trellis.py, rows.py and lanes.py.
 *
 * Each function does what its numpy twin does, number for number: the same float32 operations in the same order,
 * the same integers. The module is optional; without it the package runs on numpy alone, only slower. Callers check
 * all sizes; the functions check again that no buffer is too short for what they are told to do.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "_sparse.h"

#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>
#define X86 1
#endif

#define GROUP 16 /* lanes searched side by side */
#define MOST_STATES 128

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

static void choose_forward(void) {
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
static PyObject *search(PyObject *self, PyObject *args) {
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

/* encode(index, frequency, start, state, steps, words): codes symbols [0, steps * lanes) from the last to the first
 * and returns the number of words, which stand at the end of the buffer in the order they are read. */
static PyObject *encode(PyObject *self, PyObject *args) {
    Py_buffer index, frequency, start, state, words;
    Py_ssize_t steps, written = -1;
    if (!PyArg_ParseTuple(args, "y*y*y*w*nw*", &index, &frequency, &start, &state, &steps, &words)) return NULL;
    Py_ssize_t lanes = state.len / 4, count = index.len / 4, room = words.len / 2;
    Py_ssize_t end = steps * lanes < count ? steps * lanes : count;
    if (steps < 0 || !lanes || room < end || start.len < frequency.len) {
        PyErr_SetString(PyExc_ValueError, "a buffer is too short");
    } else {
        const uint32_t *i = index.buf, *f = frequency.buf, *s = start.buf, rows = (uint32_t)(frequency.len / 4);
        uint32_t *x = state.buf;
        uint16_t *to = (uint16_t *)words.buf + room;
        int bad = 0;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t step = steps - 1; step >= 0 && !bad; step--) {
            Py_ssize_t first = step * lanes, width = end - first < lanes ? end - first : lanes;
            for (Py_ssize_t lane = width - 1; lane >= 0; lane--) {
                uint32_t cell = i[first + lane];
                if (cell >= rows || !f[cell]) {
                    bad = 1;
                    break;
                }
                uint32_t value = x[lane], share = f[cell];
                if (value >= share << 20) {
                    *--to = (uint16_t)value;
                    value >>= 16;
                }
                x[lane] = value + (value / share) * (4096 - share) + s[cell];
            }
        }
        Py_END_ALLOW_THREADS
        if (bad)
            PyErr_SetString(PyExc_ValueError, "a symbol without a frequency");
        else
            written = (uint16_t *)words.buf + room - to;
    }
    PyBuffer_Release(&index);
    PyBuffer_Release(&frequency);
    PyBuffer_Release(&start);
    PyBuffer_Release(&state);
    PyBuffer_Release(&words);
    return written < 0 ? NULL : PyLong_FromSsize_t(written);
}

/* Decodes one symbol of a lane by a row of 4096 cells; words refill the state where `refills`. Returns -1 where they
 * run out. Cells are frequency << 20 | offset << 8 | symbol. */
static inline int take_symbol(uint32_t *lane, const uint32_t *row, int refills, const uint16_t *words,
                              Py_ssize_t available, Py_ssize_t *position) {
    uint32_t cell = row[*lane & 4095];
    uint32_t value = (*lane >> 12) * (cell >> 20) + (cell >> 8 & 4095);
    if (refills && value < 65536) {
        if (*position >= available) return -1;
        value = value << 16 | words[(*position)++];
    }
    *lane = value;
    return (int)(cell & 255);
}

/* decode(words, state, rows, table, symbols): symbols in steps of all lanes, each by its row. Returns the number of
 * words read, or -1 where they run out. */
static PyObject *decode(PyObject *self, PyObject *args) {
    Py_buffer words, state, rows, table, symbols;
    Py_ssize_t position = 0;
    if (!PyArg_ParseTuple(args, "y*w*y*y*w*", &words, &state, &rows, &table, &symbols)) return NULL;
    Py_ssize_t lanes = state.len / 4, count = rows.len / 2, available = words.len / 2;
    int failed = 1;
    if (!lanes || symbols.len < count) {
        PyErr_SetString(PyExc_ValueError, "a buffer is too short");
    } else {
        const uint16_t *from = words.buf, *row = rows.buf;
        const uint32_t *cells = table.buf;
        Py_ssize_t last_row = table.len / 4 / 4096 - 1;
        uint32_t *x = state.buf;
        uint8_t *symbol = symbols.buf;
        int bad = 0;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t first = 0; first < count && !bad; first += lanes) {
            Py_ssize_t width = count - first < lanes ? count - first : lanes;
            for (Py_ssize_t lane = 0; lane < width; lane++) {
                if (row[first + lane] > last_row) {
                    bad = 1;
                    break;
                }
                const uint32_t *chosen = cells + (Py_ssize_t)row[first + lane] * 4096;
                int found = take_symbol(x + lane, chosen, 1, from, available, &position);
                if (found < 0) {
                    bad = 2;
                    break;
                }
                symbol[first + lane] = (uint8_t)found;
            }
        }
        Py_END_ALLOW_THREADS
        if (bad == 1) {
            PyErr_SetString(PyExc_ValueError, "no such row");
        } else {
            failed = 0;
            if (bad) position = -1;
        }
    }
    PyBuffer_Release(&words);
    PyBuffer_Release(&state);
    PyBuffer_Release(&rows);
    PyBuffer_Release(&table);
    PyBuffer_Release(&symbols);
    return failed ? NULL : PyLong_FromSsize_t(position);
}

#define CLASSES 112
#ifdef __GNUC__
#define ALWAYS_INLINE inline __attribute__((always_inline))
#else
#define ALWAYS_INLINE inline
#endif
#define MOST_RAW_BITS 21

/* What decoding a segment needs, see decode_segment. */
typedef struct {
    const uint16_t *words, *row_of, *bases;
    const int64_t *ends;
    const uint32_t *cells;
    const uint8_t *classes, *moves, *raw, *raw_bits;
    Py_ssize_t available, count, parts, lanes, rows, served, refill_end, states, raw_end;
    Py_ssize_t raw_at[MOST_RAW_BITS + 1]; /* where the next raw bits of each width are */
    int first_served, wide;
    uint32_t *state;
    int32_t *integers;
    uint8_t *place;                 /* trellis state of each lane */
    uint32_t *first_cell, *target;  /* of each lane in the present step: its row, and the place of its symbol */
    uint8_t *symbol;
} segment;

/* `width` bits from bit `at` on, most significant bit first. */
static uint32_t read_bits(const uint8_t *from, Py_ssize_t at, int width) {
    const uint8_t *next = from + (at >> 3);
    int have = 8 - (int)(at & 7);
    uint32_t value = *next & (0xFFu >> (at & 7));
    for (; have < width; have += 8) value = value << 8 | *++next;
    return value >> (have - width);
}

/* One step of `width` lanes whose rows are known: their symbols. Returns the new position in the words, or -1. */
static Py_ssize_t step_symbols(uint32_t *restrict state, const uint32_t *restrict cells,
                               const uint32_t *restrict first_cell, uint8_t *restrict symbol, Py_ssize_t width,
                               const uint16_t *restrict words, Py_ssize_t position, Py_ssize_t available, int refills) {
    if (!refills || position + width > available) {
        for (Py_ssize_t lane = 0; lane < width; lane++) {
            int found = take_symbol(state + lane, cells + first_cell[lane], refills, words, available, &position);
            if (found < 0) return -1;
            symbol[lane] = (uint8_t)found;
        }
        return position;
    }
    const uint16_t *next = words + position;
    for (Py_ssize_t lane = 0; lane < width; lane++) {
        uint32_t value = state[lane], cell = cells[first_cell[lane] + (value & 4095)];
        symbol[lane] = (uint8_t)cell;
        value = (value >> 12) * (cell >> 20) + (cell >> 8 & 4095);
        uint32_t low = value < 65536; /* as likely as not: better without a branch */
        state[lane] = value << (16 * low) | (*next & (0u - low));
        next += low;
    }
    return next - words;
}

/* Decodes the symbols [from, to), which are those that the trellis serves or those that it does not; if they are
 * `mixed`, those of the other kind lie between them. Returns the number of words read, -1 where they run out, -2 where
 * something is out of range. */
static ALWAYS_INLINE Py_ssize_t run_part(segment *s, Py_ssize_t from, Py_ssize_t to, Py_ssize_t position, const int trellis,
                                  const int mixed) {
    Py_ssize_t cursor = 0, part = -1, end = 0, lane = from % s->lanes;
    uint32_t cell_of[CLASSES], second[CLASSES]; /* first cell of the rows of each class, and the way to its second */
    const uint8_t *classes = s->classes;
    for (Py_ssize_t at = from, width; at < to; at += width, lane = 0) {
        width = s->lanes - lane < to - at ? s->lanes - lane : to - at;
        uint8_t *restrict place = s->place + lane, *restrict symbol = s->symbol;
        uint32_t *restrict first_cell = s->first_cell, *restrict target = s->target;
        int wide = 0;
        for (Py_ssize_t i = 0; i < width;) {
            while (mixed && cursor < s->count && (classes[cursor] >= s->first_served) != trellis) cursor++;
            while (cursor >= end) {
                if (++part >= s->parts) return -2;
                end = s->ends[part];
                for (int of = 0; of < CLASSES; of++) {
                    Py_ssize_t row = (Py_ssize_t)s->row_of[of] + s->bases[part];
                    int two = trellis && of < s->wide;
                    if (row + two >= s->rows) return -2;
                    cell_of[of] = (uint32_t)row * 4096;
                    second[of] = two ? 4096 : 0;
                }
            }
            Py_ssize_t run = mixed ? 1 : end - cursor < width - i ? end - cursor : width - i;
            for (Py_ssize_t stop = i + run; i < stop; i++, cursor++) {
                int of = classes[cursor];
                first_cell[i] = cell_of[of] + (trellis ? second[of] & (0u - (place[i] & 1u)) : 0);
                target[i] = (uint32_t)cursor;
                wide |= of >= s->wide;
            }
        }
        position = step_symbols(s->state + lane, s->cells, first_cell, symbol, width, s->words, position,
                                s->available, at < s->refill_end);
        if (position < 0) return -1;
        for (Py_ssize_t i = 0; i < width; i++) {
            int half = trellis ? place[i] & 1 : 0, parity = symbol[i] & 1;
            int32_t whole = symbol[i] - 128;
            if (wide) {
                int bits = s->raw_bits[classes[target[i]]];
                if (bits) {
                    uint32_t low = read_bits(s->raw, s->raw_at[bits], bits);
                    s->raw_at[bits] += bits;
                    whole = (int32_t)((uint32_t)whole << bits | low);
                    parity = low & 1;
                }
            }
            whole = 2 * whole + half;
            if (symbol[i] == 0 || symbol[i] == 255) whole = INT32_MIN | half << 1 | (symbol[i] & 1);
            s->integers[target[i]] = whole;
            if (trellis) place[i] = s->moves[2 * place[i] + parity];
        }
    }
    return position;
}

/* What run_part returns, for all symbols: first those that the trellis serves, then the others. */
static Py_ssize_t run_segment(segment *s) {
    if (s->served == s->count) return run_part(s, 0, s->count, 0, 1, 0);
    if (!s->served) return run_part(s, 0, s->count, 0, 0, 0);
    Py_ssize_t position = run_part(s, 0, s->served, 0, 1, 1);
    return position < 0 ? position : run_part(s, s->served, s->count, position, 0, 1);
}

/* Counts classes, and from them how many symbols are served and where the raw bits of each width begin; -2 where a
 * class is none or raw bits are missing. */
static int survey_segment(segment *s) {
    Py_ssize_t counts[256] = {0}, end = 0;
    uint32_t four[4][256] = {{0}}; /* neighbours are often of one class, and adding to one counter takes its time */
    for (Py_ssize_t at = 0; at < s->count; at++) four[at & 3][s->classes[at]]++;
    for (int of = 0; of < 256; of++) counts[of] = (Py_ssize_t)four[0][of] + four[1][of] + four[2][of] + four[3][of];
    for (int of = CLASSES; of < 256; of++)
        if (counts[of]) return -2;
    for (int width = 1; width <= MOST_RAW_BITS; width++) {
        s->raw_at[width] = end;
        for (int of = 0; of < CLASSES; of++)
            if (s->raw_bits[of] == width) end += width * counts[of];
    }
    for (int of = 0; of < CLASSES; of++) {
        if (of >= s->first_served && s->states) s->served += counts[of];
        if (s->raw_bits[of] > MOST_RAW_BITS && counts[of]) return -2;
    }
    return end > s->raw_end ? -2 : 0;
}

/* decode_segment(words, state, classes, row_of, bases, ends, table, moves, raw_bits, raw, first_served, wide,
 * drained_from, integers): the integers in half steps of a segment in C order, given the class of each, the row of
 * each class and, for each part of the segment, where it ends and what is added to its rows. Escaped symbols are the
 * least int32 with the quantiser bit in bit 1 and the parity of the symbol in bit 0. Returns the number of words
 * read, or -1 where they run out. */
static PyObject *decode_segment(PyObject *self, PyObject *args) {
    Py_buffer words, state, classes, row_of, bases, ends, table, moves, raw_bits, raw, integers;
    Py_ssize_t drained_from, position = -2;
    segment s = {0};
    if (!PyArg_ParseTuple(args, "y*w*y*y*y*y*y*y*y*y*iinw*", &words, &state, &classes, &row_of, &bases, &ends, &table,
                          &moves, &raw_bits, &raw, &s.first_served, &s.wide, &drained_from, &integers))
        return NULL;
    s.lanes = state.len / 4;
    s.count = classes.len;
    s.parts = ends.len / 8;
    s.states = moves.len / 2;
    void *scratch = calloc((size_t)s.lanes + 1, 10);
    if (!scratch) {
        PyErr_NoMemory();
    } else if (!s.lanes || s.count > UINT32_MAX || row_of.len < 2 * CLASSES || raw_bits.len < CLASSES || bases.len < 2 * s.parts ||
               integers.len < 4 * s.count || (s.states & (s.states - 1)) || s.states > MOST_STATES) {
        PyErr_SetString(PyExc_ValueError, "a buffer is too short");
    } else {
        s.words = words.buf;
        s.available = words.len / 2;
        s.state = state.buf;
        s.classes = classes.buf;
        s.row_of = row_of.buf;
        s.bases = bases.buf;
        s.ends = ends.buf;
        s.cells = table.buf;
        s.rows = table.len / 4 / 4096;
        s.moves = moves.buf;
        s.raw_bits = raw_bits.buf;
        s.raw = raw.buf;
        s.raw_end = 8 * raw.len;
        s.refill_end = drained_from * s.lanes;
        s.integers = integers.buf;
        s.first_cell = scratch;
        s.target = s.first_cell + s.lanes;
        s.place = (uint8_t *)(s.target + s.lanes);
        s.symbol = s.place + s.lanes;
        Py_BEGIN_ALLOW_THREADS
        position = survey_segment(&s);
        if (!position) position = run_segment(&s);
        Py_END_ALLOW_THREADS
        if (position == -2) PyErr_SetString(PyExc_ValueError, "no such class, row or raw bit");
    }
    free(scratch);
    PyBuffer_Release(&words);
    PyBuffer_Release(&state);
    PyBuffer_Release(&classes);
    PyBuffer_Release(&row_of);
    PyBuffer_Release(&bases);
    PyBuffer_Release(&ends);
    PyBuffer_Release(&table);
    PyBuffer_Release(&moves);
    PyBuffer_Release(&raw_bits);
    PyBuffer_Release(&raw);
    PyBuffer_Release(&integers);
    return position == -2 ? NULL : PyLong_FromSsize_t(position);
}

/* settle(whole, quantisers, classes, rows, raw_bits, lacks, wide, symbols, suspects): the symbols of integers, after
 * their raw bits are cut off, within the range of tables; the quantiser bits are added to the rows of narrow classes;
 * and a mark where the symbol has no place in its row or may stand for something beyond. */
static PyObject *settle(PyObject *self, PyObject *args) {
    Py_buffer whole, quantisers, classes, rows, raw_bits, lacks, symbols, suspects;
    int wide;
    if (!PyArg_ParseTuple(args, "y*y*y*w*y*y*iw*w*", &whole, &quantisers, &classes, &rows, &raw_bits, &lacks, &wide,
                          &symbols, &suspects))
        return NULL;
    Py_ssize_t count = classes.len, last_row = lacks.len / 256 - 1;
    int bad = 1;
    if (whole.len < 4 * count || quantisers.len < count || rows.len < 2 * count || raw_bits.len < CLASSES ||
        symbols.len < count || suspects.len < count) {
        PyErr_SetString(PyExc_ValueError, "a buffer is too short");
    } else {
        const int32_t *value = whole.buf;
        const uint8_t *half = quantisers.buf, *of = classes.buf, *cut = raw_bits.buf, *missing = lacks.buf;
        uint16_t *row = rows.buf;
        uint8_t *symbol = symbols.buf, *suspect = suspects.buf;
        bad = 0;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t at = 0; at < count; at++) {
            if (of[at] >= CLASSES) {
                bad = 1;
                break;
            }
            int32_t found = (value[at] >> cut[of[at]]);
            found = found < -127 ? 1 : found > 126 ? 254 : found + 128;
            row[at] = (uint16_t)(row[at] + (half[at] & (of[at] < wide)));
            if (row[at] > last_row) {
                bad = 1;
                break;
            }
            symbol[at] = (uint8_t)found;
            suspect[at] = missing[row[at] * 256 + found] || found == 1 || found == 254;
        }
        Py_END_ALLOW_THREADS
        if (bad) PyErr_SetString(PyExc_ValueError, "no such class or row");
    }
    PyBuffer_Release(&whole);
    PyBuffer_Release(&quantisers);
    PyBuffer_Release(&classes);
    PyBuffer_Release(&rows);
    PyBuffer_Release(&raw_bits);
    PyBuffer_Release(&lacks);
    PyBuffer_Release(&symbols);
    PyBuffer_Release(&suspects);
    if (bad) return NULL;
    Py_RETURN_NONE;
}

/* shrink(values, classes, slope, index, worth, constant, first, targets): magnitudes less what their bits are worth,
 * not below zero, with the signs of the values; see choice.py. */
static PyObject *shrink(PyObject *self, PyObject *args) {
    Py_buffer values, classes, slope, index, worth, constant, targets;
    int first;
    if (!PyArg_ParseTuple(args, "y*y*y*y*y*y*iw*", &values, &classes, &slope, &index, &worth, &constant, &first,
                          &targets))
        return NULL;
    Py_ssize_t count = classes.len, last = slope.len / 4 - 1;
    int bad = 1;
    if (values.len < 4 * count || targets.len < 4 * count || index.len < 4 * CLASSES || worth.len < 4 * CLASSES ||
        constant.len < 4 * CLASSES || last < 0) {
        PyErr_SetString(PyExc_ValueError, "a buffer is too short");
    } else {
        const float *value = values.buf, *slopes = slope.buf, *scale = index.buf, *bits = worth.buf,
                    *fixed = constant.buf;
        const uint8_t *of = classes.buf;
        float *target = targets.buf;
        bad = 0;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t at = 0; at < count; at++) {
            int number = of[at];
            if (number >= CLASSES) {
                bad = 1;
                break;
            }
            float magnitude = value[at] < 0 ? -value[at] : value[at];
            float place = magnitude * scale[number];
            float less = slopes[place < (float)last ? (Py_ssize_t)place : last] * bits[number];
            if (number < first) less = fixed[number];
            magnitude -= less;
            magnitude = magnitude > 0 ? magnitude : 0.0f;
            target[at] = value[at] < 0 ? -magnitude : magnitude;
        }
        Py_END_ALLOW_THREADS
        if (bad) PyErr_SetString(PyExc_ValueError, "no such class");
    }
    PyBuffer_Release(&values);
    PyBuffer_Release(&classes);
    PyBuffer_Release(&slope);
    PyBuffer_Release(&index);
    PyBuffer_Release(&worth);
    PyBuffer_Release(&constant);
    PyBuffer_Release(&targets);
    if (bad) return NULL;
    Py_RETURN_NONE;
}

/* decode_running(words, state, table, pull, row_of, down, rate, start, symbols): symbols in steps of all lanes, each by
 * the row of its lane's running mean, a += (pull[symbol] - a) >> rate, row = row_of[a >> down]. Returns the number of
 * words read, or -1 where they run out. */
static PyObject *decode_running(PyObject *self, PyObject *args) {
    Py_buffer words, state, table, pull, row_of, symbols;
    int down, rate, start;
    Py_ssize_t position = 0;
    if (!PyArg_ParseTuple(args, "y*w*y*y*y*iiiw*", &words, &state, &table, &pull, &row_of, &down, &rate, &start,
                          &symbols))
        return NULL;
    Py_ssize_t lanes = state.len / 4, count = symbols.len, available = words.len / 2;
    Py_ssize_t rows = table.len / 4 / 4096, places = row_of.len / 2;
    int failed = 1;
    int32_t *mean = malloc((size_t)(lanes ? lanes : 1) * sizeof(int32_t));
    if (!mean) {
        PyErr_NoMemory();
    } else if (!lanes || pull.len < 256 * 4 || down < 0 || down > 30 || rate < 0 || rate > 30) {
        PyErr_SetString(PyExc_ValueError, "a buffer is too short");
    } else {
        const uint16_t *from = words.buf, *row = row_of.buf;
        const uint32_t *cells = table.buf;
        const int32_t *strength = pull.buf;
        uint32_t *x = state.buf;
        uint8_t *symbol = symbols.buf;
        int bad = 0;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t lane = 0; lane < lanes; lane++) mean[lane] = start;
        for (Py_ssize_t first = 0; first < count && !bad; first += lanes) {
            Py_ssize_t width = count - first < lanes ? count - first : lanes;
            for (Py_ssize_t lane = 0; lane < width; lane++) {
                int32_t place = mean[lane] >> down;
                if (place < 0 || place >= places || row[place] >= rows) {
                    bad = 1;
                    break;
                }
                const uint32_t *chosen = cells + (Py_ssize_t)row[place] * 4096;
                int found = take_symbol(x + lane, chosen, 1, from, available, &position);
                if (found < 0) {
                    bad = 2;
                    break;
                }
                symbol[first + lane] = (uint8_t)found;
                mean[lane] += (strength[found] - mean[lane]) >> rate;
            }
        }
        Py_END_ALLOW_THREADS
        if (bad == 1) {
            PyErr_SetString(PyExc_ValueError, "no such row");
        } else {
            failed = 0;
            if (bad) position = -1;
        }
    }
    free(mean);
    PyBuffer_Release(&words);
    PyBuffer_Release(&state);
    PyBuffer_Release(&table);
    PyBuffer_Release(&pull);
    PyBuffer_Release(&row_of);
    PyBuffer_Release(&symbols);
    return failed ? NULL : PyLong_FromSsize_t(position);
}

static PyMethodDef methods[] = {
    {"search", search, METH_VARARGS, NULL},
    {"encode", encode, METH_VARARGS, NULL},
    {"decode", decode, METH_VARARGS, NULL},
    {"decode_running", decode_running, METH_VARARGS, NULL},
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
    return PyModule_Create(&module);
}
