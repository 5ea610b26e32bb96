/* test_jinja.c - templates that must not compile, each with its line; and that the Lua text keeps the template's lines.
 * What compiled templates render is tested in unit/script/test_template.c. */
#include "support.h"
#include "text/jinja.h"

static void bad_templates_are_refused_with_their_line(void) {
    static const struct {
        const char *source, *want;
    } bad[] = {
        { "a\n{{ x", "t:2: an output {{ that begins here has no end" },
        { "a\n\n{% if x", "t:3: a tag {% that begins here has no end" },
        { "{# never", "t:1: a comment {# that begins here has no end" },
        { "{% raw %}{{ x }}", "t:1: a raw block that begins here has no {% endraw %}" },
        { "{{ 'abc }}", "t:1: a string that begins here has no end" },
        { "{{ \"\\ud83d\" }}", "t:1: string: an escape stands for no character" },
        { "{{ '\\x4' }}", "t:1: string: an escape \\x, \\u or \\U has too few" },
        { "{{ '\\N{DASH}' }}", "t:1: string: \\N{...} is not supported" },
        { "{{ 0x10 }}", "t:1: a number in base 2, 8 or 16" },
        { "{{ 99999999999999999999 }}", "t:1: a whole number must be below" },
        { "{{ a ; b }}", "t:1: unexpected character \";\"" },
        { "{{ a $ b }}", "t:1: unexpected character \"$\"" },
        { "{{ (a] }}", "t:1: unexpected \"]\", want \")\"" },
        { "{{ a) }}", "t:1: unexpected \")\", want the end of the tag" },
        { "{{ }}", "t:1: unexpected the end of the output, want an expression" },
        { "\n{{ a b }}", "t:2: unexpected \"b\", want the end of the output" },
        { "{{ a | }}", "t:1: unexpected the end of the output, want the name of a filter" },
        { "{{ a | escape }}", "t:1: filter \"escape\" is not one that medrl knows" },
        { "x\n{{ a | pprint }}", "t:2: filter \"pprint\" is not one that medrl knows" },
        { "{{ a is sparkling }}", "t:1: test \"sparkling\" is not one that medrl knows" },
        { "{{ a.__class__ }}", "t:1: attribute \"__class__\": names that begin with _" },
        { "{{ f(*a) }}", "t:1: arguments given as a list (*)" },
        { "{{ f(**a) }}", "t:1: arguments given as a list (*)" },
        { "{{ f(a=1, 2) }}", "t:1: an argument without a name stands behind one with a name" },
        { "{{ a[1, 2] }}", "t:1: several indices in one []" },
        { "{{ a[] }}", "t:1: unexpected \"]\", want an index" },
        { "{% include 'x' %}", "t:1: tag \"include\" is not one that chat templates use" },
        { "\n\n{% block x %}{% endblock %}", "t:3: tag \"block\" is not one that chat templates use" },
        { "{% import 'os' as os %}", "t:1: tag \"import\"" },
        { "{% do x.append(1) %}", "t:1: tag \"do\"" },
        { "{% endif %}", "t:1: \"endif\" has no beginning here" },
        { "{% if x %}\n{% endfor %}{% endif %}", "t:2: \"endfor\" has no beginning here" },
        { "\n{% if x %}a", "t:2: a block that begins here has no end, want {% endif %}" },
        { "{% for x in y %}", "t:1: a block that begins here has no end, want {% endfor %}" },
        { "{% for x y %}{% endfor %}", "t:1: unexpected \"y\", want \"in\"" },
        { "{% for x in y recursive %}{% endfor %}", "t:1: a recursive for is not supported" },
        { "{% for (a, (b, c)) in y %}{% endfor %}", "t:1: tuples within tuples cannot be set" },
        { "{% break %}", "t:1: \"break\" outside of a for" },
        { "{% for x in y %}{% macro f() %}{% continue %}{% endmacro %}{% endfor %}",
          "t:1: \"continue\" outside of a for" },
        { "{% set true = 1 %}", "t:1: \"true\" cannot be set" },
        { "{% set a.b, c = 1, 2 %}", "t:1: unexpected \",\", want the end of the tag" },
        { "{% set a, b %}x{% endset %}", "t:1: unexpected the end of the tag, want \"=\"" },
        { "{% set 1 = 2 %}", "t:1: unexpected \"1\", want a name to set" },
        { "{% macro f(a=1, b) %}{% endmacro %}", "t:1: parameter \"b\" has no default, but one before it does" },
        { "{% call f %}{% endcall %}", "t:1: a call tag wants the call of a macro" },
        { "{% %}", "t:1: unexpected the end of the tag, want a word" },
        { "{{ a if }}", "t:1: unexpected the end of the output, want an expression" },
        { "{{ in }}", "t:1: unexpected \"in\", want an expression" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mr_err err = { "" };
        mr_str lua = { 0 };
        CHECK_INT(mr_jinja_compile(&lua, bad[i].source, strlen(bad[i].source), "t", &err), MR_EDATA);
        CHECK_CONTAINS(err.msg, bad[i].want);
        CHECK(lua.len == 0);
        mr_str_clear(&lua);
    }
}

static void what_is_no_text_is_refused(void) {
    mr_err err = { "" };
    mr_str lua = { 0 };
    CHECK_INT(mr_jinja_compile(&lua, "a\xFF", 2, "t", &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "no UTF-8 text");
    CHECK_INT(mr_jinja_compile(&lua, "a\0b", 3, "t", &err), MR_EDATA);
    size_t len = (1 << 20) + 1;
    char *big = mr_alloc(len);
    memset(big, 'x', len);
    CHECK_INT(mr_jinja_compile(&lua, big, len, "t", &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "has 1048577 bytes, want at most 1048576");
    CHECK_INT(mr_jinja_compile(&lua, big, len - 1, "t", &err), MR_OK);
    mr_free(big);
    mr_str_clear(&lua);
}

/* n times `open`, then `middle`, then n times `close`. */
static char *nested(const char *open, const char *middle, const char *close, int n) {
    mr_str s = { 0 };
    for (int i = 0; i < n; i++) mr_str_puts(&s, open);
    mr_str_puts(&s, middle);
    for (int i = 0; i < n; i++) mr_str_puts(&s, close);
    return mr_str_steal(&s);
}

static void depth_is_bounded(void) {
    static const char *const parts[][3] = {
        { "(", "1", ")" },      { "[", "1", "]" },      { "-", "1", "" },
        { "f(", "1", ")" },     { "{1: ", "1", "}" },   { "a[", "1", "]" },
        { "(1 if ", "x", ")" }, { "", "a", ".b" },      { "", "a", "[0]" },
        { "", "a", "()" },      { "", "a", " | trim" }, { "", "a", " is none" },
        { "", "a", " and a" },  { "", "a", " or a" },   { "", "a", " if a else a" },
        { "", "a", " < a" },    { "not (", "a", ")" },
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        mr_err err = { "" };
        mr_str lua = { 0 };
        char *inner = nested(parts[i][0], parts[i][1], parts[i][2], 80000), *source = mr_asprintf("{{ %s }}", inner);
        CHECK_INT(mr_jinja_compile(&lua, source, strlen(source), "t", &err), MR_EDATA);
        CHECK_CONTAINS(err.msg, "t:1: ");
        mr_free(source);
        mr_free(inner);
        mr_str_clear(&lua);
    }
    mr_err err = { "" };
    mr_str lua = { 0 };
    char *blocks = nested("{% if x %}", "y", "{% endif %}", 40000);
    CHECK_INT(mr_jinja_compile(&lua, blocks, strlen(blocks), "t", &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "blocks are nested deeper than 32 levels");
    mr_free(blocks);
    /* long is not deep */
    char *sum = nested("", "{{ a", " + 'b' ~ 'c'", 20000), *source = mr_asprintf("%s }}", sum);
    CHECK_INT(mr_jinja_compile(&lua, source, strlen(source), "t", &err), MR_OK);
    mr_free(source);
    mr_free(sum);
    mr_str_clear(&lua);
}

static int line_of(const char *text, const char *part) {
    const char *at = strstr(text, part);
    int line = 1;
    REQUIRE(at != NULL);
    for (const char *p = text; p < at; p++) line += *p == '\n';
    return line;
}

static void lines_stay_what_they_were(void) {
    static const char source[] =
        "first\n{# a\ncomment #}{% set x = 1 %}\n\n{{ 'output' }}\n{% if\n x %}\nyes{% elif y %}\n{% for a "
        "in b %}\n{{ a }}{% endfor %}{% endif %}\n'last'";
    mr_err err = { "" };
    mr_str lua = { 0 };
    REQUIRE_OK(mr_jinja_compile(&lua, source, strlen(source), "t", &err), err);
    CHECK_INT(line_of(lua.data, "\"first"), 1);
    CHECK_INT(line_of(lua.data, "v[\"x\"] = 1"), 3);
    CHECK_INT(line_of(lua.data, "output"), 5);
    CHECK_INT(line_of(lua.data, "R.truth(v[\"x\"])"), 6);
    CHECK_INT(line_of(lua.data, "R.truth(v[\"y\"])"), 8);
    CHECK_INT(line_of(lua.data, "R.loop"), 9);
    CHECK_INT(line_of(lua.data, "R.put(o, v[\"a\"])"), 10);
    CHECK_INT(line_of(lua.data, "'last'"), 11);
    mr_str_clear(&lua);
}

TEST_MAIN({ "bad_templates_are_refused_with_their_line", bad_templates_are_refused_with_their_line },
          { "what_is_no_text_is_refused", what_is_no_text_is_refused }, { "depth_is_bounded", depth_is_bounded },
          { "lines_stay_what_they_were", lines_stay_what_they_were })
