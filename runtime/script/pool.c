/* pool.c - workers as the trainer sees them: start, ask, feed with completions, kill at the deadline, replay.
 *
 * Scoring: jobs wait in `pending`, go out in frames of a few, and come back one by one in the order they were sent, so
 * that after a death the first unanswered job is the suspect. It is replayed alone, one reward at a time; only a reward
 * that misses the deadline alone, or ends as many workers as there are, is guilty. All others go back to the queue.
 * Which worker scores what never changes a result. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/log.h"
#include "script/pool_impl.h"

enum { MAX_RESPAWNS = 4096, MAX_ROW_BYTES = 16 << 20 };

/* --- one worker --- */

mr_status mr_peer_start(mr_pool *p, mr_peer *peer, mr_err *err) {
    static const char *const argv[] = { "--worker", NULL };
    memset(peer, 0, sizeof *peer);
    MR_TRY(mr_proc_spawn(&peer->proc, argv, NULL, err));
    mr_wire_init(&peer->wire, peer->proc.fd);
    peer->alive = true;
    mr_str s = { 0 };
    mr_put_i64(&s, (int64_t)p->opts.memory_bytes);
    mr_wire_put(&peer->wire, MR_WIRE_START, s.data, s.len);
    mr_str_clear(&s);
    return MR_OK;
}

void mr_peer_stop(mr_peer *peer) {
    if (peer->proc.pid) mr_proc_kill(&peer->proc);
    mr_wire_clear(&peer->wire);
    peer->alive = false;
    peer->n_flight = 0;
    peer->proc = (mr_proc){ 0, -1 };
}

static void send_text(mr_version *v, mr_peer *peer, const mr_frame *f) {
    char module[256];
    size_t n = f->len < sizeof module - 1 ? f->len : sizeof module - 1;
    memcpy(module, f->data, n);
    module[n] = 0;
    const mr_text *x;
    mr_err err;
    mr_str s = { 0 };
    bool found = mr_texts_get(&v->texts, module, &x, &err) == MR_OK;
    mr_put_u8(&s, found);
    const char *name = found ? x->pub.name : err.msg;
    mr_put_bytes(&s, name, strlen(name));
    if (found) mr_put_bytes(&s, x->pub.text, x->pub.len);
    if (!mr_wire_send(&peer->wire, MR_WIRE_TEXT, s.data, s.len, -1)) peer->alive = false;
    mr_str_clear(&s);
}

/* A worker may read rows of data files and nothing else: the name says what it is, and it has to be a plain file. */
static int open_data_file(const char *path, mr_err *err) {
    static const char *const ends[] = { ".jsonl", ".ndjson", ".json", ".csv", ".tsv" };
    const char *dot = strrchr(path, '.');
    bool known = false;
    for (size_t i = 0; dot && i < sizeof ends / sizeof ends[0]; i++) known = known || strcasecmp(dot, ends[i]) == 0;
    if (!known) {
        mr_fail(err, MR_EINVAL, "%s: not a data file that medrl reads; want .jsonl, .json, .csv or .tsv", path);
        return -1;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && path[0] != '/') {
        char *at_home = mr_path_join(mr_home_dir(), path);
        fd = open(at_home, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        mr_free(at_home);
    }
    if (fd < 0) {
        if (errno == ENOENT)
            mr_fail(err, MR_ENOTFOUND, "%s: no such file here or in %s", path, mr_home_dir());
        else
            mr_fail_errno(err, "%s", path);
        return -1;
    }
    struct stat s;
    if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode)) {
        mr_fail(err, MR_EINVAL, "%s: not a plain file", path);
        close(fd);
        return -1;
    }
    return fd;
}

static void send_file(mr_peer *peer, const mr_frame *f) {
    char path[1024];
    size_t n = f->len < sizeof path - 1 ? f->len : sizeof path - 1;
    memcpy(path, f->data, n);
    path[n] = 0;
    mr_err err;
    int fd = open_data_file(path, &err);
    mr_str s = { 0 };
    mr_put_u8(&s, fd >= 0);
    const char *name = fd >= 0 ? path : err.msg;
    mr_put_bytes(&s, name, strlen(name));
    if (!mr_wire_send(&peer->wire, MR_WIRE_FILE, s.data, s.len, fd)) peer->alive = false;
    if (fd >= 0) close(fd);
    mr_str_clear(&s);
}

bool mr_peer_serve(mr_version *v, mr_peer *peer, const mr_frame *f) {
    switch (f->type) {
    case MR_WIRE_NEED_TEXT: send_text(v, peer, f); return true;
    case MR_WIRE_NEED_FILE: send_file(peer, f); return true;
    case MR_WIRE_TICK: return true;
    case MR_WIRE_LOG: {
        mr_take t = mr_take_frame(f);
        uint32_t level = mr_take_u32(&t);
        char line[4200];
        mr_take_string(&t, line, sizeof line);
        for (char *c = line; *c; c++) {
            if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = ' '; /* a script does not draw on the terminal */
        }
        if (level == MR_LOG_WARN)
            mr_warn("script: %s", line);
        else if (level == MR_LOG_DEBUG)
            mr_debug("script: %s", line);
        else
            mr_info("script: %s", line);
        return true;
    }
    default: return false;
    }
}

/* Milliseconds until `at`, for poll: never 0 before it is reached. */
static int ms_until(double at, double now) {
    double ms = ceil((at - now) * 1000);
    return ms <= 0 ? 0 : ms > 60000 ? 60000 : (int)ms;
}

mr_status mr_peer_call(mr_pool *p, mr_version *v, mr_peer *peer, mr_wire_type type, const mr_str *body, double limit_s,
                       mr_frame *reply, mr_err *err) {
    (void)p;
    if (body->len > MR_WIRE_MAX_BYTES)
        return mr_fail(err, MR_EINVAL, "a command of %zu bytes is too long for a worker", body->len);
    mr_wire_put(&peer->wire, type, body->data, body->len);
    if (!mr_wire_flush(&peer->wire, true)) peer->alive = false;
    double since = mr_now_s();
    while (peer->alive) {
        mr_frame f;
        int got = mr_wire_next(&peer->wire, &f);
        if (got < 0) break;
        if (got > 0) {
            since = mr_now_s();
            if (mr_peer_serve(v, peer, &f)) continue;
            if (f.type == MR_WIRE_REPLY) {
                *reply = f;
                return MR_OK;
            }
            if (f.type != MR_WIRE_ERROR) break;
            mr_take t = mr_take_frame(&f);
            mr_status st = (mr_status)(int32_t)mr_take_u32(&t);
            char text[1024];
            mr_take_string(&t, text, sizeof text);
            if (st >= 0 || st < MR_ENOTFOUND) st = MR_EINTERNAL;
            return mr_fail(err, st, "%s", text);
        }
        struct pollfd pf = { .fd = peer->wire.fd, .events = POLLIN };
        int n = poll(&pf, 1, ms_until(since + limit_s, mr_now_s()));
        if (n < 0 && errno != EINTR) break;
        if (n == 0 && mr_now_s() - since >= limit_s) {
            mr_peer_stop(peer);
            return mr_fail(err, MR_EAGAIN, "no answer for %.3g s; the worker was killed", limit_s);
        }
        if (n > 0 && !mr_wire_fill(&peer->wire, false)) break;
    }
    int status = mr_proc_kill(&peer->proc);
    char how[64];
    mr_proc_describe(how, sizeof how, status);
    mr_peer_stop(peer);
    return mr_fail(err, MR_EAGAIN, "the worker ended (%s)", how);
}

/* --- the queue --- */

static void push_back(mr_pool *p, mr_pool_job *job) {
    if (p->n_pending == p->cap_pending) {
        p->cap_pending = p->cap_pending ? 2 * p->cap_pending : 256;
        p->pending = mr_realloc(p->pending, (size_t)p->cap_pending * sizeof *p->pending);
    }
    p->pending[p->n_pending++] = job;
}

static void push_front(mr_pool *p, mr_pool_job *job) {
    if (p->pending_head > 0) {
        p->pending[--p->pending_head] = job;
        return;
    }
    push_back(p, job);
    memmove(p->pending + 1, p->pending, (size_t)(p->n_pending - 1) * sizeof *p->pending);
    p->pending[0] = job;
}

static void add_fault(mr_pool *p, const mr_pool_job *job, int reward, const char *text) {
    p->n_faults++;
    if (!*text) return; /* a group's fault is told once */
    if (p->n_fault_texts == p->cap_faults) {
        if (p->cap_faults >= 256) return; /* counted, not described */
        p->cap_faults = p->cap_faults ? 2 * p->cap_faults : 16;
        p->faults = mr_realloc(p->faults, (size_t)p->cap_faults * sizeof *p->faults);
    }
    mr_fault *f = &p->faults[p->n_fault_texts++];
    f->id = job->in.id;
    f->reward = reward;
    if (job->members)
        snprintf(f->text, sizeof f->text, "%.400s (the %d samples of a group, from sample %lld on)", text,
                 job->n_members, (long long)job->in.id);
    else
        snprintf(f->text, sizeof f->text, "%.440s (sample %lld)", text, (long long)job->in.id);
}

static int n_waiting(const mr_pool *p) {
    return p->n_pending - p->pending_head;
}

/* Gives an idle or nearly idle worker its next frame. A job that is replayed goes alone. */
static void feed(mr_pool *p, mr_peer *peer) {
    if (!peer->alive || n_waiting(p) == 0 || peer->n_flight > MR_FEED_JOBS / 4) return;
    int n_scorers = p->opts.n_workers;
    int want = (n_waiting(p) + 2 * n_scorers - 1) / (2 * n_scorers);
    if (want > MR_FEED_JOBS) want = MR_FEED_JOBS;
    bool alone = p->pending[p->pending_head]->single >= 0;
    if (peer->n_flight > 0 && (alone || peer->flight[0]->single >= 0)) return;
    mr_str s = { 0 };
    mr_put_u32(&s, 0);
    int n = 0;
    while (n < want && n_waiting(p) > 0) {
        mr_pool_job *job = p->pending[p->pending_head];
        if (n > 0 && (job->single >= 0 || s.len > MR_FEED_BYTES)) break;
        mr_pool_put_job(&s, job);
        p->pending_head++;
        if (peer->n_flight == 0) peer->since = mr_now_s();
        peer->flight[peer->n_flight++] = job;
        n++;
        if (job->single >= 0) break;
    }
    uint32_t count = (uint32_t)n;
    memcpy(s.data, &count, sizeof count);
    mr_wire_put(&peer->wire, MR_WIRE_SCORE, s.data, s.len);
    mr_str_clear(&s);
    if (p->pending_head == p->n_pending) p->pending_head = p->n_pending = 0;
}

/* Takes one answer in. False: it does not fit what was asked. */
static bool take_scored(mr_pool *p, mr_peer *peer, const mr_frame *f) {
    if (peer->n_flight == 0) return false;
    mr_pool_job *job = peer->flight[0];
    mr_take t = mr_take_frame(f);
    if (!mr_pool_take_scores(p, job, &t, add_fault)) return false;
    memmove(peer->flight, peer->flight + 1, (size_t)--peer->n_flight * sizeof peer->flight[0]);
    peer->since = mr_now_s();
    job->n_deaths = 0;
    if (job->single >= 0) job->single = mr_pool_own_reward(p, job, job->single + 1);
    if (job->single >= 0 && job->single < p->v->n_rewards)
        push_front(p, job);
    else
        p->n_done++;
    return true;
}

/* A worker died or was killed: finds the suspect, puts the rest back, starts another. */
static mr_status replace(mr_pool *p, mr_peer *peer, bool late, mr_err *err) {
    char how[96];
    int status = mr_proc_kill(&peer->proc);
    if (late)
        snprintf(how, sizeof how, "no answer within %.3g s; the worker was killed", p->opts.deadline_s);
    else {
        char what[64];
        mr_proc_describe(what, sizeof what, status);
        snprintf(how, sizeof how, "the worker ended (%s)", what);
    }
    for (int i = peer->n_flight - 1; i > 0; i--) push_front(p, peer->flight[i]);
    if (peer->n_flight > 0) {
        mr_pool_job *job = peer->flight[0];
        if (job->single < 0) {
            job->single = mr_pool_own_reward(p, job, 0); /* only a suspect yet */
        } else if (!late && ++job->n_deaths < p->opts.n_workers) {
            /* Once more: as many workers may have been ended from outside before one of them saw the job. */
        } else {
            char text[256];
            snprintf(text, sizeof text, "%s: %s", p->v->places[job->single], how);
            mr_pool_give_up(p, job, text, add_fault);
            job->single = mr_pool_own_reward(p, job, job->single + 1);
            job->n_deaths = 0;
        }
        if (job->single < p->v->n_rewards)
            push_front(p, job);
        else
            p->n_done++;
    }
    mr_peer_stop(peer);
    if (++p->n_respawns > MAX_RESPAWNS)
        return mr_fail(err, MR_EAGAIN,
                       "%s: workers ended %d times in one batch (last: %s); check the rewards with `medrl test`",
                       p->display, p->n_respawns, how);
    MR_TRY(mr_peer_start(p, peer, err));
    mr_frame reply;
    mr_status st = mr_peer_load(p, p->v, peer, false, &reply, err);
    return st == MR_OK ? MR_OK : mr_wrap(err, st, "%s: starting a new worker after \"%s\"", p->display, how);
}

/* Moves what can be moved. wait: returns after something came in or a deadline passed, at the latest. */
static mr_status pump(mr_pool *p, bool wait, mr_err *err) {
    struct pollfd pf[64];
    int n = p->opts.n_workers;
    double now = mr_now_s(), next = now + 60;
    for (int i = 0; i < n; i++) {
        mr_peer *peer = &p->v->peers[i];
        if (!peer->alive) MR_TRY(replace(p, peer, false, err));
        feed(p, peer);
        if (!mr_wire_flush(&peer->wire, false)) MR_TRY(replace(p, peer, false, err));
        pf[i] = (struct pollfd){ .fd = peer->wire.fd, .events = POLLIN };
        if (peer->wire.out.len > 0) pf[i].events |= POLLOUT;
        if (peer->n_flight > 0 && peer->since + p->opts.deadline_s < next) next = peer->since + p->opts.deadline_s;
    }
    int ready = poll(pf, (nfds_t)n, wait ? ms_until(next, now) : 0);
    if (ready < 0 && errno != EINTR) return mr_fail_errno(err, "waiting for workers");
    for (int i = 0; i < n; i++) {
        mr_peer *peer = &p->v->peers[i];
        bool down = false;
        if (ready > 0 && (pf[i].revents & (POLLIN | POLLHUP | POLLERR))) {
            down = !mr_wire_fill(&peer->wire, false);
            mr_frame f;
            int got;
            while ((got = mr_wire_next(&peer->wire, &f)) > 0) {
                if (mr_peer_serve(p->v, peer, &f)) continue;
                if (f.type != MR_WIRE_SCORED || !take_scored(p, peer, &f)) {
                    got = -1; /* a worker that answers what was not asked is no longer trusted */
                    break;
                }
            }
            down = down || got < 0 || !peer->alive;
        }
        if (down)
            MR_TRY(replace(p, peer, false, err));
        else if (peer->n_flight > 0 && mr_now_s() - peer->since >= p->opts.deadline_s)
            MR_TRY(replace(p, peer, true, err));
    }
    return MR_OK;
}

/* --- the scorer --- */

/* At most max bytes, not in the middle of a character. */
static size_t cut(const char *text, size_t len, size_t max) {
    if (len <= max) return len;
    while (max > 0 && ((unsigned char)text[max] & 0xC0) == 0x80) max--;
    return max;
}

static void submit_unit(mr_pool *p, mr_pool_job *job) {
    p->n_units++;
    push_back(p, job);
}

static mr_status scorer_submit(void *self, const mr_score_job *in, mr_err *err) {
    mr_pool *p = self;
    if (strlen(in->row_json) > MAX_ROW_BYTES) return mr_fail(err, MR_EDATA, "a data row has more than 16 MiB");
    mr_pool_job *job = mr_arena_alloc(&p->arena, sizeof *job);
    job->in = *in;
    job->in.len = cut(in->text, in->len, MR_WIRE_TEXT_MAX);
    job->in.text = mr_arena_strdup(&p->arena, in->text, job->in.len);
    const char *prompt = in->prompt ? in->prompt : "";
    job->in.prompt = mr_arena_strdup(&p->arena, prompt, cut(prompt, strlen(prompt), MR_WIRE_TEXT_MAX));
    job->in.row_json = mr_arena_strdup(&p->arena, in->row_json, strlen(in->row_json));
    job->single = -1;
    job->scores = mr_arena_alloc(&p->arena, (size_t)(p->v->n_rewards + 1) * sizeof *job->scores);
    if (p->n_jobs == p->cap_jobs) {
        p->cap_jobs = p->cap_jobs ? 2 * p->cap_jobs : 256;
        p->jobs = mr_realloc(p->jobs, (size_t)p->cap_jobs * sizeof *p->jobs);
    }
    p->jobs[p->n_jobs++] = job;
    mr_pool_job *group = p->v->n_batch > 0 ? mr_group_add(p, job) : NULL;
    if (p->v->n_rewards > p->v->n_batch) submit_unit(p, job);
    if (group) submit_unit(p, group);
    return n_waiting(p) >= MR_FEED_JOBS / 2 ? pump(p, false, err) : MR_OK;
}

static mr_status scorer_collect(void *self, mr_score *scores, int n_jobs, mr_fault *faults, int max_faults,
                                int *n_faults, mr_err *err) {
    mr_pool *p = self;
    mr_status st = MR_OK;
    if (n_jobs != p->n_jobs)
        st = mr_fail(err, MR_EINTERNAL, "collect() of %d jobs, %d were submitted", n_jobs, p->n_jobs);
    for (mr_pool_job *group; (group = mr_group_rest(p));) submit_unit(p, group);
    while (st == MR_OK && p->n_done < p->n_units) st = pump(p, true, err);
    int n_rewards = p->v->n_rewards;
    for (int i = 0; st == MR_OK && i < p->n_jobs; i++) {
        const mr_pool_job *job = p->jobs[i];
        if (job->in.id < 0 || job->in.id >= n_jobs)
            st = mr_fail(err, MR_EINTERNAL, "a job has id %lld, want 0 to %d", (long long)job->in.id, n_jobs - 1);
        else
            memcpy(scores + job->in.id * n_rewards, job->scores, (size_t)n_rewards * sizeof *scores);
    }
    /* by sample and reward: which worker was first must not show */
    for (int i = 1; i < p->n_fault_texts; i++) {
        mr_fault f = p->faults[i];
        int j = i;
        for (; j > 0 &&
               (p->faults[j - 1].id > f.id || (p->faults[j - 1].id == f.id && p->faults[j - 1].reward > f.reward));
             j--)
            p->faults[j] = p->faults[j - 1];
        p->faults[j] = f;
    }
    int n = p->n_fault_texts < max_faults ? p->n_fault_texts : max_faults;
    if (faults && n > 0) memcpy(faults, p->faults, (size_t)n * sizeof *faults);
    if (n_faults) *n_faults = p->n_faults;
    if (st != MR_OK) {
        /* Jobs still under way belong to the batch that is dropped: their workers go with it. */
        for (int i = 0; i < p->opts.n_workers; i++) {
            if (p->v->peers[i].n_flight > 0) mr_peer_stop(&p->v->peers[i]);
        }
    }
    p->n_jobs = p->n_units = p->n_done = p->n_groups = p->n_faults = p->n_fault_texts = p->n_respawns = 0;
    p->n_pending = p->pending_head = 0;
    mr_arena_reset(&p->arena);
    return st;
}

mr_scorer mr_pool_scorer(mr_pool *p) {
    return (mr_scorer){ .self = p,
                        .n_rewards = p->v->n_rewards,
                        .names = (const char *const *)p->v->names,
                        .weights = p->weights,
                        .submit = scorer_submit,
                        .collect = scorer_collect,
                        .between_steps = mr_pool_between_steps };
}
