/* The memory beside the network: what counting the training text, and what a person typed, says of the next token.
 *
 * The same as NgramMemory.distribution (yinggem/memory), for one text that grows; only sums are made in another order.
 * It is plain C11, needs exp, log and malloc, and knows nothing of the engine. Read it downwards:
 *
 *     the text grows -> followers of its last ids in the training text -> and in what was typed -> how much each is
 *     believed -> one distribution
 *
 * Both estimates build a longer context upon the shorter one, P(w | longer) = own(w) + left * P(w | shorter), where few
 * ids have an own part: those that followed the context. So their weighted sum is one dense distribution, that after no
 * context, and a few additions for each context, which makes it cheap whatever the vocabulary.
 *
 * The arrays are numpy's, whose types and shapes Python checks. They come from a file that somebody may have damaged: no
 * number that is read from them is used as an index before it was compared with the size of what it points into.
 */

enum {
    MAX_NGRAM = 8,         /* ids in the longest n-grams of a text */
    MAX_ORDERS = 16,       /* lengths of contexts that are looked for in what was typed */
    MAX_CONTEXT = 32,      /* ids in the longest of them */
    MAX_FEATURES = 64, MAX_INNER = 64, MAX_SOURCES = 16, /* of the mixture */
    SUMMARY = 3,           /* features of the longest context that was found */
    REMEMBERED = 4096,     /* contexts whose followers are kept: the short ones come again and again */
    LEAST_KEPT = 1 << 16,  /* followers that there is room for */
};

typedef struct { /* as NgramIndex */
    const void *ids;          /* (size) of `width` bytes each: 1, 2 or 4 */
    const uint32_t *suffixes; /* (size) */
    const uint32_t *firsts;   /* (vocab + 1) */
    const uint32_t *alone;    /* (vocab) */
    const double *discounts;  /* (longest, 4) */
    const uint64_t *marks[MAX_NGRAM]; /* of each length from 2 on: (size / 64 + 1 or more, 3), the last one (..., 2) */
    int64_t size;
    int32_t width, vocab, longest;
} NgramIndex;

typedef struct { /* as Mixture; hidden (features, inner), hidden_bias, out (inner, sources), out_bias, direct (features, sources) */
    const double *hidden, *hidden_bias, *out, *out_bias, *direct;
    int32_t features, inner, sources;
    int32_t order_count, brief_count;
    int32_t orders[MAX_ORDERS]; /* ids of the contexts that are looked for in what was typed, from 0 upwards */
    int32_t brief[MAX_ORDERS];  /* which of them are a source of their own */
    double share;               /* of what counting has in the fitted mixture */
} Mixture;

typedef struct { uint32_t id, count; } Follower;

typedef struct { /* of one context: all that follows it */
    const Follower *list;
    int64_t different, total;
    double taken; /* by the discounts, from all counts together */
} Followers;

typedef struct { int64_t low, high; } Range; /* of places in the sorted text */

typedef struct { Range range; int32_t length; Followers followers; } Remembered;

typedef struct {
    NgramIndex index;
    Mixture mixture;
    int64_t length;               /* of the text */
    uint32_t recent[MAX_CONTEXT]; /* its last ids, the newest first */
    Range ranges[MAX_NGRAM];      /* where its last 1, 2 ... ids stand in the training text */

    double *alone, *mixed;        /* (vocab): after no context; the result */
    double alone_features[SUMMARY];
    Followers after[MAX_NGRAM];   /* the last 1, 2 ... ids in the training text */
    Remembered *remembered;       /* (REMEMBERED) */
    Follower *kept;               /* their followers */
    int64_t used, room;

    uint32_t *typed;              /* the ids; one that is not to be counted is `vocab` */
    int32_t *firsts, *behind;     /* the places that follow id v: behind[firsts[v]] to behind[firsts[v + 1] - 1] */
    int32_t *places;              /* those behind the context */
    uint32_t *counts;             /* (vocab) zeros */
    Followers typed_after[MAX_ORDERS];
    Follower *typed_kept;
    int64_t typed_used;
} Memory;

void memory_free(Memory *m) {
    if (!m) return;
    void *all[] = {m->alone, m->mixed, m->remembered, m->kept, m->typed, m->firsts, m->behind, m->places, m->counts, m->typed_kept};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    free(m);
}

/* ---- 1. The text grows -------------------------------------------------------------------------------------------- */

/* The id that stands `further` ids behind the place that is sorted to `rank`: the text is a ring. */
static uint32_t id_behind(const NgramIndex *x, int64_t rank, int further) {
    int64_t place = ((int64_t)x->suffixes[rank] + further) % x->size;
    if (x->width == 1) return ((const uint8_t *)x->ids)[place];
    if (x->width == 2) return ((const uint16_t *)x->ids)[place];
    return ((const uint32_t *)x->ids)[place];
}

/* In a range sorted by the ids `depth` behind, the first place where that is not below `id`. */
static int64_t first_not_below(const NgramIndex *x, Range range, int depth, uint32_t id) {
    while (range.low < range.high) {
        int64_t middle = range.low + (range.high - range.low) / 2;
        if (id_behind(x, middle, depth) < id) range.low = middle + 1;
        else range.high = middle;
    }
    return range.low;
}

/* The text goes on. The n-gram that ends in the new id is sorted into the range of the one it makes longer. */
static void grow(Memory *m, uint32_t id) {
    const NgramIndex *x = &m->index;
    for (int length = x->longest - 1; length > 1; length--) {
        Range shorter = m->ranges[length - 1], *range = m->ranges + length;
        range->low = first_not_below(x, shorter, length - 1, id);
        range->high = first_not_below(x, (Range){range->low, shorter.high}, length - 1, id + 1);
    }
    int64_t low = x->firsts[id], high = x->firsts[id + 1];
    m->ranges[1] = low <= high && high <= x->size ? (Range){low, high} : (Range){0, 0};
    memmove(m->recent + 1, m->recent, sizeof m->recent - sizeof *m->recent);
    m->recent[0] = id;
    m->length++;
}

/* Continue the text by n ids, of which the last few count; 1 where one is outside the vocabulary. */
int memory_add(Memory *m, const int32_t *ids, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= m->index.vocab) return 1;
    int64_t from = n > MAX_CONTEXT ? n - MAX_CONTEXT : 0;
    m->length += from;
    for (int64_t i = from; i < n; i++) grow(m, (uint32_t)ids[i]);
    return 0;
}

/* ---- 2. What followed the last ids in the training text ------------------------------------------------------------ */

static int bits_in(uint64_t x) {
    x -= x >> 1 & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    return (int)(((x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu) * 0x0101010101010101u >> 56);
}

static int lowest_bit(uint64_t x) { return bits_in((x & (~x + 1)) - 1); }

/* Note the followers of a context, whose places are `range`: each begins where a size is marked, and ends where the next
 * begins. Its count is how many places there are between, for the longest n-grams, and else how many marks. */
static Followers list_followers(Memory *m, Range range, int length) {
    const NgramIndex *x = &m->index;
    const int longest = length + 1 == x->longest, planes = longest ? 2 : 3;
    const uint64_t *words = x->marks[length - 1];
    Follower *list = m->kept + m->used;
    Followers found = {.list = list};
    int64_t begun = 0, marked = 0; /* marks, or places, before the newest follower, and so far */
    for (int64_t word = range.low / 64; word * 64 < range.high; word++) {
        const uint64_t *here = words + word * planes;
        uint64_t inside = ~(uint64_t)0;
        if (word * 64 < range.low) inside &= ~(uint64_t)0 << range.low % 64;
        if (range.high - word * 64 < 64) inside &= ((uint64_t)1 << range.high % 64) - 1;
        uint64_t starts = (here[0] | here[1]) & inside, counted = longest ? inside : here[2] & inside;
        for (; starts; starts &= starts - 1) {
            int bit = lowest_bit(starts);
            int64_t before = marked + bits_in(counted & (((uint64_t)1 << bit) - 1));
            if (found.different) list[found.different - 1].count = (uint32_t)(before - begun);
            if (found.different == x->vocab) break; /* a damaged index */
            begun = before;
            list[found.different++].id = id_behind(x, word * 64 + bit, length);
        }
        marked += bits_in(counted);
    }
    if (found.different) list[found.different - 1].count = (uint32_t)(marked - begun);
    const double *discounts = x->discounts + 4 * length;
    int64_t kept = 0;
    for (int64_t i = 0; i < found.different; i++) {
        if (list[i].id >= (uint32_t)x->vocab) continue;
        list[kept++] = list[i];
        found.total += list[i].count, found.taken += discounts[list[i].count < 3 ? list[i].count : 3];
    }
    found.different = kept;
    m->used += kept;
    return found;
}

/* m->after[1 ..]: of the last 1, 2 ... ids as far as the training text has them; returns how far that is. */
static int look_up_text(Memory *m) {
    int found = 0, most = m->index.longest - 1;
    int64_t needed = 0;
    for (int length = 1; length <= most; length++) {
        int64_t size = m->ranges[length].high - m->ranges[length].low;
        needed += size < m->index.vocab ? size : m->index.vocab;
    }
    if (m->used + needed > m->room) { /* forget everything */
        memset(m->remembered, 0, REMEMBERED * sizeof *m->remembered);
        m->used = 0;
    }
    for (int length = 1; length <= most; length++) {
        Range range = m->ranges[length];
        if (range.low >= range.high) break;
        uint64_t key = ((uint64_t)range.low * 8 + (uint64_t)length) * 0x9E3779B97F4A7C15u;
        Remembered *known = m->remembered + (key >> 32) % REMEMBERED;
        if (known->length != length || known->range.low != range.low || known->range.high != range.high)
            *known = (Remembered){range, length, list_followers(m, range, length)};
        if (!known->followers.total) break; /* a damaged index */
        m->after[length] = known->followers;
        found = length;
    }
    return found;
}

/* ---- 3. What followed them in what was typed ------------------------------------------------------------------------ */

/* Note the ids at some places of what was typed. */
static Followers count_typed(Memory *m, const int32_t *places, int64_t n) {
    Follower *list = m->typed_kept + m->typed_used;
    Followers found = {.list = list, .total = n};
    for (int64_t i = 0; i < n; i++) {
        uint32_t id = m->typed[places[i]];
        if (!m->counts[id]++) list[found.different++].id = id;
    }
    for (int64_t i = 0; i < found.different; i++) list[i].count = m->counts[list[i].id], m->counts[list[i].id] = 0;
    m->typed_used += found.different;
    return found;
}

/* m->typed_after[1 ..], after contexts of orders[1 ..] ids; returns the last that was found, -1 where nothing was typed. */
static int look_up_typed(Memory *m) {
    const Mixture *mixture = &m->mixture;
    if (!m->typed_after[0].total) return -1;
    if (!m->length) return 0;
    m->typed_used = m->typed_after[0].different;
    int found = 0;
    int32_t longest = mixture->orders[mixture->order_count - 1];
    const int32_t *from = m->behind + m->firsts[m->recent[0]];
    int64_t n = m->firsts[m->recent[0] + 1] - m->firsts[m->recent[0]];
    for (int32_t order = 1; order <= longest && order <= m->length; order++) {
        int64_t left = 0;
        for (int64_t i = 0; i < n; i++) /* of order 1 all stay */
            if (from[i] >= order && m->typed[from[i] - order] == m->recent[order - 1]) m->places[left++] = from[i];
        from = m->places, n = left;
        if (!n) break;
        if (order == mixture->orders[found + 1]) m->typed_after[++found] = count_typed(m, from, n);
    }
    return found;
}

/* ---- 4. How much each is believed ------------------------------------------------------------------------------------ */

static void describe(const Followers *f, int order, double *summary, double *pair) {
    summary[0] = order, summary[1] = log((double)f->total), summary[2] = log((double)f->different);
    pair[0] = log(1 + (double)f->total), pair[1] = log(1 + (double)f->different);
}

/* The weights of network, text and typed, in the order of Mixture, by what is found. */
static void weigh(const Memory *m, int in_text, int in_typed, double *weights) {
    const Mixture *x = &m->mixture;
    double features[MAX_FEATURES] = {0}, inner[MAX_INNER];
    double *pairs = features + 2 * SUMMARY + 1, *typed_pairs = pairs + 2 * (m->index.longest - 1);
    memcpy(features, m->alone_features, sizeof m->alone_features);
    for (int i = 1; i <= in_text; i++) describe(m->after + i, i, features, pairs + 2 * (i - 1));
    for (int i = 0; i <= in_typed; i++) describe(m->typed_after + i, x->orders[i], features + SUMMARY, typed_pairs + 2 * i);
    features[2 * SUMMARY] = log((double)m->length);
    for (int j = 0; j < x->inner; j++) inner[j] = x->hidden_bias[j];
    for (int k = 0; k < x->sources; k++) weights[k] = x->out_bias[k];
    for (int i = 0; i < x->features; i++) {
        double feature = features[i] / 4;
        for (int j = 0; j < x->inner; j++) inner[j] += feature * x->hidden[i * x->inner + j];
        for (int k = 0; k < x->sources; k++) weights[k] += feature * x->direct[i * x->sources + k];
    }
    for (int j = 0; j < x->inner; j++) {
        double value = 1 - 2 / (exp(2 * inner[j]) + 1); /* tanh */
        for (int k = 0; k < x->sources; k++) weights[k] += value * x->out[j * x->sources + k];
    }
    double highest = weights[0], sum = 0, counted = 0;
    for (int k = 1; k < x->sources; k++) highest = weights[k] > highest ? weights[k] : highest;
    for (int k = 0; k < x->sources; k++) sum += weights[k] = exp(weights[k] - highest);
    double most = 1 / (1 - weights[0] / sum), share = x->share < most ? x->share : most;
    for (int k = 1; k < x->sources; k++) counted += weights[k] *= share / sum;
    weights[0] = 1 - counted;
}

/* ---- 5. One distribution ---------------------------------------------------------------------------------------------- */

/* Add what contexts of the training text say, of which `said[n]` is the weight of those of n ids; returns the weight that
 * is left to no context. */
static double add_text(Memory *m, int found, const double *said) {
    double weight = 0;
    for (int length = found; length > 0; length--) {
        const Followers *f = m->after + length;
        const double *discounts = m->index.discounts + 4 * length;
        weight += said[length];
        double each = weight / (double)f->total;
        for (int64_t i = 0; i < f->different; i++) {
            double count = (double)f->list[i].count, own = count - discounts[count < 3 ? (int)count : 3];
            if (own > 0) m->mixed[f->list[i].id] += each * own;
        }
        weight = each * f->taken;
    }
    return weight + said[0];
}

/* The same of what was typed; what is left is spread over all ids. */
static double add_typed(Memory *m, int found, const double *said) {
    double weight = 0;
    for (int place = found; place >= 0; place--) {
        const Followers *f = m->typed_after + place;
        weight += said[place];
        double each = weight / (double)(f->total + f->different);
        for (int64_t i = 0; i < f->different; i++) m->mixed[f->list[i].id] += each * (double)f->list[i].count;
        weight = each * (double)f->different;
    }
    return weight + (found < 0 ? said[0] : 0);
}

/* Of the next token, by the network's logits (vocab) and by counting: probabilities (vocab), which stay as they are until
 * the next call. */
const double *memory_mix(Memory *m, const float *logits) {
    const Mixture *x = &m->mixture;
    int vocab = m->index.vocab, longest = m->index.longest, in_text = look_up_text(m), in_typed = look_up_typed(m);
    double weights[MAX_SOURCES] = {0}, text[MAX_NGRAM] = {0}, typed[MAX_ORDERS] = {0}, sum = 0;
    weigh(m, in_text, in_typed, weights);
    /* A context that was not found says what the longest one says that was. */
    const double *weight = weights + 1;
    text[in_text] += *weight++;
    typed[in_typed < 0 ? 0 : in_typed] += *weight++;
    for (int i = 1; i < longest - 1; i++) text[i < in_text ? i : in_text] += *weight++;
    for (int i = 0; i < x->brief_count; i++) {
        int place = x->brief[i] < in_typed ? x->brief[i] : in_typed;
        typed[place < 0 ? 0 : place] += *weight++;
    }
    float highest = logits[0];
    for (int id = 1; id < vocab; id++) highest = logits[id] > highest ? logits[id] : highest;
    for (int id = 0; id < vocab; id++) sum += m->mixed[id] = exp((double)(logits[id] - highest));
    for (int id = 0; id < vocab; id++) m->mixed[id] *= weights[0] / sum;
    double dense = add_text(m, in_text, text), even = add_typed(m, in_typed, typed) / vocab;
    for (int id = 0; id < vocab; id++) m->mixed[id] += dense * m->alone[id] + even;
    return m->mixed;
}

/* ---- 6. A new one ------------------------------------------------------------------------------------------------------ */

/* Probabilities after no context, and their features; 0 where the counts are of no text. */
static int count_alone(Memory *m) {
    const NgramIndex *x = &m->index;
    double total = 0, taken = 0, different = 0;
    for (int id = 0; id < x->vocab; id++) {
        uint32_t count = x->alone[id];
        total += count, taken += x->discounts[count < 3 ? count : 3], different += count > 0;
    }
    if (total < 1) return 0;
    for (int id = 0; id < x->vocab; id++) {
        double own = x->alone[id] - x->discounts[x->alone[id] < 3 ? x->alone[id] : 3];
        m->alone[id] = ((own > 0 ? own : 0) + taken / x->vocab) / total;
    }
    m->alone_features[1] = log(total), m->alone_features[2] = log(different);
    return 1;
}

/* What was typed: what there is at all, and behind each id. */
static void sort_typed(Memory *m, const int32_t *typed, int64_t n) {
    uint32_t vocab = (uint32_t)m->index.vocab;
    int64_t counted = 0;
    for (int64_t i = 0; i < n; i++) {
        m->typed[i] = typed[i] < 0 || (uint32_t)typed[i] > vocab ? vocab : (uint32_t)typed[i];
        if (m->typed[i] == vocab) continue;
        m->places[counted++] = (int32_t)i;
        if (i && m->typed[i - 1] < vocab) m->firsts[m->typed[i - 1] + 1]++;
    }
    for (uint32_t id = 0; id < vocab; id++) m->firsts[id + 1] += m->firsts[id];
    for (int64_t i = 1; i < n; i++)
        if (m->typed[i] < vocab && m->typed[i - 1] < vocab) m->behind[m->firsts[m->typed[i - 1]]++] = (int32_t)i;
    memmove(m->firsts + 1, m->firsts, vocab * sizeof *m->firsts); /* each has become the first of the next id */
    m->firsts[0] = 0;
    m->typed_after[0] = count_typed(m, m->places, counted);
}

static void *cleared(int64_t count, size_t size) {
    void *memory = malloc((size_t)(count + 1) * size);
    if (memory) memset(memory, 0, (size_t)(count + 1) * size);
    return memory;
}

/* The memory of an empty text, or NULL: there is no room, or the numbers do not belong together. typed: (n), ids of which
 * those from `vocab` on are not counted. */
Memory *memory_new(const NgramIndex *index, const Mixture *mixture, const int32_t *typed, int64_t n) {
    int vocab = index->vocab, orders = mixture->order_count, brief = mixture->brief_count;
    if (index->longest < 2 || index->longest > MAX_NGRAM || vocab < 1 || index->size < 1 || n < 0 || n > INT32_MAX) return NULL;
    if (orders < 2 || orders > MAX_ORDERS || brief < 0 || brief > orders || mixture->inner > MAX_INNER) return NULL;
    if (mixture->features != 2 * SUMMARY + 1 + 2 * (index->longest - 1) + 2 * orders || mixture->features > MAX_FEATURES) return NULL;
    if (mixture->sources != 3 + index->longest - 2 + brief || mixture->sources > MAX_SOURCES) return NULL;
    for (int i = 0; i < orders; i++) /* from 0 in ascending order */
        if (i ? mixture->orders[i] <= mixture->orders[i - 1] || mixture->orders[i] > MAX_CONTEXT : mixture->orders[i] != 0) return NULL;
    for (int i = 0; i < brief; i++)
        if (mixture->brief[i] < 0 || mixture->brief[i] >= orders) return NULL;
    Memory *m = cleared(1, sizeof *m);
    if (!m) return NULL;
    int64_t most = index->size < vocab ? index->size : vocab, each = n < vocab ? n : vocab;
    m->index = *index, m->mixture = *mixture;
    m->room = 4 * most * (index->longest - 1) > LEAST_KEPT ? 4 * most * (index->longest - 1) : LEAST_KEPT;
    m->alone = cleared(vocab, sizeof *m->alone), m->mixed = cleared(vocab, sizeof *m->mixed);
    m->remembered = cleared(REMEMBERED, sizeof *m->remembered), m->kept = malloc((size_t)m->room * sizeof *m->kept);
    m->typed = cleared(n, sizeof *m->typed), m->places = cleared(n, sizeof *m->places), m->behind = cleared(n, sizeof *m->behind);
    m->firsts = cleared(vocab + 1, sizeof *m->firsts), m->counts = cleared(vocab, sizeof *m->counts);
    m->typed_kept = cleared(each * orders, sizeof *m->typed_kept);
    int all = m->alone && m->mixed && m->remembered && m->kept && m->typed && m->places && m->behind;
    if (!all || !m->firsts || !m->counts || !m->typed_kept || !count_alone(m)) return memory_free(m), NULL;
    sort_typed(m, typed, n);
    return m;
}
