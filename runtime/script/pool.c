/* pool.c - workers as the trainer sees them: start, ask, feed with completions, kill at the deadline, replay.
 *
 * Scoring: jobs wait in `pending`, go out in frames of a few, and come back one by one in the order they were sent, so
 * that after a death the first unanswered job is the suspect; the shared page names the reward. A call that missed its
 * deadline while its worker computed (a quarter of the time at least, or it gets as much again) is guilty at once.
 * Where the worker did not compute (a machine that was suspended, a worker that was stopped) and after a crash the
 * suspect is replayed alone, one reward at a time; only a reward that misses the deadline alone, or ends as many workers
 * as there are (at least two; after a crash that a compiled loop could explain once more without the compiler), is
 * guilty. All others go back to the queue. Which worker scores what never changes a result.
 *
 * A reward that hangs for three samples of a batch is off for all samples with a larger id than the third (by id, not by
 * time: samples that had their score already lose it), so a batch ends after a few deadlines and ends the same way
 * whatever the order of arrival was. For that the jobs are held back until collect() once a reward is off, and go out by
 * id from then on. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/log.h"
#include "hub/hub.h"
#include "script/import.h"
#include "script/pool_impl.h"

enum { MAX_RESPAWNS = 4096, MAX_ROW_BYTES = 16 << 20 };

/* --- one worker --- */

/* The page that a worker writes to and this side reads. Sealed: a worker that could cut it short would end the reader
 * by SIGBUS. Without one (-1) blame takes a replay more. */
static int make_page(mr_at **at) {
    *at = NULL;
    int fd = memfd_create("medrl-at", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return -1;
    void *page = MAP_FAILED;
    if (ftruncate(fd, sizeof **at) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        page = mmap(NULL, sizeof **at, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) {
        close(fd);
        return -1;
    }
    *at = page;
    (*at)->reward = -1;
    return fd;
}

static mr_status start_peer(mr_pool *p, mr_peer *peer, bool no_jit, mr_err *err) {
    static const char *const argv[] = { "--worker", NULL };
    memset(peer, 0, sizeof *peer);
    peer->denied = -1;
    peer->no_jit = no_jit;
    MR_TRY(mr_proc_spawn(&peer->proc, argv, NULL, err));
    mr_wire_init(&peer->wire, peer->proc.fd);
    /* A worker that asks for a text and does not read it must not hold this end. */
    double wait_s = p->opts.deadline_s > 0 ? 5 * p->opts.deadline_s : 10;
    peer->wire.wait_ms = wait_s < 1 ? 1000 : wait_s > 60 ? 60000 : (int)(1000 * wait_s);
    int fd = make_page(&peer->at);
    if (peer->at) mr_watch_child(peer->proc.pid, peer->at->where);
    mr_str s = { 0 };
    mr_put_i64(&s, (int64_t)p->opts.memory_bytes);
    mr_put_u8(&s, no_jit);
    mr_put_u8(&s, (unsigned)p->opts.require_sandbox);
    peer->alive = mr_wire_send(&peer->wire, MR_WIRE_START, s.data, s.len, fd);
    if (fd >= 0) close(fd);
    mr_str_clear(&s);
    return MR_OK;
}

mr_status mr_peer_start(mr_pool *p, mr_peer *peer, mr_err *err) {
    return start_peer(p, peer, p->opts.no_jit, err);
}

void mr_peer_stop(mr_peer *peer) {
    if (peer->at) mr_watch_gone(peer->proc.pid);
    if (peer->at) munmap(peer->at, sizeof *peer->at);
    peer->at = NULL;
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
    mr_status st = mr_texts_get(&v->texts, module, &x, &err);
    const bool found = st == MR_OK;
    peer->no_memory = peer->no_memory || st == MR_ENOMEM;
    mr_put_u8(&s, found);
    const char *name = found ? x->pub.name : err.msg;
    mr_put_bytes(&s, name, strlen(name));
    if (found) mr_put_bytes(&s, x->pub.text, x->pub.len);
    if (!mr_wire_send(&peer->wire, MR_WIRE_TEXT, s.data, s.len, -1)) peer->alive = false;
    mr_str_clear(&s);
}

/* A worker may read rows of data files and nothing else: the name says what it is, and it has to be a plain file. */
static int open_data_file(const char *path, mr_err *err) {
    static const char *const ends[] = { ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet" };
    const mr_packing packing = mr_packing_named(path);
    const size_t len = strlen(path) - (packing == MR_PACKED_GZIP ? 3 : packing == MR_PACKED_ZSTD ? 4 : 0);
    bool known = false;
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        const size_t n = strlen(ends[i]);
        known = known || (len >= n && strncasecmp(path + len - n, ends[i], n) == 0);
    }
    if (!known) {
        mr_fail(err, MR_EINVAL, "%s: not a data file that medrl reads; want .parquet, .jsonl, .json, .csv or .tsv (or one of the last "
                                "four with .gz or .zst behind it)",
                path);
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

/* A packed file becomes its row cache. The process that reads it has to be locked in as well as the worker that gets the rows. */
static int unpacked(int fd, const char *path, int sandbox, bool *cached, mr_err *err) {
    *cached = false;
    if (fd < 0) return -1;
    mr_packing how;
    mr_status st = mr_import_kind(&how, fd, path, err);
    if (st == MR_OK && how == MR_PACKED_NOT) return fd;
    int cache = -1;
    if (st == MR_OK) st = mr_import_open(&cache, fd, path, how, &(mr_import_opts){ .require_sandbox = sandbox }, err);
    *cached = st == MR_OK;
    close(fd);
    return cache;
}

int mr_pool_open_data(const char *name, char **at, mr_err *err) {
    *at = NULL;
    return mr_hub_file(at, name, err) == MR_OK ? open_data_file(*at, err) : -1; /* "hf:org/name/train.jsonl" */
}

static void send_file(mr_peer *peer, const mr_frame *f) {
    char path[1024], *at = NULL;
    size_t n = f->len < sizeof path - 1 ? f->len : sizeof path - 1;
    memcpy(path, f->data, n);
    path[n] = 0;
    mr_err err;
    int fd = mr_pool_open_data(path, &at, &err);
    bool cached;
    fd = unpacked(fd, at, peer->sandbox.level, &cached, &err);
    mr_str s = { 0 };
    mr_put_u8(&s, fd < 0 ? 0 : cached ? 2 : 1);
    const char *name = fd >= 0 ? at : err.msg; /* its end says what kind it is */
    mr_put_bytes(&s, name, strlen(name));
    if (!mr_wire_send(&peer->wire, MR_WIRE_FILE, s.data, s.len, fd)) peer->alive = false;
    if (fd >= 0) close(fd);
    mr_str_clear(&s);
    mr_free(at);
}

/* What is in a folder or a repository: names only. */
static void send_folder(mr_peer *peer, const mr_frame *f) {
    mr_take t = mr_take_frame(f);
    char path[1024], pattern[256];
    mr_take_string(&t, path, sizeof path);
    mr_take_string(&t, pattern, sizeof pattern);
    mr_hub_files files;
    mr_err err;
    const mr_status st = mr_hub_files_find(&files, path, pattern[0] ? pattern : NULL, &err);
    const char *said = st != MR_OK ? err.msg : files.base ? files.base : "";
    mr_str s = { 0 };
    mr_put_u8(&s, st != MR_OK ? 0 : files.base ? 1 : 2);
    mr_put_bytes(&s, said, strlen(said));
    mr_put_u32(&s, (uint32_t)files.n);
    for (int i = 0; i < files.n; i++) mr_put_bytes(&s, files.names[i], strlen(files.names[i]));
    if (!mr_wire_send(&peer->wire, MR_WIRE_FOLDER, s.data, s.len, -1)) peer->alive = false;
    mr_str_clear(&s);
    mr_hub_files_clear(&files);
}

bool mr_peer_serve(mr_version *v, mr_peer *peer, const mr_frame *f) {
    switch (f->type) {
    case MR_WIRE_NEED_TEXT:
        if (++peer->n_asked > MR_MAX_ASKED) return false;
        send_text(v, peer, f);
        return true;
    case MR_WIRE_NEED_FILE:
        if (++peer->n_asked > MR_MAX_ASKED) return false;
        send_file(peer, f);
        return true;
    case MR_WIRE_NEED_FOLDER:
        if (++peer->n_asked > MR_MAX_ASKED) return false;
        send_folder(peer, f);
        return true;
    case MR_WIRE_NEED_PASS:
        if (++peer->n_asked > MR_MAX_ASKED) return false;
        mr_pass_send(v, peer, f);
        return true;
    case MR_WIRE_KEEP_PASS: return ++peer->n_asked <= MR_MAX_ASKED && mr_pass_keep(v, f);
    case MR_WIRE_TICK: mr_watch_beat(); return true;
    case MR_WIRE_READY: {
        mr_take t = mr_take_frame(f);
        unsigned level = mr_take_u8(&t);
        mr_take_string(&t, peer->sandbox.missing, sizeof peer->sandbox.missing);
        if (t.bad || level < 1 || level > 3 || peer->sandbox.level != 0) return false;
        peer->sandbox.level = (int)level;
        static bool warned; /* once for the process */
        if (level < 2 && !warned)
            mr_warn("sandbox: level %u only, without %s; run no scripts of strangers here", level,
                    peer->sandbox.missing);
        warned = warned || level < 2;
        return true;
    }
    case MR_WIRE_DENIED: {
        mr_take t = mr_take_frame(f);
        peer->denied = (int64_t)mr_take_u32(&t);
        return !t.bad;
    }
    case MR_WIRE_LOG: {
        if (++peer->n_log > MR_MAX_LOG) return false;
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

/* How a worker that is being reaped came to its end. */
static void describe_end(const mr_peer *peer, char *buf, size_t len, int wait_status) {
    if (WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGSYS && peer->denied >= 0) {
        snprintf(buf, len, "it tried system call %lld, which the sandbox does not allow", (long long)peer->denied);
        return;
    }
    mr_proc_describe(buf, len, wait_status);
}

mr_status mr_peer_call(mr_pool *p, mr_version *v, mr_peer *peer, mr_wire_type type, const mr_str *body, double limit_s,
                       mr_frame *reply, mr_err *err) {
    if (body->len > MR_WIRE_MAX_BYTES)
        return mr_fail(err, MR_EINVAL, "a command of %zu bytes is too long for a worker", body->len);
    peer->n_log = peer->n_asked = 0;
    peer->wire.limit = MR_WIRE_MAX_BYTES;
    mr_wire_put(&peer->wire, type, body->data, body->len);
    if (!mr_wire_flush(&peer->wire, true)) peer->alive = false;
    double since = mr_now_s(), until = since + MR_MAX_LIMITS * limit_s;
    while (peer->alive) {
        mr_frame f;
        int got = mr_wire_next(&peer->wire, &f);
        if (got < 0) break;
        if (got > 0) {
            if (f.type != MR_WIRE_LOG) {
                const double before = since;
                since = mr_now_s();
                if (since - before - limit_s > MR_OVERSLEPT_S) until += since - before; /* the clock jumped while it answered */
            }
            const double before = mr_now_s();
            const bool served = mr_peer_serve(v, peer, &f);
            const double took = mr_now_s() - before; /* a download is our time, not the worker's */
            since += took;
            until += took;
            if (served) continue;
            if (peer->sandbox.level == 0) break; /* a worker says first how well it is locked in */
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
            if (peer->no_memory) st = MR_ENOMEM; /* which the worker could not know */
            return mr_fail(err, st, "%s", text[0] ? text : "the worker failed and did not say why");
        }
        struct pollfd pf = { .fd = peer->wire.fd, .events = POLLIN };
        /* wait: limit_s without an answer */
        int n = poll(&pf, 1, ms_until(since + limit_s, mr_now_s()));
        if (n < 0 && errno != EINTR) break;
        double now = mr_now_s(), slept = now - since - limit_s;
        if (slept > MR_OVERSLEPT_S) since += slept + limit_s, until += slept + limit_s, now = since;
        if ((n == 0 && now - since >= limit_s) || now >= until) {
            mr_peer_stop(peer);
            return mr_fail(err, MR_EAGAIN, "no answer for %.3g s; the worker was killed",
                           now >= until ? MR_MAX_LIMITS * limit_s : limit_s);
        }
        if (n > 0 && !mr_wire_fill(&peer->wire, false)) break;
    }
    int status = mr_proc_kill(&peer->proc), level = peer->sandbox.level, least = p->opts.require_sandbox;
    char how[96];
    describe_end(peer, how, sizeof how, status);
    mr_peer_stop(peer);
    if (level > 0 && level < least)
        return mr_fail(err, MR_EREFUSED, "sandbox: level %d is reached here, %d is required; missing: %s", level, least,
                       peer->sandbox.missing);
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

/* Kept in order and cut from the end, so that which worker was first does not show. */
static void add_fault(mr_pool *p, const mr_pool_job *job, int reward, const char *text) {
    if (!p->faults) p->faults = mr_alloc((MR_FAULT_TEXTS + 1) * sizeof *p->faults);
    int at = p->n_fault_texts;
    while (at > 0 && (p->faults[at - 1].id > job->in.id ||
                      (p->faults[at - 1].id == job->in.id && p->faults[at - 1].reward > reward)))
        at--;
    if (at == MR_FAULT_TEXTS) return; /* counted, not described */
    memmove(p->faults + at + 1, p->faults + at, (size_t)(p->n_fault_texts - at) * sizeof *p->faults);
    if (p->n_fault_texts < MR_FAULT_TEXTS) p->n_fault_texts++;
    mr_fault *f = &p->faults[at];
    f->id = job->in.id;
    f->reward = reward;
    if (job->members)
        snprintf(f->text, sizeof f->text, "%.400s (the %d samples of a group, from sample %lld on)", text,
                 job->n_members, (long long)job->in.id);
    else
        snprintf(f->text, sizeof f->text, "%.440s (sample %lld)", text, (long long)job->in.id);
}

/* --- rewards that hang --- */

static bool is_off(const mr_pool *p, int reward, int64_t id) {
    return p->any_off && p->hangs[reward].n == MR_HANGS_MAX && id > p->hangs[reward].ids[MR_HANGS_MAX - 1];
}

static int by_id(const void *pa, const void *pb) {
    const mr_pool_job *a = *(mr_pool_job *const *)pa, *b = *(mr_pool_job *const *)pb;
    return (a->in.id > b->in.id) - (a->in.id < b->in.id);
}

/* With a reward off, small ids first: they decide where it goes off, and every hang among them brings that nearer. */
static void sort_pending(mr_pool *p) {
    qsort(p->pending + p->pending_head, (size_t)(p->n_pending - p->pending_head), sizeof *p->pending, by_id);
}

static void add_hang(mr_pool *p, int reward, int64_t id) {
    if (!p->hangs) p->hangs = mr_arena_alloc(&p->arena, (size_t)p->v->n_rewards * sizeof *p->hangs);
    mr_hangs *h = &p->hangs[reward];
    int at = h->n < MR_HANGS_MAX ? h->n++ : MR_HANGS_MAX;
    for (; at > 0 && h->ids[at - 1] > id; at--) {
        if (at < MR_HANGS_MAX) h->ids[at] = h->ids[at - 1];
    }
    if (at < MR_HANGS_MAX) h->ids[at] = id;
    if (h->n < MR_HANGS_MAX) return;
    p->any_off = true;
    if (p->collecting) sort_pending(p);
}

/* Where a job that runs one reward at a time stands next, from job->single on. False: all are done. */
static bool settle(const mr_pool *p, mr_pool_job *job) {
    for (; job->single < p->v->n_rewards; job->single++) {
        if (!mr_pool_is_own(p, job, job->single)) continue;
        if (job->single != job->judged && !is_off(p, job->single, job->in.id)) return true;
    }
    return false;
}

/* At the end of a batch: what was off counts as a fault whether it had been called or not. */
static void apply_hangs(mr_pool *p) {
    if (!p->any_off) return;
    int kept = 0;
    for (int i = 0; i < p->n_fault_texts; i++) {
        if (!is_off(p, p->faults[i].reward, p->faults[i].id)) p->faults[kept++] = p->faults[i];
    }
    p->n_fault_texts = kept;
    for (int i = 0; i < p->n_jobs; i++) {
        mr_pool_job *job = p->jobs[i];
        for (int r = 0; r < p->v->n_rewards; r++) {
            mr_pool_job *unit = p->v->batch[r] ? job->group : job;
            if (!is_off(p, r, unit->in.id) || (unit != job && unit->members[0] != job)) continue; /* a group: once */
            const int64_t *ids = p->hangs[r].ids;
            char text[256];
            snprintf(
                text, sizeof text,
                "%s: not called: it did not end for samples %lld, %lld and %lld, and is off for the rest of the batch",
                p->v->places[r], (long long)ids[0], (long long)ids[1], (long long)ids[2]);
            mr_pool_give_up(p, unit, r);
            add_fault(p, unit, r, text);
        }
    }
}

static int n_waiting(const mr_pool *p) {
    return p->n_pending - p->pending_head;
}

static void mark_progress(mr_peer *peer, bool answer) {
    peer->since = peer->looked = mr_now_s();
    if (answer) peer->answered = peer->since;
    peer->cpu_since = mr_proc_cpu_s(&peer->proc);
}

/* So exactly is known when a call began. */
static double look_s(const mr_pool *p) {
    return p->opts.deadline_s < 0.04 ? p->opts.deadline_s / 4 : 0.01;
}

/* Whether it used a quarter of a deadline of processor time in the call that it is in. */
static bool computed(const mr_pool *p, const mr_peer *peer) {
    return mr_proc_cpu_s(&peer->proc) - peer->cpu_since >= p->opts.deadline_s / 4;
}

/* Whether the worker is in the same call for too long. The deadline is that of one call, and a job has as many as there
 * are rewards: the page says where it is. A page that changes for ever helps nobody. A worker that did not get to compute
 * on a busy machine has twice the time. */
static bool is_late(const mr_pool *p, mr_peer *peer) {
    double now = mr_now_s(), before = peer->looked;
    if (peer->at && now - before >= look_s(p)) {
        peer->looked = now;
        int64_t id = peer->at->id;
        int32_t reward = peer->at->reward;
        if (reward >= 0 && (id != peer->seen_id || reward != peer->seen_reward)) {
            peer->seen_id = id;
            peer->seen_reward = reward;
            if (now - peer->answered < p->opts.deadline_s * (p->v->n_rewards + 1)) {
                mark_progress(peer, false);
                if (now - before < 2 * look_s(p)) peer->since = before; /* at the last look it was not there yet */
            }
        }
    }
    double late = now - peer->since - p->opts.deadline_s;
    if (late > p->opts.deadline_s + MR_OVERSLEPT_S) {
        mark_progress(peer, false);
        return false;
    }
    return late >= 0 && (late >= p->opts.deadline_s || computed(p, peer));
}

/* When is_late has something new to say. */
static double look_at(const mr_pool *p, const mr_peer *peer) {
    double late = peer->since + p->opts.deadline_s, look = peer->looked + look_s(p);
    return peer->at && look < late ? look : late > mr_now_s() ? late : mr_now_s() + look_s(p);
}

/* Gives an idle or nearly idle worker its next frame. A job that is replayed goes alone. */
static void feed(mr_pool *p, mr_peer *peer) {
    if (!peer->alive || peer->n_flight > MR_FEED_JOBS / 4 || (p->any_off && !p->collecting)) return;
    while (p->any_off && n_waiting(p) > 0) { /* all rewards at once no more, and perhaps none that is left to call */
        mr_pool_job *job = p->pending[p->pending_head];
        if (job->single < 0) job->single = 0;
        if (settle(p, job)) break;
        p->pending_head++;
        p->n_done++;
    }
    if (n_waiting(p) == 0) return;
    mr_pool_job *head = p->pending[p->pending_head];
    if (head->no_jit && !peer->no_jit) {
        for (int i = 0; i < p->opts.n_workers; i++) {
            if (p->v->peers[i].no_jit) return; /* it waits for that one */
        }
        head->no_jit = false; /* which is gone: the next crash starts another */
    }
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
        if (peer->n_flight == 0) mark_progress(peer, true);
        peer->flight[peer->n_flight++] = job;
        n++;
        if (job->single >= 0) break;
    }
    uint32_t count = (uint32_t)n;
    memcpy(s.data, &count, sizeof count);
    mr_wire_put(&peer->wire, MR_WIRE_SCORE, s.data, s.len);
    mr_str_clear(&s);
    peer->n_log = peer->n_asked = 0;
    size_t most = MR_SCORED_BYTES; /* of all that it has to answer */
    for (int i = 0; i < peer->n_flight; i++) {
        size_t len = mr_pool_answer_max(p, peer->flight[i]);
        if (len > most) most = len;
    }
    peer->wire.limit = most < MR_WIRE_MAX_BYTES ? most : MR_WIRE_MAX_BYTES;
    if (p->pending_head == p->n_pending) p->pending_head = p->n_pending = 0;
}

/* The reward at which job stands is done, or all of them are when they ran at once. */
static void next_reward(mr_pool *p, mr_pool_job *job) {
    job->n_deaths = 0;
    job->no_jit = job->inside = false;
    if (job->single >= 0) {
        job->single++;
        if (settle(p, job)) {
            push_front(p, job);
            return;
        }
    }
    p->n_done++;
}

/* Takes one answer in. False: it does not fit what was asked. */
static bool take_scored(mr_pool *p, mr_peer *peer, const mr_frame *f) {
    if (peer->n_flight == 0) return false;
    mr_pool_job *job = peer->flight[0];
    mr_take t = mr_take_frame(f);
    if (!mr_pool_take_scores(p, job, &t, add_fault)) return false;
    memmove(peer->flight, peer->flight + 1, (size_t)--peer->n_flight * sizeof peer->flight[0]);
    mark_progress(peer, true);
    mr_watch_beat();
    next_reward(p, job);
    return true;
}

/* The reward that the worker was in, by the shared page; -1 when that does not fit what it was asked. */
static int blamed(const mr_pool *p, const mr_peer *peer, const mr_pool_job *job) {
    if (job->single >= 0) return job->single;
    if (!peer->at || peer->at->id != job->in.id) return -1;
    int32_t reward = peer->at->reward;
    return reward >= 0 && reward < p->v->n_rewards && mr_pool_is_own(p, job, reward) ? reward : -1;
}

/* Why a worker is replaced. */
typedef enum end { END_GONE, END_LATE, END_LIED } end;

/* Signals that a script cannot bring upon its worker, whose system calls are few: a person or a machine short of memory sent them. */
static bool is_from_outside(int status) {
    const int sign = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    return sign == SIGKILL || sign == SIGTERM || sign == SIGINT || sign == SIGHUP;
}

/* Nobody is guilty, and there is no score: the reward is left out. */
static void excuse(mr_pool *p, mr_pool_job *job, int reward, const char *how) {
    char text[256];
    snprintf(text, sizeof text, "%s: not scored: %s, each time from outside", p->v->places[reward], how);
    const int size = job->members ? job->n_members : 1;
    for (int k = 0; k < size; k++) {
        mr_pool_job *one = job->members ? job->members[k] : job;
        one->scores[reward] = (mr_score){ (double)NAN, MR_FAULT };
    }
    add_fault(p, job, reward, text);
}

static void find_guilty(mr_pool *p, mr_pool_job *job, int reward, const char *how) {
    char text[256];
    snprintf(text, sizeof text, "%s: %s", p->v->places[reward], how);
    mr_pool_give_up(p, job, reward);
    add_fault(p, job, reward, text);
}

/* The worker missed the deadline with this job. */
static void judge_late(mr_pool *p, mr_pool_job *job, int reward, bool at_work, const char *how) {
    if (reward < 0 || (job->single < 0 && !at_work)) {
        job->single = 0; /* only a suspect yet */
    } else if (job->single < 0) {
        find_guilty(p, job, reward, how);
        job->judged = reward;
        job->single = 0; /* the others of this sample have not answered, or their answers went down with the worker */
        add_hang(p, reward, job->in.id);
    } else {
        find_guilty(p, job, reward, how);
        add_hang(p, reward, job->in.id);
        job->single++;
        job->n_deaths = 0;
    }
}

/* The worker ended with this job. As many may have been ended from outside before one of them saw it. */
static void judge_dead(mr_pool *p, mr_pool_job *job, int status, bool outside, const char *how) {
    int enough = p->opts.n_workers > 2 ? p->opts.n_workers : 2;
    int sign = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    bool crashed = sign == SIGSEGV || sign == SIGBUS || sign == SIGILL || sign == SIGFPE;
    if (job->single < 0) {
        job->single = 0;
        job->inside = !outside;
    } else if (job->inside = job->inside || !outside, ++job->n_deaths < enough) {
    } else if (crashed && !job->no_jit && !p->opts.no_jit) {
        job->no_jit = true; /* the compiler's fault, perhaps: once more without */
    } else {
        if (job->inside)
            find_guilty(p, job, job->single, how);
        else
            excuse(p, job, job->single, how);
        job->single++;
        job->n_deaths = 0;
        job->no_jit = job->inside = false;
    }
}

static mr_status restart(mr_pool *p, mr_peer *peer, bool no_jit, const char *how, mr_err *err) {
    mr_peer_stop(peer);
    MR_TRY(start_peer(p, peer, no_jit || p->opts.no_jit, err));
    mr_frame reply;
    mr_status st = mr_peer_load(p, p->v, peer, false, &reply, err);
    return st == MR_OK ? MR_OK : mr_wrap(err, st, "%s: starting a new worker after \"%s\"", p->display, how);
}

/* A worker died or was killed: finds the suspect, puts the rest back, starts another. */
static mr_status replace(mr_pool *p, mr_peer *peer, end why, mr_err *err) {
    const bool late = why == END_LATE;
    char how[160];
    bool at_work = late && computed(p, peer);
    /* Only one that was dead before is not ours: what lies, or hangs up and lives on, is killed here and is to blame. */
    const bool dead = why == END_GONE && mr_proc_has_ended(&peer->proc, 0.2);
    int status = mr_proc_kill(&peer->proc);
    if (late) {
        snprintf(how, sizeof how, "no answer within %.3g s; the worker was killed", p->opts.deadline_s);
    } else {
        char what[96];
        describe_end(peer, what, sizeof what, status);
        snprintf(how, sizeof how, "the worker ended (%s)", what);
    }
    for (int i = peer->n_flight - 1; i > 0; i--) push_front(p, peer->flight[i]);
    mr_pool_job *job = peer->n_flight > 0 ? peer->flight[0] : NULL;
    if (job && late)
        judge_late(p, job, blamed(p, peer, job), at_work, how);
    else if (job)
        judge_dead(p, job, status, dead && is_from_outside(status), how);
    bool more = job && settle(p, job);
    if (more)
        push_front(p, job);
    else if (job)
        p->n_done++;
    if (++p->n_respawns > MAX_RESPAWNS)
        return mr_fail(err, MR_EAGAIN,
                       "%s: workers ended %d times in one batch (last: %s); check the rewards with `medrl test`",
                       p->display, p->n_respawns, how);
    return restart(p, peer, more && job->no_jit, how, err);
}

/* Moves what can be moved. wait: returns after something came in or a deadline passed, at the latest; at once where no
 * worker has a call, since what was left may have been called off, or have come back from a worker that went down. */
static mr_status pump(mr_pool *p, bool wait, mr_err *err) {
    struct pollfd pf[64];
    int n = p->opts.n_workers;
    double now = mr_now_s(), next = now + 60;
    bool at_work = false;
    for (int i = 0; i < n; i++) {
        mr_peer *peer = &p->v->peers[i];
        if (!peer->alive) MR_TRY(replace(p, peer, END_GONE, err));
        feed(p, peer);
        if (!mr_wire_flush(&peer->wire, false)) MR_TRY(replace(p, peer, END_GONE, err));
        pf[i] = (struct pollfd){ .fd = peer->wire.fd, .events = POLLIN };
        if (peer->wire.out.len > 0) pf[i].events |= POLLOUT;
        if (peer->n_flight == 0) continue;
        at_work = true;
        if (look_at(p, peer) < next) next = look_at(p, peer);
    }
    /* wait: until the next deadline of a call, a minute at most */
    int ready = poll(pf, (nfds_t)n, wait && at_work ? ms_until(next, now) : 0);
    if (ready < 0 && errno != EINTR) return mr_fail_errno(err, "waiting for workers");
    for (int i = 0; i < n; i++) {
        mr_peer *peer = &p->v->peers[i];
        bool down = false, lied = false;
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
            lied = got < 0;
            down = down || lied || !peer->alive;
        }
        if (down)
            MR_TRY(replace(p, peer, lied ? END_LIED : END_GONE, err));
        else if (peer->n_flight > 0 && is_late(p, peer))
            MR_TRY(replace(p, peer, END_LATE, err));
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
    job->single = job->judged = -1;
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

/* The batch that was just scored becomes the last one; a few samples on the side of the same step do not. */
static void keep_batch(mr_pool *p) {
    if (p->n_jobs == 0) return;
    qsort(p->jobs, (size_t)p->n_jobs, sizeof *p->jobs, by_id); /* groups together, as score_batch saw them */
    if (p->n_last > p->n_jobs && p->last_jobs[0]->in.step == p->jobs[0]->in.step) return;
    mr_arena arena = p->last_arena;
    mr_pool_job **jobs = p->last_jobs;
    const int cap = p->cap_last;
    p->last_arena = p->arena;
    p->last_jobs = p->jobs;
    p->cap_last = p->cap_jobs;
    p->n_last = p->n_jobs;
    p->arena = arena;
    p->jobs = jobs;
    p->cap_jobs = cap;
}

static mr_status scorer_collect(void *self, mr_score *scores, int n_jobs, mr_fault *faults, int max_faults,
                                int *n_faults, mr_err *err) {
    mr_pool *p = self;
    mr_status st = MR_OK;
    if (n_jobs != p->n_jobs)
        st = mr_fail(err, MR_EINTERNAL, "collect() of %d jobs, %d were submitted", n_jobs, p->n_jobs);
    for (mr_pool_job *group; (group = mr_group_rest(p));) submit_unit(p, group);
    p->collecting = true;
    if (p->any_off) sort_pending(p);
    while (st == MR_OK && p->n_done < p->n_units) {
        st = pump(p, true, err);
        const mr_fault *f = st == MR_OK && p->trial ? mr_pool_new_fault(p) : NULL;
        if (f) st = mr_fail(err, MR_EINVAL, "%s", f->text);
    }
    if (st == MR_OK) apply_hangs(p);
    int n_rewards = p->v->n_rewards, n_faulty = 0;
    for (int i = 0; st == MR_OK && i < p->n_jobs; i++) {
        const mr_pool_job *job = p->jobs[i];
        if (job->in.id < 0 || job->in.id >= n_jobs)
            st = mr_fail(err, MR_EINTERNAL, "a job has id %lld, want 0 to %d", (long long)job->in.id, n_jobs - 1);
        else
            memcpy(scores + job->in.id * n_rewards, job->scores, (size_t)n_rewards * sizeof *scores);
        for (int r = 0; r < n_rewards; r++) n_faulty += job->scores[r].kind == MR_FAULT;
    }
    int n = p->n_fault_texts < max_faults ? p->n_fault_texts : max_faults;
    if (faults && n > 0) memcpy(faults, p->faults, (size_t)n * sizeof *faults);
    for (int i = n; faults && i < n_faulty && i < max_faults; i++) faults[i] = (mr_fault){ .id = -1, .reward = -1 };
    if (n_faults) *n_faults = n_faulty;
    if (st != MR_OK) {
        /* Jobs still under way belong to the batch that is dropped: their workers go with it. */
        for (int i = 0; i < p->opts.n_workers; i++) {
            if (p->v->peers[i].n_flight > 0) mr_peer_stop(&p->v->peers[i]);
        }
    }
    if (st == MR_OK && !p->trial) keep_batch(p);
    for (int i = 0; st == MR_OK && i < p->opts.n_workers; i++) { /* the compiler was off for one sample only */
        mr_peer *peer = &p->v->peers[i];
        if (peer->alive && peer->no_jit && !p->opts.no_jit)
            st = restart(p, peer, false, "a call without compiler", err);
    }
    p->n_jobs = p->n_units = p->n_done = p->n_groups = p->n_fault_texts = p->n_respawns = 0;
    p->n_pending = p->pending_head = 0;
    p->hangs = NULL;
    p->any_off = p->collecting = false;
    mr_arena_reset(&p->arena);
    return st;
}

mr_scorer mr_pool_scorer(mr_pool *p) {
    return (mr_scorer){ .self = p,
                        .n_rewards = p->v->n_rewards,
                        .names = (const char *const *)p->v->names,
                        .weights = p->weights,
                        .on_fault = p->v->on_fault,
                        .submit = scorer_submit,
                        .collect = scorer_collect,
                        .between_steps = mr_pool_between_steps,
                        .replay = mr_pool_replay,
                        .again = mr_pool_again,
                        .scripts = mr_pool_describe };
}
