/* gguf.c - the GGUF container, versions 2 and 3: metadata, tensor list, and the names of Hugging Face for both.
 *
 * Source: spec/formats.md 7.2 (layout, value types), spec/models.md 1.3 (row order of q and k) and 1.5 (names). Every
 * length is checked against the bytes that are left before it is used, and against fixed caps, so that a damaged file
 * costs one line. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files/tensors_impl.h"
#include "files/writer.h"

enum {
    max_values = 65536,
    max_tensors = 65536,
    max_name_bytes = 64, /* ggml's GGML_MAX_NAME */
    max_key_bytes = 1024,
    max_string_bytes = 16 << 20,
    max_array_count = 4 << 20,
};

enum { T_U8, T_I8, T_U16, T_I16, T_U32, T_I32, T_F32, T_BOOL, T_STRING, T_ARRAY, T_U64, T_I64, T_F64, n_value_types };
static const int value_bytes[n_value_types] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

typedef struct cursor {
    const uint8_t *data;
    size_t at, len;
    const char *path;
    mr_err *err;
} cursor;

static mr_status need(const cursor *c, uint64_t bytes, const char *field) {
    if (bytes <= c->len - c->at) return MR_OK;
    return mr_fail(c->err, MR_EDATA,
                   "%s: byte %zu (%s): needs %" PRIu64 " bytes, %zu left: the file is cut; fetch it again", c->path,
                   c->at, field, bytes, c->len - c->at);
}

static mr_status take_u32(cursor *c, uint32_t *x, const char *field) {
    MR_TRY(need(c, 4, field));
    memcpy(x, c->data + c->at, 4);
    c->at += 4;
    return MR_OK;
}

static mr_status take_u64(cursor *c, uint64_t *x, const char *field) {
    MR_TRY(need(c, 8, field));
    memcpy(x, c->data + c->at, 8);
    c->at += 8;
    return MR_OK;
}

/* Leaves *s on the bytes and c behind them. */
static mr_status take_string(cursor *c, const char **s, size_t *len, size_t max, const char *field) {
    uint64_t n;
    const size_t at = c->at;
    MR_TRY(take_u64(c, &n, field));
    if (n > max)
        return mr_fail(c->err, MR_EDATA,
                       "%s: byte %zu (%s): a string of %" PRIu64
                       " bytes, at most %zu are allowed; the file is damaged: "
                       "fetch it again",
                       c->path, at, field, n, max);
    MR_TRY(need(c, n, field));
    *s = (const char *)c->data + c->at;
    *len = (size_t)n;
    c->at += (size_t)n;
    return MR_OK;
}

static mr_status take_name(cursor *c, mr_arena *arena, const char **name, size_t max, const char *field) {
    const char *s = NULL;
    size_t len = 0;
    const size_t at = c->at;
    MR_TRY(take_string(c, &s, &len, max, field));
    if (len == 0 || memchr(s, 0, len))
        return mr_fail(c->err, MR_EDATA,
                       "%s: byte %zu (%s): is empty or holds a NUL; the file is damaged: fetch it again", c->path, at,
                       field);
    *name = mr_arena_strdup(arena, s, len);
    return MR_OK;
}

static const char *value_key(const void *ctx, int32_t i) {
    return ((const mr_tensors *)ctx)->values[i].key;
}

static mr_status skip_array(cursor *c, mr_gguf_value *v, const char *field) {
    uint64_t n;
    MR_TRY(take_u32(c, &v->elem, field));
    const size_t at = c->at;
    MR_TRY(take_u64(c, &n, field));
    if (v->elem >= n_value_types || v->elem == T_ARRAY)
        return mr_fail(c->err, MR_EDATA,
                       "%s: byte %zu (%s): array of type %" PRIu32 ", want numbers, bools or strings; the file is "
                       "damaged: fetch it again",
                       c->path, at - 4, field, v->elem);
    if (n > max_array_count)
        return mr_fail(c->err, MR_EDATA,
                       "%s: byte %zu (%s): an array of %" PRIu64
                       " elements, at most %d are allowed; the file is damaged: "
                       "fetch it again",
                       c->path, at, field, n, max_array_count);
    v->count = n;
    v->at = c->at;
    if (v->elem != T_STRING) {
        MR_TRY(need(c, n * (uint64_t)value_bytes[v->elem], field));
        c->at += (size_t)n * (size_t)value_bytes[v->elem];
        return MR_OK;
    }
    MR_TRY(need(c, n * 8, field)); /* at least a length each, so the table below is no larger than the file */
    v->string_at = mr_try_alloc(((size_t)n + 1) * sizeof *v->string_at);
    if (!v->string_at)
        return mr_fail(c->err, MR_ENOMEM, "%s: no memory for the %" PRIu64 " strings of %s", c->path, n, field);
    for (uint64_t i = 0; i < n; i++) {
        const char *s;
        size_t len;
        v->string_at[i] = c->at;
        MR_TRY(take_string(c, &s, &len, max_string_bytes, field));
    }
    return MR_OK;
}

static mr_status read_value(mr_tensors *t, cursor *c, mr_err *err) {
    mr_gguf_value *v = &t->values[t->n_values];
    memset(v, 0, sizeof *v);
    const size_t key_at = c->at;
    MR_TRY(take_name(c, &t->arena, &v->key, max_key_bytes, "metadata key"));
    t->n_values++; /* from here on close frees its string table */
    if (!mr_name_table_add(&t->value_table, v->key, t->n_values - 1, value_key, t))
        return mr_fail(err, MR_EDATA,
                       "%s: byte %zu (metadata key): \"%.128s\" occurs twice; the file is damaged: fetch it again",
                       c->path, key_at, v->key);
    char field[160];
    snprintf(field, sizeof field, "metadata %.128s", v->key);
    const size_t type_at = c->at;
    MR_TRY(take_u32(c, &v->type, field));
    v->count = 1;
    v->at = c->at;
    if (v->type == T_ARRAY) return skip_array(c, v, field);
    if (v->type == T_STRING) {
        const char *s;
        size_t len;
        return take_string(c, &s, &len, max_string_bytes, field);
    }
    if (v->type >= n_value_types)
        return mr_fail(err, MR_EDATA,
                       "%s: byte %zu (%s): type %" PRIu32 ", want 0 to 12; the file is damaged: fetch it again",
                       c->path, type_at, field, v->type);
    MR_TRY(need(c, (uint64_t)value_bytes[v->type], field));
    c->at += (size_t)value_bytes[v->type];
    return MR_OK;
}

/* ---- names ---- */

static const struct {
    const char *gguf, *hf;
} whole_names[] = {
    { "token_embd.weight", "model.embed_tokens.weight" },
    { "output_norm.weight", "model.norm.weight" },
    { "output.weight", "lm_head.weight" },
}, layer_names[] = {
    { "attn_norm", "input_layernorm" },
    { "ffn_norm", "post_attention_layernorm" },
    { "attn_q", "self_attn.q_proj" },
    { "attn_k", "self_attn.k_proj" },
    { "attn_v", "self_attn.v_proj" },
    { "attn_output", "self_attn.o_proj" },
    { "attn_q_norm", "self_attn.q_norm" },
    { "attn_k_norm", "self_attn.k_norm" },
    { "ffn_gate", "mlp.gate_proj" },
    { "ffn_up", "mlp.up_proj" },
    { "ffn_down", "mlp.down_proj" },
};

/* The Hugging Face name of a GGUF tensor in out[160]; the name itself when medrl knows no other
 * ("rope_freqs.weight"). */
static void hf_name(char *out, size_t out_len, const char *name) {
    snprintf(out, out_len, "%s", name);
    for (size_t i = 0; i < sizeof whole_names / sizeof whole_names[0]; i++)
        if (!strcmp(name, whole_names[i].gguf)) {
            snprintf(out, out_len, "%s", whole_names[i].hf);
            return;
        }
    if (strncmp(name, "blk.", 4)) return;
    const size_t digits = strspn(name + 4, "0123456789");
    if (digits == 0 || digits > 6 || name[4 + digits] != '.') return;
    const char *part = name + 4 + digits + 1, *dot = strchr(part, '.');
    if (!dot) return;
    for (size_t i = 0; i < sizeof layer_names / sizeof layer_names[0]; i++)
        if (strlen(layer_names[i].gguf) == (size_t)(dot - part) &&
            !memcmp(part, layer_names[i].gguf, (size_t)(dot - part)))
            snprintf(out, out_len, "model.layers.%.*s.%s%s", (int)digits, name + 4, layer_names[i].hf, dot);
}

bool mr_gguf_name(char *out, size_t out_len, const char *hf) {
    for (size_t i = 0; i < sizeof whole_names / sizeof whole_names[0]; i++)
        if (!strcmp(hf, whole_names[i].hf)) return snprintf(out, out_len, "%s", whole_names[i].gguf) < (int)out_len;
    static const char prefix[] = "model.layers.";
    if (strncmp(hf, prefix, sizeof prefix - 1)) return false;
    const char *number = hf + sizeof prefix - 1, *dot = strrchr(hf, '.');
    const size_t digits = strspn(number, "0123456789");
    const char *part = number + digits + 1;
    if (digits == 0 || digits > 6 || number[digits] != '.' || dot < part) return false;
    for (size_t i = 0; i < sizeof layer_names / sizeof layer_names[0]; i++)
        if (strlen(layer_names[i].hf) == (size_t)(dot - part) && !memcmp(part, layer_names[i].hf, (size_t)(dot - part)))
            return snprintf(out, out_len, "blk.%.*s.%s%s", (int)digits, number, layer_names[i].gguf, dot) <
                   (int)out_len;
    return false;
}

/* The converter of arch llama permutes the rows of q and k within each head (models.md 1.3); marks them. */
static mr_status mark_permuted(mr_tensors *t, mr_err *err) {
    const char *arch;
    size_t len;
    if (!mr_gguf_get_string(t, "general.architecture", &arch, &len) || len != 5 || memcmp(arch, "llama", 5))
        return MR_OK;
    for (int i = 0; i < t->n_entries; i++) {
        mr_tensor_entry *e = &t->entries[i];
        const bool q = mr_ends_with(e->info.name, "self_attn.q_proj.weight") ||
                       mr_ends_with(e->info.name, "self_attn.q_proj.bias");
        const bool k = mr_ends_with(e->info.name, "self_attn.k_proj.weight") ||
                       mr_ends_with(e->info.name, "self_attn.k_proj.bias");
        if (!q && !k) continue;
        double heads;
        if (!(k && mr_gguf_get_number(t, "llama.attention.head_count_kv", &heads)) &&
            !mr_gguf_get_number(t, "llama.attention.head_count", &heads))
            return mr_fail(
                err, MR_EDATA,
                "%s: byte 24 (metadata): llama.attention.head_count is missing, want a number; convert the model "
                "again",
                t->path);
        const int64_t rows = e->info.n_dims ? e->info.dims[0] : 1;
        if (!(heads >= 1 && heads <= (double)rows) || rows % (int64_t)heads || rows / (int64_t)heads % 2 ||
            rows / (int64_t)heads > INT32_MAX)
            return mr_fail(err, MR_EDATA,
                           "%s: byte 24 (metadata): %.0f heads do not split the %" PRId64
                           " rows of \"%s\" into even parts; "
                           "convert the model again",
                           t->path, heads, rows, e->info.name);
        e->head_rows = (int)(rows / (int64_t)heads);
    }
    return MR_OK;
}

/* ---- tensors ---- */

static mr_status read_tensor(mr_tensors *t, cursor *c, size_t alignment, uint64_t *offset, mr_err *err) {
    mr_tensor_entry *e = &t->entries[t->n_entries];
    memset(e, 0, sizeof *e);
    const char *name = NULL;
    uint32_t n_dims, type;
    MR_TRY(take_name(c, &t->arena, &name, max_name_bytes, "tensor name"));
    char field[128], hf[192];
    snprintf(field, sizeof field, "tensor %s", name);
    size_t at = c->at;
    MR_TRY(take_u32(c, &n_dims, field));
    if (n_dims > 4)
        return mr_fail(err, MR_EDATA,
                       "%s: byte %zu (%s): has %" PRIu32
                       " dimensions, want at most 4; the file is damaged: fetch it again",
                       c->path, at, field, n_dims);
    size_t count = 1;
    for (uint32_t k = 0; k < n_dims; k++) {
        uint64_t n;
        at = c->at;
        MR_TRY(take_u64(c, &n, field));
        if (n > (uint64_t)INT64_MAX || !mr_mul_size(&count, count, (size_t)n) || count > (size_t)INT64_MAX)
            return mr_fail(err, MR_EDATA,
                           "%s: byte %zu (%s): dimension %" PRIu32 " is %" PRIu64
                           ": its size overflows; the file is damaged: "
                           "fetch it again",
                           c->path, at, field, k, n);
        e->info.dims[n_dims - 1 - k] = (int64_t)n; /* fastest first in the file, slowest first here */
    }
    at = c->at;
    MR_TRY(take_u32(c, &type, field));
    e->type = mr_value_type_of_gguf(type);
    if (!e->type || !e->type->decode)
        return mr_fail(err, MR_EDATA,
                       "%s: byte %zu (%s): its type %" PRIu32
                       " (%s) is not supported, want F32, F16, BF16, Q4_0, Q4_1, Q5_0, "
                       "Q5_1, Q8_0 or Q2_K to Q6_K; fetch another quantization, Q4_K_M or Q8_0",
                       c->path, at, field, type, e->type ? e->type->name : "unknown");
    const int64_t row = n_dims ? e->info.dims[n_dims - 1] : 1;
    if (row % e->type->block)
        return mr_fail(err, MR_EDATA,
                       "%s: byte %zu (%s): rows of %" PRId64
                       " do not split into blocks of %d for %s; the file is damaged: fetch it "
                       "again",
                       c->path, at, field, row, e->type->block, e->type->name);
    if (!mr_mul_size(&e->info.bytes, count / (size_t)e->type->block, (size_t)e->type->bytes))
        return mr_fail(err, MR_EDATA, "%s: byte %zu (%s): its size overflows; the file is damaged: fetch it again",
                       c->path, at, field);
    at = c->at;
    MR_TRY(take_u64(c, offset, field));
    if (*offset % alignment)
        return mr_fail(err, MR_EDATA,
                       "%s: byte %zu (%s): offset %" PRIu64
                       " is no multiple of the alignment %zu; the file is damaged: fetch it "
                       "again",
                       c->path, at, field, *offset, alignment);
    hf_name(hf, sizeof hf, name);
    e->info.name = mr_arena_strdup(&t->arena, hf, strlen(hf));
    e->info.type = e->type->name;
    e->info.n_dims = (int)n_dims;
    t->n_entries++;
    return MR_OK;
}

typedef struct placed {
    uint64_t offset;
    mr_tensor_entry *entry;
} placed;

static int by_offset(const void *a, const void *b) {
    const placed *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return x->entry->info.bytes < y->entry->info.bytes ? -1 : x->entry->info.bytes > y->entry->info.bytes;
}

/* Turns offsets into pointers: inside the file, and no two over each other. */
static mr_status place_tensors(placed *p, size_t n, const cursor *c, size_t alignment, mr_err *err) {
    const size_t start = c->at + (alignment - c->at % alignment) % alignment;
    const size_t left = start <= c->len ? c->len - start : 0;
    qsort(p, n, sizeof *p, by_offset);
    uint64_t end = 0;
    for (size_t i = 0; i < n; i++) {
        mr_tensor_info *info = &p[i].entry->info;
        if (p[i].offset < end)
            return mr_fail(err, MR_EDATA,
                           "%s: byte %" PRIu64
                           " (data of %s): overlaps the tensor before it; the file is damaged: fetch it again",
                           c->path, start + p[i].offset, info->name);
        if (p[i].offset > left || info->bytes > left - p[i].offset)
            return mr_fail(err, MR_EDATA,
                           "%s: byte %zu (data of %s): needs %zu bytes at offset %" PRIu64
                           ", the data has %zu: the file is "
                           "cut; fetch it again",
                           c->path, start, info->name, info->bytes, p[i].offset, left);
        end = p[i].offset + info->bytes;
        info->data = c->data + start + p[i].offset;
    }
    return MR_OK;
}

static mr_status read_alignment(const mr_tensors *t, size_t *alignment, mr_err *err) {
    *alignment = 32;
    const int32_t i = mr_name_table_find(&t->value_table, "general.alignment", value_key, t);
    if (i < 0) return MR_OK;
    const mr_gguf_value *v = &t->values[i];
    uint32_t x = 0;
    if (v->type == T_U32) memcpy(&x, t->maps[0].data + v->at, 4);
    if (x < 8 || x > 4096 || (x & (x - 1)))
        return mr_fail(
            err, MR_EDATA,
            "%s: byte %zu (general.alignment): want a u32 that is a power of two, 8 to 4096; convert the model again",
            t->path, v->at);
    *alignment = x;
    return MR_OK;
}

mr_status mr_gguf_read_header(mr_tensors *t, mr_err *err) {
    cursor c = { t->maps[0].data, 0, t->maps[0].len, t->path, err };
    uint32_t magic, version;
    uint64_t n_tensors, n_values;
    MR_TRY(take_u32(&c, &magic, "magic"));
    if (magic != 0x46554747u) /* "GGUF" */
        return mr_fail(err, MR_EDATA, "%s: byte 0 (magic): is not \"GGUF\"; this is no GGUF file", t->path);
    MR_TRY(take_u32(&c, &version, "version"));
    if (version == 0x02000000u || version == 0x03000000u)
        return mr_fail(err, MR_EDATA,
                       "%s: byte 4 (version): the file is big-endian, want little-endian; convert the model again",
                       t->path);
    if (version != 2 && version != 3)
        return mr_fail(err, MR_EDATA, "%s: byte 4 (version): is %" PRIu32 ", want 2 or 3; convert the model again",
                       t->path, version);
    MR_TRY(take_u64(&c, &n_tensors, "tensor count"));
    MR_TRY(take_u64(&c, &n_values, "metadata count"));
    if (n_tensors > max_tensors)
        return mr_fail(err, MR_EDATA,
                       "%s: byte 8 (tensor count): is %" PRIu64
                       ", at most %d are allowed; the file is damaged: fetch it again",
                       t->path, n_tensors, max_tensors);
    if (n_values > max_values)
        return mr_fail(err, MR_EDATA,
                       "%s: byte 16 (metadata count): is %" PRIu64
                       ", at most %d are allowed; the file is damaged: fetch it again",
                       t->path, n_values, max_values);
    MR_TRY(need(&c, n_values * 14, "metadata")); /* key length, one byte of key, type, one byte of value */
    t->values = mr_try_alloc(((size_t)n_values + 1) * sizeof *t->values);
    if (!t->values) return mr_fail(err, MR_ENOMEM, "%s: no memory for %" PRIu64 " metadata values", t->path, n_values);
    MR_TRY(mr_name_table_open(&t->value_table, (size_t)n_values, err));
    for (uint64_t i = 0; i < n_values; i++) MR_TRY(read_value(t, &c, err));

    size_t alignment;
    MR_TRY(read_alignment(t, &alignment, err));
    MR_TRY(need(&c, n_tensors * 25, "tensor list")); /* name length, one byte of name, dimensions, type, offset */
    MR_TRY(mr_tensors_reserve(t, (size_t)n_tensors, err));
    placed *p = mr_try_alloc(((size_t)n_tensors + 1) * sizeof *p);
    if (!p) return mr_fail(err, MR_ENOMEM, "%s: no memory for %" PRIu64 " tensors", t->path, n_tensors);
    mr_status st = MR_OK;
    for (uint64_t i = 0; i < n_tensors && st == MR_OK; i++) {
        p[i].entry = &t->entries[t->n_entries];
        st = read_tensor(t, &c, alignment, &p[i].offset, err);
    }
    if (st == MR_OK) st = place_tensors(p, (size_t)n_tensors, &c, alignment, err);
    mr_free(p);
    return st == MR_OK ? mark_permuted(t, err) : st;
}

/* ---- metadata ---- */

static const mr_gguf_value *find_value(const mr_tensors *t, const char *key) {
    if (!t || !t->n_values) return NULL;
    const int32_t i = mr_name_table_find(&t->value_table, key, value_key, t);
    return i < 0 ? NULL : &t->values[i];
}

static void string_at(const mr_tensors *t, size_t at, const char **s, size_t *len) {
    uint64_t n;
    memcpy(&n, t->maps[0].data + at, 8); /* checked when the file was opened */
    *s = (const char *)t->maps[0].data + at + 8;
    *len = (size_t)n;
}

static bool number_at(const uint8_t *p, uint32_t type, double *x) {
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
        float f32;
        double f64;
    } v;
    if (!value_bytes[type]) return false; /* text, an array; that it is a known type was checked when the file was opened */
    memcpy(&v, p, (size_t)value_bytes[type]);
    switch (type) {
    case T_U8: *x = v.u8; break;
    case T_BOOL: *x = v.u8 != 0; break;
    case T_I8: *x = v.i8; break;
    case T_U16: *x = v.u16; break;
    case T_I16: *x = v.i16; break;
    case T_U32: *x = v.u32; break;
    case T_I32: *x = v.i32; break;
    case T_F32: *x = (double)v.f32; break;
    case T_U64: *x = (double)v.u64; break;
    case T_I64: *x = (double)v.i64; break;
    default: *x = v.f64; break;
    }
    return true;
}

bool mr_gguf_get_string(const mr_tensors *t, const char *key, const char **s, size_t *len) {
    const mr_gguf_value *v = find_value(t, key);
    if (!v || v->type != T_STRING) return false;
    string_at(t, v->at, s, len);
    return true;
}

bool mr_gguf_get_number(const mr_tensors *t, const char *key, double *x) {
    const mr_gguf_value *v = find_value(t, key);
    return v && number_at(t->maps[0].data + v->at, v->type, x);
}

int64_t mr_gguf_array_count(const mr_tensors *t, const char *key) {
    const mr_gguf_value *v = find_value(t, key);
    return v && v->type == T_ARRAY ? (int64_t)v->count : -1;
}

bool mr_gguf_array_string(const mr_tensors *t, const char *key, int64_t i, const char **s, size_t *len) {
    const mr_gguf_value *v = find_value(t, key);
    if (!v || v->type != T_ARRAY || v->elem != T_STRING || i < 0 || (uint64_t)i >= v->count) return false;
    string_at(t, (size_t)v->string_at[i], s, len);
    return true;
}

bool mr_gguf_array_number(const mr_tensors *t, const char *key, int64_t i, double *x) {
    const mr_gguf_value *v = find_value(t, key);
    if (!v || v->type != T_ARRAY || i < 0 || (uint64_t)i >= v->count) return false;
    return number_at(t->maps[0].data + v->at + (size_t)i * (size_t)value_bytes[v->elem], v->elem, x);
}
