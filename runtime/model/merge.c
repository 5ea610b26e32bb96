/* merge.c - see merge.h. */
#include "model/merge.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <pthread.h>

#include "base/fsafe.h"
#include "model/layout.h"

enum { PIECE_VALUES = 4 << 20 };

/* ---- the list ---- */

static mr_status add(mr_merge_plan *p, const char *name, int64_t rows, int64_t cols, int layer, int proj, bool optional,
                     mr_err *err) {
    const mr_tensor_info *x = mr_tensors_find(p->base, name);
    if (!x && optional) return MR_OK;
    if (!x) return mr_fail(err, MR_EDATA, "%s: the tensor \"%s\" is missing", mr_tensors_path(p->base), name);
    const bool vector = cols == 0;
    if (vector ? x->n_dims != 1 || x->dims[0] != rows : x->n_dims != 2 || x->dims[0] != rows || x->dims[1] != cols)
        return mr_fail(err, MR_EDATA, "%s: the tensor \"%s\" has another shape than the model's configuration says",
                       mr_tensors_path(p->base), name);
    mr_part *part = &p->parts[p->n++];
    *part = (mr_part){ .rows = vector ? 1 : rows,
                       .cols = vector ? rows : cols,
                       .vector = vector,
                       .layer = layer,
                       .proj = proj,
                       .info = x };
    snprintf(part->name, sizeof part->name, "%s", name);
    return MR_OK;
}

static mr_status add_norm(mr_merge_plan *p, int layer, const char *what, int64_t n, mr_err *err) {
    char name[112];
    snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, what);
    return add(p, name, n, 0, layer, -1, false, err);
}

static mr_status add_linear(mr_merge_plan *p, int layer, int proj, bool interleave, mr_err *err) {
    const mr_config *c = &p->config;
    char path[96], name[112];
    mr_proj_path(path, sizeof path, layer, proj);
    const int from = p->n;
    snprintf(name, sizeof name, "%s.weight", path);
    MR_TRY(add(p, name, mr_proj_rows(c, proj), mr_proj_cols(c, proj), layer, proj, false, err));
    snprintf(name, sizeof name, "%s.bias", path);
    MR_TRY(add(p, name, mr_proj_rows(c, proj), 0, layer, proj, true, err));
    for (int i = from; i < p->n && interleave && proj <= MR_K_PROJ; i++) p->parts[i].head_rows = c->head_dim;
    return MR_OK;
}

static mr_status list_parts(mr_merge_plan *p, bool interleave, mr_err *err) {
    const mr_config *c = &p->config;
    MR_TRY(add(p, "model.embed_tokens.weight", c->vocab_size, c->hidden_size, -1, -1, false, err));
    for (int l = 0; l < c->num_hidden_layers; l++) {
        MR_TRY(add_norm(p, l, "input_layernorm", c->hidden_size, err));
        for (int k = MR_Q_PROJ; k <= MR_V_PROJ; k++) MR_TRY(add_linear(p, l, k, interleave, err));
        if (c->qk_norm) {
            MR_TRY(add_norm(p, l, "self_attn.q_norm", c->head_dim, err));
            MR_TRY(add_norm(p, l, "self_attn.k_norm", c->head_dim, err));
        }
        MR_TRY(add_linear(p, l, MR_O_PROJ, interleave, err));
        MR_TRY(add_norm(p, l, "post_attention_layernorm", c->hidden_size, err));
        for (int k = MR_GATE_PROJ; k <= MR_DOWN_PROJ; k++) MR_TRY(add_linear(p, l, k, interleave, err));
    }
    MR_TRY(add(p, "model.norm.weight", c->hidden_size, 0, -1, -1, false, err));
    if (!c->tie_word_embeddings) MR_TRY(add(p, "lm_head.weight", c->vocab_size, c->hidden_size, -1, -1, false, err));
    return MR_OK;
}

/* ---- the adapter ---- */

static mr_status find_pair(mr_merge_plan *p, mr_part *part, int r, int *used, mr_err *err) {
    char path[96], name[160];
    mr_proj_path(path, sizeof path, part->layer, part->proj);
    for (int k = 0; k < 2; k++) {
        const int64_t rows = k ? part->rows : r, cols = k ? r : part->cols;
        snprintf(name, sizeof name, "base_model.model.%s.lora_%c.weight", path, 'A' + k);
        const mr_tensor_info *x = mr_tensors_find(p->adapter, name);
        if (!x) return mr_fail(err, MR_EDATA, "%s: the tensor \"%s\" is missing", mr_tensors_path(p->adapter), name);
        if (x->n_dims != 2 || x->dims[0] != rows || x->dims[1] != cols)
            return mr_fail(err, MR_EDATA,
                           "%s: the tensor \"%s\" does not fit [%lld,%lld]; is this the adapter of another model?",
                           mr_tensors_path(p->adapter), name, (long long)rows, (long long)cols);
        *(k ? &part->b : &part->a) = x;
        ++*used;
    }
    return MR_OK;
}

static mr_status open_adapter(mr_merge_plan *p, const char *dir, mr_err *err) {
    mr_lora_opts lora;
    int used = 0;
    MR_TRY(mr_adapter_peek(&lora, dir, err));
    p->scale = mr_lora_scale(&lora);
    char *file = mr_path_join(dir, "adapter_model.safetensors");
    mr_status st = mr_tensors_open(&p->adapter, file, err);
    mr_free(file);
    for (int i = 0; i < p->n && st == MR_OK; i++)
        if (p->parts[i].proj >= 0 && !p->parts[i].vector && lora.targets[p->parts[i].proj])
            st = find_pair(p, &p->parts[i], lora.r, &used, err);
    if (st == MR_OK && used != mr_tensors_count(p->adapter))
        st = mr_fail(err, MR_EDATA,
                     "%s: has %d tensors, of which the model has a place for %d; is this the adapter of "
                     "another model?",
                     mr_tensors_path(p->adapter), mr_tensors_count(p->adapter), used);
    return st;
}

mr_status mr_merge_open(mr_merge_plan *p, const mr_export_opts *o, bool interleave, mr_err *err) {
    *p = (mr_merge_plan){ 0 };
    MR_TRY(mr_tensors_open(&p->base, o->base, err));
    MR_TRY(mr_config_load(&p->config, o->base, p->base, err));
    p->parts = mr_alloc((size_t)(3 + 18 * p->config.num_hidden_layers) * sizeof *p->parts);
    MR_TRY(list_parts(p, interleave && strcmp(p->config.model_type, "llama") == 0, err));
    if (o->adapter) MR_TRY(open_adapter(p, o->adapter, err));
    return mr_threads_open(&p->threads, o->n_threads > 0 ? o->n_threads : 1, err);
}

void mr_merge_close(mr_merge_plan *p) {
    mr_tensors_close(p->base);
    mr_tensors_close(p->adapter);
    mr_threads_close(p->threads);
    mr_free(p->parts);
    *p = (mr_merge_plan){ 0 };
}

/* ---- rows ---- */

typedef struct rows_job {
    const mr_merge_plan *p;
    const mr_part *part;
    const mr_format *format;
    const float *a, *b; /* [r, cols], [rows, r]; NULL: no adapter here */
    int r;
    int64_t row0;
    uint8_t *out;
    float *scratch; /* two rows a thread */
    pthread_mutex_t lock;
    mr_status st;
    mr_err *err;
} rows_job;

/* The row of Hugging Face's order that goes out as row r: row 2i + j of a head is i + j * d / 2 (spec/models.md 1.3).
 * */
static int64_t source_row(int64_t r, int head_rows) {
    const int64_t in_head = r % head_rows;
    return r - in_head + in_head / 2 + in_head % 2 * (head_rows / 2);
}

static void add_product(float *row, float *delta, const rows_job *j, int64_t at) {
    const int64_t n = j->part->cols;
    memset(delta, 0, (size_t)n * sizeof *delta);
    for (int k = 0; k < j->r; k++) {
        const float b = j->b[at * j->r + k], *a = j->a + k * n;
        for (int64_t i = 0; i < n; i++) delta[i] += b * a[i];
    }
    for (int64_t i = 0; i < n; i++) row[i] += j->p->scale * delta[i];
}

static mr_status check_row(const float *row, const rows_job *j, mr_err *err) {
    for (int64_t i = 0; i < j->part->cols; i++) {
        if (!isfinite(row[i]))
            return mr_fail(err, MR_EDATA, "%s: the tensor \"%s\" holds a value that is no finite number",
                           mr_tensors_path(j->p->base), j->part->name);
        if (fabsf(row[i]) > j->format->most)
            return mr_fail(err, MR_EDATA, "%s: the tensor \"%s\" holds %g, which does not fit into %s; use --type bf16",
                           mr_tensors_path(j->p->base), j->part->name, (double)row[i], j->format->name);
    }
    return MR_OK;
}

static mr_status one_row(const rows_job *j, float *row, float *delta, int64_t at, mr_err *err) {
    const mr_part *part = j->part;
    const int64_t n = part->cols, from = part->head_rows && !part->vector ? source_row(at, part->head_rows) : at;
    MR_TRY(mr_tensors_read(j->p->base, part->info, row, from, 1, err));
    if (part->head_rows && part->vector) { /* a bias: its elements are the rows */
        memcpy(delta, row, (size_t)n * sizeof *row);
        for (int64_t i = 0; i < n; i++) row[i] = delta[source_row(i, part->head_rows)];
    }
    if (j->a) add_product(row, delta, j, from);
    MR_TRY(check_row(row, j, err));
    j->format->encode(j->out + mr_format_bytes(j->format, (size_t)((at - j->row0) * n)), row, (size_t)n);
    return MR_OK;
}

static void some_rows(void *ctx, int thread, int64_t from, int64_t to) {
    rows_job *j = ctx;
    float *row = j->scratch + 2 * thread * j->part->cols;
    for (int64_t i = from; i < to; i++) {
        mr_err err = { "" };
        mr_status st = one_row(j, row, row + j->part->cols, j->row0 + i, &err);
        if (st == MR_OK) continue;
        pthread_mutex_lock(&j->lock);
        if (j->st == MR_OK) {
            j->st = st;
            if (j->err) *j->err = err;
        }
        pthread_mutex_unlock(&j->lock);
        return;
    }
}

static mr_status read_matrix(float **out, const mr_tensors *t, const mr_tensor_info *x, mr_err *err) {
    *out = mr_try_alloc((size_t)(x->dims[0] * x->dims[1]) * sizeof **out);
    if (!*out) return mr_fail(err, MR_ENOMEM, "%s: no memory to read \"%s\"", mr_tensors_path(t), x->name);
    return mr_tensors_read(t, x, *out, 0, x->dims[0], err);
}

static mr_status put_rows(mr_writer *w, rows_job *j, int64_t piece, size_t *done, size_t all, const mr_export_opts *o,
                          mr_err *err) {
    const mr_part *part = j->part;
    for (j->row0 = 0; j->row0 < part->rows; j->row0 += piece) {
        const int64_t n = part->rows - j->row0 < piece ? part->rows - j->row0 : piece;
        const size_t bytes = mr_format_bytes(j->format, (size_t)(n * part->cols));
        const mr_work work = { some_rows, j, n, 1 };
        mr_parallel(j->p->threads, MR_THREADS_MAX, &work, 1);
        MR_TRY(j->st);
        MR_TRY(mr_writer_put(w, j->out, bytes, err));
        *done += bytes;
        if (o->progress && !o->progress(o->self, *done, all))
            return mr_fail(err, MR_ESIGNAL, "export: stopped; nothing was put in place");
    }
    return MR_OK;
}

mr_status mr_merge_put(mr_writer *w, mr_merge_plan *p, const mr_part *part, const mr_format *f, size_t *done,
                       size_t all, const mr_export_opts *o, mr_err *err) {
    float *a = NULL, *b = NULL;
    int64_t piece = PIECE_VALUES / part->cols;
    if (piece < 1) piece = 1;
    if (piece > part->rows) piece = part->rows;
    rows_job j = { .p = p, .part = part, .format = f, .lock = PTHREAD_MUTEX_INITIALIZER, .err = err };
    mr_status st = MR_OK;
    if (part->a) {
        st = read_matrix(&a, p->adapter, part->a, err);
        if (st == MR_OK) st = read_matrix(&b, p->adapter, part->b, err);
        j.a = a, j.b = b, j.r = (int)part->a->dims[0];
    }
    if (st == MR_OK) {
        j.out = mr_try_alloc(mr_format_bytes(f, (size_t)(piece * part->cols)));
        j.scratch = mr_try_alloc((size_t)(2 * mr_threads_count(p->threads) * part->cols) * sizeof(float));
        st = j.out && j.scratch ? put_rows(w, &j, piece, done, all, o, err)
                                : mr_fail(err, MR_ENOMEM, "%s: no memory to write \"%s\"", o->base, part->name);
    }
    mr_tensors_drop(p->base, part->info);
    mr_free(j.out);
    mr_free(j.scratch);
    mr_free(a);
    mr_free(b);
    return st;
}
