/* jinja.h - a model's chat template, in Jinja, to the text of a Lua module that renders it. No Lua is run here.
 *
 * The language is what chat templates use: output, set (also as a block, on tuples and on namespace attributes), if,
 * for (else, if, loop, break, continue), macro and call, filter blocks, with, raw, generation; expressions with
 * filters, tests, slices, methods and calls. Settings are those of transformers: trim_blocks and lstrip_blocks on, the
 * last newline dropped. Whatever else stands in a template is an error with its line: it is never passed over.
 *
 * A statement of line n stands on line n of the Lua text as well, so a message about the one is right for the other.
 * The functions that the text calls are those of lua/medrl/jinja.lua; constants are Lua strings, which is how that file
 * tells markup from data.
 *
 * Source: Jinja 3.1, "Template Designer Documentation", and what its lexer does with white space;
 * spec/tokenizers.md, 2.7. Limits: 1 MiB of source, blocks in 32 levels, expressions in 40 (brackets count twice).
 * Threads: no hidden state. */
#ifndef MR_JINJA_H
#define MR_JINJA_H

#include "base/memory.h"

/* Appends to lua. place begins the message: MR_EDATA `PLACE:LINE: what; what to do`, and lua is as it was. */
mr_status mr_jinja_compile(mr_str *lua, const char *source, size_t len, const char *place, mr_err *err);

#endif
