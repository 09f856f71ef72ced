/* x86 of 2013 and later: vectors of eight floats, or of 32 integers of 8 bits. */

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

static inline __m256 v_half_avx2(const uint16_t *from) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

static inline void v_sum4_avx2(const __m256 *v, float *sums) {
    __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
}

/* maddubs multiplies unsigned by signed and adds pairs in 16 bits. |x| <= 127 and a weight with the sign of x taken over
 * give the same products, and 2 * 127 * 127 fits. */
static inline __m256i i_dot_avx2(__m256i sum, const int8_t *weights, const int8_t *x) {
    __m256i w = _mm256_loadu_si256((const __m256i *)weights), input = _mm256_loadu_si256((const __m256i *)x);
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(input), _mm256_sign_epi8(w, input));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

static inline void i_sum4_avx2(const __m256i *v, int32_t *sums) {
    __m256i pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    _mm_storeu_si128((__m128i *)sums, four);
}

static inline __m256 q_dot_avx2(__m256 sum, const uint8_t *nibbles, const uint16_t *scale, const int8_t *x) {
    const __m256i low = _mm256_set1_epi8(15), upper = _mm256_set_epi32(0, 0, 0, 0, 16, 16, 16, 16);
    __m256i both = _mm256_loadu_si256((const __m256i *)nibbles);
    __m256i even = _mm256_maddubs_epi16(_mm256_and_si256(both, low), _mm256_loadu_si256((const __m256i *)x));
    __m256i odd = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
    odd = _mm256_maddubs_epi16(odd, _mm256_loadu_si256((const __m256i *)(x + 32)));
    __m256i dot = _mm256_madd_epi16(_mm256_add_epi16(even, odd), _mm256_set1_epi16(1)); /* 4 sums of each group */
    int32_t two; /* bfloat16: the first group's in the lower half */
    memcpy(&two, scale, sizeof two);
    __m256i scales = _mm256_sllv_epi32(_mm256_set1_epi32(two), upper);
    scales = _mm256_and_si256(scales, _mm256_set1_epi32(-65536));
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_castsi256_ps(scales), sum);
}

static inline __m256 q_shift_avx2(__m256 sum, const uint16_t *scale, const uint16_t *zero, const float *x) {
    __m256 shift = _mm256_fnmadd_ps(_mm256_set1_ps(8), v_half_avx2(scale), v_half_avx2(zero));
    return _mm256_fmadd_ps(shift, _mm256_loadu_ps(x), sum);
}

#define NAME(x) x##_avx2
#define KERNELS "avx2"
#define V __m256
#define LANES 8
#define TOKENS 3
#define TILE 12
#define v_zero _mm256_setzero_ps
#define v_set _mm256_set1_ps
#define v_load _mm256_loadu_ps
#define v_store _mm256_storeu_ps
#define v_half v_half_avx2
#define v_add _mm256_add_ps
#define v_fma _mm256_fmadd_ps
#define v_sum4 v_sum4_avx2
#define I __m256i
#define BYTES 32
#define INT8_TOKENS 2
#define OFFSET 0
#define i_zero _mm256_setzero_si256
#define i_dot i_dot_avx2
#define i_sum4 i_sum4_avx2
#define Q __m256
#define INT4_TOKENS 2
#define q_zero _mm256_setzero_ps
#define q_dot q_dot_avx2
#define q_shift q_shift_avx2
#define q_sum4 v_sum4_avx2
#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
