/* jinja_lex.c - a template as tokens. The white space rules are those of Jinja's lexer with trim_blocks and
 * lstrip_blocks: what a tag's "-" and "+" do is decided here, and the parser sees text that is final. */
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "text/jinja_impl.h"

typedef struct lexer {
    mr_jtokens *out;
    const char *s; /* newlines normalized, the last one dropped; NUL-terminated */
    size_t len, at;
    int line;
    bool line_starts; /* the last token ended with a newline, or nothing came yet */
    const char *place;
    mr_err *err;
} lexer;

static mr_status fail(lexer *x, int line, const char *what) {
    return mr_fail(x->err, MR_EDATA, "%s:%d: %s", x->place, line, what);
}

static void push(lexer *x, mr_jtype type, const char *text, size_t len, int line) {
    mr_jtokens *t = x->out;
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 256;
        t->list = mr_realloc(t->list, (size_t)t->cap * sizeof *t->list);
    }
    t->list[t->n++] = (mr_jtoken){ type, line, text, len };
}

/* What str.isspace of Python takes for white space. */
static bool is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/* Bytes of white space that p[n] begins with: one character, or 0. */
static size_t space_at(const char *p, size_t n) {
    uint32_t cp;
    int k = n ? mr_utf8_next(&cp, (const uint8_t *)p, n) : 0;
    return k > 0 && is_space(cp) ? (size_t)k : 0;
}

static size_t strip_end(const char *p, size_t n) {
    size_t keep = 0;
    for (size_t i = 0; i < n;) {
        size_t k = space_at(p + i, n - i);
        i += k ? k : 1;
        if (!k) keep = i;
    }
    return keep;
}

static void move(lexer *x, size_t to) {
    for (; x->at < to; x->at++) x->line += x->s[x->at] == '\n';
}

static void skip_space(lexer *x) {
    for (size_t k; (k = space_at(x->s + x->at, x->len - x->at));) move(x, x->at + k);
}

static bool here(const lexer *x, const char *text) {
    return strncmp(x->s + x->at, text, strlen(text)) == 0;
}

/* The end of a tag, comment or raw block at x->at: "-" takes all white space behind it, "+" keeps the newline, and
 * without a sign one newline goes (trim). */
static bool take_end(lexer *x, const char *end, bool trim) {
    char sign = x->s[x->at];
    size_t skip = sign == '-' || (sign == '+' && trim) ? 1 : 0;
    if (strncmp(x->s + x->at + skip, end, 2) != 0) return false;
    move(x, x->at + skip + 2);
    if (skip && sign == '-')
        skip_space(x);
    else if (!skip && trim && x->s[x->at] == '\n')
        move(x, x->at + 1);
    x->line_starts = x->at > 0 && x->s[x->at - 1] == '\n';
    return true;
}

/* Text before a tag whose sign ('-', '+' or 0) is known. `block`: not a {{ }}, so lstrip_blocks applies. */
static void push_text(lexer *x, size_t from, size_t to, char sign, bool block, int line) {
    const char *p = x->s + from;
    size_t n = to - from;
    if (sign == '-') {
        n = strip_end(p, n);
    } else if (sign != '+' && block) {
        size_t line_at = n;
        while (line_at > 0 && p[line_at - 1] != '\n') line_at--;
        if ((line_at > 0 || x->line_starts) && strip_end(p + line_at, n - line_at) == 0) n = line_at;
    }
    if (n) push(x, MR_J_DATA, p, n, line);
}

/* ---- inside a tag ---- */

static bool is_name(char c, bool first) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (!first && c >= '0' && c <= '9');
}
static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static int hex_value(char c) {
    return is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* One escape of a Python string behind its backslash; appends what it means. */
static mr_status escape(lexer *x, const char **at, const char *end, mr_str *out, int line) {
    static const char simple[] = "\\\\\'\'\"\"a\ab\bf\fn\nr\rt\tv\v";
    const char *p = *at;
    char c = *p++;
    uint32_t cp = 0;
    int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    for (size_t i = 0; i + 1 < sizeof simple; i += 2) {
        if (c != simple[i]) continue;
        mr_str_add(out, &simple[i + 1], 1);
        *at = p;
        return MR_OK;
    }
    if (c == 'N') return fail(x, line, "string: \\N{...} is not supported; write the character itself");
    if (c == '\n') {
        *at = p;
        return MR_OK;
    }
    if (digits) {
        for (int i = 0; i < digits; i++, p++) {
            if (p >= end || hex_value(*p) < 0)
                return fail(x, line, "string: an escape \\x, \\u or \\U has too few hexadecimal digits");
            cp = cp * 16 + (uint32_t)hex_value(*p);
        }
    } else if (c >= '0' && c <= '7') {
        cp = (uint32_t)(c - '0');
        for (int i = 0; i < 2 && p < end && *p >= '0' && *p <= '7'; i++) cp = cp * 8 + (uint32_t)(*p++ - '0');
    } else { /* no escape: the backslash stays */
        mr_str_puts(out, "\\");
        *at = p - 1;
        return MR_OK;
    }
    if (cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000))
        return fail(x, line, "string: an escape stands for no character (a surrogate, or above U+10FFFF)");
    char bytes[4];
    mr_str_add(out, bytes, (size_t)mr_utf8_put(bytes, cp));
    *at = p;
    return MR_OK;
}

static mr_status take_string(lexer *x) {
    char quote = x->s[x->at];
    size_t end = x->at + 1;
    int line = x->line;
    while (end < x->len && x->s[end] != quote) end += x->s[end] == '\\' && end + 1 < x->len ? 2 : 1;
    if (end >= x->len) return fail(x, line, "a string that begins here has no end; close its quote");
    mr_str text = { 0 };
    const char *p = x->s + x->at + 1, *stop = x->s + end;
    mr_status st = MR_OK;
    while (p < stop && st == MR_OK) {
        const char *slash = memchr(p, '\\', (size_t)(stop - p));
        size_t n = (size_t)((slash ? slash : stop) - p);
        mr_str_add(&text, p, n);
        p += n;
        if (!slash) break;
        p++;
        st = escape(x, &p, stop, &text, line);
    }
    if (st == MR_OK && text.len && memchr(text.data, 0, text.len)) st = fail(x, line, "string: a zero byte is no text");
    if (st == MR_OK)
        push(x, MR_J_STRING, mr_arena_strdup(&x->out->arena, text.data ? text.data : "", text.len), text.len, line);
    mr_str_clear(&text);
    move(x, end + 1);
    return st;
}

static mr_status take_number(lexer *x) {
    char digits[64];
    size_t n = 0, from = x->at, at = from;
    bool is_float = false;
    const char *s = x->s;
    if (s[at] == '0' && s[at + 1] && strchr("xXoObB", s[at + 1]))
        return fail(x, x->line, "a number in base 2, 8 or 16 is not supported; write it in decimal");
    for (; is_digit(s[at]) || (s[at] == '_' && is_digit(s[at + 1])); at++)
        if (s[at] != '_' && n < 40) digits[n++] = s[at];
    bool before_dot = from > 0 && s[from - 1] == '.'; /* x.0.1: both are indices */
    if (!before_dot && s[at] == '.' && is_digit(s[at + 1])) {
        is_float = true;
        digits[n++] = s[at++];
        for (; is_digit(s[at]); at++)
            if (n < 56) digits[n++] = s[at];
    }
    size_t e = at + 1 + (s[at] && (s[at + 1] == '+' || s[at + 1] == '-'));
    if (!before_dot && (s[at] == 'e' || s[at] == 'E') && is_digit(s[e]) && n < 50) {
        is_float = true;
        for (; at < e; at++) digits[n++] = s[at];
        for (; is_digit(s[at]); at++)
            if (n < 60) digits[n++] = s[at];
    }
    if (!is_float && (n > 16 || (n > 1 && digits[0] == '0')))
        return fail(x, x->line, "a whole number must be below 1e16 and not begin with 0");
    push(x, is_float ? MR_J_FLOAT : MR_J_INT, mr_arena_strdup(&x->out->arena, digits, n), n, x->line);
    move(x, at);
    return MR_OK;
}

static mr_status take_operator(lexer *x, int *depth, char *stack) {
    static const char *const two[] = { "//", "**", "==", "!=", ">=", "<=" };
    char c = x->s[x->at], message[80];
    size_t n = 0;
    for (int i = 0; i < 6 && !n; i++) n = here(x, two[i]) ? 2 : 0;
    if (!n && strchr("+-/*%~[](){}><=.:|,", c)) n = 1;
    if (!n) {
        snprintf(message, sizeof message, "unexpected character \"%c\" (byte %d) in a tag",
                 c < 0x20 || c > 0x7e ? '?' : c, (uint8_t)c);
        return fail(x, x->line, message);
    }
    if (n == 1 && strchr("([{", c)) {
        if (*depth == 2 * MR_JINJA_DEPTH_MOST)
            return fail(x, x->line, "brackets are nested too deep; put parts into variables with set");
        stack[(*depth)++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (n == 1 && strchr(")]}", c)) {
        if (*depth == 0 || stack[*depth - 1] != c) {
            snprintf(message, sizeof message, "unexpected \"%c\", want %s%c%s", c, *depth ? "\"" : "the end of the tag",
                     *depth ? stack[*depth - 1] : ' ', *depth ? "\"" : "");
            return fail(x, x->line, message);
        }
        (*depth)--;
    }
    push(x, MR_J_OP, x->s + x->at, n, x->line);
    move(x, x->at + n);
    return MR_OK;
}

/* From behind "{{" or "{%" to behind its end. Ends count only outside of brackets: {{ {'a': {}} }}. */
static mr_status take_tag(lexer *x, bool block, int line) {
    char stack[2 * MR_JINJA_DEPTH_MOST];
    int depth = 0;
    for (;;) {
        skip_space(x);
        if (x->at >= x->len)
            return fail(x, line,
                        block ? "a tag {% that begins here has no end; close it with %}"
                              : "an output {{ that begins here has no end; close it with }}");
        int at_line = x->line;
        if (depth == 0 && take_end(x, block ? "%}" : "}}", block)) {
            push(x, block ? MR_J_TAG_END : MR_J_VAR_END, "", 0, at_line);
            return MR_OK;
        }
        char c = x->s[x->at];
        if (is_name(c, true)) {
            size_t end = x->at;
            while (is_name(x->s[end], false)) end++;
            push(x, MR_J_NAME, x->s + x->at, end - x->at, x->line);
            move(x, end);
        } else if (c == '"' || c == '\'') {
            MR_TRY(take_string(x));
        } else if (is_digit(c)) {
            MR_TRY(take_number(x));
        } else {
            MR_TRY(take_operator(x, &depth, stack));
        }
    }
}

/* ---- between tags ---- */

/* At "{%": whether it opens a raw block; *text_at is then where its text begins. */
static bool opens_raw(const lexer *x, size_t *text_at) {
    size_t at = x->at + 2, k;
    if (x->s[at] == '-' || x->s[at] == '+') at++;
    while ((k = space_at(x->s + at, x->len - at))) at += k;
    if (strncmp(x->s + at, "raw", 3) != 0 || is_name(x->s[at + 3], false)) return false;
    at += 3;
    while ((k = space_at(x->s + at, x->len - at))) at += k;
    bool all = x->s[at] == '-';
    if (strncmp(x->s + at + all, "%}", 2) != 0) return false;
    at += (size_t)all + 2;
    while (all && (k = space_at(x->s + at, x->len - at))) at += k;
    *text_at = at;
    return true;
}

static mr_status take_raw(lexer *x, size_t text_at, int line) {
    move(x, text_at);
    x->line_starts = x->at > 0 && x->s[x->at - 1] == '\n';
    int text_line = x->line;
    for (const char *p = x->s + text_at; (p = strstr(p, "{%")); p += 2) {
        size_t end = (size_t)(p - x->s), at = end + 2, k;
        char sign = x->s[at];
        if (sign == '-' || sign == '+') at++;
        while ((k = space_at(x->s + at, x->len - at))) at += k;
        if (strncmp(x->s + at, "endraw", 6) != 0) continue;
        at += 6;
        while ((k = space_at(x->s + at, x->len - at))) at += k;
        push_text(x, text_at, end, sign, true, text_line);
        move(x, at);
        if (take_end(x, "%}", true)) return MR_OK;
        break;
    }
    return fail(x, line, "a raw block that begins here has no {% endraw %}");
}

static mr_status take_comment(lexer *x, int line) {
    const char *end = strstr(x->s + x->at + 2, "#}");
    if (!end) return fail(x, line, "a comment {# that begins here has no end; close it with #}");
    size_t at = (size_t)(end - x->s);
    /* a sign before the end belongs to it, unless it is the one behind the beginning: {#-#} */
    if (at > x->at + 2 && (end[-1] == '-' || end[-1] == '+')) at--;
    move(x, at);
    take_end(x, "#}", true);
    return MR_OK;
}

static mr_status lex(lexer *x) {
    x->line_starts = true;
    while (x->at < x->len) {
        size_t from = x->at, at = from;
        int text_line = x->line;
        while (at < x->len && !(x->s[at] == '{' && x->s[at + 1] && strchr("{%#", x->s[at + 1]))) at++;
        move(x, at);
        if (at >= x->len) {
            push(x, MR_J_DATA, x->s + from, at - from, text_line);
            break;
        }
        char kind = x->s[at + 1], sign = x->s[at + 2];
        if (sign != '-' && sign != '+') sign = 0;
        int line = x->line;
        size_t raw_at;
        bool raw = kind == '%' && opens_raw(x, &raw_at);
        push_text(x, from, at, sign, kind != '{', text_line);
        if (raw) {
            MR_TRY(take_raw(x, raw_at, line));
            continue;
        }
        if (kind == '#') {
            MR_TRY(take_comment(x, line));
            continue;
        }
        push(x, kind == '%' ? MR_J_TAG : MR_J_VAR, x->s + at, 2, line);
        move(x, at + 2 + (sign != 0));
        MR_TRY(take_tag(x, kind == '%', line));
    }
    push(x, MR_J_EOF, "", 0, x->line);
    return MR_OK;
}

mr_status mr_jinja_lex(mr_jtokens *t, const char *source, size_t len, const char *place, mr_err *err) {
    if (len > MR_JINJA_SOURCE_MOST)
        return mr_fail(err, MR_EDATA, "%s: the chat template has %zu bytes, want at most %d", place, len,
                       MR_JINJA_SOURCE_MOST);
    if (!mr_utf8_valid(source, len) || memchr(source, 0, len))
        return mr_fail(err, MR_EDATA, "%s: the chat template is no UTF-8 text", place);
    char *s = mr_arena_alloc(&t->arena, len + 4); /* zeroed: what looks one byte ahead finds the end */
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (source[i] == '\r' && source[i + 1 < len ? i + 1 : i] == '\n') continue;
        s[n++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (n && s[n - 1] == '\n') n--;
    s[n] = 0;
    lexer x = { .out = t, .s = s, .len = n, .line = 1, .place = place, .err = err };
    return lex(&x);
}

void mr_jinja_tokens_clear(mr_jtokens *t) {
    mr_free(t->list);
    mr_arena_clear(&t->arena);
    *t = (mr_jtokens){ 0 };
}
