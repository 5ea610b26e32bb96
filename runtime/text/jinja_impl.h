/* jinja_impl.h - tokens, as jinja_lex.c makes them and the parser takes them. Private to runtime/text. */
#ifndef MR_JINJA_IMPL_H
#define MR_JINJA_IMPL_H

#include "text/jinja.h"

enum { MR_JINJA_SOURCE_MOST = 1 << 20, MR_JINJA_BLOCKS_MOST = 32, MR_JINJA_DEPTH_MOST = 40 };

typedef enum mr_jtype {
    MR_J_DATA,    /* text between tags; white space already taken off */
    MR_J_VAR,     /* {{ */
    MR_J_VAR_END, /* }} */
    MR_J_TAG,     /* {% */
    MR_J_TAG_END, /* %} */
    MR_J_NAME,
    MR_J_STRING, /* escapes done */
    MR_J_INT,
    MR_J_FLOAT, /* both: digits as Lua reads them */
    MR_J_OP,    /* text is the operator */
    MR_J_EOF
} mr_jtype;

typedef struct mr_jtoken {
    mr_jtype type;
    int line;
    const char *text; /* in the arena or in the source, not NUL-terminated */
    size_t len;
} mr_jtoken;

typedef struct mr_jtokens {
    mr_jtoken *list; /* the last one is MR_J_EOF */
    int n, cap;
    mr_arena arena;
} mr_jtokens;

/* t is filled from zero; clear it in any case. */
mr_status mr_jinja_lex(mr_jtokens *t, const char *source, size_t len, const char *place, mr_err *err);
void mr_jinja_tokens_clear(mr_jtokens *t);

#endif
