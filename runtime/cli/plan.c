/* plan.c - `medrl plan`: what a recipe's run would take of the device's memory, by part, without loading the model. */
#include <string.h>

#include "base/json.h"
#include "cli/cli.h"
#include "cli/parts.h"
#include "script/script.h"

typedef struct planning {
    const char *recipe, *device;
    const char *const *overrides;
    int n_threads;
    mr_pool *pool;
    mr_settings settings;
    mr_parts parts; /* no model */
    mr_plan plan;
    mr_dtype store, compute;
    bool planned;
} planning;

static mr_status make(planning *x, mr_err *err) {
    mr_row_source rows;
    mr_model_opts mo = { 0 };
    MR_TRY(mr_check_overrides(x->overrides, err));
    MR_TRY(mr_parts_backend(&x->parts.backend, x->device, x->n_threads, err));
    mr_pool_opts po = { .on_cpu = x->parts.backend->kind == MR_CPU, .overrides = x->overrides };
    MR_TRY(mr_pool_open(&x->pool, x->recipe, &po, err));
    const char *place = mr_pool_recipe_path(x->pool);
    MR_TRY(mr_parts_settings(&x->settings, mr_pool_recipe(x->pool), place, err));
    MR_TRY(mr_pool_rows(x->pool, "train", &rows, err));
    if (rows.n_rows == 0) return mr_fail(err, MR_EDATA, "%s: data.train has no rows, want at least one", place);
    MR_TRY(mr_model_resolve(&x->parts.path, x->settings.model.name, err));
    MR_TRY(mr_tokenizer_open(&x->parts.tokenizer, x->parts.path, err));
    const mr_chat_choice choice = { .file = x->settings.model.chat_template,
                                    .kwargs = x->settings.model.chat_template_kwargs,
                                    .date = x->settings.model.chat_template_date };
    MR_TRY(mr_parts_chat(&x->parts, &choice, err));
    mr_status st = mr_parts_plan(&x->parts, &x->plan, &mo, &x->settings, rows, err);
    x->store = mo.store;
    x->compute = mo.compute;
    x->planned = st == MR_OK || (st == MR_ENOMEM && x->plan.total); /* refused: the least, to see where it goes */
    return st;
}

static void print_table(const planning *x) {
    const mr_census *c = &x->plan.census;
    printf("%s on %s, stored as %s, products in %s\n", x->settings.model.name, x->parts.backend->device,
           mr_dtype_name(x->store), mr_dtype_name(x->compute));
    printf("data: the longest prompt has %d tokens (row %lld; %lld of %lld rows were read), planned for %d", c->longest,
           (long long)c->longest_row + 1, (long long)c->n_read, (long long)c->n_rows, c->prompt);
    if (c->n_cut) printf("; %lld are cut", (long long)c->n_cut);
    if (x->plan.sft) printf("; the longest answer has %d, planned for %d", c->longest_target, c->completion);
    printf("\n");
    mr_str text = { 0 };
    mr_plan_describe(&x->plan, x->parts.backend->device, true, &text);
    fputs(text.data, stdout);
    mr_str_clear(&text);
}

static void put(cJSON *o, const char *key, size_t bytes) {
    cJSON_AddNumberToObject(o, key, (double)bytes);
}

static void print_report(const planning *x) {
    const mr_plan *p = &x->plan;
    const mr_census *c = &x->plan.census;
    cJSON *o = cJSON_CreateObject(), *parts = cJSON_AddObjectToObject(o, "bytes");
    put(parts, "linears", p->linears);
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
    cJSON_AddStringToObject(o, "device", x->parts.backend->device);
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
    mr_put_t4(o, &p->t4);
    mr_print_json(o);
    cJSON_Delete(o);
}

mr_status mr_cmd_plan(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "plan",
        "medrl plan recipes/medical_mix.lua\nmedrl plan recipes/medical_mix.lua --vram 14G --json",
        "RECIPE",
        1,
        1,
        "The memory that a run of the recipe would take, part by part, and how it is made to fit: nothing is loaded "
        "but "
        "the tokenizer and the data. A run that does not fit is refused with what to change.",
    };
    planning x = { 0 };
    const char *vram = NULL;
    int64_t threads = 0;
    bool json = false;
    const mr_opt opts[] = {
        { "set", 0, MR_OPT_LIST, "KEY=VALUE", "override a field of the recipe; may be given many times", &x.overrides,
          0, 0 },
        { "vram", 0, MR_OPT_TEXT, "SIZE", "most device memory to take, as in 14G", &vram, 0, 0 },
        { "device", 0, MR_OPT_TEXT, "NAME", "auto, cpu or cuda:N", &x.device, 0, 0 },
        MR_OPT_PULL,
        { "threads", 0, MR_OPT_INT, "N", "CPU threads (0: all)", &threads, 0, 1024 },
        { "json", 0, MR_OPT_FLAG, NULL, "the plan as one JSON object", &json, 0, 0 },
    };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, sizeof opts / sizeof opts[0], argc, argv, err);
    if (st == MR_OK && !a.help) {
        x.recipe = a.items[0];
        x.overrides = mr_with_vram(&a, x.overrides, vram);
        x.n_threads = (int)threads;
        st = make(&x, err);
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
