/* WebAssembly, 128 bits: vectors of four floats, or of 16 integers of 8 bits. */

static inline v128_t v_half_wasm(const uint16_t *from) { return wasm_i32x4_shl(wasm_u32x4_load16x4(from), 16); }

static inline v128_t v_fma_wasm(v128_t a, v128_t b, v128_t sum) { return wasm_f32x4_add(sum, wasm_f32x4_mul(a, b)); }

/* There is no such instruction. The product is exact in double precision; that the sum is rounded twice shows about once in
 * 10^8 times. */
static inline v128_t v_fused_wasm(v128_t a, v128_t b, v128_t sum) {
    v128_t high_a = wasm_i64x2_shuffle(a, a, 1, 1), high_b = wasm_i64x2_shuffle(b, b, 1, 1), high = wasm_i64x2_shuffle(sum, sum, 1, 1);
    v128_t low = wasm_f64x2_mul(wasm_f64x2_promote_low_f32x4(a), wasm_f64x2_promote_low_f32x4(b));
    low = wasm_f64x2_add(low, wasm_f64x2_promote_low_f32x4(sum));
    high_a = wasm_f64x2_mul(wasm_f64x2_promote_low_f32x4(high_a), wasm_f64x2_promote_low_f32x4(high_b));
    high = wasm_f64x2_add(high_a, wasm_f64x2_promote_low_f32x4(high));
    return wasm_i64x2_shuffle(wasm_f32x4_demote_f64x2_zero(low), wasm_f32x4_demote_f64x2_zero(high), 0, 2);
}

static inline void v_sum4_wasm(const v128_t *v, float *sums) {
    v128_t a = wasm_i32x4_shuffle(v[0], v[1], 0, 4, 1, 5), b = wasm_i32x4_shuffle(v[0], v[1], 2, 6, 3, 7);
    v128_t c = wasm_i32x4_shuffle(v[2], v[3], 0, 4, 1, 5), d = wasm_i32x4_shuffle(v[2], v[3], 2, 6, 3, 7);
    v128_t low = wasm_f32x4_add(wasm_i64x2_shuffle(a, c, 0, 2), wasm_i64x2_shuffle(a, c, 1, 3));
    v128_t high = wasm_f32x4_add(wasm_i64x2_shuffle(b, d, 0, 2), wasm_i64x2_shuffle(b, d, 1, 3));
    wasm_v128_store(sums, wasm_f32x4_add(low, high));
}

static inline v128_t i_dot_wasm(v128_t sum, const int8_t *weights, const int8_t *x) {
    v128_t low = wasm_i32x4_dot_i16x8(wasm_i16x8_load8x8(weights), wasm_i16x8_load8x8(x));
    v128_t high = wasm_i32x4_dot_i16x8(wasm_i16x8_load8x8(weights + 8), wasm_i16x8_load8x8(x + 8));
    return wasm_i32x4_add(sum, wasm_i32x4_add(low, high));
}

static inline void i_sum4_wasm(const v128_t *v, int32_t *sums) {
    v128_t a = wasm_i32x4_shuffle(v[0], v[1], 0, 4, 1, 5), b = wasm_i32x4_shuffle(v[0], v[1], 2, 6, 3, 7);
    v128_t c = wasm_i32x4_shuffle(v[2], v[3], 0, 4, 1, 5), d = wasm_i32x4_shuffle(v[2], v[3], 2, 6, 3, 7);
    v128_t low = wasm_i32x4_add(wasm_i64x2_shuffle(a, c, 0, 2), wasm_i64x2_shuffle(a, c, 1, 3));
    v128_t high = wasm_i32x4_add(wasm_i64x2_shuffle(b, d, 0, 2), wasm_i64x2_shuffle(b, d, 1, 3));
    wasm_v128_store(sums, wasm_i32x4_add(low, high));
}

/* Two groups of 32 columns, each with its scale. Nibbles and inputs are small: their products are summed in 16 bits. */
static inline v128_t q_dot_wasm(v128_t sum, const uint8_t *nibbles, const uint16_t *scale, const int8_t *x) {
    for (int group = 0; group < 2; group++) {
        v128_t both = wasm_v128_load(nibbles + 16 * group);
        v128_t even = wasm_v128_and(both, wasm_i8x16_splat(15)), odd = wasm_u8x16_shr(both, 4);
        v128_t x_even = wasm_v128_load(x + 16 * group), x_odd = wasm_v128_load(x + 32 + 16 * group);
        v128_t low = wasm_i16x8_add(wasm_i16x8_extmul_low_i8x16(even, x_even), wasm_i16x8_extmul_low_i8x16(odd, x_odd));
        v128_t high = wasm_i16x8_add(wasm_i16x8_extmul_high_i8x16(even, x_even), wasm_i16x8_extmul_high_i8x16(odd, x_odd));
        v128_t pairs = wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_add(low, high));
        sum = v_fma_wasm(wasm_f32x4_convert_i32x4(pairs), wasm_f32x4_splat(half_to_float(scale[group])), sum);
    }
    return sum;
}

static inline v128_t q_shift_wasm(v128_t sum, const uint16_t *scale, const uint16_t *zero, const float *x) {
    for (int i = 0; i < 8; i += 4) {
        v128_t eight = wasm_f32x4_mul(wasm_f32x4_splat(8), v_half_wasm(scale + i));
        sum = v_fma_wasm(wasm_f32x4_sub(v_half_wasm(zero + i), eight), wasm_v128_load(x + i), sum);
    }
    return sum;
}

#define NAME(x) x##_wasm
#define KERNELS "wasm"
#define V v128_t
#define LANES 4
#define TOKENS 3
#define TILE 12
#define v_zero() wasm_f32x4_splat(0)
#define v_set wasm_f32x4_splat
#define v_load wasm_v128_load
#define v_store wasm_v128_store
#define v_half v_half_wasm
#define v_add wasm_f32x4_add
#define v_fma v_fma_wasm
#define v_fused v_fused_wasm
#define v_sum4 v_sum4_wasm
#define I v128_t
#define BYTES 16
#define INT8_TOKENS 2
#define OFFSET 0
#define i_zero() wasm_i32x4_splat(0)
#define i_dot i_dot_wasm
#define i_sum4 i_sum4_wasm
#define Q v128_t
#define INT4_TOKENS 2
#define q_zero() wasm_f32x4_splat(0)
#define q_dot q_dot_wasm
#define q_shift q_shift_wasm
#define q_sum4 v_sum4_wasm
#include "kernels.h"
