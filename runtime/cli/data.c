/* data.c - `medrl data`: what a recipe's rows look like when the model sees them; `medrl test`: the cases in Lua
 * files. */
#include <stdlib.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/parts.h"
#include "rl/settings.h"
#include "script/script.h"

enum { COUNTED = 2000 }; /* rows that are tokenized for the summary */

typedef struct looking {
    const char *recipe, *split;
    const char *const *overrides;
    int64_t n;
    bool json, gpu;
    mr_pool *pool;
    mr_settings settings;
    mr_parts parts; /* tokenizer and chat only */
    mr_row_source rows;
} looking;

static mr_status open_data(looking *l, mr_err *err) {
    MR_TRY(mr_check_overrides(l->overrides, err));
    mr_pool_opts po = { .on_cpu = !l->gpu, .overrides = l->overrides };
    MR_TRY(mr_pool_open(&l->pool, l->recipe, &po, err));
    MR_TRY(mr_parts_settings(&l->settings, mr_pool_recipe(l->pool), mr_pool_recipe_path(l->pool), err));
    MR_TRY(mr_model_resolve(&l->parts.path, l->settings.model.name, err));
    MR_TRY(mr_tokenizer_open(&l->parts.tokenizer, l->parts.path, err));
    MR_TRY(mr_parts_chat(&l->parts, &(mr_chat_choice){ l->settings.model.chat_template,
                                                       l->settings.model.chat_template_kwargs,
                                                       l->settings.model.chat_template_date },
                         err));
    MR_TRY(mr_pool_rows(l->pool, l->split, &l->rows, err));
    if (l->rows.n_rows == 0)
        return mr_fail(err, MR_EDATA, "%s: data.%s has no rows, want at least one", mr_pool_recipe_path(l->pool),
                       l->split);
    return MR_OK;
}

/* A row's prompt in tokens; *text gets the rendered prompt when it is not NULL. */
static mr_status encode_row(looking *l, const mr_row *row, int *n_tokens, mr_str *text, mr_err *err) {
    mr_ids ids = { 0 };
    bool prompt = l->settings.method == MR_METHOD_GRPO; /* supervised rows end with the answer */
    const mr_chat_opts o = { .add_generation_prompt = prompt };
    mr_status st = mr_chat_encode(l->parts.tokenizer, &ids, l->parts.chat, row->messages, row->n_messages, &o, err);
    if (st == MR_OK && text) st = mr_chat_render(text, l->parts.chat, row->messages, row->n_messages, &o, err);
    *n_tokens = ids.n;
    mr_free(ids.data);
    return st;
}

static mr_status show_row(looking *l, int64_t index, mr_err *err) {
    mr_row row = { 0 };
    mr_str text = { 0 };
    int n_tokens = 0;
    mr_status st = l->rows.get(l->rows.self, index, &row, err);
    if (st == MR_OK) st = encode_row(l, &row, &n_tokens, &text, err);
    if (st == MR_OK && l->json) {
        cJSON *o = cJSON_CreateObject(), *fields = NULL;
        st = mr_json_parse(&fields, row.json, strlen(row.json), "row", err);
        cJSON_AddNumberToObject(o, "index", (double)index);
        cJSON_AddStringToObject(o, "source", row.source);
        cJSON_AddStringToObject(o, "prompt", text.data ? text.data : "");
        cJSON_AddNumberToObject(o, "prompt_tokens", n_tokens);
        if (fields) cJSON_AddItemToObject(o, "row", fields);
        if (st == MR_OK) mr_print_json(o);
        cJSON_Delete(o);
    } else if (st == MR_OK) {
        printf("--- row %lld of %lld, %s, %d tokens\n%s\n    %.600s%s\n\n", (long long)index + 1,
               (long long)l->rows.n_rows, row.source[0] ? row.source : "no source", n_tokens,
               text.data ? text.data : "", row.json, strlen(row.json) > 600 ? " ..." : "");
    }
    mr_str_clear(&text);
    mr_row_clear(&row);
    return st;
}

static int by_value(const void *a, const void *b) {
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

static mr_status summarize(looking *l, mr_err *err) {
    int64_t n_rows = l->rows.n_rows, n = n_rows < COUNTED ? n_rows : COUNTED;
    int *tokens = mr_alloc((size_t)n * sizeof *tokens), limit = l->settings.train.max_prompt_length, over = 0;
    mr_status st = MR_OK;
    double sum = 0;
    for (int64_t i = 0; st == MR_OK && i < n; i++) { /* spread evenly over the rows */
        mr_row row = { 0 };
        st = l->rows.get(l->rows.self, i * n_rows / n, &row, err);
        if (st == MR_OK) st = encode_row(l, &row, &tokens[i], NULL, err);
        mr_row_clear(&row);
        sum += tokens[i];
        over += limit > 0 && tokens[i] > limit;
    }
    mr_str dropped = { 0 };
    if (st == MR_OK) st = mr_pool_data_report(l->pool, l->split, &dropped, err);
    if (st == MR_OK) {
        qsort(tokens, (size_t)n, sizeof *tokens, by_value);
        int median = tokens[n / 2], p95 = tokens[(n - 1) * 95 / 100];
        if (l->json) {
            cJSON *o = cJSON_CreateObject();
            cJSON_AddNumberToObject(o, "rows", (double)n_rows);
            cJSON_AddNumberToObject(o, "counted", (double)n);
            cJSON_AddNumberToObject(o, "tokens_min", tokens[0]);
            cJSON_AddNumberToObject(o, "tokens_mean", sum / (double)n);
            cJSON_AddNumberToObject(o, "tokens_median", median);
            cJSON_AddNumberToObject(o, "tokens_p95", p95);
            cJSON_AddNumberToObject(o, "tokens_max", tokens[n - 1]);
            cJSON_AddNumberToObject(o, "over_max_prompt_length", over);
            cJSON_AddStringToObject(o, "report", dropped.data ? dropped.data : "");
            mr_print_json(o);
            cJSON_Delete(o);
        } else {
            printf("%lld rows; tokens of a prompt: least %d, median %d, mean %.0f, 95 of 100 up to %d, most %d\n",
                   (long long)n_rows, tokens[0], median, sum / (double)n, p95, tokens[n - 1]);
            if (n < n_rows) printf("counted over %lld rows\n", (long long)n);
            if (over) printf("%d of these %lld are longer than max_prompt_length (%d)\n", over, (long long)n, limit);
            if (dropped.len) printf("%s%s", dropped.data, dropped.data[dropped.len - 1] == '\n' ? "" : "\n");
        }
    }
    mr_str_clear(&dropped);
    mr_free(tokens);
    return st;
}

mr_status mr_cmd_data(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "data",
        "medrl data recipes/medical_mix.lua -n 3\nmedrl data recipes/medical_mix.lua --split eval --json",
        "RECIPE",
        1,
        1,
        "Prints rows of a recipe as the model sees them, their columns, the lengths of all prompts in tokens, and what "
        "was dropped.",
    };
    looking l = { .split = "train", .n = 3 };
    const mr_opt opts[] = {
        { "n", 'n', MR_OPT_INT, "N", "rows to print (3)", &l.n, 0, 1 << 30 },
        { "split", 0, MR_OPT_TEXT, "NAME", "train or eval", &l.split, 0, 0 },
        { "set", 0, MR_OPT_LIST, "KEY=VALUE", "override a field of the recipe", &l.overrides, 0, 0 },
        { "gpu", 0, MR_OPT_FLAG, NULL, "without the recipe's on_cpu part", &l.gpu, 0, 0 },
        { "json", 0, MR_OPT_FLAG, NULL, "JSON lines: the rows, then the summary", &l.json, 0, 0 },
    };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, sizeof opts / sizeof opts[0], argc, argv, err);
    if (st == MR_OK && !a.help) {
        l.recipe = a.items[0];
        st = open_data(&l, err);
        for (int64_t i = 0; st == MR_OK && i < l.n && i < l.rows.n_rows; i++) st = show_row(&l, i, err);
        if (st == MR_OK) st = summarize(&l, err);
        mr_pool_close(l.pool);
        mr_settings_clear(&l.settings);
        mr_parts_close(&l.parts);
    }
    mr_args_clear(&a);
    return st;
}

mr_status mr_cmd_test(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "test",
        "medrl test\nmedrl test lua/rewards/correctness.lua my_rewards/",
        "[PATH...]",
        0,
        1000000,
        "Runs the cases that Lua files carry, in fresh workers, and prints those that fail with what came and what was "
        "wanted. Without a path: the\n"
        "installation's lua folder, and ./lua.",
    };
    bool json = false;
    const mr_opt opts[] = { { "json", 0, MR_OPT_FLAG, NULL, "the counts and failures as one JSON object", &json, 0,
                              0 } };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, 1, argc, argv, err);
    if (st == MR_OK && !a.help) {
        char *lua = mr_path_join(mr_home_dir(), "lua"), *here = realpath("lua", NULL), *there = realpath(lua, NULL);
        const char *paths[2] = { lua, "lua" };
        bool other = here && (!there || strcmp(here, there) != 0);
        mr_str out = { 0 };
        int passed = 0, failed = 0;
        if (a.n)
            st = mr_script_test(a.items, a.n, &out, &passed, &failed, err);
        else
            st = mr_script_test(paths, other ? 2 : 1, &out, &passed, &failed, err);
        if (st == MR_OK && json) {
            cJSON *o = cJSON_CreateObject();
            cJSON_AddNumberToObject(o, "passed", passed);
            cJSON_AddNumberToObject(o, "failed", failed);
            cJSON_AddStringToObject(o, "failures", out.data ? out.data : "");
            mr_print_json(o);
            cJSON_Delete(o);
        } else if (st == MR_OK) {
            if (out.len) printf("%s%s", out.data, out.data[out.len - 1] == '\n' ? "" : "\n");
            printf("%d passed, %d failed\n", passed, failed);
        }
        fflush(stdout);
        if (st == MR_OK && failed)
            st =
                mr_fail(err, MR_EINVAL, "test: %d of %d cases failed; they are printed above", failed, passed + failed);
        mr_str_clear(&out);
        mr_free(lua);
        free(here);
        free(there);
    }
    mr_args_clear(&a);
    return st;
}
