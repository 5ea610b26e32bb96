/* plan.c - see plan.h. */
#include "rl/plan.h"

#include <stdio.h>
#include <string.h>

#include "rl/rollout.h"
#include "rl/trainer_impl.h"

enum {
    CPU_PACK_ROWS = 512, /* small groups share packs, since few rows use a matrix product badly */
    CUDA_PACK_ROWS = 4096,
    PREFILL_ROWS = 512,
    CUDA_HEAD_ROWS = 256, /* whole tiles of a product; on a CPU decoder.h's 64 MB */
    MOST_HEAD_ROWS = 8192,
    LEAST_HEAD_ROWS = 16,
    /* of the MLP: enough tiles for all multiprocessors even where a product has few columns (with 2048 rows a training
     * step of 7162 took 3 % longer on an H100, with 1024 7 %); on a CPU, which unpacks NF4 for each part again, as many
     * as do not slow it down */
    CUDA_MLP_ROWS = 4096,
    CPU_MLP_ROWS = 1024,
    LEAST_MLP_ROWS = 128,
    /* below these a GPU does better with a group in parts: on the H100 halves cost 17 %, 512 rows in the MLP 20 % */
    CUDA_LOW_MLP_ROWS = 1024,
    CUDA_LOW_HEAD_ROWS = 64,
    LEAST_ASIDE = 3, /* layers: two of their inputs are on the device anyway */
    ASIDE_STEP = 3,
    SPARE = 4,        /* what nothing needs may take all memory but one part of so many, which is left to other programs; */
    SPARE_OF_CAP = 32 /* of a memory that was set (vram), but one of so many: a plan is as exact as that */
};
static const size_t KV_BUDGET_CPU = (size_t)1 << 30;

/* What is looked at for a plan. */
typedef struct inputs {
    mr_backend *b;
    const mr_config *c;
    mr_model_opts mo;
    mr_settings s; /* a shallow copy, to try changes on; nothing of it is freed */
    mr_census census;
} inputs;

mr_model_opts mr_plan_model_opts(const mr_settings *s, mr_dtype compute) {
    mr_model_opts mo = {
        .compute = compute,
        .train = true,
        .full = s->lora.r == 0,
        .from_config = s->model.from_config,
        .seed = s->train.seed,
        .cache = s->model.weight_cache,
        .lora = { .r = s->lora.r,
                  .lora_alpha = s->lora.lora_alpha,
                  .use_rslora = s->lora.use_rslora,
                  .seed = s->train.seed },
    };
    memcpy(mo.lora.targets, s->lora.targets, sizeof mo.lora.targets);
    mo.store = s->model.load_in_4bit && !mo.full ? MR_NF4 : compute;
    mo.dequantize = s->model.dequantize;
    return mo;
}

/* --- what it takes --- */

static void add_fixed(mr_plan *p, const inputs *in) {
    mr_model_room m;
    mr_model_plan(&m, in->b, in->c, &in->mo);
    const mr_optimizer_opts oo = { .kind = in->s.train.optim };
    p->linears = m.linears;
    p->unpacked = m.unpacked;
    p->tables = m.tables;
    p->vectors = m.vectors;
    p->values = m.values;
    p->copies = m.copies;
    p->grads = m.grads;
    p->states = mr_optimizer_plan(m.params, m.n_params, &oo);
    for (int i = 0; i < m.n_params; i++) p->n_trained += m.params[i].rows * m.params[i].cols;
    mr_model_room_clear(&m);
}

static size_t model_bytes(const mr_plan *p) {
    return p->linears + p->unpacked + p->tables + p->vectors + p->values + p->copies + p->grads;
}

/* A prompt with n of its completions. */
static int64_t rows_of(const mr_plan *p, int n) {
    return p->max_prompt + (int64_t)n * (p->max_completion - 1);
}

static int64_t group_rows(const mr_plan *p) {
    return rows_of(p, p->group);
}

/* What a plan chooses. */
typedef struct choice {
    int in_flight; /* prompts that are sampled together */
    int64_t pack;  /* rows of a training pack */
    int head_rows, mlp_rows, aside;
    int kept_attention, kept_mlp; /* layers */
} choice;

static void measure(mr_plan *p, const inputs *in, choice x) {
    mr_decoder_opts *o = &p->room;
    int in_flight = x.in_flight;
    int64_t pack = x.pack;
    *o = (mr_decoder_opts){ .train_rows = (int)pack,
                            .head_rows = x.head_rows,
                            .gradient_checkpointing = in->s.train.gradient_checkpointing,
                            .mlp_rows = (int)(x.mlp_rows < pack ? x.mlp_rows : pack),
                            .aside_layers = x.aside,
                            .kept_attention = x.kept_attention,
                            .kept_mlp = x.kept_mlp };
    int together = p->group; /* completions of a group in one pack */
    while (together > 1 && rows_of(p, together) > pack) together--;
    int64_t slots = mr_kv_round(p->max_prompt) + together * mr_kv_round(p->max_completion);
    /* Short spans waste the rest of their chunk: room for a pack of spans that are half empty. */
    int64_t train_slots = mr_kv_round(2 * pack);
    o->train_slots = train_slots > slots ? train_slots : slots;
    if (!p->sft) {
        o->rollout_slots = in_flight * mr_rollout_slots(1, p->max_prompt, p->group, p->max_completion);
        int64_t prefill = (int64_t)in_flight * p->max_prompt, live = (int64_t)in_flight * p->group;
        if (prefill > PREFILL_ROWS) prefill = PREFILL_ROWS;
        o->rollout_rows = (int)(live > prefill ? live : prefill);
    }
    p->in_flight = in_flight;
    mr_decoder_plan(&p->decoder, in->b, in->c, &in->mo, o);
    o->head_rows = p->decoder.head_rows;
    p->total = model_bytes(p) + p->states + p->decoder.block + p->decoder.scratch;
}

/* Without a cap. On a CPU memory is shared with other programs: keys and values of many prompts are kept in bounds. */
static void wish(mr_plan *p, const inputs *in) {
    int64_t want = in->b->kind == MR_CUDA ? CUDA_PACK_ROWS : CPU_PACK_ROWS, rows = group_rows(p);
    int64_t pack = want < rows * p->prompts ? want : rows * p->prompts;
    int in_flight = p->prompts;
    if (in->b->kind == MR_CPU && !p->sft) {
        int64_t cell = mr_rollout_slots(1, p->max_prompt, p->group, p->max_completion);
        size_t bytes = in->b->kv_bytes(in->b, cell, in->c->num_key_value_heads, in->c->head_dim) *
                       (size_t)in->c->num_hidden_layers;
        size_t fit = KV_BUDGET_CPU / bytes;
        if (fit < (size_t)in_flight) in_flight = fit < 1 ? 1 : (int)fit;
    }
    bool cuda = in->b->kind == MR_CUDA;
    measure(p, in,
            (choice){ .in_flight = in_flight,
                      .pack = pack < rows ? rows : pack,
                      .head_rows = cuda ? CUDA_HEAD_ROWS : 0,
                      .mlp_rows = cuda ? CUDA_MLP_ROWS : CPU_MLP_ROWS });
    p->wish.in_flight = in_flight;
    p->wish.pack_rows = p->room.train_rows;
    p->wish.head_rows = p->room.head_rows;
    p->wish.mlp_rows = p->room.mlp_rows;
    p->wish.total = p->total;
}

static choice chosen(const mr_plan *p) {
    const mr_decoder_opts *o = &p->room;
    return (choice){ p->in_flight, o->train_rows, o->head_rows, o->mlp_rows, o->aside_layers, o->kept_attention, o->kept_mlp };
}

/* Layers whose inputs of so many rows can be set aside, in half of the host's memory at most. On a CPU that is the
 * device's. */
static int most_aside(const mr_plan *p, const inputs *in, int64_t pack) {
    size_t fit = mr_memory_bytes() / 2 / ((size_t)pack * (size_t)in->c->hidden_size * sizeof(float));
    int layers = in->c->num_hidden_layers;
    if (in->b->kind != MR_CUDA || !p->checkpointing) return 0;
    if (fit < (size_t)layers) layers = (int)fit;
    return layers >= LEAST_ASIDE ? layers : 0;
}

/* The least that these settings can do with. */
static void least(mr_plan *p, const inputs *in) {
    measure(p, in,
            (choice){ .in_flight = 1,
                      .pack = rows_of(p, 1),
                      .head_rows = LEAST_HEAD_ROWS,
                      .mlp_rows = LEAST_MLP_ROWS,
                      .aside = most_aside(p, in, rows_of(p, 1)) });
}

static int lower(int x, int floor) {
    return x / 2 > floor ? x / 2 : floor;
}

/* The next thing that training can do with less, those that cost least time first: packs of fewer groups, inputs of
 * layers aside, fewer rows at a time in the MLP, then in the head; at last a group in parts, each with the prompt's rows
 * again. False when nothing is left. */
static bool train_with_less(choice *x, const mr_plan *p, const inputs *in) {
    int64_t rows = group_rows(p);
    int aside = most_aside(p, in, x->pack);
    bool parts_first = in->b->kind == MR_CUDA && x->pack > rows_of(p, 1);
    int least_mlp = parts_first ? CUDA_LOW_MLP_ROWS : LEAST_MLP_ROWS;
    int least_head = parts_first ? CUDA_LOW_HEAD_ROWS : LEAST_HEAD_ROWS;
    if (x->pack > rows) {
        x->pack = x->pack - x->pack / 8 > rows ? x->pack - x->pack / 8 : rows;
    } else if (x->aside < aside) {
        x->aside = x->aside + ASIDE_STEP < aside ? x->aside + ASIDE_STEP : aside;
    } else if (x->mlp_rows > least_mlp) {
        x->mlp_rows = lower(x->mlp_rows, least_mlp);
    } else if (x->head_rows > least_head) {
        x->head_rows = lower(x->head_rows, least_head);
    } else {
        int parts = 2, n; /* as even as they go: what counts is how often the prompt comes */
        while (parts <= p->group && rows_of(p, (p->group + parts - 1) / parts) >= x->pack) parts++;
        if (parts > p->group) return false;
        n = (p->group + parts - 1) / parts;
        /* and with that the rest as it likes again */
        *x = (choice){ x->in_flight, rows_of(p, n), p->wish.head_rows, p->wish.mlp_rows, 0, 0, 0 };
    }
    return true;
}

/* From the wish downwards, always the larger phase; false when the least is too much. */
static bool squeeze(mr_plan *p, const inputs *in) {
    while (p->total > p->cap) {
        const mr_decoder_room *d = &p->decoder;
        choice x = chosen(p);
        bool rollout = d->rollout + d->rollout_kv >= d->train + d->train_kv;
        if (x.in_flight > 1 && rollout)
            x.in_flight -= x.in_flight / 8 > 1 ? x.in_flight / 8 : 1;
        else if (!train_with_less(&x, p, in)) { /* what both phases share may become less, with fewer rows */
            if (x.in_flight <= 1) return false;
            x.in_flight--;
        }
        measure(p, in, x);
    }
    return true;
}

/* The most of low .. high times step, in what of x, that `most` bytes in all have room for; low times step has. */
static void keep_most(mr_plan *p, const inputs *in, size_t most, choice *x, int *what, int step, int low, int high) {
    while (low < high) {
        int middle = low + (high - low + 1) / 2;
        *what = middle * step;
        measure(p, in, *x);
        if (p->total <= most)
            low = middle;
        else
            high = middle - 1;
    }
    *what = low * step;
    measure(p, in, *x);
}

/* What is free goes to what the backward pass would run again, the part first of which a byte saves the most time: attention, logits, the
 * MLP. */
static void keep(mr_plan *p, const inputs *in, size_t free_bytes) {
    if (in->b->kind != MR_CUDA) return;
    choice x = chosen(p);
    const size_t before = p->total, most = before + free_bytes;
    const int layers = p->checkpointing ? in->c->num_hidden_layers : 0;
    int groups = (int)(x.pack / group_rows(p)), targets = groups * p->group * p->max_completion;
    if (targets > x.pack) targets = (int)x.pack;
    if (targets > MOST_HEAD_ROWS) targets = MOST_HEAD_ROWS;
    keep_most(p, in, most, &x, &x.kept_attention, 1, 0, layers);
    int head_rows = x.head_rows;
    if (targets > head_rows)
        keep_most(p, in, most, &x, &x.head_rows, head_rows, 1, (targets + head_rows - 1) / head_rows);
    keep_most(p, in, most, &x, &x.kept_mlp, 1, 0, x.kept_attention);
    p->kept = p->total > before ? p->total - before : 0;
}

static void start(mr_plan *p, const inputs *in, size_t cap) {
    const mr_settings *s = &in->s;
    *p = (mr_plan){ .cap = cap,
                    .census = in->census,
                    .optim = s->train.optim,
                    .sft = s->method == MR_METHOD_SFT,
                    .checkpointing = s->train.gradient_checkpointing,
                    .prompts = s->train.prompts_per_step,
                    .max_prompt = in->census.prompt,
                    .max_completion = in->census.completion };
    p->group = p->sft ? 1 : s->train.loss.num_generations;
    add_fixed(p, in);
}

/* --- what to change --- */

static size_t least_of(const inputs *in) {
    mr_plan p;
    start(&p, in, 0);
    least(&p, in);
    return p.total;
}

/* The largest value at which it fits, found from above; 0: none. set is called with a copy of the inputs. */
static int largest_fit(const inputs *in, size_t cap, int from, int step, int floor,
                       void (*set)(inputs *in, int value)) {
    int lo = 0, hi = from > floor ? (from - floor) / step : 0; /* value = floor + i * step; hi is too much */
    inputs x = *in;
    set(&x, floor);
    if (hi == 0 || least_of(&x) > cap) return 0;
    while (hi - lo > 1) {
        int mid = lo + (hi - lo) / 2;
        x = *in;
        set(&x, floor + mid * step);
        if (least_of(&x) <= cap)
            lo = mid;
        else
            hi = mid;
    }
    return floor + lo * step;
}

static void set_completion(inputs *in, int value) {
    if (in->census.completion > value) in->census.completion = value;
}
static void set_prompt(inputs *in, int value) {
    if (in->census.prompt > value) in->census.prompt = value;
}
static void set_group(inputs *in, int value) {
    in->s.train.loss.num_generations = value;
}
static void set_rank(inputs *in, int value) {
    in->mo.lora.r = value;
}
static void set_checkpointing(inputs *in, int value) {
    in->s.train.gradient_checkpointing = value != 0;
}
static void set_4bit(inputs *in, int value) {
    (void)value;
    in->mo.store = MR_NF4;
}
static void set_packed(inputs *in, int value) {
    (void)value;
    in->mo.dequantize = MR_DEQUANTIZE_NO;
}
static void set_8bit(inputs *in, int value) {
    (void)value;
    in->s.train.optim = MR_ADAMW_8BIT;
}

static void propose(mr_str *out, int *n, const char *text) {
    mr_str_printf(out, "%s%s", (*n)++ ? ", or " : "", text);
}

static bool would_fit(const inputs *in, size_t cap, void (*set)(inputs *, int), int value) {
    inputs x = *in;
    set(&x, value);
    return least_of(&x) <= cap;
}

/* Settings that alone make it fit: two at most, those that cost least first. */
static void proposals(mr_str *out, const inputs *in, size_t cap) {
    const mr_settings *s = &in->s;
    const char *section = s->method == MR_METHOD_SFT ? "sft" : "grpo";
    enum { MOST = 2 };
    int n = 0;
    char text[96];
    bool lora = in->mo.lora.r > 0;
    if (!s->train.gradient_checkpointing && would_fit(in, cap, set_checkpointing, 1)) {
        snprintf(text, sizeof text, "set %s.gradient_checkpointing = true", section);
        propose(out, &n, text);
    }
    if (in->mo.dequantize == MR_DEQUANTIZE_YES && would_fit(in, cap, set_packed, 0))
        propose(out, &n, "set model.dequantize = false");
    if (lora && in->mo.store != MR_NF4 && would_fit(in, cap, set_4bit, 1))
        propose(out, &n, "set model.load_in_4bit = true");
    if (n < MOST && s->train.optim != MR_ADAMW_8BIT && would_fit(in, cap, set_8bit, 1)) {
        snprintf(text, sizeof text, "set %s.optim = \"adamw_8bit\"", section);
        propose(out, &n, text);
    }
    const struct {
        const char *section, *key;
        int from, step, floor;
        void (*set)(inputs *, int);
    } lower[] = {
        { section, "max_completion_length", in->census.completion, 16, 16, set_completion },
        { section, "num_generations", s->method == MR_METHOD_SFT ? 0 : s->train.loss.num_generations, 1, 2, set_group },
        { section, "max_prompt_length", in->census.prompt, 16, 16, set_prompt },
        { "lora", "r", in->mo.lora.r, 1, 1, set_rank },
    };
    for (size_t i = 0; i < sizeof lower / sizeof lower[0] && n < MOST; i++) {
        int value = largest_fit(in, cap, lower[i].from, lower[i].step, lower[i].floor, lower[i].set);
        if (!value) continue;
        snprintf(text, sizeof text, "lower %s.%s from %d to %d", lower[i].section, lower[i].key, lower[i].from, value);
        propose(out, &n, text);
    }
    if (n) return;
    bool both = lora && in->mo.store != MR_NF4;
    mr_str_printf(out, "no setting alone does it: %s%s%stake a smaller model",
                  both ? "set model.load_in_4bit = true, " : "",
                  s->train.gradient_checkpointing ? "" : "gradient_checkpointing = true, ",
                  lora ? "lower max_completion_length and lora.r, or " : "train an adapter (section lora), or ");
}

/* "3.21 GB" or "450.1 MB" */
static void size_text(char text[24], size_t bytes) {
    if (bytes >= 1000000000)
        snprintf(text, 24, "%.2f GB", (double)bytes / 1e9);
    else
        snprintf(text, 24, "%.1f MB", (double)bytes / 1e6);
}

static mr_status refuse(const mr_plan *p, const inputs *in, mr_err *err) {
    mr_str text = { 0 };
    char need[24], model[24], states[24], have[24];
    proposals(&text, in, p->cap);
    size_text(need, p->total);
    size_text(model, model_bytes(p));
    size_text(states, p->states);
    size_text(have, p->cap);
    mr_status st =
        mr_fail(err, MR_ENOMEM,
                "%s: the run needs at least %s of memory (weights, adapter and gradients %s, optimizer %s, the "
                "rest for one completion at a time), %s %s; %s",
                in->s.model.name ? in->s.model.name : "model", need, model, states,
                in->s.vram ? "vram is" : "the device has", have, text.data);
    mr_str_clear(&text);
    return st;
}

/* What may be taken without need. */
static size_t fill(const mr_plan *p, const inputs *in) {
    return p->cap - p->cap / (in->s.vram ? SPARE_OF_CAP : SPARE);
}

/* Where all of the job fits as it likes, and its linears unpacked beside it. */
static void keep_unpacked(mr_plan *p, const inputs *in) {
    inputs more = *in;
    mr_plan with;
    if (!p->cap || p->total < p->wish.total) return;
    more.mo.dequantize = MR_DEQUANTIZE_YES;
    start(&with, &more, p->cap);
    wish(&with, &more);
    if (with.unpacked && with.total <= fill(p, in)) *p = with;
}

mr_dequantize mr_plan_dequantize(const mr_plan *p) { return p->unpacked ? MR_DEQUANTIZE_YES : MR_DEQUANTIZE_NO; }

mr_status mr_plan_make(mr_plan *out, mr_backend *b, const mr_config *c, const mr_model_opts *mo, const mr_settings *s,
                       const mr_census *census, mr_err *err) {
    inputs in = { .b = b, .c = c, .mo = *mo, .s = *s, .census = *census };
    start(out, &in, s->vram ? s->vram : b->bytes_total);
    wish(out, &in);
    mr_status st = !out->cap || squeeze(out, &in) ? MR_OK : refuse(out, &in, err);
    if (st == MR_OK && mo->dequantize == MR_DEQUANTIZE_AUTO) keep_unpacked(out, &in);
    const size_t most = fill(out, &in);
    if (out->wish.total < most) keep(out, &in, most - out->wish.total);
    const double kv = (double)b->kv_bytes(b, MR_KV_CHUNK, c->num_key_value_heads, c->head_dim) / MR_KV_CHUNK;
    out->kv_token_bytes = kv;
    out->t4 = mr_estimate_make(out, c, mo, kv, s->train.max_steps, &mr_t4);
    return st;
}

/* --- telling --- */

bool mr_plan_cuts_groups(const mr_plan *p) {
    return p->room.train_rows < group_rows(p);
}

static void line(mr_str *out, const char *what, size_t bytes, const char *detail) {
    mr_str_printf(out, "  %-34s %10.1f MB  %s\n", what, (double)bytes / 1e6, detail);
}

static void describe_kept(const mr_plan *p, mr_str *out) {
    char text[96];
    if (!p->kept) return;
    snprintf(text, sizeof text, "attention of %d layers, MLP of %d, %d rows of logits", p->room.kept_attention, p->room.kept_mlp,
             p->room.head_rows);
    line(out, "  in it, kept for the backward pass", p->kept, text);
}

static void describe_cap(const mr_plan *p, const char *device, mr_str *out) {
    char text[256];
    if (!p->cap) {
        line(out, "together", p->total, device);
        return;
    }
    const char *how = p->total > p->cap ? ", the least that it takes" : p->wish.total > p->cap ? "" : ", as it likes";
    snprintf(text, sizeof text, "of %.1f MB%s", (double)p->cap / 1e6, how);
    line(out, "together", p->total, text);
    if (p->wish.total <= p->cap || p->total > p->cap) return;
    mr_str_printf(out, "  to fit, it would like %.1f MB:", (double)p->wish.total / 1e6);
    if (p->in_flight < p->wish.in_flight)
        mr_str_printf(out, " %d prompts at once instead of %d;", p->in_flight, p->wish.in_flight);
    if (p->room.train_rows < p->wish.pack_rows)
        mr_str_printf(out, " packs of %d rows instead of %d;", p->room.train_rows, p->wish.pack_rows);
    if (mr_plan_cuts_groups(p)) mr_str_puts(out, " groups in parts, each with its prompt again;");
    if (p->room.aside_layers)
        mr_str_printf(out, " %d layers' inputs on the host (%.1f MB there);", p->room.aside_layers,
                      (double)p->decoder.aside / 1e6);
    if (p->room.mlp_rows < p->wish.mlp_rows && p->room.mlp_rows < p->room.train_rows)
        mr_str_printf(out, " %d rows in the MLP instead of %d;", p->room.mlp_rows, p->wish.mlp_rows);
    if (p->room.head_rows < p->wish.head_rows)
        mr_str_printf(out, " %d rows of logits instead of %d;", p->room.head_rows, p->wish.head_rows);
    out->data[out->len - 1] = '\n'; /* the last ; or : */
}

static void describe_all(const mr_plan *p, mr_str *out) {
    const mr_decoder_room *d = &p->decoder;
    char text[160];
    line(out, "base: linears", p->linears, "");
    if (p->unpacked) line(out, "base: linears, dequantized", p->unpacked, "beside them, for products of many rows");
    line(out, "base: embedding and head", p->tables, "");
    line(out, "base: norms and biases", p->vectors, "");
    snprintf(text, sizeof text, "%lld parameters in f32", (long long)p->n_trained);
    line(out, "trained: masters", p->values, text);
    line(out, "trained: copies for products", p->copies, "");
    line(out, "trained: gradients", p->grads, "f32");
    line(out, "trained: optimizer states", p->states, p->optim == MR_ADAMW_8BIT ? "8 bit" : "32 bit");
    snprintf(text, sizeof text, "%d rows of logits", p->room.head_rows);
    line(out, "head", d->head, text);
    size_t rollout = d->rollout + d->rollout_kv, train = d->train + d->train_kv;
    line(out, "phases share", rollout > train ? rollout : train, "the larger of:");
    snprintf(text, sizeof text, "%d prompts x %d at once, prompts to %d tokens, completions to %d", p->in_flight,
             p->group, p->max_prompt, p->max_completion);
    if (!p->sft) line(out, "  sampling: keys and values", d->rollout_kv, text);
    if (!p->sft) line(out, "  sampling: rows", d->rollout, "");
    line(out, "  training: keys and values", d->train_kv, "");
    snprintf(text, sizeof text, "packs of %d rows, gradient checkpointing %s", p->room.train_rows,
             p->checkpointing ? "on" : "off");
    line(out, "  training: activations", d->train, text);
    describe_kept(p, out);
    snprintf(text, sizeof text, "inputs of %d layers", p->room.aside_layers);
    if (d->aside) line(out, "  on the host meanwhile (not counted)", d->aside, text);
    line(out, "scratch of the device", d->scratch, "");
}

void mr_plan_describe(const mr_plan *p, const char *device, bool all, mr_str *out) {
    char detail[160];
    if (all) {
        describe_all(p, out);
    } else {
        snprintf(detail, sizeof detail, "%lld trained parameters", (long long)p->n_trained);
        line(out, "weights, adapters, gradients", model_bytes(p), detail);
        snprintf(detail, sizeof detail, "%d prompts x %d, prompts to %d tokens, completions to %d; packs of %d rows",
                 p->prompts, p->group, p->max_prompt, p->max_completion, p->room.train_rows);
        line(out, "keys, values, activations", p->decoder.block + p->decoder.scratch, detail);
        describe_kept(p, out);
        line(out, "optimizer states", p->states, p->optim == MR_ADAMW_8BIT ? "8 bit" : "32 bit");
    }
    describe_cap(p, device, out);
}

/* --- in a trainer --- */

mr_status mr_trainer_plan(mr_trainer *t, mr_err *err) {
    if (t->parts.plan) {
        t->plan = *t->parts.plan;
    } else {
        mr_census census;
        const mr_config *c = mr_model_config(t->parts.model);
        MR_TRY(mr_census_take(&census, &t->parts, c, err));
        MR_TRY(mr_plan_make(&t->plan, t->b, c, mr_model_options(t->parts.model), t->set, &census, err));
    }
    t->warned_prompt = t->plan.census.warned_prompt;
    t->warned_target = t->plan.census.warned_target;
    t->max_prompt = t->plan.max_prompt;
    t->max_completion = t->plan.max_completion;
    const mr_decoder_opts *o = &t->plan.room;
    MR_TRY(mr_decoder_open(&t->decoder, t->parts.model, o, err));
    return mr_packer_init(&t->packer, o->train_rows, o->train_slots, o->train_rows + t->prompts * t->group, err);
}

void mr_trainer_describe(const mr_trainer *t, mr_str *out) {
    mr_plan_describe(&t->plan, t->b->device, false, out);
}
