/* data.c - `medrl data`: what a recipe's rows look like when the model sees them. */
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "base/utf8.h"
#include "cli/cli.h"
#include "cli/data_impl.h"

static void look_at_terminal(mr_looking *l) {
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    struct winsize w;
    l->columns = 80;
    l->terminal = isatty(STDOUT_FILENO);
    if (!l->terminal || l->json) return;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0) l->columns = w.ws_col;
    l->color = term && *term && strcmp(term, "dumb") != 0 && !(no && *no);
}

static mr_status open_tokenizer(mr_looking *l, mr_err *err) {
    MR_TRY(mr_model_resolve(&l->parts.path, l->settings.model.name, err));
    return mr_tokenizer_open(&l->parts.tokenizer, l->parts.path, err);
}

static mr_status open_chat(mr_looking *l, mr_err *err) {
    return mr_parts_chat(&l->parts,
                         &(mr_chat_choice){ .file = l->settings.model.chat_template,
                                            .kwargs = l->settings.model.chat_template_kwargs,
                                            .date = l->settings.model.chat_template_date },
                         err);
}

static mr_status open_data(mr_looking *l, mr_err *err) {
    MR_TRY(mr_check_overrides(l->overrides, err));
    mr_pool_opts po = {
        .n_workers = 1, .on_cpu = !l->gpu, .overrides = l->overrides, .require_sandbox = (int)l->sandbox
    };
    MR_TRY(mr_pool_open(&l->pool, l->recipe, &po, err));
    MR_TRY(mr_parts_settings(&l->settings, mr_pool_recipe(l->pool), mr_pool_recipe_path(l->pool), err));
    mr_err why = { .msg = "" };
    mr_status text = open_tokenizer(l, &why); /* data can be looked at before the model is there */
    if (text == MR_OK) {
        text = open_chat(l, &why);
        const bool of_recipe = l->settings.model.chat_template[0] || l->settings.model.chat_template_date[0] ||
                               l->settings.model.chat_template_kwargs;
        if (text != MR_OK && of_recipe) return mr_fail(err, text, "%s", why.msg);
    }
    if (text != MR_OK) snprintf(l->no_tokens, sizeof l->no_tokens, "%s", why.msg);
    mr_log_status("opening the data sets");
    mr_status st = mr_pool_rows(l->pool, l->split, &l->rows, err);
    mr_log_status(NULL);
    MR_TRY(st);
    if (l->rows.n_rows == 0)
        return mr_fail(err, MR_EDATA, "%s: data.%s has no rows, want at least one", mr_pool_recipe_path(l->pool),
                       l->split);
    return MR_OK;
}

mr_status mr_data_encode(mr_looking *l, const mr_row *row, mr_ids *ids, mr_err *err) {
    bool prompt = l->settings.method == MR_METHOD_GRPO; /* supervised rows end with the answer */
    const mr_chat_opts o = { .add_generation_prompt = prompt };
    return mr_chat_encode(l->parts.tokenizer, ids, l->parts.chat, row->messages, row->n_messages, &o, err);
}

/* ---- one row ---- */

/* Text of a data set may hold anything: on a terminal its control characters are shown and not obeyed. */
static void put_text(const mr_looking *l, mr_str *out, const char *text, size_t len) {
    if (!l->terminal) {
        mr_str_add(out, text, len);
        return;
    }
    for (size_t i = 0; i < len;) {
        uint32_t cp = 0xfffd;
        int n = mr_utf8_next(&cp, (const uint8_t *)text + i, len - i);
        if (n <= 0) n = 1;
        if ((cp < 0x20 && cp != '\n' && cp != '\t') || (cp >= 0x7f && cp < 0xa0))
            mr_str_printf(out, "\\x%02x", (unsigned)cp);
        else
            mr_str_add(out, text + i, (size_t)n);
        i += (size_t)n;
    }
}

/* The prompt as its tokens read. Special tokens are colored, so that "<|im_end|>" inside a row's text, which is no
 * token, can be told from the real one. */
static void put_tokens(const mr_looking *l, mr_str *out, const mr_ids *ids) {
    const mr_tokenizer *t = l->parts.tokenizer;
    for (int i = 0, end; i < ids->n; i = end) {
        const bool special = mr_tokenizer_is_special(t, ids->data[i]);
        for (end = i + 1; end < ids->n && mr_tokenizer_is_special(t, ids->data[end]) == special;) end++;
        mr_str piece = { 0 };
        mr_tokenizer_decode(t, &piece, ids->data + i, end - i, false);
        if (special && l->color) mr_str_puts(out, "\x1b[36m");
        put_text(l, out, piece.data ? piece.data : "", piece.len);
        if (special && l->color) mr_str_puts(out, "\x1b[0m");
        mr_str_clear(&piece);
    }
}

/* Without a tokenizer: the messages, role by role. */
static void put_messages(const mr_looking *l, mr_str *out, const mr_row *row) {
    for (int i = 0; i < row->n_messages; i++) {
        mr_str_printf(out, "%s[%s]\n", i ? "\n" : "", row->messages[i].role);
        put_text(l, out, row->messages[i].content, strlen(row->messages[i].content));
    }
}

static mr_status print_row_json(const mr_looking *l, int64_t index, const mr_row *row, const mr_ids *ids,
                                const mr_str *prompt, mr_err *err) {
    cJSON *o = cJSON_CreateObject(), *columns = NULL;
    mr_status st = mr_json_parse(&columns, row->json, strlen(row->json), "row", err);
    cJSON_AddStringToObject(o, "type", "row");
    cJSON_AddNumberToObject(o, "row", (double)index + 1);
    cJSON_AddStringToObject(o, "place", row->place ? row->place : "");
    cJSON_AddStringToObject(o, "source", row->source);
    cJSON *messages = cJSON_AddArrayToObject(o, "messages");
    for (int i = 0; i < row->n_messages; i++) {
        cJSON *m = cJSON_CreateObject();
        cJSON_AddStringToObject(m, "role", row->messages[i].role);
        cJSON_AddStringToObject(m, "content", row->messages[i].content);
        cJSON_AddItemToArray(messages, m);
    }
    if (l->no_tokens[0]) {
        cJSON_AddNullToObject(o, "prompt");
        cJSON_AddNullToObject(o, "prompt_tokens");
    } else {
        cJSON_AddStringToObject(o, "prompt", prompt->data ? prompt->data : "");
        cJSON_AddNumberToObject(o, "prompt_tokens", ids->n);
    }
    if (columns) cJSON_AddItemToObject(o, "columns", columns);
    if (st == MR_OK) mr_print_json(o);
    cJSON_Delete(o);
    return st;
}

/* The line above a row, the prompt, the columns. */
static void print_row(const mr_looking *l, int64_t index, const mr_row *row, const mr_ids *ids, mr_str *prompt) {
    enum { COLUMNS_SHOWN = 600 };
    const char *dim = l->color ? "\x1b[1m" : "", *plain = l->color ? "\x1b[0m" : "";
    printf("%s--- row %lld of %lld", dim, (long long)index + 1, (long long)l->rows.n_rows);
    if (row->source[0]) printf(", %s", row->source);
    if (row->place && row->place[0]) printf(", %s", row->place);
    if (!l->no_tokens[0]) printf(", %d tokens", ids->n);
    size_t len = strlen(row->json), shown = len > COLUMNS_SHOWN ? COLUMNS_SHOWN : len;
    while (shown < len && shown > 0 && ((unsigned char)row->json[shown] & 0xc0) == 0x80) shown--;
    if (prompt->len == 0 || prompt->data[prompt->len - 1] != '\n') mr_str_puts(prompt, "\n");
    mr_str_puts(prompt, "    ");
    put_text(l, prompt, row->json, shown);
    printf("%s\n%s%s\n\n", plain, prompt->data, shown < len ? " ..." : "");
}

static mr_status show_failed(const mr_looking *l, int64_t index, const char *why) {
    if (!l->json) {
        printf("--- row %lld of %lld cannot be made: %s\n\n", (long long)index + 1, (long long)l->rows.n_rows, why);
        return MR_OK;
    }
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "type", "row");
    cJSON_AddNumberToObject(o, "row", (double)index + 1);
    cJSON_AddStringToObject(o, "error", why);
    mr_print_json(o);
    cJSON_Delete(o);
    return MR_OK;
}

static mr_status show_row(mr_looking *l, int64_t index, mr_err *err) {
    mr_row row = { 0 };
    mr_str prompt = { 0 };
    mr_ids ids = { 0 };
    mr_err why = { .msg = "" };
    mr_status st = l->rows.get(l->rows.self, index, &row, &why);
    if (st == MR_EDATA) return show_failed(l, index, why.msg); /* the summary counts them and sets the exit code */
    if (st != MR_OK) return mr_fail(err, st, "%s", why.msg);
    if (st == MR_OK && !l->no_tokens[0]) st = mr_data_encode(l, &row, &ids, err);
    if (st == MR_OK && !l->no_tokens[0])
        put_tokens(l, &prompt, &ids);
    else if (st == MR_OK)
        put_messages(l, &prompt, &row);
    if (st == MR_OK && l->json)
        st = print_row_json(l, index, &row, &ids, &prompt, err);
    else if (st == MR_OK)
        print_row(l, index, &row, &ids, &prompt);
    mr_free(ids.data);
    mr_str_clear(&prompt);
    mr_row_clear(&row);
    return st;
}

/* --rows 3,17,20-25: places counted from 1, as they are printed. All are looked at before the first is shown. */
static mr_status show_rows(mr_looking *l, bool show, mr_err *err) {
    for (const char *at = l->rows_text;; at++) {
        char *end;
        const long long first = strtoll(at, &end, 10);
        long long last = first;
        if (end != at && *end == '-') {
            at = end + 1;
            last = strtoll(at, &end, 10);
        }
        if (end == at || (*end && *end != ',') || last < first)
            return mr_fail(err, MR_EINVAL, "data: --rows is \"%s\", want places like 3,17 or 20-25", l->rows_text);
        if (first < 1 || last > l->rows.n_rows)
            return mr_fail(err, MR_EINVAL, "data: --rows asks for row %lld, data.%s has 1 to %lld",
                           first < 1 ? first : last, l->split, (long long)l->rows.n_rows);
        for (long long i = first; show && i <= last; i++) MR_TRY(show_row(l, i - 1, err));
        if (!*end) return MR_OK;
        at = end;
    }
}

mr_status mr_cmd_data(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "data",
        "medrl data recipes/medical_mix.lua -n 3\nmedrl data recipes/medical_mix.lua --split eval --rows 1,7-9\n"
        "medrl data recipes/medical_mix.lua --json",
        "RECIPE",
        1,
        1,
        "Prints rows of a recipe as the model sees them (special tokens in color), then the lengths of the prompts in "
        "tokens, the answers by data set, what was dropped and why, and which rows of eval stand in train too.",
    };
    mr_looking l = { .split = "train", .n = 3 };
    const mr_opt opts[] = {
        { "n", 'n', MR_OPT_INT, "N", "how many rows to print, from the first on (3)", &l.n, 0, 1 << 30 },
        { "rows", 0, MR_OPT_TEXT, "LIST", "print these instead: 3,17 or 20-25, counted from 1", &l.rows_text, 0, 0 },
        { "split", 0, MR_OPT_TEXT, "NAME", "train or eval", &l.split, 0, 0 },
        MR_OPT_PULL,
        { "set", 0, MR_OPT_LIST, "KEY=VALUE", "override a field of the recipe", &l.overrides, 0, 0 },
        { "gpu", 0, MR_OPT_FLAG, NULL, "without the recipe's on_cpu part", &l.gpu, 0, 0 },
        { "require-sandbox", 0, MR_OPT_INT, "LEVEL", "refuse to run scripts below this level (1 to 3)", &l.sandbox, 0,
          3 },
        { "json", 0, MR_OPT_FLAG, NULL, "JSON lines: the rows, then the summary", &l.json, 0, 0 },
    };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, sizeof opts / sizeof opts[0], argc, argv, err);
    if (st == MR_OK && !a.help) {
        l.recipe = a.items[0];
        look_at_terminal(&l);
        if (strcmp(l.split, "train") != 0 && strcmp(l.split, "eval") != 0)
            st = mr_fail(err, MR_EINVAL, "data: --split is \"%s\", want train or eval", l.split);
        if (st == MR_OK) st = open_data(&l, err);
        if (st == MR_OK && l.rows_text) {
            st = show_rows(&l, false, err);
            if (st == MR_OK) st = show_rows(&l, true, err);
        } else {
            for (int64_t i = 0; st == MR_OK && i < l.n && i < l.rows.n_rows; i++) st = show_row(&l, i, err);
        }
        if (st == MR_OK) st = mr_data_report(&l, err);
        mr_pool_close(l.pool);
        mr_settings_clear(&l.settings);
        mr_parts_close(&l.parts);
    }
    mr_args_clear(&a);
    return st;
}
