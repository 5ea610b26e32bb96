/* parts.h - backend, model, tokenizer and chat format, opened together from whatever names a model.
 *
 * WHAT is a model's name, folder or .gguf file; a run folder (its model with its adapter, its system prompt and its
 * shots); or an adapter folder (the base model that it names, with it).
 * Ownership: everything belongs to the struct; mr_parts_close releases it, on a zeroed struct too. */
#ifndef MR_PARTS_H
#define MR_PARTS_H

#include <cjson/cJSON.h>

#include "model/model.h"
#include "rl/plan.h"
#include "rl/rollout.h"
#include "rl/settings.h"
#include "script/script.h"
#include "text/chat.h"

typedef struct mr_parts_opts {
    const char *adapter; /* a PEFT folder or a run; NULL: none, or the run's */
    const char *device;  /* "auto", "cpu", "cuda"; NULL is auto */
    const char *dtype;   /* "auto", "f32", "bf16", "f16"; NULL is auto */
    const char *store;   /* "auto", "f32", "bf16", "f16", "nf4"; NULL is auto */
    int n_threads;       /* 0: all */
    bool need_chat;      /* a model without a chat template is an error */
    bool no_exact;       /* mr_backend.exact = false */
    bool ids_only;       /* a model without a tokenizer is fine: tokenizer is NULL then */
} mr_parts_opts;

typedef struct mr_parts {
    mr_backend *backend;
    mr_model *model;
    mr_tokenizer *tokenizer;
    mr_template *template;
    const mr_chat *chat; /* of template; NULL: the model has no chat format */
    char *path;         /* of the model */
    char *adapter;      /* folder, NULL: none */
    cJSON *run;         /* config.json of the run, NULL when it is none */
    const char *system; /* the run's, NULL: none; borrowed from run */
    mr_message *shots;  /* the run's, borrowed strings */
    int n_shots;
} mr_parts;

mr_status mr_parts_open(mr_parts *p, const char *what, const mr_parts_opts *opts, mr_err *err);
void mr_parts_close(mr_parts *p);

/* The prompt frame (data.system, data.shots) of a resolved recipe or of a run's config.json, in place of the one that p
 * has; copied. */
void mr_parts_frame(mr_parts *p, const cJSON *recipe);

/* The steps of it, for the commands that need only some. *run stays NULL when WHAT is no run folder. adapter may be
 * NULL (not wanted). */
mr_status mr_parts_locate(char **path, char **adapter, cJSON **run, const char *what, mr_err *err);
/* device: auto (or NULL), cpu, cuda or cuda:N. A GPU that is asked for is opened or refused; auto takes the first one
 * that opens, else the CPU, and says why where the machine has a GPU. */
mr_status mr_parts_backend(mr_backend **out, const char *device, int n_threads, mr_err *err);
/* Where that will likely be a GPU: begins to open it in a thread (mr_backend_warm), and true. mr_parts_backend decides. */
bool mr_parts_warm(const char *device);
/* A checkpoint that is 4-bit on the disk, which stays so in memory unless another store is asked for. */
bool mr_parts_is_four_bit(const char *path);
/* Whether the system shows an NVIDIA GPU, be it of use or not. */
bool mr_parts_gpu_visible(void);
/* Which chat template, as a recipe's section model says it (rl/settings.h); NULL or "": the model's own, and today. */
typedef struct mr_chat_choice {
    const char *file, *kwargs, *date;
    /* A run that is continued: the version that it used, from store (mr_template_opts). A model whose own template is
     * another one now: a line says so. NULL: the one that is there. */
    const cJSON *pinned;
    const char *store;
} mr_chat_choice;
/* Opens p->template and p->chat; p->tokenizer and p->path are open. choice NULL: as p->run has it, or the model's
 * own. */
mr_status mr_parts_chat(mr_parts *p, const mr_chat_choice *choice, mr_err *err);
/* "auto" is bf16 where the device has it, else f16 on a GPU and f32 on a CPU. torch's names are fine too. */
mr_status mr_parts_dtype(mr_dtype *out, const char *name, const mr_backend *b, mr_err *err);

/* Before a model is loaded: the plan from a census of rows. p has backend, path, tokenizer and chat. mo: what the model
 * is to be opened with. */
mr_status mr_parts_plan(mr_parts *p, mr_plan *plan, mr_model_opts *mo, const mr_settings *s, mr_row_source rows,
                        mr_err *err);

/* An object of a report: an estimate with what it assumes. */
void mr_put_estimate(cJSON *report, const char *key, const mr_estimate *e, const mr_estimate_device *d);

/* mr_settings_parse, and the same for the recipe with its on_cpu table where that is not in use: a mistake in it shows
 * on every machine. */
mr_status mr_parts_settings(mr_settings *s, const cJSON *recipe, const char *place, mr_err *err);
/* Every --set has a name and a value; NULL is fine. */
/* The judge of evaluations (rl/evaluate.h), as mr_pool_opts.rewards takes it. */
#define MR_EVAL_JUDGE "eval_answer"
mr_status mr_check_overrides(const char *const *overrides, mr_err *err);
/* config.json of a run folder; NULL when the folder holds none of ours. */
mr_status mr_run_config_load(cJSON **out, const char *dir, mr_err *err);

#endif
