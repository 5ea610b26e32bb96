/* bench.c - `medrl bench`: start-up, prefill, decode and whole GRPO steps of one model on this machine.
 *
 * A step is that of the CPU profile of recipes/medical_mix.lua: 4 prompts of 250, 6 completions of exactly 48 each.
 * Medians throughout; only runs of one machine, one after another, can be compared. With --config it measures a shape
 * without files instead: bench_shape.c.
 */
#include <string.h>

#include "base/json.h"
#include "base/proc.h"
#include "cli/bench_scale.h"
#include "cli/bench_shape.h"
#include "cli/bench_step.h"
#include "model/cost.h"
#include "cli/cli.h"
#include "cli/parts.h"

enum {
    FIRST_PROMPT = 32, /* of the start-up figure */
    PREFILL = 256,     /* of the prefill figure */
    DECODE_FROM = 128,
    DECODE_TO = 224,
    DECODE_TO_QUICK = 152,
    DECODE_MOST = 24,
    PROMPTS = 4,
    GROUP = 6,
    PROMPT = 250,
    NEW = 48,
    ROLLOUT_ROWS = 512, /* rows of one forward while sampling, as rl/plan.c */
    MAX_REPEATS = 99,
    PREFILLS = 5,
    PREFILLS_QUICK = 3,
    COPIES = 6
};

static const int batches[3] = { 1, 6, DECODE_MOST };

/* What the recipe language makes of this is what is measured; the rest is its defaults (adamw_8bit, dapo). */
static const char recipe[] =
    "{ \"model\": { \"name\": \"bench\", \"max_seq_length\": 1024 },"
    "  \"lora\": { \"r\": 16, \"lora_alpha\": 32, \"target_modules\": [ \"q_proj\", \"k_proj\", \"v_proj\", \"o_proj\","
    "             \"gate_proj\", \"up_proj\", \"down_proj\" ] },"
    "  \"rewards\": [ \"even\" ],"
    "  \"grpo\": { \"prompts_per_step\": 4, \"num_generations\": 6, \"max_prompt_length\": 250,"
    "             \"max_completion_length\": 48, \"temperature\": 1.0, \"beta\": 0.0, \"learning_rate\": 3e-4,"
    "             \"adam_beta2\": 0.99, \"max_grad_norm\": 1.0, \"gradient_checkpointing\": false, \"seed\": 3407 } }";

typedef struct figures {
    double first_token_s, prefill_tok_s, decode_tok_s[3];
    double copy_rate;       /* bytes a second, read and written */
    double weights_rate[3]; /* bytes of weights a second while decoding */
    double rollout_s, train_s, step_s, all_s[MAX_REPEATS];
    double spread; /* (slowest - fastest) / median of the steps */
} figures;

typedef struct benching {
    mr_parts parts;
    mr_settings set;
    mr_bench_job job;
    int repeats;
    bool quick, checkpointing;
    figures f;
} benching;

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

enum { MAX_TICKS = DECODE_TO - DECODE_FROM + 1 };

/* One prompt of random ids, n completions of n_new tokens: s[0] is the prompt's forward with its sampling. */
static mr_status clock_rollout(benching *b, double *s, int *n_ticks, int n_ids, int n, int n_new, mr_err *err) {
    return mr_bench_clock(&b->job, s, MAX_TICKS, n_ticks, 1, n, n_ids, n_new, err);
}

/* What every token reads: all linears, adapters and the head. */
static double weight_bytes(const mr_model *m) {
    return mr_cost_pass(mr_model_config(m), mr_model_options(m), &(mr_pass){ .head_rows = 1e-9 }).bytes;
}

static mr_status bench_rates(benching *b, mr_err *err) {
    int n_prefills = b->quick ? PREFILLS_QUICK : PREFILLS, n;
    int steps = (b->quick ? DECODE_TO_QUICK : DECODE_TO) - DECODE_FROM;
    double s[PREFILLS], ticks[MAX_TICKS];
    MR_TRY(clock_rollout(b, ticks, &n, PREFILL, 1, 1, err)); /* warms up */
    for (int i = 0; i < n_prefills; i++) {
        MR_TRY(clock_rollout(b, ticks, &n, PREFILL, 1, 1, err));
        s[i] = ticks[0];
    }
    b->f.prefill_tok_s = PREFILL / mr_bench_median(s, n_prefills);
    for (int k = 0; k < 3; k++) {
        /* the prompt's rows end at DECODE_FROM - 1 and its forward gives the first token */
        MR_TRY(clock_rollout(b, ticks, &n, DECODE_FROM, batches[k], steps + 1, err));
        double token_s = mr_bench_median(ticks + 1, n - 1);
        b->f.decode_tok_s[k] = batches[k] / token_s;
        b->f.weights_rate[k] = weight_bytes(b->parts.model) / token_s;
    }
    return MR_OK;
}

static mr_status bench_steps(benching *b, mr_err *err) {
    double rollout[MAX_REPEATS], training[MAX_REPEATS], whole[MAX_REPEATS];
    MR_TRY(mr_bench_step(&b->job, b->quick ? 1 : PROMPTS, 1, err)); /* warms up */
    for (int i = 0; i < b->repeats; i++) {
        MR_TRY(mr_bench_step(&b->job, PROMPTS, (uint32_t)i + 2, err));
        rollout[i] = b->job.rollout_s;
        training[i] = b->job.train_s;
        whole[i] = b->f.all_s[i] = b->job.step_s;
    }
    b->f.rollout_s = mr_bench_median(rollout, b->repeats);
    b->f.train_s = mr_bench_median(training, b->repeats);
    b->f.step_s = mr_bench_median(whole, b->repeats);
    b->f.spread = (whole[b->repeats - 1] - whole[0]) / b->f.step_s;
    return MR_OK;
}

/* --- opening --- */

/* From the start of the process: all that `medrl generate` opens, a short prompt, one token. */
static mr_status bench_start(benching *b, const char *model, const mr_parts_opts *po, mr_err *err) {
    double ticks[MAX_TICKS];
    int n;
    MR_TRY(mr_parts_open(&b->parts, model, po, err));
    int positions = mr_model_config(b->parts.model)->max_position_embeddings;
    if (positions < PROMPT + NEW)
        return mr_fail(err, MR_EINVAL, "%s: the model has %d positions, bench needs %d; name another model",
                       b->parts.path, positions, PROMPT + NEW);
    const mr_decoder_opts o = { .rollout_rows = FIRST_PROMPT,
                                .rollout_slots = mr_rollout_slots(1, FIRST_PROMPT, 1, 1) };
    b->job = (mr_bench_job){ .b = b->parts.backend, .model = b->parts.model, .set = &b->set };
    MR_TRY(mr_decoder_open(&b->job.decoder, b->parts.model, &o, err));
    MR_TRY(mr_bench_open(&b->job, FIRST_PROMPT, err));
    MR_TRY(clock_rollout(b, ticks, &n, FIRST_PROMPT, 1, 1, err));
    b->f.first_token_s = mr_since_start_s();
    mr_decoder_close(b->job.decoder);
    uint32_t n_drawn = b->job.n_drawn;
    mr_bench_close(&b->job);
    b->job.n_drawn = n_drawn;
    mr_model_close(b->parts.model);
    b->parts.model = NULL;
    return MR_OK;
}

/* What memory gives: a copy that no cache holds, the best of some. */
static mr_status bench_copy(benching *b, mr_err *err) {
    mr_backend *d = b->parts.backend;
    const size_t bytes = (size_t)256 << 20;
    void *to = d->alloc(d, bytes), *from = d->alloc(d, bytes);
    mr_status st = to && from ? MR_OK : mr_fail(err, MR_ENOMEM, "bench: two buffers of 256 MB do not fit on %s", d->name);
    for (int i = 0; st == MR_OK && i < COPIES; i++) {
        double start = mr_now_s();
        d->copy(d, to, from, bytes);
        st = d->sync(d, err);
        double rate = 2.0 * (double)bytes / (mr_now_s() - start);
        if (i && rate > b->f.copy_rate) b->f.copy_rate = rate; /* the first one makes the pages */
    }
    if (from) d->free(d, from);
    if (to) d->free(d, to);
    return st;
}

static mr_status open_training(benching *b, const mr_parts_opts *po, mr_err *err) {
    cJSON *tree = NULL;
    MR_TRY(mr_json_parse(&tree, recipe, sizeof recipe - 1, "bench", err));
    mr_status st = mr_settings_parse(&b->set, tree, "bench", err);
    cJSON_Delete(tree);
    MR_TRY(st);
    const mr_settings *s = &b->set;
    mr_dtype compute;
    MR_TRY(mr_parts_dtype(&compute, po->dtype, b->parts.backend, err));
    mr_model_opts mo = mr_plan_model_opts(s, compute);
    if (po->store && strcmp(po->store, "nf4") == 0) mo.store = MR_NF4;
    MR_TRY(mr_model_open(&b->parts.model, b->parts.backend, b->parts.path, &mo, err));
    const mr_optimizer_opts oo = { s->train.optim, s->train.adam_beta1, s->train.adam_beta2, s->train.adam_epsilon,
                                   s->train.weight_decay };
    int n_params;
    const mr_param *params = mr_model_params(b->parts.model, &n_params);
    MR_TRY(mr_optimizer_open(&b->job.optimizer, b->parts.backend, params, n_params, &oo, err));
    /* as rl/plan.c: on a CPU a pack is one group, on a GPU all four */
    int n_groups = b->parts.backend->kind == MR_CUDA ? PROMPTS : 1;
    const mr_decoder_opts o = {
        .rollout_rows = ROLLOUT_ROWS,
        .rollout_slots = larger(mr_rollout_slots(PROMPTS, PROMPT, GROUP, NEW),
                                larger(mr_rollout_slots(1, PREFILL, 1, 1),
                                       mr_rollout_slots(1, DECODE_FROM, DECODE_MOST, DECODE_TO - DECODE_FROM + 1))),
        .train_rows = n_groups * (PROMPT + GROUP * (NEW - 1)),
        .train_slots = n_groups * (mr_kv_round(PROMPT) + GROUP * mr_kv_round(NEW)),
        .gradient_checkpointing = b->checkpointing,
    };
    mr_bench_job *j = &b->job;
    j->b = b->parts.backend;
    j->model = b->parts.model;
    j->set = s;
    j->prompts = PROMPTS;
    j->group = GROUP;
    j->n_prompt = PROMPT;
    j->n_new = NEW;
    MR_TRY(mr_decoder_open(&j->decoder, b->parts.model, &o, err));
    return mr_bench_open(j, PROMPTS * PROMPT, err);
}

static mr_status bench(benching *b, const char *model, const mr_parts_opts *po, mr_err *err) {
    MR_TRY(bench_start(b, model, po, err));
    MR_TRY(bench_copy(b, err));
    MR_TRY(open_training(b, po, err));
    MR_TRY(bench_rates(b, err));
    return bench_steps(b, err);
}

/* --- the report --- */

static const char *product_type(const benching *b) {
    return mr_dtype_name(mr_model_options(b->parts.model)->compute);
}

static void print_table(const benching *b) {
    const figures *f = &b->f;
    printf("%s, %s, %s products\n", b->parts.path, b->parts.backend->device, product_type(b));
    printf("start to the first token       %8.2f s (a prompt of %d)\n", f->first_token_s, FIRST_PROMPT);
    printf("prefill, a prompt of %d       %8.0f tokens/s\n", PREFILL, f->prefill_tok_s);
    for (int k = 0; k < 3; k++)
        printf("decode, %2d at once             %8.0f tokens/s (positions %d to %d; weights read at %.0f %% of the copy)\n",
               batches[k], f->decode_tok_s[k], DECODE_FROM, b->quick ? DECODE_TO_QUICK : DECODE_TO,
               100 * f->weights_rate[k] / f->copy_rate);
    printf("copy of 256 MB                 %8.1f GB/s (read and written)\n", f->copy_rate / 1e9);
    printf("GRPO step                      %8.2f s (%d prompts of %d, %d completions of %d each)\n", f->step_s, PROMPTS,
           PROMPT, GROUP, NEW);
    printf("  rollout                      %8.2f s\n", f->rollout_s);
    printf("  training                     %8.2f s\n", f->train_s);
    printf("memory, at most                %8.2f GB\n", (double)mr_rss_peak_bytes() / 1e9);
    if (b->repeats > 1)
        printf("median of %d steps, which differ by %.0f %%; ", b->repeats, 100 * f->spread);
    else
        printf("one step; ");
    printf("sampled and trained log-probabilities differ by at most %g\n", b->job.logp_gap);
}

static void print_report(const benching *b) {
    const figures *f = &b->f;
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "model", b->parts.path);
    cJSON_AddStringToObject(o, "device", b->parts.backend->device);
    cJSON_AddStringToObject(o, "compute", product_type(b));
    cJSON_AddNumberToObject(o, "threads", b->parts.backend->n_threads);
    cJSON_AddNumberToObject(o, "steps", b->repeats);
    cJSON_AddNumberToObject(o, "first_token_s", f->first_token_s);
    cJSON_AddNumberToObject(o, "prefill_256_tok_s", f->prefill_tok_s);
    cJSON_AddNumberToObject(o, "decode_1_tok_s", f->decode_tok_s[0]);
    cJSON_AddNumberToObject(o, "decode_6_tok_s", f->decode_tok_s[1]);
    cJSON_AddNumberToObject(o, "decode_24_tok_s", f->decode_tok_s[2]);
    cJSON_AddNumberToObject(o, "copy_bytes_s", f->copy_rate);
    cJSON_AddNumberToObject(o, "decode_1_of_copy", f->weights_rate[0] / f->copy_rate);
    cJSON_AddNumberToObject(o, "decode_6_of_copy", f->weights_rate[1] / f->copy_rate);
    cJSON_AddNumberToObject(o, "decode_24_of_copy", f->weights_rate[2] / f->copy_rate);
    cJSON_AddNumberToObject(o, "rollout_s", f->rollout_s);
    cJSON_AddNumberToObject(o, "train_s", f->train_s);
    cJSON_AddNumberToObject(o, "step_s", f->step_s);
    cJSON_AddItemToObject(o, "step_s_all", cJSON_CreateDoubleArray(f->all_s, b->repeats));
    cJSON_AddNumberToObject(o, "step_spread", f->spread);
    cJSON_AddNumberToObject(o, "loss", b->job.loss);
    cJSON_AddNumberToObject(o, "grad_norm", b->job.norm);
    cJSON_AddNumberToObject(o, "logp_diff_max", b->job.logp_gap);
    cJSON_AddNumberToObject(o, "rss_peak_bytes", (double)mr_rss_peak_bytes());
    mr_print_json(o);
    cJSON_Delete(o);
}

/* A shape's options without --config would do nothing, and a model's name with it neither. */
static mr_status check_options(const mr_bench_shape *s, const char *model, const char *scale, bool no_exact, mr_err *err) {
    const mr_bench_shape d = MR_BENCH_SHAPE;
    if (scale && model)
        return mr_fail(err, MR_EINVAL, "bench: \"%s\" and --scale together; the middle of --scale is a shape: --config qwen2.5-3b", model);
    if (scale) return MR_OK;
    if (s->config && model)
        return mr_fail(err, MR_EINVAL, "bench: \"%s\" and --config %s together; name one of them", model, s->config);
    bool changed = s->rank != d.rank || s->prompts != d.prompts || s->group != d.group || s->n_prompt != d.n_prompt ||
                   s->n_new != d.n_new || s->batches || s->context || s->repeats || s->optim || s->vram ||
                   s->dequantize || s->no_checkpointing || s->compare_exact;
    if (s->compare_exact && no_exact)
        return mr_fail(err, MR_EINVAL, "bench: --compare-exact measures with and without --no-exact; leave that out");
    if (!s->config && changed)
        return mr_fail(err, MR_EINVAL, "bench: an option of --config was given without it; add --config qwen2.5-3b, say");
    return MR_OK;
}

mr_status mr_cmd_bench(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "bench",
        "medrl bench\nmedrl bench --quick\nmedrl bench smollm2-135m-instruct --steps 9 --json\n"
        "medrl bench --config qwen2.5-3b --store nf4 --prompt 512 --new 512\nmedrl bench --scale scale-out",
        "[MODEL]",
        0,
        1,
        "How fast this machine samples and trains: seconds from the start to the first token, prefill, decode of 1, 6 "
        "and 24 sequences, and whole GRPO steps of the CPU profile of recipes/medical_mix.lua (4 prompts of 250 random "
        "ids, 6 completions of 48 each, LoRA of rank 16). About a minute on two cores.\n"
        "With --config: a named shape with random weights, no files: making the model, prefill, decode steps, "
        "log-probabilities, training and whole steps of one job, in milliseconds and against the device's own limits. With --scale: how these grow.",
    };
    benching *b = mr_alloc(sizeof *b);
    mr_bench_shape shape = MR_BENCH_SHAPE;
    mr_parts_opts po = { 0 };
    const char *model = "smollm2-135m-instruct", *scale = NULL;
    int64_t threads = 0, steps = 0;
    bool json = false;
    const mr_opt opts[] = {
        { "model", 0, MR_OPT_TEXT, "MODEL", "the same as MODEL (smollm2-135m-instruct)", &model, 0, 0 },
        { "quick", 0, MR_OPT_FLAG, NULL, "fewer repeats: a quarter of the time, less exact", &b->quick, 0, 0 },
        { "steps", 0, MR_OPT_INT, "N", "GRPO steps to measure (3; 1 with --quick)", &steps, 1, MAX_REPEATS },
        { "gradient-checkpointing", 0, MR_OPT_FLAG, NULL, "train in less memory, and slower (--config does)", &b->checkpointing, 0, 0 },
        { "dtype", 0, MR_OPT_TEXT, "TYPE", "auto, f32, bf16 or f16", &po.dtype, 0, 0 },
        { "store", 0, MR_OPT_TEXT, "TYPE", "weights in memory: auto, f32, bf16, f16 or nf4", &po.store, 0, 0 },
        { "device", 0, MR_OPT_TEXT, "NAME", "auto, cpu or cuda:N", &po.device, 0, 0 },
        MR_OPT_PULL,
        { "threads", 0, MR_OPT_INT, "N", "CPU threads (0: all)", &threads, 0, 1024 },
        { "json", 0, MR_OPT_FLAG, NULL, "the figures as one JSON object", &json, 0, 0 },
        { "config", 0, MR_OPT_TEXT, "NAME", "a shape instead of a model: qwen2.5-3b, smollm2-135m ...", &shape.config, 0,
          0 },
        { "rank", 0, MR_OPT_INT, "N", "--config: rank of the adapter on all linears (64)", &shape.rank, 1, 1024 },
        { "prompts", 0, MR_OPT_INT, "N", "--config: prompts of a step (1)", &shape.prompts, 1, 4096 },
        { "group", 0, MR_OPT_INT, "N", "--config: completions of a prompt (6)", &shape.group, 2, 1024 },
        { "prompt", 0, MR_OPT_INT, "N", "--config: tokens of a prompt (512)", &shape.n_prompt, 1, 1 << 20 },
        { "new", 0, MR_OPT_INT, "N", "--config: tokens of a completion (512)", &shape.n_new, 2, 1 << 20 },
        { "batch", 0, MR_OPT_TEXT, "LIST", "--config: sequences of the decode steps (1,6,48,192,512)", &shape.batches, 0,
          0 },
        { "context", 0, MR_OPT_INT, "N", "--config: prompt before the decode steps (as --prompt)", &shape.context, 1,
          1 << 20 },
        { "repeats", 0, MR_OPT_INT, "N", "--config: times each is measured (3)", &shape.repeats, 1, MAX_REPEATS },
        { "no-gradient-checkpointing", 0, MR_OPT_FLAG, NULL, "--config: keep all activations", &shape.no_checkpointing, 0,
          0 },
        { "optim", 0, MR_OPT_TEXT, "NAME", "--config: adamw_8bit or adamw_torch", &shape.optim, 0, 0 },
        { "no-exact", 0, MR_OPT_FLAG, NULL, "products on a GPU need not keep the row rule: exact = false", &po.no_exact, 0, 0 },
        { "compare-exact", 0, MR_OPT_FLAG, NULL, "--config: with the row rule and without, and the ratio", &shape.compare_exact,
          0, 0 },
        { "scale", 0, MR_OPT_TEXT, "DIR", "time and memory against batch, context, rank and model: tables and pictures into DIR", &scale,
          0, 0 },
        { "vram", 0, MR_OPT_TEXT, "SIZE", "--config: most device memory of the job, as in 14G", &shape.vram, 0, 0 },
        { "dequantize", 0, MR_OPT_TEXT, "WHEN", "--config: nf4 weights in 16 bits as well: auto, true or false", &shape.dequantize, 0,
          0 },
    };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, sizeof opts / sizeof opts[0], argc, argv, err);
    if (st == MR_OK && !a.help) st = check_options(&shape, a.n ? a.items[0] : NULL, scale, po.no_exact, err);
    if (st == MR_OK && !a.help) {
        po.n_threads = (int)threads;
        shape.quick = b->quick;
        if (scale)
            st = mr_bench_scale_run(&shape, scale, &po, json, err);
        else if (shape.config)
            st = mr_bench_shape_run(&shape, &po, json, err);
    }
    if (st == MR_OK && !a.help && !shape.config && !scale) {
        b->repeats = steps ? (int)steps : b->quick ? 1 : 3;
        st = bench(b, a.n ? a.items[0] : model, &po, err);
        if (st == MR_OK && json)
            print_report(b);
        else if (st == MR_OK)
            print_table(b);
        mr_optimizer_close(b->job.optimizer);
        mr_decoder_close(b->job.decoder);
        mr_bench_close(&b->job);
        mr_settings_clear(&b->set);
        mr_parts_close(&b->parts);
    }
    mr_args_clear(&a);
    mr_free(b);
    return st;
}
