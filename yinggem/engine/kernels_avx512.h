/* x86 servers: vectors of sixteen floats, or of 64 integers of 8 bits. With VNNI, an instruction multiplies and adds four
 * of those at once; it is included twice, with and without. */

#undef AVX512
#ifdef VNNI
#define AVX512(x) x##_avx512vnni
#else
#define AVX512(x) x##_avx512
#endif

#if defined(__clang__) && defined(VNNI)
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni"))), apply_to = function)
#elif defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl"))), apply_to = function)
#elif defined(VNNI)
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni")
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512vl")
#endif

static inline __m512 AVX512(v_half)(const uint16_t *from) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

static inline __m256 AVX512(q_half)(const uint16_t *from) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

static inline void AVX512(q_sum4)(const __m256 *v, float *sums) {
    __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
}

static inline void AVX512(v_sum4)(const __m512 *v, float *sums) {
    __m256 halves[4];
    for (int i = 0; i < 4; i++) {
        __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v[i]), 1));
        halves[i] = _mm256_add_ps(_mm512_castps512_ps256(v[i]), upper);
    }
    AVX512(q_sum4)(halves, sums);
}

static inline __m512i AVX512(i_dot)(__m512i sum, const int8_t *weights, const int8_t *x) {
    __m512i w = _mm512_loadu_si512(weights), input = _mm512_loadu_si512(x);
#ifdef VNNI /* unsigned by signed: 128 is added to every weight, and taken off the sum where it is used (OFFSET) */
    return _mm512_dpbusd_epi32(sum, _mm512_xor_si512(w, _mm512_set1_epi8(-128)), input);
#else /* as in kernels_avx2.h */
    __m512i turned = _mm512_mask_sub_epi8(w, _mm512_movepi8_mask(input), _mm512_setzero_si512(), w);
    __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(input), turned);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}

static inline void AVX512(i_sum4)(const __m512i *v, int32_t *sums) {
    for (int i = 0; i < 4; i++) sums[i] = _mm512_reduce_add_epi32(v[i]);
}

static inline __m256 AVX512(q_dot)(__m256 sum, const uint8_t *nibbles, const uint16_t *scale, const int8_t *x) {
    const __m256i low = _mm256_set1_epi8(15), upper = _mm256_set_epi32(0, 0, 0, 0, 16, 16, 16, 16);
    __m256i both = _mm256_loadu_si256((const __m256i *)nibbles), even = _mm256_and_si256(both, low);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
    __m256i x_even = _mm256_loadu_si256((const __m256i *)x), x_odd = _mm256_loadu_si256((const __m256i *)(x + 32));
#ifdef VNNI
    __m256i dot = _mm256_dpbusd_epi32(_mm256_dpbusd_epi32(_mm256_setzero_si256(), even, x_even), odd, x_odd);
#else
    __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(even, x_even), _mm256_maddubs_epi16(odd, x_odd));
    __m256i dot = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
    int32_t two;
    memcpy(&two, scale, sizeof two);
    __m256i scales = _mm256_and_si256(_mm256_sllv_epi32(_mm256_set1_epi32(two), upper), _mm256_set1_epi32(-65536));
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_castsi256_ps(scales), sum);
}

static inline __m256 AVX512(q_shift)(__m256 sum, const uint16_t *scale, const uint16_t *zero, const float *x) {
    __m256 shift = _mm256_fnmadd_ps(_mm256_set1_ps(8), AVX512(q_half)(scale), AVX512(q_half)(zero));
    return _mm256_fmadd_ps(shift, _mm256_loadu_ps(x), sum);
}

#define NAME AVX512
#ifdef VNNI
#define KERNELS "avx512vnni"
#define OFFSET 128
#else
#define KERNELS "avx512"
#define OFFSET 0
#endif
#define V __m512
#define LANES 16
#define TOKENS 6
#define TILE 24
#define v_zero _mm512_setzero_ps
#define v_set _mm512_set1_ps
#define v_load _mm512_loadu_ps
#define v_store _mm512_storeu_ps
#define v_half AVX512(v_half)
#define v_add _mm512_add_ps
#define v_fma _mm512_fmadd_ps
#define v_sum4 AVX512(v_sum4)
#define I __m512i
#define BYTES 64
#define INT8_TOKENS 4
#define i_zero _mm512_setzero_si512
#define i_dot AVX512(i_dot)
#define i_sum4 AVX512(i_sum4)
#define Q __m256
#define INT4_TOKENS 4
#define q_zero _mm256_setzero_ps
#define q_dot AVX512(q_dot)
#define q_shift AVX512(q_shift)
#define q_sum4 AVX512(q_sum4)
#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
