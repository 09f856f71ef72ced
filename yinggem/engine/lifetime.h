/* How an engine is made, and freed. */

void engine_free(Engine *e) {
    if (!e) return;
    pthread_mutex_lock(&e->mutex);
    atomic_store(&e->quit, 1);
    pthread_cond_broadcast(&e->work);
    pthread_mutex_unlock(&e->mutex);
    for (int i = 1; i < e->started; i++) pthread_join(e->workers[i], NULL);
    pthread_mutex_destroy(&e->mutex), pthread_cond_destroy(&e->work), pthread_cond_destroy(&e->finished);
    for (int i = 0; e->layers && i < e->shape.layers; i++) {
        Layer *layer = e->layers + i;
        Matrix *matrices[] = {&layer->qkv, &layer->output, &layer->up, &layer->down};
        Norm *norms[] = {&layer->attention_norm, &layer->query_norm, &layer->key_norm, &layer->mlp_norm};
        for (int j = 0; j < 4; j++) free_matrix(matrices[j]), free(norms[j]->weight), free(norms[j]->bias);
    }
    for (int i = 0; e->rows && i < e->row_count; i++) free(e->rows[i].cache), free(e->rows[i].logits);
    for (int i = 0; i < MAX_THREADS; i++) free(e->scores[i]);
    void *rest[] = {e->norm.weight, e->norm.bias, e->layers, e->rows, e->frequencies, e->tokens, e->x, e->queries,
                    e->attended, e->wide, e->cosine, e->sine, e->logits, e->input.numbers, e->input.bytes, e->input.scale,
                    e->input.group_sums, e->input.total};
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) free(rest[i]);
    free_matrix(&e->embedding), free_matrix(&e->head), free_choice(&e->choice);
    free(e);
}

/* Room for everything that does not depend on how weights are kept; false where there is none. */
static int make_room(Engine *e) {
    const Shape *s = &e->shape;
    int qkv = (s->heads + 2 * s->kv_heads) * e->head_size, up = (s->activation == RELU2 ? 1 : 2) * s->inner;
    int widest = qkv > up ? qkv : up, longest = s->hidden > s->inner ? s->hidden : s->inner;
    size_t vocab = (size_t)padded(s->vocab, PAD);
    e->wide_stride = (size_t)padded(widest > s->hidden ? widest : s->hidden, PAD);
    e->x_stride = (size_t)padded(s->hidden, PAD), e->head_stride = (size_t)(s->heads * e->pitch), e->logit_stride = vocab;
    Input *in = &e->input;
    in->stride = (size_t)padded(longest, PAD), in->group_stride = (size_t)padded((int)in->stride / 32, 8);
    int all = (e->layers = zeros((size_t)s->layers * sizeof(Layer))) && (e->tokens = zeros(BLOCK * sizeof(Token)));
    all = all && (e->x = floats(BLOCK * e->x_stride)) && (e->wide = floats(BLOCK * e->wide_stride));
    all = all && (e->queries = floats(BLOCK * e->head_stride)) && (e->attended = floats(BLOCK * e->head_stride));
    all = all && (e->cosine = floats(BLOCK * (size_t)e->head_size)) && (e->sine = floats(BLOCK * (size_t)e->head_size));
    all = all && (in->numbers = floats(BLOCK * in->stride)) && (in->bytes = zeros(BLOCK * in->stride));
    all = all && (in->scale = floats(BLOCK)) && (in->total = zeros(BLOCK * sizeof(int32_t)));
    all = all && (in->group_sums = floats(BLOCK * in->group_stride)) && (e->logits = floats(BLOCK * vocab));
    all = all && make_choice(&e->choice, e->kernels, s->vocab) && (e->frequencies = floats((size_t)e->head_size));
    for (int i = 0; all && i < e->row_count; i++) all = (e->rows[i].logits = floats(vocab)) != NULL;
    return all;
}

/* A new engine without weights, or NULL: there is no memory, or no such kernels. frequencies: (head size / 2). */
Engine *engine_new(const Shape *shape, const float *frequencies, int rows, int threads, const char *kernels) {
    Engine *e = zeros(sizeof *e);
    if (!e) return NULL;
    e->shape = *shape, e->kernels = find_kernels(kernels), e->row_count = rows;
    e->head_size = shape->hidden / shape->heads, e->pitch = padded(e->head_size, 16);
    e->threads = threads < MAX_THREADS ? threads : MAX_THREADS, e->started = 1;
    pthread_mutex_init(&e->mutex, NULL), pthread_cond_init(&e->work, NULL), pthread_cond_init(&e->finished, NULL);
    atomic_store(&e->next_thread, 1);
    e->rows = zeros((size_t)rows * sizeof(Row));
    if (!e->kernels || !e->rows || !make_room(e)) return engine_free(e), NULL;
    memcpy(e->frequencies, frequencies, (size_t)(e->head_size / 2) * sizeof(float));
    for (int i = 0; i < rows; i++) e->rows[i].pending = -1;
    while (e->started < e->threads && !pthread_create(e->workers + e->started, NULL, work, e)) e->started++;
    e->threads = e->started; /* fewer where the system has no more */
    return e;
}
