/* inspect.c - the machine-readable twins: `medrl tokenize`, `medrl logprobs`, `medrl hash`. JSON lines in, JSON lines
 * out. */
#include <stdlib.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/parts.h"
#include "rl/trainer.h"

enum { PIECE = 256 }; /* rows of one forward */

/* Calls fn for each line of stdin that holds JSON; empty lines are skipped. place is "stdin:12". */
typedef mr_status (*line_fn)(void *self, const cJSON *line, const char *place, mr_err *err);

static mr_status each_line(line_fn fn, void *self, mr_err *err) {
    char *text = NULL, place[32];
    size_t cap = 0;
    ssize_t n;
    mr_status st = MR_OK;
    for (long number = 1; st == MR_OK && (n = getline(&text, &cap, stdin)) >= 0; number++) {
        if (strspn(text, " \t\r\n") == (size_t)n) continue;
        snprintf(place, sizeof place, "stdin:%ld", number);
        cJSON *line;
        st = mr_json_parse(&line, text, (size_t)n, place, err);
        if (st == MR_OK) st = fn(self, line, place, err);
        cJSON_Delete(line);
    }
    free(text);
    return st;
}

/* Appends the integers of an array that are ids of the model. *found is false when the field is not there. */
static mr_status read_ids(mr_ids *ids, bool *found, const cJSON *line, const char *key, int n_vocab, const char *place,
                          mr_err *err) {
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(line, key), *item;
    *found = list != NULL;
    if (!list) return MR_OK;
    if (!cJSON_IsArray(list))
        return mr_fail(err, MR_EDATA, "%s: field \"%s\" is %s, want an array", place, key, mr_json_type_name(list));
    int at = 0;
    cJSON_ArrayForEach(item, list) {
        if (!cJSON_IsNumber(item))
            return mr_fail(err, MR_EDATA, "%s: %s[%d] is %s, want an integer", place, key, at, mr_json_type_name(item));
        double x = item->valuedouble;
        if (x != (double)(int32_t)x || x < 0 || x >= n_vocab)
            return mr_fail(err, MR_EDATA, "%s: %s[%d] is %.17g, want an id in 0..%d", place, key, at, x, n_vocab - 1);
        mr_ids_push(ids, (int32_t)x);
        at++;
    }
    return MR_OK;
}

/* ---- tokenize ---- */

typedef struct tokenizing {
    mr_parts parts;       /* tokenizer; the chat when messages come */
    const char *template; /* --template */
    bool plain, show;
} tokenizing;

/* Opened when it is first asked for: a base model has none. */
static mr_status open_chat(tokenizing *z, mr_err *err) {
    if (z->parts.chat) return MR_OK;
    return mr_parts_chat(&z->parts, z->template ? &(mr_chat_choice){ .file = z->template } : NULL, err);
}

/* {"messages": [...]}: the prompt as the model sees it. What else is in the line are variables of the template. */
static mr_status tokenize_messages(tokenizing *z, mr_ids *ids, const cJSON *line, cJSON *o, const char *place,
                                   mr_err *err) {
    mr_str variables = { 0 }, text = { 0 };
    mr_json_put(&variables, line);
    const mr_chat_opts co = { .variables = variables.data };
    mr_status st = open_chat(z, err);
    if (st == MR_OK) st = mr_chat_encode(z->parts.tokenizer, ids, z->parts.chat, NULL, 0, &co, err);
    if (st == MR_OK) st = mr_chat_render(&text, z->parts.chat, NULL, 0, &co, err);
    if (st == MR_OK)
        cJSON_AddStringToObject(o, "text", text.data ? text.data : "");
    else
        st = mr_wrap(err, st, "%s", place);
    mr_str_clear(&text);
    mr_str_clear(&variables);
    return st;
}

static mr_status tokenize_line(void *self, const cJSON *line, const char *place, mr_err *err) {
    tokenizing *z = self;
    mr_ids ids = { 0 };
    bool found;
    mr_status st = read_ids(&ids, &found, line, "ids", mr_tokenizer_count(z->parts.tokenizer), place, err);
    cJSON *o = cJSON_CreateObject();
    if (st == MR_OK && !found && cJSON_GetObjectItemCaseSensitive(line, "messages")) {
        st = tokenize_messages(z, &ids, line, o, place, err);
    } else if (st == MR_OK && found) {
        mr_str text = { 0 };
        mr_tokenizer_decode(z->parts.tokenizer, &text, ids.data, ids.n, false);
        cJSON_AddStringToObject(o, "text", text.data ? text.data : "");
        mr_str_clear(&text);
    } else if (st == MR_OK) {
        const char *text;
        st = mr_json_get_string(&text, line, "text", place, err);
        if (st == MR_OK) st = mr_tokenizer_encode(z->parts.tokenizer, &ids, text, strlen(text), !z->plain, err);
    }
    if (st == MR_OK) {
        cJSON_AddItemToObject(o, "ids", cJSON_CreateIntArray(ids.data, ids.n));
        mr_print_json(o);
    }
    cJSON_Delete(o);
    mr_free(ids.data);
    return st;
}

mr_status mr_cmd_tokenize(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "tokenize",
        "echo '{\"text\": \"Hello <|im_end|>\"}' | medrl tokenize smollm2-135m-instruct\n"
        "echo '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}], \"add_generation_prompt\": true}' | "
        "medrl tokenize "
        "smollm2-135m-instruct\n"
        "medrl tokenize smollm2-135m-instruct --show-template",
        "MODEL",
        1,
        1,
        "Reads JSON lines from stdin, {\"text\": ...}, {\"ids\": [...]} or {\"messages\": [...]}, and writes {\"ids\": "
        "[...]}, "
        "with \"text\" for ids and messages.\n"
        "Messages go through the chat template; what else the line has (add_generation_prompt, tools, enable_thinking) "
        "are "
        "its variables. No token\n"
        "is added in front of text. Special tokens inside of text are recognized, as other tools do by default; inside "
        "of "
        "messages they never are.",
    };
    tokenizing z = { 0 };
    const mr_opt opts[] = {
        { "plain", 0, MR_OPT_FLAG, NULL, "special tokens stay text, as medrl treats data", &z.plain, 0, 0 },
        MR_OPT_PULL,
        { "template", 0, MR_OPT_TEXT, "FILE", "a chat template instead of the model's own: .jinja or .lua", &z.template,
          0, 0 },
        { "show-template", 0, MR_OPT_FLAG, NULL, "prints the chat template as it is compiled to Lua, and reads nothing",
          &z.show, 0, 0 },
        { "json", 0, MR_OPT_FLAG, NULL, "the output is always JSON lines", &(bool){ false }, 0, 0 },
    };
    mr_args a;
    mr_parts *p = &z.parts;
    mr_status st = mr_args_parse(&a, &usage, opts, sizeof opts / sizeof opts[0], argc, argv, err);
    if (st == MR_OK && !a.help) {
        st = mr_parts_locate(&p->path, NULL, &p->run, a.items[0], err);
        if (st == MR_OK) st = mr_tokenizer_open(&p->tokenizer, p->path, err);
        if (st == MR_OK && z.show) {
            st = open_chat(&z, err);
            if (st == MR_OK) printf("%s", mr_template_lua(p->template));
        } else if (st == MR_OK) {
            st = each_line(tokenize_line, &z, err);
        }
        mr_parts_close(p);
    }
    mr_args_clear(&a);
    return st;
}

/* ---- logprobs ---- */

typedef struct scoring {
    mr_parts parts;
    mr_decoder *decoder;
    int64_t slots; /* of the decoder */
    float inv_t;
} scoring;

static int64_t round_up(int64_t n) {
    return (n + MR_KV_CHUNK - 1) / MR_KV_CHUNK * MR_KV_CHUNK;
}

/* Log-probabilities of ids[first..n) given what stands before each; the first n_prompt ids are a prefix of their own,
 * as in sampling, so the numbers are those that training sees. */
static mr_status score(scoring *s, float *logp, const mr_ids *ids, int n_prompt, int first, mr_err *err) {
    int64_t own0 = round_up(n_prompt), need = own0 + round_up(ids->n - n_prompt);
    if (!s->decoder || need > s->slots) {
        mr_decoder_close(s->decoder);
        s->decoder = NULL;
        s->slots = need < 1024 ? 1024 : need;
        mr_decoder_opts o = { .rollout_rows = PIECE, .rollout_slots = s->slots };
        MR_TRY(mr_decoder_open(&s->decoder, s->parts.model, &o, err));
    }
    mr_decoder_phase(s->decoder, MR_PHASE_ROLLOUT);
    int32_t pos[PIECE], slots[PIECE], rows[PIECE], targets[PIECE];
    for (int at = 0; at < ids->n;) {
        bool prompt = at < n_prompt;
        int end = prompt ? n_prompt : ids->n, n = end - at < PIECE ? end - at : PIECE,
            past = prompt ? at : at - n_prompt, m = 0;
        mr_span span = {
            .n_rows = n, .past = past, .slot0 = prompt ? 0 : (int32_t)own0, .n_prefix = prompt ? 0 : n_prompt
        };
        for (int i = 0; i < n; i++) {
            pos[i] = at + i;
            slots[i] = span.slot0 + past + i;
            if (at + i + 1 < first || at + i + 1 >= ids->n) continue; /* the row of token t - 1 predicts token t */
            rows[m] = i;
            targets[m++] = ids->data[at + i + 1];
        }
        mr_pack pack = { .n_rows = n, .ids = ids->data + at, .pos = pos, .slots = slots, .spans = &span, .n_spans = 1 };
        mr_decoder_forward(s->decoder, &pack);
        if (m) mr_decoder_logprobs(s->decoder, logp, NULL, rows, targets, m, s->inv_t);
        logp += m;
        at += n;
    }
    return s->parts.backend->sync(s->parts.backend, err);
}

static mr_status score_line(void *self, const cJSON *line, const char *place, mr_err *err) {
    scoring *s = self;
    const mr_config *c = mr_model_config(s->parts.model);
    mr_ids ids = { 0 };
    bool has_prompt, has_ids = false, has_completion = false;
    int n_prompt = 0;
    mr_status st = read_ids(&ids, &has_prompt, line, "prompt_ids", c->vocab_size, place, err);
    if (st == MR_OK && has_prompt) {
        n_prompt = ids.n;
        st = read_ids(&ids, &has_completion, line, "completion_ids", c->vocab_size, place, err);
        if (st == MR_OK && !has_completion)
            st = mr_fail(err, MR_EDATA, "%s: field \"completion_ids\" is missing beside \"prompt_ids\"", place);
        else if (st == MR_OK && n_prompt == 0)
            st = mr_fail(err, MR_EDATA, "%s: field \"prompt_ids\" is empty, want at least one id", place);
    } else if (st == MR_OK) {
        st = read_ids(&ids, &has_ids, line, "ids", c->vocab_size, place, err);
    }
    if (st == MR_OK && !has_prompt && !has_ids) {
        const char *text;
        if (!cJSON_GetObjectItemCaseSensitive(line, "text"))
            st = mr_fail(err, MR_EDATA, "%s: want a field \"text\", \"ids\", or \"prompt_ids\" and \"completion_ids\"",
                         place);
        if (st == MR_OK) st = mr_json_get_string(&text, line, "text", place, err);
        if (st == MR_OK && !s->parts.tokenizer)
            st = mr_fail(err, MR_ENOTFOUND, "%s: %s has no tokenizer for \"text\"; give \"ids\"", place, s->parts.path);
        if (st == MR_OK) st = mr_tokenizer_encode(s->parts.tokenizer, &ids, text, strlen(text), true, err);
    }
    if (st == MR_OK && ids.n > c->max_position_embeddings)
        st = mr_fail(err, MR_EDATA, "%s: has %d tokens, the model's context holds %d", place, ids.n,
                     c->max_position_embeddings);
    if (st == MR_OK) {
        int first = has_prompt ? n_prompt : 1, n = ids.n > first ? ids.n - first : 0;
        float *logp = mr_alloc((size_t)(n + 1) * sizeof *logp);
        if (n) st = score(s, logp, &ids, n_prompt, first, err);
        if (st == MR_OK) {
            mr_str out = { 0 };
            mr_str_puts(&out, "{\"logprobs\": [");
            for (int i = 0; i < n; i++) {
                if (i) mr_str_puts(&out, ", ");
                mr_json_put_number(&out, (double)logp[i]);
            }
            mr_str_puts(&out, "]}\n");
            fwrite(out.data, 1, out.len, stdout);
            fflush(stdout);
            mr_str_clear(&out);
        }
        mr_free(logp);
    }
    mr_free(ids.data);
    return st;
}

mr_status mr_cmd_logprobs(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "logprobs",
        "echo '{\"text\": \"The capital of France is Paris.\"}' | medrl logprobs smollm2-135m-instruct --dtype f32",
        "MODEL|RUN",
        1,
        1,
        "Reads JSON lines from stdin, {\"text\": ...}, {\"ids\": [...]} or {\"prompt_ids\": [...], \"completion_ids\": "
        "[...]}, and writes\n"
        "{\"logprobs\": [...]}: natural logarithms, one for each token but the first, or one for each token of the "
        "completion.",
    };
    scoring s = { 0 };
    mr_parts_opts po = { 0 };
    double temperature = 1;
    int64_t threads = 0;
    const mr_opt opts[] = {
        { "adapter", 0, MR_OPT_TEXT, "DIR", "PEFT adapter folder, or a run's folder", &po.adapter, 0, 0 },
        { "dtype", 0, MR_OPT_TEXT, "TYPE", "auto, f32, bf16 or f16", &po.dtype, 0, 0 },
        { "store", 0, MR_OPT_TEXT, "TYPE", "weights in memory: auto, f32, bf16, f16 or nf4", &po.store, 0, 0 },
        { "temperature", 0, MR_OPT_REAL, "T", "divide the logits by it (1)", &temperature, 0.001, 1000 },
        { "device", 0, MR_OPT_TEXT, "NAME", "auto, cpu or cuda:N", &po.device, 0, 0 },
        MR_OPT_PULL,
        { "threads", 0, MR_OPT_INT, "N", "CPU threads (0: all)", &threads, 0, 1024 },
        { "json", 0, MR_OPT_FLAG, NULL, "the output is always JSON lines", &(bool){ false }, 0, 0 },
    };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, sizeof opts / sizeof opts[0], argc, argv, err);
    if (st == MR_OK && !a.help) {
        po.n_threads = (int)threads;
        po.ids_only = true;
        s.inv_t = (float)(1.0 / temperature);
        st = mr_parts_open(&s.parts, a.items[0], &po, err);
        if (st == MR_OK) st = each_line(score_line, &s, err);
        mr_decoder_close(s.decoder);
        mr_parts_close(&s.parts);
    }
    mr_args_clear(&a);
    return st;
}

/* ---- hash ---- */

mr_status mr_cmd_hash(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "hash",
        "medrl hash outputs",
        "RUN|CHECKPOINT",
        1,
        1,
        "One SHA-256 over adapter (or model), optimizer and position of the newest checkpoint: two runs that print the "
        "same are equal bit\nfor bit.",
    };
    bool json = false;
    const mr_opt opts[] = { { "json", 0, MR_OPT_FLAG, NULL, "as a JSON object", &json, 0, 0 } };
    mr_args a;
    char *path = NULL, hex[65];
    mr_status st = mr_args_parse(&a, &usage, opts, 1, argc, argv, err);
    if (st == MR_OK && !a.help) {
        char *manifest = mr_path_join(a.items[0], "MANIFEST");
        if (mr_path_exists(manifest))
            path = mr_strdup(a.items[0]);
        else
            st = mr_checkpoint_find(&path, a.items[0], err);
        mr_free(manifest);
        if (st == MR_OK) st = mr_checkpoint_hash(hex, path, err);
        if (st == MR_OK && json) {
            cJSON *o = cJSON_CreateObject();
            cJSON_AddStringToObject(o, "sha256", hex);
            cJSON_AddStringToObject(o, "checkpoint", path);
            mr_print_json(o);
            cJSON_Delete(o);
        } else if (st == MR_OK) {
            printf("%s\n", hex);
        }
    }
    mr_free(path);
    mr_args_clear(&a);
    return st;
}
