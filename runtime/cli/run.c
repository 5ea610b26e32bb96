/* run.c - `medrl run` and `medrl resume`. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "base/proc.h"
#include "cli/cli.h"
#include "cli/session.h"

/* One line of what a run ends with, as wide as the terminal, indented behind its first word. */
static void put_wrapped(const char *line) {
    mr_str wrapped = { 0 };
    mr_progress_wrap(&wrapped, line, 9, isatty(STDOUT_FILENO) ? mr_log_columns() : 0);
    printf("%s\n", wrapped.data ? wrapped.data : "");
    mr_str_clear(&wrapped);
}

static mr_status train(const mr_session_opts *so, bool json, mr_err *err) {
    mr_session s;
    mr_status st = mr_session_open(&s, so, err);
    if (st == MR_OK) st = mr_session_train(&s, err);
    if (st == MR_OK && json) {
        cJSON *o = mr_session_report(&s);
        mr_print_json(o);
        cJSON_Delete(o);
    } else if (st == MR_OK) {
        mr_str text = { 0 };
        mr_run_summary(s.run, &text);
        for (char *line = text.data, *next; line && *line; line = next) {
            next = line + strcspn(line, "\n");
            if (*next) *next++ = '\0';
            put_wrapped(line);
        }
        mr_str_clear(&text);
        double peak = (double)mr_rss_peak_bytes();
        char *result = mr_asprintf("result   %s, in %.0f s with at most %.*f %s of memory", s.result,
                                   mr_now_s() - s.start_s, peak < 1e9 ? 0 : 2, peak / (peak < 1e9 ? 1e6 : 1e9),
                                   peak < 1e9 ? "MB" : "GB");
        put_wrapped(result);
        mr_free(result);
        printf("\ntalk to it: medrl chat %s\n", mr_run_dir(s.run));
    }
    mr_session_close(&s);
    return st;
}

static mr_status check_on_error(const char *what, mr_err *err) {
    if (!what || !strcmp(what, "pause") || !strcmp(what, "stop")) return MR_OK;
    return mr_fail(err, MR_EINVAL, "--on-error %.40s: want pause or stop", what);
}

mr_status mr_cmd_run(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "run",
        "medrl run recipes/medical_mix.lua\n"
        "medrl run recipes/medical_mix.lua --set grpo.max_steps=20 --set grpo.learning_rate=1e-4",
        "RECIPE",
        1,
        1,
        "Trains a model as the recipe says. The recipe is looked for in the working folder, then in the lua/ folder of "
        "the installation.\n"
        "The first Ctrl-C finishes the micro-batch, makes a checkpoint and prints the command that continues; the "
        "second one ends at once.\n"
        "Lua files may be saved while it runs: they are checked and taken over between two steps.\n"
        "`medrl help recipe` lists every field.",
    };
    mr_session_opts so = { 0 };
    const char *vram = NULL, *adapter = NULL;
    int64_t threads = 0, sandbox = 0;
    bool json = false;
    const mr_opt opts[] = {
        { "adapter", 0, MR_OPT_TEXT, "DIR", "PEFT adapter folder, or a run's folder, to start from", &adapter, 0, 0 },
        { "set", 0, MR_OPT_LIST, "KEY=VALUE", "override a field of the recipe; may be given many times", &so.overrides,
          0, 0 },
        { "output", 'o', MR_OPT_TEXT, "DIR", "run folder, in place of the recipe's output_dir", &so.output, 0, 0 },
        { "on-error", 0, MR_OPT_TEXT, "WHAT", "when rewards keep failing: pause (wait for a mended file) or stop",
          &so.on_error, 0, 0 },
        { "device", 0, MR_OPT_TEXT, "NAME", "auto, cpu or cuda:N", &so.device, 0, 0 },
        MR_OPT_PULL,
        { "vram", 0, MR_OPT_TEXT, "SIZE", "most device memory to take, as in 14G", &vram, 0, 0 },
        { "threads", 0, MR_OPT_INT, "N", "CPU threads (0: all)", &threads, 0, 1024 },
        { "require-sandbox", 0, MR_OPT_INT, "LEVEL", "refuse to run scripts below this level (1 to 3)", &sandbox, 0,
          3 },
        { "json", 0, MR_OPT_FLAG, NULL, "the outcome as one JSON object", &json, 0, 0 },
    };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, sizeof opts / sizeof opts[0], argc, argv, err);
    if (st == MR_OK && !a.help) st = check_on_error(so.on_error, err);
    if (st == MR_OK && !a.help) {
        so.recipe = a.items[0];
        so.overrides = mr_with_override(&a, mr_with_vram(&a, so.overrides, vram), "model.adapter", adapter);
        so.n_threads = (int)threads;
        so.require_sandbox = (int)sandbox;
        so.progress = mr_log_get_level() >= MR_LOG_INFO;
        so.control = true;
        st = train(&so, json, err);
    }
    mr_args_clear(&a);
    return st;
}

/* What the run was started with, from its config.json; the strings are borrowed from it. */
static mr_status recorded(mr_session_opts *so, mr_args *a, const cJSON *config, const char *place, mr_err *err) {
    const cJSON *run = cJSON_GetObjectItemCaseSensitive(config, "run"), *item;
    const char *recipe, *path;
    MR_TRY(mr_json_get_string(&recipe, run, "recipe", place, err));
    MR_TRY(mr_json_get_string(&path, run, "recipe_path", place, err));
    char full[PATH_MAX]; /* the words that were typed, while they still mean the same file: messages stay short */
    bool same = realpath(recipe, full) && strcmp(full, path) == 0;
    so->recipe = !same && mr_path_exists(path) ? path : recipe;
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(run, "overrides");
    int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0, i = 0;
    const char **overrides = mr_arena_alloc(&a->arena, (size_t)(n + 1) * sizeof *overrides);
    cJSON_ArrayForEach(item, list) {
        if (!cJSON_IsString(item))
            return mr_fail(err, MR_EDATA, "%s: run.overrides[%d] is %s, want a string", place, i,
                           mr_json_type_name(item));
        overrides[i++] = item->valuestring;
    }
    so->overrides = overrides;
    return MR_OK;
}

mr_status mr_cmd_resume(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "resume",
        "medrl resume outputs",
        "RUN",
        1,
        1,
        "Continues a run from its newest checkpoint: with the settings and scripts that were in use there, and with the "
        "changes that were made after it,\n"
        "step by step. The outcome is bit for bit that of a run that was never stopped. A script that was saved since is "
        "taken over where the record ends.",
    };
    mr_session_opts so = { 0 };
    int64_t threads = 0, sandbox = 0;
    bool json = false;
    const mr_opt opts[] = {
        { "on-error", 0, MR_OPT_TEXT, "WHAT", "when rewards keep failing: pause (wait for a mended file) or stop",
          &so.on_error, 0, 0 },
        { "device", 0, MR_OPT_TEXT, "NAME", "auto, cpu or cuda:N", &so.device, 0, 0 },
        MR_OPT_PULL,
        { "threads", 0, MR_OPT_INT, "N", "CPU threads (0: all)", &threads, 0, 1024 },
        { "require-sandbox", 0, MR_OPT_INT, "LEVEL", "refuse to run scripts below this level (1 to 3)", &sandbox, 0,
          3 },
        { "allow-different-device", 0, MR_OPT_FLAG, NULL, "go on although the device computes other last bits than the checkpoint's",
          &so.allow_different_device, 0, 0 },
        { "json", 0, MR_OPT_FLAG, NULL, "the outcome as one JSON object", &json, 0, 0 },
    };
    mr_args a;
    cJSON *config = NULL;
    mr_status st = mr_args_parse(&a, &usage, opts, sizeof opts / sizeof opts[0], argc, argv, err);
    if (st == MR_OK && !a.help) st = check_on_error(so.on_error, err);
    if (st == MR_OK && !a.help) {
        so.resume = a.items[0];
        so.n_threads = (int)threads;
        so.require_sandbox = (int)sandbox;
        so.progress = mr_log_get_level() >= MR_LOG_INFO;
        so.control = true;
        char *place = mr_path_join(so.resume, "config.json");
        st = mr_run_config_load(&config, so.resume, err);
        if (st == MR_OK && !config)
            st = mr_fail(err, MR_ENOTFOUND, "%s: is no run folder, want one that `medrl run` made", so.resume);
        if (st == MR_OK) st = recorded(&so, &a, config, place, err);
        mr_free(place);
        if (st == MR_OK) st = train(&so, json, err);
    }
    cJSON_Delete(config);
    mr_args_clear(&a);
    return st;
}
