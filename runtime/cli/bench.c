/* bench.c - `medrl bench`: start-up, prefill, decode and whole GRPO steps of one model on this machine.
 *
 * A step is that of the CPU profile of recipes/medical_mix.lua, from random ids: 4 prompts of 250, 6 completions of
 * exactly 48 each (nothing stops one early, so that every run does the same work), a scorer in C, then what
 * rl/step_grpo.c does with the same functions: advantages, a pack a group, forward, backward, clip, AdamW, refresh.
 * What a model computes does not depend on what its ids mean. Medians throughout; only runs of one machine, one after
 * another, can be compared. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/proc.h"
#include "base/rng.h"
#include "cli/cli.h"
#include "cli/parts.h"
#include "rl/optimizer.h"
#include "rl/pack.h"
#include "rl/settings.h"

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
    ROWS = PROMPTS * GROUP,
    TOKENS = ROWS * NEW,
    MAX_TARGETS = PROMPTS * (PROMPT + GROUP * NEW),
    ROLLOUT_ROWS = 512, /* rows of one forward while sampling, as rl/plan.c */
    MAX_REPEATS = 99,
    PREFILLS = 5,
    PREFILLS_QUICK = 3
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
    double rollout_s, train_s, step_s, all_s[MAX_REPEATS];
    double spread;   /* (slowest - fastest) / median of the steps */
    double logp_gap; /* largest difference of a sampled and a trained log-probability: 0 (one forward) */
    double loss, norm;
} figures;

/* One step's numbers, as in rl/step_grpo.c. Row p * GROUP + g is completion g of prompt p. */
typedef struct step_work {
    float rewards[ROWS], reward[ROWS], std[ROWS], adv[ROWS];
    int32_t offset[ROWS + 1];
    float sampled[TOKENS], logp[TOKENS], dlogp[TOKENS];
    float pack_logp[MAX_TARGETS], pack_entropy[MAX_TARGETS], pack_weight[MAX_TARGETS];
    double rollout_s, train_s, step_s;
} step_work;

typedef struct benching {
    mr_parts parts;
    mr_settings set;
    mr_decoder *decoder;
    mr_optimizer *optimizer;
    mr_packer packer;
    step_work *work;
    int32_t ids[PROMPTS * PROMPT];
    uint32_t n_drawn;
    int repeats;
    bool quick, checkpointing;
    figures f;
} benching;

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts x. */
static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, by_value);
    return n % 2 ? x[n / 2] : 0.5 * (x[n / 2 - 1] + x[n / 2]);
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static void random_ids(benching *b, int n) {
    int vocab = mr_model_config(b->parts.model)->vocab_size;
    b->n_drawn++;
    for (int i = 0; i < n; i++)
        b->ids[i] = (int32_t)(mr_uniform(1, b->n_drawn, 0, 0, (uint32_t)i) * (float)vocab) % vocab;
}

/* Times between the ends of a rollout's forwards. */
typedef struct clocked {
    double last, s[DECODE_TO - DECODE_FROM + 1];
    int n;
} clocked;

static bool tick(void *self, int n_done, int n_total) {
    (void)n_done, (void)n_total;
    clocked *c = self;
    double now = mr_now_s();
    c->s[c->n++] = now - c->last;
    c->last = now;
    return true;
}

/* One prompt of random ids, n completions of n_new tokens: c->s[0] is the prompt's forward with its sampling. */
static mr_status clock_rollout(benching *b, clocked *c, int n_ids, int n, int n_new, mr_err *err) {
    mr_rollout r = { 0 };
    random_ids(b, n_ids);
    const mr_rollout_prompt prompt = { .ids = b->ids, .n_ids = n_ids, .n_samples = n };
    const mr_rollout_opts o = {
        .sampling = { .temperature = 1, .top_p = 1, .repetition_penalty = 1 },
        .max_new_tokens = n_new,
        .seed = b->n_drawn,
        .tick = tick,
        .self = c,
    };
    *c = (clocked){ .last = mr_now_s() };
    mr_status st = mr_rollout_run(&r, b->decoder, &prompt, 1, &o, err);
    mr_rollout_clear(&r);
    return st;
}

static mr_status bench_rates(benching *b, mr_err *err) {
    int n_prefills = b->quick ? PREFILLS_QUICK : PREFILLS;
    int steps = (b->quick ? DECODE_TO_QUICK : DECODE_TO) - DECODE_FROM;
    double s[PREFILLS];
    clocked c;
    MR_TRY(clock_rollout(b, &c, PREFILL, 1, 1, err)); /* warms up */
    for (int i = 0; i < n_prefills; i++) {
        MR_TRY(clock_rollout(b, &c, PREFILL, 1, 1, err));
        s[i] = c.s[0];
    }
    b->f.prefill_tok_s = PREFILL / median(s, n_prefills);
    for (int k = 0; k < 3; k++) {
        /* the prompt's rows end at DECODE_FROM - 1 and its forward gives the first token */
        MR_TRY(clock_rollout(b, &c, DECODE_FROM, batches[k], steps + 1, err));
        b->f.decode_tok_s[k] = batches[k] / median(c.s + 1, c.n - 1);
    }
    return MR_OK;
}

/* --- one GRPO step --- */

/* The scorer: the share of even ids in a completion. */
static void score(void *self, const mr_completion *c) {
    step_work *w = self;
    int even = 0;
    for (int i = 0; i < c->n; i++) even += c->ids[i] % 2 == 0;
    w->rewards[c->prompt * GROUP + c->sample] = (float)even / (float)c->n;
}

static mr_status sample(benching *b, mr_rollout *r, int n_prompts, uint32_t step, mr_err *err) {
    mr_rollout_prompt prompts[PROMPTS];
    random_ids(b, n_prompts * PROMPT);
    for (int p = 0; p < n_prompts; p++)
        prompts[p] = (mr_rollout_prompt){
            .ids = b->ids + p * PROMPT, .n_ids = PROMPT, .rng_prompt = (uint32_t)p, .n_samples = GROUP
        };
    const mr_rollout_opts o = {
        .sampling = { .temperature = b->set.train.temperature,
                      .top_p = b->set.train.top_p,
                      .top_k = b->set.train.top_k,
                      .min_p = b->set.train.min_p,
                      .repetition_penalty = b->set.train.repetition_penalty },
        .max_new_tokens = NEW,
        .seed = b->set.train.seed,
        .step = step,
        .finished = score,
        .self = b->work,
    };
    return mr_rollout_run(r, b->decoder, prompts, n_prompts, &o, err);
}

/* Whole groups from *next on, as many as the packer takes. */
static void fill_pack(benching *b, const mr_rollout *r, int n_prompts, int *next) {
    const int32_t *ids[GROUP];
    int n_ids[GROUP];
    mr_packer_reset(&b->packer);
    for (; *next < n_prompts; ++*next) {
        for (int g = 0; g < GROUP; g++) {
            ids[g] = r->items[*next * GROUP + g].ids;
            n_ids[g] = r->items[*next * GROUP + g].n;
        }
        const mr_train_group group = { .prompt = b->ids + *next * PROMPT,
                                       .n_prompt = PROMPT,
                                       .ids = ids,
                                       .n_ids = n_ids,
                                       .n_completions = GROUP,
                                       .first_token = b->work->offset[*next * GROUP] };
        if (!mr_packer_add(&b->packer, &group)) break;
    }
}

static mr_status train(benching *b, const mr_rollout *r, int n_prompts, mr_err *err) {
    step_work *w = b->work;
    const mr_packer *k = &b->packer;
    const mr_settings *s = &b->set;
    mr_grpo_stats stats = { 0 };
    int n_rows = n_prompts * GROUP, n_tokens = 0;
    for (int i = 0; i < n_rows; i++) {
        w->offset[i] = n_tokens;
        memcpy(w->sampled + n_tokens, r->items[i].logp, (size_t)r->items[i].n * sizeof(float));
        n_tokens += r->items[i].n;
    }
    w->offset[n_rows] = n_tokens;
    memcpy(w->logp, w->sampled, (size_t)n_tokens * sizeof(float));
    const mr_grpo_batch batch = {
        .offset = w->offset,
        .logp = w->logp,
        .logp_old = w->sampled,
        .adv = w->adv,
        .n_rows = n_rows,
        .acc = 1,
        .slices = 1,
    };
    mr_decoder_phase(b->decoder, MR_PHASE_TRAIN);
    mr_model_zero_grads(b->parts.model);
    for (int next = 0; next < n_prompts;) {
        fill_pack(b, r, n_prompts, &next);
        mr_decoder_forward(b->decoder, &k->pack);
        mr_decoder_logprobs(b->decoder, w->pack_logp, w->pack_entropy, k->rows, k->targets, k->n_targets, 1.0f);
        for (int i = 0; i < k->n_targets; i++) {
            double gap = fabs((double)w->pack_logp[i] - (double)w->sampled[k->token[i]]);
            b->f.logp_gap = fmax(b->f.logp_gap, gap);
            w->logp[k->token[i]] = w->pack_logp[i];
        }
        MR_TRY(mr_grpo_loss(w->dlogp, &stats, &batch, &s->train.loss, err));
        for (int i = 0; i < k->n_targets; i++) w->pack_weight[i] = w->dlogp[k->token[i]];
        mr_decoder_backward(b->decoder, &k->pack, k->rows, k->targets, w->pack_weight, k->n_targets, 1.0f);
        MR_TRY(b->parts.backend->sync(b->parts.backend, err));
    }
    int64_t n;
    bool finite = true;
    const float *grads = mr_model_grads(b->parts.model, &n);
    double norm = sqrt(b->parts.backend->sum_squares(b->parts.backend, grads, n, &finite));
    MR_TRY(b->parts.backend->sync(b->parts.backend, err));
    if (!finite) return mr_fail(err, MR_EINTERNAL, "%s: a gradient is not finite", b->parts.path);
    mr_optimizer_step(b->optimizer, s->train.learning_rate, mr_clip_coefficient(norm, s->train.max_grad_norm));
    mr_model_refresh(b->parts.model);
    b->f.loss = stats.loss;
    b->f.norm = norm;
    return b->parts.backend->sync(b->parts.backend, err);
}

static mr_status step(benching *b, int n_prompts, uint32_t number, mr_err *err) {
    step_work *w = b->work;
    const float weight = 1;
    mr_rollout r = { 0 };
    double t0 = mr_now_s();
    mr_status st = sample(b, &r, n_prompts, number, err);
    double t1 = mr_now_s();
    if (st == MR_OK)
        st = mr_grpo_advantages(w->adv, w->reward, w->std, w->rewards, &weight, n_prompts * GROUP, 1,
                                &b->set.train.loss, err);
    double t2 = mr_now_s();
    if (st == MR_OK) st = train(b, &r, n_prompts, err);
    double t3 = mr_now_s();
    w->rollout_s = t1 - t0;
    w->train_s = t3 - t2;
    w->step_s = t3 - t0;
    mr_rollout_clear(&r);
    return st;
}

static mr_status bench_steps(benching *b, mr_err *err) {
    double rollout[MAX_REPEATS], training[MAX_REPEATS], whole[MAX_REPEATS];
    MR_TRY(step(b, b->quick ? 1 : PROMPTS, 1, err)); /* warms up */
    for (int i = 0; i < b->repeats; i++) {
        MR_TRY(step(b, PROMPTS, (uint32_t)i + 2, err));
        rollout[i] = b->work->rollout_s;
        training[i] = b->work->train_s;
        whole[i] = b->f.all_s[i] = b->work->step_s;
    }
    b->f.rollout_s = median(rollout, b->repeats);
    b->f.train_s = median(training, b->repeats);
    b->f.step_s = median(whole, b->repeats);
    b->f.spread = (whole[b->repeats - 1] - whole[0]) / b->f.step_s;
    return MR_OK;
}

/* --- opening --- */

/* From the start of the process: all that `medrl generate` opens, a short prompt, one token. */
static mr_status bench_start(benching *b, const char *model, const mr_parts_opts *po, mr_err *err) {
    clocked c;
    MR_TRY(mr_parts_open(&b->parts, model, po, err));
    int positions = mr_model_config(b->parts.model)->max_position_embeddings;
    if (positions < PROMPT + NEW)
        return mr_fail(err, MR_EINVAL, "%s: the model has %d positions, bench needs %d; name another model",
                       b->parts.path, positions, PROMPT + NEW);
    const mr_decoder_opts o = { .rollout_rows = FIRST_PROMPT,
                                .rollout_slots = mr_rollout_slots(1, FIRST_PROMPT, 1, 1) };
    MR_TRY(mr_decoder_open(&b->decoder, b->parts.model, &o, err));
    MR_TRY(clock_rollout(b, &c, FIRST_PROMPT, 1, 1, err));
    b->f.first_token_s = mr_since_start_s();
    mr_decoder_close(b->decoder);
    b->decoder = NULL;
    mr_model_close(b->parts.model);
    b->parts.model = NULL;
    return MR_OK;
}

static mr_status open_training(benching *b, const mr_parts_opts *po, mr_err *err) {
    cJSON *tree = NULL;
    MR_TRY(mr_json_parse(&tree, recipe, sizeof recipe - 1, "bench", err));
    mr_status st = mr_settings_parse(&b->set, tree, "bench", err);
    cJSON_Delete(tree);
    MR_TRY(st);
    const mr_settings *s = &b->set;
    mr_model_opts mo = { .train = true,
                         .lora = { .r = s->lora.r, .lora_alpha = s->lora.lora_alpha, .seed = s->train.seed } };
    memcpy(mo.lora.targets, s->lora.targets, sizeof mo.lora.targets);
    MR_TRY(mr_parts_dtype(&mo.compute, po->dtype, b->parts.backend, err));
    mo.store = po->store && strcmp(po->store, "nf4") == 0 ? MR_NF4 : mo.compute;
    MR_TRY(mr_model_open(&b->parts.model, b->parts.backend, b->parts.path, &mo, err));
    const mr_optimizer_opts oo = { s->train.optim, s->train.adam_beta1, s->train.adam_beta2, s->train.adam_epsilon,
                                   s->train.weight_decay };
    int n_params;
    const mr_param *params = mr_model_params(b->parts.model, &n_params);
    MR_TRY(mr_optimizer_open(&b->optimizer, b->parts.backend, params, n_params, &oo, err));
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
    MR_TRY(mr_decoder_open(&b->decoder, b->parts.model, &o, err));
    return mr_packer_init(&b->packer, o.train_rows, o.train_slots, ROWS, err);
}

static mr_status bench(benching *b, const char *model, const mr_parts_opts *po, mr_err *err) {
    b->work = mr_alloc(sizeof *b->work);
    MR_TRY(bench_start(b, model, po, err));
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
        printf("decode, %2d at once             %8.0f tokens/s (positions %d to %d)\n", batches[k], f->decode_tok_s[k],
               DECODE_FROM, b->quick ? DECODE_TO_QUICK : DECODE_TO);
    printf("GRPO step                      %8.2f s (%d prompts of %d, %d completions of %d each)\n", f->step_s, PROMPTS,
           PROMPT, GROUP, NEW);
    printf("  rollout                      %8.2f s\n", f->rollout_s);
    printf("  training                     %8.2f s\n", f->train_s);
    printf("memory, at most                %8.2f GB\n", (double)mr_rss_peak_bytes() / 1e9);
    if (b->repeats > 1)
        printf("median of %d steps, which differ by %.0f %%; ", b->repeats, 100 * f->spread);
    else
        printf("one step; ");
    printf("sampled and trained log-probabilities differ by at most %g\n", f->logp_gap);
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
    cJSON_AddNumberToObject(o, "rollout_s", f->rollout_s);
    cJSON_AddNumberToObject(o, "train_s", f->train_s);
    cJSON_AddNumberToObject(o, "step_s", f->step_s);
    cJSON_AddItemToObject(o, "step_s_all", cJSON_CreateDoubleArray(f->all_s, b->repeats));
    cJSON_AddNumberToObject(o, "step_spread", f->spread);
    cJSON_AddNumberToObject(o, "loss", f->loss);
    cJSON_AddNumberToObject(o, "grad_norm", f->norm);
    cJSON_AddNumberToObject(o, "logp_diff_max", f->logp_gap);
    cJSON_AddNumberToObject(o, "rss_peak_bytes", (double)mr_rss_peak_bytes());
    mr_print_json(o);
    cJSON_Delete(o);
}

mr_status mr_cmd_bench(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "bench",
        "medrl bench\nmedrl bench --quick\nmedrl bench smollm2-135m-instruct --steps 9 --json",
        "[MODEL]",
        0,
        1,
        "How fast this machine samples and trains: seconds from the start to the first token, prefill, decode of 1, 6 "
        "and 24 sequences, and whole GRPO steps of the CPU profile of recipes/medical_mix.lua (4 prompts of 250 random "
        "ids, 6 completions of 48 each, LoRA of rank 16). About a minute on two cores.",
    };
    benching *b = mr_alloc(sizeof *b);
    mr_parts_opts po = { 0 };
    const char *model = "smollm2-135m-instruct";
    int64_t threads = 0, steps = 0;
    bool json = false;
    const mr_opt opts[] = {
        { "model", 0, MR_OPT_TEXT, "MODEL", "the same as MODEL (smollm2-135m-instruct)", &model, 0, 0 },
        { "quick", 0, MR_OPT_FLAG, NULL, "fewer repeats: a quarter of the time, less exact", &b->quick, 0, 0 },
        { "steps", 0, MR_OPT_INT, "N", "GRPO steps to measure (3; 1 with --quick)", &steps, 1, MAX_REPEATS },
        { "gradient-checkpointing", 0, MR_OPT_FLAG, NULL, "train in less memory, and slower", &b->checkpointing, 0, 0 },
        { "dtype", 0, MR_OPT_TEXT, "TYPE", "auto, f32 or bf16", &po.dtype, 0, 0 },
        { "store", 0, MR_OPT_TEXT, "TYPE", "weights in memory: auto, f32, bf16 or nf4", &po.store, 0, 0 },
        { "device", 0, MR_OPT_TEXT, "NAME", "auto, cpu or cuda", &po.device, 0, 0 },
        { "threads", 0, MR_OPT_INT, "N", "CPU threads (0: all)", &threads, 0, 1024 },
        { "json", 0, MR_OPT_FLAG, NULL, "the figures as one JSON object", &json, 0, 0 },
    };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, sizeof opts / sizeof opts[0], argc, argv, err);
    if (st == MR_OK && !a.help) {
        po.n_threads = (int)threads;
        b->repeats = steps ? (int)steps : b->quick ? 1 : 3;
        st = bench(b, a.n ? a.items[0] : model, &po, err);
        if (st == MR_OK && json)
            print_report(b);
        else if (st == MR_OK)
            print_table(b);
        mr_packer_clear(&b->packer);
        mr_optimizer_close(b->optimizer);
        mr_decoder_close(b->decoder);
        mr_settings_clear(&b->set);
        mr_free(b->work);
        mr_parts_close(&b->parts);
    }
    mr_args_clear(&a);
    mr_free(b);
    return st;
}
