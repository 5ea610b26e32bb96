/* fuzz_lua.c - any bytes as a user's Lua file, in the workers that a run would start for it: the first byte chooses whether they are the file
 * of a reward or what such a file calls for each completion, and whether the pool opens with them or they are saved over an honest reward
 * that is in use. The worker may end as it likes. The trainer's side may not: the pool opens or says why not in one line, every completion
 * has a finite score or a fault, nothing of a worker is left behind (no child, no descriptor), an honest reward scores as before, and after
 * whatever was saved it takes over again.
 *
 * An execution is the start of a worker, mostly. What hangs costs its deadline as well, which is short here, and what takes all memory has
 * little to take: run.sh keeps few of either among the seeds.
 *
 * Workers are another program, the one that is shipped: MEDRL_FUZZ_WORKER, else the medrl of this build (the linker leads posix_spawn here).
 * A sanitizer in them would find LuaJIT's own assumptions about memory, and takes longer to start than a file to run. */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "fuzz.h"
#include "script/script.h"

enum { N_TEXTS = 2, HONEST_EVERY = 64, MOST_WORKERS = 256, PATIENCE = 50 };
enum { SAVED_WHOLE = 2, SAVED_CHUNK = 3, WAYS = 32 }; /* of the first byte; an odd one: what a file calls */
static const double DEADLINE_S = 0.02, HONEST_DEADLINE_S = 5; /* what hangs is common here, and waited for */

static pid_t workers[MOST_WORKERS];
static int n_workers;

int __real_posix_spawn(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const *, char *const *);
int __wrap_posix_spawn(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const *, char *const *);
int __wrap_posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attr,
                       char *const *argv, char *const *envp) {
    const char *other = getenv("MEDRL_FUZZ_WORKER");
    (void)path;
    const int rc = __real_posix_spawn(pid, other ? other : MR_FUZZ_WORKER, actions, attr, argv, envp);
    if (rc == 0) {
        PROMISE(n_workers < MOST_WORKERS, "%d workers for one file", n_workers);
        workers[n_workers++] = *pid;
    }
    return rc;
}

/* Those that were started for this input are gone. Asked one by one: libFuzzer has children of its own, as the symbolizer. */
static void no_worker_is_left(void) {
    for (int i = 0; i < n_workers; i++) {
        int status = 0;
        const pid_t left = waitpid(workers[i], &status, WNOHANG);
        PROMISE(left == -1 && errno == ECHILD, "a worker is left: process %ld, status %x", (long)workers[i], (unsigned)status);
    }
    n_workers = 0;
}

static int n_open_files(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n;
}

static mr_pool *open_pool(const char *reward, double deadline_s) {
    const char *const rewards[] = { reward, NULL };
    const mr_pool_opts o = { .n_workers = 1, .deadline_s = deadline_s, .memory_bytes = (size_t)16 << 20, .rewards = rewards };
    mr_pool *p;
    mr_err err = { "" };
    if (mr_pool_open(&p, NULL, &o, &err) == MR_OK) return p;
    fuzz_refused(err.msg, "");
    return NULL;
}

/* The sum of the scores of a few completions; NaN when one has none. */
static double score(mr_pool *p) {
    static const char *const texts[N_TEXTS] = { "<answer>\nB\n</answer>", "x\xff\n%d " };
    const mr_scorer sc = mr_pool_scorer(p);
    mr_score scores[N_TEXTS];
    mr_fault faults[2];
    mr_err err = { "" };
    int n_faults = 0;
    double sum = 0;
    mr_status st = MR_OK;
    PROMISE(sc.n_rewards == 1, "%d rewards", sc.n_rewards);
    for (int i = 0; i < N_TEXTS && st == MR_OK; i++) {
        const mr_score_job job = { .id = i, .text = texts[i], .len = strlen(texts[i]), .row_json = "{\"answer\":\"B\"}", .n_group = N_TEXTS };
        st = sc.submit(sc.self, &job, &err);
    }
    if (st == MR_OK) st = sc.collect(sc.self, scores, N_TEXTS, faults, 2, &n_faults, &err);
    if (st != MR_OK) {
        fuzz_refused(err.msg, "");
        return (double)NAN;
    }
    for (int i = 0; i < N_TEXTS; i++) {
        PROMISE(scores[i].kind <= MR_FAULT, "a score of kind %d", (int)scores[i].kind);
        PROMISE(scores[i].kind != MR_SCORED || isfinite(scores[i].value), "a score of %g", scores[i].value);
        sum += scores[i].kind == MR_SCORED ? scores[i].value : (double)NAN;
    }
    PROMISE(n_faults >= 0 && n_faults <= N_TEXTS, "%d faults of %d", n_faults, N_TEXTS);
    fuzz_accepted();
    return sum;
}

static double score_file(const char *reward, double deadline_s) {
    mr_pool *p = open_pool(reward, deadline_s);
    const double sum = p ? score(p) : (double)NAN;
    mr_pool_close(p);
    return sum;
}

static char folder[] = "/tmp/medrl-fuzz-lua-XXXXXX", live[64], honest_path[64];

static void put(const char *path, const mr_str *text) { /* not mr_file_write, which waits for the disk */
    FILE *f = fopen(path, "w");
    PROMISE(f && fwrite(text->data ? text->data : "", 1, text->len, f) == text->len && fclose(f) == 0, "%s cannot be written", path);
}
static void put_honest(const char *path, int version) { /* which adds itself to each score */
    mr_str text = { 0 };
    mr_str_printf(&text, "return { score = function(c) return #c %% 7 + %d end }\n", version);
    put(path, &text);
    mr_str_clear(&text);
}
static void close_folder(void) {
    unlink(live), unlink(honest_path);
    rmdir(folder);
}
static void open_folder(void) {
    PROMISE(mkdtemp(folder), "no folder");
    atexit(close_folder);
    snprintf(live, sizeof live, "%s/x.lua", folder);
    snprintf(honest_path, sizeof honest_path, "%s/honest.lua", folder);
    put_honest(honest_path, 0);
}

static char told[200]; /* by the last reload that took nothing over */

/* Between two steps of a run. Whether a new version is in use. */
static bool look_for_changes(mr_pool *p) {
    const mr_scorer sc = mr_pool_scorer(p);
    mr_reload r = { 0 };
    mr_err err = { "" };
    PROMISE(sc.between_steps(sc.self, 1, &r, &err) == MR_OK, "a reload fails: %s", err.msg);
    PROMISE(!r.taken || !r.refused, "a version is taken over, and refused");
    PROMISE(!(r.taken || r.refused) || (r.note.len && !strchr(r.note.data, '\n')), "a reload tells: %s", r.note.len ? r.note.data : "nothing");
    const bool taken = r.taken;
    snprintf(told, sizeof told, "%s", r.note.len ? r.note.data : "(nothing)");
    mr_reload_clear(&r);
    return taken;
}

/* Whether the honest reward scores as it must. Its worker may get no time on a busy machine: the deadline is short. */
static bool scores_as(mr_pool *p, double want) {
    double sum = (double)NAN;
    for (int i = 0; i < PATIENCE && isnan(sum); i++) sum = score(p);
    return sum == want;
}

/* The text is saved while an honest reward is in use, then another honest one. honest: what its version 0 gives. */
static void save_over(const mr_str *text, double honest) {
    static int version;
    put_honest(live, ++version);
    mr_pool *p = open_pool(live, DEADLINE_S);
    if (!p) return; /* a busy machine */
    PROMISE(scores_as(p, honest + N_TEXTS * version), "the honest reward does not score");
    put(live, text);
    if (look_for_changes(p))
        score(p);
    else
        PROMISE(scores_as(p, honest + N_TEXTS * version), "a text was not taken over, and the honest reward scores otherwise");
    bool back = false;
    for (int i = 0; i < PATIENCE && !back; i++) {
        put_honest(live, ++version);
        back = look_for_changes(p);
    }
    PROMISE(back, "the honest reward is not taken over again: %s", told);
    PROMISE(scores_as(p, honest + N_TEXTS * version), "the honest reward was taken over again, and scores otherwise");
    mr_pool_close(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char begin[] = "local function chunk() ",
                      end[] = "\nend\nreturn { score = function() local x, n = chunk(), 0\n"
                              "if type(x) ~= 'table' then return x end\n"
                              "for i = 1, #x do if pcall(x[i]) then n = n + 1 end end return n end }\n";
    static long n;
    static double honest;
    if (!size) return 0;
    mr_log_set_level(MR_LOG_ERROR);
    if (n == 0) {
        open_folder();
        honest = score_file(honest_path, HONEST_DEADLINE_S);
        PROMISE(isfinite(honest), "the honest reward does not score; is the worker (MEDRL_FUZZ_WORKER, " MR_FUZZ_WORKER ") there?");
        fuzz_n_accepted = 0;
    }
    mr_str text = { 0 };
    const int way = data[0] % WAYS;
    const bool whole = way % 2 == 0;
    if (!whole) mr_str_puts(&text, begin);
    mr_str_add(&text, data + 1, size - 1);
    if (!whole) mr_str_puts(&text, end);
    const int files = n_open_files();
    if (way == SAVED_WHOLE || way == SAVED_CHUNK) {
        save_over(&text, honest);
    } else {
        put(live, &text);
        score_file(live, DEADLINE_S);
    }
    mr_str_clear(&text);
    PROMISE(n_open_files() == files, "a descriptor is left: %d, were %d", n_open_files(), files);
    no_worker_is_left();
    if (++n % HONEST_EVERY == 0) {
        const long accepted = fuzz_n_accepted;
        PROMISE(score_file(honest_path, HONEST_DEADLINE_S) == honest, "an honest reward scores otherwise now");
        fuzz_n_accepted = accepted;
    }
    return 0;
}
