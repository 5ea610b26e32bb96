/* export.c - `medrl export`: what a run made, or a model, as the files that other programs open; and the proof that
 * they answer alike.
 *
 * One model is in memory at a time: the live one answers the check's prompts and is closed, the files are written
 * from the base tensor by tensor, the exported one is opened and answers the same prompts. Everything happens in a
 * folder beside the final one, which is put in place when all of it went well. */
#include <ctype.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "base/proc.h"
#include "cli/cli.h"
#include "cli/compare.h"
#include "cli/modelfile.h"
#include "model/export.h"

static const mr_usage usage = {
    "export",
    "medrl export outputs --to adapter\n"
    "medrl export outputs --to merged --base Qwen/Qwen2.5-3B-Instruct\n"
    "medrl export outputs --to gguf --type q4_k_m --out my-model",
    "RUN|MODEL",
    1,
    1,
    "Writes what a run made for other programs: a PEFT adapter, a merged 16-bit folder for transformers and vLLM, or a "
    "GGUF with a Modelfile for llama.cpp and Ollama. A MODEL without a run is converted. Ends with a check: both "
    "answer "
    "the same prompts greedily, tokens and log-probabilities are compared; an export that is off by more than its type "
    "explains is not put in place (docs/export.md).",
};

typedef enum target { TO_ADAPTER, TO_MERGED, TO_GGUF } target;

typedef struct options {
    const char *what, *to, *type, *out, *base, *name;
    const char *const *prompts;
    mr_parts_opts parts;
    int64_t tokens, threads, shard_mb;
    bool force, no_check, json;
} options;

typedef struct job {
    const options *o;
    target to;
    char *path, *adapter; /* of the live model */
    cJSON *run;
    char *base;                 /* whose weights are written */
    const char *type;           /* NULL for an adapter */
    char *out, *tmp;            /* the folder, and what it is until it is whole */
    char *file;                 /* the GGUF's name in it */
    char *base_name;            /* what an adapter's config calls its base */
    bool four_bit, approximate; /* the live base is NF4; the written base is not the live one's values */
    double begun;
    size_t bytes;
    mr_compare check;
} job;

/* ---- what to write ---- */

static mr_status read_target(target *to, const char *name, mr_err *err) {
    static const char *const names[] = { "adapter", "merged", "gguf" };
    for (int i = 0; i < 3; i++)
        if (name && strcmp(name, names[i]) == 0) {
            *to = (target)i;
            return MR_OK;
        }
    if (!name) return mr_fail(err, MR_EINVAL, "export: wants --to adapter, --to merged or --to gguf");
    return mr_fail(err, MR_EINVAL, "export: --to is \"%s\", want adapter, merged or gguf", name);
}

static mr_status check_same_shape(const char *live, const char *base, mr_err *err) {
    mr_config c[2];
    for (int i = 0; i < 2; i++) {
        mr_tensors *t = NULL;
        MR_TRY(mr_tensors_open(&t, i ? base : live, err));
        mr_status st = mr_config_load(&c[i], i ? base : live, t, err);
        mr_tensors_close(t);
        MR_TRY(st);
    }
    if (strcmp(c[0].model_type, c[1].model_type) != 0 || c[0].hidden_size != c[1].hidden_size ||
        c[0].num_hidden_layers != c[1].num_hidden_layers || c[0].intermediate_size != c[1].intermediate_size ||
        c[0].num_attention_heads != c[1].num_attention_heads || c[0].num_key_value_heads != c[1].num_key_value_heads ||
        c[0].head_dim != c[1].head_dim || c[0].vocab_size != c[1].vocab_size)
        return mr_fail(err, MR_EINVAL,
                       "%s: has another shape than %s, which was trained on; want the 16-bit version of the same model",
                       base, live);
    return MR_OK;
}

static const char *text_at(const cJSON *tree, const char *section, const char *key) {
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(tree, section), key));
}

/* How other programs find the base: the name on the Hub, or where the folder is. */
static char *name_of_base(const job *j) {
    if (j->o->base && !mr_path_exists(j->o->base)) return mr_strdup(j->o->base);
    if (!j->o->base) {
        const char *name = text_at(j->run, "model", "name");
        cJSON *config = NULL;
        char *peft = j->adapter ? mr_path_join(j->adapter, "adapter_config.json") : NULL, *own = NULL;
        if (!j->run && peft && mr_json_load(&config, peft, 1 << 20, NULL) == MR_OK) {
            const char *was = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(config, "base_model_name_or_path"));
            own = was && !mr_path_exists(was) ? mr_strdup(was) : NULL;
        }
        cJSON_Delete(config);
        mr_free(peft);
        if (own) return own;
        if (name && strcmp(name, "smollm2-135m-instruct") == 0) return mr_strdup("HuggingFaceTB/SmolLM2-135M-Instruct");
        if (name && !mr_ends_with(j->base, name)) return mr_strdup(name); /* not a folder that goes by it: the Hub's */
    }
    char *real = realpath(j->base, NULL), *copy = mr_strdup(real ? real : j->base);
    free(real);
    return copy;
}

/* A folder in the run, or beside the working folder for a model. */
static char *default_out(const job *j) {
    const char *tail = j->to == TO_GGUF ? j->type : j->to == TO_MERGED ? "merged" : "adapter";
    if (j->run) return mr_asprintf("%s/export-%s", j->o->what, tail);
    char *base = mr_strdup(mr_path_name(j->o->what));
    if (mr_ends_with(base, ".gguf")) base[strlen(base) - 5] = '\0';
    char *out = mr_asprintf("%s-%s", *base ? base : "model", tail);
    mr_free(base);
    return out;
}

static mr_status choose_out(job *j, mr_err *err) {
    j->out = j->o->out ? mr_strdup(j->o->out) : default_out(j);
    size_t n = strlen(j->out);
    while (n > 1 && j->out[n - 1] == '/') j->out[--n] = '\0';
    if (mr_ends_with(j->out, ".gguf") || mr_ends_with(j->out, ".safetensors"))
        return mr_fail(err, MR_EINVAL, "export: --out is \"%s\", want a folder: it gets more than one file", j->out);
    if (mr_path_exists(j->out) && !j->o->force)
        return mr_fail(err, MR_EINVAL, "%s: is there already; give another --out, or --force to replace it", j->out);
    j->tmp = mr_asprintf("%s.tmp-%ld", j->out, (long)getpid());
    char *dir = mr_path_dir(j->out);
    mr_status st = mr_mkdirs(dir, err);
    mr_free(dir);
    if (st == MR_OK) st = mr_remove_tree(j->tmp, err);
    return st == MR_OK ? mr_mkdirs(j->tmp, err) : st;
}

static mr_status choose_base(job *j, mr_err *err) {
    const options *o = j->o;
    j->four_bit = (o->parts.store && strcmp(o->parts.store, "nf4") == 0) ||
                  (!o->parts.store && mr_parts_is_four_bit(j->path)) ||
                  (!o->parts.store && j->adapter &&
                   cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(j->run, "model"),
                                                                 "load_in_4bit")));
    if (o->base && j->to == TO_ADAPTER) { /* only a name: nothing of it is read */
        j->base = mr_strdup(j->path);
        return MR_OK;
    }
    if (o->base) MR_TRY(mr_model_resolve(&j->base, o->base, err));
    if (j->base) MR_TRY(check_same_shape(j->path, j->base, err));
    if (!j->base) j->base = mr_strdup(j->path);
    if (j->to == TO_ADAPTER) return MR_OK;
    bool quantized, was_quantized;
    MR_TRY(mr_export_is_quantized(&was_quantized, j->path, err));
    MR_TRY(mr_export_is_quantized(&quantized, j->base, err));
    if (quantized)
        mr_warn("%s is quantized, and the export keeps what that has lost; --base FOLDER takes the 16-bit original",
                j->base);
    j->approximate = j->four_bit || was_quantized != quantized;
    return MR_OK;
}

static mr_status prepare(job *j, mr_err *err) {
    const options *o = j->o;
    MR_TRY(read_target(&j->to, o->to, err));
    MR_TRY(mr_parts_locate(&j->path, &j->adapter, &j->run, o->what, err));
    if (j->to == TO_ADAPTER && !j->adapter && !o->parts.adapter)
        return mr_fail(err, MR_EINVAL, "%s: has no adapter; --to merged or --to gguf take a model that has none",
                       o->what);
    if (j->to == TO_ADAPTER && o->type)
        return mr_fail(err, MR_EINVAL, "export: an adapter is written as it was trained, in f32; leave --type out");
    MR_TRY(choose_base(j, err));
    j->type = o->type;
    if (!j->type && j->to == TO_GGUF) j->type = "q8_0";
    if (!j->type && j->to == TO_MERGED) MR_TRY(mr_export_type(&j->type, j->base, err));
    j->base_name = name_of_base(j);
    if (j->to == TO_ADAPTER && mr_ends_with(j->base_name, ".gguf"))
        mr_warn("%s is what the adapter was trained on, and PEFT opens no GGUF; --base NAME writes the name of the "
                "original",
                j->base_name);
    return choose_out(j, err);
}

/* ---- the check ---- */

static const char *const questions[] = { "What is 17 + 25?", "Is aspirin an antibiotic? Answer yes or no.",
                                         "Name three symptoms of influenza." };

static mr_status open_live(mr_parts *p, const job *j, mr_err *err) {
    mr_parts_opts o = j->o->parts;
    MR_TRY(mr_parts_open(p, j->o->what, &o, err));
    mr_status st = mr_tokenizer_template(p->tokenizer) || text_at(j->run, "model", "chat_template")
                       ? mr_parts_chat(p, NULL, err)
                       : MR_OK;
    if (st != MR_OK) mr_parts_close(p);
    return st;
}

/* Without a check nothing of the model is needed but its tokenizer and the run's frame. */
static mr_status describe_only(job *j, mr_err *err) {
    if (j->to != TO_GGUF) return MR_OK;
    mr_parts p = { 0 };
    mr_status st = mr_tokenizer_open(&p.tokenizer, j->path, err);
    if (st == MR_OK && j->run) mr_parts_frame(&p, j->run);
    if (st == MR_OK) st = mr_modelfile_write(j->tmp, j->file, &p, err);
    mr_parts_close(&p);
    return st;
}

static mr_status ask_live(job *j, mr_err *err) {
    if (j->o->no_check && j->to != TO_ADAPTER) return describe_only(j, err);
    const char *const *texts = questions;
    int n = sizeof questions / sizeof questions[0];
    if (j->o->prompts) {
        texts = j->o->prompts;
        for (n = 0; texts[n]; n++) {
        }
    }
    mr_parts p;
    MR_TRY(open_live(&p, j, err));
    j->check.n_new_tokens = (int)j->o->tokens;
    mr_status st = MR_OK;
    if (!j->o->no_check) st = mr_compare_first(&j->check, &p, texts, n, err);
    if (st == MR_OK && j->to == TO_ADAPTER) st = mr_adapter_save(p.model, j->tmp, j->base_name, err);
    if (st == MR_OK && j->to == TO_GGUF) st = mr_modelfile_write(j->tmp, j->file, &p, err);
    mr_parts_close(&p);
    return st;
}

/* The exported one, stored as the live one was: what differs is what the export has changed. */
static mr_status ask_export(job *j, mr_err *err) {
    mr_parts p;
    mr_parts_opts o = j->o->parts;
    char *what = j->to == TO_ADAPTER ? mr_strdup(j->path)
                 : j->to == TO_GGUF  ? mr_path_join(j->tmp, j->file)
                                     : mr_strdup(j->tmp);
    o.adapter = j->to == TO_ADAPTER ? j->tmp : NULL;
    if (j->to == TO_ADAPTER && j->four_bit) o.store = "nf4";
    if (j->to != TO_ADAPTER && o.store && strcmp(o.store, "nf4") == 0) o.store = NULL;
    mr_status st = mr_parts_open(&p, what, &o, err);
    mr_free(what);
    if (st != MR_OK) return mr_wrap(err, st, "the export does not open again");
    st = mr_compare_second(&j->check, &p, err);
    mr_parts_close(&p);
    return st;
}

/* The mean gap in nats a token that the type explains; docs/export.md has what was observed. */
static double tolerance(const job *j) {
    static const struct {
        const char *type;
        double gap;
    } by_type[] = { { "f32", 1e-3 }, { "f16", 0.02 },   { "bf16", 0.05 },
                    { "q8_0", 0.1 }, { "q4_k_m", 0.6 }, { "q4_0", 0.8 } };
    double gap = 0;
    for (size_t i = 0; j->type && i < sizeof by_type / sizeof by_type[0]; i++)
        if (strcmp(j->type, by_type[i].type) == 0) gap = by_type[i].gap;
    return j->approximate ? gap + 0.5 : gap; /* trained over NF4, written from 16 bits: the base itself differs */
}

static char *token_text(const mr_tokenizer *t, const mr_ids *ids, int at) {
    mr_str s = { 0 };
    if (at < ids->n) mr_tokenizer_decode(t, &s, &ids->data[at], 1, false);
    return mr_str_steal(&s);
}

static void say_check(const job *j, double allowed) {
    const mr_compare *c = &j->check;
    mr_info(
        "check: %d of %d greedy tokens agree in %d answers; log-probabilities differ by %.4f on average, %.4f at most "
        "(%s: %.3g on average is allowed)",
        c->n_agree, c->n_tokens, c->n, c->gap_mean, c->gap_most, j->type ? j->type : "adapter", allowed);
    if (c->differs < 0) return;
    const struct mr_compared *x = &c->items[c->differs];
    mr_tokenizer *t = NULL;
    if (mr_tokenizer_open(&t, j->path, NULL) != MR_OK) return;
    char *live = token_text(t, &x->answer, x->agree), *other = token_text(t, &x->other, x->agree);
    mr_info("check: first difference at token %d of \"%.60s\": \"%s\" live, \"%s\" exported", x->agree + 1, x->text,
            live, other);
    mr_free(live);
    mr_free(other);
    mr_tokenizer_close(t);
}

static mr_status judge(const job *j, mr_err *err) {
    const double allowed = tolerance(j);
    say_check(j, allowed);
    if (j->check.gap_mean <= allowed && (j->to != TO_ADAPTER || j->check.differs < 0)) return MR_OK;
    return mr_fail(
        err, MR_EINTERNAL,
        "%s: the export answers otherwise than the live model (%.4f nats a token on average, %.3g allowed), so "
        "it was not put in place; --no-check writes it all the same",
        j->out, j->check.gap_mean, allowed);
}

/* ---- writing ---- */

static bool show_progress(void *self, size_t done, size_t all) {
    const job *j = self;
    char line[128];
    const double s = mr_now_s() - j->begun, rate = s > 0.1 ? (double)done / s : 0;
    snprintf(line, sizeof line, "export %3.0f %%  %.2f of %.2f GB  %.0f MB/s", 100.0 * (double)done / (double)all,
             (double)done / 1e9, (double)all / 1e9, rate / 1e6);
    mr_log_status(line);
    return mr_signals_seen() == 0;
}

static mr_status check_disk(const job *j, size_t bytes, mr_err *err) {
    struct statvfs v;
    if (statvfs(j->tmp, &v) != 0) return MR_OK;
    const double free_bytes = (double)v.f_bavail * (double)v.f_frsize, want = (double)bytes * 1.01 + 64e6;
    if (free_bytes >= want) return MR_OK;
    return mr_fail(err, MR_EIO,
                   "%s: %.2f GB are to be written, the disk has %.2f GB left; make room, or --out elsewhere", j->out,
                   (double)bytes / 1e9, free_bytes / 1e9);
}

static int cores(void) {
    cpu_set_t set;
    const int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < 16 ? n : 16;
}

static mr_status write_weights(job *j, mr_err *err) {
    char *adapter = j->adapter ? mr_strdup(j->adapter) : NULL;
    if (j->o->parts.adapter) { /* a run's folder, or the adapter itself: as mr_parts_open takes it */
        mr_free(adapter);
        char *inner = mr_path_join(j->o->parts.adapter, "adapter/adapter_config.json");
        adapter = mr_path_exists(inner) ? mr_path_join(j->o->parts.adapter, "adapter") : mr_strdup(j->o->parts.adapter);
        mr_free(inner);
    }
    const mr_export_opts x = { .base = j->base,
                               .adapter = adapter,
                               .type = j->type,
                               .name = j->o->name ? j->o->name : mr_path_name(j->out),
                               .shard_bytes = (size_t)j->o->shard_mb * 1000000,
                               .n_threads = j->o->threads ? (int)j->o->threads : cores(),
                               .progress = show_progress,
                               .self = j };
    mr_status st = mr_export_bytes(&j->bytes, j->to == TO_GGUF, &x, err);
    if (st == MR_OK) st = check_disk(j, j->bytes, err);
    char *file = j->file ? mr_path_join(j->tmp, j->file) : NULL;
    j->begun = mr_now_s();
    if (st == MR_OK) st = j->to == TO_GGUF ? mr_export_gguf(file, &x, err) : mr_export_merged(j->tmp, &x, err);
    mr_log_status(NULL);
    mr_free(file);
    mr_free(adapter);
    return st;
}

static mr_status run(job *j, mr_err *err) {
    MR_TRY(prepare(j, err));
    if (j->to == TO_GGUF) j->file = mr_asprintf("model-%s.gguf", j->type);
    MR_TRY(ask_live(j, err));
    if (j->to != TO_ADAPTER) MR_TRY(write_weights(j, err));
    if (!j->o->no_check) {
        MR_TRY(ask_export(j, err));
        MR_TRY(judge(j, err));
    }
    if (mr_signals_seen()) return mr_fail(err, MR_ESIGNAL, "export: stopped by %s", mr_signals_name(mr_signals_seen()));
    if (j->o->force) MR_TRY(mr_remove_tree(j->out, err));
    return mr_dir_commit(j->tmp, j->out, err);
}

static void print_report(const job *j) {
    const mr_compare *c = &j->check;
    if (!j->o->json) {
        printf("%s\n", j->out);
        if (j->to == TO_GGUF) printf("ollama create %s -f %s/Modelfile\n", mr_path_name(j->out), j->out);
        return;
    }
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "path", j->out);
    cJSON_AddStringToObject(root, "to", j->o->to);
    cJSON_AddStringToObject(root, "type", j->type ? j->type : "f32");
    if (j->bytes) cJSON_AddNumberToObject(root, "bytes", (double)j->bytes);
    if (!j->o->no_check) {
        cJSON *check = cJSON_AddObjectToObject(root, "check");
        cJSON_AddNumberToObject(check, "answers", c->n);
        cJSON_AddNumberToObject(check, "tokens", c->n_tokens);
        cJSON_AddNumberToObject(check, "tokens_agree", c->n_agree);
        cJSON_AddNumberToObject(check, "gap_mean", c->gap_mean);
        cJSON_AddNumberToObject(check, "gap_max", c->gap_most);
        cJSON_AddNumberToObject(check, "gap_allowed", tolerance(j));
    }
    mr_print_json(root);
    cJSON_Delete(root);
}

mr_status mr_cmd_export(int argc, char **argv, mr_err *err) {
    options o = { .tokens = 32 };
    const mr_opt opts[] = {
        { "to", 0, MR_OPT_TEXT, "KIND", "adapter (PEFT), merged (safetensors) or gguf", &o.to, 0, 0 },
        { "type", 0, MR_OPT_TEXT, "TYPE", "merged: bf16, f16, f32 (the base's); gguf: q8_0, q4_k_m, q4_0, f16, bf16, f32 (q8_0)",
          &o.type, 0, 0 },
        { "out", 0, MR_OPT_TEXT, "DIR", "the new folder (in the run, or beside you)", &o.out, 0, 0 },
        { "force", 0, MR_OPT_FLAG, NULL, "replace the folder when it is there", &o.force, 0, 0 },
        { "base", 0, MR_OPT_TEXT, "MODEL", "16-bit weights to merge into; for an adapter, the base's name", &o.base, 0,
          0 },
        { "adapter", 0, MR_OPT_TEXT, "DIR", "PEFT adapter folder, or a run's folder", &o.parts.adapter, 0, 0 },
        { "name", 0, MR_OPT_TEXT, "TEXT", "the model's name inside a GGUF (the folder's)", &o.name, 0, 0 },
        { "shard-mb", 0, MR_OPT_INT, "N", "largest safetensors file, in MB (5000)", &o.shard_mb, 0, 1 << 30 },
        { "check-tokens", 0, MR_OPT_INT, "N", "tokens of each answer of the check (32)", &o.tokens, 1, 4096 },
        { "prompt", 0, MR_OPT_LIST, "TEXT", "a question for the check, may be repeated (three of its own)", &o.prompts,
          0, 0 },
        { "no-check", 0, MR_OPT_FLAG, NULL, "write without comparing answers", &o.no_check, 0, 0 },
        { "dtype", 0, MR_OPT_TEXT, "TYPE", "products of the check: auto, f32, bf16 or f16", &o.parts.dtype, 0, 0 },
        { "store", 0, MR_OPT_TEXT, "TYPE", "the live base in memory: auto, f32, bf16, f16 or nf4", &o.parts.store, 0,
          0 },
        { "device", 0, MR_OPT_TEXT, "NAME", "of the check: auto, cpu or cuda:N", &o.parts.device, 0, 0 },
        MR_OPT_PULL,
        { "threads", 0, MR_OPT_INT, "N", "CPU threads (0: all)", &o.threads, 0, 256 },
        { "json", 0, MR_OPT_FLAG, NULL, "the result as one JSON object", &o.json, 0, 0 },
    };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, sizeof opts / sizeof opts[0], argc, argv, err);
    if (st == MR_OK && !a.help) {
        mr_signals_catch(NULL, NULL);
        job j = { .o = &o };
        o.what = a.items[0];
        o.parts.n_threads = (int)o.threads;
        st = run(&j, err);
        if (st == MR_OK)
            print_report(&j);
        else if (j.tmp)
            mr_remove_tree(j.tmp, NULL);
        mr_compare_clear(&j.check);
        cJSON_Delete(j.run);
        char *const owned[] = { j.path, j.adapter, j.base, j.out, j.tmp, j.file, j.base_name };
        for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++) mr_free(owned[i]);
    }
    mr_args_clear(&a);
    return st;
}
