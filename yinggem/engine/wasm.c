/* The engine for a browser: engine.c, and what JavaScript calls of it beside engine_matrix, engine_norm, engine_reset and
 * engine_copy. JavaScript knows no structs, so what they hold is handed over one by one; 0 says that something failed.
 *
 * `make wasm` makes engine.wasm of it (build_wasm.py).
 */

#include "engine.c"

enum { TEXTS = 16 }; /* side by side: eight for each of two settings */

void *page_allocate(size_t size) { return malloc(size ? size : 1); }

void page_release(void *memory) { free(memory); }

Engine *page_open(int vocab, int hidden, int layers, int heads, int kv_heads, int inner, int window, int activation,
                  int layer_norm, int qk_norm, int document_end, float eps, const float *frequencies) {
    Shape shape = {vocab, hidden, layers, heads, kv_heads, inner, window, activation, layer_norm, qk_norm,
                   document_end, eps};
    return engine_new(&shape, frequencies, TEXTS, 1, "");
}

/* Continue a text by n <= BLOCK ids. The logits after each of them, `page_stride` numbers apart, if `all`. */
const float *page_read(Engine *e, int row, const int32_t *ids, int n, int all) {
    if (bad_row(e, row) || n < 1 || n > BLOCK || bad_ids(e, ids, n) || catch_up(e, row) || read_block(e, row, ids, n)) return NULL;
    compute_logits(e, all ? 0 : n - 1, all ? n : 1);
    publish(e, row, all ? n - 1 : 0);
    return e->logits;
}

size_t page_stride(const Engine *e) { return e->logit_stride; }

/* The logits of what follows a text. */
const float *page_logits(Engine *e, int row) {
    if (bad_row(e, row) || !e->rows[row].length || catch_up(e, row)) return NULL;
    return e->rows[row].logits;
}

/* What a token may be after these logits: the ids of the likeliest, at most `tops`, their log-probabilities, and behind them
 * that of `id`. How many there are. `room`: page_stride numbers. */
int page_tell(Engine *e, const float *logits, int id, int tops, float *room, int32_t *ids, float *logs) {
    int n = e->shape.vocab, found = 0;
    float highest = e->kernels->highest(logits, n);
    memcpy(room, logits, (size_t)n * sizeof(float));
    float total = highest + (float)log((double)e->kernels->exponentials(room, n, highest, 1));
    for (int other = 0; other < n && tops; other++) {
        if (found == tops && logits[other] <= logits[ids[found - 1]]) continue;
        int at = found < tops ? found++ : tops - 1;
        for (; at && logits[ids[at - 1]] < logits[other]; at--) ids[at] = ids[at - 1];
        ids[at] = other;
    }
    for (int i = 0; i < found; i++) logs[i] = logits[ids[i]] - total;
    logs[found] = logits[id] - total;
    return found;
}

/* ---- What counting the training text knows, where the file holds it (memory.h) ---- */

typedef struct { NgramIndex index; Mixture mixture; } Knowledge;

Knowledge *page_knowledge(int width, int size, int vocab, int longest, int features, int inner, int sources) {
    Knowledge *k = cleared(1, sizeof *k);
    if (!k) return NULL;
    k->index.width = width, k->index.size = size, k->index.vocab = vocab, k->index.longest = longest;
    k->mixture.features = features, k->mixture.inner = inner, k->mixture.sources = sources;
    return k;
}

enum { NAMED = 12 }; /* arrays that have a name */

/* Note an array, which stays where it is: which one, as contents.py orders them. Those behind the named ones are the marks
 * of n-grams of 2, 3 ... ids. */
void page_know(Knowledge *k, int which, const void *array, int count) {
    NgramIndex *x = &k->index;
    Mixture *m = &k->mixture;
    const void **named[] = {&x->ids, (const void **)&x->suffixes, (const void **)&x->firsts, (const void **)&x->alone,
                            (const void **)&x->discounts, (const void **)&m->hidden, (const void **)&m->hidden_bias,
                            (const void **)&m->out, (const void **)&m->out_bias, (const void **)&m->direct};
    int32_t *lists[] = {m->orders, m->brief}, *counts[] = {&m->order_count, &m->brief_count};
    if (which < NAMED - 2) *named[which] = array;
    else if (which < NAMED) {
        *counts[which - NAMED + 2] = count;
        memcpy(lists[which - NAMED + 2], array, (size_t)(count < MAX_ORDERS ? count : MAX_ORDERS) * sizeof(int32_t));
    } else if (which < NAMED + MAX_NGRAM) x->marks[which - NAMED] = array;
}

/* The memory of one text of `length` ids, `share` as strong as it was fitted. typed: ids that are counted as well. */
Memory *page_remember(const Knowledge *k, double share, const int32_t *typed, int n, const int32_t *text, int length) {
    Mixture mixture = k->mixture;
    mixture.share = share;
    Memory *m = memory_new(&k->index, &mixture, typed, n);
    if (m && memory_add(m, text, length)) memory_free(m), m = NULL;
    return m;
}

/* The logs of the probabilities that network and memory have together for what follows, from the network's logits. */
void page_mix(Memory *m, const float *logits, float *logs) {
    const double *mixed = memory_mix(m, logits);
    for (int id = 0; id < m->index.vocab; id++) logs[id] = (float)log(mixed[id]);
}

/* Draw the next id of a text that is `length` ids long, `start` of them drawn, and write it behind them: a Status. The
 * memory, which may be NULL, grows with it. */
int page_draw(Engine *e, int row, int32_t *text, int64_t length, int64_t start, uint64_t seed, float temperature, float top_p,
              float min_p, float typical_p, float penalty, int64_t window, int top_k, int ngram, int spared,
              Memory *memory) {
    Sampling settings = {.temperature = temperature, .top_p = top_p, .min_p = min_p, .typical_p = typical_p,
                         .repetition_penalty = penalty, .top_k = top_k, .ngram = ngram, .spared = spared,
                         .repetition_window = window};
    Extras extras = {.memory = memory};
    int drawn;
    return engine_generate(e, row, &settings, &extras, seed, text, length, start, 1, &drawn);
}
