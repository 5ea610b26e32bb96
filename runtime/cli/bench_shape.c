/* bench_shape.c - see bench_shape.h. Everything goes through the kernel table, so what is measured on a device is what
 * runs there. */
#include "cli/bench_shape.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/proc.h"
#include "cli/bench_limits.h"
#include "cli/bench_step.h"
#include "cli/cli.h"
#include "model/cost.h"
#include "rl/metrics.h"

enum {
    MAX_REPEATS = 99,
    MAX_BATCHES = 16,
    DECODE_STEPS = 32,
    DECODE_STEPS_QUICK = 8,
    PREFILL_ROWS = 512,
    MAX_TICKS = 65536
};

/* One measured part: seconds (median), tokens that come out, and what it needs at least. */
typedef struct part {
    double s, tokens;
    mr_cost cost;
} part;

typedef struct decoding {
    int batch, groups, group;
    part p;
    const char *why; /* not measured; NULL: it was */
} decoding;

typedef struct shaping {
    const mr_bench_shape *o;
    mr_parts parts;
    mr_config config;
    mr_model_opts mo;
    mr_settings set;
    mr_plan plan;
    mr_bench_job job;
    int repeats, n_batches;
    int64_t context;
    double kv_token_bytes; /* of one layer */
    double *ticks;         /* [MAX_TICKS] */
    /* figures */
    mr_limits limits;
    double load_s, n_params;
    part prefill, logprobs, train, step;
    double rollout_s, step_prefill_s, step_decode_s, step_train_s;
    size_t allocated;
    decoding decodes[MAX_BATCHES];
} shaping;

/* --- opening --- */

static mr_status settings(shaping *x, mr_err *err) {
    const mr_bench_shape *o = x->o;
    mr_str text = { 0 };
    const char *when = o->dequantize ? o->dequantize : "auto", *mark = strcmp(when, "true") && strcmp(when, "false") ? "\"" : "";
    mr_str_printf(&text,
                  "{ \"model\": { \"name\": \"%s\", \"max_seq_length\": %lld, \"dequantize\": %s%s%s },"
                  "  \"lora\": { \"r\": %lld, \"lora_alpha\": %lld, \"target_modules\": \"all-linear\" },"
                  "  \"rewards\": [ \"even\" ],"
                  "  \"grpo\": { \"prompts_per_step\": %lld, \"num_generations\": %lld, \"max_prompt_length\": %lld,"
                  "    \"max_completion_length\": %lld, \"optim\": \"%s\", \"gradient_checkpointing\": %s,"
                  "    \"max_grad_norm\": 0.1, \"learning_rate\": 5e-6, \"adam_beta2\": 0.99, \"seed\": 3407 }",
                  o->config, (long long)(o->n_prompt + o->n_new), mark, when, mark, (long long)o->rank, (long long)o->rank,
                  (long long)o->prompts, (long long)o->group, (long long)o->n_prompt, (long long)o->n_new,
                  o->optim ? o->optim : "adamw_8bit", o->no_checkpointing ? "false" : "true");
    if (o->vram) mr_str_printf(&text, ", \"vram\": \"%s\"", o->vram);
    mr_str_puts(&text, " }");
    cJSON *tree = NULL;
    mr_status st = mr_json_parse(&tree, text.data, text.len, "bench", err);
    if (st == MR_OK) st = mr_settings_parse(&x->set, tree, "bench", err);
    cJSON_Delete(tree);
    mr_str_clear(&text);
    return st;
}

static mr_status store_of(mr_dtype *out, const char *name, mr_dtype compute, mr_err *err) {
    if (!name || strcmp(name, "auto") == 0)
        *out = compute;
    else if (strcmp(name, "nf4") == 0)
        *out = MR_NF4;
    else if (strcmp(name, "bf16") == 0)
        *out = MR_BF16;
    else if (strcmp(name, "f16") == 0)
        *out = MR_F16;
    else if (strcmp(name, "f32") == 0)
        *out = MR_F32;
    else
        return mr_fail(err, MR_EINVAL, "--store is \"%s\", want auto, f32, bf16, f16 or nf4", name);
    return MR_OK;
}

static mr_status parse_batches(shaping *x, mr_err *err) {
    const char *text = x->o->batches;
    if (!text) text = x->parts.backend->kind == MR_CUDA ? "1,6,48,192,512" : "1,6,24";
    for (const char *at = text; *at;) {
        char *end;
        long n = strtol(at, &end, 10);
        if (end == at || (*end && *end != ',') || n < 1 || n > 65536 || x->n_batches == MAX_BATCHES)
            return mr_fail(err, MR_EINVAL, "--batch is \"%s\", want up to %d numbers such as 1,6,48", text,
                           MAX_BATCHES);
        x->decodes[x->n_batches++].batch = (int)n;
        at = *end ? end + 1 : end;
    }
    return MR_OK;
}

static mr_status open_job(shaping *x, const mr_parts_opts *po, mr_err *err) {
    const mr_bench_shape *o = x->o;
    MR_TRY(mr_config_named(&x->config, o->config, err));
    if (o->n_prompt + o->n_new > x->config.max_position_embeddings ||
        x->context + DECODE_STEPS + 1 > x->config.max_position_embeddings)
        return mr_fail(err, MR_EINVAL, "bench: %s has %d positions; lower --prompt, --new or --context", o->config,
                       x->config.max_position_embeddings);
    MR_TRY(settings(x, err));
    MR_TRY(mr_parts_backend(&x->parts.backend, po->device, po->n_threads, err));
    x->parts.backend->exact = !po->no_exact;
    if (o->compare_exact && x->parts.backend->kind == MR_CPU)
        return mr_fail(err, MR_EINVAL, "bench: --compare-exact wants a GPU; a CPU keeps the row rule either way");
    MR_TRY(parse_batches(x, err));
    mr_backend *b = x->parts.backend;
    mr_dtype compute;
    MR_TRY(mr_parts_dtype(&compute, po->dtype, b, err));
    x->mo = mr_plan_model_opts(&x->set, compute);
    MR_TRY(store_of(&x->mo.store, po->store, compute, err));
    x->mo.from_config = true;
    x->mo.config = &x->config;
    x->kv_token_bytes =
        (double)b->kv_bytes(b, MR_KV_CHUNK, x->config.num_key_value_heads, x->config.head_dim) / MR_KV_CHUNK;
    x->n_params = (double)mr_parameter_count(&x->config);
    const mr_census census = { .prompt = (int)o->n_prompt, .completion = (int)o->n_new };
    MR_TRY(mr_plan_make(&x->plan, b, &x->config, &x->mo, &x->set, &census, err));
    x->mo.dequantize = mr_plan_dequantize(&x->plan);
    mr_info("limits of %s ...", b->device);
    MR_TRY(mr_bench_limits(&x->limits, b, x->mo.compute, err));
    b->bytes_peak = b->bytes; /* the account of the job begins here */
    mr_info("%s as %s: %.2f billion weights ...", o->config, mr_dtype_name(x->mo.store), x->n_params / 1e9);
    double t0 = mr_now_s();
    MR_TRY(mr_model_open(&x->parts.model, b, o->config, &x->mo, err));
    x->load_s = mr_now_s() - t0;
    mr_bench_job *j = &x->job;
    *j = (mr_bench_job){ .b = b,
                         .model = x->parts.model,
                         .set = &x->set,
                         .prompts = (int)o->prompts,
                         .group = (int)o->group,
                         .n_prompt = (int)o->n_prompt,
                         .n_new = (int)o->n_new };
    const mr_settings *s = &x->set;
    const mr_optimizer_opts oo = { s->train.optim, s->train.adam_beta1, s->train.adam_beta2, s->train.adam_epsilon,
                                   s->train.weight_decay };
    int n_params;
    const mr_param *params = mr_model_params(j->model, &n_params);
    MR_TRY(mr_optimizer_open(&j->optimizer, b, params, n_params, &oo, err));
    MR_TRY(mr_decoder_open(&j->decoder, j->model, &x->plan.room, err));
    int64_t most = o->prompts * o->n_prompt;
    for (int i = 0; i < x->n_batches; i++)
        if (x->decodes[i].batch * x->context > most) most = x->decodes[i].batch * x->context;
    return mr_bench_open(j, (int)most, err);
}

/* --- what each part needs at least --- */

static mr_cost sum(mr_cost a, mr_cost b) {
    return (mr_cost){ a.bytes + b.bytes, a.flops + b.flops };
}

static mr_cost prefill_cost(const shaping *x) {
    const mr_bench_shape *o = x->o;
    mr_pass p = { .head_rows = (double)(o->prompts * o->group), .kv_token_bytes = x->kv_token_bytes };
    mr_pass_group(&p, (double)o->prompts, (double)o->n_prompt, 0, 0);
    return mr_cost_pass(&x->config, &x->mo, &p);
}

/* One token for each of groups x group sequences, whose own keys are n_own with the new one. */
static mr_cost decode_cost(const shaping *x, double groups, double group, double n_prompt, double n_own) {
    const mr_pass p = { .rows = groups * group,
                        .pairs = groups * group * (n_prompt + n_own),
                        .keys = groups * (n_prompt + group * n_own),
                        .head_rows = groups * group,
                        .kv_token_bytes = x->kv_token_bytes };
    return mr_cost_pass(&x->config, &x->mo, &p);
}

static mr_cost pack_cost(const shaping *x, bool backward) {
    const mr_bench_shape *o = x->o;
    mr_pass p = { .head_rows = (double)(o->prompts * o->group * o->n_new),
                  .kv_token_bytes = x->kv_token_bytes,
                  .backward = backward,
                  .checkpointing = !o->no_checkpointing,
                  .kept_attention = (double)x->plan.room.kept_attention / x->config.num_hidden_layers,
                  .kept_mlp = (double)x->plan.room.kept_mlp / x->config.num_hidden_layers };
    mr_pass_group(&p, (double)o->prompts, (double)o->n_prompt, (double)o->group, (double)(o->n_new - 1));
    mr_cost c = mr_cost_pass(&x->config, &x->mo, &p);
    double states = x->set.train.optim == MR_ADAMW_8BIT ? 2 : 8;
    return backward ? sum(c, mr_cost_update(&x->config, &x->mo, states)) : c;
}

static mr_cost step_cost(const shaping *x) {
    const mr_bench_shape *o = x->o;
    mr_cost c = sum(prefill_cost(x), pack_cost(x, true));
    for (int64_t t = 1; t < o->n_new; t++)
        c = sum(c, decode_cost(x, (double)o->prompts, (double)o->group, (double)o->n_prompt, (double)t));
    return c;
}

/* --- the parts of the job --- */

static mr_status run_prefill(shaping *x, mr_err *err) {
    double s[MAX_REPEATS];
    for (int i = -1; i < x->repeats; i++) { /* the first one warms up */
        int n;
        double t0 = mr_now_s();
        MR_TRY(mr_bench_clock(&x->job, x->ticks, MAX_TICKS, &n, x->job.prompts, x->job.group, x->job.n_prompt, 1, err));
        if (i >= 0) s[i] = mr_now_s() - t0;
    }
    x->prefill = (part){ mr_bench_median(s, x->repeats), (double)(x->job.prompts * x->job.n_prompt), prefill_cost(x) };
    return MR_OK;
}

static mr_status run_steps(shaping *x, mr_err *err) {
    double whole[MAX_REPEATS], rollout[MAX_REPEATS], prefill[MAX_REPEATS], decode[MAX_REPEATS], train[MAX_REPEATS];
    mr_bench_job *j = &x->job;
    /* Products are chosen, by trying, when a shape first comes; that is no part of what is compared. */
    if (x->o->compare_exact) MR_TRY(mr_bench_step(j, j->prompts, 0, err));
    for (int i = 0; i < x->repeats; i++) {
        MR_TRY(mr_bench_step(j, j->prompts, (uint32_t)i + 1, err));
        whole[i] = j->step_s;
        rollout[i] = j->rollout_s;
        prefill[i] = j->prefill_s;
        decode[i] = j->decode_s;
        train[i] = j->train_s;
        mr_info("step %d of %d: %.3f s (rollout %.3f, training %.3f)", i + 1, x->repeats, j->step_s, j->rollout_s,
                j->train_s);
    }
    x->step = (part){ mr_bench_median(whole, x->repeats), (double)(j->prompts * j->group * j->n_new), step_cost(x) };
    x->rollout_s = mr_bench_median(rollout, x->repeats);
    x->step_prefill_s = mr_bench_median(prefill, x->repeats);
    x->step_decode_s = mr_bench_median(decode, x->repeats);
    x->step_train_s = mr_bench_median(train, x->repeats);
    return MR_OK;
}

static mr_status run_training(shaping *x, mr_err *err) {
    double logprobs[MAX_REPEATS], train[MAX_REPEATS];
    mr_bench_job *j = &x->job;
    double tokens = (double)j->prompts * (j->n_prompt + (double)j->group * (j->n_new - 1));
    for (int i = 0; i < x->repeats; i++) {
        double t0 = mr_now_s();
        MR_TRY(mr_bench_logprobs(j, j->prompts, err));
        logprobs[i] = mr_now_s() - t0;
        MR_TRY(mr_bench_train(j, j->prompts, err));
        train[i] = j->train_s;
    }
    x->logprobs = (part){ mr_bench_median(logprobs, x->repeats), tokens, pack_cost(x, false) };
    x->train = (part){ mr_bench_median(train, x->repeats), tokens, pack_cost(x, true) };
    return MR_OK;
}

/* --- decode steps of other sizes --- */

/* Groups as large as the job's, or the next size that divides the batch. */
static void cut_batch(decoding *d, int group) {
    d->group = d->batch;
    for (int g = group; g < d->batch; g++)
        if (d->batch % g == 0) {
            d->group = g;
            break;
        }
    d->groups = d->batch / d->group;
}

static mr_status run_decode(shaping *x, decoding *d, mr_err *err) {
    mr_bench_job *j = &x->job;
    int steps = x->o->quick ? DECODE_STEPS_QUICK : DECODE_STEPS, n;
    cut_batch(d, (int)x->o->group);
    const mr_decoder_opts o = {
        .rollout_rows = d->batch > PREFILL_ROWS ? d->batch : PREFILL_ROWS,
        .rollout_slots = mr_rollout_slots(d->groups, (int)x->context, d->group, steps + 1),
        .head_rows = x->plan.room.head_rows,
    };
    mr_decoder_room room;
    mr_decoder_plan(&room, j->b, &x->config, &x->mo, &o);
    if (x->plan.cap && j->b->bytes + room.block + room.scratch > x->plan.cap) {
        d->why = "does not fit";
        return MR_OK;
    }
    mr_err why;
    mr_status st = mr_decoder_open(&j->decoder, j->model, &o, &why);
    if (st == MR_ENOMEM) {
        d->why = "does not fit";
        return MR_OK;
    }
    if (st != MR_OK) return mr_fail(err, st, "%s", why.msg);
    st = mr_bench_clock(j, x->ticks, MAX_TICKS, &n, d->groups, d->group, (int)x->context, steps + 1, err);
    if (st == MR_OK) { /* what comes before the last `steps` forwards is the prompts' */
        d->p = (part){ mr_bench_median(x->ticks + n - steps, steps), d->batch,
                       decode_cost(x, d->groups, d->group, (double)x->context, 1 + steps / 2.0) };
        mr_info("decode, %d at once: %.3f ms a step", d->batch, 1e3 * d->p.s);
    }
    mr_decoder_close(j->decoder);
    j->decoder = NULL;
    return st;
}

static mr_status run(shaping *x, const mr_parts_opts *po, mr_err *err) {
    x->ticks = mr_alloc(MAX_TICKS * sizeof *x->ticks);
    MR_TRY(open_job(x, po, err));
    MR_TRY(run_prefill(x, err));
    MR_TRY(run_steps(x, err));
    MR_TRY(run_training(x, err));
    x->allocated = x->parts.backend->bytes_peak;
    mr_decoder_close(x->job.decoder);
    x->job.decoder = NULL;
    for (int i = 0; i < x->n_batches; i++) MR_TRY(run_decode(x, &x->decodes[i], err));
    return MR_OK;
}

/* --- the report --- */

static double flop_unit(const shaping *x) {
    return x->limits.product < 1e13 ? 1e9 : 1e12;
}
static const char *flop_name(const shaping *x) {
    return x->limits.product < 1e13 ? "GFLOP/s" : "TFLOP/s";
}

static void print_part(const shaping *x, const char *what, const part *p) {
    printf("%-26s %10.3f ms %10.0f tokens/s %9.1f GB/s %4.0f %% %9.1f %s %4.0f %%\n", what, 1e3 * p->s,
           p->tokens / p->s, p->cost.bytes / p->s / 1e9, 100 * p->cost.bytes / p->s / x->limits.copy,
           p->cost.flops / p->s / flop_unit(x), flop_name(x), 100 * p->cost.flops / p->s / x->limits.product);
}

static void print_table(const shaping *x) {
    const mr_bench_shape *o = x->o;
    const mr_plan *p = &x->plan;
    char what[64];
    printf("%s, random weights as %s%s, %s products%s, LoRA of rank %lld, on %s\n", o->config, mr_dtype_name(x->mo.store),
           p->unpacked ? " and dequantized" : "", mr_dtype_name(x->mo.compute), x->parts.backend->exact ? "" : " without the row rule", (long long)o->rank,
           x->parts.backend->device);
    printf("job: %lld x %lld completions of %lld from prompts of %lld, gradient checkpointing %s; per cent are of\n",
           (long long)o->prompts, (long long)o->group, (long long)o->n_new, (long long)o->n_prompt,
           o->no_checkpointing ? "off" : "on");
    printf("%.1f GB/s (a copy, read and written) and %.1f %s (a large product), both measured here\n",
           x->limits.copy / 1e9, x->limits.product / flop_unit(x), flop_name(x));
    printf("%-26s %10.3f s  %10.1f million weights/s\n", "make and store weights", x->load_s,
           x->n_params / x->load_s / 1e6);
    print_part(x, "prefill", &x->prefill);
    for (int i = 0; i < x->n_batches; i++) {
        const decoding *d = &x->decodes[i];
        snprintf(what, sizeof what, "decode step, %d x %d", d->groups, d->group);
        if (d->why)
            printf("%-26s %s\n", what, d->why);
        else
            print_part(x, what, &d->p);
    }
    print_part(x, "log-probabilities", &x->logprobs);
    print_part(x, "training step", &x->train);
    print_part(x, "whole GRPO step", &x->step);
    printf("  rollout %.3f s (prefill %.3f, decode %.3f: %.3f ms a token), training %.3f s\n", x->rollout_s,
           x->step_prefill_s, x->step_decode_s, 1e3 * x->step_decode_s / (double)(o->n_new - 1), x->step_train_s);
    if (p->kept)
        printf("kept for the backward pass: %.3f GB, attention of %d layers, MLP of %d, %d rows of logits\n", (double)p->kept / 1e9,
               p->room.kept_attention, p->room.kept_mlp, p->room.head_rows);
    printf("memory: planned %.3f GB, taken %.3f GB, process %.3f GB", (double)p->total / 1e9,
           (double)x->allocated / 1e9, (double)mr_rss_peak_bytes() / 1e9);
    if (p->cap) printf("; of %.3f GB", (double)p->cap / 1e9);
    if (p->unpacked) printf("; %.3f GB of it dequantized weights", (double)p->unpacked / 1e9);
    if (x->job.scaler.on)
        printf("\nfloat16: loss scale %g, %lld of %d updates skipped for overflow", x->job.scaler.scale,
               (long long)x->job.scaler.skipped, x->job.updates);
    printf("\nmedian of %d; sampled and trained log-probabilities differ by at most %g\n", x->repeats, x->job.logp_gap);
    mr_str text = { 0 };
    mr_estimate_describe(&p->t4, &mr_t4, &text);
    if (text.data) fputs(text.data, stdout);
    mr_str_clear(&text);
}

static cJSON *part_json(const shaping *x, const part *p) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "ms", 1e3 * p->s);
    cJSON_AddNumberToObject(o, "tokens_s", p->tokens / p->s);
    cJSON_AddNumberToObject(o, "bytes", p->cost.bytes);
    cJSON_AddNumberToObject(o, "flop", p->cost.flops);
    cJSON_AddNumberToObject(o, "bytes_s", p->cost.bytes / p->s);
    cJSON_AddNumberToObject(o, "flop_s", p->cost.flops / p->s);
    cJSON_AddNumberToObject(o, "of_copy", p->cost.bytes / p->s / x->limits.copy);
    cJSON_AddNumberToObject(o, "of_product", p->cost.flops / p->s / x->limits.product);
    return o;
}

static cJSON *report(const shaping *x) {
    const mr_bench_shape *s = x->o;
    cJSON *o = cJSON_CreateObject(), *limits, *load, *step, *memory;
    cJSON_AddStringToObject(o, "config", s->config);
    cJSON_AddStringToObject(o, "device", x->parts.backend->device);
    cJSON_AddStringToObject(o, "store", mr_dtype_name(x->mo.store));
    cJSON_AddStringToObject(o, "compute", mr_dtype_name(x->mo.compute));
    cJSON_AddBoolToObject(o, "dequantized", x->plan.unpacked > 0);
    cJSON_AddBoolToObject(o, "exact", x->parts.backend->exact);
    cJSON_AddNumberToObject(o, "parameters", x->n_params);
    cJSON_AddNumberToObject(o, "rank", (double)s->rank);
    cJSON_AddNumberToObject(o, "prompts", (double)s->prompts);
    cJSON_AddNumberToObject(o, "group", (double)s->group);
    cJSON_AddNumberToObject(o, "prompt", (double)s->n_prompt);
    cJSON_AddNumberToObject(o, "new", (double)s->n_new);
    cJSON_AddNumberToObject(o, "context", (double)x->context);
    cJSON_AddBoolToObject(o, "gradient_checkpointing", !s->no_checkpointing);
    cJSON_AddNumberToObject(o, "repeats", x->repeats);
    limits = cJSON_AddObjectToObject(o, "limits");
    cJSON_AddNumberToObject(limits, "copy_bytes_s", x->limits.copy);
    cJSON_AddNumberToObject(limits, "product_flop_s", x->limits.product);
    load = cJSON_AddObjectToObject(o, "load");
    cJSON_AddNumberToObject(load, "s", x->load_s);
    cJSON_AddNumberToObject(load, "parameters_s", x->n_params / x->load_s);
    cJSON_AddItemToObject(o, "prefill", part_json(x, &x->prefill));
    cJSON *list = cJSON_AddArrayToObject(o, "decode");
    for (int i = 0; i < x->n_batches; i++) {
        const decoding *d = &x->decodes[i];
        cJSON *item = d->why ? cJSON_CreateObject() : part_json(x, &d->p);
        cJSON_AddNumberToObject(item, "batch", d->batch);
        cJSON_AddNumberToObject(item, "groups", d->groups);
        if (d->why) cJSON_AddStringToObject(item, "left_out", d->why);
        cJSON_AddItemToArray(list, item);
    }
    cJSON_AddItemToObject(o, "logprobs", part_json(x, &x->logprobs));
    cJSON_AddItemToObject(o, "train", part_json(x, &x->train));
    step = part_json(x, &x->step);
    cJSON_AddNumberToObject(step, "rollout_s", x->rollout_s);
    cJSON_AddNumberToObject(step, "prefill_s", x->step_prefill_s);
    cJSON_AddNumberToObject(step, "decode_s", x->step_decode_s);
    cJSON_AddNumberToObject(step, "train_s", x->step_train_s);
    cJSON_AddNumberToObject(step, "loss", x->job.loss);
    cJSON_AddNumberToObject(step, "grad_norm", x->job.norm);
    cJSON_AddNumberToObject(step, "logp_diff_max", x->job.logp_gap);
    if (x->job.scaler.on) {
        cJSON_AddNumberToObject(step, MR_M_LOSS_SCALE, x->job.scaler.scale);
        cJSON_AddNumberToObject(step, MR_M_SKIPPED, (double)x->job.scaler.skipped);
        cJSON_AddNumberToObject(step, "updates", x->job.updates);
    }
    cJSON_AddItemToObject(o, "step", step);
    memory = cJSON_AddObjectToObject(o, "memory");
    cJSON_AddNumberToObject(memory, "planned_bytes", (double)x->plan.total);
    cJSON_AddNumberToObject(memory, "taken_bytes", (double)x->allocated);
    cJSON_AddNumberToObject(memory, "dequantized_bytes", (double)x->plan.unpacked);
    cJSON_AddNumberToObject(memory, "process_bytes", (double)mr_rss_peak_bytes());
    cJSON_AddNumberToObject(memory, "kept_bytes", (double)x->plan.kept);
    if (x->plan.cap) cJSON_AddNumberToObject(memory, "cap_bytes", (double)x->plan.cap);
    mr_put_estimate(o, "t4", &x->plan.t4, &mr_t4);
    return o;
}

/* What is left of a measurement when its model is closed: the report, and times by name. */
typedef struct outcome {
    cJSON *report;
    double s[4 + MAX_BATCHES];
} outcome;

static void part_name(char out[64], const shaping *x, int i) {
    static const char *const names[4] = { "prefill", "log-probabilities", "training step", "whole GRPO step" };
    if (i < 4)
        snprintf(out, 64, "%s", names[i]);
    else
        snprintf(out, 64, "decode step, %d", x->decodes[i - 4].batch);
}

static mr_status measure(shaping *x, outcome *out, const mr_bench_shape *shape, const mr_parts_opts *po, bool json, mr_err *err) {
    *x = (shaping){ .o = shape,
                    .repeats = shape->repeats ? (int)shape->repeats : shape->quick ? 1 : 3,
                    .context = shape->context ? shape->context : shape->n_prompt };
    mr_status st = run(x, po, err);
    if (st == MR_OK) {
        const part *parts[4] = { &x->prefill, &x->logprobs, &x->train, &x->step };
        for (int i = 0; i < 4; i++) out->s[i] = parts[i]->s;
        for (int i = 0; i < x->n_batches; i++) out->s[4 + i] = x->decodes[i].why ? 0 : x->decodes[i].p.s;
        if (json)
            out->report = report(x);
        else
            print_table(x);
    }
    mr_optimizer_close(x->job.optimizer);
    mr_decoder_close(x->job.decoder);
    mr_bench_close(&x->job);
    mr_settings_clear(&x->set);
    mr_free(x->ticks);
    mr_parts_close(&x->parts);
    return st;
}

/* Times with the row rule over times without it. x: either measurement, for the names. */
static void print_costs(const shaping *x, const outcome *exact, const outcome *fast) {
    printf("\ncost of exactness: time with the row rule / time without it\n");
    for (int i = 0; i < 4 + x->n_batches; i++) {
        char name[64];
        part_name(name, x, i);
        if (fast->s[i] > 0 && exact->s[i] > 0)
            printf("%-26s %8.3f / %.3f ms = %.3f\n", name, 1e3 * exact->s[i], 1e3 * fast->s[i], exact->s[i] / fast->s[i]);
    }
}

static void print_cost_report(const shaping *x, outcome *exact, outcome *fast) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddItemToObject(o, "exact", exact->report);
    cJSON_AddItemToObject(o, "fast", fast->report);
    exact->report = fast->report = NULL;
    cJSON *costs = cJSON_AddObjectToObject(o, "cost");
    for (int i = 0; i < 4 + x->n_batches; i++) {
        char name[64];
        part_name(name, x, i);
        if (fast->s[i] > 0 && exact->s[i] > 0) cJSON_AddNumberToObject(costs, name, exact->s[i] / fast->s[i]);
    }
    mr_print_json(o);
    cJSON_Delete(o);
}

mr_status mr_bench_shape_run(const mr_bench_shape *shape, const mr_parts_opts *po, bool json, mr_err *err) {
    shaping *x = mr_alloc(sizeof *x);
    outcome exact = { 0 }, fast = { 0 };
    mr_parts_opts without = *po;
    without.no_exact = true;
    mr_status st = measure(x, &exact, shape, po, json, err);
    if (st == MR_OK && shape->compare_exact) st = measure(x, &fast, shape, &without, json, err);
    if (st == MR_OK && shape->compare_exact) {
        if (json)
            print_cost_report(x, &exact, &fast);
        else
            print_costs(x, &exact, &fast);
    } else if (st == MR_OK && json) {
        mr_print_json(exact.report);
    }
    cJSON_Delete(exact.report);
    cJSON_Delete(fast.report);
    mr_free(x);
    return st;
}
