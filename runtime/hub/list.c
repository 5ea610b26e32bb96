/* list.c - what a repository holds at a revision: the hub's answers, checked field by field.
 *
 *     GET /api/models/org/name/revision/REV          {"sha": COMMIT, ...}
 *     GET /api/models/org/name/tree/COMMIT?recursive [{"type": "file", "path", "size", "oid", "lfs": {"oid", "size"}}],
 *                                                    further pages behind Link: <...>; rel="next" */
#include <string.h>

#include "base/json.h"
#include "hub/hub_impl.h"

enum { ANSWER_MAX = 32 << 20, PAGES_MAX = 1000, ENTRIES_MAX = 200000 };

static mr_status answer_json(hub *h, cJSON **out, mr_hub_reply *reply, const char *url, mr_err *err) {
    mr_str body = { 0 };
    char shown[256];
    mr_hub_url_shown(shown, url);
    *out = NULL;
    mr_status st = hub_get(h, &body, reply, url, ANSWER_MAX, err);
    if (st == MR_OK && strcmp(reply->type, "text/html") == 0)
        st = mr_fail(err, MR_EDATA,
                     "%s: the answer is a page for a browser, not the hub's list; does this network want a login, or is "
                     "HF_ENDPOINT wrong?", shown);
    if (st == MR_OK) st = mr_json_parse(out, body.data ? body.data : "", body.len, shown, err);
    mr_str_clear(&body);
    return st;
}

static mr_status read_commit(hub *h, mr_hub_reply *reply, mr_err *err) {
    mr_str rest = { 0 };
    mr_str_puts(&rest, "/revision/");
    mr_hub_escape(&rest, h->name.revision, false);
    char *url = hub_url(h, false, rest.data), shown[256];
    mr_hub_url_shown(shown, url);
    cJSON *o;
    mr_status st = answer_json(h, &o, reply, url, err);
    const char *sha = NULL;
    if (st == MR_OK) st = mr_json_get_string(&sha, o, "sha", shown, err);
    if (st == MR_OK && !mr_hub_is_hex(sha, 40))
        st = mr_fail(err, MR_EDATA, "%s: field \"sha\" is no commit, want 40 hex digits", shown);
    if (st == MR_OK) strcpy(h->commit, sha);
    cJSON_Delete(o);
    mr_free(url);
    mr_str_clear(&rest);
    return st;
}

static mr_status read_entry(hub_list *list, const cJSON *o, const char *place, mr_err *err) {
    const char *type, *path, *oid;
    int64_t size;
    if (!cJSON_IsObject(o)) return mr_fail(err, MR_EDATA, "%s: an entry is %s, want an object", place, mr_json_type_name(o));
    MR_TRY(mr_json_get_string(&type, o, "type", place, err));
    if (strcmp(type, "file") != 0) return MR_OK;
    MR_TRY(mr_json_get_string(&path, o, "path", place, err));
    MR_TRY(mr_json_get_string(&oid, o, "oid", place, err));
    MR_TRY(mr_json_get_int(&size, o, "size", 0, INT64_C(1) << 50, place, err));
    const cJSON *lfs = cJSON_GetObjectItemCaseSensitive(o, "lfs");
    bool large = cJSON_IsObject(lfs);
    if (large) {
        MR_TRY(mr_json_get_string(&oid, lfs, "oid", place, err));
        MR_TRY(mr_json_get_int(&size, lfs, "size", 0, INT64_C(1) << 50, place, err));
        if (strncmp(oid, "sha256:", 7) == 0) oid += 7;
    }
    if (!mr_hub_is_hex(oid, large ? 64 : 40))
        return mr_fail(err, MR_EDATA, "%s: \"%.200s\" has no hash that could be checked", place, path);
    if (list->n >= ENTRIES_MAX)
        return mr_fail(err, MR_EDATA, "%s: more than %d files, the most that medrl reads", place, ENTRIES_MAX);
    if (list->n == list->cap) {
        list->cap = list->cap ? 2 * list->cap : 64;
        list->items = mr_realloc(list->items, (size_t)list->cap * sizeof *list->items);
    }
    hub_entry *e = &list->items[list->n++];
    *e = (hub_entry){ .path = mr_strdup(path), .sha256 = large, .size = size };
    strcpy(e->hash, oid);
    return MR_OK;
}

static mr_status read_page(hub *h, hub_list *list, mr_hub_reply *reply, const char *url, mr_err *err) {
    cJSON *page;
    char shown[256];
    mr_hub_url_shown(shown, url);
    mr_status st = answer_json(h, &page, reply, url, err);
    if (st == MR_OK && !cJSON_IsArray(page))
        st = mr_fail(err, MR_EDATA, "%s: the list of files is %s, want an array", shown, mr_json_type_name(page));
    for (const cJSON *o = st == MR_OK ? page->child : NULL; o && st == MR_OK; o = o->next)
        st = read_entry(list, o, shown, err);
    cJSON_Delete(page);
    return st;
}

mr_status hub_list_read(hub *h, hub_list *list, mr_err *err) {
    *list = (hub_list){ 0 };
    mr_hub_reply *reply = mr_alloc(sizeof *reply);
    mr_status st = read_commit(h, reply, err);
    char *rest = mr_asprintf("/tree/%s?recursive=true", h->commit), *url = hub_url(h, false, rest), *next = NULL;
    if (st == MR_OK) next = mr_strdup(url);
    for (int page = 0; st == MR_OK && next; page++) {
        if (page == PAGES_MAX) {
            st = mr_fail(err, MR_EDATA, "%s: the list of files has no end", h->name.repo);
            break;
        }
        st = read_page(h, list, reply, next, err);
        char *from = next;
        next = NULL;
        /* the next page is the endpoint's own business: never another host */
        if (st == MR_OK && reply->next[0]) {
            char to[MR_HUB_URL_MAX];
            st = mr_hub_redirect(to, from, reply->next, h->setup.endpoint, err);
            if (st == MR_OK && !mr_hub_same_origin(to, h->setup.endpoint))
                st = mr_fail(err, MR_EREFUSED, "%s: the rest of the list of files is on another host; not followed",
                             h->name.repo);
            if (st == MR_OK) next = mr_strdup(to);
        }
        mr_free(from);
    }
    mr_free(next);
    mr_free(rest);
    mr_free(url);
    mr_free(reply);
    if (st != MR_OK) hub_list_clear(list);
    return st;
}

void hub_list_clear(hub_list *list) {
    for (int i = 0; i < list->n; i++) mr_free(list->items[i].path);
    mr_free(list->items);
    *list = (hub_list){ 0 };
}
