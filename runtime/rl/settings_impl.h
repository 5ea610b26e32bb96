/* settings_impl.h - the table behind settings.h, between settings_table.c (what there is) and settings.c (what is
 * done with it). */
#ifndef MR_SETTINGS_IMPL_H
#define MR_SETTINGS_IMPL_H

#include "rl/settings.h"

typedef enum mr_field_kind {
    K_BOOL,
    K_INT,
    K_U64,
    K_FLOAT,
    K_DOUBLE,
    K_STRING,
    K_ENUM,     /* one of .names, stored as an enum */
    K_ENUM_BIT, /* one of two names, stored as a bool */
    K_OPTIM,    /* one of .names; several name the same optimizer */
    K_SCALE,    /* an enum that TRL also writes as a bool */
    K_TARGETS,  /* lora.target_modules */
    K_TABLE,    /* a table of names, stored as JSON text; NULL when it is not given */
    K_WARMUP,   /* warmup_steps: below 1 it is a ratio (transformers 5) */
    K_FLAG,     /* a bool or one of .names (NULL: none); stored when it has an offset, else only checked */
    K_BATCH     /* per_device_train_batch_size, gradient_accumulation_steps: together they give prompts_per_step */
} mr_field_kind;

enum { IN_TOP, IN_MODEL, IN_LORA, IN_TRAIN, MR_N_SECTIONS }; /* IN_TRAIN: the section named as the method */
enum { GRPO = 1 << MR_METHOD_GRPO, SFT = 1 << MR_METHOD_SFT, BOTH = GRPO | SFT };

typedef struct mr_field {
    int section, methods;
    const char *key;
    mr_field_kind kind;
    size_t offset;            /* in mr_settings */
    const char *def;          /* as it is documented and parsed; NULL: required, "null": .unset is stored */
    double min, max;          /* of numbers */
    bool above_min;           /* min itself is not allowed */
    double unset;             /* what null stores */
    const char *const *names; /* in the order of their values; NULL-terminated */
    const char *doc;
} mr_field;

/* A name of the other libraries that has no meaning here. */
typedef struct mr_foreign {
    int section;
    const char *key, *harmless; /* JSON values that ask for nothing, separated by |; NULL: none */
    const char *why;
} mr_foreign;

extern const mr_field mr_fields[];
extern const int mr_n_fields; /* the first two are method and output_dir */
extern const mr_foreign mr_foreigns[];
extern const int mr_n_foreigns;
extern const char *const mr_section_names[MR_N_SECTIONS]; /* "" for IN_TOP and IN_TRAIN */
extern const char *const mr_method_names[];               /* by mr_method; NULL-terminated */

void mr_list_names(char *out, size_t len, const char *const *names); /* "a, b, c" */

#endif
