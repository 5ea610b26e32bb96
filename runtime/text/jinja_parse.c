/* jinja_parse.c - statements of a template, to Lua.
 *
 * Each scope of Jinja is a local `v` that reads through to the one around it; each place that collects output is a
 * local `o`. Scopes as Jinja has them: an if has none, a loop has one for each turn, a macro, a block set, a filter
 * block, a call block, a generation block and a with have one. */
#include <stdio.h>
#include <string.h>

#include "text/jinja_parse.h"

static mr_status statements(mr_jparser *p, const char *const *ends);

/* Statements stand on the line of the template's tag. */
static void emit_at(mr_jparser *p, int line) {
    for (; p->out_line < line; p->out_line++) mr_str_puts(&p->out, "\n");
}
static void emit(mr_jparser *p, const char *text) {
    mr_str_puts(&p->out, text);
    mr_str_puts(&p->out, " ");
}

static mr_status end_tag(mr_jparser *p) {
    if (mr_jparser_now(p)->type != MR_J_TAG_END) return mr_jparser_unexpected(p, "the end of the tag");
    p->at++;
    return MR_OK;
}

/* ---- targets ---- */

typedef struct target {
    char names[8][64];
    int n;                 /* 1: a name; more: a tuple */
    bool tuple, attribute; /* attribute: names[1] of namespace names[0] */
} target;

static mr_status take_target(mr_jparser *p, target *t, bool with_attribute) {
    static const char *const fixed[] = { "true", "false", "none", "True", "False", "None", "and",
                                         "or",   "not",   "in",   "is",   "if",    "else" };
    *t = (target){ .n = 0 };
    bool paren = mr_jparser_skip_op(p, "(");
    for (;;) {
        int line = mr_jparser_now(p)->line;
        if (t->n == 8) return mr_jparser_fail(p, line, "more than 8 names are set at once");
        if (mr_jparser_is_op(p, "("))
            return mr_jparser_fail(p, line,
                                   "tuples within tuples cannot be set; take them apart with a set of their own");
        MR_TRY(mr_jparser_take_name(p, t->names[t->n], "a name to set"));
        for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
            if (strcmp(t->names[t->n], fixed[i]) == 0)
                return mr_jparser_fail(p, line, "\"%s\" cannot be set", fixed[i]);
        t->n++;
        if (with_attribute && mr_jparser_is_op(p, ".")) {
            if (t->n > 1 || paren)
                return mr_jparser_fail(p, line, "an attribute of a namespace cannot be set together with others");
            p->at++;
            MR_TRY(mr_jparser_take_name(p, t->names[1], "the name of an attribute"));
            t->attribute = true;
            return MR_OK;
        }
        if (!mr_jparser_skip_op(p, ",")) break;
        t->tuple = true;
        if (mr_jparser_is_op(p, "(")) continue; /* refused above */
        if (mr_jparser_now(p)->type != MR_J_NAME || mr_jparser_is_name(p, "in")) break;
    }
    if (paren) MR_TRY(mr_jparser_want_op(p, ")"));
    return MR_OK;
}

static void assign(mr_jparser *p, const target *t, const char *scope, const char *value) {
    if (t->attribute) {
        mr_str_printf(&p->out, "R.set_attr(v[\"%s\"], \"%s\", %s) ", t->names[0], t->names[1], value);
        return;
    }
    for (int i = 0; i < t->n; i++) mr_str_printf(&p->out, "%s%s[\"%s\"]", i ? ", " : "", scope, t->names[i]);
    if (t->tuple)
        mr_str_printf(&p->out, " = R.unpack(%s, %d) ", value, t->n);
    else
        mr_str_printf(&p->out, " = %s ", value);
}

/* ---- one tag each ---- */

static mr_status in_block(mr_jparser *p, const char *const *ends) {
    if (++p->blocks > MR_JINJA_BLOCKS_MOST)
        return mr_jparser_fail(p, mr_jparser_now(p)->line, "blocks are nested deeper than %d levels",
                               MR_JINJA_BLOCKS_MOST);
    MR_TRY(statements(p, ends));
    p->blocks--;
    return MR_OK;
}

/* A body with a buffer of its own; break and continue do not lead out of it. Afterwards its text is R.take(B). */
static mr_status captured(mr_jparser *p, const char *const *ends) {
    int loops = p->loops;
    p->loops = 0;
    emit(p, "local B = R.buffer() do local v, o = R.scope(v), B");
    MR_TRY(in_block(p, ends));
    emit(p, "end");
    p->loops = loops;
    return MR_OK;
}

static mr_status tag_set(mr_jparser *p, int line) {
    static const char *const ends[] = { "endset", NULL };
    target t;
    mr_jexpr e;
    MR_TRY(take_target(p, &t, true));
    emit_at(p, line);
    if (mr_jparser_skip_op(p, "=")) {
        MR_TRY(mr_jexpr_tuple(p, &e, false));
        assign(p, &t, "v", e.text);
        return end_tag(p);
    }
    if (t.tuple) return mr_jparser_unexpected(p, "\"=\"");
    e = (mr_jexpr){ "R.take(B)", false };
    MR_TRY(mr_jexpr_filters(p, &e, false));
    MR_TRY(end_tag(p));
    emit(p, "do");
    MR_TRY(captured(p, ends));
    p->at++;
    assign(p, &t, "v", e.text);
    emit(p, "end");
    return end_tag(p);
}

static mr_status tag_if(mr_jparser *p, int line) {
    static const char *const ends[] = { "elif", "else", "endif", NULL }, *const last[] = { "endif", NULL };
    const char *word = "if";
    for (;;) {
        mr_jexpr e;
        MR_TRY(mr_jexpr_tuple(p, &e, true));
        MR_TRY(end_tag(p));
        emit_at(p, line);
        mr_str_printf(&p->out, "%s R.truth(%s) then ", word, e.text);
        MR_TRY(in_block(p, ends));
        line = mr_jparser_now(p)->line;
        if (!mr_jparser_skip_name(p, "elif")) break;
        word = "elseif";
    }
    if (mr_jparser_skip_name(p, "else")) {
        MR_TRY(end_tag(p));
        emit(p, "else");
        MR_TRY(in_block(p, last));
    }
    p->at++;
    emit(p, "end");
    return end_tag(p);
}

static mr_status tag_for(mr_jparser *p, int line) {
    static const char *const ends[] = { "else", "endfor", NULL }, *const last[] = { "endfor", NULL };
    target t;
    mr_jexpr e, condition;
    MR_TRY(take_target(p, &t, false));
    if (!mr_jparser_skip_name(p, "in")) return mr_jparser_unexpected(p, "\"in\"");
    MR_TRY(mr_jexpr_tuple(p, &e, true));
    emit_at(p, line);
    mr_str_printf(&p->out, "do local L = R.loop(%s", e.text);
    if (mr_jparser_skip_name(p, "if")) {
        MR_TRY(mr_jexpr_parse(p, &condition));
        emit(p, ", function(x) local v = R.scope(v)");
        assign(p, &t, "v", "x");
        mr_str_printf(&p->out, "v[\"loop\"] = R.no_loop return R.truth(%s) end", condition.text);
    }
    if (mr_jparser_is_name(p, "recursive"))
        return mr_jparser_fail(p, line, "a recursive for is not supported; use a macro that calls itself");
    MR_TRY(end_tag(p));
    int label = ++p->n_labels;
    emit(p, ") for i = 1, L.n do local v = R.scope(v)");
    assign(p, &t, "v", "R.turn(L, i)");
    emit(p, "v[\"loop\"] = L do");
    p->loops++;
    int outer = p->label;
    p->label = label;
    MR_TRY(in_block(p, ends));
    p->label = outer;
    p->loops--;
    mr_str_printf(&p->out, "end ::next%d:: end ", label);
    if (mr_jparser_skip_name(p, "else")) {
        MR_TRY(end_tag(p));
        emit(p, "if L.n == 0 then local v = R.scope(v)");
        MR_TRY(in_block(p, last));
        emit(p, "end");
    }
    p->at++;
    emit(p, "end");
    return end_tag(p);
}

static mr_status tag_leave(mr_jparser *p, int line, bool leave) {
    if (!p->loops) return mr_jparser_fail(p, line, "\"%s\" outside of a for", leave ? "break" : "continue");
    emit_at(p, line);
    if (leave)
        emit(p, "do break end");
    else
        mr_str_printf(&p->out, "do goto next%d end ", p->label);
    return end_tag(p);
}

/* "(a, b=1)" of a macro or a call; *defaults gets the statements that fill in what was not given. */
static mr_status signature(mr_jparser *p, mr_str *names, mr_str *defaults) {
    int n = 0;
    MR_TRY(mr_jparser_want_op(p, "("));
    while (!mr_jparser_skip_op(p, ")")) {
        char name[64];
        bool optional = false;
        if (n) MR_TRY(mr_jparser_want_op(p, ","));
        MR_TRY(mr_jparser_take_name(p, name, "the name of a parameter"));
        if (++n > 40) return mr_jparser_fail(p, mr_jparser_now(p)->line, "a macro has more than 40 parameters");
        mr_str_printf(names, "\"%s\", ", name);
        mr_jexpr e = { mr_jparser_format(p, "R.not_given(\"%s\")", name), false };
        if (mr_jparser_skip_op(p, "=")) {
            MR_TRY(mr_jexpr_parse(p, &e));
            optional = true;
        } else if (strstr(defaults->data ? defaults->data : "", "--[[default]]")) {
            return mr_jparser_fail(p, mr_jparser_now(p)->line,
                                   "parameter \"%s\" has no default, but one before it does", name);
        }
        mr_str_printf(defaults, "if A[%d] ~= nil then v[\"%s\"] = A[%d] else v[\"%s\"] = %s end %s", n, name, n, name,
                      e.text, optional ? "--[[default]] " : "");
    }
    return MR_OK;
}

/* The function of a macro or a call block, from behind its signature to its end tag: R.macro(...). */
static mr_status macro_body(mr_jparser *p, const char *name, const char *names, const char *defaults,
                            const char *const *ends) {
    bool outer[3], uses[3];
    int loops = p->loops;
    memcpy(outer, p->uses, sizeof outer);
    memset(p->uses, 0, sizeof p->uses);
    p->loops = 0;
    mr_str_printf(&p->out, "R.macro(\"%s\", {%s}, function(A) local v, o = R.scope(v), R.buffer() R.extras(v, A) %s",
                  name, names, defaults);
    MR_TRY(in_block(p, ends));
    p->at++;
    MR_TRY(end_tag(p));
    memcpy(uses, p->uses, sizeof uses);
    mr_str_printf(&p->out, "return R.take(o) end, %s, %s, %s) ", uses[0] ? "true" : "false", uses[1] ? "true" : "false",
                  uses[2] ? "true" : "false");
    for (int i = 0; i < 3; i++) p->uses[i] = outer[i] || uses[i];
    p->loops = loops;
    return MR_OK;
}

static mr_status tag_macro(mr_jparser *p, int line) {
    static const char *const ends[] = { "endmacro", NULL };
    char name[64];
    mr_str names = { 0 }, defaults = { 0 };
    MR_TRY(mr_jparser_take_name(p, name, "the name of a macro"));
    mr_status st = signature(p, &names, &defaults);
    if (st == MR_OK) st = end_tag(p);
    if (st == MR_OK) {
        emit_at(p, line);
        mr_str_printf(&p->out, "v[\"%s\"] = ", name);
        st = macro_body(p, name, names.data ? names.data : "", defaults.data ? defaults.data : "", ends);
    }
    mr_str_clear(&names);
    mr_str_clear(&defaults);
    return st;
}

/* The body becomes the named argument "caller" of the call that stands in the tag. */
static mr_status tag_call(mr_jparser *p, int line) {
    static const char *const ends[] = { "endcall", NULL };
    mr_str names = { 0 }, defaults = { 0 };
    mr_jexpr e = { "", false };
    mr_status st = mr_jparser_is_op(p, "(") ? signature(p, &names, &defaults) : MR_OK;
    if (st == MR_OK) st = mr_jexpr_parse(p, &e);
    if (st == MR_OK && !e.is_call) st = mr_jparser_fail(p, line, "a call tag wants the call of a macro");
    if (st == MR_OK) st = end_tag(p);
    if (st == MR_OK) {
        emit_at(p, line);
        mr_str_printf(&p->out,
                      "do local C local function E() return %.*s\"caller\", C}) end C = ", (int)strlen(e.text) - 2,
                      e.text);
        st = macro_body(p, "caller", names.data ? names.data : "", defaults.data ? defaults.data : "", ends);
        emit(p, "R.put(o, E()) end");
    }
    mr_str_clear(&names);
    mr_str_clear(&defaults);
    return st;
}

static mr_status tag_filter(mr_jparser *p, int line) {
    static const char *const ends[] = { "endfilter", NULL };
    mr_jexpr e = { "R.take(B)", false };
    MR_TRY(mr_jexpr_filters(p, &e, true));
    MR_TRY(end_tag(p));
    emit_at(p, line);
    emit(p, "do");
    MR_TRY(captured(p, ends));
    p->at++;
    mr_str_printf(&p->out, "R.put(o, %s) end ", e.text);
    return end_tag(p);
}

/* What the model said, in templates for training: the text is the same with and without. */
static mr_status tag_generation(mr_jparser *p, int line) {
    static const char *const ends[] = { "endgeneration", NULL };
    int loops = p->loops;
    MR_TRY(end_tag(p));
    emit_at(p, line);
    p->loops = 0;
    emit(p, "do local v = R.scope(v)");
    MR_TRY(in_block(p, ends));
    p->loops = loops;
    p->at++;
    emit(p, "end");
    return end_tag(p);
}

static mr_status tag_with(mr_jparser *p, int line) {
    static const char *const ends[] = { "endwith", NULL };
    emit_at(p, line);
    emit(p, "do local w = R.scope(v)");
    for (int n = 0; mr_jparser_now(p)->type != MR_J_TAG_END; n++) {
        target t;
        mr_jexpr e;
        if (n) MR_TRY(mr_jparser_want_op(p, ","));
        MR_TRY(take_target(p, &t, false));
        MR_TRY(mr_jparser_want_op(p, "="));
        MR_TRY(mr_jexpr_parse(p, &e));
        assign(p, &t, "w", e.text);
    }
    MR_TRY(end_tag(p));
    emit(p, "local v = w");
    MR_TRY(in_block(p, ends));
    p->at++;
    emit(p, "end");
    return end_tag(p);
}

static mr_status tag(mr_jparser *p, int line) {
    char word[64];
    MR_TRY(mr_jparser_take_name(p, word, "a word such as if, for or set"));
    if (strcmp(word, "set") == 0) return tag_set(p, line);
    if (strcmp(word, "if") == 0) return tag_if(p, line);
    if (strcmp(word, "for") == 0) return tag_for(p, line);
    if (strcmp(word, "macro") == 0) return tag_macro(p, line);
    if (strcmp(word, "call") == 0) return tag_call(p, line);
    if (strcmp(word, "filter") == 0) return tag_filter(p, line);
    if (strcmp(word, "with") == 0) return tag_with(p, line);
    if (strcmp(word, "generation") == 0) return tag_generation(p, line);
    if (strcmp(word, "break") == 0) return tag_leave(p, line, true);
    if (strcmp(word, "continue") == 0) return tag_leave(p, line, false);
    if (strncmp(word, "end", 3) == 0 || strcmp(word, "elif") == 0 || strcmp(word, "else") == 0)
        return mr_jparser_fail(p, line, "\"%s\" has no beginning here", word);
    return mr_jparser_fail(
        p, line,
        "tag \"%s\" is not one that chat templates use; want set, if, for, macro, call, filter, with, "
        "raw, generation, break or continue",
        word);
}

/* Until one of `ends`, which is then the next token; NULL: until the end of the template. */
static mr_status statements(mr_jparser *p, const char *const *ends) {
    int begun = p->at > 1 ? p->t->list[p->at - 1].line : 1;
    for (;;) {
        const mr_jtoken *k = mr_jparser_now(p);
        mr_jexpr e;
        p->depth = 0;
        switch (k->type) {
        case MR_J_DATA:
            emit_at(p, k->line);
            emit(p, "R.put(o,");
            mr_jparser_quote(&p->out, k->text, k->len);
            emit(p, ")");
            p->at++;
            break;
        case MR_J_VAR:
            p->at++;
            MR_TRY(mr_jexpr_tuple(p, &e, false));
            if (mr_jparser_now(p)->type != MR_J_VAR_END) return mr_jparser_unexpected(p, "the end of the output }}");
            p->at++;
            emit_at(p, k->line);
            mr_str_printf(&p->out, "R.put(o, %s) ", e.text);
            break;
        case MR_J_TAG:
            p->at++;
            for (const char *const *end = ends; end && *end; end++)
                if (mr_jparser_is_name(p, *end)) return MR_OK;
            MR_TRY(tag(p, k->line));
            break;
        default:
            if (!ends) return MR_OK;
            return mr_jparser_fail(p, begun, "a block that begins here has no end, want {%% %s %%}",
                                   ends[1] ? ends[1][0] == 'e' && ends[2] ? ends[2] : ends[1] : ends[0]);
        }
    }
}

mr_status mr_jinja_compile(mr_str *lua, const char *source, size_t len, const char *place, mr_err *err) {
    mr_jtokens tokens = { 0 };
    mr_jparser p = { .t = &tokens, .place = place, .err = err, .out_line = 1 };
    mr_status st = mr_jinja_lex(&tokens, source, len, place, err);
    emit(&p, "local R = require \"medrl.jinja\" return { jinja = function(v, o)");
    if (st == MR_OK) st = statements(&p, NULL);
    mr_str_puts(&p.out, "end }\n");
    if (st == MR_OK) mr_str_add(lua, p.out.data, p.out.len);
    mr_str_clear(&p.out);
    mr_arena_clear(&p.arena);
    mr_jinja_tokens_clear(&tokens);
    return st;
}
