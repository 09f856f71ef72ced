/* Any processor: vectors are arrays, and the compiler makes of them what it can. The other headers are this one again. */

typedef struct { float at[8]; } V_plain; /* floats */
typedef struct { int32_t at[4]; } I_plain; /* sums of products of integers; how they are spread does not matter */

static inline V_plain v_set_plain(float x) {
    V_plain v;
    for (int i = 0; i < 8; i++) v.at[i] = x;
    return v;
}

static inline V_plain v_load_plain(const float *from) {
    V_plain v;
    memcpy(v.at, from, sizeof v.at);
    return v;
}

static inline float half_to_float(uint16_t half) { /* a bfloat16 is the upper half of a float */
    uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline V_plain v_half_plain(const uint16_t *from) {
    V_plain v;
    for (int i = 0; i < 8; i++) v.at[i] = half_to_float(from[i]);
    return v;
}

static inline V_plain v_add_plain(V_plain a, V_plain b) {
    for (int i = 0; i < 8; i++) a.at[i] += b.at[i];
    return a;
}

static inline V_plain v_fma_plain(V_plain a, V_plain b, V_plain sum) { /* a * b + sum */
    for (int i = 0; i < 8; i++) sum.at[i] += a.at[i] * b.at[i];
    return sum;
}

static inline V_plain v_fused_plain(V_plain a, V_plain b, V_plain sum) { /* the same, rounded once: a product is a double */
    for (int i = 0; i < 8; i++) sum.at[i] = (float)((double)a.at[i] * (double)b.at[i] + (double)sum.at[i]);
    return sum;
}

static inline void v_sum4_plain(const V_plain *v, float *sums) { /* of each of four vectors */
    for (int i = 0; i < 4; i++) {
        const float *x = v[i].at;
        sums[i] = ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
    }
}

static inline I_plain i_dot_plain(I_plain sum, const int8_t *weights, const int8_t *x) { /* 32 of each */
    for (int i = 0; i < 32; i++) sum.at[i % 4] += weights[i] * x[i];
    return sum;
}

static inline void i_sum4_plain(const I_plain *v, int32_t *sums) {
    for (int i = 0; i < 4; i++) sums[i] = (v[i].at[0] + v[i].at[1]) + (v[i].at[2] + v[i].at[3]);
}

/* Two groups of 32 columns, each with its scale: 32 bytes of nibbles; x in the order of kernels.h. */
static inline V_plain q_dot_plain(V_plain sum, const uint8_t *nibbles, const uint16_t *scale, const int8_t *x) {
    for (int group = 0; group < 2; group++) {
        int32_t dot = 0;
        for (int i = 16 * group; i < 16 * group + 16; i++) dot += (nibbles[i] & 15) * x[i] + (nibbles[i] >> 4) * x[i + 32];
        sum.at[group] += (float)dot * half_to_float(scale[group]);
    }
    return sum;
}

/* sum += (zero - 8 * scale) * sum of x, of eight groups. */
static inline V_plain q_shift_plain(V_plain sum, const uint16_t *scale, const uint16_t *zero, const float *x) {
    for (int i = 0; i < 8; i++) sum.at[i] += (half_to_float(zero[i]) - 8 * half_to_float(scale[i])) * x[i];
    return sum;
}

#define NAME(x) x##_plain
#define KERNELS "plain"
#define V V_plain
#define LANES 8    /* floats of a vector */
#define TOKENS 3   /* inputs that are multiplied at once by four rows: their sums fit the registers */
#define TILE 12    /* sums at most */
#define v_zero() v_set_plain(0)
#define v_set v_set_plain
#define v_load v_load_plain
#define v_store(to, v) memcpy(to, (v).at, sizeof(v).at)
#define v_half v_half_plain
#define v_add v_add_plain
#define v_fma v_fma_plain
#define v_fused v_fused_plain
#define v_sum4 v_sum4_plain
#define I I_plain
#define BYTES 32
#define INT8_TOKENS 1
#define OFFSET 0   /* what i_dot adds to every weight */
#define i_zero() ((I_plain){{0}})
#define i_dot i_dot_plain
#define i_sum4 i_sum4_plain
#define Q V_plain
#define INT4_TOKENS 1
#define q_zero() v_set_plain(0)
#define q_dot q_dot_plain
#define q_shift q_shift_plain
#define q_sum4 v_sum4_plain
#include "kernels.h"
