/* data_impl.h - what data.c (the command, rows, prompts) and data_report.c (the summary) of `medrl data` share. Private
 * to runtime/cli. */
#ifndef MR_DATA_IMPL_H
#define MR_DATA_IMPL_H

#include "cli/parts.h"
#include "script/script.h"

typedef struct mr_looking {
    const char *recipe, *split, *rows_text;
    const char *const *overrides;
    int64_t n;
    bool json, gpu;
    int64_t sandbox; /* lowest level */
    mr_pool *pool;
    mr_settings settings;
    mr_parts parts;       /* tokenizer and chat only */
    char no_tokens[1024]; /* why there is no tokenizer; "": there is one */
    mr_row_source rows;
    bool terminal, color; /* stdout is a terminal, and shows colors */
    int columns;          /* of it; 80 when it is none */
} mr_looking;

/* The ids of a row's prompt as training makes them. Only with a tokenizer. The caller frees ids->data. */
mr_status mr_data_encode(mr_looking *l, const mr_row *row, mr_ids *ids, mr_err *err);
/* Prints the summary: lengths, answers, what was dropped, overlap. MR_EDATA when there are rows that cannot be made. */
mr_status mr_data_report(mr_looking *l, mr_err *err);

#endif
