/* How weights are kept: as floats, or rounded as they come in. */

static uint16_t to_half(float x) { /* the nearest bfloat16, of two the even one */
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Round a row of floats as yinggem/model/kernels/integer_matrix.py does. */
static void round_row(Matrix *m, int row, const float *from) {
    void *to = (char *)m->weights + (size_t)row * m->pitch;
    int columns = m->columns;
    if (m->kind == FLOAT32) memcpy(to, from, (size_t)columns * sizeof(float));
    if (m->kind == BFLOAT16)
        for (int k = 0; k < columns; k++) ((uint16_t *)to)[k] = to_half(from[k]);
    if (m->kind == INT8) {
        float largest = 0;
        for (int k = 0; k < columns; k++) largest = fabsf(from[k]) > largest ? fabsf(from[k]) : largest;
        float scale = largest / 127 < FLT_MIN ? FLT_MIN : largest / 127;
        for (int k = 0; k < columns; k++) ((int8_t *)to)[k] = (int8_t)rintf(from[k] / scale);
        m->scale[row] = scale;
    }
    if (m->kind == INT4)
        for (int group = 0; group < columns / 32; group++, from += 32) {
            float low = from[0], high = from[0], most = FLT_MAX / 128;
            for (int k = 0; k < 32; k++) low = from[k] < low ? from[k] : low, high = from[k] > high ? from[k] : high;
            float scale = fminf(fmaxf(high / 15 - low / 15, FLT_MIN), most);
            uint16_t *kept = m->group_scale + (size_t)row * m->group_pitch + group, *zero = kept + m->group_pitch / 2;
            scale = half_to_float(*kept = to_half(scale));
            float middle = half_to_float(*zero = to_half(fminf(fmaxf(low + 8 * scale, -most * 16), most * 16)));
            for (int k = 0; k < 32; k++) {
                float integer = fminf(fmaxf(rintf((from[k] - middle) / scale) + 8, 0), 15);
                ((uint8_t *)to)[group * 16 + k / 2] |= (uint8_t)((int)integer << k % 2 * 4);
            }
        }
}

/* Room for a matrix of zeros. */
static Status make_matrix(Matrix *m, Kind kind, int rows, int columns) {
    static const size_t bits[] = {32, 16, 8, 4};
    m->kind = kind, m->rows = rows, m->columns = columns;
    m->tall = padded(rows, ROWS), m->wide = padded(columns, PAD);
    m->pitch = (size_t)m->wide * bits[kind] / 8;
    m->group_pitch = 2 * (size_t)padded(m->wide / 32, 8);
    m->weights = zeros((size_t)m->tall * m->pitch);
    m->bias = zeros((size_t)m->tall * sizeof(float));
    if (kind == INT8) m->scale = zeros((size_t)m->tall * sizeof(float));
    if (kind == INT4) m->group_scale = zeros((size_t)m->tall * m->group_pitch * sizeof(uint16_t));
    int all = m->weights && m->bias && (kind != INT8 || m->scale) && (kind != INT4 || m->group_scale);
    return all ? OK : NO_MEMORY;
}

static void free_matrix(Matrix *m) {
    free(m->weights), free(m->bias), free(m->scale), free(m->group_scale);
    memset(m, 0, sizeof *m);
}
