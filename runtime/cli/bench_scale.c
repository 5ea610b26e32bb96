/* bench_scale.c - see bench_scale.h. */
#include "cli/bench_scale.h"

#include <string.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "base/proc.h"
#include "cli/bench_limits.h"
#include "cli/bench_step.h"
#include "cli/cli.h"
#include "cli/plot.h"
#include "model/cost.h"

enum { FEW = 8, MANY = 64, STEPS = 16, MAX_POINTS = 256, MAX_VALUES = MR_PLOT_POINTS, MEMORY_GROUP = 6, MEMORY_PROMPT = 512 };
typedef enum axis { BATCH, CONTEXT, RANK, MODEL, MEMORY, N_AXES } axis;
typedef enum kind { DECODE, DECODE_FEW, DECODE_MANY, TRAIN, N_KINDS } kind;

static const char *const axis_names[N_AXES] = { "batch", "context", "rank", "model", "memory" };
static const char *const kind_names[N_KINDS] = { "decode step", "decode step, 8 at once", "decode step, 64 at once", "training step" };

typedef struct point {
    axis axis;
    kind kind;
    double x; /* sequences; tokens; rank; billions of parameters; tokens of a completion */
    const char *model;
    int rank, sequences;
    int64_t prompt, completion; /* completion: 0 of a decode step, whose prompt is its context */
    double s, limit_s;
    double planned, taken; /* bytes of device memory */
    double needed;         /* planned, but for what a plan puts into memory that is free (rl/plan.h): of training */
    const char *why;       /* not measured; NULL: it was */
} point;

/* Values of each axis. 0 ends a list. */
typedef struct lists {
    const char *models[5];
    int ranks[8], batches[MAX_VALUES], trained[MAX_VALUES], contexts[MAX_VALUES], completions[MAX_VALUES];
    int context;      /* of decode steps, where it is not the axis */
    int train_prompt; /* and as many tokens of each completion, where they are not the axis */
} lists;

static const lists on_gpu = {
    .models = { "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b", "qwen2.5-7b" },
    .ranks = { 8, 16, 32, 64, 128 },
    .batches = { 1, 2, 4, 8, 16, 32, 64, 128, 256, 512 },
    .trained = { 2, 4, 8, 16, 32, 64, 128, 256, 512 },
    .contexts = { 256, 512, 1024, 2048, 4096, 8192 },
    .completions = { 1024, 2048, 4096, 8192, 16384 },
    .context = 512,
    .train_prompt = 256,
};
static const lists on_cpu = {
    .models = { "smollm2-135m" },
    .ranks = { 8, 64 },
    .batches = { 1, 4, 16 },
    .trained = { 2, 8 },
    .contexts = { 32, 128 },
    .completions = { 16, 64 },
    .context = 32,
    .train_prompt = 16,
};

typedef struct scaling {
    const mr_bench_shape *o;
    mr_parts parts; /* the backend alone */
    mr_dtype compute;
    bool gpu;
    lists l;
    mr_limits limits;
    double began_s;
    point points[MAX_POINTS];
    int n;
    /* the model that is open */
    const char *name;
    int rank;
    mr_config config;
    mr_model_opts mo;
    mr_settings set;
    mr_optimizer *optimizer;
    double kv_token_bytes;
} scaling;

/* --- one model at a time --- */

static mr_status settings(mr_settings *out, const scaling *x, int prompts, int group, int64_t n_prompt, int64_t n_new, const char *vram,
                          mr_err *err) {
    mr_str text = { 0 };
    mr_str_printf(&text,
                  "{ \"model\": { \"name\": \"%s\", \"load_in_4bit\": %s },"
                  "  \"lora\": { \"r\": %d, \"lora_alpha\": %d, \"target_modules\": \"all-linear\" },"
                  "  \"rewards\": [ \"even\" ],"
                  "  \"grpo\": { \"prompts_per_step\": %d, \"num_generations\": %d, \"max_prompt_length\": %lld,"
                  "    \"max_completion_length\": %lld, \"max_grad_norm\": 0.1, \"learning_rate\": 5e-6, \"seed\": 3407 }",
                  x->name, x->gpu ? "true" : "false", x->rank, x->rank, prompts, group, (long long)n_prompt, (long long)n_new);
    if (vram) mr_str_printf(&text, ", \"vram\": \"%s\"", vram);
    mr_str_puts(&text, " }");
    cJSON *tree = NULL;
    mr_status st = mr_json_parse(&tree, text.data, text.len, "bench", err);
    if (st == MR_OK) st = mr_settings_parse(out, tree, "bench", err);
    cJSON_Delete(tree);
    mr_str_clear(&text);
    return st;
}

static void close_model(scaling *x) {
    mr_optimizer_close(x->optimizer);
    mr_model_close(x->parts.model);
    mr_settings_clear(&x->set);
    x->optimizer = NULL;
    x->parts.model = NULL;
    memset(&x->set, 0, sizeof x->set);
}

/* capped: as a run whose memory is scarce opens it, else as one that has the device for itself: with NF4 unpacked beside it where that fits. */
static mr_status open_model(scaling *x, const char *name, int rank, bool capped, mr_err *err) {
    mr_backend *b = x->parts.backend;
    const mr_census census = { .prompt = x->l.train_prompt, .completion = x->l.train_prompt };
    mr_plan plan;
    close_model(x);
    x->name = name;
    x->rank = rank;
    mr_info("%s, rank %d (%.0f s so far)", name, rank, mr_now_s() - x->began_s);
    MR_TRY(mr_config_named(&x->config, name, err));
    MR_TRY(settings(&x->set, x, 1, 2, x->l.train_prompt, x->l.train_prompt, NULL, err));
    x->mo = mr_plan_model_opts(&x->set, x->compute);
    x->mo.from_config = true;
    x->mo.config = &x->config;
    MR_TRY(mr_plan_make(&plan, b, &x->config, &x->mo, &x->set, &census, err));
    x->mo.dequantize = capped ? MR_DEQUANTIZE_NO : mr_plan_dequantize(&plan);
    x->kv_token_bytes = (double)b->kv_bytes(b, MR_KV_CHUNK, x->config.num_key_value_heads, x->config.head_dim) / MR_KV_CHUNK;
    MR_TRY(mr_model_open(&x->parts.model, b, name, &x->mo, err));
    const mr_optimizer_opts oo = { x->set.train.optim, x->set.train.adam_beta1, x->set.train.adam_beta2, x->set.train.adam_epsilon,
                                   x->set.train.weight_decay };
    int n;
    const mr_param *params = mr_model_params(x->parts.model, &n);
    return mr_optimizer_open(&x->optimizer, b, params, n, &oo, err);
}

static point *new_point(scaling *x, axis a, kind k, double at, int sequences, int64_t prompt, int64_t completion) {
    point *p = &x->points[x->n < MAX_POINTS - 1 ? x->n++ : x->n];
    *p = (point){ .axis = a, .kind = k, .x = at, .model = x->name, .rank = x->rank, .sequences = sequences, .prompt = prompt,
                  .completion = completion };
    return p;
}

static void tell(const point *p) {
    if (p->why)
        mr_info("%s %g, %s: %s", axis_names[p->axis], p->x, kind_names[p->kind], p->why);
    else
        mr_info("%s %g, %s: %.3f ms, %.0f %% of its limit", axis_names[p->axis], p->x, kind_names[p->kind], 1e3 * p->s,
                100 * p->limit_s / p->s);
}

/* Groups of 8 sequences share a prompt; fewer are one group. */
static int group_of(int sequences) {
    return sequences < FEW ? sequences : FEW;
}

/* What does not fit is told, not an error. */
static mr_status left_out(point *p, mr_status st, mr_err *err, const mr_err *why) {
    if (st == MR_OK) return st;
    if (st != MR_ENOMEM) return mr_fail(err, st, "%s", why->msg);
    p->why = "does not fit";
    return MR_OK;
}

static mr_status decode_job(scaling *x, point *p, mr_bench_job *j, mr_err *err) {
    const int group = group_of(p->sequences), groups = p->sequences / group;
    double s[STEPS + 64];
    int n, most = (int)(sizeof s / sizeof s[0]);
    MR_TRY(mr_bench_open(j, groups * (int)p->prompt, err));
    /* the last STEPS ticks are the steps; prefill comes before them, in pieces */
    double *ticks = mr_alloc((size_t)(groups * p->prompt + STEPS + 1) * sizeof *ticks);
    mr_status st = mr_bench_clock(j, ticks, (int)(groups * p->prompt) + STEPS + 1, &n, groups, group, (int)p->prompt, STEPS + 1, err);
    if (st == MR_OK && n >= STEPS && STEPS <= most) {
        memcpy(s, ticks + n - STEPS, STEPS * sizeof *s);
        p->s = mr_bench_median(s, STEPS);
    }
    mr_free(ticks);
    const double own = 1 + STEPS / 2.0;
    const mr_pass pass = { .rows = p->sequences,
                           .pairs = p->sequences * ((double)p->prompt + own),
                           .keys = groups * ((double)p->prompt + group * own),
                           .head_rows = p->sequences,
                           .kv_token_bytes = x->kv_token_bytes };
    p->limit_s = mr_limit_s(&x->limits, mr_cost_pass(&x->config, &x->mo, &pass));
    return st;
}

/* A decode step of `sequences` whose prompts have `context` tokens. */
static mr_status decode(scaling *x, axis a, kind k, double at, int sequences, int64_t context, mr_err *err) {
    point *p = new_point(x, a, k, at, sequences, context, 0);
    mr_backend *b = x->parts.backend;
    const int group = group_of(sequences), groups = sequences / group;
    const mr_decoder_opts o = { .rollout_rows = sequences > 512 ? sequences : 512,
                                .rollout_slots = mr_rollout_slots(groups, (int)context, group, STEPS + 1),
                                .head_rows = sequences > 256 ? sequences : 256 };
    mr_decoder_room room;
    mr_decoder_plan(&room, b, &x->config, &x->mo, &o);
    b->bytes_peak = b->bytes;
    mr_bench_job j = { .b = b, .model = x->parts.model, .set = &x->set, .prompts = 1, .group = 2, .n_prompt = 1, .n_new = 2 };
    mr_err why;
    mr_status st = mr_decoder_open(&j.decoder, x->parts.model, &o, &why);
    if (st == MR_OK) {
        st = decode_job(x, p, &j, err);
        p->planned = (double)(mr_model_bytes(x->parts.model) + room.block + room.scratch);
        p->taken = (double)b->bytes_peak;
        mr_decoder_close(j.decoder);
        mr_bench_close(&j);
    } else {
        st = left_out(p, st, err, &why);
    }
    if (st == MR_OK) tell(p);
    return st;
}

/* Seconds of a training step: after one pack to warm up, unless all is one that takes long; on a CPU nothing has to. */
static mr_status train_job(point *p, mr_bench_job *j, int64_t train_rows, mr_err *err) {
    const int64_t rows = j->n_prompt + (int64_t)j->group * (j->n_new - 1);
    const int together = train_rows / rows < 1 ? 1 : train_rows / rows > j->prompts ? j->prompts : (int)(train_rows / rows);
    double s[3];
    int n = p->limit_s > 0.15 ? 1 : 3;
    mr_bench_pretend(j, j->prompts);
    if (j->b->kind == MR_CUDA && (p->limit_s < 1 || together < j->prompts)) MR_TRY(mr_bench_train(j, together, err));
    for (int i = 0; i < n; i++) {
        MR_TRY(mr_bench_train(j, j->prompts, err));
        s[i] = j->train_s;
    }
    p->s = mr_bench_median(s, n);
    return MR_OK;
}

/* The other phase of the same memory. */
static mr_status sample_some(mr_bench_job *j, mr_err *err) {
    double ticks[STEPS];
    int n;
    return mr_bench_clock(j, ticks, STEPS, &n, 1, j->group, j->n_prompt, STEPS, err);
}

static double train_limit(const scaling *x, const mr_bench_job *j, const mr_decoder_opts *room) {
    const double layers = x->config.num_hidden_layers;
    mr_pass pass = { .head_rows = (double)j->prompts * j->group * j->n_new,
                     .kv_token_bytes = x->kv_token_bytes,
                     .backward = true,
                     .checkpointing = true,
                     .kept_attention = room->kept_attention / layers,
                     .kept_mlp = room->kept_mlp / layers };
    mr_pass_group(&pass, j->prompts, j->n_prompt, j->group, j->n_new - 1);
    const mr_cost update = mr_cost_update(&x->config, &x->mo, 2), work = mr_cost_pass(&x->config, &x->mo, &pass);
    return mr_limit_s(&x->limits, (mr_cost){ work.bytes + update.bytes, work.flops + update.flops });
}

/* A training step as a run plans it: sequences of `completion` tokens, `group` of them to a prompt. */
static mr_status train(scaling *x, axis a, double at, int sequences, int group, int64_t prompt, int64_t completion, const char *vram,
                       mr_err *err) {
    point *p = new_point(x, a, TRAIN, at, sequences, prompt, completion);
    mr_backend *b = x->parts.backend;
    mr_settings set = { 0 };
    mr_plan plan;
    mr_err why;
    MR_TRY(settings(&set, x, sequences / group, group, prompt, completion, vram, err));
    const mr_census census = { .prompt = (int)prompt, .completion = (int)completion };
    mr_status st = mr_plan_make(&plan, b, &x->config, &x->mo, &set, &census, &why);
    mr_bench_job j = { .b = b, .model = x->parts.model, .optimizer = x->optimizer, .set = &set, .prompts = sequences / group,
                       .group = group, .n_prompt = (int)prompt, .n_new = (int)completion };
    b->bytes_peak = b->bytes;
    if (st == MR_OK) st = mr_decoder_open(&j.decoder, x->parts.model, &plan.room, &why);
    if (st == MR_OK) {
        p->limit_s = train_limit(x, &j, &plan.room);
        st = mr_bench_open(&j, j.prompts * j.n_prompt, err);
        if (st == MR_OK) st = train_job(p, &j, plan.room.train_rows, err);
        if (st == MR_OK && a == MEMORY) st = sample_some(&j, err);
        p->planned = (double)plan.total;
        p->needed = (double)(plan.total - plan.kept - plan.unpacked);
        p->taken = (double)b->bytes_peak;
        mr_decoder_close(j.decoder);
        mr_bench_close(&j);
    } else {
        st = left_out(p, st, err, &why);
    }
    mr_settings_clear(&set);
    if (st == MR_OK) tell(p);
    return st;
}

/* --- the sweeps --- */

static mr_status three(scaling *x, axis a, double at, mr_err *err) {
    MR_TRY(decode(x, a, DECODE_FEW, at, FEW, x->l.context, err));
    if (x->gpu) MR_TRY(decode(x, a, DECODE_MANY, at, MANY, x->l.context, err));
    return train(x, a, at, FEW, FEW, x->l.train_prompt, x->l.train_prompt, NULL, err);
}

/* Memory first: scratch that larger jobs left behind would be counted. */
static mr_status memory(scaling *x, mr_err *err) {
    const lists *l = &x->l;
    const char *vram = x->o->vram ? x->o->vram : x->gpu ? "24G" : NULL;
    for (int i = 0; l->completions[i]; i++)
        MR_TRY(train(x, MEMORY, l->completions[i], MEMORY_GROUP, MEMORY_GROUP, x->gpu ? MEMORY_PROMPT : 64, l->completions[i], vram, err));
    return MR_OK;
}

static mr_status around_the_center(scaling *x, mr_err *err) {
    const lists *l = &x->l;
    for (int i = 0; l->batches[i]; i++) MR_TRY(decode(x, BATCH, DECODE, l->batches[i], l->batches[i], l->context, err));
    for (int i = 0; l->trained[i]; i++)
        MR_TRY(train(x, BATCH, l->trained[i], l->trained[i], group_of(l->trained[i]), l->train_prompt, l->train_prompt, NULL, err));
    for (int i = 0; l->contexts[i]; i++) {
        MR_TRY(decode(x, CONTEXT, DECODE_FEW, l->contexts[i], FEW, l->contexts[i], err));
        if (x->gpu) MR_TRY(decode(x, CONTEXT, DECODE_MANY, l->contexts[i], MANY, l->contexts[i], err));
        MR_TRY(train(x, CONTEXT, l->contexts[i], FEW, FEW, l->contexts[i] / 2, l->contexts[i] / 2, NULL, err));
    }
    return MR_OK;
}

/* Keeps the first and the last of a list, or the first alone. */
static void ends_only(int *list, bool both) {
    int n = 0;
    while (list[n]) n++;
    if (n > 2) list[1] = list[n - 1], list[2] = 0;
    if (!both) list[1] = 0;
}

static mr_status sweep(scaling *x, mr_err *err) {
    const char *center = x->o->config ? x->o->config : x->gpu ? "qwen2.5-3b" : "smollm2-135m";
    const int rank = (int)x->o->rank;
    MR_TRY(open_model(x, center, rank, true, err));
    MR_TRY(memory(x, err));
    MR_TRY(open_model(x, center, rank, false, err));
    MR_TRY(around_the_center(x, err));
    for (int i = 0; x->l.ranks[i]; i++) {
        if (x->l.ranks[i] != x->rank) MR_TRY(open_model(x, center, x->l.ranks[i], false, err));
        MR_TRY(three(x, RANK, x->l.ranks[i], err));
    }
    for (int i = 0; x->l.models[i]; i++) {
        MR_TRY(open_model(x, x->l.models[i], rank, false, err));
        MR_TRY(three(x, MODEL, (double)mr_parameter_count(&x->config) / 1e9, err));
    }
    close_model(x);
    return MR_OK;
}

/* --- what comes out --- */

static const char *x_name(axis a) {
    static const char *const names[N_AXES] = { "sequences", "tokens", "rank of the adapter", "billions of parameters",
                                               "tokens of a completion" };
    return names[a];
}

static void title(char out[256], const scaling *x, axis a) {
    const lists *l = &x->l;
    const char *center = x->points[0].model;
    switch (a) {
    case BATCH:
        snprintf(out, 256, "%s, rank %lld: against the number of sequences (decode behind %d tokens, training %d + %d)", center,
                 (long long)x->o->rank, l->context, l->train_prompt, l->train_prompt);
        break;
    case CONTEXT:
        snprintf(out, 256, "%s, rank %lld: against the context (decode behind it, training 8 sequences of half + half)", center,
                 (long long)x->o->rank);
        break;
    case RANK: snprintf(out, 256, "%s: against the rank (training 8 x (%d + %d))", center, l->train_prompt, l->train_prompt); break;
    case MODEL:
        snprintf(out, 256, "rank %lld: against the model (training 8 x (%d + %d))", (long long)x->o->rank, l->train_prompt, l->train_prompt);
        break;
    default:
        snprintf(out, 256, "%s, rank %lld: device memory of a run of 6 completions, %s, against their length", center, (long long)x->o->rank,
                 x->o->vram ? x->o->vram : x->gpu ? "24G" : "no cap");
    }
}

static cJSON *report(const scaling *x) {
    cJSON *o = cJSON_CreateObject(), *list;
    cJSON_AddStringToObject(o, "device", x->parts.backend->device);
    cJSON_AddStringToObject(o, "compute", mr_dtype_name(x->compute));
    cJSON_AddStringToObject(o, "store", mr_dtype_name(x->mo.store));
    cJSON_AddNumberToObject(o, "copy_bytes_s", x->limits.copy);
    cJSON_AddNumberToObject(o, "product_flop_s", x->limits.product);
    cJSON_AddNumberToObject(o, "seconds", mr_now_s() - x->began_s);
    list = cJSON_AddArrayToObject(o, "points");
    for (int i = 0; i < x->n; i++) {
        const point *p = &x->points[i];
        cJSON *item = cJSON_CreateObject();
        cJSON_AddStringToObject(item, "axis", axis_names[p->axis]);
        cJSON_AddStringToObject(item, "what", p->kind == TRAIN ? "train" : "decode");
        cJSON_AddStringToObject(item, "model", p->model);
        cJSON_AddNumberToObject(item, "rank", p->rank);
        cJSON_AddNumberToObject(item, "sequences", p->sequences);
        cJSON_AddNumberToObject(item, "prompt", (double)p->prompt);
        cJSON_AddNumberToObject(item, "completion", (double)p->completion);
        if (p->why) {
            cJSON_AddStringToObject(item, "left_out", p->why);
        } else {
            cJSON_AddNumberToObject(item, "ms", 1e3 * p->s);
            cJSON_AddNumberToObject(item, "limit_ms", 1e3 * p->limit_s);
            cJSON_AddNumberToObject(item, "planned_bytes", p->planned);
            cJSON_AddNumberToObject(item, "taken_bytes", p->taken);
            if (p->kind == TRAIN) cJSON_AddNumberToObject(item, "needed_bytes", p->needed);
        }
        cJSON_AddItemToArray(list, item);
    }
    return o;
}

static const point *find(const scaling *x, axis a, kind k, double at) {
    for (int i = 0; i < x->n; i++)
        if (x->points[i].axis == a && x->points[i].kind == k && x->points[i].x == at) return &x->points[i];
    return NULL;
}

/* The values of an axis, ascending. */
static int values_of(double out[MAX_VALUES], const scaling *x, axis a) {
    int n = 0;
    for (int i = 0; i < x->n; i++) {
        int at = n;
        bool have = x->points[i].axis != a || n == MAX_VALUES;
        for (int k = 0; k < n; k++) have |= out[k] == x->points[i].x;
        if (have) continue;
        for (; at > 0 && out[at - 1] > x->points[i].x; at--) out[at] = out[at - 1];
        out[at] = x->points[i].x;
        n++;
    }
    return n;
}

static void time_cell(mr_str *out, const point *p) {
    if (!p)
        mr_str_puts(out, " - |");
    else if (p->why)
        mr_str_printf(out, " %s |", p->why);
    else
        mr_str_printf(out, " %.*f (%.0f %%) |", p->s < 0.01 ? 2 : p->s < 1 ? 1 : 0, 1e3 * p->s, 100 * p->limit_s / p->s);
}

static void table(mr_str *out, const scaling *x, axis a) {
    double at[MAX_VALUES];
    char text[256];
    int n = values_of(at, x, a);
    title(text, x, a);
    mr_str_printf(out, "%s:\n\n| %s |", text, a == MEMORY ? x_name(a) : "ms (share of the limit)");
    for (int i = 0; i < n; i++) mr_str_printf(out, " %.4g |", at[i]);
    mr_str_puts(out, "\n|---|");
    for (int i = 0; i < n; i++) mr_str_puts(out, "---|");
    mr_str_puts(out, "\n");
    for (kind k = DECODE; k < N_KINDS; k++) {
        bool any = false;
        for (int i = 0; i < n; i++) any |= find(x, a, k, at[i]) != NULL;
        if (!any) continue;
        mr_str_printf(out, "| %s |", a == MEMORY ? "training step, ms (share of the limit)" : kind_names[k]);
        for (int i = 0; i < n; i++) time_cell(out, find(x, a, k, at[i]));
        mr_str_puts(out, "\n");
    }
    static const char *const memory_rows[] = { "needed", "planned, with what is kept since it fits", "taken" };
    for (int row = 0; a == MEMORY && row < 3; row++) {
        mr_str_printf(out, "| GB %s |", memory_rows[row]);
        for (int i = 0; i < n; i++) {
            const point *p = find(x, a, TRAIN, at[i]);
            if (p && !p->why)
                mr_str_printf(out, " %.2f |", (row == 0 ? p->needed : row == 1 ? p->planned : p->taken) / 1e9);
            else
                mr_str_puts(out, " - |");
        }
        mr_str_puts(out, "\n");
    }
    mr_str_puts(out, "\n");
}

static void tables(mr_str *out, const scaling *x) {
    mr_str_printf(out, "%s, %s weights, %s products; a copy %.0f GB/s, a large product %.0f TFLOP/s, measured in the same run (%.0f s).\n\n",
                  x->parts.backend->device, mr_dtype_name(x->mo.store), mr_dtype_name(x->compute), x->limits.copy / 1e9,
                  x->limits.product / 1e12, mr_now_s() - x->began_s);
    for (axis a = BATCH; a < N_AXES; a++) table(out, x, a);
}

/* Lines of an axis: what was measured and, dashed, its limit; of memory, what was taken and what of it was needed. */
static void picture(mr_str *out, const scaling *x, axis a) {
    char text[256], names[2 * N_KINDS][64];
    mr_plot plot = { .title = text, .x_name = x_name(a), .y_name = a == MEMORY ? "GB" : "ms" };
    title(text, x, a);
    double at[MAX_VALUES];
    int n = values_of(at, x, a);
    for (kind k = DECODE; k < N_KINDS; k++)
        for (int limit = 0; limit < 2; limit++) {
            mr_plot_line *l = &plot.lines[plot.n_lines];
            *l = (mr_plot_line){ .name = names[plot.n_lines], .color = (int)k, .dashed = limit };
            if (a == MEMORY)
                snprintf(names[plot.n_lines], sizeof names[0], "%s", limit ? "of it needed" : "taken");
            else
                snprintf(names[plot.n_lines], sizeof names[0], "%s%s", limit ? "limit of: " : "", kind_names[k]);
            for (int i = 0; i < n; i++) {
                const point *p = find(x, a, k, at[i]);
                if (!p || p->why) continue;
                l->x[l->n] = at[i];
                l->y[l->n++] = a == MEMORY ? (limit ? p->needed : p->taken) / 1e9 : 1e3 * (limit ? p->limit_s : p->s);
            }
            if (l->n) plot.n_lines++;
        }
    mr_plot_svg(out, &plot);
}

static mr_status put(const char *dir, const char *name, const char *end, mr_str *text, mr_err *err) {
    char *path = mr_asprintf("%s/scale%s%s", dir, name, end);
    mr_status st = mr_file_write(path, text->data ? text->data : "", text->len, err);
    mr_free(path);
    mr_str_clear(text);
    return st;
}

static mr_status write_all(const scaling *x, const char *dir, bool json, mr_err *err) {
    mr_str text = { 0 };
    cJSON *o = report(x);
    mr_json_put(&text, o);
    mr_str_puts(&text, "\n");
    if (json) mr_print_json(o);
    cJSON_Delete(o);
    MR_TRY(put(dir, "", ".json", &text, err));
    tables(&text, x);
    if (!json) fputs(text.data, stdout);
    MR_TRY(put(dir, "", ".md", &text, err));
    for (axis a = BATCH; a < N_AXES; a++) {
        char name[32];
        snprintf(name, sizeof name, "-%s", axis_names[a]);
        picture(&text, x, a);
        MR_TRY(put(dir, name, ".svg", &text, err));
    }
    return MR_OK;
}

static mr_status run(scaling *x, const char *dir, const mr_parts_opts *po, bool json, mr_err *err) {
    MR_TRY(mr_mkdirs(dir, err)); /* before any work */
    MR_TRY(mr_parts_backend(&x->parts.backend, po->device, po->n_threads, err));
    x->parts.backend->exact = !po->no_exact;
    MR_TRY(mr_parts_dtype(&x->compute, po->dtype, x->parts.backend, err));
    x->gpu = x->parts.backend->kind == MR_CUDA;
    x->l = x->gpu ? on_gpu : on_cpu;
    int *const all[] = { x->l.ranks, x->l.batches, x->l.trained, x->l.contexts, x->l.completions };
    for (int i = 0; x->o->quick && i < 5; i++) ends_only(all[i], x->gpu);
    if (x->o->quick && x->gpu) x->l.models[1] = NULL;
    MR_TRY(mr_bench_limits(&x->limits, x->parts.backend, x->compute, err));
    MR_TRY(sweep(x, err));
    return write_all(x, dir, json, err);
}

mr_status mr_bench_scale_run(const mr_bench_shape *shape, const char *dir, const mr_parts_opts *po, bool json, mr_err *err) {
    scaling *x = mr_alloc(sizeof *x);
    x->o = shape;
    x->began_s = mr_now_s();
    mr_status st = run(x, dir, po, json, err);
    close_model(x);
    mr_parts_close(&x->parts);
    mr_free(x);
    return st;
}
