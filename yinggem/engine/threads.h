/* The threads of an engine: work is taken in chunks from a counter, waiting spins a little and then sleeps. */

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Do one chunk of the job, if there is one that nobody has taken. A thread that is off its processor holds up the chunk
 * it has, and nothing else. */
static int do_chunk(Engine *e, int thread) {
    uint64_t tickets = atomic_load(&e->tickets);
    do {
        if (!(uint32_t)tickets) return 0;
    } while (!atomic_compare_exchange_weak(&e->tickets, &tickets, tickets - 1));
    /* The job cannot end, nor another begin, before this chunk is counted as done: job and chunks stay as they are. */
    int chunks = e->chunks;
    e->job(e, chunks - (int)(uint32_t)tickets, thread);
    if (atomic_fetch_add(&e->done, 1) + 1 == chunks && atomic_load(&e->waiting)) {
        pthread_mutex_lock(&e->mutex);
        pthread_cond_signal(&e->finished);
        pthread_mutex_unlock(&e->mutex);
    }
    return 1;
}

enum { SPINS = 2000 }; /* about 50 microseconds: most waits within a token are shorter */

static void *work(void *argument) {
    Engine *e = argument;
    int thread = atomic_fetch_add(&e->next_thread, 1);
    while (!atomic_load(&e->quit)) {
        if (do_chunk(e, thread)) continue;
        int spins = 0;
        while (spins++ < SPINS && !(uint32_t)atomic_load(&e->tickets)) relax();
        if (spins <= SPINS) continue;
        pthread_mutex_lock(&e->mutex);
        atomic_fetch_add(&e->sleepers, 1);
        while (!(uint32_t)atomic_load(&e->tickets) && !atomic_load(&e->quit)) pthread_cond_wait(&e->work, &e->mutex);
        atomic_fetch_sub(&e->sleepers, 1);
        pthread_mutex_unlock(&e->mutex);
    }
    return NULL;
}

/* Call job(e, chunk, thread) for every chunk, on all threads; returns when all are done. */
static void share(Engine *e, Job *job, int chunks) {
    if (e->threads == 1 || chunks == 1) {
        for (int chunk = 0; chunk < chunks; chunk++) job(e, chunk, 0);
        return;
    }
    e->job = job;
    e->chunks = chunks;
    atomic_store(&e->done, 0);
    uint64_t number = (atomic_load(&e->tickets) >> 32) + 1; /* so that a late exchange finds other tickets */
    atomic_store(&e->tickets, number << 32 | (uint32_t)chunks);
    if (atomic_load(&e->sleepers)) {
        pthread_mutex_lock(&e->mutex);
        pthread_cond_broadcast(&e->work);
        pthread_mutex_unlock(&e->mutex);
    }
    while (do_chunk(e, 0)) {}
    for (int spins = 0; atomic_load(&e->done) < chunks && spins < SPINS; spins++) relax();
    if (atomic_load(&e->done) == chunks) return;
    pthread_mutex_lock(&e->mutex); /* whoever has the last chunk may need this processor */
    atomic_store(&e->waiting, 1);
    while (atomic_load(&e->done) < chunks) pthread_cond_wait(&e->finished, &e->mutex);
    atomic_store(&e->waiting, 0);
    pthread_mutex_unlock(&e->mutex);
}
