/* plan.c - `medrl plan`: what a recipe's run would take: of the device's memory, by part, without loading the model; of
 * time and money, by one step that is measured or by the data sheet of a device that is not here. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "cli/cli.h"
#include "cli/plan_impl.h"
#include "script/script.h"

typedef struct planning {
    const char *recipe, *device, *assume;
    const char *const *overrides;
    int n_threads;
    bool dry;
    double usd_hour, budget; /* below 0: the recipe's */
    mr_pool *pool;
    mr_settings settings;
    mr_parts parts; /* no model */
    mr_plan plan;
    mr_dtype store, compute;
    int64_t n_rows;
    bool planned;
    const mr_estimate_device *assumed; /* NULL: the device that is here */
    char missing[400];                 /* assumed: what could not be looked at, "" for nothing */
    mr_estimate estimate;              /* of the assumed device */
    mr_dry_step step;
} planning;

static mr_status open_text(planning *x, mr_err *err) {
    MR_TRY(mr_model_resolve(&x->parts.path, x->settings.model.name, err));
    MR_TRY(mr_tokenizer_open(&x->parts.tokenizer, x->parts.path, err));
    const mr_chat_choice choice = { .file = x->settings.model.chat_template,
                                    .kwargs = x->settings.model.chat_template_kwargs,
                                    .date = x->settings.model.chat_template_date };
    return mr_parts_chat(&x->parts, &choice, err);
}

/* "Qwen/Qwen2.5-3B-Instruct" -> "qwen2.5-3b". */
static void shape_name(char out[64], const char *model) {
    const char *slash = strrchr(model, '/');
    snprintf(out, 64, "%.63s", slash ? slash + 1 : model);
    for (char *p = out; *p; p++) *p = (char)tolower((unsigned char)*p);
    char *end = strstr(out, "-instruct");
    if (end) *end = 0;
}

/* Without files: the shape by the model's name, all lengths as long as the recipe lets them be. */
static mr_status assume_shape(planning *x, mr_config *c, mr_census *census, mr_err *err) {
    char name[64];
    shape_name(name, x->settings.model.name);
    MR_TRY(mr_config_named(c, name, err));
    const int completion = x->settings.train.max_completion_length, most = x->settings.train.max_prompt_length;
    *census = (mr_census){ .prompt = most, .completion = completion, .longest = most, .n_rows = x->n_rows };
    return MR_OK;
}

/* As on the assumed device: its memory, its type of products, the recipe's main part. The sizes are the CPU backend's
 * account of them. What is missing here (model, data) is said, not asked for. */
static mr_status make_assumed(planning *x, mr_row_source rows, bool has_rows, mr_model_opts *mo, mr_err *err) {
    const mr_estimate_device *d = x->assumed;
    mr_settings *s = &x->settings;
    mr_err why = { "" };
    mr_config c;
    mr_census census;
    if (!s->vram) s->vram = (size_t)d->bytes;
    mr_dtype compute = d->bf16 ? MR_BF16 : MR_F16;
    if (strcmp(s->model.dtype, "auto") != 0) MR_TRY(mr_parts_dtype(&compute, s->model.dtype, x->parts.backend, err));
    *mo = mr_plan_model_opts(s, compute);
    mr_tensors *t = NULL;
    mr_status st = has_rows ? open_text(x, &why) : MR_ENOTFOUND;
    if (st == MR_OK) st = mr_tensors_open(&t, x->parts.path, &why);
    if (st == MR_OK) st = mr_config_load(&c, x->parts.path, t, &why);
    mr_tensors_close(t);
    const mr_trainer_parts tp = { .settings = s, .tokenizer = x->parts.tokenizer, .chat = x->parts.chat, .rows = rows };
    if (st == MR_OK) {
        MR_TRY(mr_census_take(&census, &tp, &c, err));
    } else {
        if (has_rows) snprintf(x->missing, sizeof x->missing, "%.390s", why.msg);
        MR_TRY(assume_shape(x, &c, &census, err));
    }
    st = mr_plan_make(&x->plan, x->parts.backend, &c, mo, s, &census, err);
    x->estimate = mr_estimate_make(&x->plan, &c, mo, x->plan.kv_token_bytes, mr_plan_steps(s, x->n_rows), d);
    return st;
}

static mr_status make(planning *x, mr_err *err) {
    mr_row_source rows = { 0 };
    mr_model_opts mo = { 0 };
    MR_TRY(mr_check_overrides(x->overrides, err));
    if (x->assume) MR_TRY(mr_estimate_find(&x->assumed, x->assume, err));
    MR_TRY(mr_parts_backend(&x->parts.backend, x->assumed ? "cpu" : x->device, x->n_threads, err));
    mr_pool_opts po = { .on_cpu = x->parts.backend->kind == MR_CPU && !x->assumed, .overrides = x->overrides };
    MR_TRY(mr_pool_open(&x->pool, x->recipe, &po, err));
    const char *place = mr_pool_recipe_path(x->pool);
    MR_TRY(mr_parts_settings(&x->settings, mr_pool_recipe(x->pool), place, err));
    mr_err why = { "" };
    mr_status st = mr_pool_rows(x->pool, "train", &rows, x->assumed ? &why : err);
    if (!x->assumed) MR_TRY(st);
    if (st == MR_OK && rows.n_rows == 0)
        return mr_fail(err, MR_EDATA, "%s: data.train has no rows, want at least one", place);
    if (st != MR_OK) snprintf(x->missing, sizeof x->missing, "%.390s", why.msg);
    x->n_rows = st == MR_OK ? rows.n_rows : 0;
    if (x->assumed) {
        st = make_assumed(x, rows, st == MR_OK, &mo, err);
    } else {
        MR_TRY(open_text(x, err));
        st = mr_parts_plan(&x->parts, &x->plan, &mo, &x->settings, rows, err);
    }
    x->store = mo.store;
    x->compute = mo.compute;
    x->planned = st == MR_OK || (st == MR_ENOMEM && x->plan.total); /* refused: the least, to see where it goes */
    return st;
}

static mr_run_cost cost_of(const planning *x, double step_s) {
    const double recipe = x->settings.budget.usd_per_hour, device = x->assumed ? x->assumed->usd_hour : 0;
    return mr_plan_cost(step_s, mr_plan_steps(&x->settings, x->n_rows),
                        x->usd_hour >= 0 ? x->usd_hour
                        : recipe > 0     ? recipe
                                         : device,
                        x->budget >= 0 ? x->budget : x->settings.budget.usd);
}

static void print_time(const planning *x) {
    mr_str text = { 0 };
    if (x->assumed) {
        const mr_run_cost c = cost_of(x, x->estimate.step_s);
        mr_plan_assumed_text(&x->estimate, x->assumed, &c, &text);
    } else if (x->dry) {
        const mr_dry_step *d = &x->step;
        const mr_run_cost c = cost_of(x, d->step_s);
        mr_str_printf(&text, "time     one step was made on %s: %.3g s", d->device, d->step_s);
        if (d->rollout_s == d->rollout_s)
            mr_str_printf(&text,
                          " (rollout %.3g, rewards %.3g, training %.3g); completions of %.0f tokens, at most %.0f",
                          d->rollout_s, d->score_s, d->train_s, d->mean_length, d->max_length);
        mr_str_printf(&text, "\n         %.3g s until it began\ncost     ", d->start_s);
        mr_plan_cost_text(&c, &text);
    } else {
        mr_estimate_describe(&x->plan.t4, &mr_t4, &text);
        mr_str_puts(&text, "time     --dry-step measures one step here; --device-assume t4 takes a data sheet\n");
    }
    fputs(text.data ? text.data : "", stdout);
    mr_str_clear(&text);
}

static void print_table(const planning *x) {
    const mr_census *c = &x->plan.census;
    const char *device = x->assumed ? x->assumed->name : x->parts.backend->device;
    printf("%s on %s, stored as %s, products in %s\n", x->settings.model.name, device, mr_dtype_name(x->store),
           mr_dtype_name(x->compute));
    if (x->missing[0])
        printf("data: not looked at (%s); prompts of %d tokens and completions of %d are assumed", x->missing,
               c->prompt, c->completion);
    else
        printf("data: the longest prompt has %d tokens (row %lld; %lld of %lld rows were read), planned for %d",
               c->longest, (long long)c->longest_row + 1, (long long)c->n_read, (long long)c->n_rows, c->prompt);
    if (c->n_cut) printf("; %lld are cut", (long long)c->n_cut);
    if (x->plan.sft) printf("; the longest answer has %d, planned for %d", c->longest_target, c->completion);
    printf("\n");
    mr_str text = { 0 };
    mr_plan_describe(&x->plan, device, true, &text);
    fputs(text.data, stdout);
    mr_str_clear(&text);
    print_time(x);
}

static void put(cJSON *o, const char *key, size_t bytes) {
    cJSON_AddNumberToObject(o, key, (double)bytes);
}

static void print_report(const planning *x) {
    const mr_plan *p = &x->plan;
    const mr_census *c = &x->plan.census;
    cJSON *o = cJSON_CreateObject(), *parts = cJSON_AddObjectToObject(o, "bytes");
    put(parts, "linears", p->linears);
    put(parts, "linears_dequantized", p->unpacked);
    put(parts, "embedding_and_head", p->tables);
    put(parts, "norms_and_biases", p->vectors);
    put(parts, "masters", p->values);
    put(parts, "copies", p->copies);
    put(parts, "gradients", p->grads);
    put(parts, "optimizer", p->states);
    put(parts, "head", p->decoder.head);
    put(parts, "sampling_kv", p->decoder.rollout_kv);
    put(parts, "sampling_rows", p->decoder.rollout);
    put(parts, "training_kv", p->decoder.train_kv);
    put(parts, "training_activations", p->decoder.train);
    put(parts, "scratch", p->decoder.scratch);
    put(parts, "aside_on_host", p->decoder.aside);
    put(parts, "total", p->total);
    put(parts, "total_without_cap", p->wish.total);
    if (p->cap)
        put(parts, "cap", p->cap);
    else
        cJSON_AddNullToObject(parts, "cap");
    cJSON_AddStringToObject(o, "device", x->assumed ? x->assumed->name : x->parts.backend->device);
    cJSON_AddStringToObject(o, "store", mr_dtype_name(x->store));
    cJSON_AddStringToObject(o, "compute", mr_dtype_name(x->compute));
    cJSON_AddNumberToObject(o, "trained_parameters", (double)p->n_trained);
    cJSON_AddNumberToObject(o, "prompts", p->prompts);
    cJSON_AddNumberToObject(o, "completions", p->group);
    cJSON_AddNumberToObject(o, "prompts_at_once", p->in_flight);
    cJSON_AddNumberToObject(o, "pack_rows", p->room.train_rows);
    cJSON_AddNumberToObject(o, "logit_rows", p->room.head_rows);
    cJSON_AddNumberToObject(o, "mlp_rows", p->room.mlp_rows);
    cJSON_AddNumberToObject(o, "layers_aside", p->room.aside_layers);
    cJSON_AddBoolToObject(o, "groups_in_parts", mr_plan_cuts_groups(p));
    cJSON_AddNumberToObject(o, "prompt_tokens", p->max_prompt);
    cJSON_AddNumberToObject(o, "completion_tokens", p->max_completion);
    cJSON_AddNumberToObject(o, "longest_prompt", c->longest);
    cJSON_AddNumberToObject(o, "longest_prompt_row", (double)c->longest_row);
    cJSON_AddNumberToObject(o, "rows", (double)c->n_rows);
    cJSON_AddNumberToObject(o, "rows_read", (double)c->n_read);
    cJSON_AddNumberToObject(o, "prompts_cut", (double)c->n_cut);
    mr_put_estimate(o, "t4", &p->t4, &mr_t4);
    if (x->assumed) {
        const mr_run_cost cost = cost_of(x, x->estimate.step_s);
        mr_put_estimate(o, "assumed", &x->estimate, x->assumed);
        mr_plan_put_cost(cJSON_AddObjectToObject(o, "cost"), &cost);
    } else if (x->dry) {
        const mr_run_cost cost = cost_of(x, x->step.step_s);
        cJSON *step = cJSON_AddObjectToObject(o, "dry_step");
        cJSON_AddNumberToObject(step, "step_s", x->step.step_s);
        cJSON_AddNumberToObject(step, "rollout_s", x->step.rollout_s);
        cJSON_AddNumberToObject(step, "score_s", x->step.score_s);
        cJSON_AddNumberToObject(step, "train_s", x->step.train_s);
        cJSON_AddNumberToObject(step, "tokens_per_s", x->step.tokens_per_s);
        cJSON_AddNumberToObject(step, "mean_length", x->step.mean_length);
        cJSON_AddNumberToObject(step, "start_s", x->step.start_s);
        mr_plan_put_cost(cJSON_AddObjectToObject(o, "cost"), &cost);
    }
    mr_print_json(o);
    cJSON_Delete(o);
}

mr_status mr_cmd_plan(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "plan",
        "medrl plan recipes/medical_mix.lua\n"
        "medrl plan recipes/medical_mix.lua --dry-step --usd-per-hour 0.35\n"
        "medrl plan recipes/medical_mix.lua --device-assume t4 --budget 3",
        "RECIPE",
        1,
        1,
        "The memory that a run of the recipe would take, part by part, and how it is made to fit; a run that does not "
        "fit is refused with what to change. Nothing is loaded but the tokenizer and the data.\n"
        "--dry-step loads the model and makes one step, for the hours and dollars of the whole run; --device-assume "
        "reckons both for a GPU that is not here, by its data sheet.",
    };
    planning x = { .usd_hour = -1, .budget = -1 };
    const char *vram = NULL;
    int64_t threads = 0;
    bool json = false;
    const mr_opt opts[] = {
        { "set", 0, MR_OPT_LIST, "KEY=VALUE", "override a field of the recipe; may be given many times", &x.overrides,
          0, 0 },
        { "dry-step", 0, MR_OPT_FLAG, NULL, "load the model, make one step and measure it", &x.dry, 0, 0 },
        { "device-assume", 0, MR_OPT_TEXT, "GPU", "t4, l4, a10g, rtx4090, a100 or h100, by data sheet", &x.assume, 0,
          0 },
        { "usd-per-hour", 0, MR_OPT_REAL, "USD", "price of this machine (the recipe's budget, else the table's)",
          &x.usd_hour, 0, 1e6 },
        { "budget", 0, MR_OPT_REAL, "USD", "say whether the run stays under it (the recipe's)", &x.budget, 0, 1e9 },
        { "vram", 0, MR_OPT_TEXT, "SIZE", "most device memory to take, as in 14G", &vram, 0, 0 },
        { "device", 0, MR_OPT_TEXT, "NAME", "auto, cpu or cuda:N", &x.device, 0, 0 },
        MR_OPT_PULL,
        { "threads", 0, MR_OPT_INT, "N", "CPU threads (0: all)", &threads, 0, 1024 },
        { "json", 0, MR_OPT_FLAG, NULL, "the plan as one JSON object", &json, 0, 0 },
    };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, sizeof opts / sizeof opts[0], argc, argv, err);
    if (st == MR_OK && !a.help && x.dry && x.assume)
        st = mr_fail(err, MR_EINVAL,
                     "plan: --dry-step measures the device that is here, --device-assume is about another; "
                     "want one of them");
    if (st == MR_OK && !a.help) {
        x.recipe = a.items[0];
        x.overrides = mr_with_vram(&a, x.overrides, vram);
        x.n_threads = (int)threads;
        st = make(&x, err);
        if (st == MR_OK && x.dry) st = mr_plan_dry_step(&x.step, x.recipe, x.overrides, x.device, x.n_threads, err);
        if (st == MR_OK && json)
            print_report(&x);
        else if (!json && x.planned)
            print_table(&x);
        mr_pool_close(x.pool);
        mr_settings_clear(&x.settings);
        mr_parts_close(&x.parts);
    }
    mr_args_clear(&a);
    return st;
}
