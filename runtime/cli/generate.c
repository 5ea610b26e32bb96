/* generate.c - `medrl generate`: one prompt, one or more completions. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/speak.h"

static const mr_usage usage = {
    "generate",
    "medrl generate smollm2-135m-instruct \"What is the capital of France?\"\n"
    "medrl generate outputs -n 6 --temperature 1 --json \"Is aspirin an antibiotic?\"",
    "MODEL|RUN [PROMPT]",
    1,
    2,
    "Completes one prompt, streaming to stdout. Without PROMPT it is read from stdin. A run folder brings its adapter, "
    "its system prompt\n"
    "and its example messages along. The same arguments give the same text.",
};

typedef struct options {
    mr_parts_opts parts;
    const char *system;
    int64_t n, max_new, seed, top_k, threads;
    double temperature, top_p, min_p, penalty;
    bool raw, json;
} options;

static mr_status read_stdin(char **text, mr_err *err) {
    enum { MOST = 16 << 20 };
    mr_str s = { 0 };
    char buf[4096];
    size_t n;
    if (isatty(STDIN_FILENO)) mr_info("type the prompt; Ctrl-D at the start of a line ends it");
    while (!feof(stdin) && (n = fread(buf, 1, sizeof buf, stdin)) > 0 && s.len <= MOST) mr_str_add(&s, buf, n);
    mr_status st = MR_OK;
    if (s.len == 0)
        st = mr_fail(err, MR_EINVAL, "generate: no prompt; write it behind the model, or send it to stdin");
    else if (s.len > MOST)
        st = mr_fail(err, MR_EINVAL, "stdin: the prompt has more than %d bytes", MOST);
    else if (s.len && memchr(s.data, '\0', s.len))
        st = mr_fail(err, MR_EDATA, "stdin: the prompt holds a zero byte, want text");
    while (s.len && (s.data[s.len - 1] == '\n' || s.data[s.len - 1] == '\r'))
        s.data[--s.len] = '\0'; /* the shell's, not the prompt's */
    *text = st == MR_OK ? mr_str_steal(&s) : NULL;
    mr_str_clear(&s);
    return st;
}

static void print_json(const mr_parts *p, const mr_ids *prompt, const mr_rollout *r) {
    cJSON *o = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(o, "completions");
    for (int i = 0; i < r->n; i++) {
        const mr_completion *c = &r->items[i];
        cJSON *item = cJSON_CreateObject(), *logp = cJSON_CreateArray();
        char *text = mr_speak_text(p->tokenizer, c);
        cJSON_AddStringToObject(item, "text", text);
        cJSON_AddItemToObject(item, "ids", cJSON_CreateIntArray(c->ids, c->n));
        for (int j = 0; j < c->n; j++) cJSON_AddItemToArray(logp, cJSON_CreateNumber((double)c->logp[j]));
        cJSON_AddItemToObject(item, "logprobs", logp);
        cJSON_AddBoolToObject(item, "truncated", c->truncated);
        cJSON_AddItemToArray(list, item);
        mr_free(text);
    }
    cJSON_AddNumberToObject(o, "prompt_tokens", prompt->n);
    cJSON_AddNumberToObject(o, "new_tokens", (double)r->n_new_tokens);
    cJSON_AddNumberToObject(o, "prefill_s", r->prefill_s);
    cJSON_AddNumberToObject(o, "decode_s", r->decode_s);
    mr_print_json(o);
    cJSON_Delete(o);
}

static mr_status encode(mr_ids *ids, const mr_parts *p, const options *o, const char *prompt, mr_err *err) {
    if (o->raw) return mr_tokenizer_encode(p->tokenizer, ids, prompt, strlen(prompt), true, err);
    int n;
    const mr_message user = { "user", prompt };
    mr_message *messages = mr_speak_frame(p, o->system ? o->system : p->system, &user, 1, &n);
    const mr_chat_opts co = { .add_generation_prompt = true };
    mr_status st = mr_chat_encode(p->tokenizer, ids, p->chat, messages, n, &co, err);
    mr_free(messages);
    return st;
}

static mr_status generate(const mr_args *a, options *o, mr_err *err) {
    char *read = NULL;
    mr_parts p = { 0 };
    mr_ids ids = { 0 };
    mr_rollout r = { 0 };
    double first_s = 0;
    mr_status st = MR_OK;
    if (a->n < 2) st = read_stdin(&read, err);
    const char *prompt = a->n < 2 ? read : a->items[1];
    o->parts.need_chat = !o->raw;
    o->parts.n_threads = (int)o->threads;
    if (st == MR_OK) st = mr_parts_open(&p, a->items[0], &o->parts, err);
    if (st == MR_OK) st = encode(&ids, &p, o, prompt, err);
    if (st == MR_OK) {
        mr_speak_opts so = {
            .sampling = { .temperature = (float)o->temperature,
                          .top_p = (float)o->top_p,
                          .top_k = (int)o->top_k,
                          .min_p = (float)o->min_p,
                          .repetition_penalty = (float)o->penalty },
            .max_new_tokens = (int)o->max_new,
            .n_samples = (int)o->n,
            .seed = (uint64_t)o->seed,
            .stream = o->n == 1 && !o->json,
            .first_token_s = &first_s,
        };
        st = mr_speak(&r, p.model, p.tokenizer, &ids, &so, err);
    }
    if (st == MR_OK && o->json) print_json(&p, &ids, &r);
    for (int i = 0; st == MR_OK && !o->json && i < r.n; i++) {
        char *text = o->n == 1 ? NULL : mr_speak_text(p.tokenizer, &r.items[i]);
        if (text)
            printf("--- %d of %d%s\n%s", i + 1, r.n, r.items[i].truncated ? " (cut at --max-new-tokens)" : "", text);
        printf("\n");
        mr_free(text);
    }
    if (st == MR_OK)
        mr_debug("%d prompt tokens in %.2f s, %lld new in %.2f s; first token %.2f s after the start of the program",
                 ids.n, r.prefill_s, (long long)r.n_new_tokens, r.decode_s, first_s);
    int number = mr_signals_seen();
    if (st == MR_OK && number) st = mr_fail(err, MR_ESIGNAL, "generate: stopped by %s", mr_signals_name(number));
    mr_rollout_clear(&r);
    mr_free(ids.data);
    mr_free(read);
    mr_parts_close(&p);
    return st;
}

mr_status mr_cmd_generate(int argc, char **argv, mr_err *err) {
    options o = { .n = 1, .max_new = 256, .temperature = 0.7, .top_p = 1, .penalty = 1 };
    const mr_opt opts[] = {
        { "adapter", 0, MR_OPT_TEXT, "DIR", "PEFT adapter folder, or a run's folder", &o.parts.adapter, 0, 0 },
        { "system", 0, MR_OPT_TEXT, "TEXT", "system message (\"\" for none)", &o.system, 0, 0 },
        { "n", 'n', MR_OPT_INT, "N", "completions (1)", &o.n, 1, 1024 },
        { "temperature", 0, MR_OPT_REAL, "T", "0 takes the likeliest token (0.7)", &o.temperature, 0, 100 },
        { "top-p", 0, MR_OPT_REAL, "P", "keep the smallest set with this probability (1: all)", &o.top_p, 0, 1 },
        { "top-k", 0, MR_OPT_INT, "K", "keep the K likeliest (0: all)", &o.top_k, 0, 1 << 20 },
        { "min-p", 0, MR_OPT_REAL, "P", "keep what has P times the largest probability (0: all)", &o.min_p, 0, 1 },
        { "repetition-penalty", 0, MR_OPT_REAL, "X", "divide the logits of seen tokens (1: off)", &o.penalty, 0.01,
          100 },
        { "max-new-tokens", 0, MR_OPT_INT, "N", "longest completion (256)", &o.max_new, 1, 1 << 20 },
        { "seed", 0, MR_OPT_INT, "N", "random seed (0)", &o.seed, 0, 9007199254740992.0 },
        { "raw", 0, MR_OPT_FLAG, NULL, "no chat template: continue the text as it is", &o.raw, 0, 0 },
        { "dtype", 0, MR_OPT_TEXT, "TYPE", "auto, f32, bf16 or f16", &o.parts.dtype, 0, 0 },
        { "store", 0, MR_OPT_TEXT, "TYPE", "weights in memory: auto, f32, bf16, f16 or nf4", &o.parts.store, 0, 0 },
        { "device", 0, MR_OPT_TEXT, "NAME", "auto, cpu or cuda:N", &o.parts.device, 0, 0 },
        MR_OPT_PULL,
        { "threads", 0, MR_OPT_INT, "N", "CPU threads (0: all)", &o.threads, 0, 1024 },
        { "json", 0, MR_OPT_FLAG, NULL, "one JSON object with text, ids and log-probabilities", &o.json, 0, 0 },
    };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, sizeof opts / sizeof opts[0], argc, argv, err);
    if (st == MR_OK && !a.help) {
        mr_signals_catch(NULL, NULL);
        st = generate(&a, &o, err);
    }
    mr_args_clear(&a);
    return st;
}
