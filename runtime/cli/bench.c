/* bench.c - `medrl bench`: prefill, decode and training speed of one model on this machine. Random ids: the numbers
 * that a model computes do not depend on what they mean. Each figure is the median of several repeats. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/proc.h"
#include "base/rng.h"
#include "cli/cli.h"
#include "cli/parts.h"
#include "rl/rollout.h"

/* The GRPO step of the default recipe on a CPU: 4 prompts of about 250 tokens, 6 completions of 48 each. */
enum { PREFILL = 256, DECODE_STEPS = 32, GROUPS = 4, SAMPLES = 6, PROMPT = 250, NEW = 48, MAX_REPEATS = 99 };

typedef struct benching {
    mr_parts parts;
    mr_decoder *decoder;
    int32_t *ids, *pos, *slots;
    int repeats;
    bool keep;
    double prefill, decode[3], train, forward, first_token_s;
    double step_spread; /* (largest - smallest) / median of the training pack's seconds */
} benching;

static const int batches[3] = { 1, 6, 24 };

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, by_value);
    return n % 2 ? x[n / 2] : 0.5 * (x[n / 2 - 1] + x[n / 2]);
}

static int64_t chunked(int64_t n) {
    return (n + MR_KV_CHUNK - 1) / MR_KV_CHUNK * MR_KV_CHUNK;
}

static void random_ids(benching *b, int n) {
    int vocab = mr_model_config(b->parts.model)->vocab_size;
    for (int i = 0; i < n; i++) b->ids[i] = (int32_t)(mr_uniform(1, 0, 0, 0, (uint32_t)i) * (float)vocab);
}

/* One prompt of PREFILL tokens in one forward, its keys at slot 0. */
static mr_status prefill(benching *b, mr_err *err) {
    random_ids(b, PREFILL);
    for (int i = 0; i < PREFILL; i++) b->pos[i] = b->slots[i] = i;
    const mr_span span = { .n_rows = PREFILL };
    const mr_pack pack = {
        .n_rows = PREFILL, .ids = b->ids, .pos = b->pos, .slots = b->slots, .spans = &span, .n_spans = 1
    };
    mr_decoder_forward(b->decoder, &pack);
    return b->parts.backend->sync(b->parts.backend, err);
}

/* Tokens that follow the prefilled prompt, n sequences at once, sampled as in a rollout. */
static mr_status decode(benching *b, int n, int steps, mr_err *err) {
    mr_span spans[64];
    int32_t rows[64], next[64];
    float u[64], logp[64];
    const mr_sampling sampling = {
        .temperature = 1, .top_p = 1, .repetition_penalty = 1, .n_vocab = mr_model_config(b->parts.model)->vocab_size
    };
    for (int i = 0; i < n; i++) next[i] = b->ids[i];
    for (int t = 0; t < steps; t++) {
        for (int i = 0; i < n; i++) {
            int32_t slot0 = PREFILL + i * (int32_t)chunked(DECODE_STEPS);
            spans[i] = (mr_span){ .row0 = i, .n_rows = 1, .past = t, .slot0 = slot0, .n_prefix = PREFILL };
            b->ids[i] = next[i];
            b->pos[i] = PREFILL + t;
            b->slots[i] = slot0 + t;
            rows[i] = i;
            u[i] = mr_uniform(2, 0, 0, (uint32_t)i, (uint32_t)t);
        }
        const mr_pack pack = {
            .n_rows = n, .ids = b->ids, .pos = b->pos, .slots = b->slots, .spans = spans, .n_spans = n
        };
        mr_decoder_forward(b->decoder, &pack);
        mr_decoder_sample(b->decoder, next, logp, rows, u, &sampling, NULL, NULL, n);
    }
    return b->parts.backend->sync(b->parts.backend, err);
}

enum { GROUP_ROWS = PROMPT + SAMPLES * NEW, TRAIN_ROWS = GROUPS * GROUP_ROWS, TRAINED = GROUPS * SAMPLES * NEW };

typedef struct training_pack {
    mr_pack pack;
    mr_span spans[GROUPS * (1 + SAMPLES)];
    int32_t rows[TRAINED], targets[TRAINED];
    float dlogp[TRAINED], logp[TRAINED];
} training_pack;

static void put_span(benching *b, training_pack *p, int *row, int64_t *slot, mr_span span, int first_pos) {
    span.row0 = *row;
    span.slot0 = (int32_t)*slot;
    for (int i = 0; i < span.n_rows; i++) {
        b->pos[*row] = first_pos + i;
        b->slots[*row] = (int32_t)(*slot + i);
        (*row)++;
    }
    *slot += chunked(span.n_rows);
    p->spans[p->pack.n_spans++] = span;
}

static void make_pack(benching *b, training_pack *p) {
    int row = 0, n = 0;
    int64_t slot = 0;
    random_ids(b, TRAIN_ROWS);
    for (int g = 0; g < GROUPS; g++) {
        int prompt_row = row, prompt_slot = (int)slot;
        put_span(b, p, &row, &slot, (mr_span){ .n_rows = PROMPT }, 0);
        for (int s = 0; s < SAMPLES; s++) {
            int first = row;
            put_span(
                b, p, &row, &slot,
                (mr_span){ .n_rows = NEW, .prefix_slot0 = prompt_slot, .n_prefix = PROMPT, .prefix_row0 = prompt_row },
                PROMPT);
            for (int i = 1; i < NEW;
                 i++) { /* the first token is left out: the row before it is the prompt's, and rows ascend here */
                p->rows[n] = first + i - 1;
                p->targets[n] = b->ids[first + i];
                p->dlogp[n] = (i % 2 ? 1.0f : -1.0f) / TRAINED;
                n++;
            }
        }
    }
    p->pack.n_rows = row;
    p->pack.ids = b->ids;
    p->pack.pos = b->pos;
    p->pack.slots = b->slots;
    p->pack.spans = p->spans;
}

static mr_status bench_training(benching *b, mr_err *err) {
    training_pack *p = mr_alloc(sizeof *p);
    double whole[MAX_REPEATS], forward[MAX_REPEATS];
    const int n_targets = GROUPS * SAMPLES * (NEW - 1);
    make_pack(b, p);
    mr_decoder_phase(b->decoder, MR_PHASE_TRAIN);
    mr_status st = MR_OK;
    for (int i = -1; st == MR_OK && i < b->repeats; i++) { /* the first one warms up */
        mr_model_zero_grads(b->parts.model);
        double t0 = mr_now_s();
        mr_decoder_forward(b->decoder, &p->pack);
        mr_decoder_logprobs(b->decoder, p->logp, NULL, p->rows, p->targets, n_targets, 1.0f);
        st = b->parts.backend->sync(b->parts.backend, err);
        double t1 = mr_now_s();
        if (st == MR_OK) mr_decoder_backward(b->decoder, &p->pack, p->rows, p->targets, p->dlogp, n_targets, 1.0f);
        if (st == MR_OK) st = b->parts.backend->sync(b->parts.backend, err);
        if (i < 0) continue;
        forward[i] = t1 - t0;
        whole[i] = mr_now_s() - t0;
    }
    mr_free(p);
    if (st != MR_OK) return st;
    b->train = median(whole, b->repeats);
    b->forward = median(forward, b->repeats);
    b->step_spread = (whole[b->repeats - 1] - whole[0]) / b->train;
    return MR_OK;
}

static mr_status bench_rollout(benching *b, mr_err *err) {
    double s[MAX_REPEATS];
    mr_decoder_phase(b->decoder, MR_PHASE_ROLLOUT);
    MR_TRY(prefill(b, err));
    for (int i = 0; i < b->repeats; i++) {
        double t = mr_now_s();
        MR_TRY(prefill(b, err));
        s[i] = mr_now_s() - t;
    }
    b->prefill = PREFILL / median(s, b->repeats);
    for (int k = 0; k < 3; k++) {
        MR_TRY(decode(b, batches[k], 2, err));
        for (int i = 0; i < b->repeats; i++) {
            double t = mr_now_s();
            MR_TRY(decode(b, batches[k], DECODE_STEPS, err));
            s[i] = mr_now_s() - t;
        }
        b->decode[k] = batches[k] * DECODE_STEPS / median(s, b->repeats);
    }
    return MR_OK;
}

/* From the start of the process: opening the model as for generate, a prompt of 256, one token. */
static mr_status bench_start(benching *b, const char *model, const mr_parts_opts *po, mr_err *err) {
    MR_TRY(mr_parts_open(&b->parts, model, po, err));
    const mr_decoder_opts o = { .rollout_rows = PREFILL, .rollout_slots = PREFILL + chunked(DECODE_STEPS) };
    MR_TRY(mr_decoder_open(&b->decoder, b->parts.model, &o, err));
    mr_decoder_phase(b->decoder, MR_PHASE_ROLLOUT);
    MR_TRY(prefill(b, err));
    MR_TRY(decode(b, 1, 1, err));
    b->first_token_s = mr_since_start_s();
    mr_decoder_close(b->decoder);
    b->decoder = NULL;
    mr_model_close(b->parts.model);
    b->parts.model = NULL;
    return MR_OK;
}

static mr_status bench(benching *b, const char *model, const mr_parts_opts *po, mr_err *err) {
    b->ids = mr_alloc(TRAIN_ROWS * sizeof *b->ids);
    b->pos = mr_alloc(TRAIN_ROWS * sizeof *b->pos);
    b->slots = mr_alloc(TRAIN_ROWS * sizeof *b->slots);
    MR_TRY(bench_start(b, model, po, err));
    mr_model_opts mo = { .train = true, .lora = { .r = 16, .lora_alpha = 32, .seed = 1 } };
    for (int i = 0; i < MR_N_PROJ; i++) mo.lora.targets[i] = true;
    MR_TRY(mr_parts_dtype(&mo.compute, po->dtype, b->parts.backend, err));
    mo.store = po->store && strcmp(po->store, "nf4") == 0 ? MR_NF4 : mo.compute;
    MR_TRY(mr_model_open(&b->parts.model, b->parts.backend, b->parts.path, &mo, err));
    const mr_decoder_opts o = {
        .rollout_rows = PREFILL,
        .rollout_slots = PREFILL + batches[2] * chunked(DECODE_STEPS),
        .train_rows = TRAIN_ROWS,
        .train_slots = GROUPS * (chunked(PROMPT) + SAMPLES * chunked(NEW)),
        .gradient_checkpointing = !b->keep,
    };
    MR_TRY(mr_decoder_open(&b->decoder, b->parts.model, &o, err));
    MR_TRY(bench_rollout(b, err));
    return bench_training(b, err);
}

static void print_table(const benching *b) {
    printf("%s, %s\n", b->parts.path, b->parts.backend->device);
    printf("prefill of %d tokens          %8.0f tokens/s\n", PREFILL, b->prefill);
    for (int k = 0; k < 3; k++) printf("decode, batch %-2d               %8.0f tokens/s\n", batches[k], b->decode[k]);
    printf(
        "training pack, %d rows      %8.2f s (forward %.2f s), %.0f rows/s; %d groups of a prompt of %d and %d x %d\n",
        TRAIN_ROWS, b->train, b->forward, TRAIN_ROWS / b->train, GROUPS, PROMPT, SAMPLES, NEW);
    printf("first token after start       %8.2f s\n", b->first_token_s);
    printf("memory, at most               %8.2f GB\n", (double)mr_rss_peak_bytes() / 1e9);
    printf("medians of %d; the training pack's spread was %.0f %%\n", b->repeats, 100 * b->step_spread);
}

static void print_report(const benching *b) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "model", b->parts.path);
    cJSON_AddStringToObject(o, "device", b->parts.backend->device);
    cJSON_AddNumberToObject(o, "threads", b->parts.backend->n_threads);
    cJSON_AddNumberToObject(o, "repeats", b->repeats);
    cJSON_AddNumberToObject(o, "prefill_256_tok_s", b->prefill);
    cJSON_AddNumberToObject(o, "decode_1_tok_s", b->decode[0]);
    cJSON_AddNumberToObject(o, "decode_6_tok_s", b->decode[1]);
    cJSON_AddNumberToObject(o, "decode_24_tok_s", b->decode[2]);
    cJSON_AddNumberToObject(o, "train_pack_rows", TRAIN_ROWS);
    cJSON_AddNumberToObject(o, "train_pack_s", b->train);
    cJSON_AddNumberToObject(o, "train_pack_forward_s", b->forward);
    cJSON_AddNumberToObject(o, "train_pack_spread", b->step_spread);
    cJSON_AddNumberToObject(o, "first_token_s", b->first_token_s);
    cJSON_AddNumberToObject(o, "rss_peak_bytes", (double)mr_rss_peak_bytes());
    mr_print_json(o);
    cJSON_Delete(o);
}

mr_status mr_cmd_bench(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "bench",
        "medrl bench\nmedrl bench --model smollm2-135m-instruct --repeats 9 --json",
        "",
        0,
        0,
        "How fast this machine samples and trains: prefill, decode at three batch sizes, forward and backward of one "
        "GRPO step's pack, time to the\n"
        "first token. Medians of several repeats.",
    };
    benching b = { 0 };
    mr_parts_opts po = { 0 };
    const char *model = "smollm2-135m-instruct";
    int64_t threads = 0, repeats = 5;
    bool json = false;
    const mr_opt opts[] = {
        { "model", 0, MR_OPT_TEXT, "MODEL", "name, folder or .gguf file (smollm2-135m-instruct)", &model, 0, 0 },
        { "repeats", 0, MR_OPT_INT, "N", "measurements of each figure (5)", &repeats, 1, MAX_REPEATS },
        { "keep-activations", 0, MR_OPT_FLAG, NULL, "train without gradient checkpointing", &b.keep, 0, 0 },
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
        b.repeats = (int)repeats;
        st = bench(&b, model, &po, err);
        if (st == MR_OK && json)
            print_report(&b);
        else if (st == MR_OK)
            print_table(&b);
        mr_decoder_close(b.decoder);
        mr_free(b.ids);
        mr_free(b.pos);
        mr_free(b.slots);
        mr_parts_close(&b.parts);
    }
    mr_args_clear(&a);
    return st;
}
