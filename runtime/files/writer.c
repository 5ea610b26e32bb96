/* writer.c - see writer.h. */
#include "files/writer.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "files/quantize.h"
#include "files/tensors_impl.h"

enum { GGUF_ALIGNMENT = 32, GGUF_NAME_MOST = 63 };
enum { T_U32 = 4, T_I32 = 5, T_F32 = 6, T_BOOL = 7, T_STRING = 8, T_ARRAY = 9 };

struct mr_writer {
    char *path;
    int fd;
    size_t *bytes; /* of each tensor */
    int n, alignment;
    int at;       /* the tensor that is being written */
    size_t done;  /* of it */
    size_t whole; /* bytes of the file */
};

/* ---- metadata ---- */

static void put_u32(mr_str *s, uint32_t x) {
    mr_str_add(s, &x, 4);
}

static void put_u64(mr_str *s, uint64_t x) {
    mr_str_add(s, &x, 8);
}

static void put_text(mr_str *s, const char *text, size_t len) {
    put_u64(s, len);
    mr_str_add(s, text, len);
}

static mr_str *put_key(mr_gguf_meta *m, const char *key, uint32_t type) {
    put_text(&m->bytes, key, strlen(key));
    put_u32(&m->bytes, type);
    m->n++;
    return &m->bytes;
}

void mr_gguf_put_u32(mr_gguf_meta *m, const char *key, uint32_t x) {
    put_u32(put_key(m, key, T_U32), x);
}

void mr_gguf_put_f32(mr_gguf_meta *m, const char *key, float x) {
    mr_str_add(put_key(m, key, T_F32), &x, 4);
}

void mr_gguf_put_bool(mr_gguf_meta *m, const char *key, bool x) {
    const uint8_t byte = x;
    mr_str_add(put_key(m, key, T_BOOL), &byte, 1);
}

void mr_gguf_put_text(mr_gguf_meta *m, const char *key, const char *text) {
    put_text(put_key(m, key, T_STRING), text, strlen(text));
}

void mr_gguf_begin_texts(mr_gguf_meta *m, const char *key, uint64_t n) {
    mr_str *s = put_key(m, key, T_ARRAY);
    put_u32(s, T_STRING);
    put_u64(s, n);
}

void mr_gguf_add_text(mr_gguf_meta *m, const char *text, size_t len) {
    put_text(&m->bytes, text, len);
}

void mr_gguf_put_i32s(mr_gguf_meta *m, const char *key, const int32_t *x, size_t n) {
    mr_str *s = put_key(m, key, T_ARRAY);
    put_u32(s, T_I32);
    put_u64(s, n);
    mr_str_add(s, x, n * sizeof *x);
}

void mr_gguf_meta_clear(mr_gguf_meta *m) {
    mr_str_clear(&m->bytes);
    m->n = 0;
}

/* ---- files ---- */

static mr_status create(mr_writer **out, const char *path, int n, int alignment, mr_err *err) {
    *out = NULL;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0) {
        mr_fail_errno(err, "%s: could not be created", path);
        return MR_EIO;
    }
    mr_writer *w = mr_alloc(sizeof *w);
    w->path = mr_strdup(path);
    w->fd = fd;
    w->bytes = mr_alloc((size_t)(n + 1) * sizeof *w->bytes);
    w->n = n;
    w->alignment = alignment;
    *out = w;
    return MR_OK;
}

static size_t padding(const mr_writer *w, size_t bytes) {
    const size_t a = (size_t)w->alignment;
    return (a - bytes % a) % a;
}

static mr_status write_header(mr_writer *w, const mr_str *header, mr_err *err) {
    w->whole = header->len;
    for (int i = 0; i < w->n; i++)
        if (!mr_add_size(&w->whole, w->whole, w->bytes[i] + padding(w, w->bytes[i])))
            return mr_fail(err, MR_EINVAL, "%s: the tensors are too large for one file", w->path);
    while (w->at < w->n && w->bytes[w->at] == 0) w->at++;
    return mr_write_all(w->fd, header->data, header->len, w->path, err);
}

static mr_status put_gguf_tensor(mr_writer *w, mr_str *s, int i, const mr_tensor_out *t, uint64_t *offset,
                                 mr_err *err) {
    const mr_format *f = mr_format_named(t->type);
    size_t count = 1;
    if (!f || t->n_dims < 1 || t->dims[t->n_dims - 1] % f->block)
        return mr_fail(err, MR_EINVAL, "%s: tensor \"%s\" cannot be written as %s", w->path, t->name, t->type);
    if (strlen(t->name) > GGUF_NAME_MOST)
        return mr_fail(err, MR_EINVAL, "%s: \"%.80s\" is too long a name for a GGUF", w->path, t->name);
    put_text(s, t->name, strlen(t->name));
    put_u32(s, (uint32_t)t->n_dims);
    for (int k = t->n_dims - 1; k >= 0; k--) {
        put_u64(s, (uint64_t)t->dims[k]);
        if (t->dims[k] < 1 || !mr_mul_size(&count, count, (size_t)t->dims[k]))
            return mr_fail(err, MR_EINVAL, "%s: tensor \"%s\": dimension %d is %" PRId64, w->path, t->name, k,
                           t->dims[k]);
    }
    put_u32(s, (uint32_t)f->gguf_id);
    put_u64(s, *offset);
    w->bytes[i] = mr_format_bytes(f, count);
    *offset += w->bytes[i] + padding(w, w->bytes[i]);
    return MR_OK;
}

mr_status mr_gguf_create(mr_writer **out, const char *path, const mr_gguf_meta *meta, const mr_tensor_out *tensors,
                         int n, mr_err *err) {
    MR_TRY(create(out, path, n, GGUF_ALIGNMENT, err));
    mr_writer *w = *out;
    mr_str s = { 0 };
    uint64_t offset = 0;
    mr_status st = MR_OK;
    mr_str_puts(&s, "GGUF");
    put_u32(&s, 3);
    put_u64(&s, (uint64_t)n);
    put_u64(&s, meta->n);
    if (meta->bytes.len) mr_str_add(&s, meta->bytes.data, meta->bytes.len);
    for (int i = 0; i < n && st == MR_OK; i++) st = put_gguf_tensor(w, &s, i, &tensors[i], &offset, err);
    while (s.len % GGUF_ALIGNMENT) mr_str_add(&s, "", 1);
    if (st == MR_OK) st = write_header(w, &s, err);
    mr_str_clear(&s);
    if (st != MR_OK) {
        mr_writer_drop(w);
        *out = NULL;
    }
    return st;
}

mr_status mr_safetensors_create(mr_writer **out, const char *path, const mr_tensor_out *tensors, int n, mr_err *err) {
    MR_TRY(create(out, path, n, 1, err));
    mr_writer *w = *out;
    mr_str json = { 0 }, s = { 0 };
    mr_status st = mr_safetensors_header(&json, w->bytes, tensors, n, path, err);
    if (st == MR_OK) {
        put_text(&s, json.data, json.len); /* the header's length, then the header */
        st = write_header(w, &s, err);
    }
    mr_str_clear(&json);
    mr_str_clear(&s);
    if (st != MR_OK) {
        mr_writer_drop(w);
        *out = NULL;
    }
    return st;
}

mr_status mr_writer_put(mr_writer *w, const void *bytes, size_t len, mr_err *err) {
    static const uint8_t zeros[GGUF_ALIGNMENT];
    const uint8_t *p = bytes;
    while (len > 0) {
        if (w->at == w->n) return mr_fail(err, MR_EINTERNAL, "%s: more bytes than its tensors have", w->path);
        const size_t left = w->bytes[w->at] - w->done, n = len < left ? len : left;
        MR_TRY(mr_write_all(w->fd, p, n, w->path, err));
        p += n;
        len -= n;
        w->done += n;
        if (w->done < w->bytes[w->at]) continue;
        MR_TRY(mr_write_all(w->fd, zeros, padding(w, w->bytes[w->at]), w->path, err));
        w->done = 0;
        do w->at++;
        while (w->at < w->n && w->bytes[w->at] == 0);
    }
    return MR_OK;
}

size_t mr_writer_bytes(const mr_writer *w) {
    return w->whole;
}

static void release(mr_writer *w) {
    if (w->fd >= 0) close(w->fd);
    mr_free(w->bytes);
    mr_free(w->path);
    mr_free(w);
}

mr_status mr_writer_end(mr_writer *w, mr_err *err) {
    mr_status st = MR_OK;
    if (w->at < w->n)
        st = mr_fail(err, MR_EINTERNAL, "%s: tensor %d of %d has %zu of its %zu bytes", w->path, w->at + 1, w->n,
                     w->done, w->bytes[w->at]);
    else if (fsync(w->fd) != 0) {
        mr_fail_errno(err, "%s: could not be written to the disk", w->path);
        st = MR_EIO;
    }
    release(w);
    return st;
}

void mr_writer_drop(mr_writer *w) {
    if (!w) return;
    unlink(w->path);
    release(w);
}
