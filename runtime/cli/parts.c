/* parts.c - see parts.h. */
#include "cli/parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "rl/trainer.h"

enum { CONFIG_MAX = 64 << 20 };

mr_status mr_run_config_load(cJSON **out, const char *dir, mr_err *err) {
    *out = NULL;
    char *path = mr_path_join(dir, "config.json");
    cJSON *config = NULL;
    mr_status st = mr_path_exists(path) ? mr_json_load(&config, path, CONFIG_MAX, err) : MR_OK;
    mr_free(path);
    if (st == MR_OK && cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(config, "run")))
        *out = config;
    else
        cJSON_Delete(config); /* a model's config.json */
    return st;
}

static const char *text_at(const cJSON *tree, const char *section, const char *key) {
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(tree, section), key));
}

static char *child_if(const char *dir, const char *name, const char *holds) {
    char *path = mr_path_join(dir, name), *file = mr_path_join(path, holds);
    bool found = mr_path_exists(file);
    mr_free(file);
    if (found) return path;
    mr_free(path);
    return NULL;
}

static mr_status locate_run(char **path, char **adapter, const char *dir, const cJSON *run, mr_err *err) {
    char *checkpoint = NULL;
    *path = child_if(dir, "model", "config.json"); /* full training */
    if (*path) return MR_OK;
    char *found = child_if(dir, "adapter", "adapter_config.json");
    if (!found) {
        mr_err ignored;
        if (mr_checkpoint_find(&checkpoint, dir, &ignored) == MR_OK) {
            char *config = mr_path_join(checkpoint, "config.json"),
                 *peft = mr_path_join(checkpoint, "adapter_config.json");
            if (mr_path_exists(peft))
                found = mr_strdup(checkpoint);
            else if (mr_path_exists(config))
                *path = mr_strdup(checkpoint);
            mr_free(config);
            mr_free(peft);
            mr_free(checkpoint);
            if (*path) return MR_OK;
        }
    }
    if (!found)
        return mr_fail(err, MR_ENOTFOUND,
                       "%s: the run has no adapter and no checkpoint yet; let it reach grpo.save_steps, or its end",
                       dir);
    const char *at = text_at(run, "run", "model_path"), *name = text_at(run, "model", "name");
    mr_status st = MR_OK;
    if (at && mr_path_exists(at))
        *path = mr_strdup(at);
    else if (name)
        st = mr_model_resolve(path, name, err);
    else
        st = mr_fail(err, MR_EDATA, "%s/config.json: field \"model.name\" is missing", dir);
    if (st == MR_OK && adapter)
        *adapter = found;
    else
        mr_free(found);
    return st;
}

static mr_status locate_adapter(char **path, char **adapter, const char *dir, const char *peft, mr_err *err) {
    cJSON *config;
    const char *base;
    MR_TRY(mr_json_load(&config, peft, CONFIG_MAX, err));
    mr_status st = mr_json_get_string(&base, config, "base_model_name_or_path", peft, err);
    if (st == MR_OK) st = mr_model_resolve(path, base, err);
    if (st == MR_OK && adapter) *adapter = mr_strdup(dir);
    cJSON_Delete(config);
    return st;
}

mr_status mr_parts_locate(char **path, char **adapter, cJSON **run, const char *what, mr_err *err) {
    *path = NULL;
    if (adapter) *adapter = NULL;
    *run = NULL;
    if (mr_path_is_dir(what)) {
        MR_TRY(mr_run_config_load(run, what, err));
        if (*run) return locate_run(path, adapter, what, *run, err);
        char *peft = mr_path_join(what, "adapter_config.json");
        mr_status st = MR_OK;
        bool found = mr_path_exists(peft);
        if (found) st = locate_adapter(path, adapter, what, peft, err);
        mr_free(peft);
        if (found) return st;
    }
    return mr_model_resolve(path, what, err);
}

/* "cuda" is cuda:0; -1 when it is neither that nor cuda:N. */
static int cuda_index(const char *device) {
    if (strncmp(device, "cuda", 4) != 0) return -1;
    if (device[4] == '\0') return 0;
    if (device[4] != ':' || !device[5] || strlen(device) > 7 || strspn(device + 5, "0123456789") != strlen(device + 5))
        return -1;
    return atoi(device + 5);
}

bool mr_parts_gpu_visible(void) {
    static const char *const signs[] = { "/dev/nvidiactl", "/dev/nvidia0", "/usr/lib/wsl/lib/libcuda.so.1" };
    for (size_t i = 0; i < sizeof signs / sizeof signs[0]; i++)
        if (mr_path_exists(signs[i])) return true;
    return false;
}

bool mr_parts_warm(const char *device) {
    const bool any = !device || strcmp(device, "auto") == 0;
    const int index = any ? 0 : cuda_index(device);
    return index >= 0 && (!any || mr_parts_gpu_visible()) && mr_backend_warm(MR_CUDA, index);
}

mr_status mr_parts_backend(mr_backend **out, const char *device, int n_threads, mr_err *err) {
    *out = NULL;
    if (!device || strcmp(device, "auto") == 0) {
        mr_err none;
        if (mr_backend_open(out, MR_CUDA, 0, n_threads, &none) == MR_OK) {
            mr_info("device: auto takes %s, %s (--device cpu for the other)", (*out)->name, (*out)->device);
            return MR_OK;
        }
        if (mr_parts_gpu_visible())
            mr_warn("an NVIDIA GPU is here, but auto takes the CPU: %s", none.msg);
        else
            mr_debug("device: auto takes the CPU (%s)", none.msg);
        return mr_backend_open(out, MR_CPU, 0, n_threads, err);
    }
    if (strcmp(device, "cpu") == 0) return mr_backend_open(out, MR_CPU, 0, n_threads, err);
    int index = cuda_index(device);
    if (index >= 0) return mr_backend_open(out, MR_CUDA, index, n_threads, err); /* asked for: never the CPU instead */
    return mr_fail(err, MR_EINVAL, "--device is \"%s\", want auto, cpu or cuda:N", device);
}

static const char *symbol_or_null(const mr_tokenizer *t, int32_t id) {
    return id >= 0 ? mr_tokenizer_symbol(t, id) : NULL;
}

/* A run's template, with the day on which it was started; the model's own when there is no run. */
static mr_status chat_of_run(mr_parts *p, mr_err *err) {
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(p->run, "model"),
                *kwargs = cJSON_GetObjectItemCaseSensitive(model, "chat_template_kwargs");
    mr_str text = { 0 };
    if (cJSON_IsObject(kwargs)) mr_json_put(&text, kwargs);
    mr_chat_choice choice = { .file = text_at(p->run, "model", "chat_template"),
                              .kwargs = text.data,
                              .date = text_at(p->run, "run", "chat_template_date") };
    mr_status st = mr_parts_chat(p, &choice, err);
    mr_str_clear(&text);
    return st;
}

mr_status mr_parts_chat(mr_parts *p, const mr_chat_choice *choice, mr_err *err) {
    if (!choice) return chat_of_run(p, err);
    const mr_tokenizer *t = p->tokenizer;
    mr_template_opts o = { .date = choice->date,
                           .variables = choice->kwargs,
                           .pinned = choice->pinned,
                           .store = choice->store,
                           .bos_token = symbol_or_null(t, mr_tokenizer_bos(t)),
                           .eos_token = symbol_or_null(t, mr_tokenizer_eos(t)) };
    const char *jinja = mr_tokenizer_template(t);
    if (choice->file && *choice->file) {
        MR_TRY(mr_template_open_file(&p->template, choice->file, &o, err));
    } else if (!choice->pinned && !jinja && mr_tokenizer_find(t, "<|im_start|>") < 0) {
        /* with the token, plain ChatML is what it gets */
        return mr_fail(err, MR_EDATA,
                       "%s: the model has no chat template; use an instruct model, give a template "
                       "(model.chat_template), or `medrl generate --raw`",
                       p->path);
    } else {
        char *place = mr_asprintf("%s: chat template", p->path), now[65];
        const char *source = jinja ? jinja : mr_chatml_template;
        mr_status st = mr_template_open(&p->template, source, strlen(source), place, &o, err);
        mr_sha256(now, source, strlen(source));
        if (st == MR_OK && choice->pinned && strcmp(now, mr_template_script(p->template)->sha256) != 0)
            mr_warn("%s: is another one than when the run was started; the run goes on with the one it began with",
                    place);
        mr_free(place);
        MR_TRY(st);
    }
    p->chat = mr_template_chat(p->template);
    return MR_OK;
}

mr_status mr_parts_dtype(mr_dtype *out, const char *name, const mr_backend *b, mr_err *err) {
    if (!name || strcmp(name, "auto") == 0)
        *out = b->has_bf16 ? MR_BF16 : b->kind == MR_CUDA ? MR_F16 : MR_F32;
    else if (strcmp(name, "f32") == 0 || strcmp(name, "float32") == 0)
        *out = MR_F32;
    else if (strcmp(name, "bf16") == 0 || strcmp(name, "bfloat16") == 0)
        *out = MR_BF16;
    else if (strcmp(name, "f16") == 0 || strcmp(name, "float16") == 0)
        *out = MR_F16;
    else
        return mr_fail(err, MR_EINVAL, "dtype is \"%s\", want auto, f32, bf16 or f16", name);
    if (*out == MR_BF16 && !b->has_bf16 && b->kind == MR_CUDA)
        return mr_fail(err, MR_EINVAL,
                       "dtype is \"%s\", but %s has no bf16 (compute capability 8.0 and later do); use dtype = \"auto\" "
                       "or \"float16\"",
                       name, b->device);
    return MR_OK;
}

bool mr_parts_is_four_bit(const char *path) {
    char *file = mr_path_join(path, "config.json");
    cJSON *config = NULL;
    const bool is = mr_path_is_dir(path) && mr_json_load(&config, file, CONFIG_MAX, NULL) == MR_OK &&
                    cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(config, "quantization_config"));
    cJSON_Delete(config);
    mr_free(file);
    return is; /* of another kind: mr_model_open refuses it by name */
}

static mr_status store_of(mr_dtype *out, const char *name, const mr_parts *p, mr_dtype compute, mr_err *err) {
    const cJSON *four =
        cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(p->run, "model"), "load_in_4bit");
    if (!name || strcmp(name, "auto") == 0)
        *out = (p->adapter && cJSON_IsTrue(four)) || mr_parts_is_four_bit(p->path) ? MR_NF4 : compute;
    else if (strcmp(name, "f32") == 0)
        *out = MR_F32;
    else if (strcmp(name, "bf16") == 0)
        *out = MR_BF16;
    else if (strcmp(name, "f16") == 0)
        *out = MR_F16;
    else if (strcmp(name, "nf4") == 0)
        *out = MR_NF4;
    else
        return mr_fail(err, MR_EINVAL, "--store is \"%s\", want auto, f32, bf16, f16 or nf4", name);
    return MR_OK;
}

/* The run's prompt frame: answers outside of it are not what was trained. */
static void read_frame(mr_parts *p) {
    p->system = text_at(p->run, "data", "system");
    if (p->system && !*p->system) p->system = NULL;
    const cJSON *shots = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(p->run, "data"), "shots"),
                *shot;
    if (cJSON_IsObject(shots)) { /* by data set: a question that is typed belongs to none of them */
        const cJSON *rest = cJSON_GetObjectItemCaseSensitive(shots, "default");
        shots = rest ? rest : shots->child;
    }
    int n = cJSON_IsArray(shots) ? cJSON_GetArraySize(shots) : 0;
    if (n == 0) return;
    p->shots = mr_alloc((size_t)n * sizeof *p->shots);
    cJSON_ArrayForEach(shot, shots) {
        const char *role = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(shot, "role"));
        const char *content = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(shot, "content"));
        if (role && content) p->shots[p->n_shots++] = (mr_message){ role, content };
    }
}

void mr_parts_frame(mr_parts *p, const cJSON *recipe) {
    cJSON *copy = cJSON_CreateObject();
    const cJSON *data = cJSON_GetObjectItemCaseSensitive(recipe, "data");
    if (data) cJSON_AddItemToObject(copy, "data", cJSON_Duplicate(data, true));
    mr_free(p->shots);
    p->shots = NULL;
    p->n_shots = 0;
    cJSON_Delete(p->run);
    p->run = copy;
    read_frame(p);
}

static mr_status open_all(mr_parts *p, const char *what, const mr_parts_opts *o, mr_err *err) {
    MR_TRY(mr_parts_locate(&p->path, &p->adapter, &p->run, what, err));
    if (o->adapter) {
        mr_free(p->adapter);
        p->adapter = child_if(o->adapter, "adapter", "adapter_config.json");
        if (!p->adapter) p->adapter = mr_strdup(o->adapter);
        char *peft = mr_path_join(p->adapter, "adapter_config.json");
        bool found = mr_path_exists(peft);
        mr_free(peft);
        if (!found)
            return mr_fail(err, MR_ENOTFOUND,
                           "%s: holds no adapter_config.json, want a PEFT adapter's folder or that of a finished run",
                           o->adapter);
    }
    read_frame(p);
    mr_status st = mr_tokenizer_open(&p->tokenizer, p->path, err);
    if (st != MR_OK && !(st == MR_ENOTFOUND && o->ids_only)) return st;
    if (p->tokenizer && o->need_chat) MR_TRY(mr_parts_chat(p, NULL, err));

    MR_TRY(mr_parts_backend(&p->backend, o->device, o->n_threads, err));
    p->backend->exact = !o->no_exact;
    mr_model_opts mo = { .cache = "auto" };
    MR_TRY(mr_parts_dtype(&mo.compute, o->dtype, p->backend, err));
    MR_TRY(store_of(&mo.store, o->store, p, mo.compute, err));
    if (p->adapter) MR_TRY(mr_adapter_peek(&mo.lora, p->adapter, err));
    MR_TRY(mr_model_open(&p->model, p->backend, p->path, &mo, err));
    if (p->adapter) MR_TRY(mr_adapter_load(p->model, p->adapter, err));
    mr_debug("%s%s%s on %s, %s", p->path, p->adapter ? " + " : "", p->adapter ? p->adapter : "", p->backend->device,
             mr_dtype_name(mo.compute));
    return MR_OK;
}

mr_status mr_parts_open(mr_parts *p, const char *what, const mr_parts_opts *opts, mr_err *err) {
    *p = (mr_parts){ 0 };
    mr_status st = open_all(p, what, opts, err);
    if (st != MR_OK) mr_parts_close(p);
    return st;
}

void mr_parts_close(mr_parts *p) {
    mr_template_close(p->template);
    mr_model_close(p->model);
    mr_tokenizer_close(p->tokenizer);
    mr_backend_close(p->backend);
    mr_free(p->path);
    mr_free(p->adapter);
    mr_free(p->shots);
    cJSON_Delete(p->run);
    *p = (mr_parts){ 0 };
}

mr_status mr_parts_plan(mr_parts *p, mr_plan *plan, mr_model_opts *mo, const mr_settings *s, mr_row_source rows,
                        mr_err *err) {
    mr_census census;
    mr_dtype compute;
    MR_TRY(mr_parts_dtype(&compute, s->model.dtype, p->backend, err));
    *mo = mr_plan_model_opts(s, compute);
    mr_tensors *t = NULL;
    mr_config c;
    if (!s->model.from_config) MR_TRY(mr_tensors_open(&t, p->path, err));
    mr_status st = mr_config_load(&c, p->path, t, err);
    mr_tensors_close(t);
    MR_TRY(st);
    const mr_trainer_parts tp = { .settings = s, .tokenizer = p->tokenizer, .chat = p->chat, .rows = rows };
    MR_TRY(mr_census_take(&census, &tp, &c, err));
    st = mr_plan_make(plan, p->backend, &c, mo, s, &census, err);
    mo->dequantize = mr_plan_dequantize(plan);
    return st;
}

void mr_put_estimate(cJSON *report, const char *key, const mr_estimate *e, const mr_estimate_device *d) {
    cJSON *o = cJSON_AddObjectToObject(report, key);
    cJSON_AddStringToObject(o, "device", d->name);
    cJSON_AddNumberToObject(o, "step_s", e->step_s);
    cJSON_AddNumberToObject(o, "rollout_s", e->rollout_s);
    cJSON_AddNumberToObject(o, "train_s", e->train_s);
    cJSON_AddNumberToObject(o, "steps", (double)e->steps);
    cJSON_AddNumberToObject(o, "hours", e->hours);
    cJSON_AddNumberToObject(o, "usd", e->usd);
    cJSON_AddNumberToObject(o, "bytes_s", d->bytes_s);
    cJSON_AddNumberToObject(o, "flop_s", d->flop_s);
    cJSON_AddNumberToObject(o, "share", d->share);
    cJSON_AddNumberToObject(o, "usd_hour", d->usd_hour);
}

/* Tables key by key, all else in place of what was there. */
static void merge(cJSON *into, const cJSON *from) {
    for (const cJSON *v = from->child; v; v = v->next) {
        cJSON *have = cJSON_GetObjectItemCaseSensitive(into, v->string);
        if (cJSON_IsObject(have) && cJSON_IsObject(v) && !cJSON_GetObjectItemCaseSensitive(v, "dataset"))
            merge(have, v);
        else if (have)
            cJSON_ReplaceItemInObjectCaseSensitive(into, v->string, cJSON_Duplicate(v, true));
        else
            cJSON_AddItemToObject(into, v->string, cJSON_Duplicate(v, true));
    }
}

/* A run that starts from an adapter has its shape: taken over where the recipe leaves it open, else it must be the
 * same. */
static mr_status start_from(mr_settings *s, bool has_lora, const char *place, mr_err *err) {
    if (!*s->model.adapter) return MR_OK;
    char *of_run = child_if(s->model.adapter, "adapter", "adapter_config.json");
    if (of_run) s->model.adapter = mr_arena_strdup(&s->arena, of_run, strlen(of_run));
    mr_free(of_run);
    mr_lora_opts o;
    mr_status st = mr_adapter_peek(&o, s->model.adapter, err);
    if (st != MR_OK) return mr_wrap(err, st, "%s: model.adapter", place);
    bool same = s->lora.r == o.r && s->lora.lora_alpha == o.lora_alpha && s->lora.use_rslora == o.use_rslora &&
                memcmp(s->lora.targets, o.targets, sizeof o.targets) == 0;
    if (has_lora && !same)
        return mr_fail(err, MR_EINVAL,
                       "%s: section lora differs from the adapter that the run starts from, %s (r = %d, lora_alpha = %g); "
                       "leave the section out to take the adapter's",
                       place, s->model.adapter, o.r, (double)o.lora_alpha);
    s->lora.r = o.r;
    s->lora.lora_alpha = o.lora_alpha;
    s->lora.use_rslora = o.use_rslora;
    memcpy(s->lora.targets, o.targets, sizeof o.targets);
    return MR_OK;
}

static mr_status parse_settings(mr_settings *s, const cJSON *recipe, const char *place, mr_err *err) {
    MR_TRY(mr_settings_parse(s, recipe, place, err));
    mr_status st = start_from(s, cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(recipe, "lora")), place, err);
    if (st != MR_OK) mr_settings_clear(s);
    return st;
}

mr_status mr_parts_settings(mr_settings *s, const cJSON *recipe, const char *place, mr_err *err) {
    MR_TRY(parse_settings(s, recipe, place, err));
    const cJSON *on_cpu = cJSON_GetObjectItemCaseSensitive(recipe, "on_cpu");
    if (!cJSON_IsObject(on_cpu)) return MR_OK;
    cJSON *both = cJSON_Duplicate(recipe, true);
    mr_settings other;
    cJSON_DeleteItemFromObjectCaseSensitive(both, "on_cpu");
    merge(both, on_cpu);
    char where[512];
    snprintf(where, sizeof where, "%.480s (with its on_cpu)", place);
    mr_status st = parse_settings(&other, both, where, err);
    cJSON_Delete(both);
    mr_settings_clear(st == MR_OK ? &other : s);
    return st;
}

mr_status mr_check_overrides(const char *const *overrides, mr_err *err) {
    for (; overrides && *overrides; overrides++) {
        const char *equals = strchr(*overrides, '=');
        if (!equals || equals == *overrides)
            return mr_fail(err, MR_EINVAL, "--set %s: want KEY=VALUE, as in --set grpo.max_steps=20", *overrides);
    }
    return MR_OK;
}
