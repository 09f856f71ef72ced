/* The inner loops, once for every instruction set.
 *
 * engine.c includes a header such as kernels_avx2.h, which says what a vector `V` is and how to add and multiply it; at
 * its end that header includes this file, and so every loop below exists once for every instruction set. `NAME(x)`
 * gives each its own name.
 *
 * Rules keep these loops short. Every row of a matrix is padded with zeros to a multiple of PAD numbers, so no loop
 * has a remainder. There are always ROWS rows more than were asked for, so none has to stop in the middle. And every
 * product of a row and an input is summed in one vector from left to right, whatever is computed beside it: a text is
 * the same alone and in a batch, and a prompt read at once is the same as one read id by id.
 *
 * A model of 8 bits is the same to the bit on every processor, in a browser too, for to round an input magnifies the least
 * difference. Its products are integers; whatever else it sums (norms, attention, softmax) is summed in SIXTEEN parts, as
 * many as the widest vector holds, and `v_fused` rounds once after a product and a sum.
 */

#define INLINE static inline __attribute__((always_inline))
enum { NAME(VECTORS) = 16 / LANES }; /* that hold sixteen numbers */
#ifndef v_fused
#define v_fused v_fma
#endif

/* The sum of sixteen numbers, in the order in which the vectors of all processors can add them. */
INLINE float NAME(fold)(const float *x) {
    float half[8];
    for (int i = 0; i < 8; i++) half[i] = x[i] + x[i + 8];
    return ((half[0] + half[1]) + (half[2] + half[3])) + ((half[4] + half[5]) + (half[6] + half[7]));
}

/* The same of four sixteens, each in VECTORS vectors. */
INLINE void NAME(fold4)(const V *v, float *sums) {
#if LANES == 16
    v_sum4(v, sums);
#elif LANES == 8
    V half[4];
    for (int r = 0; r < 4; r++) half[r] = v_add(v[2 * r], v[2 * r + 1]);
    v_sum4(half, sums);
#else
    V low[4], high[4];
    float upper[4];
    for (int r = 0; r < 4; r++) low[r] = v_add(v[4 * r], v[4 * r + 2]), high[r] = v_add(v[4 * r + 1], v[4 * r + 3]);
    v_sum4(low, sums), v_sum4(high, upper);
    for (int r = 0; r < 4; r++) sums[r] += upper[r];
#endif
}

/* exp(x), to about one unit in the last place: 2^n e^r with |r| <= ln(2)/2, and a polynomial for e^r (Cephes). */
INLINE float NAME(exponential)(float x) {
    float clipped = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = clipped * 1.44269504f + 12582912.0f - 12582912.0f; /* rounds: 1.5 * 2^23 leaves no bits for fractions */
    float r = clipped - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return x < -87.0f ? 0.0f : p * power;
}

/* x[i] = exp((x[i] - highest) * by) for n numbers; what follows, up to a multiple of PAD, becomes 0. Returns the sum. */
static float NAME(exponentials)(float *x, int64_t n, float highest, float by) {
    for (int64_t i = 0; i < n; i++) x[i] = NAME(exponential)((x[i] - highest) * by);
    int64_t padded = (n + PAD - 1) / PAD * PAD;
    for (int64_t i = n; i < padded; i++) x[i] = 0;
    float sums[16] = {0};
    for (int64_t i = 0; i < padded; i += 16)
        for (int j = 0; j < 16; j++) sums[j] += x[i + j];
    return NAME(fold)(sums);
}

/* The largest of n numbers. Comparing never rounds, so the order is free. */
static float NAME(highest)(const float *x, int64_t n) {
    float lanes[16], highest = -INFINITY;
    for (int j = 0; j < 16; j++) lanes[j] = -INFINITY;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
    for (; i < n; i++) highest = x[i] > highest ? x[i] : highest;
    for (int j = 0; j < 16; j++) highest = lanes[j] > highest ? lanes[j] : highest;
    return highest;
}

/* The norm of n numbers, padded to `wide`: x / sqrt(mean(x^2) + eps) * weight, or with the mean taken off first. */
static void NAME(normalize)(const float *x, const Norm *norm, int n, int wide, float eps, float *out) {
    float mean = 0, scale;
    if (norm->centred) { /* LayerNorm; in double precision, for a mean may be far larger than what varies about it */
        double sum = 0, square = 0;
        for (int i = 0; i < n; i++) sum += (double)x[i];
        for (int i = 0; i < n; i++) square += ((double)x[i] - sum / n) * ((double)x[i] - sum / n);
        mean = (float)(sum / n);
        scale = (float)(1 / sqrt(square / n + (double)eps));
    } else {
        float squares[16] = {0};
        for (int i = 0; i < wide; i += 16)
            for (int j = 0; j < 16; j++) squares[j] += x[i + j] * x[i + j];
        scale = 1 / sqrtf(NAME(fold)(squares) / (float)n + eps);
    }
    for (int i = 0; i < wide; i++) out[i] = (x[i] - mean) * scale * norm->weight[i] + norm->bias[i];
}

/* Turn the pairs (x[i], x[i + size/2]) by their angles, in place. */
static void NAME(rotate)(float *x, const float *cosine, const float *sine, int size) {
    int half = size / 2;
    for (int i = 0; i < half; i++) {
        float first = x[i], second = x[i + half];
        x[i] = first * cosine[i] - second * sine[i];
        x[i + half] = second * cosine[i] + first * sine[i];
    }
}

/* The activation of `size` numbers; of a gated one, x is [gate | up]. */
static void NAME(activate)(const float *x, Activation activation, int size, float *out) {
    if (activation == GEGLU)
        for (int i = 0; i < size; i++) {
            float gate = x[i], inner = 1.5957691216f * (gate + 0.044715f * gate * gate * gate); /* 2 sqrt(2 / pi) */
            out[i] = gate / (1 + NAME(exponential)(-inner)) * x[i + size]; /* 1 + tanh(a) = 2 / (1 + e^-2a) */
        }
    else if (activation == SWIGLU)
        for (int i = 0; i < size; i++) out[i] = x[i] / (1 + NAME(exponential)(-x[i])) * x[i + size];
    else
        for (int i = 0; i < size; i++) out[i] = x[i] > 0 ? x[i] * x[i] : 0;
}

/* R rows of floats (bfloat16 if `half`) times T inputs: sums (T, R). R and T are constants where this is inlined. */
INLINE void NAME(tile)(const char *rows, size_t pitch, const float *x, size_t stride, int wide, int half, int R, int T,
                       float *out, size_t out_stride) {
    V sum[TILE];
    const size_t step = LANES * (half ? sizeof(uint16_t) : sizeof(float));
    const char *end = rows + (size_t)wide / LANES * step, *upper = rows + 4 * pitch; /* two bases: registers are scarce */
    for (int i = 0; i < R * T; i++) sum[i] = v_zero();
    for (; rows < end; rows += step, upper += step, x += LANES) {
        V input[TILE];
        for (int t = 0; t < T; t++) input[t] = v_load(x + (size_t)t * stride);
        for (int r = 0; r < R; r++) {
            const char *row = (r < 4 ? rows : upper) + (size_t)(r % 4) * pitch;
            V weight = half ? v_half((const uint16_t *)row) : v_load((const float *)row);
            for (int t = 0; t < T; t++) sum[t * R + r] = v_fma(weight, input[t], sum[t * R + r]);
        }
    }
    for (int t = 0; t < T; t++)
        for (int r = 0; r < R; r += 4) v_sum4(sum + t * R + r, out + (size_t)t * out_stride + r);
}

/* `count` rows of floats or bfloat16 times n inputs -> out (n, out_stride). The rows of a tile stay in the first cache
 * while all inputs pass by: a weight is read from memory once, however many inputs there are. */
INLINE void NAME(float_rows)(const char *rows, size_t pitch, int64_t count, const float *x, size_t stride, int n, int wide,
                             int half, float *out, size_t out_stride) {
    if (n == 1) {
        for (int64_t r = 0; r < count; r += 8) /* eight sums at once hide how long an addition takes */
            NAME(tile)(rows + (size_t)r * pitch, pitch, x, stride, wide, half, 8, 1, out + r, out_stride);
        return;
    }
    for (int64_t r = 0; r < count; r += 4)
        for (int t = 0; t < n; t += TOKENS) {
            const char *some = rows + (size_t)r * pitch;
            const float *in = x + (size_t)t * stride;
            float *to = out + (size_t)t * out_stride + r;
            switch (n - t) {
                case 1: NAME(tile)(some, pitch, in, stride, wide, half, 4, 1, to, out_stride); break;
                case 2: NAME(tile)(some, pitch, in, stride, wide, half, 4, 2, to, out_stride); break;
#if TOKENS > 3
                case 3: NAME(tile)(some, pitch, in, stride, wide, half, 4, 3, to, out_stride); break;
#endif
#if TOKENS > 4
                case 4: NAME(tile)(some, pitch, in, stride, wide, half, 4, 4, to, out_stride); break;
                case 5: NAME(tile)(some, pitch, in, stride, wide, half, 4, 5, to, out_stride); break;
#endif
                default: NAME(tile)(some, pitch, in, stride, wide, half, 4, TOKENS, to, out_stride);
            }
        }
}

static void NAME(float_products)(const Matrix *m, const Input *x, int n, int from, int to, float *out, size_t stride) {
    const char *rows = (const char *)m->weights + (size_t)from * m->pitch;
    NAME(float_rows)(rows, m->pitch, to - from, x->numbers, x->stride, n, m->wide, 0, out + from, stride);
}

static void NAME(half_products)(const Matrix *m, const Input *x, int n, int from, int to, float *out, size_t stride) {
    const char *rows = (const char *)m->weights + (size_t)from * m->pitch;
    NAME(float_rows)(rows, m->pitch, to - from, x->numbers, x->stride, n, m->wide, 1, out + from, stride);
}

/* Round an input to integers -127 ... 127 with one scale; `paired`: in the order in which the nibbles of int4 come. */
static void NAME(quantize)(const float *x, int wide, int paired, int8_t *bytes, float *scale, float *group_sums,
                           int32_t *total) {
    float largest = 0;
    for (int i = 0; i < wide; i += 16) { /* of magnitudes */
        float lanes[16];
        for (int j = 0; j < 16; j++) lanes[j] = fabsf(x[i + j]);
        for (int j = 0; j < 16; j++) largest = lanes[j] > largest ? lanes[j] : largest;
    }
    largest = largest < 1e-30f ? 1e-30f : largest;
    float by = 127 / largest;
    int32_t all = 0;
    for (int i = 0; i < wide; i += 32) {
        int8_t whole[32];
        int32_t sum = 0;
        for (int j = 0; j < 32; j++) {
            float rounded = x[i + j] * by + 12582912.0f - 12582912.0f;
            int32_t integer = (int32_t)rounded;
            whole[j] = (int8_t)integer;
            sum += integer;
        }
        group_sums[i / 32] = (float)sum;
        all += sum;
        if (paired)
            for (int j = 0; j < 16; j++) { /* of 64 columns: even ones of the first 32, of the second, then the odd ones */
                int8_t *place = bytes + i / 64 * 64 + i / 32 % 2 * 16 + j;
                place[0] = whole[2 * j];
                place[32] = whole[2 * j + 1];
            }
        else
            memcpy(bytes + i, whole, 32);
    }
    *scale = largest / 127;
    *total = all;
}

/* Ask for the bytes that are read a little later. Rows of small integers are so short that a processor, which sees several
 * of them being read at once, finds no order in it; these are asked for as they lie in memory. 3 KiB was the best of 2 to
 * 32 for rows of 768 bytes on AVX2: 1.5 times the speed of asking for the same rows column by column. */
INLINE void NAME(fetch_ahead)(const void *from, int bytes) {
    for (int place = 0; place < bytes; place += 64) __builtin_prefetch((const char *)from + 3072 + place);
}

/* Four rows of int8 times T inputs. Integers are summed without rounding. */
INLINE void NAME(int8_tile)(const Matrix *m, const Input *x, int row, int first, int T, float *out, size_t stride) {
    I sum[4 * INT8_TOKENS];
    const int8_t *rows = (const int8_t *)m->weights + (size_t)row * m->pitch;
    const int8_t *bytes = x->bytes + (size_t)first * x->stride;
    const size_t pitch = m->pitch, stride_in = x->stride;
    for (int i = 0; i < 4 * T; i++) sum[i] = i_zero();
    for (int k = 0; k < m->wide; k += BYTES) {
        if (T == 1) NAME(fetch_ahead)(rows + (size_t)k * 4, BYTES * 4);
        for (int r = 0; r < 4; r++)
            for (int t = 0; t < T; t++)
                sum[t * 4 + r] = i_dot(sum[t * 4 + r], rows + (size_t)r * pitch + k, bytes + (size_t)t * stride_in + k);
    }
    for (int t = 0; t < T; t++) {
        int32_t four[4];
        i_sum4(sum + 4 * t, four);
        for (int r = 0; r < 4; r++)
            out[(size_t)(first + t) * stride + (size_t)(row + r)] =
                (float)(four[r] - OFFSET * x->total[first + t]) * (m->scale[row + r] * x->scale[first + t]);
    }
}

static void NAME(int8_products)(const Matrix *m, const Input *x, int n, int from, int to, float *out, size_t stride) {
    for (int row = from; row < to; row += 4) {
        int t = 0;
        for (; t + INT8_TOKENS <= n; t += INT8_TOKENS) NAME(int8_tile)(m, x, row, t, INT8_TOKENS, out, stride);
        for (; t < n; t++) NAME(int8_tile)(m, x, row, t, 1, out, stride);
    }
}

/* Four rows of int4 times T inputs. A weight is (nibble - 8) * scale + zero, so a group of 32 sums to
 * scale * (sum of nibble * x - 8 * sum of x) + zero * sum of x, and the sums of x are known. */
INLINE void NAME(int4_tile)(const Matrix *m, const Input *x, int row, int first, int T, float *out, size_t stride) {
    Q sum[4 * INT4_TOKENS];
    int groups = m->wide / 32, pitch = (int)m->group_pitch;
    for (int r = 0; r < 4; r++) {
        const uint8_t *nibbles = (const uint8_t *)m->weights + (size_t)(row + r) * m->pitch;
        const uint16_t *scale = m->group_scale + (size_t)(row + r) * m->group_pitch, *zero = scale + pitch / 2;
        for (int t = 0; t < T; t++) sum[t * 4 + r] = q_zero();
        for (int k = 0; k < groups; k += 8)
            for (int t = 0; t < T; t++)
                sum[t * 4 + r] = q_shift(sum[t * 4 + r], scale + k, zero + k,
                                         x->group_sums + (size_t)(first + t) * x->group_stride + k);
        for (int k = 0; k < groups; k += 2) {
            if (T == 1) NAME(fetch_ahead)(nibbles + (size_t)k * 16, 32);
            for (int t = 0; t < T; t++)
                sum[t * 4 + r] = q_dot(sum[t * 4 + r], nibbles + (size_t)k * 16, scale + k,
                                       x->bytes + (size_t)(first + t) * x->stride + (size_t)k * 32);
        }
    }
    for (int t = 0; t < T; t++) {
        float four[4];
        q_sum4(sum + 4 * t, four);
        for (int r = 0; r < 4; r++) out[(size_t)(first + t) * stride + (size_t)(row + r)] = four[r] * x->scale[first + t];
    }
}

static void NAME(int4_products)(const Matrix *m, const Input *x, int n, int from, int to, float *out, size_t stride) {
    for (int row = from; row < to; row += 4) {
        int t = 0;
        for (; t + INT4_TOKENS <= n; t += INT4_TOKENS) NAME(int4_tile)(m, x, row, t, INT4_TOKENS, out, stride);
        for (; t < n; t++) NAME(int4_tile)(m, x, row, t, 1, out, stride);
    }
}

/* out[0 .. C * LANES) += sum over keys of share * value, in the order of the text. C is a constant where inlined. */
INLINE void NAME(mix_columns)(const float *values, size_t pitch, const float *shares, int64_t count, int C, float *out) {
    V sum[8];
    for (int c = 0; c < C; c++) sum[c] = v_load(out + c * LANES);
    for (int64_t j = 0; j < count; j++) {
        V share = v_set(shares[j]);
        for (int c = 0; c < C; c++) sum[c] = v_fused(share, v_load(values + (size_t)j * pitch + c * LANES), sum[c]);
    }
    for (int c = 0; c < C; c++) v_store(out + c * LANES, sum[c]);
}

static void NAME(mix)(const float *values, size_t pitch, const float *shares, int64_t count, float *out) {
    size_t c = 0;
    for (; c + 8 * LANES <= pitch; c += 8 * LANES) NAME(mix_columns)(values + c, pitch, shares, count, 8, out + c);
    for (; c + 4 * LANES <= pitch; c += 4 * LANES) NAME(mix_columns)(values + c, pitch, shares, count, 4, out + c);
    for (; c + LANES <= pitch; c += LANES) NAME(mix_columns)(values + c, pitch, shares, count, 1, out + c);
}

/* Four keys times one query; the pitch is a multiple of 16. */
INLINE void NAME(four_keys)(const float *keys, const float *query, size_t pitch, float *out) {
    V sum[4 * NAME(VECTORS)];
    for (int i = 0; i < 4 * NAME(VECTORS); i++) sum[i] = v_zero();
    for (size_t c = 0; c < pitch; c += 16)
        for (int i = 0; i < NAME(VECTORS); i++) {
            V some = v_load(query + c + i * LANES);
            for (int r = 0; r < 4; r++) {
                V key = v_load(keys + (size_t)r * pitch + c + i * LANES);
                sum[r * NAME(VECTORS) + i] = v_fused(key, some, sum[r * NAME(VECTORS) + i]);
            }
        }
    NAME(fold4)(sum, out);
}

/* Attention of n queries (n, pitch), which share a head of keys, over two stretches of the ring: the second follows the
 * first in the text. -> out (n, pitch). `scores` has room for n times `room` numbers. */
static void NAME(attend)(const float *queries, int n, const float *keys, const float *values, size_t pitch,
                         const Stretch *stretches, float by, float *scores, size_t room, float *out) {
    int64_t first = stretches[0].count, count = first + stretches[1].count;
    for (int i = 0; i < 2; i++)
        for (int64_t key = 0; key < stretches[i].count; key += 4)
            for (int q = 0; q < n; q++)
                NAME(four_keys)(keys + (size_t)(stretches[i].from + key) * pitch, queries + (size_t)q * pitch, pitch,
                                scores + (size_t)q * room + (size_t)(i ? first + key : key));
    for (int i = 0; i < n; i++) {
        float *row = scores + (size_t)i * room, *to = out + (size_t)i * pitch;
        float one = 1 / NAME(exponentials)(row, count, NAME(highest)(row, count), by);
        memset(to, 0, pitch * sizeof(float));
        NAME(mix)(values + (size_t)stretches[0].from * pitch, pitch, row, first, to);
        NAME(mix)(values + (size_t)stretches[1].from * pitch, pitch, row + first, count - first, to);
        for (size_t c = 0; c < pitch; c++) to[c] *= one;
    }
}

static const Kernels NAME(kernels) = {
    .name = KERNELS,
    .normalize = NAME(normalize),
    .rotate = NAME(rotate),
    .activate = NAME(activate),
    .quantize = NAME(quantize),
    .products = {NAME(float_products), NAME(half_products), NAME(int8_products), NAME(int4_products)},
    .attend = NAME(attend),
    .exponentials = NAME(exponentials),
    .highest = NAME(highest),
};

#undef INLINE
#undef NAME
#undef KERNELS
#undef V
#undef LANES
#undef TOKENS
#undef TILE
#undef v_zero
#undef v_set
#undef v_load
#undef v_store
#undef v_half
#undef v_add
#undef v_fma
#undef v_fused
#undef v_sum4
#undef I
#undef BYTES
#undef INT8_TOKENS
#undef OFFSET
#undef i_zero
#undef i_dot
#undef i_sum4
#undef Q
#undef INT4_TOKENS
#undef q_zero
#undef q_dot
#undef q_shift
#undef q_sum4
