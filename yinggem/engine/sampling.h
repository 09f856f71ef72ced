/* From logits to the next id: penalty and n-gram filter, temperature, the filters of probability, the draw.
 *
 * As yinggem/inference/filters.py and draws.py. c->kept holds ids in ascending order and c->chosen their logits; a filter
 * makes the lists shorter.
 */

typedef struct { /* as Sampling, with the values that switch a filter off in place of None */
    float temperature, top_p, min_p, typical_p, repetition_penalty;
    int32_t top_k, ngram, spared; /* spared: an id that no penalty touches; -1: none */
    int64_t repetition_window; /* -1: all */
} Sampling;

typedef struct { /* (vocab) each */
    const Kernels *kernels;
    int vocab;
    int32_t *kept, *order;
    int32_t *seen; /* how often an id stands in the repetition window */
    uint8_t *marked;
    float *chosen, *probabilities, *distances;
} Choice;

static void free_choice(Choice *c) {
    void *all[] = {c->kept, c->order, c->seen, c->marked, c->chosen, c->probabilities, c->distances};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* Room for a choice among so many ids; 0 where there is none. */
static int make_choice(Choice *c, const Kernels *kernels, int vocab) {
    size_t size = ((size_t)vocab + 2 * PAD) * sizeof(float);
    c->kernels = kernels, c->vocab = vocab;
    int all = (c->kept = zeros(size)) && (c->order = zeros(size)) && (c->seen = zeros(size)) && (c->marked = zeros(size));
    return all && (c->chosen = zeros(size)) && (c->probabilities = zeros(size)) && (c->distances = zeros(size));
}

/* ---- Heaps --------------------------------------------------------------------------------------------------------- */

static int before(int32_t a, int32_t b, const float *key) { return key[a] > key[b] || (key[a] >= key[b] && a < b); }

/* Move order[at] down until what is below comes after it: `order` is a heap, with the largest key first. */
static void sift(int32_t *order, int n, int at, const float *key) {
    int32_t moving = order[at];
    for (int child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(order[child + 1], order[child], key)) child++;
        if (!before(order[child], moving, key)) break;
        order[at] = order[child];
    }
    order[at] = moving;
}

static void heapify(int32_t *order, int n, const float *key) {
    for (int at = n / 2 - 1; at >= 0; at--) sift(order, n, at, key);
}

/* Take the first off the heap. */
static int32_t take(int32_t *order, int *n, const float *key) {
    int32_t first = order[0];
    order[0] = order[--*n];
    if (*n) sift(order, *n, 0, key);
    return first;
}

/* ---- Filters ------------------------------------------------------------------------------------------------------- */

/* c->probabilities of the n kept ids. */
static void soften(Choice *c, int n) {
    float *p = c->probabilities;
    memcpy(p, c->chosen, (size_t)n * sizeof(float));
    float sum = c->kernels->exponentials(p, n, c->kernels->highest(p, n), 1);
    for (int i = 0; i < n; i++) p[i] /= sum;
}

/* Keep what is marked. */
static int keep(Choice *c, int n) {
    int left = 0;
    for (int i = 0; i < n; i++)
        if (c->marked[i]) c->kept[left] = c->kept[i], c->chosen[left++] = c->chosen[i];
    return left;
}

/* The k likeliest ids, and those as likely as the k-th. */
static int keep_top_k(Choice *c, int n, int k) {
    if (k >= n) return n;
    float *key = c->probabilities; /* negative: the heap of the k largest so far has the least of them first */
    int32_t *order = c->order;
    for (int i = 0; i < n; i++) key[i] = -c->chosen[i];
    for (int i = 0; i < k; i++) order[i] = i;
    heapify(order, k, key);
    for (int i = k; i < n; i++)
        if (key[i] < key[order[0]]) order[0] = i, sift(order, k, 0, key);
    float least = c->chosen[order[0]];
    for (int i = 0; i < n; i++) c->marked[i] = c->chosen[i] >= least;
    return keep(c, n);
}

enum { COARSE = 19, BUCKETS = (0x3f800000 >> COARSE) + 1 }; /* of probabilities up to 1, by exponent and 4 bits behind */

static int bucket_of(float probability) {
    uint32_t bits;
    memcpy(&bits, &probability, sizeof bits);
    return bits >> COARSE < BUCKETS ? (int)(bits >> COARSE) : BUCKETS - 1;
}

/* The smallest set of likeliest ids whose probability reaches p: those with less than p before them. */
static int keep_top_p(Choice *c, int n, float p) {
    soften(c, n);
    const float *key = c->probabilities;
    double mass[BUCKETS] = {0}, sum = 0;
    for (int i = 0; i < n; i++) mass[bucket_of(key[i])] += (double)key[i];
    int bucket = BUCKETS - 1; /* to sort all would take most of the time: some buckets are kept whole */
    while (bucket && sum + mass[bucket] < (double)p - 1e-6) sum += mass[bucket--];
    for (int i = 0; i < n; i++) c->marked[i] = bucket_of(key[i]) > bucket;
    for (int highest = bucket, lowest = bucket, enough = 0; highest >= 0 && !enough; highest = lowest - 1, lowest = 0) {
        int size = 0;
        for (int i = 0; i < n; i++)
            if (bucket_of(key[i]) <= highest && bucket_of(key[i]) >= lowest) c->order[size++] = i;
        heapify(c->order, size, key);
        while (size && !enough) {
            int32_t next = take(c->order, &size, key);
            sum += (double)key[next];
            enough = (float)sum - key[next] >= p;
            c->marked[next] = !enough;
        }
    }
    return keep(c, n);
}

static int keep_min_p(Choice *c, int n, float p) {
    soften(c, n);
    float least = p * c->kernels->highest(c->probabilities, n);
    for (int i = 0; i < n; i++) c->marked[i] = c->probabilities[i] >= least;
    return keep(c, n);
}

/* Ids whose surprise is nearest the entropy, up to mass p (Meister et al. 2022). */
static int keep_typical(Choice *c, int n, float p) {
    soften(c, n);
    float highest = c->kernels->highest(c->chosen, n), farthest = 0;
    double sum = 0, entropy = 0, mass = 0;
    for (int i = 0; i < n; i++) sum += exp((double)(c->chosen[i] - highest));
    float total = highest + (float)log(sum);
    for (int i = 0; i < n; i++) entropy -= (double)((c->chosen[i] - total) * c->probabilities[i]);
    float *key = c->distances; /* negative: the heap has the nearest first */
    for (int i = 0; i < n; i++) key[i] = -fabsf(total - c->chosen[i] - (float)entropy), c->order[i] = i;
    int size = n;
    heapify(c->order, size, key);
    while (size && (float)mass < p) {
        int32_t next = take(c->order, &size, key);
        mass += (double)c->probabilities[next];
        farthest = key[next];
    }
    for (int i = 0; i < n; i++) c->marked[i] = key[i] >= farthest;
    return keep(c, n);
}

/* Divide the logits of ids seen before by the penalty where they are positive, and multiply them where negative. */
static void penalize(Choice *c, float penalty) {
    float *x = c->chosen;
    for (int id = 0; id < c->vocab; id++)
        x[id] = c->seen[id] ? x[id] < 0 ? x[id] * penalty : x[id] / penalty : x[id];
}

/* Keep what may be drawn at all, without the ids that would complete an n-gram that the text has already, unless none
 * would be left. */
static int keep_allowed(Choice *c, const int32_t *text, int64_t length, int ngram) {
    int left = 0, banned = 0;
    for (int id = 0; id < c->vocab; id++)
        if (c->chosen[id] >= -FLT_MAX) c->kept[left] = id, c->chosen[left++] = c->chosen[id];
    if (!ngram || length < ngram - 1) return left;
    memset(c->marked, 1, (size_t)c->vocab); /* of each id first */
    const int32_t *tail = text + length - (ngram - 1);
    for (int64_t i = 0; i + ngram <= length; i++)
        if (!memcmp(text + i, tail, (size_t)(ngram - 1) * sizeof *text)) c->marked[text[i + ngram - 1]] = 0;
    for (int i = 0; i < left; i++) banned += !(c->marked[i] = c->marked[c->kept[i]]); /* kept[i] >= i: still that of an id */
    return banned < left ? keep(c, left) : left;
}

/* ---- The draw ------------------------------------------------------------------------------------------------------ */

/* A uniform number in [0, 1) that follows from seed and position alone (Salmon et al. 2011: Philox4x32-10). */
static double uniform(uint64_t seed, uint64_t position) {
    uint32_t x[4] = {(uint32_t)position, (uint32_t)(position >> 32), 0, 0}, key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * x[0], b = (uint64_t)0xCD9E8D57u * x[2];
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ x[1] ^ key[0], (uint32_t)b, (uint32_t)(a >> 32) ^ x[3] ^ key[1], (uint32_t)a};
        memcpy(x, next, sizeof x);
        key[0] += 0x9E3779B9u, key[1] += 0xBB67AE85u;
    }
    return ((double)(x[0] >> 5) * 67108864.0 + (double)(x[1] >> 6)) / 9007199254740992.0;
}

/* The next id after `text`: the first kept one up to which the probabilities sum to more than the uniform number. */
static int32_t choose(Choice *c, const Sampling *s, const int32_t *text, int64_t length, double number) {
    if (s->repetition_penalty != 1 && s->repetition_window) penalize(c, s->repetition_penalty);
    int n = keep_allowed(c, text, length, s->ngram);
    float highest = c->kernels->highest(c->chosen, n);
    if (s->temperature < 1e-5f) {
        for (int i = 0; i < n; i++)
            if (c->chosen[i] >= highest) return c->kept[i];
    }
    for (int i = 0; i < n; i++) c->chosen[i] = (c->chosen[i] - highest) / s->temperature;
    if (s->top_k) n = keep_top_k(c, n, s->top_k);
    if (s->top_p < 1) n = keep_top_p(c, n, s->top_p);
    if (s->min_p > 0) n = keep_min_p(c, n, s->min_p);
    if (s->typical_p < 1) n = keep_typical(c, n, s->typical_p);
    soften(c, n);
    double total = 0, sum = 0;
    int last = 0;
    for (int i = 0; i < n; i++) total += (double)c->probabilities[i];
    for (int i = 0; i < n; i++) {
        sum += (double)c->probabilities[i];
        if (sum > number * total) return c->kept[i];
        if (c->probabilities[i] > 0) last = i;
    }
    return c->kept[last];
}

/* Whether a token can be drawn from these logits. */
static int usable(const Choice *c, const float *logits) {
    int odd = 0;
    for (int i = 0; i < c->vocab; i++) odd |= logits[i] != logits[i];
    return !odd && fabsf(c->kernels->highest(logits, c->vocab)) <= FLT_MAX;
}
