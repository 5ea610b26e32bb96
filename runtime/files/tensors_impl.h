/* tensors_impl.h - what the container readers (safetensors.c, gguf.c) fill and tensors.c serves. Not for other layers.
 *
 * A reader appends to `entries`; mr_tensors_index then checks that names are unique and builds the table. Entries hold
 * borrowed names (arena) and point into the mappings. */
#ifndef MR_TENSORS_IMPL_H
#define MR_TENSORS_IMPL_H

#include "base/fsafe.h"
#include "files/tensors.h"

/* How a stored type reads: blocks of `block` elements in `bytes` bytes. decode writes n elements (whole blocks); NULL
 * when medrl knows the size of the type only. */
typedef struct mr_value_type {
    const char *name;
    int gguf_id; /* -1: not a GGUF type */
    bool in_safetensors;
    int block, bytes;
    void (*decode)(float *dst, const uint8_t *src, size_t n);
} mr_value_type;

const mr_value_type *mr_value_type_named(const char *safetensors_name);
const mr_value_type *mr_value_type_of_gguf(uint32_t id); /* NULL when unknown; decode may be NULL */

typedef struct mr_tensor_entry {
    mr_tensor_info info; /* first: an mr_tensor_info of this handle is its entry */
    const mr_value_type *type;
    int map;       /* which mapping holds the data */
    int head_rows; /* > 0: rows lie in the interleaved order of llama GGUFs, heads of this many rows */
    const mr_tensor_nf4 *nf4; /* in the arena; NULL: not of this kind */
} mr_tensor_entry;

typedef struct mr_gguf_value {
    const char *key;
    uint32_t type, elem; /* elem: of an array */
    uint64_t count;      /* elements of an array, 1 otherwise */
    size_t at;           /* byte of the value, of the first element of an array */
    uint64_t *string_at; /* array of strings: byte of each element's length */
} mr_gguf_value;

/* Names to numbers: open addressing, -1 is free. */
typedef struct mr_name_table {
    int32_t *slot;
    size_t n_slots; /* a power of two, at least twice the names */
} mr_name_table;
mr_status mr_name_table_open(mr_name_table *t, size_t n_names, mr_err *err);
/* The number of `name`, or -1, in a table that was opened. names are fetched with name_at(ctx, number). */
int32_t mr_name_table_find(const mr_name_table *t, const char *name, const char *(*name_at)(const void *, int32_t),
                           const void *ctx);
/* False when it is there already; adds it otherwise. */
bool mr_name_table_add(mr_name_table *t, const char *name, int32_t number,
                       const char *(*name_at)(const void *, int32_t), const void *ctx);

struct mr_tensors {
    char *path;
    bool is_gguf;
    mr_map *maps; /* in the order of their file names */
    char **map_paths;
    int n_maps;
    mr_tensor_entry *entries;
    int n_entries, cap_entries;
    mr_name_table table;
    mr_arena arena;        /* names */
    mr_gguf_value *values; /* GGUF metadata */
    int n_values;
    mr_name_table value_table;
};

mr_status mr_tensors_reserve(mr_tensors *t, size_t n_more, mr_err *err);
mr_status mr_tensors_index(mr_tensors *t, mr_err *err);

/* One file each, already mapped as t->maps[map]. */
mr_status mr_safetensors_read_header(mr_tensors *t, int map, mr_err *err);
mr_status mr_gguf_read_header(mr_tensors *t, mr_err *err);

/* nf4.c: the parts of each 4-bit linear become one tensor; after mr_tensors_index. */
mr_status mr_nf4_fold(mr_tensors *t, mr_err *err);
/* dst[count] = elements from `at` on. */
void mr_nf4_read(float *dst, const mr_tensor_nf4 *q, int64_t at, int64_t count);

/* The header of a file with these tensors in their order, and the bytes of each (writer.c). */
mr_status mr_safetensors_header(mr_str *json, size_t *bytes, const mr_tensor_out *tensors, int n, const char *path,
                                mr_err *err);

/* Bulk forms of the half conversions. */
void mr_f16_decode(float *dst, const uint8_t *src, size_t n);
void mr_bf16_decode(float *dst, const uint8_t *src, size_t n);

#endif
