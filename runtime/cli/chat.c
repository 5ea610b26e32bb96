/* chat.c - `medrl chat`: a conversation on the terminal, or lines from a pipe. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/cli.h"
#include "cli/edit.h"
#include "cli/speak.h"

static const mr_usage usage = {
    "chat",
    "medrl chat smollm2-135m-instruct\nmedrl chat outputs            (what `medrl run` made)",
    "MODEL|RUN",
    1,
    1,
    "A conversation. /reset forgets it, /quit (or Ctrl-D) ends it, Ctrl-C stops an answer. A run folder brings its "
    "adapter, its system\n"
    "prompt and its example messages along.",
};

typedef struct conversation {
    mr_parts *parts;
    const char *system;
    mr_message *turns;
    int n_turns, cap_turns;
    mr_speak_opts speak;
    bool terminal, inside;
    const mr_edit *edit; /* of a terminal */
} conversation;

static void forget(conversation *c) {
    for (int i = 0; i < c->n_turns; i++) mr_free((void *)(uintptr_t)c->turns[i].content);
    c->n_turns = 0;
}

static void remember(conversation *c, const char *role, char *content) {
    if (c->n_turns == c->cap_turns) {
        c->cap_turns = c->cap_turns ? 2 * c->cap_turns : 16;
        c->turns = mr_realloc(c->turns, (size_t)c->cap_turns * sizeof *c->turns);
    }
    c->turns[c->n_turns++] = (mr_message){ role, content };
}

/* The next line without its end, NULL at the end of the input. */
static char *next_line(const conversation *c) {
    if (c->terminal) {
        char *line = c->edit->readline(c->inside ? "you> " : "> "), *copy = mr_strdup(line);
        if (line && *line && !c->inside) c->edit->add_history(line);
        free(line);
        return copy;
    }
    char *line = NULL;
    size_t cap = 0;
    ssize_t n = getline(&line, &cap, stdin);
    char *copy = NULL;
    if (n >= 0) {
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) n--;
        copy = mr_strndup(line, strnlen(line, (size_t)n));
    }
    free(line);
    return copy;
}

static mr_status encode_history(conversation *c, mr_ids *ids, mr_err *err) {
    int n;
    const mr_chat_opts o = { .add_generation_prompt = true };
    mr_message *m = mr_speak_frame(c->parts, c->system, c->turns, c->n_turns, &n);
    mr_status st = mr_chat_encode(c->parts->tokenizer, ids, c->parts->chat, m, n, &o, err);
    mr_free(m);
    return st;
}

static mr_status answer(conversation *c, mr_err *err) {
    mr_ids ids = { 0 };
    mr_rollout r = { 0 };
    mr_signals_catch(NULL, NULL); /* Ctrl-C: mr_speak sees it and ends the answer; so does one since the line was typed */
    mr_status st = encode_history(c, &ids, err);
    /* A conversation outgrows the context; its oldest exchange goes first, the system prompt and the examples stay. */
    int limit = mr_model_config(c->parts->model)->max_position_embeddings - 16;
    while (st == MR_OK && ids.n > limit && c->n_turns > 2) {
        mr_free((void *)(uintptr_t)c->turns[0].content);
        mr_free((void *)(uintptr_t)c->turns[1].content);
        c->n_turns -= 2;
        memmove(c->turns, c->turns + 2, (size_t)c->n_turns * sizeof *c->turns);
        ids.n = 0;
        st = encode_history(c, &ids, err);
        mr_debug("the context is full: the oldest exchange is left out");
    }
    if (st == MR_OK) {
        c->speak.turn++;
        st = mr_speak(&r, c->parts->model, c->parts->tokenizer, &ids, &c->speak, err);
    }
    if (st == MR_OK) {
        remember(c, "assistant", mr_speak_text(c->parts->tokenizer, &r.items[0]));
        printf("\n");
        fflush(stdout);
    }
    mr_rollout_clear(&r);
    mr_free(ids.data);
    return st;
}

static mr_status converse(conversation *c, mr_err *err) {
    for (;;) {
        mr_signals_forget();
        if (c->inside)
            mr_signals_catch(NULL, NULL);
        else
            mr_signals_leave(); /* at the prompt Ctrl-C ends the program */
        char *line = next_line(c);
        if (!line || strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0) {
            if (!line && c->terminal) printf("\n");
            mr_free(line);
            return MR_OK;
        }
        if (strcmp(line, "/reset") == 0) {
            forget(c);
            mr_info("the conversation is forgotten");
        } else if (line[0] == '/' && strspn(line + 1, "abcdefghijklmnopqrstuvwxyz") == strlen(line + 1) && line[1]) {
            mr_info("unknown command %s; there are /reset and /quit", line);
        } else if (line[0]) {
            remember(c, "user", line);
            mr_status st = answer(c, err);
            int number = mr_signals_seen();
            if (st != MR_OK) return st;
            if (number && !(c->terminal && strcmp(mr_signals_name(number), "SIGINT") == 0))
                return mr_fail(err, MR_ESIGNAL, "chat: stopped by %s", mr_signals_name(number));
            continue;
        }
        mr_free(line);
    }
}

mr_status mr_converse(mr_parts *p, const char *system, const mr_speak_opts *speak, bool inside, mr_err *err) {
    conversation c = {
        .parts = p,
        .system = system,
        .speak = *speak,
        .terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO),
        .inside = inside,
    };
    if (c.terminal) MR_TRY(mr_edit_open(&c.edit, err));
    if (c.terminal)
        mr_info("%s%s%s; /reset, /quit, Ctrl-C stops an answer", p->path, p->adapter ? " + " : "",
                p->adapter ? p->adapter : "");
    mr_status st = converse(&c, err);
    forget(&c);
    mr_free(c.turns);
    return st;
}

mr_status mr_cmd_chat(int argc, char **argv, mr_err *err) {
    mr_parts parts = { 0 };
    mr_parts_opts po = { .need_chat = true };
    const char *system = NULL;
    int64_t max_new = 512, seed = 0, threads = 0;
    double temperature = 0.7, top_p = 1;
    const mr_opt opts[] = {
        { "adapter", 0, MR_OPT_TEXT, "DIR", "PEFT adapter folder, or a run's folder", &po.adapter, 0, 0 },
        { "system", 0, MR_OPT_TEXT, "TEXT", "system message (\"\" for none)", &system, 0, 0 },
        { "temperature", 0, MR_OPT_REAL, "T", "0 takes the likeliest token (0.7)", &temperature, 0, 100 },
        { "top-p", 0, MR_OPT_REAL, "P", "keep the smallest set with this probability (1: all)", &top_p, 0, 1 },
        { "max-new-tokens", 0, MR_OPT_INT, "N", "longest answer (512)", &max_new, 1, 1 << 20 },
        { "seed", 0, MR_OPT_INT, "N", "random seed (0)", &seed, 0, 9007199254740992.0 },
        { "dtype", 0, MR_OPT_TEXT, "TYPE", "auto, f32, bf16 or f16", &po.dtype, 0, 0 },
        { "store", 0, MR_OPT_TEXT, "TYPE", "weights in memory: auto, f32, bf16, f16 or nf4", &po.store, 0, 0 },
        { "device", 0, MR_OPT_TEXT, "NAME", "auto, cpu or cuda:N", &po.device, 0, 0 },
        MR_OPT_PULL,
        { "threads", 0, MR_OPT_INT, "N", "CPU threads (0: all)", &threads, 0, 1024 },
    };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, sizeof opts / sizeof opts[0], argc, argv, err);
    if (st != MR_OK || a.help) {
        mr_args_clear(&a);
        return st;
    }
    po.n_threads = (int)threads;
    st = mr_parts_open(&parts, a.items[0], &po, err);
    if (st == MR_OK) {
        const mr_speak_opts speak = {
            .sampling = { .temperature = (float)temperature, .top_p = (float)top_p, .repetition_penalty = 1 },
            .max_new_tokens = (int)max_new,
            .n_samples = 1,
            .seed = (uint64_t)seed,
            .stream = true,
        };
        st = mr_converse(&parts, system ? system : parts.system, &speak, false, err);
    }
    mr_parts_close(&parts);
    mr_args_clear(&a);
    return st;
}
