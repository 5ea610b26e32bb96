/* jinja_parse.h - what the parser of expressions and that of statements share. Private to runtime/text. */
#ifndef MR_JINJA_PARSE_H
#define MR_JINJA_PARSE_H

#include "text/jinja_impl.h"

typedef struct mr_jparser {
    const mr_jtokens *t;
    int at;
    const char *place;
    mr_err *err;
    mr_arena arena; /* the texts of expressions */
    mr_str out;
    int out_line; /* of the Lua text */
    int blocks, depth, loops, label, n_labels;
    /* which of "caller", "varargs", "kwargs" the macro that is being read uses */
    bool uses[3];
} mr_jparser;

/* An expression as Lua text. A call's ends with the list of its named arguments: "... })". */
typedef struct mr_jexpr {
    const char *text; /* in the arena */
    bool is_call;
} mr_jexpr;

const mr_jtoken *mr_jparser_now(const mr_jparser *p);
bool mr_jparser_is_op(const mr_jparser *p, const char *op);
bool mr_jparser_is_name(const mr_jparser *p, const char *name);
bool mr_jparser_skip_op(mr_jparser *p, const char *op); /* takes it when it is next */
bool mr_jparser_skip_name(mr_jparser *p, const char *name);
mr_status mr_jparser_want_op(mr_jparser *p, const char *op);
mr_status mr_jparser_take_name(mr_jparser *p, char out[64], const char *what);
mr_status mr_jparser_fail(mr_jparser *p, int line, const char *fmt, ...) MR_PRINTF(3, 4);
/* MR_EDATA `PLACE:LINE: unexpected X, want WHAT`. */
mr_status mr_jparser_unexpected(mr_jparser *p, const char *want);
const char *mr_jparser_format(mr_jparser *p, const char *fmt, ...) MR_PRINTF(2, 3); /* in the arena */
/* A Lua string constant. */
void mr_jparser_quote(mr_str *out, const char *text, size_t len);

/* jinja_expr.c. The first takes "a, b" too, which is a tuple; `plain`: without "x if y else z". */
mr_status mr_jexpr_tuple(mr_jparser *p, mr_jexpr *e, bool plain);
mr_status mr_jexpr_parse(mr_jparser *p, mr_jexpr *e);
/* "name(args) | name ..." on a value; the first "|" is taken already when `begun`. */
mr_status mr_jexpr_filters(mr_jparser *p, mr_jexpr *e, bool begun);

#endif
