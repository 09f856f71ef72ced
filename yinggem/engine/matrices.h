/* How weights are kept: as floats, or rounded as they come in, or where they lie. */

static uint16_t to_half(float x) { /* the nearest bfloat16, of two the even one */
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* The largest absolute value of n finite numbers. Bits of floats without their sign are in the order of the floats, and
 * compilers compare integers side by side. */
static float largest_of(const float *x, int n) {
    int32_t most = 0;
    for (int k = 0; k < n; k++) {
        int32_t bits;
        memcpy(&bits, x + k, sizeof bits);
        bits &= INT32_MAX;
        most = bits > most ? bits : most;
    }
    float largest;
    memcpy(&largest, &most, sizeof largest);
    return largest;
}

/* The nearest integer of a number below 2 ** 22, of two the even one: as rintf, which is no instruction everywhere. */
static inline float nearest(float x) {
    const float shift = 12582912; /* 1.5 * 2 ** 23: floats of this size are integers */
    return x + shift - shift;
}

/* Keep a row of floats as `kind`: integers are rounded as yinggem/model/kernels/integer_matrix.py does. INT8 has one
 * scale; INT4 has a scale and a zero for every 32 columns, as bfloat16. */
static void round_row(Kind kind, int columns, const float *from, void *to, float *scale, uint16_t *group_scale, uint16_t *zero) {
    if (kind == FLOAT32) memcpy(to, from, (size_t)columns * sizeof(float));
    if (kind == BFLOAT16)
        for (int k = 0; k < columns; k++) ((uint16_t *)to)[k] = to_half(from[k]);
    if (kind == INT8) {
        float largest = largest_of(from, columns) / 127, divisor = largest < FLT_MIN ? FLT_MIN : largest;
        for (int k = 0; k < columns; k++) ((int8_t *)to)[k] = (int8_t)nearest(from[k] / divisor);
        *scale = divisor;
    }
    if (kind == INT4)
        for (int group = 0; group < columns / 32; group++, from += 32) {
            float low = from[0], high = from[0], most = FLT_MAX / 128;
            for (int k = 0; k < 32; k++) low = from[k] < low ? from[k] : low, high = from[k] > high ? from[k] : high;
            float step = fminf(fmaxf(high / 15 - low / 15, FLT_MIN), most);
            step = half_to_float(group_scale[group] = to_half(step));
            float middle = half_to_float(zero[group] = to_half(fminf(fmaxf(low + 8 * step, -most * 16), most * 16)));
            uint8_t integers[32];
            for (int k = 0; k < 32; k++) {
                float integer = nearest((from[k] - middle) / step) + 8;
                integers[k] = (uint8_t)(integer < 0 ? 0 : integer > 15 ? 15 : integer);
            }
            for (int k = 0; k < 16; k++) ((uint8_t *)to)[group * 16 + k] = (uint8_t)(integers[2 * k] | integers[2 * k + 1] << 4);
        }
}

/* Bytes of so many weights. */
static size_t bytes_of(Kind kind, int count) {
    static const size_t bits[] = {32, 16, 8, 4};
    return (size_t)count * bits[kind] / 8;
}

/* How many rows lie in memory that is lent: whole blocks of them, for behind the last one there is no padding. */
static int lent_rows(const Matrix *m) { return m->lent ? m->rows / ROWS * ROWS : 0; }

/* Room for a matrix: padding is zeros, and so are scales and biases; weights are whatever was there before. `lent`, or
 * NULL: (rows, pitch) weights that stay where they are, for as long as the matrix lives. */
static Status make_matrix(Matrix *m, Kind kind, int rows, int columns, const void *lent) {
    m->kind = kind, m->rows = rows, m->columns = columns, m->lent = lent != NULL;
    m->tall = padded(rows, ROWS), m->wide = padded(columns, PAD);
    m->pitch = bytes_of(kind, m->wide);
    m->group_pitch = 2 * (size_t)padded(m->wide / 32, 8);
    m->own = allocate((size_t)(m->tall - lent_rows(m)) * m->pitch);
    m->weights = lent ? lent : m->own;
    m->bias = zeros((size_t)m->tall * sizeof(float));
    if (kind == INT8) m->scale = zeros((size_t)m->tall * sizeof(float));
    if (kind == INT4) m->group_scale = zeros((size_t)m->tall * m->group_pitch * sizeof(uint16_t));
    if (!m->own || !m->bias || (kind == INT8 && !m->scale) || (kind == INT4 && !m->group_scale)) return NO_MEMORY;
    char *row = m->own, *padding = row + (size_t)(rows - lent_rows(m)) * m->pitch;
    size_t used = bytes_of(kind, columns);
    for (; used < m->pitch && row < padding; row += m->pitch) memset(row + used, 0, m->pitch - used);
    memset(padding, 0, (size_t)(m->tall - rows) * m->pitch);
    return OK;
}

/* Keep a row of what is given: floats, or numbers of the matrix's own kind with their scales. */
static void fill_row(Matrix *m, int row, Kind given, const void *weights, const void *scale, const void *zero) {
    size_t r = (size_t)row, bytes = bytes_of(given, m->columns), groups = (size_t)m->columns / 32;
    const void *from = (const char *)weights + r * bytes;
    char *to = row < lent_rows(m) ? NULL : (char *)m->own + (r - (size_t)lent_rows(m)) * m->pitch;
    float *row_scale = m->kind == INT8 ? m->scale + r : NULL;
    uint16_t *group_scale = m->kind == INT4 ? m->group_scale + r * m->group_pitch : NULL;
    uint16_t *group_zero = m->kind == INT4 ? group_scale + m->group_pitch / 2 : NULL;
    if (given != m->kind) round_row(m->kind, m->columns, from, to, row_scale, group_scale, group_zero);
    else if (to) memcpy(to, from, bytes);
    if (given == INT8) *row_scale = ((const float *)scale)[r];
    if (given == INT4) memcpy(group_scale, (const uint16_t *)scale + r * groups, groups * 2);
    if (given == INT4) memcpy(group_zero, (const uint16_t *)zero + r * groups, groups * 2);
}

/* Copy weights that are lent; where there is no memory for that, they stay where they are. */
static void move_matrix(Matrix *m) {
    size_t lent = (size_t)lent_rows(m) * m->pitch, all = (size_t)m->tall * m->pitch;
    char *own = m->lent ? allocate(all) : NULL;
    if (!own) return;
    memcpy(own, m->weights, lent), memcpy(own + lent, m->own, all - lent);
    free(m->own);
    m->weights = m->own = own, m->lent = 0;
}

static void free_matrix(Matrix *m) {
    free(m->own), free(m->bias), free(m->scale), free(m->group_scale);
    memset(m, 0, sizeof *m);
}

/* ---- What Python calls ---- */

enum { EMBEDDING, HEAD, QKV, OUTPUT, UP, DOWN };                          /* which matrix, */
enum { LAST_NORM, ATTENTION_NORM, MLP_NORM, QUERY_NORM, KEY_NORM };       /* which norm: as in engine.py */

/* A matrix, kept as `kind`, of floats (given FLOAT32) or of numbers of that kind with their scales. Weights may be NULL for
 * a tied head, which has a bias alone; the bias may be NULL. All are copied, but where the caller will `lend` the weights
 * until the engine is freed: those that lie as they would here stay where they are. */
int engine_matrix(Engine *e, int which, int layer, int kind, int given, const void *weights, const void *scale,
                  const void *zero, const float *bias, int lend) {
    const Shape *s = &e->shape;
    int qkv = (s->heads + 2 * s->kv_heads) * e->head_size, up = (s->activation == RELU2 ? 1 : 2) * s->inner;
    if (which < EMBEDDING || which > DOWN || layer < 0 || layer >= s->layers) return BAD_ARGUMENT;
    if (kind < FLOAT32 || kind > INT4 || (given != FLOAT32 && given != kind)) return BAD_ARGUMENT;
    Layer *l = e->layers + layer;
    Matrix *m = (Matrix *[]){&e->embedding, &e->head, &l->qkv, &l->output, &l->up, &l->down}[which];
    const int sizes[][2] = {{s->vocab, s->hidden}, {s->vocab, s->hidden}, {qkv, s->hidden}, {s->hidden, s->hidden},
                            {up, s->hidden}, {s->hidden, s->inner}};
    int rows = sizes[which][0], columns = sizes[which][1];
    if (kind == INT4 && columns % 32) return BAD_ARGUMENT;
    free_matrix(m);
    if (which == HEAD && !weights) {
        e->tied = 1;
        m->bias = floats((size_t)padded(rows, ROWS));
    } else if (make_matrix(m, (Kind)kind, rows, columns, lend && given == kind && columns % PAD == 0 ? weights : NULL)) return NO_MEMORY;
    if (!m->bias) return NO_MEMORY;
    if (bias) memcpy(m->bias, bias, (size_t)rows * sizeof(float));
    if (which == HEAD && !weights) return OK;
    for (int row = 0; row < rows; row++) fill_row(m, row, (Kind)given, weights, scale, zero);
    return OK;
}

/* Round (rows, columns) floats to the kind INT8, with a scale (rows) of floats, or to INT4, with scale and zero of
 * bfloat16 (rows, columns / 32): as engine_matrix does, and as it takes them. */
int engine_round(int kind, int rows, int columns, const float *from, void *to, void *scale, void *zero) {
    if (rows < 0 || columns < 1 || (kind != INT8 && (kind != INT4 || columns % 32))) return BAD_ARGUMENT;
    size_t bytes = bytes_of((Kind)kind, columns), groups = kind == INT4 ? (size_t)columns / 32 : 0;
    for (size_t row = 0; row < (size_t)rows; row++, from += columns) {
        uint16_t *group_scale = groups ? (uint16_t *)scale + row * groups : NULL, *group_zero = groups ? (uint16_t *)zero + row * groups : NULL;
        round_row((Kind)kind, columns, from, (char *)to + row * bytes, groups ? NULL : (float *)scale + row, group_scale, group_zero);
    }
    return OK;
}

int engine_norm(Engine *e, int which, int layer, const float *weight, const float *bias) {
    if (which < LAST_NORM || which > KEY_NORM || layer < 0 || layer >= e->shape.layers) return BAD_ARGUMENT;
    Layer *l = e->layers + layer;
    Norm *norm = (Norm *[]){&e->norm, &l->attention_norm, &l->mlp_norm, &l->query_norm, &l->key_norm}[which];
    size_t n = (size_t)(which >= QUERY_NORM ? e->head_size : e->shape.hidden);
    free(norm->weight), free(norm->bias);
    norm->centred = e->shape.layer_norm, norm->weight = floats(n), norm->bias = floats(n);
    if (!norm->weight || !norm->bias) return NO_MEMORY;
    memcpy(norm->weight, weight, n * sizeof(float));
    if (bias) memcpy(norm->bias, bias, n * sizeof(float));
    return OK;
}
