/* tensors.c - one handle over whichever container a model came in: opening, finding, reading rows as f32, hashing. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/rng.h"
#include "files/tensors_impl.h"

enum { max_shards = 4096, max_index_bytes = 64 << 20 };

/* ---- name table ---- */

mr_status mr_name_table_open(mr_name_table *t, size_t n_names, mr_err *err) {
    t->n_slots = 16;
    while (t->n_slots < 2 * n_names) t->n_slots *= 2;
    t->slot = mr_try_alloc(t->n_slots * sizeof *t->slot);
    if (!t->slot) return mr_fail(err, MR_ENOMEM, "no memory for a table of %zu names", n_names);
    memset(t->slot, 0xff, t->n_slots * sizeof *t->slot);
    return MR_OK;
}

static int32_t *slot_of(const mr_name_table *t, const char *name, const char *(*name_at)(const void *, int32_t),
                        const void *ctx) {
    size_t i = (size_t)mr_hash64(name, strlen(name)) & (t->n_slots - 1);
    while (t->slot[i] >= 0 && strcmp(name_at(ctx, t->slot[i]), name)) i = (i + 1) & (t->n_slots - 1);
    return &t->slot[i];
}

int32_t mr_name_table_find(const mr_name_table *t, const char *name, const char *(*name_at)(const void *, int32_t),
                           const void *ctx) {
    return *slot_of(t, name, name_at, ctx);
}

bool mr_name_table_add(mr_name_table *t, const char *name, int32_t number,
                       const char *(*name_at)(const void *, int32_t), const void *ctx) {
    int32_t *slot = slot_of(t, name, name_at, ctx);
    if (*slot >= 0) return false;
    *slot = number;
    return true;
}

/* ---- entries ---- */

mr_status mr_tensors_reserve(mr_tensors *t, size_t n_more, mr_err *err) {
    const size_t want = (size_t)t->n_entries + n_more;
    if (want <= (size_t)t->cap_entries) return MR_OK;
    if (want > INT32_MAX / 2) return mr_fail(err, MR_EDATA, "%s: has %zu tensors, which is too many", t->path, want);
    mr_tensor_entry *entries = mr_try_alloc(want * sizeof *entries);
    if (!entries) return mr_fail(err, MR_ENOMEM, "%s: no memory for the names of %zu tensors", t->path, want);
    if (t->n_entries) memcpy(entries, t->entries, (size_t)t->n_entries * sizeof *entries);
    mr_free(t->entries);
    t->entries = entries;
    t->cap_entries = (int)want;
    return MR_OK;
}

static const char *entry_name(const void *ctx, int32_t i) {
    return ((const mr_tensors *)ctx)->entries[i].info.name;
}

mr_status mr_tensors_index(mr_tensors *t, mr_err *err) {
    MR_TRY(mr_name_table_open(&t->table, (size_t)t->n_entries, err));
    for (int i = 0; i < t->n_entries; i++)
        if (!mr_name_table_add(&t->table, entry_name(t, i), i, entry_name, t))
            return mr_fail(
                err, MR_EDATA,
                "%s: byte 8 (tensor \"%.128s\"): occurs twice, want unique names; the model is damaged: fetch it again",
                t->map_paths[t->entries[i].map], entry_name(t, i));
    return MR_OK;
}

/* ---- open ---- */

static mr_status open_maps(mr_tensors *t, char **paths, int n, mr_err *err) {
    t->maps = mr_try_alloc(((size_t)n + 1) * sizeof *t->maps);
    t->map_paths = mr_try_alloc(((size_t)n + 1) * sizeof *t->map_paths);
    if (!t->maps || !t->map_paths) return mr_fail(err, MR_ENOMEM, "%s: no memory to open it", t->path);
    for (int i = 0; i < n; i++) {
        MR_TRY(mr_map_open(&t->maps[i], paths[i], err));
        t->map_paths[i] = mr_strdup(paths[i]);
        t->n_maps = i + 1;
    }
    return MR_OK;
}

static mr_status open_one(mr_tensors *t, const char *path, mr_err *err) {
    char *paths[1] = { (char *)(uintptr_t)path };
    MR_TRY(open_maps(t, paths, 1, err));
    t->is_gguf = (t->maps[0].len >= 4 && !memcmp(t->maps[0].data, "GGUF", 4)) || mr_ends_with(path, ".gguf");
    MR_TRY(t->is_gguf ? mr_gguf_read_header(t, err) : mr_safetensors_read_header(t, 0, err));
    MR_TRY(mr_tensors_index(t, err));
    return t->is_gguf ? MR_OK : mr_nf4_fold(t, err);
}

static bool is_plain_file_name(const char *s) {
    return *s && *s != '.' && strlen(s) <= 255 && !strpbrk(s, "/\\");
}

static int find_text(char *const *list, int n, const char *text) {
    for (int i = 0; i < n; i++)
        if (!strcmp(list[i], text)) return i;
    return -1;
}

/* The shard names of the index, each once, sorted, so that hashes do not depend on the order of the index. */
static mr_status list_shards(char **names, int *n_names, const cJSON *map, const char *index_path, mr_err *err) {
    for (const cJSON *e = map->child; e; e = e->next) {
        if (!cJSON_IsString(e) || !is_plain_file_name(e->valuestring))
            return mr_fail(err, MR_EDATA,
                           "%s: weight_map: \"%.128s\" does not name a file of the same folder; fetch the model again",
                           index_path, e->string);
        if (find_text(names, *n_names, e->valuestring) >= 0) continue;
        if (*n_names == max_shards)
            return mr_fail(err, MR_EDATA, "%s: weight_map: names more than %d files; fetch the model again", index_path,
                           max_shards);
        int at = (*n_names)++;
        for (; at > 0 && strcmp(names[at - 1], e->valuestring) > 0; at--) names[at] = names[at - 1];
        names[at] = e->valuestring;
    }
    if (*n_names == 0)
        return mr_fail(err, MR_EDATA, "%s: weight_map: names no file; fetch the model again", index_path);
    return MR_OK;
}

static mr_status open_shards(mr_tensors *t, const char *folder, const cJSON *map, const char *index_path, mr_err *err) {
    if (!cJSON_IsObject(map))
        return mr_fail(err, MR_EDATA, "%s: field \"weight_map\" is %s, want an object; fetch the model again",
                       index_path, mr_json_type_name(map));
    char **names = mr_alloc(max_shards * sizeof *names); /* borrowed from the JSON tree */
    int n = 0;
    mr_status st = list_shards(names, &n, map, index_path, err);
    if (st == MR_OK) {
        for (int i = 0; i < n; i++) names[i] = mr_path_join(folder, names[i]);
        st = open_maps(t, names, n, err);
        if (st == MR_ENOTFOUND) st = mr_wrap(err, st, "%s: a shard is missing; fetch the model again", index_path);
        for (int i = 0; i < n; i++) mr_free(names[i]);
    }
    mr_free(names);
    MR_TRY(st);
    for (int i = 0; i < t->n_maps; i++) MR_TRY(mr_safetensors_read_header(t, i, err));
    MR_TRY(mr_tensors_index(t, err));
    for (const cJSON *e = map->child; e; e = e->next) {
        const int32_t i = mr_name_table_find(&t->table, e->string, entry_name, t);
        if (i < 0 || strcmp(mr_path_name(t->map_paths[t->entries[i].map]), e->valuestring))
            return mr_fail(err, MR_EDATA, "%s: weight_map: tensor \"%.128s\" is not in %.128s; fetch the model again",
                           index_path, e->string, e->valuestring);
    }
    return mr_nf4_fold(t, err);
}

static mr_status open_folder(mr_tensors *t, const char *folder, mr_err *err) {
    char *single = mr_path_join(folder, "model.safetensors"),
         *index = mr_path_join(folder, "model.safetensors.index.json");
    char *pickle = mr_path_join(folder, "pytorch_model.bin");
    mr_status st;
    if (mr_path_exists(single)) {
        st = open_one(t, single, err);
    } else if (mr_path_exists(index)) {
        cJSON *root = NULL;
        st = mr_json_load(&root, index, max_index_bytes, err);
        if (st == MR_OK) st = open_shards(t, folder, cJSON_GetObjectItemCaseSensitive(root, "weight_map"), index, err);
        cJSON_Delete(root);
    } else if (mr_path_exists(pickle)) {
        st = mr_fail(err, MR_ENOTFOUND,
                     "%s: holds pytorch_model.bin, a pickle, which is not read; want model.safetensors: convert it",
                     folder);
    } else {
        st = mr_fail(
            err, MR_ENOTFOUND,
            "%s: holds no model.safetensors and no model.safetensors.index.json; give a model folder or a .gguf file",
            folder);
    }
    mr_free(single);
    mr_free(index);
    mr_free(pickle);
    return st;
}

mr_status mr_tensors_open(mr_tensors **out, const char *path, mr_err *err) {
    *out = NULL;
    mr_tensors *t = mr_try_alloc(sizeof *t);
    if (!t) return mr_fail(err, MR_ENOMEM, "%s: no memory to open it", path);
    t->path = mr_strdup(path);
    mr_status st = mr_path_is_dir(path) ? open_folder(t, path, err) : open_one(t, path, err);
    if (st != MR_OK) {
        mr_tensors_close(t);
        return st;
    }
    *out = t;
    return MR_OK;
}

void mr_tensors_close(mr_tensors *t) {
    if (!t) return;
    for (int i = 0; i < t->n_maps; i++) {
        mr_map_close(&t->maps[i]);
        mr_free(t->map_paths[i]);
    }
    for (int i = 0; i < t->n_values; i++) mr_free(t->values[i].string_at);
    mr_free(t->maps);
    mr_free(t->map_paths);
    mr_free(t->entries);
    mr_free(t->values);
    mr_free(t->table.slot);
    mr_free(t->value_table.slot);
    mr_arena_clear(&t->arena);
    mr_free(t->path);
    mr_free(t);
}

/* ---- use ---- */

int mr_tensors_count(const mr_tensors *t) {
    return t->n_entries;
}

const mr_tensor_info *mr_tensors_at(const mr_tensors *t, int index) {
    return index >= 0 && index < t->n_entries ? &t->entries[index].info : NULL;
}

const mr_tensor_info *mr_tensors_find(const mr_tensors *t, const char *name) {
    const int32_t i = mr_name_table_find(&t->table, name, entry_name, t);
    return i < 0 ? NULL : &t->entries[i].info;
}

/* Row r of Hugging Face's order, r = i + j*d/2 within its head of d rows, lies at 2*i + j in the file (models.md
 * 1.3). */
static int64_t stored_row(int64_t r, int head_rows) {
    const int64_t in_head = r % head_rows, half = head_rows / 2;
    return r - in_head + 2 * (in_head % half) + in_head / half;
}

mr_status mr_tensors_read(const mr_tensors *t, const mr_tensor_info *info, float *dst, int64_t row, int64_t n,
                          mr_err *err) {
    const mr_tensor_entry *e = (const mr_tensor_entry *)info;
    const int64_t rows = info->n_dims < 2 ? 1 : info->dims[0];
    size_t len = info->n_dims == 1 ? (size_t)info->dims[0] : 1;
    for (int k = 1; k < info->n_dims; k++) len *= (size_t)info->dims[k];
    if (row < 0 || n < 0 || row > rows || n > rows - row)
        return mr_fail(err, MR_EINVAL,
                       "%s: tensor \"%s\" has %" PRId64 " rows, %" PRId64 " from row %" PRId64 " on were asked for",
                       t->map_paths[e->map], info->name, rows, n, row);
    if (!e->type->decode)
        return mr_fail(err, MR_EDATA,
                       "%s: tensor \"%s\" is %s, which is not read, want F32, F16 or BF16; convert the model",
                       t->map_paths[e->map], info->name, info->type);
    if (n == 0 || len == 0) return MR_OK;
    if (e->nf4) {
        mr_nf4_read(dst, e->nf4, row * (int64_t)len, n * (int64_t)len);
        return MR_OK;
    }
    const uint8_t *data = info->data;
    const size_t row_bytes = len / (size_t)e->type->block * (size_t)e->type->bytes;
    if (!e->head_rows) {
        e->type->decode(dst, data + (size_t)row * row_bytes, (size_t)n * len);
    } else if (info->n_dims >= 2) {
        for (int64_t i = 0; i < n; i++)
            e->type->decode(dst + (size_t)i * len, data + (size_t)stored_row(row + i, e->head_rows) * row_bytes, len);
    } else { /* a bias: its elements are the rows */
        float *stored = mr_try_alloc(len * sizeof *stored);
        if (!stored) return mr_fail(err, MR_ENOMEM, "%s: no memory for \"%s\"", t->map_paths[e->map], info->name);
        e->type->decode(stored, data, len);
        for (size_t i = 0; i < len; i++) dst[i] = stored[stored_row((int64_t)i, e->head_rows)];
        mr_free(stored);
    }
    return MR_OK;
}

const mr_tensor_nf4 *mr_tensors_nf4(const mr_tensor_info *info) {
    return ((const mr_tensor_entry *)info)->nf4;
}

void mr_tensors_drop(const mr_tensors *t, const mr_tensor_info *info) {
    const mr_tensor_entry *e = (const mr_tensor_entry *)info;
    const mr_map *m = &t->maps[e->map];
    const size_t from = (size_t)((const uint8_t *)info->data - m->data);
    if (info->bytes) mr_map_drop(m, from, info->bytes);
}

/* A hub's cache links a file's name to a blob that is named by its SHA-256. */
static bool named_by_hash(char hash[65], const char *path) {
    char target[4096];
    const ssize_t n = readlink(path, target, sizeof target - 1);
    if (n < 64) return false;
    target[n] = '\0';
    const char *name = mr_path_name(target);
    if (strlen(name) != 64 || strspn(name, "0123456789abcdef") != 64) return false;
    memcpy(hash, name, 65);
    return true;
}

static mr_status add_identity(mr_sha *sha, const char *path, const mr_map *m, mr_err *err) {
    enum { HEADER = 1 << 20, PIECE = 1 << 16, PIECES = 16 };
    struct stat info;
    char hash[65], line[512];
    if (stat(path, &info) != 0) return mr_fail_errno(err, "%s", path);
    const bool named = named_by_hash(hash, path);
    if (!named)
        snprintf(hash, sizeof hash, "%lld.%09ld", (long long)info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
    const int n = snprintf(line, sizeof line, "%.300s %zu %s\n", mr_path_name(path), m->len, hash);
    mr_sha_add(sha, line, (size_t)n);
    size_t header = m->len < HEADER ? m->len : HEADER;
    mr_sha_add(sha, m->data, header);
    for (size_t i = 1; !named && i <= PIECES && m->len > HEADER + PIECE; i++)
        mr_sha_add(sha, m->data + (m->len - PIECE) / PIECES * i, PIECE);
    return MR_OK;
}

mr_status mr_tensors_identity(const mr_tensors *t, char hex[65], mr_err *err) {
    mr_sha *sha = mr_sha_new();
    mr_status st = MR_OK;
    for (int i = 0; i < t->n_maps && st == MR_OK; i++) st = add_identity(sha, t->map_paths[i], &t->maps[i], err);
    mr_sha_end(sha, hex);
    return st;
}

bool mr_tensors_is_gguf(const mr_tensors *t) {
    return t && t->is_gguf;
}

const char *mr_tensors_path(const mr_tensors *t) {
    return t->path;
}
