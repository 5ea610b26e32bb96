/* optimizer.c - see optimizer.h. */
#include "rl/optimizer.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "files/tensors.h"

enum { MIN_8BIT = 4096, BLOCK = 256, MAX_PARTS = 4 };

typedef struct state {
    bool is_8bit;
    int64_t n;
    float *m, *v;     /* f32 states, device */
    uint8_t *c1, *c2; /* 8-bit states, device */
    float *absmax1, *absmax2;
} state;

struct mr_optimizer {
    mr_backend *b;
    const mr_param *params;
    int n;
    mr_optimizer_opts opts;
    state *states;
    mr_adamw_tensor *all; /* of a step */
    int64_t step;
    size_t bytes;
};

/* One array of a state as it stands in the file. */
typedef struct part {
    const char *suffix, *type;
    void *data; /* device */
    int64_t n;
    size_t bytes;
} part;

static int parts_of(part out[MAX_PARTS], const state *s) {
    int64_t blocks = (s->n + BLOCK - 1) / BLOCK;
    size_t f = sizeof(float);
    if (!s->is_8bit) {
        out[0] = (part){ "m", "F32", s->m, s->n, (size_t)s->n * f };
        out[1] = (part){ "v", "F32", s->v, s->n, (size_t)s->n * f };
        return 2;
    }
    out[0] = (part){ "c1", "U8", s->c1, s->n, (size_t)s->n };
    out[1] = (part){ "c2", "U8", s->c2, s->n, (size_t)s->n };
    out[2] = (part){ "absmax1", "F32", s->absmax1, blocks, (size_t)blocks * f };
    out[3] = (part){ "absmax2", "F32", s->absmax2, blocks, (size_t)blocks * f };
    return 4;
}

/* transformers keeps the embedding's states in 32 bits (6.1). */
static bool has_8bit(const mr_param *p, const mr_optimizer_opts *opts) {
    return opts->kind == MR_ADAMW_8BIT && p->rows * p->cols >= MIN_8BIT && !strstr(p->name, "embed_tokens");
}

size_t mr_optimizer_plan(const mr_param *params, int n, const mr_optimizer_opts *opts) {
    size_t bytes = 0;
    for (int i = 0; i < n; i++) {
        part p[MAX_PARTS];
        state s = { .is_8bit = has_8bit(&params[i], opts), .n = params[i].rows * params[i].cols };
        for (int k = parts_of(p, &s); k-- > 0;) bytes += p[k].bytes;
    }
    return bytes;
}

static void *take(mr_optimizer *o, size_t bytes, bool *ok) {
    void *p = o->b->alloc(o->b, bytes);
    if (!p) *ok = false;
    o->bytes += bytes;
    return p;
}

mr_status mr_optimizer_open(mr_optimizer **out, mr_backend *b, const mr_param *params, int n,
                            const mr_optimizer_opts *opts, mr_err *err) {
    *out = NULL;
    mr_optimizer *o = mr_try_alloc(sizeof *o);
    if (!o) return mr_fail(err, MR_ENOMEM, "optimizer: no memory");
    *o = (mr_optimizer){ .b = b, .params = params, .n = n, .opts = *opts };
    o->states = mr_try_alloc((size_t)(n ? n : 1) * sizeof *o->states);
    o->all = mr_try_alloc((size_t)(n ? n : 1) * sizeof *o->all);
    bool ok = o->states != NULL && o->all != NULL;
    for (int i = 0; i < n && ok; i++) {
        state *s = &o->states[i];
        s->n = params[i].rows * params[i].cols;
        s->is_8bit = has_8bit(&params[i], opts);
        size_t blocks = (size_t)((s->n + BLOCK - 1) / BLOCK), f = sizeof(float);
        if (s->is_8bit) {
            s->c1 = take(o, (size_t)s->n, &ok);
            s->c2 = take(o, (size_t)s->n, &ok);
            s->absmax1 = take(o, blocks * f, &ok);
            s->absmax2 = take(o, blocks * f, &ok);
        } else {
            s->m = take(o, (size_t)s->n * f, &ok);
            s->v = take(o, (size_t)s->n * f, &ok);
        }
    }
    if (!ok) {
        mr_status st =
            mr_fail(err, MR_ENOMEM,
                    "optimizer: the states do not fit, %zu bytes were not there; train fewer parameters (lora.r) or "
                    "use optim = \"adamw_8bit\"",
                    o->bytes);
        mr_optimizer_close(o);
        return st;
    }
    *out = o;
    return MR_OK;
}

void mr_optimizer_close(mr_optimizer *o) {
    if (!o) return;
    for (int i = 0; i < o->n && o->states; i++) {
        part p[MAX_PARTS];
        int n = parts_of(p, &o->states[i]);
        for (int k = 0; k < n; k++)
            if (p[k].data) o->b->free(o->b, p[k].data);
    }
    mr_free(o->states);
    mr_free(o->all);
    mr_free(o);
}

size_t mr_optimizer_bytes(const mr_optimizer *o) {
    return o->bytes;
}

void mr_optimizer_set_decay(mr_optimizer *o, float weight_decay) {
    o->opts.weight_decay = weight_decay;
}

int64_t mr_optimizer_updates(const mr_optimizer *o) {
    return o->step;
}

float mr_clip_coefficient(double norm, float max_norm) {
    if (!(max_norm > 0)) return 1;
    double c = (double)max_norm / (norm + 1e-6);
    return c < 1 ? (float)c : 1;
}

void mr_optimizer_step(mr_optimizer *o, float lr, float grad_scale) {
    const mr_adamw a = { .lr = lr,
                         .beta1 = o->opts.beta1,
                         .beta2 = o->opts.beta2,
                         .eps = o->opts.eps,
                         .weight_decay = o->opts.weight_decay,
                         .step = ++o->step,
                         .grad_scale = grad_scale,
                         .decay_last = o->opts.kind == MR_ADAMW_8BIT };
    for (int i = 0; i < o->n; i++) {
        const mr_param *p = &o->params[i];
        const state *s = &o->states[i];
        o->all[i] = (mr_adamw_tensor){ .p = p->value, .g = p->grad, .n = s->n, .m = s->m, .v = s->v, .c1 = s->c1, .c2 = s->c2,
                                       .absmax1 = s->absmax1, .absmax2 = s->absmax2, .no_decay = !p->decay };
    }
    o->b->adamw(o->b, o->all, o->n, &a);
}

/* A checkpoint is what a run falls back to: it holds no state that would end the next one. host: as the states were downloaded. */
static mr_status check_finite(const mr_optimizer *o, const uint8_t *host, const char *path, mr_err *err) {
    for (int i = 0; i < o->n; i++) {
        part p[MAX_PARTS];
        int k = parts_of(p, &o->states[i]);
        for (int j = 0; j < k; host += p[j++].bytes) {
            for (size_t at = 0; !strcmp(p[j].type, "F32") && at < p[j].bytes; at += sizeof(float)) {
                float x;
                memcpy(&x, host + at, sizeof x);
                if (isfinite(x)) continue;
                return mr_fail(err, MR_EINTERNAL,
                               "%s: the optimizer's \"%s.%s\" is not finite and is not saved; go on from the last checkpoint with a "
                               "lower learning_rate, or set max_grad_norm",
                               path, o->params[i].name, p[j].suffix);
            }
        }
    }
    return MR_OK;
}

mr_status mr_optimizer_save(mr_optimizer *o, const char *path, mr_err *err) {
    mr_arena arena = { 0 };
    mr_tensor_out *t = mr_arena_alloc(&arena, ((size_t)o->n * MAX_PARTS + 1) * sizeof *t);
    uint8_t *host = mr_try_alloc(o->bytes + 8), *at = host;
    if (!host) {
        mr_arena_clear(&arena);
        return mr_fail(err, MR_ENOMEM, "%s: no memory for a copy of the optimizer's %zu bytes", path, o->bytes);
    }
    int n = 0;
    t[n++] = (mr_tensor_out){ .name = "step", .type = "I64", .n_dims = 1, .dims = { 1 }, .data = &o->step };
    for (int i = 0; i < o->n; i++) {
        part p[MAX_PARTS];
        int k = parts_of(p, &o->states[i]);
        for (int j = 0; j < k; j++) {
            char name[512];
            int len = snprintf(name, sizeof name, "%s.%s", o->params[i].name, p[j].suffix);
            o->b->download(o->b, at, p[j].data, p[j].bytes);
            t[n++] = (mr_tensor_out){ .name = mr_arena_strdup(&arena, name, (size_t)len),
                                      .type = p[j].type,
                                      .n_dims = 1,
                                      .dims = { p[j].n },
                                      .data = at };
            at += p[j].bytes;
        }
    }
    mr_status st = o->b->sync(o->b, err);
    if (st == MR_OK) st = check_finite(o, host, path, err);
    if (st == MR_OK) st = mr_safetensors_write(path, t, n, NULL, err);
    mr_free(host);
    mr_arena_clear(&arena);
    return st;
}

static mr_status find_part(const mr_tensor_info **out, const mr_tensors *t, const char *name, const char *type,
                           int64_t n, size_t bytes, const char *path, mr_err *err) {
    const mr_tensor_info *info = mr_tensors_find(t, name);
    if (!info)
        return mr_fail(err, MR_EDATA,
                       "%s: tensor \"%s\" is missing; the checkpoint was made with other settings (optim, lora)", path,
                       name);
    if (strcmp(info->type, type) != 0 || info->n_dims != 1 || info->dims[0] != n || info->bytes != bytes)
        return mr_fail(err, MR_EDATA,
                       "%s: tensor \"%s\" is %s[%lld], want %s[%lld]; the checkpoint was made with other settings",
                       path, name, info->type, (long long)(info->n_dims ? info->dims[0] : 1), type, (long long)n);
    *out = info;
    return MR_OK;
}

static mr_status load_from(mr_optimizer *o, const mr_tensors *t, const char *path, mr_err *err) {
    const mr_tensor_info *info = NULL;
    int n_want = 1;
    int64_t step;
    MR_TRY(find_part(&info, t, "step", "I64", 1, 8, path, err));
    memcpy(&step, info->data, sizeof step);
    if (step < 0 || step > (int64_t)1 << 53)
        return mr_fail(err, MR_EDATA, "%s: tensor \"step\" is %lld, want 0 to 2^53; the file is damaged", path,
                       (long long)step);
    /* All are checked before the first is taken, so a wrong file leaves the states as they were. */
    for (int upload = 0; upload < 2; upload++) {
        for (int i = 0; i < o->n; i++) {
            part p[MAX_PARTS];
            int k = parts_of(p, &o->states[i]);
            n_want += upload ? 0 : k;
            for (int j = 0; j < k; j++) {
                char name[512];
                snprintf(name, sizeof name, "%s.%s", o->params[i].name, p[j].suffix);
                MR_TRY(find_part(&info, t, name, p[j].type, p[j].n, p[j].bytes, path, err));
                if (upload) o->b->upload(o->b, p[j].data, info->data, p[j].bytes);
            }
        }
        if (mr_tensors_count(t) != n_want)
            return mr_fail(err, MR_EDATA, "%s: holds %d tensors, want %d; the checkpoint was made with other settings",
                           path, mr_tensors_count(t), n_want);
    }
    o->step = step;
    return o->b->sync(o->b, err);
}

mr_status mr_optimizer_load(mr_optimizer *o, const char *path, mr_err *err) {
    mr_tensors *t;
    MR_TRY(mr_tensors_open(&t, path, err));
    mr_status st = load_from(o, t, path, err);
    mr_tensors_close(t);
    return st;
}
