/* template.c - chat templates in a worker process: see script.h. The worker's side is lua/medrl/template.lua. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "script/pool_impl.h"
#include "text/jinja.h"

/* The name of a compiled template in the worker; messages get the place instead of it. */
#define CHUNK "template"
enum { SOURCE_MOST = 4 << 20 };
static const double YOUNG_LIMIT_S = 1.0; /* as in reload.c */

struct mr_template {
    mr_chat chat;
    mr_pool limits; /* only its opts are used: what mr_peer_start reads */
    mr_version v;   /* the texts that the worker may ask for */
    mr_peer peer;
    char *what;  /* the file's name as given; NULL: the text came with a model */
    char *place; /* in messages */
    char *source;
    mr_script_text script;
    bool is_lua;
    char *date, *constants, *variables;
    mr_str last; /* the last command to render: what a new version is tried on */
    uint64_t refused;   /* signature of files that were turned down */
    mr_texts tried;     /* and the texts that they were read as */
    double young_since; /* since when files that do not load keep changing; 0: they do not */
};

/* ---- the worker ---- */

/* Puts the place where the worker said CHUNK, or in front. */
static mr_status placed(const mr_template *t, mr_status st, mr_err *err) {
    char why[sizeof err->msg];
    if (!err) return st;
    snprintf(why, sizeof why, "%s", err->msg);
    if (strncmp(why, CHUNK ":", sizeof CHUNK) == 0 && !t->is_lua)
        return mr_fail(err, st, "%s%s", t->place, why + sizeof CHUNK - 1);
    if (t->is_lua && strstr(why, ".lua:")) return mr_fail(err, st, "%s", why);
    return mr_fail(err, st, "%s: %s", t->place, why);
}

static mr_status start(mr_template *t, mr_err *err) {
    mr_str nothing = { 0 };
    mr_frame reply;
    MR_TRY(mr_peer_start(&t->limits, &t->peer, err));
    mr_status st = mr_peer_call(&t->limits, &t->v, &t->peer, MR_WIRE_TEMPLATE, &nothing, 5 * t->limits.opts.deadline_s,
                                &reply, err);
    if (st == MR_OK) return MR_OK;
    mr_peer_stop(&t->peer);
    if (st == MR_EAGAIN) st = mr_wrap(err, MR_EDATA, "loading it");
    return placed(t, st == MR_EINTERNAL ? st : MR_EDATA, err);
}

static mr_status take_pieces(const mr_template *t, mr_chat_text *out, const mr_frame *reply, mr_err *err) {
    mr_take in = mr_take_frame(reply);
    uint32_t n = mr_take_u32(&in);
    size_t total = 0;
    for (uint32_t i = 0; i < n && !in.bad; i++) {
        bool is_markup = mr_take_u8(&in) != 0;
        size_t len;
        const char *text = mr_take_bytes(&in, &len);
        if ((total += len) > MR_CHAT_TEXT_MOST)
            return mr_fail(err, MR_EDATA, "%s: the prompt has more than %d bytes", t->place, MR_CHAT_TEXT_MOST);
        if (memchr(text, 0, len) || !mr_utf8_valid(text, len))
            return mr_fail(err, MR_EDATA, "%s: what was rendered is no UTF-8 text", t->place);
        mr_chat_text_add(out, text, len, is_markup);
    }
    if (in.bad || in.at != in.end) return mr_fail(err, MR_EINTERNAL, "%s: a worker's answer was cut", t->place);
    return MR_OK;
}

/* body: a whole MR_WIRE_RENDER. */
static mr_status run(mr_template *t, mr_chat_text *out, const mr_str *body, mr_err *err) {
    mr_frame reply;
    if (!t->peer.alive) {
        mr_peer_stop(&t->peer);
        MR_TRY(start(t, err));
    }
    mr_status st =
        mr_peer_call(&t->limits, &t->v, &t->peer, MR_WIRE_RENDER, body, t->limits.opts.deadline_s, &reply, err);
    if (st == MR_EAGAIN) {
        char why[sizeof err->msg];
        snprintf(why, sizeof why, "%s", err ? err->msg : "");
        return mr_fail(err, MR_EDATA,
                       "%s: %.300s; look for a loop that does not end, or give another template "
                       "(model.chat_template)",
                       t->place, why);
    }
    if (st != MR_OK) return placed(t, st, err);
    return take_pieces(t, out, &reply, err);
}

static mr_status render(void *self, mr_chat_text *out, const mr_message *messages, int n, const mr_chat_opts *opts,
                        mr_err *err) {
    mr_template *t = self;
    if (opts->variables) {
        cJSON *tree;
        MR_TRY(mr_json_parse(&tree, opts->variables, strlen(opts->variables), "variables of the chat template", err));
        bool object = cJSON_IsObject(tree), own = cJSON_HasObjectItem(tree, "messages");
        cJSON_Delete(tree);
        if (!object || (own ? n > 0 : n == 0))
            return mr_fail(err, MR_EINVAL, "variables of the chat template: want an object, and messages once");
    }
    mr_str s = { 0 }, list = { 0 };
    mr_put_u32(&s, 6);
    mr_put_bytes(&s, t->constants, strlen(t->constants));
    mr_put_bytes(&s, t->date, strlen(t->date));
    mr_put_bytes(&s, t->variables, strlen(t->variables));
    mr_str_printf(&list, "{\"add_generation_prompt\":%s}", opts->add_generation_prompt ? "true" : "false");
    mr_put_bytes(&s, list.data, list.len);
    const char *own = opts->variables ? opts->variables : "{}";
    mr_put_bytes(&s, own, strlen(own));
    list.len = 0;
    mr_str_puts(&list, n ? "{\"messages\":[" : "{");
    for (int i = 0; i < n; i++) {
        mr_str_puts(&list, i ? ",{\"role\":" : "{\"role\":");
        mr_json_put_string(&list, messages[i].role, strlen(messages[i].role));
        mr_str_puts(&list, ",\"content\":");
        mr_json_put_string(&list, messages[i].content, strlen(messages[i].content));
        mr_str_puts(&list, "}");
    }
    mr_str_puts(&list, n ? "]}" : "}");
    mr_put_bytes(&s, list.data, list.len);
    mr_str_clear(&list);
    mr_str_clear(&t->last);
    t->last = s;
    return run(t, out, &t->last, err);
}

/* ---- opening ---- */

static char *today(void) {
    time_t now = (time_t)mr_wall_s();
    struct tm tm;
    char text[16];
    localtime_r(&now, &tm);
    strftime(text, sizeof text, "%Y-%m-%d", &tm);
    return mr_strdup(text);
}

static mr_status check_date(const char *date, mr_err *err) {
    int y, m, d, end = 0;
    if (sscanf(date, "%4d-%2d-%2d%n", &y, &m, &d, &end) == 3 && end == 10 && !date[10] && m >= 1 && m <= 12 && d >= 1 &&
        d <= 31)
        return MR_OK;
    return mr_fail(err, MR_EINVAL, "model.chat_template_date is \"%.40s\", want a day such as \"2026-07-26\"", date);
}

static mr_template *blank(const mr_template_opts *o) {
    mr_template *t = mr_alloc(sizeof *t);
    t->chat = (mr_chat){ t, render };
    t->peer.proc.fd = -1;
    t->limits.opts.deadline_s = o && o->deadline_s > 0 ? o->deadline_s : 2;
    t->limits.opts.memory_bytes = o && o->memory_bytes ? o->memory_bytes : (size_t)256 << 20;
    t->date = o && o->date && *o->date ? mr_strdup(o->date) : today();
    t->variables = mr_strdup(o && o->variables ? o->variables : "{}");
    mr_str s = { 0 };
    const char *const names[] = { "bos_token", "eos_token" };
    const char *const values[] = { o ? o->bos_token : NULL, o ? o->eos_token : NULL };
    mr_str_puts(&s, "{");
    for (int i = 0; i < 2; i++) {
        if (!values[i]) continue;
        mr_str_printf(&s, "%s\"%s\":", s.len > 1 ? "," : "", names[i]);
        mr_json_put_string(&s, values[i], strlen(values[i]));
    }
    mr_str_puts(&s, "}");
    t->constants = mr_str_steal(&s);
    return t;
}

/* Takes source over. path: NULL when it is in no file of its own. */
static mr_status open_jinja(mr_template *t, char *source, size_t len, const char *path, mr_err *err) {
    mr_str lua = { 0 };
    char sha[65];
    mr_sha256(sha, source, len);
    t->source = source;
    t->script = (mr_script_text){ .module = "@main", .name = t->place, .text = source, .len = len };
    memcpy(t->script.sha256, sha, sizeof sha);
    mr_status st = mr_jinja_compile(&lua, source, len, t->place, err);
    if (st == MR_OK) mr_texts_open_text(&t->v.texts, CHUNK, lua.data, lua.len, path, sha);
    mr_str_clear(&lua);
    return st == MR_OK ? start(t, err) : st;
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* "templates/NAME" may leave ".lua" out, here and in ./lua, as a reward's name may. */
static char *lua_file(const char *what) {
    if (ends_with(what, ".lua")) return mr_strdup(what);
    char *here = mr_asprintf("%s.lua", what), *below = mr_asprintf("lua/%s.lua", what);
    bool found = mr_path_exists(here), found_below = mr_path_exists(below);
    char *path = mr_strdup(found ? here : found_below ? below : what);
    mr_free(here);
    mr_free(below);
    return path;
}

/* pinned, store: as for mr_texts_open; before: the texts in use, or NULL. */
static mr_status open_lua(mr_template *t, char *path, const cJSON *pinned, const char *store, const mr_texts *before,
                          mr_err *err) {
    const mr_text *text;
    t->is_lua = true;
    mr_status st = mr_texts_open(&t->v.texts, path, NULL, pinned, store, err);
    mr_free(path);
    t->v.texts.before = before;
    if (st == MR_OK) st = mr_texts_get(&t->v.texts, "@main", &text, err);
    if (st != MR_OK) return mr_wrap(err, st, "model.chat_template");
    t->place = mr_strdup(text->pub.name);
    t->source = mr_strndup(text->pub.text, text->pub.len);
    t->script = text->pub;
    t->script.module = "@main";
    t->script.name = t->place;
    t->script.text = t->source;
    return start(t, err);
}

static mr_status open_file(mr_template *t, const mr_texts *before, mr_err *err) {
    if (ends_with(t->what, ".jinja")) {
        char *text;
        size_t len;
        MR_TRY(mr_file_read(&text, &len, t->what, SOURCE_MOST, err));
        t->place = mr_text_display_name(t->what);
        return open_jinja(t, text, len, t->what, err);
    }
    char *path = before ? mr_strdup(before->main_path) : lua_file(t->what); /* never another file of that name */
    return open_lua(t, path, NULL, NULL, before, err);
}

/* The version that ran, from the run folder: what lies at t->what plays no part in it. */
static mr_status open_stored(mr_template *t, const cJSON *version, const char *store, mr_err *err) {
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(version, "name")),
               *sha = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(version, "sha256"));
    if (!store || !name || !sha || strlen(sha) != 64 || strspn(sha, "0123456789abcdef") != 64)
        return mr_fail(err, MR_EDATA, "chat template: the record names no stored text of it; start a new run");
    if (t->what && cJSON_GetObjectItemCaseSensitive(version, "modules")) {
        char *path = lua_file(t->what);
        if (!ends_with(path, ".lua") && !mr_path_exists(path)) { /* gone: where it is looked for, should it come back */
            mr_free(path);
            path = mr_strdup(ends_with(name, ".lua") ? name : t->what);
        }
        return open_lua(t, path, version, store, NULL, err);
    }
    char *file = mr_asprintf("%s/%s.jinja", store, sha), *text = NULL, is[65];
    size_t len = 0;
    mr_status st = mr_file_read(&text, &len, file, SOURCE_MOST, err);
    if (st == MR_OK) {
        mr_sha256(is, text, len);
        if (strcmp(is, sha) != 0)
            st = mr_fail(err, MR_EDATA, "%s: is not the text that it is named after; restore it, or start a new run",
                         file);
    }
    mr_free(file);
    if (st != MR_OK) {
        mr_free(text);
        return st;
    }
    t->place = mr_strdup(name);
    return open_jinja(t, text, len, t->what, err);
}

mr_status mr_template_open(mr_template **out, const char *source, size_t len, const char *place,
                           const mr_template_opts *opts, mr_err *err) {
    *out = NULL;
    mr_template *t = blank(opts);
    mr_status st = check_date(t->date, err);
    if (st == MR_OK && opts && opts->pinned) {
        st = open_stored(t, opts->pinned, opts->store, err);
    } else if (st == MR_OK) {
        t->place = mr_strdup(place);
        st = open_jinja(t, mr_strndup(source, len), len, NULL, err);
    }
    if (st != MR_OK) {
        mr_template_close(t);
        return st;
    }
    *out = t;
    return MR_OK;
}

mr_status mr_template_open_file(mr_template **out, const char *what, const mr_template_opts *opts, mr_err *err) {
    *out = NULL;
    mr_template *t = blank(opts);
    t->what = mr_strdup(what);
    mr_status st = check_date(t->date, err);
    const bool stored = opts && opts->pinned;
    if (st == MR_OK) st = stored ? open_stored(t, opts->pinned, opts->store, err) : open_file(t, NULL, err);
    if (st != MR_OK) {
        mr_template_close(t);
        return st == MR_EDATA && !stored ? MR_EINVAL : st; /* the user's own file */
    }
    *out = t;
    return MR_OK;
}

void mr_template_close(mr_template *t) {
    if (!t) return;
    mr_peer_stop(&t->peer);
    mr_texts_close(&t->v.texts);
    mr_texts_close(&t->tried);
    mr_free(t->what);
    mr_free(t->place);
    mr_free(t->source);
    mr_free(t->date);
    mr_free(t->constants);
    mr_free(t->variables);
    mr_str_clear(&t->last);
    mr_free(t);
}

const mr_chat *mr_template_chat(const mr_template *t) {
    return &t->chat;
}
const char *mr_template_date(const mr_template *t) {
    return t->date;
}
const mr_script_text *mr_template_script(const mr_template *t) {
    return &t->script;
}

const char *mr_template_lua(const mr_template *t) {
    for (int i = 0; i < t->v.texts.n; i++)
        if (strcmp(t->v.texts.list[i]->module, "@main") == 0) return t->v.texts.list[i]->pub.text;
    return "";
}

const mr_script_text *mr_template_text(const mr_template *t, int i) {
    if (!t->is_lua) return i == 0 ? &t->script : NULL;
    for (int k = 0; k < t->v.texts.n; k++)
        if (strncmp(t->v.texts.list[k]->module, "medrl.", 6) != 0 && i-- == 0) return &t->v.texts.list[k]->pub;
    return NULL;
}

cJSON *mr_template_version(const mr_template *t) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "name", t->place);
    cJSON_AddStringToObject(o, "sha256", t->script.sha256);
    if (!t->is_lua) return o;
    cJSON *scripts = cJSON_AddObjectToObject(o, "scripts"), *modules = cJSON_AddObjectToObject(o, "modules");
    const mr_script_text *x;
    for (int i = 0; (x = mr_template_text(t, i)); i++) {
        if (!cJSON_GetObjectItemCaseSensitive(scripts, x->name)) cJSON_AddStringToObject(scripts, x->name, x->sha256);
        cJSON_AddStringToObject(modules, x->module, x->name);
    }
    return o;
}

/* ---- between steps ---- */

/* The same template once more: from its file, or a stored version. *fresh is the caller's to close, after a failure
 * too. */
static mr_status open_again(const mr_template *t, mr_template **fresh, const cJSON *version, const char *store,
                            mr_err *err) {
    mr_template_opts o = { .date = t->date,
                           .variables = t->variables,
                           .deadline_s = t->limits.opts.deadline_s,
                           .memory_bytes = t->limits.opts.memory_bytes };
    mr_template *f = *fresh = blank(&o);
    f->what = mr_strdup(t->what);
    mr_free(f->constants);
    f->constants = mr_strdup(t->constants);
    if (version) return open_stored(f, version, store, err);
    MR_TRY(open_file(f, &t->v.texts, err));
    if (!t->last.len) return MR_OK;
    mr_chat_text text = { 0 };
    mr_status st = run(f, &text, &t->last, err);
    if (st == MR_OK && !text.text.len) st = mr_fail(err, MR_EDATA, "%s: it renders nothing", f->place);
    mr_chat_text_clear(&text);
    return st;
}

/* The caller holds the address of t->chat: the insides change places. */
static void take_over(mr_template *t, mr_template *fresh) {
    mr_template old = *t;
    *t = *fresh;
    *fresh = old;
    t->chat = old.chat;
    t->last = old.last;
    fresh->last = (mr_str){ 0 };
    t->v.texts.before = NULL;
}

/* what: the changed files, with commas. */
static void tell(const mr_template *t, const char *what, mr_reload *out) {
    out->taken = true;
    mr_str_printf(&out->note, "%s%s: taken over", out->note.len ? "; " : "", t->place);
    if (t->is_lua && strcmp(what, t->place) != 0) mr_str_printf(&out->note, " (changed: %s)", what);
    if (!out->detail) out->detail = cJSON_CreateObject();
    cJSON *list = cJSON_GetObjectItemCaseSensitive(out->detail, "changed");
    if (!list) list = cJSON_AddArrayToObject(out->detail, "changed");
    cJSON_AddItemToArray(list, cJSON_CreateString(t->place));
}

mr_status mr_template_between_steps(mr_template *t, mr_reload *out, mr_err *err) {
    (void)err;
    mr_str what = { 0 };
    uint64_t signature;
    bool young;
    if (!t->what || !mr_texts_changed(&t->v.texts, &what, &signature, &young)) {
        t->refused = 0;
        t->young_since = 0;
    } else if (signature != t->refused || mr_texts_mended(&t->tried)) { /* else: turned down, and nothing saved since */
        mr_err why = { .msg = "" };
        mr_template *fresh;
        const double now = mr_now_s();
        if (open_again(t, &fresh, NULL, NULL, &why) == MR_OK) {
            take_over(t, fresh);
            tell(t, what.data, out);
        } else {
            mr_texts_close(&t->tried);
            t->tried = fresh->v.texts;
            t->tried.before = NULL;
            memset(&fresh->v.texts, 0, sizeof fresh->v.texts);
            young = young || mr_texts_mended(&t->tried); /* saved while it was read and tried */
            if (young && (t->young_since == 0 || now - t->young_since < YOUNG_LIMIT_S)) {
                if (t->young_since == 0) t->young_since = now; /* perhaps it is half written: looked at again */
            } else {
                t->refused = signature;
                t->young_since = young ? now : 0;
                out->refused = true;
                mr_str_printf(&out->note, "%s%s; the template in use stays", out->note.len ? "; " : "", why.msg);
            }
        }
        mr_template_close(fresh);
    }
    mr_str_clear(&what);
    return MR_OK;
}

/* Whether these are the texts in use, whatever they are called. */
static bool is_in_use(const mr_template *t, const cJSON *version) {
    static const char *const keys[] = { "sha256", "scripts", "modules" };
    cJSON *mine = mr_template_version(t);
    bool same = true;
    for (int i = 0; i < 3; i++) {
        const cJSON *a = cJSON_GetObjectItemCaseSensitive(mine, keys[i]),
                    *b = cJSON_GetObjectItemCaseSensitive(version, keys[i]);
        same = same && ((!a && !b) || mr_json_equal(a, b));
    }
    cJSON_Delete(mine);
    return same;
}

mr_status mr_template_replay(mr_template *t, const cJSON *version, const char *store, mr_err *err) {
    if (is_in_use(t, version)) return MR_OK;
    mr_template *fresh;
    mr_status st = open_again(t, &fresh, version, store, err);
    if (st == MR_OK) take_over(t, fresh);
    mr_template_close(fresh);
    return st;
}
