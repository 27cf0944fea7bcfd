/* The compiled twin of sparse.py: the same integers, decision for decision. */
#include "_native.h"

enum { ONE = 65535, LEAST = 32, SLOWEST = 4095, MAGNITUDES = 6, LARGEST = 1 << 12, LARGEST_LOGIT = 2047, MOST_AXES = 64 };
static const int FIRST_WEIGHT = 45000, LARGEST_WEIGHT = 1 << 20;
static const int KNOTS[] = {1,    2,    3,    6,    10,   16,   27,   45,   73,   120,  194,
                            310,  488,  747,  1101, 1546, 2047, 2549, 2994, 3348, 3607, 3785,
                            3901, 3975, 4022, 4050, 4068, 4079, 4085, 4089, 4092, 4093, 4094};

typedef struct {
    int32_t probability, used;
} bit_model;

typedef struct {
    uint32_t low, high, value;
    int64_t decisions, budget;
    int reading, failed; /* failed: 1 the budget is spent, 2 no memory */
    const uint8_t *from;
    Py_ssize_t size, position;
    uint8_t *out;
    Py_ssize_t room;
} coder;

static int64_t floor_divided(int64_t a, int64_t b) { return a / b - (a % b < 0); } /* b > 0 */

static int squash(int64_t logit) {
    if (logit > LARGEST_LOGIT) return 4095;
    if (logit < -LARGEST_LOGIT) return 1;
    int low = (int)(logit >> 7) + 16, weight = (int)(logit & 127);
    int found = (KNOTS[low] * (128 - weight) + KNOTS[low + 1] * weight + 64) >> 7;
    return found > 1 ? found : 1;
}

static void update(bit_model *model, int bit) {
    int64_t moved = model->probability + (((int64_t)(bit ? ONE : 0) - model->probability) * (65536 / (model->used + 2)) >> 16);
    model->probability = (int32_t)(moved < LEAST ? LEAST : moved > ONE - LEAST ? ONE - LEAST : moved);
    if (model->used < SLOWEST) model->used++;
}

static int code(coder *c, int bit, int probability) {
    if (c->failed) return 0;
    if (c->reading && c->decisions == c->budget) {
        c->failed = 1;
        return 0;
    }
    uint32_t middle = c->low + ((c->high - c->low) >> 12) * (uint32_t)probability;
    if (c->reading) bit = c->value <= middle;
    if (bit)
        c->high = middle;
    else
        c->low = middle + 1;
    while (!((c->low ^ c->high) >> 24)) {
        if (c->reading) {
            c->value = c->value << 8 | (c->position < c->size ? c->from[c->position] : 0);
        } else {
            if (c->position == c->room) {
                Py_ssize_t room = 2 * c->room + 1024;
                uint8_t *more = realloc(c->out, (size_t)room);
                if (!more) {
                    c->failed = 2;
                    return 0;
                }
                c->out = more;
                c->room = room;
            }
            c->out[c->position] = (uint8_t)(c->high >> 24);
        }
        c->position++;
        c->low <<= 8;
        c->high = c->high << 8 | 255;
    }
    c->decisions++;
    return bit;
}

static int learn(coder *c, int bit, bit_model *model) {
    int probability = model->probability >> 4;
    bit = code(c, bit, probability < 1 ? 1 : probability > 4095 ? 4095 : probability);
    update(model, bit);
    return bit;
}

static int32_t code_number(coder *c, int32_t value, bit_model *magnitudes) {
    int negative = code(c, value < 0, 2048);
    int32_t magnitude = 1, given = value < 0 ? -value : value;
    while (magnitude < LARGEST && !c->failed) {
        bit_model *context = magnitudes + (magnitude < MAGNITUDES ? magnitude : MAGNITUDES) - 1;
        if (!learn(c, given > magnitude, context)) break;
        magnitude++;
    }
    return negative ? -magnitude : magnitude;
}

/* Marks the live indices of all axes, one axis after another: those at which there is a number other than 0. */
static void mark_live(const int32_t *values, int64_t count, const int64_t *lengths, int rank, uint8_t *live) {
    int64_t place[MOST_AXES] = {0};
    for (int64_t cell = 0; cell < count; cell++) {
        if (values[cell]) {
            uint8_t *of_axis = live;
            for (int axis = 0; axis < rank; of_axis += lengths[axis++]) of_axis[place[axis]] = 1;
        }
        for (int axis = rank - 1; axis >= 0 && ++place[axis] == lengths[axis]; axis--) place[axis] = 0;
    }
}

/* Codes one tensor; a decoder finds it zero and fills it. Scratch holds, for each index of each axis, a flag and a
 * number of a live index, and models of the live indices. */
static void code_tensor(coder *c, int32_t *values, const int64_t *lengths, int rank, const int32_t *stretch,
                        uint8_t *flags, int64_t *indices, bit_model *models) {
    int64_t count = 1, lives[MOST_AXES], first[MOST_AXES], strides[MOST_AXES], place[MOST_AXES] = {0}, total = 0;
    for (int axis = rank - 1; axis >= 0; axis--) {
        strides[axis] = count;
        count *= lengths[axis];
    }
    if (!c->reading) mark_live(values, count, lengths, rank, flags);
    int empty = 0;
    for (int axis = 0; axis < rank; axis++) {
        bit_model contexts[2] = {{1 << 15, 0}, {1 << 15, 0}};
        int before = 1;
        first[axis] = total;
        lives[axis] = 0;
        for (int64_t index = 0; index < lengths[axis] && !c->failed; index++) {
            if (lengths[axis] > 1) before = learn(c, flags[index], contexts + before);
            if (before) indices[total + lives[axis]++] = index;
        }
        flags += lengths[axis];
        total += lives[axis];
        empty |= !lives[axis];
    }
    if (empty || c->failed) return;
    for (int64_t number = 0; number < total; number++) models[number].used = -1;
    int64_t weights[MOST_AXES + 1] = {0}, inputs[MOST_AXES + 1] = {256};
    int longs[MOST_AXES], long_count = 0;
    for (int axis = 0; axis < rank; axis++)
        if (lives[axis] > 1) longs[long_count++] = axis;
    for (int number = 1; number <= long_count; number++) weights[number] = FIRST_WEIGHT;
    bit_model whole = {1 << 15, 0}, magnitudes[MAGNITUDES];
    for (int number = 0; number < MAGNITUDES; number++) magnitudes[number] = (bit_model){1 << 15, 0};
    for (int ended = 0; !ended && !c->failed;) {
        int64_t cell = 0, base = stretch[whole.probability >> 4], sum = weights[0] * inputs[0];
        for (int axis = 0; axis < rank; axis++) cell += indices[first[axis] + place[axis]] * strides[axis];
        for (int number = 0; number < long_count; number++) {
            bit_model *own = models + first[longs[number]] + place[longs[number]];
            if (own->used < 0) *own = (bit_model){whole.probability, 0};
            inputs[number + 1] = floor_divided((stretch[own->probability >> 4] - base) * own->used, own->used + 1);
            sum += weights[number + 1] * inputs[number + 1];
        }
        int probability = squash(base + (sum >> 16));
        int bit = code(c, values[cell] != 0, probability);
        int64_t error = 2 * ((bit << 12) - probability);
        for (int number = 0; number <= long_count; number++) {
            int64_t weight = weights[number] + ((inputs[number] * error + 512) >> 10);
            weights[number] = weight < -LARGEST_WEIGHT ? -LARGEST_WEIGHT : weight > LARGEST_WEIGHT ? LARGEST_WEIGHT : weight;
        }
        update(&whole, bit);
        for (int number = 0; number < long_count; number++) update(models + first[longs[number]] + place[longs[number]], bit);
        if (bit) values[cell] = code_number(c, values[cell], magnitudes);
        int axis = rank - 1;
        for (; axis >= 0 && ++place[axis] == lives[axis]; axis--) place[axis] = 0;
        ended = axis < 0;
    }
}

/* Codes all tensors; sizes are checked. */
static void code_all(coder *c, const int64_t *ranks, Py_ssize_t tensors, const int64_t *lengths, int32_t *values,
                     const int32_t *stretch, int64_t most) {
    size_t size = (size_t)(most ? most : 1);
    uint8_t *flags = malloc(size);
    int64_t *indices = malloc(size * sizeof(int64_t));
    bit_model *models = malloc(size * sizeof(bit_model));
    if (!flags || !indices || !models) c->failed = 2;
    for (Py_ssize_t tensor = 0; tensor < tensors && !c->failed; tensor++) {
        int rank = (int)ranks[tensor];
        int64_t count = 1;
        memset(flags, 0, size);
        code_tensor(c, values, lengths, rank, stretch, flags, indices, models);
        for (int axis = 0; axis < rank; axis++) count *= lengths[axis];
        values += count;
        lengths += rank;
    }
    free(flags);
    free(indices);
    free(models);
}

/* The largest sum of the lengths of a tensor's axes; -1 where the sizes do not fit together. */
static int64_t checked(const Py_buffer *ranks, const Py_buffer *lengths, const Py_buffer *values,
                       const Py_buffer *stretch) {
    const int64_t *rank = ranks->buf, *length = lengths->buf;
    int64_t most = 0, cells = 0, axes = 0, room = values->len / 4;
    if (stretch->len < 4096 * 4) return -1;
    for (Py_ssize_t tensor = 0; tensor < ranks->len / 8; tensor++) {
        int64_t sum = 0, count = 1;
        if (rank[tensor] < 0 || rank[tensor] > MOST_AXES || axes + rank[tensor] > lengths->len / 8) return -1;
        for (int64_t axis = 0; axis < rank[tensor]; axis++) {
            int64_t of = length[axes + axis];
            if (of < 0 || of > ((int64_t)1 << 32) || (of && count > ((int64_t)1 << 62) / of)) return -1;
            count *= of;
            sum += of;
        }
        if (count > room - cells) return -1;
        cells += count;
        axes += rank[tensor];
        if (sum > most) most = sum;
    }
    return most;
}

static PyObject *failure(const coder *c) {
    return c->failed == 2 ? PyErr_NoMemory() : NULL;
}

/* sparse_encode(ranks, lengths, values, stretches) -> bytes, number of decisions */
PyObject *sparse_encode(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer ranks, lengths, values, stretch;
    if (!PyArg_ParseTuple(args, "y*y*w*y*", &ranks, &lengths, &values, &stretch)) return NULL;
    PyObject *result = NULL;
    coder c = {.high = 0xFFFFFFFFu};
    int64_t most = checked(&ranks, &lengths, &values, &stretch);
    if (most < 0) {
        PyErr_SetString(PyExc_ValueError, "sizes that do not fit together");
    } else {
        Py_BEGIN_ALLOW_THREADS
        code_all(&c, ranks.buf, ranks.len / 8, lengths.buf, values.buf, stretch.buf, most);
        Py_END_ALLOW_THREADS
        if (c.failed) {
            failure(&c);
        } else {
            /* The fewest bytes that, with zeros after them, lie in the interval. */
            uint8_t last[4] = {0};
            int count = 0;
            for (; count < 5; count++) {
                uint64_t unit = (uint64_t)1 << (32 - 8 * count), value = (c.low + unit - 1) / unit * unit;
                if (value > c.high) continue;
                for (int byte = 0; byte < count; byte++) last[byte] = (uint8_t)(value >> (24 - 8 * byte));
                break;
            }
            Py_ssize_t size = c.position + count;
            uint8_t *joined = malloc((size_t)size + 1);
            if (!joined) {
                PyErr_NoMemory();
            } else {
                if (c.position) memcpy(joined, c.out, (size_t)c.position);
                memcpy(joined + c.position, last, (size_t)count);
                while (size && !joined[size - 1]) size--;
                result = Py_BuildValue("y#L", joined, size, (long long)c.decisions);
                free(joined);
            }
        }
    }
    free(c.out);
    PyBuffer_Release(&ranks);
    PyBuffer_Release(&lengths);
    PyBuffer_Release(&values);
    PyBuffer_Release(&stretch);
    return result;
}

/* sparse_decode(ranks, lengths, values, stretches, payload, budget): fills the values, which are 0. Returns the number
 * of bytes that were read, those beyond the payload included, or -1 where the budget of decisions is spent. */
PyObject *sparse_decode(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer ranks, lengths, values, stretch, payload;
    long long budget;
    if (!PyArg_ParseTuple(args, "y*y*w*y*y*L", &ranks, &lengths, &values, &stretch, &payload, &budget)) return NULL;
    PyObject *result = NULL;
    coder c = {.high = 0xFFFFFFFFu, .reading = 1, .budget = budget, .from = payload.buf, .size = payload.len, .position = 4};
    for (Py_ssize_t byte = 0; byte < 4; byte++) c.value = c.value << 8 | (byte < c.size ? c.from[byte] : 0);
    int64_t most = checked(&ranks, &lengths, &values, &stretch);
    if (most < 0) {
        PyErr_SetString(PyExc_ValueError, "sizes that do not fit together");
    } else {
        Py_BEGIN_ALLOW_THREADS
        code_all(&c, ranks.buf, ranks.len / 8, lengths.buf, values.buf, stretch.buf, most);
        Py_END_ALLOW_THREADS
        if (c.failed == 2)
            failure(&c);
        else
            result = PyLong_FromSsize_t(c.failed ? -1 : c.position);
    }
    PyBuffer_Release(&ranks);
    PyBuffer_Release(&lengths);
    PyBuffer_Release(&values);
    PyBuffer_Release(&stretch);
    PyBuffer_Release(&payload);
    return result;
}
