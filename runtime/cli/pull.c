/* pull.c - `medrl pull`, and what the other commands do with a name that is not on this machine: --pull downloads it, a
 * terminal is asked, anything else gets the command to type. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "base/proc.h"
#include "cli/cli.h"
#include "hub/hub.h"

enum { DOWNLOADS_MAX = 32 }; /* of one command: names come from recipes too */

static bool pull_flag;

bool *mr_pull_flag(void) {
    return &pull_flag;
}

/* ---- progress ---- */

typedef struct watch {
    const char *name;
    double told_s;
    int told_tenth;
    bool ask, silent;
} watch;

static void put_bytes(mr_str *s, double bytes) {
    if (bytes < 1e6)
        mr_str_printf(s, "%.0f kB", bytes / 1e3);
    else if (bytes < 1e9)
        mr_str_printf(s, "%.*f MB", bytes < 1e7 ? 1 : 0, bytes / 1e6);
    else
        mr_str_printf(s, "%.2f GB", bytes / 1e9);
}

static void put_time(mr_str *s, double seconds) {
    long n = (long)(seconds + 0.5);
    if (seconds < 0 || n > 359999)
        mr_str_puts(s, "--:--");
    else if (n < 3600)
        mr_str_printf(s, "%ld:%02ld", n / 60, n % 60);
    else
        mr_str_printf(s, "%ld:%02ld:%02ld", n / 3600, n / 60 % 60, n % 60);
}

/* "45 %  1.40 GB of 3.10 GB  85 MB/s  ETA 0:20"; brief: without the sizes */
static void put_figures(mr_str *s, const mr_hub_progress *p, bool brief) {
    double share = p->total_bytes > 0 ? (double)p->bytes / (double)p->total_bytes : 1;
    mr_str_printf(s, "%3.0f %%  ", 100 * share);
    if (!brief) {
        put_bytes(s, (double)p->bytes);
        mr_str_puts(s, " of ");
        put_bytes(s, (double)p->total_bytes);
        mr_str_puts(s, "  ");
    }
    put_bytes(s, p->bytes_s);
    mr_str_puts(s, "/s  ETA ");
    put_time(s, p->eta_s);
}

static void draw_bar(const mr_hub_progress *p) {
    mr_str s = { 0 }, figures = { 0 };
    put_figures(&figures, p, mr_log_columns() < 52);
    int room = mr_log_columns() - 1 - (int)figures.len - 2, width = room > 50 ? 24 : room - 26;
    if (width > 4) {
        int full = p->total_bytes > 0 ? (int)((double)width * (double)p->bytes / (double)p->total_bytes) : width;
        mr_str_puts(&s, "[");
        for (int i = 0; i < width; i++) mr_str_puts(&s, i < full ? "=" : i == full ? ">" : " ");
        mr_str_puts(&s, "] ");
    }
    mr_str_printf(&s, "%s  %d/%d %s%s", figures.data, p->files, p->total_files,
                  p->waiting ? "waiting for another program: " : "", p->what);
    mr_log_status(s.data);
    mr_str_clear(&s);
    mr_str_clear(&figures);
}

static void tell(void *self, const mr_hub_progress *p) {
    watch *w = self;
    if (w->silent) return;
    if (mr_log_is_terminal()) {
        draw_bar(p);
        return;
    }
    double now = mr_now_s();
    int tenth = p->total_bytes > 0 ? (int)(10 * p->bytes / p->total_bytes) : 10;
    if (now - w->told_s < 5 || (tenth == w->told_tenth && now - w->told_s < 60)) return;
    w->told_s = now;
    w->told_tenth = tenth;
    mr_str s = { 0 };
    put_figures(&s, p, false);
    mr_info("%s: %s%s", w->name, s.data, p->waiting ? " (waiting for another program)" : "");
    mr_str_clear(&s);
}

static bool stop(void *self) {
    (void)self;
    return mr_signals_seen() != 0;
}

static void say_size(const watch *w, int files, int64_t bytes, const char *root) {
    mr_str s = { 0 };
    put_bytes(&s, (double)bytes);
    mr_info("%s: %d file%s, %s, into %s", w->name, files, files == 1 ? "" : "s", s.data, root);
    mr_str_clear(&s);
}

static bool agree(void *self, int files, int64_t bytes, const char *root) {
    watch *w = self;
    if (!w->ask) {
        say_size(w, files, bytes, root);
        return true;
    }
    mr_str s = { 0 };
    put_bytes(&s, (double)bytes);
    fprintf(stderr, "%s is not on this machine. Download %s into %s? [Y/n] ", w->name, s.data, root);
    fflush(stderr);
    mr_str_clear(&s);
    char line[64] = "";
    if (!fgets(line, sizeof line, stdin)) return false;
    return line[0] == '\n' || line[0] == 'y' || line[0] == 'Y';
}

static mr_status download(mr_hub_result *r, const mr_hub_name *name, mr_hub_opts *o, bool ask, mr_err *err) {
    const char *no_bars = getenv("HF_HUB_DISABLE_PROGRESS_BARS");
    watch w = { .name = name->repo, .ask = ask, .told_s = mr_now_s(),
                .silent = no_bars && *no_bars && strcmp(no_bars, "0") != 0 };
    o->self = &w;
    o->tell = tell;
    o->stop = stop;
    o->agree = agree;
    mr_status st = mr_hub_pull(r, name, o, err);
    mr_log_status(NULL);
    if (st != MR_OK) return st;
    mr_str s = { 0 };
    put_bytes(&s, (double)r->fetched_bytes);
    if (r->fetched_files == 0)
        mr_info("%s: all %d file%s here already", name->repo, r->files, r->files == 1 ? " is" : "s are");
    else
        mr_info("%s: %d of %d files downloaded and checked, %s in %.1f s (%.0f MB/s)", name->repo, r->fetched_files,
                r->files, s.data, r->seconds, (double)r->fetched_bytes / 1e6 / (r->seconds > 0 ? r->seconds : 1));
    mr_str_clear(&s);
    return MR_OK;
}

/* ---- for the other commands ---- */

static mr_status fetch_missing(const mr_hub_name *name, mr_err *err) {
    static int n_downloads;
    bool ask = !pull_flag && isatty(STDIN_FILENO) && isatty(STDERR_FILENO) && mr_log_get_level() >= MR_LOG_INFO;
    if (!pull_flag && !ask) {
        char *command = mr_hub_command(name);
        mr_status st = mr_fail(err, MR_ENOTFOUND, "%s \"%s\" is not on this machine; run  %s  first, or add --pull",
                               name->dataset ? "data set" : "model", name->repo, command);
        mr_free(command);
        return st;
    }
    if (++n_downloads > DOWNLOADS_MAX)
        return mr_fail(err, MR_EREFUSED, "%s: this would be download %d of one command; `medrl pull` them first", name->repo,
                       n_downloads);
    mr_hub_opts o = { 0 };
    mr_hub_result r;
    mr_hub_name repo = *name;
    const char *const pattern[] = { name->file, NULL };
    if (strchr(name->file, '*')) { /* some files of it */
        repo.file[0] = '\0';
        o.include = pattern;
    }
    mr_status st = download(&r, &repo, &o, ask, err);
    mr_hub_result_clear(&r);
    return st;
}

void mr_pull_arm(void) {
    mr_hub_on_missing(fetch_missing);
}

/* ---- the command ---- */

static void print_result(const mr_hub_name *name, const mr_hub_result *r, bool json) {
    char *path = name->file[0] ? mr_path_join(r->dir, name->file) : mr_strdup(r->dir);
    if (json) {
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "name", name->repo);
        cJSON_AddStringToObject(o, "type", name->dataset ? "dataset" : "model");
        cJSON_AddStringToObject(o, "revision", name->revision);
        cJSON_AddStringToObject(o, "commit", r->commit);
        cJSON_AddStringToObject(o, "path", path);
        cJSON_AddNumberToObject(o, "files", r->files);
        cJSON_AddNumberToObject(o, "bytes", (double)r->bytes);
        cJSON_AddNumberToObject(o, "fetched_files", r->fetched_files);
        cJSON_AddNumberToObject(o, "fetched_bytes", (double)r->fetched_bytes);
        cJSON_AddNumberToObject(o, "seconds", r->seconds);
        mr_print_json(o);
        cJSON_Delete(o);
    } else {
        printf("%s\n", path);
    }
    mr_free(path);
}

static mr_status set_revision(mr_hub_name *name, const char *revision, mr_err *err) {
    if (!revision) return MR_OK;
    mr_str text = { 0 };
    mr_str_printf(&text, "%s@%s", name->repo, revision);
    mr_hub_name with;
    mr_status st = mr_hub_name_parse(&with, text.data, name->dataset, err);
    if (st == MR_OK && with.file[0]) st = mr_fail(err, MR_EINVAL, "--revision is \"%s\", want a branch, tag or commit", revision);
    if (st == MR_OK) strcpy(name->revision, with.revision);
    mr_str_clear(&text);
    return st;
}

mr_status mr_cmd_pull(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "pull",
        "medrl pull HuggingFaceTB/SmolLM2-135M-Instruct\n"
        "medrl pull Qwen/Qwen2.5-3B-Instruct@main --json\n"
        "medrl pull openai/gsm8k --dataset --include 'main/*'",
        "ORG/NAME[@REVISION]",
        1,
        1,
        "Downloads a model or a data set of the Hugging Face hub into its cache, which the Python tools share, and prints "
        "the folder. What is there is not fetched again; what broke off goes on where it was. Every file is checked by its "
        "hash. Of a model only safetensors or GGUF weights and its JSON and text files come, pickles (.bin, .pt) never "
        "do.\n"
        "HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH and HF_HUB_OFFLINE mean what they mean there.",
    };
    bool dataset = false, json = false;
    const char *revision = NULL;
    int64_t connections = 0, tries = 0;
    mr_hub_opts o = { 0 };
    const mr_opt opts[] = {
        { "dataset", 'd', MR_OPT_FLAG, NULL, "a data set, not a model", &dataset, 0, 0 },
        { "revision", 0, MR_OPT_TEXT, "NAME", "branch, tag, refs/pr/N or commit (main)", &revision, 0, 0 },
        { "include", 0, MR_OPT_LIST, "PATTERN", "only files like this, as in '*q4_k_m.gguf'; may be given many times",
          &o.include, 0, 0 },
        { "connections", 0, MR_OPT_INT, "N", "at the same time (8)", &connections, 1, 64 },
        { "tries", 0, MR_OPT_INT, "N", "in a row without progress before it gives up (5)", &tries, 1, 1000 },
        { "verify", 0, MR_OPT_FLAG, NULL, "hash what is here already, too", &o.verify, 0, 0 },
        { "json", 0, MR_OPT_FLAG, NULL, "what was done as one JSON object", &json, 0, 0 },
    };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, sizeof opts / sizeof opts[0], argc, argv, err);
    if (st == MR_OK && !a.help) {
        mr_hub_name name;
        mr_hub_result r = { 0 };
        o.connections = (int)connections;
        o.tries = (int)tries;
        mr_signals_catch(NULL, NULL);
        st = mr_hub_name_parse(&name, a.items[0], dataset, err);
        if (st == MR_OK) st = set_revision(&name, revision, err);
        if (st == MR_OK) st = download(&r, &name, &o, false, err);
        if (st == MR_OK) print_result(&name, &r, json);
        mr_hub_result_clear(&r);
    }
    mr_args_clear(&a);
    return st;
}
