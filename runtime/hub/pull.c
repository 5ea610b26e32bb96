/* pull.c - mr_hub_pull: list, choose, ask, fetch, and only then the reference that makes it found. */
#include <string.h>
#include <sys/statvfs.h>

#include "base/proc.h"
#include "hub/blob.h"
#include "hub/hub_impl.h"

enum { INDEX_MAX = 64 << 20 };

/* model.safetensors.index.json as the list has it, in memory. */
static mr_status read_index(mr_str *text, hub *h, const hub_list *list, mr_err *err) {
    static const char name[] = "model.safetensors.index.json";
    const hub_entry *e = NULL;
    for (int i = 0; i < list->n; i++)
        if (strcmp(list->items[i].path, name) == 0) e = &list->items[i];
    if (!e) return mr_fail(err, MR_EINTERNAL, "%s: no %s", h->name.repo, name);
    mr_hub_reply *reply = mr_alloc(sizeof *reply);
    char *url = hub_url(h, true, name), hex[MR_HUB_HASH_MAX];
    mr_status st = hub_get(h, text, reply, url, INDEX_MAX, err);
    mr_free(url);
    mr_free(reply);
    if (st != MR_OK) return st;
    hub_hash *hash = hub_hash_new(e);
    hub_hash_add(hash, text->data ? text->data : "", text->len);
    if (!hub_hash_end(hash, hex) || (int64_t)text->len != e->size)
        return mr_fail(err, MR_EDATA, "%s: %s is not the file that the hub's list announces; try again", h->name.repo, name);
    return MR_OK;
}

static mr_status choose(hub *h, hub_list *list, mr_err *err) {
    bool needs_index;
    MR_TRY(hub_list_read(h, list, err));
    MR_TRY(hub_select(list, &needs_index, h, NULL, 0, err));
    if (!needs_index) return MR_OK;
    mr_str text = { 0 };
    mr_status st = read_index(&text, h, list, err);
    if (st == MR_OK) st = hub_select(list, &needs_index, h, text.data, text.len, err);
    mr_str_clear(&text);
    return st;
}

/* Takes what is here out of the list; counts. */
static mr_status look(mr_hub_result *out, int *missing, int64_t *bytes, int64_t *parts, hub *h, const hub_cache *c,
                      hub_list *list, mr_err *err) {
    *missing = 0;
    *bytes = *parts = 0;
    for (int i = 0; i < list->n; i++) {
        hub_entry *e = &list->items[i];
        bool has, good = true;
        if (!e->wanted) continue;
        out->files++;
        out->bytes += e->size;
        MR_TRY(hub_cache_has(&has, c, e, err));
        if (has && h->opts.verify) MR_TRY(hub_cache_verify(&good, c, e, err));
        if (has && !good) hub_cache_remove(c, e);
        if (h->opts.stop && h->opts.stop(h->opts.self))
            return mr_fail(err, MR_ESIGNAL, "%s: stopped", h->name.repo);
        e->wanted = !has || !good;
        if (!e->wanted) continue;
        ++*missing;
        *bytes += e->size;
        *parts += hub_cache_part_bytes(c, e);
    }
    return MR_OK;
}

static mr_status check_room(const hub *h, int64_t needed, mr_err *err) {
    struct statvfs v;
    if (statvfs(h->setup.root, &v) != 0 || needed <= 0) return MR_OK;
    double room = (double)v.f_bavail * (double)v.f_frsize;
    if (room >= (double)needed) return MR_OK;
    return mr_fail(err, MR_EIO, "%s: %.2f GB are missing, and %s has room for %.2f GB; free some, or set HF_HUB_CACHE to "
                                "another disk", h->name.repo, (double)needed / 1e9, h->setup.root, room / 1e9);
}

static mr_status pull(mr_hub_result *out, hub *h, hub_cache *c, hub_list *list, mr_err *err) {
    int missing;
    int64_t bytes, parts;
    hub_transfer_result r;
    MR_TRY(choose(h, list, err));
    MR_TRY(hub_cache_open(c, h, err));
    MR_TRY(look(out, &missing, &bytes, &parts, h, c, list, err));
    if (missing && h->opts.agree && !h->opts.agree(h->opts.self, missing, bytes, h->setup.root)) {
        char *command = mr_hub_command(&h->name);
        mr_status st = mr_fail(err, MR_EINVAL, "%s was not downloaded; `%s` does it", h->name.repo, command);
        mr_free(command);
        return st;
    }
    double start = mr_now_s();
    MR_TRY(check_room(h, bytes - parts, err));
    mr_status st = hub_transfer(&r, h, c, list, err);
    out->fetched_files = r.fetched_files;
    out->fetched_bytes = r.fetched_bytes;
    out->seconds = mr_now_s() - start;
    MR_TRY(st);
    MR_TRY(hub_cache_ref(c, h->name.revision, h->commit, err));
    strcpy(out->commit, h->commit);
    char *snapshots = mr_asprintf("%s/%s/snapshots/%s", c->root, c->folder, h->commit);
    out->dir = snapshots;
    return MR_OK;
}

mr_status mr_hub_pull(mr_hub_result *out, const mr_hub_name *name, const mr_hub_opts *opts, mr_err *err) {
    static const mr_hub_opts none;
    hub h;
    hub_cache c = { .repo = -1, .blobs = -1, .snapshot = -1, .locks = -1 };
    hub_list list = { 0 };
    *out = (mr_hub_result){ 0 };
    MR_TRY(hub_open(&h, name, opts ? opts : &none, err));
    mr_status st = pull(out, &h, &c, &list, err);
    hub_cache_close(&c);
    hub_list_clear(&list);
    hub_close(&h);
    return st;
}

void mr_hub_result_clear(mr_hub_result *r) {
    mr_free(r->dir);
    *r = (mr_hub_result){ 0 };
}
