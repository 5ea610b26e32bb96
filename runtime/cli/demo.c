/* demo.c - `medrl demo`: the whole loop on a model that is in the repository, in about ten seconds. */
#include <math.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/log.h"
#include "base/proc.h"
#include "cli/cli.h"
#include "cli/session.h"
#include "cli/speak.h"

static const char recipe_name[] = "lua/recipes/demo.lua";
enum { SHOWN = 3 }; /* prompts answered before and after */

/* Sampled answers to the first rows, the same random numbers each time; owned strings. Greedy ones would hide how often
 * the untrained model is careless. */
static mr_status answer(mr_session *s, char *answers[SHOWN], mr_err *err) {
    const mr_chat_opts co = { .add_generation_prompt = true };
    mr_status st = MR_OK;
    for (int i = 0; st == MR_OK && i < SHOWN && i < s->rows.n_rows; i++) {
        mr_row row = { 0 };
        mr_ids ids = { 0 };
        mr_rollout r = { 0 };
        st = s->rows.get(s->rows.self, i, &row, err);
        if (st == MR_OK)
            st = mr_chat_encode(s->parts.tokenizer, &ids, s->parts.chat, row.messages, row.n_messages, &co, err);
        mr_speak_opts so = {
            .sampling = { .temperature = 1, .top_p = 1, .repetition_penalty = 1 },
            .max_new_tokens = s->settings.train.max_completion_length,
            .n_samples = 1,
        };
        if (st == MR_OK) st = mr_speak(&r, s->parts.model, s->parts.tokenizer, &ids, &so, err);
        if (st == MR_OK) answers[i] = mr_speak_text(s->parts.tokenizer, &r.items[0]);
        mr_rollout_clear(&r);
        mr_free(ids.data);
        mr_row_clear(&row);
    }
    return st;
}

static void indented(const char *head, const char *text) {
    printf("  %s\n%s", head, *text ? "" : "    (nothing)\n");
    while (*text) {
        size_t len = strcspn(text, "\n");
        if (len) printf("    %.*s\n", (int)len, text);
        text += len + (text[len] == '\n');
    }
}

static mr_status show(mr_session *s, char *before[SHOWN], char *after[SHOWN], mr_err *err) {
    for (int i = 0; i < SHOWN && i < s->rows.n_rows; i++) {
        mr_row row = { 0 };
        MR_TRY(s->rows.get(s->rows.self, i, &row, err));
        printf("\n");
        indented("asked", row.n_messages ? row.messages[row.n_messages - 1].content : "");
        indented("before", before[i]);
        indented("after", after[i]);
        mr_row_clear(&row);
    }
    return MR_OK;
}

static mr_status demo(const mr_session_opts *so, bool json, mr_err *err) {
    mr_session s;
    char *before[SHOWN] = { 0 }, *after[SHOWN] = { 0 };
    mr_status st = mr_session_open(&s, so, err);
    double trained_s = 0;
    if (st == MR_OK && !json) st = answer(&s, before, err);
    if (st == MR_OK) {
        double t = mr_now_s();
        st = mr_session_train(&s, err);
        trained_s = mr_now_s() - t;
    }
    if (st == MR_OK && !json) st = answer(&s, after, err);
    if (st == MR_OK && json) {
        cJSON *o = mr_session_report(&s);
        mr_print_json(o);
        cJSON_Delete(o);
    } else if (st == MR_OK) {
        st = show(&s, before, after, err);
        printf("\nreward %.2f -> %.2f in %lld steps and %.1f s (means of three steps)\n", s.first_reward, s.last_reward,
               (long long)mr_trainer_step_index(s.trainer), trained_s);
        printf("talk to it: medrl chat %s\n", mr_run_dir(s.run));
    }
    for (int i = 0; i < SHOWN; i++) {
        mr_free(before[i]);
        mr_free(after[i]);
    }
    mr_session_close(&s);
    return st;
}

mr_status mr_cmd_demo(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "demo",
        "medrl demo",
        "",
        0,
        0,
        "Improves the small model of the repository with GRPO in about ten seconds and shows its answers before and "
        "after. Nothing is fetched.",
    };
    mr_session_opts so = { 0 };
    int64_t threads = 0;
    bool json = false;
    const mr_opt opts[] = {
        { "output", 'o', MR_OPT_TEXT, "DIR", "run folder (demo in the cache folder)", &so.output, 0, 0 },
        { "set", 0, MR_OPT_LIST, "KEY=VALUE", "override a field of the recipe", &so.overrides, 0, 0 },
        { "threads", 0, MR_OPT_INT, "N", "CPU threads (0: all)", &threads, 0, 1024 },
        { "json", 0, MR_OPT_FLAG, NULL, "the outcome as one JSON object", &json, 0, 0 },
    };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, sizeof opts / sizeof opts[0], argc, argv, err);
    if (st == MR_OK && !a.help) {
        char *recipe = mr_path_join(mr_home_dir(), recipe_name), *cache = mr_path_join(mr_cache_dir(), "demo");
        so.recipe = recipe;
        so.n_threads = (int)threads;
        so.progress = mr_log_get_level() >= MR_LOG_INFO;
        so.control = true;
        if (!so.output) { /* the last demo's record is nobody's treasure */
            so.output = cache;
            st = mr_remove_tree(cache, err);
        }
        if (st == MR_OK) st = demo(&so, json, err);
        mr_free(recipe);
        mr_free(cache);
    }
    mr_args_clear(&a);
    return st;
}
