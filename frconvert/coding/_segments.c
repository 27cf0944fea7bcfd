/* The compiled twins of the loops of segments.py and choice.py: the same integers and float32 operations. */
#include "_native.h"

#define CLASSES 112
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
PyObject *decode_segment(PyObject *self, PyObject *args) {
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
PyObject *settle(PyObject *self, PyObject *args) {
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
PyObject *shrink(PyObject *self, PyObject *args) {
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

