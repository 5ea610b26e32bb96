/* pretoken.c - splitting text before BPE: the patterns of the model families, translated to PCRE2.
 *
 * tokenizer.json holds patterns for the Oniguruma engine. Where the two engines mean different sets by the same
 * letters, the pattern is rewritten (\s, \S: PCRE2 adds U+180E under UCP); whatever is not known to mean the same is
 * refused by name.
 * Source: spec/tokenizers.md, 2.2. */
#include <stdio.h>
#include <string.h>

#include "text/vocab.h"

const char mr_pattern_qwen2[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char mr_pattern_llama3[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
                                 "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char mr_pattern_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char mr_pattern_digit[] = "\\p{N}"; /* Digits(individual_digits): general category N, as Rust's is_numeric */
const char mr_pattern_digits[] = "\\p{N}+";

/* The White_Space property, written out as the inside of a class. */
#define WHITE_SPACE                                                                                                    \
    "\\x{09}-\\x{0d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

static mr_status refuse(const char *pattern, const char *what, size_t n, const char *place, mr_err *err) {
    return mr_fail(err, MR_EDATA,
                   "%s: the pattern \"%s\" uses \"%.*s\", which is not known to mean the same here; use a model of the "
                   "Qwen2, Qwen3, "
                   "Llama 3 or SmolLM2 family",
                   place, pattern, (int)n, what);
}

/* Appends the PCRE2 form of the escape at p ("\s"), sets *used to its length. */
static mr_status translate_escape(mr_str *out, const char *p, size_t *used, bool in_class, const char *pattern,
                                  const char *place, mr_err *err) {
    char c = p[1];
    *used = 2;
    if (c == 's') {
        mr_str_puts(out, in_class ? WHITE_SPACE : "[" WHITE_SPACE "]");
    } else if (c == 'S' && !in_class) {
        mr_str_puts(out, "[^" WHITE_SPACE "]");
    } else if (c == 'p' || c == 'P') {
        size_t n = 3;
        if (p[2] != '{') return refuse(pattern, p, 2, place, err);
        while (p[n] && p[n] != '}') n++;
        if (!p[n] || n > 24) return refuse(pattern, p, 3, place, err);
        *used = n + 1;
        mr_str_add(out, p, *used);
    } else if (c == 'r' || c == 'n' || c == 't' ||
               (c > 32 && c < 127 && !((c | 32) >= 'a' && (c | 32) <= 'z') && !(c >= '0' && c <= '9'))) {
        mr_str_add(out, p, 2);
    } else {
        return refuse(pattern, p, c ? 2 : 1, place, err);
    }
    return MR_OK;
}

static mr_status translate(mr_str *out, const char *pattern, const char *place, mr_err *err) {
    bool in_class = false;
    for (const char *p = pattern; *p;) {
        size_t used = 1;
        if (*p == '\\') {
            MR_TRY(translate_escape(out, p, &used, in_class, pattern, place, err));
        } else if (in_class) {
            if (*p == '[' || (p[0] == '&' && p[1] == '&')) return refuse(pattern, p, 2, place, err); /* sets of sets */
            in_class = *p != ']';
            mr_str_add(out, p, 1);
        } else if (*p == '[') {
            in_class = true;
            if (p[1] == '^') used = 2;
            if (p[used] == ']') return refuse(pattern, p, used + 1, place, err);
            mr_str_add(out, p, used);
        } else if (p[0] == '(' && p[1] == '?') {
            const char *known[] = { "(?:", "(?i:", "(?!", "(?=" };
            used = 0;
            for (int i = 0; i < 4; i++)
                if (strncmp(p, known[i], strlen(known[i])) == 0) used = strlen(known[i]);
            if (!used) return refuse(pattern, p, 3, place, err);
            mr_str_add(out, p, used);
        } else if (*p == '^' || *p == '$' || *p == '.' || p[0] == '(') {
            return refuse(pattern, p, 1, place, err);
        } else {
            mr_str_add(out, p, 1);
        }
        p += used;
    }
    return MR_OK;
}

static mr_status match_setup(mr_tokenizer *t, const char *place, mr_err *err) {
    if (t->match) return MR_OK;
    t->match = pcre2_match_data_create(1, NULL);
    t->match_context = pcre2_match_context_create(NULL);
    t->jit_stack =
        pcre2_jit_stack_create(32 * 1024, 4 * 1024 * 1024, NULL); /* 32 KiB at once, more only when a text needs it */
    if (!t->match || !t->match_context || !t->jit_stack)
        return mr_fail(err, MR_ENOMEM, "%s: no memory for PCRE2", place);
    pcre2_jit_stack_assign(t->match_context, NULL, t->jit_stack);
    return MR_OK;
}

mr_status mr_pretoken_add(mr_tokenizer *t, const char *pattern, const char *place, mr_err *err) {
    if (t->n_steps == MR_VOCAB_MAX_STEPS)
        return mr_fail(err, MR_EDATA, "%s: more than %d pre-tokenizers; use a supported tokenizer", place,
                       MR_VOCAB_MAX_STEPS);
    MR_TRY(match_setup(t, place, err));
    mr_str own = { 0 };
    mr_status st = translate(&own, pattern, place, err);
    if (st != MR_OK) {
        mr_str_clear(&own);
        return st;
    }
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (context) pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int code = 0;
    PCRE2_SIZE at = 0;
    pcre2_code *compiled =
        pcre2_compile((PCRE2_SPTR)(own.data ? own.data : ""), own.len, PCRE2_UTF | PCRE2_UCP, &code, &at, context);
    pcre2_compile_context_free(context);
    mr_str_clear(&own);
    if (!compiled) {
        char why[128] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        return mr_fail(err, MR_EDATA, "%s: the pattern \"%s\" does not compile: %s", place, pattern, why);
    }
    pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE); /* without a JIT the interpreter gives the same pieces */
    static const char *const known[] = { mr_pattern_qwen2, mr_pattern_llama3, mr_pattern_gpt2, mr_pattern_digit,
                                         mr_pattern_digits };
    t->known[t->n_steps] = NULL;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(known[i], pattern) == 0) t->known[t->n_steps] = known[i];
    t->steps[t->n_steps++] = compiled;
    return MR_OK;
}

void mr_pretoken_clear(mr_tokenizer *t) {
    for (int i = 0; i < t->n_steps; i++) pcre2_code_free(t->steps[i]);
    t->n_steps = 0;
    pcre2_match_data_free(t->match);
    pcre2_match_context_free(t->match_context);
    pcre2_jit_stack_free(t->jit_stack);
}

/* Every match and every gap between matches goes on to the next step: "isolated" of the reference. The text of a step
 * is the whole subject, so a look-ahead sees the end of the piece as the reference's does. */
static mr_status split(mr_tokenizer *t, int step, const char *text, size_t len, mr_piece_fn piece, void *self,
                       mr_err *err) {
    if (len == 0) return MR_OK;
    if (step == t->n_steps) {
        piece(self, text, len);
        return MR_OK;
    }
    size_t done = 0, from = 0;
    while (from < len) {
        int rc = pcre2_match(t->steps[step], (PCRE2_SPTR)text, len, from, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, t->match,
                             t->match_context);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0) {
            char why[128] = "";
            pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
            return mr_fail(err, MR_EDATA,
                           "text of %zu bytes: the tokenizer's pattern gave up at byte %zu (%s); shorten the text", len,
                           from, why);
        }
        const PCRE2_SIZE *range =
            pcre2_get_ovector_pointer(t->match); /* 1 pair; read before the next step overwrites it */
        size_t start = range[0], end = range[1];
        MR_TRY(split(t, step + 1, text + done, start - done, piece, self, err));
        MR_TRY(split(t, step + 1, text + start, end - start, piece, self, err));
        done = from = end;
    }
    return split(t, step + 1, text + done, len - done, piece, self, err);
}

mr_status mr_pretoken_split(mr_tokenizer *t, const char *text, size_t len, mr_piece_fn piece, void *self, mr_err *err) {
    return split(t, 0, text, len, piece, self, err);
}
