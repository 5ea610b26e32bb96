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
    K_AUTO,     /* "auto", false or true, stored as mr_dequantize */
    K_SCALE,    /* an enum that TRL also writes as a bool */
    K_TARGETS,  /* lora.target_modules */
    K_SIZE,     /* bytes, as a string: "14G" */
    K_TABLE,    /* a table of names, stored as JSON text; NULL when it is not given */
    K_WARMUP,   /* warmup_steps: below 1 it is a ratio (transformers 5) */
    K_FLAG,     /* a bool or one of .names (NULL: none); stored when it has an offset, else only checked */
    K_REPORT,   /* report_to: "none", "tensorboard" or a list of them; stored as a bool */
    K_BATCH     /* per_device_train_batch_size, gradient_accumulation_steps: together they give prompts_per_step */
} mr_field_kind;

enum { IN_TOP, IN_MODEL, IN_LORA, IN_BUDGET, IN_TRAIN, MR_N_SECTIONS }; /* IN_TRAIN: the section named as the method */
enum { GRPO = 1 << MR_METHOD_GRPO, SFT = 1 << MR_METHOD_SFT, BOTH = GRPO | SFT };
enum { LIVE = 1 << 8 }; /* with the methods of a field: it may change while a run goes on */

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
extern const int mr_n_fields; /* those of IN_TOP come first, method before all */
extern const mr_foreign mr_foreigns[];
extern const int mr_n_foreigns;
extern const char *const mr_section_names[MR_N_SECTIONS]; /* "" for IN_TOP and IN_TRAIN */
extern const char *const mr_method_names[];               /* by mr_method; NULL-terminated */

/* Stores a value that fits the field; null: its default. */
mr_status mr_settings_take(mr_settings *s, const mr_field *f, const cJSON *v, const char *place, mr_err *err);
/* What the range of one field does not say: "PLACE: grpo.temperature is 0, need more than 0". */
mr_status mr_settings_check_positive(const mr_settings *s, const char *place, mr_err *err);
const char *mr_settings_section(const mr_settings *s, const mr_field *f); /* "" at the top */
/* MR_EINVAL: there is no such key, with a suggestion. */
mr_status mr_settings_unknown(const mr_settings *s, const char *place, const char *full, mr_err *err);

void mr_list_names(char *out, size_t len, const char *const *names); /* "a, b, c" */

#endif
