/* The compiled twins of the loops of rows.py, lanes.py and symbols.py: the same integers. */
#include "_native.h"

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

/* One step of `width` lanes whose rows are known: their symbols. Returns the new position in the words, or -1. */
Py_ssize_t step_symbols(uint32_t *restrict state, const uint32_t *restrict cells,
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

/* encode(symbols, rows, row_of, frequency, start, state, steps, words): codes symbols [0, steps * lanes) from the last to
 * the first and returns the number of words, which stand at the end of the buffer in the order they are read. The row
 * of each symbol is given, or, if row_of is not empty, it is that of its class, and `rows` are classes of one byte. */
PyObject *encode(PyObject *self, PyObject *args) {
    Py_buffer symbols, selectors, row_of, frequency, start, state, words;
    Py_ssize_t steps, written = -1;
    if (!PyArg_ParseTuple(args, "y*y*y*y*y*w*nw*", &symbols, &selectors, &row_of, &frequency, &start, &state, &steps,
                          &words))
        return NULL;
    Py_ssize_t lanes = state.len / 4, count = symbols.len, room = words.len / 2;
    Py_ssize_t end = steps * lanes < count ? steps * lanes : count;
    if (steps < 0 || !lanes || room <= end || start.len < frequency.len || (row_of.len && row_of.len < 2 * 256) ||
        selectors.len < (row_of.len ? count : 2 * count)) {
        PyErr_SetString(PyExc_ValueError, "a buffer is too short");
    } else {
        const uint8_t *symbol = symbols.buf, *of = selectors.buf;
        const uint16_t *row = selectors.buf, *by_class = row_of.len ? row_of.buf : NULL;
        const uint32_t *f = frequency.buf, *s = start.buf, rows = (uint32_t)(frequency.len / 4);
        uint32_t *x = state.buf;
        uint16_t *to = (uint16_t *)words.buf + room; /* one place more is written to than is used: see room */
        int bad = 0;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t step = steps - 1; step >= 0 && !bad; step--) {
            Py_ssize_t first = step * lanes, width = end - first < lanes ? end - first : lanes;
            for (Py_ssize_t lane = width - 1; lane >= 0; lane--) {
                Py_ssize_t at = first + lane;
                uint32_t cell = (uint32_t)(by_class ? by_class[of[at]] : row[at]) << 8 | symbol[at];
                if (cell >= rows || !f[cell]) {
                    bad = 1;
                    break;
                }
                uint32_t value = x[lane], share = f[cell], spills = value >= share << 20; /* better without a branch */
                to[-1] = (uint16_t)value;
                to -= spills;
                value >>= 16 * spills;
                x[lane] = value + (value / share) * (4096 - share) + s[cell];
            }
        }
        Py_END_ALLOW_THREADS
        if (bad)
            PyErr_SetString(PyExc_ValueError, "a symbol without a frequency");
        else
            written = (uint16_t *)words.buf + room - to;
    }
    PyBuffer_Release(&symbols);
    PyBuffer_Release(&selectors);
    PyBuffer_Release(&row_of);
    PyBuffer_Release(&frequency);
    PyBuffer_Release(&start);
    PyBuffer_Release(&state);
    PyBuffer_Release(&words);
    return written < 0 ? NULL : PyLong_FromSsize_t(written);
}

/* decode(words, state, classes, row_of, table, symbols): symbols in steps of all lanes, each by the row of its class.
 * Returns the number of words read, or -1 where they run out. */
PyObject *decode(PyObject *self, PyObject *args) {
    Py_buffer words, state, classes, row_of, table, symbols;
    if (!PyArg_ParseTuple(args, "y*w*y*y*y*w*", &words, &state, &classes, &row_of, &table, &symbols)) return NULL;
    Py_ssize_t lanes = state.len / 4, count = classes.len, rows = table.len / 4 / 4096, position = -2;
    uint32_t *first_cell = malloc((size_t)(lanes + 1) * sizeof(uint32_t));
    if (!first_cell) {
        PyErr_NoMemory();
    } else if (!lanes || symbols.len < count || row_of.len < 2 * 256) {
        PyErr_SetString(PyExc_ValueError, "a buffer is too short");
    } else {
        const uint8_t *of = classes.buf;
        const uint16_t *row = row_of.buf;
        uint32_t cell_of[256];
        int seen[256] = {0}, bad = 0;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t at = 0; at < count; at++) seen[of[at]] = 1;
        for (int number = 0; number < 256; number++) {
            bad |= seen[number] && row[number] >= rows;
            cell_of[number] = (uint32_t)row[number] * 4096;
        }
        position = bad ? -2 : 0;
        for (Py_ssize_t first = 0; first < count && position >= 0; first += lanes) {
            Py_ssize_t width = count - first < lanes ? count - first : lanes;
            for (Py_ssize_t lane = 0; lane < width; lane++) first_cell[lane] = cell_of[of[first + lane]];
            position = step_symbols(state.buf, table.buf, first_cell, (uint8_t *)symbols.buf + first, width, words.buf,
                                    position, words.len / 2, 1);
        }
        Py_END_ALLOW_THREADS
        if (position == -2) PyErr_SetString(PyExc_ValueError, "no such row");
    }
    free(first_cell);
    PyBuffer_Release(&words);
    PyBuffer_Release(&state);
    PyBuffer_Release(&classes);
    PyBuffer_Release(&row_of);
    PyBuffer_Release(&table);
    PyBuffer_Release(&symbols);
    return position == -2 ? NULL : PyLong_FromSsize_t(position);
}

/* decode_running(words, state, table, pull, row_of, down, rate, start, symbols): symbols in steps of all lanes, each by
 * the row of its lane's running mean, a += (pull[symbol] - a) >> rate, row = row_of[a >> down]. Returns the number of
 * words read, or -1 where they run out. */
PyObject *decode_running(PyObject *self, PyObject *args) {
    Py_buffer words, state, table, pull, row_of, symbols;
    int down, rate, start;
    if (!PyArg_ParseTuple(args, "y*w*y*y*y*iiiw*", &words, &state, &table, &pull, &row_of, &down, &rate, &start,
                          &symbols))
        return NULL;
    Py_ssize_t lanes = state.len / 4, count = symbols.len, rows = table.len / 4 / 4096, places = row_of.len / 2;
    Py_ssize_t position = -2;
    int32_t *mean = malloc((size_t)(lanes + 1) * (sizeof(int32_t) + sizeof(uint32_t)));
    if (!mean) {
        PyErr_NoMemory();
    } else if (!lanes || pull.len < 256 * 4 || down < 0 || down > 30 || rate < 0 || rate > 30) {
        PyErr_SetString(PyExc_ValueError, "a buffer is too short");
    } else {
        const uint16_t *row = row_of.buf;
        const int32_t *strength = pull.buf;
        uint32_t *first_cell = (uint32_t *)(mean + lanes);
        position = 0;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t lane = 0; lane < lanes; lane++) mean[lane] = start;
        for (Py_ssize_t first = 0; first < count && position >= 0; first += lanes) {
            Py_ssize_t width = count - first < lanes ? count - first : lanes;
            uint8_t *symbol = (uint8_t *)symbols.buf + first;
            int bad = 0;
            for (Py_ssize_t lane = 0; lane < width; lane++) {
                int32_t place = mean[lane] >> down;
                int missing = place < 0 || place >= places || row[place] >= rows;
                bad |= missing;
                first_cell[lane] = missing ? 0 : (uint32_t)row[place] * 4096;
            }
            position = bad ? -2
                           : step_symbols(state.buf, table.buf, first_cell, symbol, width, words.buf, position,
                                          words.len / 2, 1);
            for (Py_ssize_t lane = 0; lane < width && position >= 0; lane++)
                mean[lane] += (strength[symbol[lane]] - mean[lane]) >> rate;
        }
        Py_END_ALLOW_THREADS
        if (position == -2) PyErr_SetString(PyExc_ValueError, "no such row");
    }
    free(mean);
    PyBuffer_Release(&words);
    PyBuffer_Release(&state);
    PyBuffer_Release(&table);
    PyBuffer_Release(&pull);
    PyBuffer_Release(&row_of);
    PyBuffer_Release(&symbols);
    return position == -2 ? NULL : PyLong_FromSsize_t(position);
}

/* trace(grid, lanes, shift, start, rate, classes): the classes a >> 12 of symbols in steps of all lanes, by their
 * lanes' running means, a += ((symbol << shift) - a) >> rate. */
PyObject *trace(PyObject *self, PyObject *args) {
    Py_buffer grid, classes;
    Py_ssize_t lanes;
    int shift, start, rate;
    if (!PyArg_ParseTuple(args, "y*niiiw*", &grid, &lanes, &shift, &start, &rate, &classes)) return NULL;
    int32_t *mean = malloc((size_t)(lanes > 0 ? lanes : 1) * sizeof(int32_t));
    int failed = 1;
    if (!mean) {
        PyErr_NoMemory();
    } else if (lanes < 1 || grid.len % lanes || classes.len < grid.len || shift < 0 || shift > 12 || rate < 0 ||
               rate > 30) {
        PyErr_SetString(PyExc_ValueError, "a buffer is too short");
    } else {
        failed = 0;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t lane = 0; lane < lanes; lane++) mean[lane] = start << shift;
        for (Py_ssize_t first = 0; first < grid.len; first += lanes) {
            const uint8_t *symbol = (const uint8_t *)grid.buf + first;
            uint8_t *of = (uint8_t *)classes.buf + first;
            for (Py_ssize_t lane = 0; lane < lanes; lane++) {
                of[lane] = (uint8_t)(mean[lane] >> 12);
                mean[lane] += (((int32_t)symbol[lane] << shift) - mean[lane]) >> rate;
            }
        }
        Py_END_ALLOW_THREADS
    }
    free(mean);
    PyBuffer_Release(&grid);
    PyBuffer_Release(&classes);
    if (failed) return NULL;
    Py_RETURN_NONE;
}

/* histogram(classes, symbols, counts): adds how often each class below 32 has each symbol, 32 * 256 int64. */
PyObject *histogram(PyObject *self, PyObject *args) {
    Py_buffer classes, symbols, counts;
    if (!PyArg_ParseTuple(args, "y*y*w*", &classes, &symbols, &counts)) return NULL;
    int failed = 1;
    if (classes.len < symbols.len || counts.len < 32 * 256 * 8) {
        PyErr_SetString(PyExc_ValueError, "a buffer is too short");
    } else {
        const uint8_t *of = classes.buf, *symbol = symbols.buf;
        int64_t *count = counts.buf;
        failed = 0;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t at = 0; at < symbols.len; at++) count[(of[at] & 31) << 8 | symbol[at]]++;
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&classes);
    PyBuffer_Release(&symbols);
    PyBuffer_Release(&counts);
    if (failed) return NULL;
    Py_RETURN_NONE;
}

