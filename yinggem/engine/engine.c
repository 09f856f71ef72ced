/* One language model, from a token to the next: the file to read if you want to know what a Transformer computes.
 *
 * It is C11 and needs nothing else. Read it downwards; it is in the order in which a token travels:
 *
 *     embedding -> [ norm -> query, key, value -> rotation -> attention -> output
 *                    norm -> up -> activation -> down ] for every layer -> norm -> head -> filters -> draw
 *
 * The loops that take the time are in kernels.h, once for every instruction set; threads.h shares them out, matrices.h
 * takes weights in, lifetime.h makes and frees an engine, sampling.h draws, memory.h counts beside the network. Python
 * calls the functions at the end (yinggem/engine/engine.py), and checks there what it hands over; ids and row numbers are
 * checked here once more.
 *
 * Decoding one text is limited by reading the weights from memory, so they are kept as small as wanted (8 or 4 bits), in
 * huge pages, and read once for all texts that are decoded side by side. A prompt is read in blocks, as if its tokens
 * were such texts.
 */

#define _GNU_SOURCE
#include <float.h>
#include <stdatomic.h>
#include <stdint.h>
#if defined(__wasm__)
#include "freestanding.h"
#else
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#endif

enum {
    VERSION = 5,   /* of the functions at the end: the Python side refuses another */
    PAD = 64,      /* every vector is zeros up to a multiple of so many numbers */
    ROWS = 8,      /* and every matrix has a multiple of so many rows */
    BLOCK = 64,    /* tokens that are computed at once */
    SLOTS = 256,   /* positions that a text has room for at first */
    CHUNK = 65536, /* bytes of weights in a piece of work */
    PATIENCE = 64, /* steps with weights in memory that is lent, before they are copied to huge pages */
    MAX_THREADS = 64,
};

typedef enum { GEGLU, SWIGLU, RELU2 } Activation;
typedef enum { FLOAT32, BFLOAT16, INT8, INT4 } Kind; /* how a matrix is kept */
typedef enum { OK, NO_MEMORY, BAD_ARGUMENT, NOT_FINITE } Status;

typedef struct { /* as ModelConfig */
    int32_t vocab, hidden, layers, heads, kv_heads, inner, window; /* window 0: every earlier key */
    int32_t activation, layer_norm, qk_norm;
    int32_t document_end; /* the id behind which a token sees no key before it; -1: none */
    float eps;
} Shape;

typedef struct { /* (rows, columns), of which there are `tall` and `wide` with their padding */
    Kind kind;
    int rows, columns, tall, wide;
    const void *weights;     /* rows of `pitch` bytes */
    size_t pitch;
    int lent;                /* whether they are the caller's */
    void *own;               /* what is freed: they, or where they are lent the last of them, with their padding */
    float *scale;            /* INT8: of every row */
    uint16_t *group_scale;   /* INT4: in every row the scales of its groups of 32, then their zeros, as bfloat16 */
    size_t group_pitch;
    float *bias;             /* zeros where there is none */
} Matrix;

typedef struct {
    int centred; /* LayerNorm rather than RMSNorm */
    float *weight, *bias;
} Norm;

typedef struct { /* what is multiplied by a matrix: up to BLOCK vectors as floats and, for integer matrices, rounded */
    float *numbers;
    int8_t *bytes;
    float *scale, *group_sums;
    int32_t *total;
    size_t stride, group_stride;
} Input;

typedef struct { int64_t from, count; } Stretch; /* of slots */

typedef struct {
    const char *name;
    void (*normalize)(const float *, const Norm *, int, int, float, float *);
    void (*rotate)(float *, const float *, const float *, int);
    void (*activate)(const float *, Activation, int, float *);
    void (*quantize)(const float *, int, int, int8_t *, float *, float *, int32_t *);
    void (*products[4])(const Matrix *, const Input *, int, int, int, float *, size_t);
    void (*attend)(const float *, int, const float *, const float *, size_t, const Stretch *, float, float *, size_t, float *);
    float (*exponentials)(float *, int64_t, float, float);
    float (*highest)(const float *, int64_t);
} Kernels;

#include "kernels_plain.h"
#if defined(__x86_64__)
#include <immintrin.h>
#include "kernels_avx2.h"
#include "kernels_avx512.h"
#define VNNI
#include "kernels_avx512.h"
#elif defined(__aarch64__)
#include <arm_neon.h>
#include "kernels_neon.h"
#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
#include "kernels_wasm.h"
#endif

/* The kernels of this name, if this processor has what they need; of no name, the best it can run. NULL: there are none. */
static const Kernels *find_kernels(const char *name) {
    const Kernels *known[5] = {&kernels_plain};
    int count = 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    int wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) known[count++] = &kernels_avx2;
    if (count == 2 && wide) known[count++] = &kernels_avx512;
    if (count == 3 && __builtin_cpu_supports("avx512vnni")) known[count++] = &kernels_avx512vnni;
#elif defined(__aarch64__)
    known[count++] = &kernels_neon;
#elif defined(__wasm_simd128__)
    known[0] = &kernels_wasm; /* every browser has it: the others would only make the file larger */
#endif
    for (int i = count - 1; i >= 0; i--)
        if (!name || !*name || !strcmp(known[i]->name, name)) return known[i];
    return NULL;
}

/* ---- Room ------------------------------------------------------------------------------------------------------- */

/* Memory. Much of it asks for huge pages: to look up the addresses of 4 KiB pages takes noticeable time. */
static void *allocate(size_t size) {
    const size_t huge = (size_t)1 << 21;
    size_t align = size >= huge ? huge : 64;
    size = (size + align - 1) / align * align;
    void *memory = NULL;
    if (posix_memalign(&memory, align, size ? size : align)) return NULL;
#if defined(MADV_HUGEPAGE)
    if (size >= huge) madvise(memory, size, MADV_HUGEPAGE);
#endif
    return memory;
}

static void *zeros(size_t size) {
    size = (size + PAD - 1) / PAD * PAD;
    void *memory = allocate(size);
    return memory ? memset(memory, 0, size) : NULL;
}

static float *floats(size_t n) { return zeros((n + PAD) * sizeof(float)); }

static int padded(int size, int to) { return (size + to - 1) / to * to; }

#include "sampling.h"
#include "memory.h"

/* ---- What an engine is ------------------------------------------------------------------------------------------ */

typedef struct {
    Norm attention_norm, query_norm, key_norm, mlp_norm;
    Matrix qkv, output, up, down;
} Layer;

typedef struct { /* a text */
    int64_t length;  /* positions computed */
    int64_t begins;  /* the first position of the document that the text is in */
    int64_t slots;   /* positions there is room for; the key of position p is in slot p % slots */
    int32_t pending; /* the last token drawn, which is not computed yet; -1: none */
    float *cache;    /* keys, then values: (layers, kv_heads, slots + ROWS, pitch) */
    float *logits;   /* of the token after the last */
} Row;

typedef struct { int32_t row, id; int64_t position, begins; } Token; /* begins: of its document */

typedef struct Engine Engine;
typedef void Job(Engine *, int chunk, int thread);

struct Engine {
    Shape shape;
    const Kernels *kernels;
    Matrix embedding, head;
    Norm norm;
    Layer *layers;
    Row *rows;
    int row_count, tied;
    int steps, moved;     /* how many were computed, up to PATIENCE; how many matrices were looked at to be copied since */
    int head_size, pitch; /* of a head, and with its padding */
    float *frequencies;   /* (head_size / 2) */

    /* One step: `count` tokens, and what is known of each */
    Token *tokens;
    int count;
    float *x;       /* the residual stream */
    float *queries, *attended; /* of all heads, each padded to `pitch` */
    float *wide;    /* what a matrix makes */
    float *cosine, *sine, *logits;
    size_t x_stride, head_stride, wide_stride, logit_stride;
    Input input;
    float *scores[MAX_THREADS];
    size_t score_room;
    const Layer *layer; /* the one being computed, */
    int number;         /* and its number */

    /* The product being computed */
    const Matrix *matrix;
    float *product;
    size_t product_stride;
    int product_count, chunk_rows;

    Choice choice;

    /* Threads */
    int threads, started;
    pthread_t workers[MAX_THREADS];
    pthread_mutex_t mutex;
    pthread_cond_t work, finished;
    Job *job;
    int chunks;
    _Atomic uint64_t tickets; /* in the upper half the number of the job, in the lower the chunks nobody has taken */
    atomic_int done, sleepers, waiting, quit;
    atomic_int next_thread;
};

#include "threads.h"
#include "matrices.h"
#include "lifetime.h"

/* ---- 1. The embedding: a row of its matrix ---------------------------------------------------------------------- */

static void look_up(const Matrix *m, int row, float *out) {
    const void *from = (const char *)m->weights + (size_t)row * m->pitch;
    for (int k = 0; k < m->columns; k++) {
        if (m->kind == FLOAT32) out[k] = ((const float *)from)[k];
        if (m->kind == BFLOAT16) out[k] = half_to_float(((const uint16_t *)from)[k]);
        if (m->kind == INT8) out[k] = (float)((const int8_t *)from)[k] * m->scale[row];
        if (m->kind == INT4) {
            const uint16_t *scale = m->group_scale + (size_t)row * m->group_pitch + k / 32, *zero = scale + m->group_pitch / 2;
            int nibble = ((const uint8_t *)from)[k / 2] >> k % 2 * 4 & 15;
            out[k] = half_to_float(*zero) + (float)(nibble - 8) * half_to_float(*scale);
        }
    }
}

/* ---- 2. Products: a matrix times the vectors of all tokens ------------------------------------------------------- */

/* Round the vector of one token, if the matrix that it is for is one of integers. */
static void prepare(Engine *e, const Matrix *m, int token) {
    Input *in = &e->input;
    if (m->kind < INT8) return;
    e->kernels->quantize(in->numbers + (size_t)token * in->stride, m->wide, m->kind == INT4,
                         in->bytes + (size_t)token * in->stride, in->scale + token,
                         in->group_sums + (size_t)token * in->group_stride, in->total + token);
}

static void multiply_chunk(Engine *e, int chunk, int thread) {
    (void)thread;
    const Matrix *m = e->matrix;
    int from = chunk * e->chunk_rows, to = from + e->chunk_rows < m->tall ? from + e->chunk_rows : m->tall;
    int whole = m->lent ? lent_rows(m) : m->tall;
    if (from < whole)
        e->kernels->products[m->kind](m, &e->input, e->product_count, from, to < whole ? to : whole, e->product, e->product_stride);
    if (to <= whole) return;
    Matrix last = *m; /* its rows and what belongs to them begin at the rows that are not lent */
    last.weights = m->own;
    if (m->scale) last.scale = m->scale + whole;
    if (m->group_scale) last.group_scale = m->group_scale + (size_t)whole * m->group_pitch;
    e->kernels->products[m->kind](&last, &e->input, e->product_count, 0, to - whole, e->product + whole, e->product_stride);
}

/* out (count, stride) = e->input (count, columns) times the rows of the matrix; the bias is left to whoever reads it. */
static void multiply(Engine *e, const Matrix *m, int count, float *out, size_t stride) {
    size_t rows = CHUNK / m->pitch, most = (size_t)m->tall / (size_t)(4 * e->threads);
    rows = rows < most ? rows : most;
    e->matrix = m, e->product = out, e->product_stride = stride, e->product_count = count;
    e->chunk_rows = e->threads == 1 ? m->tall : padded(rows ? (int)rows : 1, ROWS);
    share(e, multiply_chunk, (m->tall + e->chunk_rows - 1) / e->chunk_rows);
}

/* ---- 3. A layer -------------------------------------------------------------------------------------------------- */

/* The norm of a token of the step, as the input `to` of a product. */
static void normalize(Engine *e, const Norm *norm, int token, int to) {
    e->kernels->normalize(e->x + (size_t)token * e->x_stride, norm, e->shape.hidden, (int)e->x_stride, e->shape.eps,
                          e->input.numbers + (size_t)to * e->input.stride);
}

static void before_attention(Engine *e, int token, int thread) {
    (void)thread;
    normalize(e, &e->layer->attention_norm, token, token);
    prepare(e, &e->layer->qkv, token);
}

static float *cache_of(const Engine *e, const Row *row, int layer, int head, int values) {
    size_t one = (size_t)(row->slots + ROWS) * (size_t)e->pitch;
    size_t heads = (size_t)e->shape.kv_heads, layers = (size_t)e->shape.layers;
    return row->cache + (((values ? layers : 0) + (size_t)layer) * heads + (size_t)head) * one;
}

/* Query and key are normalised, if so configured, and turned by the angle of their position; key and value are kept. */
static void turn_and_keep(Engine *e, int number, int thread) {
    (void)thread;
    const Shape *s = &e->shape;
    const Token *token = e->tokens + number;
    const Row *row = e->rows + token->row;
    int size = e->head_size;
    size_t slot = (size_t)(token->position % row->slots) * (size_t)e->pitch, angle = (size_t)(number * size / 2);
    float *from = e->wide + (size_t)number * e->wide_stride;
    for (int i = 0; i < e->layer->qkv.rows; i++) from[i] += e->layer->qkv.bias[i];
    for (int head = 0; head < s->heads + 2 * s->kv_heads; head++, from += size) {
        int key = head - s->heads, value = key - s->kv_heads;
        float *to = e->queries + (size_t)number * e->head_stride + (size_t)head * (size_t)e->pitch;
        if (key >= 0) to = cache_of(e, row, e->number, value >= 0 ? value : key, value >= 0) + slot;
        memcpy(to, from, (size_t)size * sizeof(float));
        if (value >= 0) continue;
        if (s->qk_norm)
            e->kernels->normalize(to, key >= 0 ? &e->layer->key_norm : &e->layer->query_norm, size, e->pitch, s->eps, to);
        e->kernels->rotate(to, e->cosine + angle, e->sine + angle, size);
    }
}

/* The query heads that share a key head look at the last `window` keys of the document, which stand in one or two stretches
 * of the ring. */
static void attend(Engine *e, int chunk, int thread) {
    const Shape *s = &e->shape;
    int number = chunk / s->kv_heads, head = chunk % s->kv_heads, group = s->heads / s->kv_heads;
    const Token *token = e->tokens + number;
    const Row *row = e->rows + token->row;
    int64_t first = s->window && token->position >= s->window ? token->position - s->window + 1 : 0;
    first = first > token->begins ? first : token->begins;
    int64_t count = token->position - first + 1, from = first % row->slots;
    int64_t whole = count < row->slots - from ? count : row->slots - from;
    Stretch stretches[2] = {{from, whole}, {0, count - whole}};
    size_t place = (size_t)number * e->head_stride + (size_t)(head * group) * (size_t)e->pitch;
    e->kernels->attend(e->queries + place, group, cache_of(e, row, e->number, head, 0), cache_of(e, row, e->number, head, 1),
                       (size_t)e->pitch, stretches, 1 / sqrtf((float)e->head_size), e->scores[thread], e->score_room,
                       e->attended + place);
}

static void after_attention(Engine *e, int token, int thread) {
    (void)thread;
    const Matrix *m = &e->layer->output;
    float *to = e->input.numbers + (size_t)token * e->input.stride;
    const float *from = e->attended + (size_t)token * e->head_stride;
    for (int head = 0; head < e->shape.heads; head++, from += e->pitch)
        memcpy(to + head * e->head_size, from, (size_t)e->head_size * sizeof(float));
    memset(to + m->columns, 0, (size_t)(m->wide - m->columns) * sizeof(float));
    prepare(e, m, token);
}

/* x += what a branch computed, and its bias: the residual stream. */
static void add_branch(Engine *e, const Matrix *m, int token) {
    float *x = e->x + (size_t)token * e->x_stride;
    const float *branch = e->wide + (size_t)token * e->wide_stride;
    for (int i = 0; i < m->rows; i++) x[i] += branch[i] + m->bias[i];
}

static void before_feed_forward(Engine *e, int token, int thread) {
    (void)thread;
    add_branch(e, &e->layer->output, token);
    normalize(e, &e->layer->mlp_norm, token, token);
    prepare(e, &e->layer->up, token);
}

static void activate(Engine *e, int token, int thread) {
    (void)thread;
    const Matrix *up = &e->layer->up, *down = &e->layer->down;
    float *from = e->wide + (size_t)token * e->wide_stride, *to = e->input.numbers + (size_t)token * e->input.stride;
    for (int i = 0; i < up->rows; i++) from[i] += up->bias[i];
    e->kernels->activate(from, (Activation)e->shape.activation, e->shape.inner, to);
    memset(to + down->columns, 0, (size_t)(down->wide - down->columns) * sizeof(float));
    prepare(e, down, token);
}

static void after_feed_forward(Engine *e, int token, int thread) {
    (void)thread;
    add_branch(e, &e->layer->down, token);
}

static void compute_layer(Engine *e, int number) {
    const Layer *layer = e->layer = e->layers + number;
    int n = e->count;
    e->number = number;
    share(e, before_attention, n);
    multiply(e, &layer->qkv, n, e->wide, e->wide_stride);
    share(e, turn_and_keep, n);
    share(e, attend, n * e->shape.kv_heads);
    share(e, after_attention, n);
    multiply(e, &layer->output, n, e->wide, e->wide_stride);
    share(e, before_feed_forward, n);
    multiply(e, &layer->up, n, e->wide, e->wide_stride);
    share(e, activate, n);
    multiply(e, &layer->down, n, e->wide, e->wide_stride);
    share(e, after_feed_forward, n);
}

/* ---- 4. All layers, for the tokens in e->tokens ------------------------------------------------------------------ */

/* Make room for `tokens` more positions of a text. A ring that is full doubles, until it holds the window and a block:
 * from there on the newest position takes the slot of the oldest. */
static Status reserve(Engine *e, Row *row, int tokens) {
    int64_t needed = row->length + tokens, most = e->shape.window ? (int64_t)e->shape.window + BLOCK : INT64_MAX;
    int64_t slots = row->slots ? row->slots : SLOTS;
    while (slots < needed && slots < most) slots *= 2;
    slots = slots < most ? slots : most;
    size_t room = (size_t)slots + 2 * PAD, heads = (size_t)(2 * e->shape.layers * e->shape.kv_heads);
    if (room > e->score_room) {
        for (int i = 0; i < e->threads; i++) {
            free(e->scores[i]);
            e->scores[i] = zeros(room * (size_t)(e->shape.heads / e->shape.kv_heads) * sizeof(float));
            if (!e->scores[i]) return e->score_room = 0, NO_MEMORY;
        }
        e->score_room = room;
    }
    if (slots == row->slots) return OK;
    size_t before = (size_t)(row->slots + ROWS) * (size_t)e->pitch, after = (size_t)(slots + ROWS) * (size_t)e->pitch;
    float *cache = zeros(heads * after * sizeof(float));
    if (!cache) return NO_MEMORY;
    for (size_t i = 0; i < heads && row->cache; i++) /* nothing has wrapped round yet: keys keep their slots */
        memcpy(cache + i * after, row->cache + i * before, (size_t)row->slots * (size_t)e->pitch * sizeof(float));
    free(row->cache);
    row->cache = cache, row->slots = slots;
    return OK;
}

static void begin(Engine *e, int number, int thread) {
    (void)thread;
    const Token *token = e->tokens + number;
    look_up(&e->embedding, token->id, e->x + (size_t)number * e->x_stride);
    int half = e->head_size / 2;
    for (int i = 0; i < half; i++) {
        float angle = (float)token->position * e->frequencies[i]; /* sinf is not the same everywhere */
        e->cosine[number * half + i] = (float)cos((double)angle), e->sine[number * half + i] = (float)sin((double)angle);
    }
}

/* Weights that are lent lie in small pages, which costs up to a seventh of the speed; but to copy them costs as much as
 * 170 tokens lose by it. So a short text is computed from where they are; after that, one matrix moves at every step. Of
 * an embedding only rows are read. */
static void move_one(Engine *e) {
    int last = 4 * e->shape.layers, number = e->moved;
    if (number > last || e->steps++ < PATIENCE) return;
    Layer *l = e->layers + number / 4;
    Matrix *head = e->tied ? &e->embedding : &e->head;
    move_matrix(number == last ? head : (Matrix *[]){&l->qkv, &l->output, &l->up, &l->down}[number % 4]);
    e->moved++;
}

/* Compute e->tokens; their rows have room. */
static void compute(Engine *e, int count) {
    move_one(e);
    e->count = count;
    share(e, begin, count);
    for (int layer = 0; layer < e->shape.layers; layer++) compute_layer(e, layer);
    for (int i = 0; i < count; i++) e->rows[e->tokens[i].row].length++;
}

/* ---- 5. The head: e->logits of tokens from .. from + n - 1 of the step -------------------------------------------- */

static void compute_logits(Engine *e, int from, int n) {
    const Matrix *head = e->tied ? &e->embedding : &e->head;
    for (int i = 0; i < n; i++) {
        normalize(e, &e->norm, from + i, i);
        prepare(e, head, i);
    }
    multiply(e, head, n, e->logits, e->logit_stride);
    for (int i = 0; i < n; i++)
        for (int id = 0; id < head->rows; id++) e->logits[(size_t)i * e->logit_stride + (size_t)id] += e->head.bias[id];
}

/* The token of the step that continues a text: the end of a document is seen as the beginning of the next. */
static void put_token(Engine *e, int number, int row, int32_t id, int64_t position) {
    Row *text = e->rows + row;
    if (id == e->shape.document_end) text->begins = position;
    e->tokens[number] = (Token){row, id, position, text->begins};
}

/* Continue a text by n <= BLOCK ids. */
static Status read_block(Engine *e, int row, const int32_t *ids, int n) {
    Status status = reserve(e, e->rows + row, n);
    if (status) return status;
    for (int i = 0; i < n; i++) put_token(e, i, row, ids[i], e->rows[row].length + i);
    compute(e, n);
    return OK;
}

/* ---- What Python calls ------------------------------------------------------------------------------------------------
 * Every function returns a Status. The Python side holds a lock, and looks after sizes and types. */

int engine_version(void) { return VERSION; }

/* The name of the kernels that would be chosen, or NULL. */
const char *engine_kernels(const char *name) {
    const Kernels *found = find_kernels(name);
    return found ? found->name : NULL;
}

static int bad_ids(const Engine *e, const int32_t *ids, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= e->shape.vocab) return 1;
    return 0;
}

typedef struct { /* what changes the logits before they are drawn from */
    Memory *memory; /* or NULL */
    const int32_t *forbidden; /* ids that may not be drawn */
    int32_t forbidden_count;
} Extras;

static int bad_row(const Engine *e, int row) { return row < 0 || row >= e->row_count; }

static void publish(Engine *e, int row, int number) {
    memcpy(e->rows[row].logits, e->logits + (size_t)number * e->logit_stride, (size_t)e->shape.vocab * sizeof(float));
}

int engine_reset(Engine *e, int row) {
    if (bad_row(e, row)) return BAD_ARGUMENT;
    e->rows[row].length = e->rows[row].begins = 0, e->rows[row].pending = -1;
    return OK;
}

/* Compute the token that was drawn last, if it is still to be. */
static Status catch_up(Engine *e, int row) {
    int32_t pending = e->rows[row].pending;
    if (pending < 0) return OK;
    Status status = read_block(e, row, &pending, 1);
    if (status) return status;
    e->rows[row].pending = -1;
    compute_logits(e, 0, 1);
    publish(e, row, 0);
    return OK;
}

/* Continue a text by n ids; the logits of what follows, if `last`. */
int engine_read(Engine *e, int row, const int32_t *ids, int64_t n, int last, float *logits) {
    if (bad_row(e, row) || n < 1 || bad_ids(e, ids, n)) return BAD_ARGUMENT;
    Status status = catch_up(e, row);
    for (int64_t from = 0; !status && from < n; from += BLOCK) {
        int count = n - from < BLOCK ? (int)(n - from) : BLOCK;
        status = read_block(e, row, ids + from, count);
        if (status || !last || from + count < n) continue;
        compute_logits(e, count - 1, 1);
        publish(e, row, 0);
        memcpy(logits, e->rows[row].logits, (size_t)e->shape.vocab * sizeof(float));
    }
    return (int)status;
}

/* One id for each of n different rows -> logits (n, vocab). */
int engine_step(Engine *e, const int32_t *rows, const int32_t *ids, int n, float *logits) {
    if (n < 1 || n > BLOCK || bad_ids(e, ids, n)) return BAD_ARGUMENT;
    for (int i = 0; i < n; i++) {
        if (bad_row(e, rows[i])) return BAD_ARGUMENT;
        for (int j = 0; j < i; j++)
            if (rows[i] == rows[j]) return BAD_ARGUMENT;
    }
    for (int i = 0; i < n; i++) {
        Status status = catch_up(e, rows[i]);
        if (!status) status = reserve(e, e->rows + rows[i], 1);
        if (status) return (int)status;
    }
    for (int i = 0; i < n; i++) put_token(e, i, rows[i], ids[i], e->rows[rows[i]].length);
    compute(e, n);
    compute_logits(e, 0, n);
    size_t vocab = (size_t)e->shape.vocab;
    for (int i = 0; i < n; i++) {
        publish(e, rows[i], i);
        memcpy(logits + (size_t)i * vocab, e->rows[rows[i]].logits, vocab * sizeof(float));
    }
    return OK;
}

/* Let the text of `target` be that of `source`. */
int engine_copy(Engine *e, int source, int target) {
    if (bad_row(e, source) || bad_row(e, target)) return BAD_ARGUMENT;
    Row *from = e->rows + source, *to = e->rows + target;
    if (from == to) return OK;
    size_t heads = (size_t)(2 * e->shape.layers * e->shape.kv_heads);
    size_t size = heads * (size_t)(from->slots + ROWS) * (size_t)e->pitch * sizeof(float);
    if (to->slots != from->slots) {
        float *cache = zeros(size);
        if (!cache) return NO_MEMORY;
        free(to->cache);
        to->cache = cache, to->slots = from->slots;
    }
    if (from->cache) memcpy(to->cache, from->cache, size);
    memcpy(to->logits, from->logits, (size_t)e->shape.vocab * sizeof(float));
    to->length = from->length, to->begins = from->begins, to->pending = from->pending;
    return OK;
}

/* Continue a text by n <= BLOCK ids -> nats (n) of the ids after each, which are given in `next`. */
int engine_score(Engine *e, int row, const int32_t *ids, const int32_t *next, int n, double *nats) {
    if (bad_row(e, row) || n < 1 || n > BLOCK || bad_ids(e, ids, n) || bad_ids(e, next, n)) return BAD_ARGUMENT;
    Status status = catch_up(e, row);
    if (!status) status = read_block(e, row, ids, n);
    if (status) return (int)status;
    compute_logits(e, 0, n);
    for (int i = 0; i < n; i++) {
        float *logits = e->logits + (size_t)i * e->logit_stride, highest = e->kernels->highest(logits, e->shape.vocab);
        double own = (double)logits[next[i]], sum = 0;
        for (int id = 0; id < e->shape.vocab; id++) logits[id] = logits[id] - highest;
        e->kernels->exponentials(logits, e->shape.vocab, 0, 1);
        for (int id = 0; id < e->shape.vocab; id++) sum += (double)logits[id];
        nats[i] = (double)highest + log(sum) - own;
    }
    return OK;
}

/* Whether what is to be drawn from can be drawn from. `forbidden` ids cannot; 0 in *left where there are no others. */
static Status prepare_choice(Engine *e, int row, const Extras *extras, int *left) {
    Choice *c = &e->choice;
    if (!usable(c, e->rows[row].logits)) return NOT_FINITE;
    if (extras->memory) {
        const double *mixed = memory_mix(extras->memory, e->rows[row].logits);
        for (int id = 0; id < c->vocab; id++) c->chosen[id] = (float)log(mixed[id]);
        if (!usable(c, c->chosen)) return NOT_FINITE;
    } else memcpy(c->chosen, e->rows[row].logits, (size_t)c->vocab * sizeof(float));
    for (int i = 0; i < extras->forbidden_count; i++) c->chosen[extras->forbidden[i]] = -INFINITY;
    *left = c->kernels->highest(c->chosen, c->vocab) >= -FLT_MAX;
    return OK;
}

/* Draw up to `count` tokens after those of `row`. `text` holds `length` ids that count as seen and has room for `count`
 * more, which are written behind them; `drawn` is how many there are in the end, fewer where nothing may be drawn. The
 * memory is one of the text, and grows with it. */
int engine_generate(Engine *e, int row, const Sampling *s, const Extras *extras, uint64_t seed, int32_t *text,
                    int64_t length, int64_t start, int count, int *drawn) {
    *drawn = 0;
    int vocab = e->shape.vocab, left;
    if (bad_row(e, row) || count < 1 || length < 0 || s->ngram < 0 || bad_ids(e, text, length)) return BAD_ARGUMENT;
    if (extras->forbidden_count < 0 || bad_ids(e, extras->forbidden, extras->forbidden_count)) return BAD_ARGUMENT;
    if (extras->memory && extras->memory->index.vocab != vocab) return BAD_ARGUMENT;
    if (!e->rows[row].length) return BAD_ARGUMENT; /* there are no logits */
    int64_t window = s->repetition_window < 0 ? INT64_MAX : s->repetition_window;
    int32_t *seen = e->choice.seen, spared = s->spared < vocab ? s->spared : -1;
    memset(seen, 0, (size_t)vocab * sizeof *seen);
    for (int64_t i = length > window ? length - window : 0; i < length; i++) seen[text[i]]++;
    for (; *drawn < count; length++) {
        if (spared >= 0) seen[spared] = 0;
        Status status = catch_up(e, row);
        if (!status) status = prepare_choice(e, row, extras, &left);
        if (status || !left) return (int)status;
        int32_t id = choose(&e->choice, s, text, length, uniform(seed, (uint64_t)(start + *drawn)));
        if (extras->memory) memory_add(extras->memory, &id, 1);
        e->rows[row].pending = text[length] = id;
        ++*drawn, seen[id]++;
        if (length + 1 > window) seen[text[length - window]]--;
    }
    return OK;
}
