/* ARM of 64 bits: vectors of four floats, or of 16 integers of 8 bits. */

static inline float32x4_t v_half_neon(const uint16_t *from) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from), 16));
}

static inline void v_sum4_neon(const float32x4_t *v, float *sums) {
    vst1q_f32(sums, vpaddq_f32(vpaddq_f32(v[0], v[1]), vpaddq_f32(v[2], v[3])));
}

static inline int32x4_t i_dot_neon(int32x4_t sum, const int8_t *weights, const int8_t *x) {
    int8x16_t w = vld1q_s8(weights), input = vld1q_s8(x);
#if defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(sum, w, input);
#else /* the sum of two products of 8 bits fits 16 */
    int16x8_t pairs = vmull_s8(vget_low_s8(w), vget_low_s8(input));
    return vpadalq_s16(sum, vmlal_s8(pairs, vget_high_s8(w), vget_high_s8(input)));
#endif
}

static inline void i_sum4_neon(const int32x4_t *v, int32_t *sums) {
    vst1q_s32(sums, vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3])));
}

static inline float32x4_t q_dot_neon(float32x4_t sum, const uint8_t *nibbles, const uint16_t *scale, const int8_t *x) {
    for (int group = 0; group < 2; group++) {
        uint8x16_t both = vld1q_u8(nibbles + 16 * group);
        int8x16_t even = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15))), odd = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
        int8x16_t x_even = vld1q_s8(x + 16 * group), x_odd = vld1q_s8(x + 32 + 16 * group);
        int16x8_t pairs = vmull_s8(vget_low_s8(even), vget_low_s8(x_even));
        pairs = vmlal_s8(pairs, vget_high_s8(even), vget_high_s8(x_even));
        pairs = vmlal_s8(pairs, vget_low_s8(odd), vget_low_s8(x_odd));
        pairs = vmlal_s8(pairs, vget_high_s8(odd), vget_high_s8(x_odd)); /* 4 * 15 * 127 fits */
        sum = vfmaq_n_f32(sum, vcvtq_f32_s32(vpaddlq_s16(pairs)), half_to_float(scale[group]));
    }
    return sum;
}

static inline float32x4_t q_shift_neon(float32x4_t sum, const uint16_t *scale, const uint16_t *zero, const float *x) {
    for (int i = 0; i < 8; i += 4) {
        float32x4_t shift = vfmsq_n_f32(v_half_neon(zero + i), v_half_neon(scale + i), 8);
        sum = vfmaq_f32(sum, shift, vld1q_f32(x + i));
    }
    return sum;
}

#define NAME(x) x##_neon
#define KERNELS "neon"
#define V float32x4_t
#define LANES 4
#define TOKENS 4
#define TILE 16
#define v_zero() vdupq_n_f32(0)
#define v_set vdupq_n_f32
#define v_load vld1q_f32
#define v_store vst1q_f32
#define v_half v_half_neon
#define v_add vaddq_f32
#define v_fma(a, b, sum) vfmaq_f32(sum, a, b)
#define v_sum4 v_sum4_neon
#define I int32x4_t
#define BYTES 16
#define INT8_TOKENS 2
#define OFFSET 0
#define i_zero() vdupq_n_s32(0)
#define i_dot i_dot_neon
#define i_sum4 i_sum4_neon
#define Q float32x4_t
#define INT4_TOKENS 2
#define q_zero() vdupq_n_f32(0)
#define q_dot q_dot_neon
#define q_shift q_shift_neon
#define q_sum4 v_sum4_neon
#include "kernels.h"
