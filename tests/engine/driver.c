/* The engine without Python, for sanitizers and other processors: random models, every way of reading a text.
 *
 * It prints what is wrong and returns 1, or prints the kernels it tried. */

#include "engine.c"

static uint64_t state = 1;

static uint32_t draw(uint32_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

static float *random_floats(size_t n, float spread) {
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = ((float)draw(20001) / 10000.0f - 1) * spread;
    return x;
}

static void *lent[1 << 12]; /* weights that stay where they are, until their engine is freed */
static int lent_count;

static void put(Engine *e, int which, int layer, int kind, int rows, int columns) {
    float *weights = random_floats((size_t)rows * (size_t)columns, 0.4f), *bias = random_floats((size_t)rows, 0.1f);
    if (engine_matrix(e, which, layer, kind, FLOAT32, weights, NULL, NULL, bias, 1)) abort();
    free(bias), lent[lent_count++] = weights;
}

static void put_norm(Engine *e, int which, int layer, int size) {
    float *weight = random_floats((size_t)size, 0.9f), *bias = random_floats((size_t)size, 0.1f);
    if (engine_norm(e, which, layer, weight, bias)) abort();
    free(weight), free(bias);
}

static Engine *random_engine(uint64_t seed, int threads, int kind, const char *kernels) {
    state = seed;
    int kv = 1 + (int)draw(3), heads = kv * (1 + (int)draw(2)), size = 2 * (1 + (int)draw(20));
    Shape s = {.vocab = 1 + (int)draw(150), .hidden = heads * size, .layers = 1 + (int)draw(3), .heads = heads, .kv_heads = kv,
               .inner = draw(3) ? 1 + (int)draw(100) : 64, .window = (int)draw(3) * (1 + (int)draw(25)), .activation = (int)draw(3),
               .layer_norm = (int)draw(2), .qk_norm = (int)draw(2), .eps = 1e-6f};
    float *frequencies = random_floats((size_t)size, 1);
    Engine *e = engine_new(&s, frequencies, 3, threads, kernels);
    free(frequencies);
    if (!e) abort();
    int up = (s.activation == RELU2 ? 1 : 2) * s.inner, qkv = (heads + 2 * kv) * size;
    int by_hidden = kind == INT4 && s.hidden % 32 ? INT8 : kind, by_inner = kind == INT4 && s.inner % 32 ? INT8 : kind;
    put(e, EMBEDDING, 0, by_hidden, s.vocab, s.hidden);
    if (draw(2)) put(e, HEAD, 0, by_hidden, s.vocab, s.hidden);
    else if (engine_matrix(e, HEAD, 0, FLOAT32, FLOAT32, NULL, NULL, NULL, NULL, 0)) abort();
    put_norm(e, LAST_NORM, 0, s.hidden);
    for (int i = 0; i < s.layers; i++) {
        put(e, QKV, i, by_hidden, qkv, s.hidden), put(e, OUTPUT, i, by_hidden, s.hidden, s.hidden);
        put(e, UP, i, by_hidden, up, s.hidden), put(e, DOWN, i, by_inner, s.hidden, s.inner);
        put_norm(e, ATTENTION_NORM, i, s.hidden), put_norm(e, MLP_NORM, i, s.hidden);
        put_norm(e, QUERY_NORM, i, size), put_norm(e, KEY_NORM, i, size);
    }
    return e;
}

typedef struct { /* of a memory whose numbers mean nothing, as those of a damaged file */
    uint32_t *ids, *suffixes, *firsts, *alone;
    double *numbers; /* of the mixture, and discounts */
    uint64_t *marks;
} Garbage;

static uint32_t *random_integers(size_t n, uint32_t below) {
    uint32_t *x = malloc((n + 1) * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = draw(below);
    return x;
}

static Memory *random_memory(int vocab, Garbage *g) {
    enum { NUMBERS = MAX_FEATURES * (MAX_INNER + MAX_SOURCES) };
    int size = 1 + (int)draw(3000), longest = 2 + (int)draw(6), words = size / 512 * 8 + 8;
    uint32_t limits[] = {(uint32_t)vocab, (uint32_t)size, 0x7fffffff};
    g->ids = random_integers((size_t)size, limits[draw(2) * 2]), g->suffixes = random_integers((size_t)size, limits[1 + draw(2)]);
    g->firsts = random_integers((size_t)vocab + 1, limits[1 + draw(2)]), g->alone = random_integers((size_t)vocab, 9);
    g->alone[0]++;
    g->marks = malloc((size_t)words * 3 * sizeof *g->marks), g->numbers = malloc(NUMBERS * sizeof *g->numbers);
    for (int i = 0; i < words * 3; i++) g->marks[i] = (uint64_t)draw(1u << 31) << 33 | (uint64_t)draw(1u << 31) << 2 | draw(4);
    for (int i = 0; i < NUMBERS; i++) g->numbers[i] = (double)draw(1000) / 1000; /* discounts as well: below 1 */
    NgramIndex index = {.ids = g->ids, .suffixes = g->suffixes, .firsts = g->firsts, .alone = g->alone, .discounts = g->numbers,
                        .size = size, .width = 1 << draw(3), .vocab = vocab, .longest = longest};
    for (int i = 0; i < MAX_NGRAM; i++) index.marks[i] = g->marks;
    Mixture mixture = {.hidden = g->numbers, .hidden_bias = g->numbers, .out = g->numbers, .out_bias = g->numbers,
                       .direct = g->numbers, .features = 2 * SUMMARY + 1 + 2 * (longest - 1) + 2 * 4, .inner = 16,
                       .sources = 3 + longest - 2 + 2, .order_count = 4, .brief_count = 2, .orders = {0, 1, 2, 5},
                       .brief = {1, 2}, .share = (double)draw(3)};
    int32_t *typed = (int32_t *)random_integers(200, (uint32_t)vocab + 1);
    Memory *m = memory_new(&index, &mixture, typed, draw(200));
    free(typed);
    if (!m) abort();
    return m;
}

static void free_garbage(Memory *m, Garbage *g) {
    memory_free(m);
    free(g->ids), free(g->suffixes), free(g->firsts), free(g->alone), free(g->numbers), free(g->marks);
}

static int wrong(const char *what, uint64_t seed, int kind, const char *kernels) {
    printf("%s: seed %llu, kind %d, kernels %s\n", what, (unsigned long long)seed, kind, kernels);
    return 1;
}

enum { LENGTH = 100 };

/* One model in all ways; logits (vocab) of the last id of a text are left in `last`. */
static int try_engine(uint64_t seed, int threads, int kind, const char *kernels, float *last) {
    Engine *e = random_engine(seed, threads, kind, kernels);
    int vocab = e->shape.vocab, cut = 1 + (int)draw(LENGTH - 1), drawn, failed = 0;
    int32_t ids[LENGTH], text[LENGTH + 40], rows[2] = {1, 2};
    float *two = malloc(2 * (size_t)vocab * sizeof *two);
    double nats[BLOCK];
    memset(last, 0, 256 * sizeof *last);
    for (int i = 0; i < LENGTH; i++) text[i] = ids[i] = (int32_t)draw((uint32_t)vocab);
    engine_read(e, 0, ids, LENGTH, 1, last);
    engine_read(e, 1, ids, cut, 0, NULL);
    engine_copy(e, 1, 2);
    for (int i = cut; i < LENGTH; i++) engine_step(e, rows, (int32_t[]){ids[i], ids[0]}, 2, two);
    if (cut < LENGTH && memcmp(two, last, (size_t)vocab * sizeof *two)) failed = wrong("steps differ from blocks", seed, kind, kernels);
    engine_reset(e, 2);
    engine_score(e, 2, ids, ids + 1, BLOCK, nats);
    for (int i = 0; i < BLOCK; i++)
        if (!(nats[i] >= -1e-4)) failed = wrong("negative nats", seed, kind, kernels);
    Sampling s = {.temperature = (float)draw(3) / 2, .top_k = (int)draw(2) * 9, .top_p = draw(2) ? 0.85f : 1,
                  .min_p = draw(2) ? 0.01f : 0, .typical_p = draw(2) ? 0.9f : 1, .repetition_penalty = draw(2) ? 1.2f : 1,
                  .ngram = (int)draw(4), .spared = (int)draw(3) - 1, .repetition_window = (int)draw(3) - 1};
    Garbage garbage;
    Memory *memory = random_memory(vocab, &garbage);
    if (memory_add(memory, ids, LENGTH) || !memory_add(memory, &vocab, 1)) failed = wrong("no memory", seed, kind, kernels);
    if (engine_generate(e, 0, &s, &(Extras){0}, seed, text, LENGTH, 0, 20, &drawn) || drawn != 20)
        failed = wrong("no text", seed, kind, kernels);
    if (engine_generate(e, 0, &s, &(Extras){.memory = memory}, seed, text, LENGTH + 20, 20, 19, &drawn) || drawn != 19)
        failed = wrong("no text with a memory", seed, kind, kernels);
    int32_t *all = malloc((size_t)vocab * sizeof *all);
    for (int i = 0; i < vocab; i++) all[i] = i;
    Extras extras = {memory, all, vocab - (int32_t)draw(2)};
    if (engine_generate(e, 0, &s, &extras, seed, text, LENGTH + 39, 39, 1, &drawn) ||
        (drawn && text[LENGTH + 39] != vocab - 1) || drawn != vocab - extras.forbidden_count)
        failed = wrong("a forbidden id was drawn", seed, kind, kernels);
    free(all), free_garbage(memory, &garbage);
    if (!engine_read(e, 3, ids, 1, 0, NULL) || !engine_read(e, 0, (int32_t[]){vocab}, 1, 0, NULL) ||
        !engine_step(e, (int32_t[]){1, 1}, ids, 2, two) || !engine_copy(e, 0, -1))
        failed = wrong("a mistake went through", seed, kind, kernels);
    free(two);
    engine_free(e);
    while (lent_count) free(lent[--lent_count]);
    return failed;
}

int main(int count, char **arguments) {
    const char *names[] = {"avx2", "avx512", "avx512vnni", "neon"};
    int models = count > 1 ? atoi(arguments[1]) : 2, threads = count > 2 ? atoi(arguments[2]) : 3, failed = 0;
    static float plain[256], other[256];
    for (int model = 0; model < models; model++)
        for (int kind = FLOAT32; kind <= INT4; kind++) {
            uint64_t seed = (uint64_t)(model * 4 + kind + 1);
            failed |= try_engine(seed, threads, kind, "plain", plain);
            for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
                if (!engine_kernels(names[i])) continue;
                failed |= try_engine(seed, threads, kind, names[i], other);
                float spread = 0, apart = 0;
                for (int j = 0; j < 150; j++) spread = fmaxf(spread, fabsf(plain[j])), apart = fmaxf(apart, fabsf(plain[j] - other[j]));
                if (!(apart <= (kind < INT8 ? 1e-3f : kind == INT8 ? 0 : 0.1f) * spread)) failed = wrong("not as plain", seed, kind, names[i]);
            }
        }
    printf("plain");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (engine_kernels(names[i])) printf(" %s", names[i]);
    printf("\n");
    return failed;
}
