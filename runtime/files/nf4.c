/* nf4.c - 4-bit linears of bitsandbytes checkpoints: five tensors of a file seen as the one matrix that they stand for.
 *
 * Source: spec/quantization.md 5.1, 5.3 (values) and 5.4 (names, shapes, the JSON beside them). */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "files/tensors_impl.h"

enum { BLOCK = 64, NESTED = 256 };
static const char state_mark[] = ".quant_state.bitsandbytes__";

static float float_at(const uint8_t *p, int64_t i) {
    float x;
    memcpy(&x, p + 4 * i, 4);
    return x;
}

void mr_nf4_read(float *dst, const mr_tensor_nf4 *q, int64_t at, int64_t count) {
    float scale = 0.0f;
    for (int64_t i = at; i < at + count; i++) {
        if (i == at || i % BLOCK == 0) {
            const int64_t b = i / BLOCK;
            scale = q->nested ? q->nested_map[q->absmax[b]] * float_at(q->nested, b / NESTED) + q->offset
                              : float_at(q->absmax, b);
        }
        *dst++ = q->book[q->codes[i / 2] >> (i & 1 ? 0 : 4) & 15] * scale;
    }
}

/* One of the tensors beside the codes; it is taken out of the list afterwards. */
static mr_status beside(const mr_tensor_entry **out, mr_tensors *t, const char *base, const char *what,
                        const char *type, int64_t count, mr_err *err) {
    char name[640];
    snprintf(name, sizeof name, "%s.%s", base, what);
    const mr_tensor_entry *e = (const mr_tensor_entry *)mr_tensors_find(t, name);
    if (!e) return mr_fail(err, MR_EDATA, "%s: the tensor \"%s\" is missing; fetch the model again", t->path, name);
    int64_t n = 1;
    for (int k = 0; k < e->info.n_dims; k++) n *= e->info.dims[k];
    if (strcmp(e->info.type, type) != 0 || n != count)
        return mr_fail(err, MR_EDATA,
                       "%s: the tensor \"%s\" has %" PRId64 " values of type %s, want %" PRId64
                       " of %s; fetch the model again",
                       t->path, name, n, e->info.type, count, type);
    *out = e;
    return MR_OK;
}

static mr_status check_floats(const uint8_t *p, int64_t n, const char *base, const char *what, const mr_tensors *t,
                              mr_err *err) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(float_at(p, i)))
            return mr_fail(err, MR_EDATA, "%s: the tensor \"%s.%s\" holds a value that is no finite number", t->path,
                           base, what);
    return MR_OK;
}

typedef struct state {
    int64_t rows, cols;
    bool nested;
    double offset;
} state;

static mr_status read_state(state *s, const cJSON *root, const char *place, mr_err *err) {
    const char *type;
    int64_t block;
    MR_TRY(mr_json_get_string(&type, root, "quant_type", place, err));
    if (strcmp(type, "nf4") != 0)
        return mr_fail(err, MR_EDATA, "%s: quant_type is \"%s\", only \"nf4\" is read; use the 16-bit model", place,
                       type);
    MR_TRY(mr_json_get_int(&block, root, "blocksize", 1, 1 << 20, place, err));
    if (block != BLOCK)
        return mr_fail(err, MR_EDATA, "%s: blocksize is %" PRId64 ", only 64 is read; use the 16-bit model", place,
                       block);
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(root, "shape");
    double dims[2] = { 0, 0 };
    if (cJSON_IsArray(shape) && cJSON_GetArraySize(shape) == 2)
        for (int k = 0; k < 2; k++)
            if (cJSON_IsNumber(cJSON_GetArrayItem(shape, k))) dims[k] = cJSON_GetArrayItem(shape, k)->valuedouble;
    for (int k = 0; k < 2; k++)
        if (!(dims[k] >= 1 && dims[k] <= 1 << 24) || dims[k] != floor(dims[k]))
            return mr_fail(err, MR_EDATA, "%s: shape is no pair of sizes; fetch the model again", place);
    s->rows = (int64_t)dims[0], s->cols = (int64_t)dims[1];
    s->nested = cJSON_GetObjectItemCaseSensitive(root, "nested_blocksize") != NULL;
    if (!s->nested) return MR_OK;
    MR_TRY(mr_json_get_int(&block, root, "nested_blocksize", 1, 1 << 20, place, err));
    if (block != NESTED)
        return mr_fail(err, MR_EDATA, "%s: nested_blocksize is %" PRId64 ", only 256 is read; use the 16-bit model",
                       place, block);
    return mr_json_get_number(&s->offset, root, "nested_offset", place, err);
}

/* base: "model.layers.0.self_attn.q_proj.weight"; description: the JSON beside it. */
static mr_status fold_one(mr_tensors *t, const char *base, const mr_tensor_info *description, mr_err *err) {
    char place[1200];
    snprintf(place, sizeof place, "%s: \"%s\"", t->path, description->name);
    mr_tensor_entry *e = (mr_tensor_entry *)(uintptr_t)mr_tensors_find(t, base);
    if (!e || strcmp(e->info.type, "U8") != 0)
        return mr_fail(err, MR_EDATA, "%s: the tensor \"%s\" is %s; fetch the model again", t->path, base,
                       e ? "not stored as U8" : "missing");
    if (strcmp(description->type, "U8") != 0)
        return mr_fail(err, MR_EDATA, "%s: is no text; fetch the model again", place);
    cJSON *root = NULL;
    state s = { 0 };
    MR_TRY(mr_json_parse(&root, description->data, description->bytes, place, err));
    mr_status st = read_state(&s, root, place, err);
    cJSON_Delete(root);
    MR_TRY(st);

    mr_tensor_nf4 *q = mr_arena_alloc(&t->arena, sizeof *q);
    const mr_tensor_entry *absmax, *book, *nested, *map;
    q->n = s.rows * s.cols;
    q->n_blocks = (q->n + BLOCK - 1) / BLOCK;
    if (e->info.bytes != (size_t)(q->n + 1) / 2)
        return mr_fail(err, MR_EDATA,
                       "%s: \"%s\" has %zu bytes, want %" PRId64 " for [%" PRId64 ",%" PRId64
                       "]; fetch the model again",
                       t->path, base, e->info.bytes, (q->n + 1) / 2, s.rows, s.cols);
    MR_TRY(beside(&absmax, t, base, "absmax", s.nested ? "U8" : "F32", q->n_blocks, err));
    MR_TRY(beside(&book, t, base, "quant_map", "F32", 16, err));
    MR_TRY(check_floats(book->info.data, 16, base, "quant_map", t, err));
    memcpy(q->book, book->info.data, sizeof q->book);
    q->codes = e->info.data;
    q->absmax = absmax->info.data;
    if (s.nested) {
        const int64_t groups = (q->n_blocks + NESTED - 1) / NESTED;
        MR_TRY(beside(&nested, t, base, "nested_absmax", "F32", groups, err));
        MR_TRY(beside(&map, t, base, "nested_quant_map", "F32", 256, err));
        MR_TRY(check_floats(nested->info.data, groups, base, "nested_absmax", t, err));
        MR_TRY(check_floats(map->info.data, 256, base, "nested_quant_map", t, err));
        memcpy(q->nested_map, map->info.data, sizeof q->nested_map);
        q->nested = nested->info.data;
        q->offset = (float)s.offset;
    } else {
        MR_TRY(check_floats(q->absmax, q->n_blocks, base, "absmax", t, err));
    }
    e->nf4 = q;
    e->info.type = "NF4";
    e->info.n_dims = 2;
    e->info.dims[0] = s.rows, e->info.dims[1] = s.cols;
    return MR_OK;
}

/* Whether an entry is one of those beside the codes of a folded one. */
static bool is_beside(const mr_tensors *t, const char *name) {
    static const char *const parts[] = { ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map" };
    char base[640];
    const char *mark = strstr(name, state_mark);
    size_t len = mark ? (size_t)(mark - name) : 0;
    for (size_t i = 0; i < 4 && !len; i++)
        if (mr_ends_with(name, parts[i])) len = strlen(name) - strlen(parts[i]);
    if (!len || len >= sizeof base) return false;
    memcpy(base, name, len);
    base[len] = '\0';
    const mr_tensor_info *x = mr_tensors_find(t, base);
    return x && mr_tensors_nf4(x);
}

mr_status mr_nf4_fold(mr_tensors *t, mr_err *err) {
    int folded = 0;
    for (int i = 0; i < t->n_entries; i++) {
        const char *name = t->entries[i].info.name, *mark = strstr(name, state_mark);
        if (!mark) continue;
        if (strcmp(mark + sizeof state_mark - 1, "nf4") != 0)
            return mr_fail(err, MR_EDATA,
                           "%s: \"%s\": the linear is quantized as %s, only nf4 is read; use the 16-bit model", t->path,
                           name, mark + sizeof state_mark - 1);
        char *base = mr_strndup(name, (size_t)(mark - name));
        mr_status st = fold_one(t, base, &t->entries[i].info, err);
        mr_free(base);
        MR_TRY(st);
        folded++;
    }
    if (!folded) return MR_OK;
    bool *gone = mr_alloc((size_t)t->n_entries);
    for (int i = 0; i < t->n_entries; i++) gone[i] = is_beside(t, t->entries[i].info.name);
    int n = 0;
    for (int i = 0; i < t->n_entries; i++)
        if (!gone[i]) t->entries[n++] = t->entries[i];
    t->n_entries = n;
    mr_free(gone);
    mr_free(t->table.slot);
    t->table = (mr_name_table){ 0 };
    return mr_tensors_index(t, err);
}
