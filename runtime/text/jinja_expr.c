/* jinja_expr.c - expressions of a template, to Lua. Precedence is that of Jinja's parser: "~" binds tighter than "+",
 * filters and tests tighter than any operator but not than a sign in front.
 *
 * The text is built bottom up: R is the library lua/medrl/jinja.lua, v the scope. Nested parts may nest 40 deep, since
 * the Lua compiler has a limit of its own; long chains of "+" and "~" are flat lists. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "text/jinja_parse.h"

static const char *const filters[] = {
    "abs",    "capitalize", "count",   "d",       "default", "dictsort", "first",  "float",      "format", "indent",
    "int",    "items",      "join",    "last",    "length",  "list",     "lower",  "map",        "max",    "min",
    "reject", "rejectattr", "replace", "reverse", "round",   "safe",     "select", "selectattr", "sort",   "string",
    "sum",    "title",      "tojson",  "trim",    "unique",  "upper",    NULL
};
static const char *const tests[] = { "boolean", "callable", "defined",  "divisibleby", "eq",          "equalto",
                                     "even",    "false",    "float",    "ge",          "greaterthan", "gt",
                                     "in",      "integer",  "iterable", "le",          "lessthan",    "lower",
                                     "lt",      "mapping",  "ne",       "none",        "number",      "odd",
                                     "sameas",  "sequence", "string",   "true",        "undefined",   "upper",
                                     NULL };
/* Words that a name cannot be. */
static const char *const words[] = { "and", "or", "not", "in", "is", "if", "else", "elif", NULL };

static bool is_one_of(const char *const *list, const char *text, size_t len) {
    for (; *list; list++)
        if (strlen(*list) == len && memcmp(*list, text, len) == 0) return true;
    return false;
}

/* ---- tokens ---- */

const mr_jtoken *mr_jparser_now(const mr_jparser *p) {
    return &p->t->list[p->at];
}

static bool token_is(const mr_jtoken *k, mr_jtype type, const char *text) {
    return k->type == type && strlen(text) == k->len && memcmp(k->text, text, k->len) == 0;
}
bool mr_jparser_is_op(const mr_jparser *p, const char *op) {
    return token_is(mr_jparser_now(p), MR_J_OP, op);
}
bool mr_jparser_is_name(const mr_jparser *p, const char *name) {
    return token_is(mr_jparser_now(p), MR_J_NAME, name);
}
bool mr_jparser_skip_op(mr_jparser *p, const char *op) {
    bool found = mr_jparser_is_op(p, op);
    p->at += found;
    return found;
}
bool mr_jparser_skip_name(mr_jparser *p, const char *name) {
    bool found = mr_jparser_is_name(p, name);
    p->at += found;
    return found;
}

mr_status mr_jparser_fail(mr_jparser *p, int line, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    mr_vfail(p->err, MR_EDATA, fmt, args);
    va_end(args);
    return mr_wrap(p->err, MR_EDATA, "%s:%d", p->place, line);
}

mr_status mr_jparser_unexpected(mr_jparser *p, const char *want) {
    const mr_jtoken *k = mr_jparser_now(p);
    static const char *const kinds[] = {
        "text", "{{", "the end of the output",  "{%", "the end of the tag", "", "a string", "",
        "",     "",   "the end of the template"
    };
    if (kinds[k->type][0]) return mr_jparser_fail(p, k->line, "unexpected %s, want %s", kinds[k->type], want);
    return mr_jparser_fail(p, k->line, "unexpected \"%.*s\", want %s", k->len > 60 ? 60 : (int)k->len, k->text, want);
}

mr_status mr_jparser_want_op(mr_jparser *p, const char *op) {
    char want[8];
    if (mr_jparser_skip_op(p, op)) return MR_OK;
    snprintf(want, sizeof want, "\"%s\"", op);
    return mr_jparser_unexpected(p, want);
}

mr_status mr_jparser_take_name(mr_jparser *p, char out[64], const char *what) {
    const mr_jtoken *k = mr_jparser_now(p);
    if (k->type != MR_J_NAME) return mr_jparser_unexpected(p, what);
    if (k->len > 63)
        return mr_jparser_fail(p, k->line, "a name of %zu characters is too long, want at most 63", k->len);
    memcpy(out, k->text, k->len);
    out[k->len] = 0;
    p->at++;
    return MR_OK;
}

const char *mr_jparser_format(mr_jparser *p, const char *fmt, ...) {
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    char *text = mr_arena_alloc(&p->arena, (size_t)n + 1);
    vsnprintf(text, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(args);
    return text;
}

void mr_jparser_quote(mr_str *out, const char *text, size_t len) {
    mr_str_puts(out, "\"");
    for (size_t i = 0; i < len; i++) {
        uint8_t c = (uint8_t)text[i];
        if (c == '"' || c == '\\' || c < 0x20 || c == 0x7f)
            mr_str_printf(out, "\\%03d", c);
        else
            mr_str_add(out, &text[i], 1);
    }
    mr_str_puts(out, "\"");
}

static const char *keep(mr_jparser *p, mr_str *s) {
    const char *text = mr_arena_strdup(&p->arena, s->data ? s->data : "", s->len);
    mr_str_clear(s);
    return text;
}

/* ---- arguments ---- */

typedef struct call_args {
    const char *positional, *named; /* "a, b, " and "\"k\", x, " */
    int n;
} call_args;

static mr_status argument(mr_jparser *p, mr_str *positional, mr_str *named, int *n) {
    const mr_jtoken *k = mr_jparser_now(p);
    mr_jexpr e;
    if (mr_jparser_is_op(p, "*") || mr_jparser_is_op(p, "**"))
        return mr_jparser_fail(p, k->line,
                               "arguments given as a list (*) or as a mapping (**) are not supported; write "
                               "them out");
    if (k->type == MR_J_NAME && token_is(k + 1, MR_J_OP, "=")) {
        p->at += 2;
        MR_TRY(mr_jexpr_parse(p, &e));
        mr_jparser_quote(named, k->text, k->len);
        mr_str_printf(named, ", %s, ", e.text);
        return MR_OK;
    }
    if (named->len) return mr_jparser_fail(p, k->line, "an argument without a name stands behind one with a name");
    MR_TRY(mr_jexpr_parse(p, &e));
    mr_str_printf(positional, "%s, ", e.text);
    ++*n;
    return MR_OK;
}

/* Behind "(", to behind ")". */
static mr_status arguments(mr_jparser *p, call_args *a) {
    mr_str positional = { 0 }, named = { 0 };
    mr_status st = MR_OK;
    int n = 0;
    while (st == MR_OK && !mr_jparser_skip_op(p, ")")) {
        st = argument(p, &positional, &named, &n);
        if (st == MR_OK && !mr_jparser_is_op(p, ")")) st = mr_jparser_want_op(p, ",");
    }
    *a = (call_args){ keep(p, &positional), keep(p, &named), n };
    return st;
}

/* ---- what begins an expression ---- */

/* Items up to `end`, with "," between them and perhaps behind the last. */
static mr_status items(mr_jparser *p, mr_str *out, const char *end, int *n, bool pairs) {
    mr_jexpr e;
    *n = 0;
    while (!mr_jparser_skip_op(p, end)) {
        if (*n) MR_TRY(mr_jparser_want_op(p, ","));
        if (*n && mr_jparser_skip_op(p, end)) break;
        MR_TRY(mr_jexpr_parse(p, &e));
        mr_str_printf(out, "%s, ", e.text);
        if (pairs) {
            MR_TRY(mr_jparser_want_op(p, ":"));
            MR_TRY(mr_jexpr_parse(p, &e));
            mr_str_printf(out, "%s, ", e.text);
        }
        ++*n;
    }
    return MR_OK;
}

static mr_status collection(mr_jparser *p, mr_jexpr *e, const char *make, const char *end, bool pairs) {
    mr_str s = { 0 };
    int n;
    mr_str_printf(&s, "%s({", make);
    mr_status st = items(p, &s, end, &n, pairs);
    mr_str_printf(&s, "}, %d)", n);
    e->text = keep(p, &s);
    return st;
}

static mr_status name(mr_jparser *p, mr_jexpr *e, const mr_jtoken *k) {
    static const char *const special[] = { "caller", "varargs", "kwargs" };
    char text[64];
    if (is_one_of(words, k->text, k->len)) return mr_jparser_unexpected(p, "an expression");
    MR_TRY(mr_jparser_take_name(p, text, "a name"));
    if (strcmp(text, "true") == 0 || strcmp(text, "True") == 0)
        e->text = "true";
    else if (strcmp(text, "false") == 0 || strcmp(text, "False") == 0)
        e->text = "false";
    else if (strcmp(text, "none") == 0 || strcmp(text, "None") == 0)
        e->text = "R.none";
    else
        e->text = mr_jparser_format(p, "v[\"%s\"]", text);
    for (int i = 0; i < 3; i++) p->uses[i] = p->uses[i] || strcmp(text, special[i]) == 0;
    return MR_OK;
}

static mr_status primary(mr_jparser *p, mr_jexpr *e) {
    const mr_jtoken *k = mr_jparser_now(p);
    e->is_call = false;
    switch (k->type) {
    case MR_J_NAME: return name(p, e, k);
    case MR_J_STRING: { /* neighbours are one string, as in Python */
        mr_str s = { 0 }, text = { 0 };
        for (; mr_jparser_now(p)->type == MR_J_STRING; p->at++)
            mr_str_add(&text, mr_jparser_now(p)->text, mr_jparser_now(p)->len);
        mr_jparser_quote(&s, text.data ? text.data : "", text.len);
        mr_str_clear(&text);
        e->text = keep(p, &s);
        return MR_OK;
    }
    case MR_J_INT:
    case MR_J_FLOAT:
        p->at++;
        e->text = mr_jparser_format(p, k->type == MR_J_INT ? "%.*s" : "R.float(%.*s)", (int)k->len, k->text);
        return MR_OK;
    default: break;
    }
    if (mr_jparser_skip_op(p, "[")) return collection(p, e, "R.list", "]", false);
    if (mr_jparser_skip_op(p, "{")) return collection(p, e, "R.dict", "}", true);
    if (!mr_jparser_skip_op(p, "(")) return mr_jparser_unexpected(p, "an expression");
    if (mr_jparser_skip_op(p, ")")) {
        e->text = "R.tuple({}, 0)";
        return MR_OK;
    }
    MR_TRY(mr_jexpr_tuple(p, e, false));
    return mr_jparser_want_op(p, ")");
}

/* ---- what follows it ---- */

static mr_status slice_part(mr_jparser *p, const char **out) {
    mr_jexpr e;
    *out = "nil";
    if (mr_jparser_is_op(p, ":") || mr_jparser_is_op(p, "]")) return MR_OK;
    MR_TRY(mr_jexpr_parse(p, &e));
    *out = e.text;
    return MR_OK;
}

static mr_status subscript(mr_jparser *p, mr_jexpr *e) {
    const char *part[3] = { "nil", "nil", "nil" };
    int n = 0;
    MR_TRY(slice_part(p, &part[0]));
    while (n < 2 && mr_jparser_skip_op(p, ":")) MR_TRY(slice_part(p, &part[++n]));
    if (!n && part[0][0] == 'n' && strcmp(part[0], "nil") == 0) return mr_jparser_unexpected(p, "an index");
    if (mr_jparser_is_op(p, ","))
        return mr_jparser_fail(p, mr_jparser_now(p)->line, "several indices in one [] are not supported; write [a][b]");
    MR_TRY(mr_jparser_want_op(p, "]"));
    if (n)
        e->text = mr_jparser_format(p, "R.slice(%s, %s, %s, %s)", e->text, part[0], part[1], part[2]);
    else
        e->text = mr_jparser_format(p, "R.item(%s, %s)", e->text, part[0]);
    return MR_OK;
}

static mr_status attribute(mr_jparser *p, mr_jexpr *e) {
    const mr_jtoken *k = mr_jparser_now(p);
    char text[64];
    if (k->type == MR_J_INT) {
        p->at++;
        e->text = mr_jparser_format(p, "R.item(%s, %.*s)", e->text, (int)k->len, k->text);
        return MR_OK;
    }
    MR_TRY(mr_jparser_take_name(p, text, "the name of an attribute"));
    if (text[0] == '_')
        return mr_jparser_fail(p, k->line, "attribute \"%s\": names that begin with _ are not there for templates",
                               text);
    e->text = mr_jparser_format(p, "R.attr(%s, \"%s\")", e->text, text);
    return MR_OK;
}

/* Attributes, subscripts, calls; each is one level around what came before. */
static mr_status postfix(mr_jparser *p, mr_jexpr *e, int *n) {
    for (;; ++*n) {
        int line = mr_jparser_now(p)->line;
        bool dot = mr_jparser_is_op(p, "."), index = mr_jparser_is_op(p, "["), call = mr_jparser_is_op(p, "(");
        if (!dot && !index && !call) return MR_OK;
        if (*n > MR_JINJA_DEPTH_MOST)
            return mr_jparser_fail(p, line, "an expression has too many parts; put some into variables with set");
        p->at++;
        e->is_call = call;
        if (dot)
            MR_TRY(attribute(p, e));
        else if (index)
            MR_TRY(subscript(p, e));
        else {
            call_args a;
            MR_TRY(arguments(p, &a));
            e->text = mr_jparser_format(p, "R.call(%s, {%s}, {%s})", e->text, a.positional, a.named);
        }
    }
}

static mr_status filter(mr_jparser *p, mr_jexpr *e) {
    char text[64];
    call_args a = { "", "", 0 };
    int line = mr_jparser_now(p)->line;
    MR_TRY(mr_jparser_take_name(p, text, "the name of a filter"));
    if (!is_one_of(filters, text, strlen(text)))
        return mr_jparser_fail(p, line,
                               "filter \"%s\" is not one that medrl knows; give a template of your own "
                               "(model.chat_template)",
                               text);
    if (mr_jparser_skip_op(p, "(")) MR_TRY(arguments(p, &a));
    e->text = mr_jparser_format(p, "R.filter(\"%s\", %s, {%s}, {%s})", text, e->text, a.positional, a.named);
    e->is_call = false;
    return MR_OK;
}

static mr_status test(mr_jparser *p, mr_jexpr *e) {
    char text[64];
    call_args a = { "", "", 0 };
    bool negated = mr_jparser_skip_name(p, "not");
    int line = mr_jparser_now(p)->line;
    MR_TRY(mr_jparser_take_name(p, text, "the name of a test"));
    if (!is_one_of(tests, text, strlen(text)))
        return mr_jparser_fail(p, line,
                               "test \"%s\" is not one that medrl knows; give a template of your own "
                               "(model.chat_template)",
                               text);
    const mr_jtoken *k = mr_jparser_now(p);
    if (mr_jparser_is_name(p, "is") || mr_jparser_is_name(p, "in") || mr_jparser_is_name(p, "not") ||
        mr_jparser_is_name(p, "if"))
        return mr_jparser_fail(p, k->line, "\"%.*s\" behind a test: put the test in parentheses", (int)k->len, k->text);
    bool value = (k->type == MR_J_NAME && !is_one_of(words, k->text, k->len)) || k->type == MR_J_STRING ||
                 k->type == MR_J_INT || k->type == MR_J_FLOAT || mr_jparser_is_op(p, "[") || mr_jparser_is_op(p, "{");
    if (mr_jparser_skip_op(p, "(")) {
        MR_TRY(arguments(p, &a));
    } else if (value) { /* "x is divisibleby 3" */
        mr_jexpr arg;
        int n = 0;
        MR_TRY(primary(p, &arg));
        MR_TRY(postfix(p, &arg, &n));
        a.positional = arg.text;
        a.n = 1;
    }
    if (a.named[0]) return mr_jparser_fail(p, line, "test \"%s\" takes no named arguments", text);
    e->text = mr_jparser_format(p, "%sR.test(\"%s\", %s, {%s})%s", negated ? "(not " : "", text, e->text, a.positional,
                                negated ? ")" : "");
    e->is_call = false;
    return MR_OK;
}

static mr_status filters_and_tests(mr_jparser *p, mr_jexpr *e, int n) {
    for (;; n++) {
        if (n > MR_JINJA_DEPTH_MOST)
            return mr_jparser_fail(p, mr_jparser_now(p)->line,
                                   "an expression has too many parts; put some into variables with set");
        if (mr_jparser_skip_op(p, "|"))
            MR_TRY(filter(p, e));
        else if (mr_jparser_skip_name(p, "is"))
            MR_TRY(test(p, e));
        else if (mr_jparser_is_op(p, "("))
            MR_TRY(postfix(p, e, &n));
        else
            return MR_OK;
    }
}

mr_status mr_jexpr_filters(mr_jparser *p, mr_jexpr *e, bool begun) {
    if (begun) MR_TRY(filter(p, e));
    while (mr_jparser_skip_op(p, "|")) MR_TRY(filter(p, e));
    return MR_OK;
}

/* ---- operators, from the tightest to the loosest ---- */

static mr_status enter(mr_jparser *p) {
    if (++p->depth > MR_JINJA_DEPTH_MOST)
        return mr_jparser_fail(p, mr_jparser_now(p)->line,
                               "an expression is nested deeper than %d levels; put parts into variables with set",
                               MR_JINJA_DEPTH_MOST);
    return MR_OK;
}

static mr_status unary(mr_jparser *p, mr_jexpr *e, bool with_filters) {
    int n = 0;
    bool minus = mr_jparser_skip_op(p, "-"), plus = !minus && mr_jparser_skip_op(p, "+");
    MR_TRY(enter(p));
    if (minus || plus) {
        MR_TRY(unary(p, e, false));
        e->text = mr_jparser_format(p, "R.%s(%s)", minus ? "neg" : "pos", e->text);
        e->is_call = false;
    } else {
        MR_TRY(primary(p, e));
    }
    MR_TRY(postfix(p, e, &n));
    if (with_filters) MR_TRY(filters_and_tests(p, e, n));
    p->depth--;
    return MR_OK;
}

typedef mr_status (*level)(mr_jparser *p, mr_jexpr *e);

static const char *operator_here(mr_jparser *p, const char *const *ops) {
    for (; *ops; ops++)
        if (mr_jparser_skip_op(p, *ops)) return *ops;
    return NULL;
}

/* a op b op c, from the left: R.fold({ a, "+", b, "-", c }, 5). A list, so that its length costs no depth. */
static mr_status left_chain(mr_jparser *p, mr_jexpr *e, level next, const char *const *ops) {
    MR_TRY(next(p, e));
    const char *op = operator_here(p, ops);
    if (!op) return MR_OK;
    mr_str s = { 0 };
    mr_status st = MR_OK;
    int n = 1;
    mr_str_printf(&s, "R.fold({%s", e->text);
    for (; op && st == MR_OK; op = st == MR_OK ? operator_here(p, ops) : NULL, n += 2) {
        st = next(p, e);
        if (st == MR_OK) mr_str_printf(&s, ", \"%s\", %s", op, e->text);
    }
    mr_str_printf(&s, "}, %d)", n);
    *e = (mr_jexpr){ keep(p, &s), false };
    return st;
}

static mr_status unary_full(mr_jparser *p, mr_jexpr *e) {
    return unary(p, e, true);
}
static mr_status power(mr_jparser *p, mr_jexpr *e) {
    static const char *const ops[] = { "**", NULL };
    return left_chain(p, e, unary_full, ops);
}
static mr_status product(mr_jparser *p, mr_jexpr *e) {
    static const char *const ops[] = { "*", "//", "/", "%", NULL };
    return left_chain(p, e, power, ops);
}
static mr_status joined(mr_jparser *p, mr_jexpr *e) {
    MR_TRY(product(p, e));
    if (!mr_jparser_is_op(p, "~")) return MR_OK;
    mr_str s = { 0 };
    mr_status st = MR_OK;
    int n = 1;
    mr_str_printf(&s, "R.join({%s", e->text);
    for (; st == MR_OK && mr_jparser_skip_op(p, "~"); n++) {
        st = product(p, e);
        if (st == MR_OK) mr_str_printf(&s, ", %s", e->text);
    }
    mr_str_printf(&s, "}, %d)", n);
    *e = (mr_jexpr){ keep(p, &s), false };
    return st;
}
static mr_status sum(mr_jparser *p, mr_jexpr *e) {
    static const char *const ops[] = { "+", "-", NULL };
    return left_chain(p, e, joined, ops);
}

static const char *comparison(mr_jparser *p) {
    static const char *const ops[] = { "==", "!=", "<=", ">=", "<", ">", NULL };
    const char *op = operator_here(p, ops);
    if (op) return op;
    if (mr_jparser_skip_name(p, "in")) return "in";
    if (mr_jparser_is_name(p, "not") && token_is(mr_jparser_now(p) + 1, MR_J_NAME, "in")) {
        p->at += 2;
        return "not in";
    }
    return NULL;
}

/* a < b < c is (a < b and b < c), with c looked at only then: R.chain(a, "<", b, "<", function() return c end). */
static mr_status compare(mr_jparser *p, mr_jexpr *e) {
    MR_TRY(sum(p, e));
    const char *op = comparison(p);
    if (!op) return MR_OK;
    mr_jexpr b;
    MR_TRY(sum(p, &b));
    const char *next = comparison(p);
    if (!next) {
        *e = (mr_jexpr){ mr_jparser_format(p, "R.compare(%s, \"%s\", %s)", e->text, op, b.text), false };
        return MR_OK;
    }
    const char *text = mr_jparser_format(p, "R.chain(%s, \"%s\", function() return %s end", e->text, op, b.text);
    for (int n = 0; next; next = comparison(p), n++) {
        if (n > 8) return mr_jparser_fail(p, mr_jparser_now(p)->line, "a comparison has too many parts");
        MR_TRY(sum(p, &b));
        text = mr_jparser_format(p, "%s, \"%s\", function() return %s end", text, next, b.text);
    }
    *e = (mr_jexpr){ mr_jparser_format(p, "%s)", text), false };
    return MR_OK;
}

static mr_status negation(mr_jparser *p, mr_jexpr *e) {
    int n = 0;
    while (mr_jparser_skip_name(p, "not")) n++;
    MR_TRY(compare(p, e));
    if (n) *e = (mr_jexpr){ mr_jparser_format(p, "(%sR.truth(%s))", n % 2 ? "not " : "", e->text), false };
    return MR_OK;
}

/* Python's `and` and `or` give one of their operands. A value that Python takes for true is never Lua's false, and
 * R.kept is the value that R.truth saw last; what may be false travels in a table. */
static mr_status conjunction(mr_jparser *p, mr_jexpr *e) {
    MR_TRY(negation(p, e));
    while (mr_jparser_skip_name(p, "and")) {
        mr_jexpr b;
        MR_TRY(enter(p));
        MR_TRY(negation(p, &b));
        e->is_call = false;
        e->text = mr_jparser_format(p, "(R.truth(%s) and {%s} or R.kept())[1]", e->text, b.text);
    }
    return MR_OK;
}
static mr_status disjunction(mr_jparser *p, mr_jexpr *e) {
    int depth = p->depth;
    MR_TRY(conjunction(p, e));
    while (mr_jparser_skip_name(p, "or")) {
        mr_jexpr b;
        MR_TRY(enter(p));
        MR_TRY(conjunction(p, &b));
        e->is_call = false;
        e->text = mr_jparser_format(p, "(R.truth(%s) and R.kept() or {%s})[1]", e->text, b.text);
    }
    p->depth = depth;
    return MR_OK;
}

mr_status mr_jexpr_parse(mr_jparser *p, mr_jexpr *e) {
    int depth = p->depth;
    MR_TRY(enter(p));
    MR_TRY(disjunction(p, e));
    while (mr_jparser_skip_name(p, "if")) {
        mr_jexpr condition, other = { "R.nothing", false };
        MR_TRY(enter(p));
        MR_TRY(disjunction(p, &condition));
        if (mr_jparser_skip_name(p, "else")) MR_TRY(mr_jexpr_parse(p, &other));
        e->is_call = false;
        e->text = mr_jparser_format(p, "(R.truth(%s) and {%s} or {%s})[1]", condition.text, e->text, other.text);
    }
    p->depth = depth;
    return MR_OK;
}

/* Whether an expression cannot go on with a further item here. */
static bool at_end(const mr_jparser *p) {
    const mr_jtoken *k = mr_jparser_now(p);
    return k->type == MR_J_TAG_END || k->type == MR_J_VAR_END || mr_jparser_is_op(p, ")") ||
           mr_jparser_is_name(p, "if") || mr_jparser_is_name(p, "recursive");
}

mr_status mr_jexpr_tuple(mr_jparser *p, mr_jexpr *e, bool plain) {
    level parse = plain ? disjunction : mr_jexpr_parse;
    MR_TRY(parse(p, e));
    if (!mr_jparser_is_op(p, ",")) return MR_OK;
    mr_str s = { 0 };
    mr_status st = MR_OK;
    int n = 1;
    mr_str_printf(&s, "R.tuple({%s", e->text);
    while (st == MR_OK && mr_jparser_skip_op(p, ",")) {
        if (at_end(p)) break;
        st = parse(p, e);
        if (st == MR_OK) mr_str_printf(&s, ", %s", e->text);
        n++;
    }
    mr_str_printf(&s, "}, %d)", n);
    *e = (mr_jexpr){ keep(p, &s), false };
    return st;
}
