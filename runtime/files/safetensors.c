/* safetensors.c - reading and writing the safetensors container.
 *
 * Source: spec/formats.md 7.1. Reading keeps every rule of the library's own validation (sizes, order, no holes, no
 * overlap, data to the last byte) and refuses duplicate keys besides, which the library lets pass. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "files/tensors_impl.h"

enum { max_name_bytes = 512, max_header_bytes = 100000000 };

typedef struct range {
    uint64_t begin, end;
    const char *name;
} range;

static int by_begin(const void *a, const void *b) {
    const range *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

/* An exact whole number of at least 0. */
static bool whole_number(uint64_t *out, const cJSON *item) {
    if (!cJSON_IsNumber(item)) return false;
    const double x = item->valuedouble;
    if (!(x >= 0 && x <= 0x1p53) || x != floor(x)) return false;
    *out = (uint64_t)x;
    return true;
}

static mr_status read_metadata(const cJSON *meta, const char *path, mr_err *err) {
    if (!cJSON_IsObject(meta))
        return mr_fail(err, MR_EDATA,
                       "%s: byte 8 (__metadata__): is %s, want an object of strings; save the file again", path,
                       mr_json_type_name(meta));
    for (const cJSON *e = meta->child; e; e = e->next)
        if (!cJSON_IsString(e))
            return mr_fail(err, MR_EDATA, "%s: byte 8 (__metadata__.%.64s): is %s, want a string; save the file again",
                           path, e->string, mr_json_type_name(e));
    return MR_OK;
}

static mr_status read_entry(mr_tensors *t, const cJSON *e, int map, size_t data_start, range *r, mr_err *err) {
    const char *path = t->map_paths[map];
    const size_t data_bytes = t->maps[map].len - data_start;
#define FAIL(what, ...) mr_fail(err, MR_EDATA, "%s: byte 8 (tensor \"%.128s\"): " what, path, e->string, __VA_ARGS__)
    if (strlen(e->string) > max_name_bytes)
        return FAIL("its name has %zu bytes, at most %d are allowed; rename it", strlen(e->string), max_name_bytes);
    if (!cJSON_IsObject(e))
        return FAIL("is %s, want an object; the file is damaged: fetch it again", mr_json_type_name(e));
    const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(e, "dtype"),
                *shape = cJSON_GetObjectItemCaseSensitive(e, "shape"),
                *offsets = cJSON_GetObjectItemCaseSensitive(e, "data_offsets");
    if (!cJSON_IsString(dtype) || !cJSON_IsArray(shape) || !cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2)
        return FAIL("wants %s; the file is damaged: fetch it again", "dtype, shape and two data_offsets");

    mr_tensor_entry *entry = &t->entries[t->n_entries];
    memset(entry, 0, sizeof *entry);
    entry->map = map;
    entry->type = mr_value_type_named(dtype->valuestring);
    if (!entry->type)
        return FAIL(
            "dtype \"%.32s\" is unknown, want F32, F16, BF16 or another type of safetensors 0.8; save it as one of "
            "these",
            dtype->valuestring);
    const int n_dims = cJSON_GetArraySize(shape);
    if (n_dims > 4) return FAIL("has %d dimensions, at most 4 are read; reshape it", n_dims);

    size_t count = 1, bytes;
    int k = 0;
    for (const cJSON *d = shape->child; d; d = d->next, k++) {
        uint64_t n;
        if (!whole_number(&n, d))
            return FAIL("dimension %d is no whole number; the file is damaged: fetch it again", k);
        if (!mr_mul_size(&count, count, (size_t)n) || count > (size_t)INT64_MAX)
            return FAIL("dimension %d makes its size overflow; the file is damaged: fetch it again", k);
        entry->info.dims[k] = (int64_t)n;
    }
    if (count % (size_t)entry->type->block ||
        !mr_mul_size(&bytes, count / (size_t)entry->type->block, (size_t)entry->type->bytes))
        return FAIL("%zu elements of %s are no whole number of bytes; the file is damaged: fetch it again", count,
                    entry->type->name);
    if (!whole_number(&r->begin, offsets->child) || !whole_number(&r->end, offsets->child->next))
        return FAIL("%s are no whole numbers; the file is damaged: fetch it again", "its data_offsets");
    if (r->begin > r->end || r->end > data_bytes)
        return FAIL("data_offsets [%" PRIu64 ", %" PRIu64
                    "] do not lie in the %zu bytes of data; the file is cut or damaged: "
                    "fetch it again",
                    r->begin, r->end, data_bytes);
    if (r->end - r->begin != bytes)
        return FAIL("its shape needs %zu bytes, data_offsets give %" PRIu64 "; the file is damaged: fetch it again",
                    bytes, r->end - r->begin);
#undef FAIL
    entry->info.name = mr_arena_strdup(&t->arena, e->string, strlen(e->string));
    entry->info.type = entry->type->name;
    entry->info.n_dims = n_dims;
    entry->info.data = t->maps[map].data + data_start + r->begin;
    entry->info.bytes = bytes;
    r->name = entry->info.name;
    t->n_entries++;
    return MR_OK;
}

static mr_status check_coverage(range *r, size_t n, size_t data_start, size_t file_bytes, const char *path,
                                mr_err *err) {
    uint64_t at = 0;
    qsort(r, n, sizeof *r, by_begin);
    for (size_t i = 0; i < n; i++) {
        if (r[i].begin != at)
            return mr_fail(err, MR_EDATA,
                           "%s: byte %" PRIu64 " (data of \"%.128s\"): %s the tensor before it, want no hole and no "
                           "overlap; the file is damaged: fetch it again",
                           path, data_start + r[i].begin, r[i].name,
                           r[i].begin > at ? "leaves a hole behind" : "overlaps");
        at = r[i].end;
    }
    if (data_start + at != file_bytes)
        return mr_fail(err, MR_EDATA,
                       "%s: byte %" PRIu64 " (data): %" PRIu64 " bytes belong to no tensor; the file is damaged: fetch "
                       "it again",
                       path, data_start + at, file_bytes - data_start - at);
    return MR_OK;
}

static mr_status read_entries(mr_tensors *t, const cJSON *root, int map, size_t data_start, mr_err *err) {
    const char *path = t->map_paths[map];
    if (!cJSON_IsObject(root))
        return mr_fail(err, MR_EDATA, "%s: byte 8 (header): is %s, want an object; this is no safetensors file", path,
                       mr_json_type_name(root));
    size_t n = 0, got = 0;
    for (const cJSON *e = root->child; e; e = e->next) n++;
    MR_TRY(mr_tensors_reserve(t, n, err));
    range *ranges = mr_try_alloc((n + 1) * sizeof *ranges);
    if (!ranges) return mr_fail(err, MR_ENOMEM, "%s: no memory for the names of %zu tensors", path, n);
    mr_status st = MR_OK;
    for (const cJSON *e = root->child; e && st == MR_OK; e = e->next) {
        if (!strcmp(e->string, "__metadata__"))
            st = read_metadata(e, path, err);
        else
            st = read_entry(t, e, map, data_start, &ranges[got++], err);
    }
    if (st == MR_OK) st = check_coverage(ranges, got, data_start, t->maps[map].len, path, err);
    mr_free(ranges);
    return st;
}

mr_status mr_safetensors_read_header(mr_tensors *t, int map, mr_err *err) {
    const char *path = t->map_paths[map];
    const mr_map *m = &t->maps[map];
    if (m->len < 8)
        return mr_fail(err, MR_EDATA,
                       "%s: byte 0 (header length): needs 8 bytes, %zu left: the file is cut; fetch it again", path,
                       m->len);
    uint64_t n;
    memcpy(&n, m->data, 8); /* little-endian, as every machine this runs on */
    if (n > max_header_bytes)
        return mr_fail(err, MR_EDATA,
                       "%s: byte 0 (header length): is %" PRIu64 ", at most %d are allowed; this is no safetensors "
                       "file, or it is damaged: fetch it again",
                       path, n, max_header_bytes);
    if (n > m->len - 8)
        return mr_fail(err, MR_EDATA,
                       "%s: byte 8 (header): needs %" PRIu64 " bytes, %zu left: the file is cut; fetch it again", path,
                       n, m->len - 8);
    char place[512];
    snprintf(place, sizeof place, "%s: header", path);
    cJSON *root = NULL;
    MR_TRY(mr_json_parse(&root, (const char *)m->data + 8, (size_t)n, place, err));
    mr_status st = read_entries(t, root, map, 8 + (size_t)n, err);
    cJSON_Delete(root);
    return st;
}

/* ---- writing ---- */

typedef struct planned {
    const mr_tensor_out *tensor;
    const mr_value_type *type;
    size_t bytes;
} planned;

static int by_size_and_name(const void *a, const void *b) {
    const planned *x = a, *y = b;
    if (x->type->bytes != y->type->bytes) return y->type->bytes - x->type->bytes;
    return strcmp(x->tensor->name, y->tensor->name);
}

static mr_status plan_tensor(planned *p, const mr_tensor_out *tensor, const char *path, mr_err *err) {
    p->tensor = tensor;
    p->type = mr_value_type_named(tensor->type);
    if (!p->type || p->type->block != 1)
        return mr_fail(err, MR_EINVAL, "%s: tensor \"%s\" has type \"%s\", which is not written", path, tensor->name,
                       tensor->type);
    if (!strcmp(tensor->name, "__metadata__") || strlen(tensor->name) > max_name_bytes)
        return mr_fail(err, MR_EINVAL, "%s: \"%.64s\" is no name for a tensor", path, tensor->name);
    size_t count = 1;
    for (int k = 0; k < tensor->n_dims; k++)
        if (tensor->dims[k] < 0 || !mr_mul_size(&count, count, (size_t)tensor->dims[k]))
            return mr_fail(err, MR_EINVAL, "%s: tensor \"%s\": dimension %d is %" PRId64, path, tensor->name, k,
                           tensor->dims[k]);
    if (!mr_mul_size(&p->bytes, count, (size_t)p->type->bytes))
        return mr_fail(err, MR_EINVAL, "%s: tensor \"%s\" is too large", path, tensor->name);
    return MR_OK;
}

static mr_status put_header(mr_str *s, const planned *p, int n, const cJSON *metadata, const char *path, mr_err *err) {
    mr_str_puts(s, "{\"__metadata__\":{\"format\":\"pt\"");
    for (const cJSON *e = metadata ? metadata->child : NULL; e; e = e->next) {
        if (!strcmp(e->string, "format")) continue;
        if (!cJSON_IsString(e))
            return mr_fail(err, MR_EINVAL, "%s: metadata \"%.64s\" is %s, want a string", path, e->string,
                           mr_json_type_name(e));
        mr_str_puts(s, ",");
        mr_json_put_string(s, e->string, strlen(e->string));
        mr_str_puts(s, ":");
        mr_json_put_string(s, e->valuestring, strlen(e->valuestring));
    }
    mr_str_puts(s, "}");
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        const mr_tensor_out *t = p[i].tensor;
        if (i > 0 && !strcmp(t->name, p[i - 1].tensor->name))
            return mr_fail(err, MR_EINVAL, "%s: two tensors are called \"%s\"", path, t->name);
        mr_str_puts(s, ",");
        mr_json_put_string(s, t->name, strlen(t->name));
        mr_str_printf(s, ":{\"dtype\":\"%s\",\"shape\":[", t->type);
        for (int k = 0; k < t->n_dims; k++) mr_str_printf(s, "%s%" PRId64, k ? "," : "", t->dims[k]);
        mr_str_printf(s, "],\"data_offsets\":[%zu,%zu]}", at, at + p[i].bytes);
        at += p[i].bytes;
    }
    mr_str_puts(s, "}");
    while (s->len % 8) mr_str_puts(s, " ");
    return MR_OK;
}

mr_status mr_safetensors_header(mr_str *json, size_t *bytes, const mr_tensor_out *tensors, int n, const char *path,
                                mr_err *err) {
    planned *p = mr_alloc(((size_t)n + 1) * sizeof *p);
    mr_status st = MR_OK;
    for (int i = 0; i < n && st == MR_OK; i++) {
        st = plan_tensor(&p[i], &tensors[i], path, err);
        bytes[i] = p[i].bytes;
    }
    if (st == MR_OK) st = put_header(json, p, n, NULL, path, err);
    mr_free(p);
    return st;
}

mr_status mr_safetensors_write(const char *path, const mr_tensor_out *tensors, int n, const cJSON *metadata,
                               mr_err *err) {
    planned *p = mr_alloc(((size_t)n + 1) * sizeof *p);
    mr_str header = { 0 };
    uint8_t *file = NULL;
    mr_status st = MR_OK;
    size_t bytes = 0;
    for (int i = 0; i < n && st == MR_OK; i++) {
        st = plan_tensor(&p[i], &tensors[i], path, err);
        if (st == MR_OK && !mr_add_size(&bytes, bytes, p[i].bytes))
            st = mr_fail(err, MR_EINVAL, "%s: the tensors are too large for one file", path);
    }
    if (st == MR_OK) {
        qsort(p, (size_t)n, sizeof *p, by_size_and_name);
        st = put_header(&header, p, n, metadata, path, err);
    }
    if (st == MR_OK) {
        bytes += 8 + header.len;
        file = mr_try_alloc(bytes);
        if (!file) st = mr_fail(err, MR_ENOMEM, "%s: no memory for %zu bytes to write", path, bytes);
    }
    if (st == MR_OK) {
        const uint64_t header_bytes = header.len;
        uint8_t *at = file + 8 + header.len;
        memcpy(file, &header_bytes, 8);
        memcpy(file + 8, header.data, header.len);
        for (int i = 0; i < n; at += p[i].bytes, i++)
            if (p[i].bytes) memcpy(at, p[i].tensor->data, p[i].bytes);
        st = mr_file_write(path, file, bytes, err);
    }
    mr_free(file);
    mr_free(p);
    mr_str_clear(&header);
    return st;
}
