/* What engine.c takes from the system, for a processor without one: a WebAssembly module has its memory and what the page
 * hands it. There is one thread. */

#include <stddef.h>
#include <stdint.h>

#define INFINITY __builtin_inff()
#define FROM_PAGE(name) __attribute__((import_module("page"), import_name(name)))

/* JavaScript's Math has these; rounded to floats they are what a C library computes. */
FROM_PAGE("sin") double sin(double);
FROM_PAGE("cos") double cos(double);
FROM_PAGE("exp") double exp(double);
FROM_PAGE("log") double log(double);
FROM_PAGE("pow") double pow(double, double);
static inline float fabsf(float x) { return __builtin_fabsf(x); }
static inline double fabs(double x) { return __builtin_fabs(x); }
static inline float rintf(float x) { return __builtin_rintf(x); }
static inline float sqrtf(float x) { return __builtin_sqrtf(x); }
static inline double sqrt(double x) { return __builtin_sqrt(x); }
static inline double floor(double x) { return __builtin_floor(x); }
static inline double ceil(double x) { return __builtin_ceil(x); }
static inline float fminf(float a, float b) { return a < b ? a : b; }
static inline float fmaxf(float a, float b) { return a > b ? a : b; }

void *memset(void *to, int byte, size_t size) { return __builtin_memset(to, byte, size); } /* one instruction each */
void *memcpy(void *to, const void *from, size_t size) { return __builtin_memcpy(to, from, size); }
void *memmove(void *to, const void *from, size_t size) { return __builtin_memmove(to, from, size); }

static int memcmp(const void *a, const void *b, size_t size) {
    const unsigned char *x = a, *y = b;
    for (size_t i = 0; i < size; i++)
        if (x[i] != y[i]) return x[i] < y[i] ? -1 : 1;
    return 0;
}

static int strcmp(const char *a, const char *b) {
    while (*a && *a == *b) a++, b++;
    return *a - *b;
}

/* ---- Memory: what is free is a list in the order of addresses, and neighbours are joined ---- */

enum { UNIT = 64, PAGE = 65536 }; /* bytes: every block begins at a multiple of UNIT, behind one of its own */

typedef struct Free {
    size_t size; /* of the block, its first unit included */
    struct Free *next;
} Free;

extern unsigned char __heap_base; /* made by the linker */
static Free *free_list;
static uintptr_t heap_end; /* 0: nothing was allocated yet */

static void release(void *memory) {
    Free *block = (Free *)((char *)memory - UNIT), **place = &free_list, *before = NULL;
    for (; *place && *place < block; place = &(*place)->next) before = *place;
    block->next = *place, *place = block;
    if (block->next && (char *)block + block->size == (char *)block->next)
        block->size += block->next->size, block->next = block->next->next;
    if (before && (char *)before + before->size == (char *)block) before->size += block->size, before->next = block->next;
}

/* More memory at the end, as a free block; 0 where there is no more. */
static int add_memory(size_t size) {
    uintptr_t begin = heap_end ? heap_end : ((uintptr_t)&__heap_base + UNIT - 1) / UNIT * UNIT;
    uintptr_t there = __builtin_wasm_memory_size(0) * PAGE;
    if (size > UINTPTR_MAX - PAGE - begin) return 0;
    if (begin + size > there && __builtin_wasm_memory_grow(0, (begin + size - there + PAGE - 1) / PAGE) == SIZE_MAX) return 0;
    Free *block = (Free *)begin;
    block->size = size, heap_end = begin + size;
    release((char *)block + UNIT);
    return 1;
}

static void *malloc(size_t size) {
    if (size > SIZE_MAX - 2 * UNIT) return NULL;
    size = (size + UNIT - 1) / UNIT * UNIT + UNIT;
    for (int tries = 0; tries < 2; tries++) {
        for (Free **place = &free_list; *place; place = &(*place)->next) {
            Free *block = *place;
            if (block->size < size) continue;
            if (block->size - size > UNIT) {
                Free *rest = (Free *)((char *)block + size);
                rest->size = block->size - size, rest->next = block->next;
                *place = rest, block->size = size;
            } else *place = block->next;
            return (char *)block + UNIT;
        }
        if (!add_memory(size)) return NULL;
    }
    return NULL;
}

static inline void free(void *memory) {
    if (memory) release(memory);
}

/* A multiple of 64 is as good as any here. */
static inline int posix_memalign(void **memory, size_t align, size_t size) {
    (void)align;
    return !(*memory = malloc(size));
}

/* ---- Threads: there are none to start ---- */

typedef int pthread_t, pthread_mutex_t, pthread_cond_t;
static inline int pthread_create(pthread_t *t, void *a, void *(*work)(void *), void *b) { return (void)t, (void)a, (void)work, (void)b, 1; }
static inline int pthread_join(pthread_t t, void **r) { return (void)t, (void)r, 0; }
static inline int pthread_mutex_init(pthread_mutex_t *m, void *a) { return (void)m, (void)a, 0; }
static inline int pthread_mutex_destroy(pthread_mutex_t *m) { return (void)m, 0; }
static inline int pthread_mutex_lock(pthread_mutex_t *m) { return (void)m, 0; }
static inline int pthread_mutex_unlock(pthread_mutex_t *m) { return (void)m, 0; }
static inline int pthread_cond_init(pthread_cond_t *c, void *a) { return (void)c, (void)a, 0; }
static inline int pthread_cond_destroy(pthread_cond_t *c) { return (void)c, 0; }
static inline int pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m) { return (void)c, (void)m, 0; }
static inline int pthread_cond_signal(pthread_cond_t *c) { return (void)c, 0; }
static inline int pthread_cond_broadcast(pthread_cond_t *c) { return (void)c, 0; }
