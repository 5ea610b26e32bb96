/* wire.h - frames between the trainer and its workers, over one end of a socket pair each.
 *
 * A frame is a type and a length (u32 each, host order: both ends are one program) and so many bytes. Lengths are
 * checked on both ends, by type, before anything is read; a frame that breaks the rules ends the connection. The parent
 * takes every worker for an attacker: what it reads is bounded, and believed only where it fits what was asked. Descriptors ride
 * along with MR_WIRE_FILE.
 *
 * Inside a frame numbers are host-order bytes and strings are a u32 length and their bytes (mr_put_*, mr_take_*).
 *
 * Threads: a mr_wire belongs to one. */
#ifndef MR_WIRE_H
#define MR_WIRE_H

#include "base/memory.h"
#include "base/watch.h"

enum { MR_WIRE_MAX_BYTES = 64 << 20, MR_WIRE_SMALL_BYTES = 64 << 10, MR_WIRE_TEXT_MAX = 1 << 20 };

typedef enum mr_wire_type {
    /* parent to child */
    MR_WIRE_START = 1, /* i64 memory cap, u8 no JIT, u8 lowest level of the sandbox -> READY; with it comes the
                          descriptor of the page that says what the worker is at (mr_at) */
    MR_WIRE_LOAD,      /* u8 on_cpu, u8 run cases, u8 mr_load_mode, u32 n, n strings: overrides, u32 n, n strings:
                          rewards -> REPLY: string recipe JSON, u32 n, n rewards (strings name, place, f64 lowest value,
                          u8 it sees groups), string cases that passed (FILE, tab, number, newline); or ERROR */
    MR_WIRE_ROWS,      /* string split -> REPLY: i64 n_rows, strings report, the same as JSON */
    MR_WIRE_ROW,       /* string split, i64 index -> REPLY: strings messages (JSON), row (JSON), source, place */
    MR_WIRE_SURVEY,    /* string split, i64 from, i64 n -> REPLY: strings n u64 keys, findings (JSON) */
    MR_WIRE_SCORE,     /* u32 n, n jobs -> n times SCORED. A job: i64 id, i32 reward (-1: all), u32 members (0: one
                          completion), i64 step, strings prompt and row, its completions: u32 tokens, u8 truncated,
                          string text */
    MR_WIRE_TEXT,      /* u8 found, string name or reason, string text: answers NEED_TEXT */
    MR_WIRE_TEMPLATE,  /* nothing: "@main" is a chat template -> REPLY: nothing, or ERROR */
    MR_WIRE_RENDER,    /* u32 n, n strings: constants (JSON), date, variables (JSON) ... -> REPLY: u32 n, n times (u8 is markup, string
                          text), or ERROR */
    MR_WIRE_FILE,      /* u8 found (1: the file, 2: a row cache of it), string name or reason; a descriptor comes with it when
                          found: answers NEED_FILE */
    /* child to parent */
    MR_WIRE_REPLY,
    MR_WIRE_ERROR,     /* i32 status, string message */
    MR_WIRE_SCORED,    /* i64 id, u32 n, n times (i32 member, u32 reward, u8 kind, f64 value, string fault); member -1:
                          every one of the group */
    MR_WIRE_NEED_TEXT, /* string module */
    MR_WIRE_NEED_FILE, /* string path */
    MR_WIRE_LOG,       /* u32 level, string line */
    MR_WIRE_TICK,      /* nothing: still at work (a scan of many rows) */
    MR_WIRE_READY,     /* u8 level of the sandbox, string what is missing */
    MR_WIRE_DENIED,    /* u32 number of a system call that the sandbox refuses: the worker's last frame */
    /* folders and packed files: to the parent, and its answer; to a process that reads one, and what it sends */
    MR_WIRE_NEED_FOLDER, /* strings path, pattern of what is wanted of a repository */
    MR_WIRE_FOLDER,    /* u8 found (0: an error, 1: a folder, 2: no folder), string reason or what stands before the names, u32 n, n
                          strings: answers NEED_FOLDER */
    MR_WIRE_IMPORT,    /* to a process that gets nothing else (import.h): u8 mr_packing, i64 memory, string name; the file comes
                          with it -> READY, BYTES ..., REPLY or ERROR */
    MR_WIRE_BYTES,     /* whole rows with their newlines, or a piece of text */
    /* what a pass over all rows of a set came to, kept from one start to the next (passes.h) */
    MR_WIRE_NEED_PASS, /* string what the pass is, u32 n, n strings: the files -> PASS: u8 found, string result */
    MR_WIRE_PASS,
    MR_WIRE_KEEP_PASS, /* as NEED_PASS, then string result; no answer */
    MR_WIRE_TYPES
} mr_wire_type;

/* One page that parent and worker share: which call of which reward is under way. The worker writes it (no system call
 * for that), the parent believes it only where it fits what was asked. */
typedef struct mr_at {
    volatile int64_t id;     /* of the sample, or the first one of the group */
    volatile int32_t reward; /* -1: none */
    volatile char where[MR_WATCH_WHERE]; /* on SIGUSR1: the line of Lua that runs, as "lua/rewards/x.lua:12" */
} mr_at;

typedef enum mr_load_mode {
    MR_LOAD_RECIPE,
    MR_LOAD_TEST, /* run the main file's cases -> REPLY: i64 passed, i64 failed, strings lines, JSON */
    MR_LOAD_BARE  /* there is no recipe, only the rewards of the list */
} mr_load_mode;

typedef struct mr_wire {
    int fd;
    mr_str in, out;
    size_t in_at, out_at;
    size_t limit; /* of a frame that comes in; MR_WIRE_MAX_BYTES unless the owner lowers it */
    int wait_ms;  /* how long a call with `wait` waits for the other end, which is gone then; -1: for ever */
    int fds[8];   /* received and not taken yet, oldest first */
    int n_fds;
} mr_wire;

typedef struct mr_frame {
    mr_wire_type type;
    const char *data; /* borrowed until the next mr_wire_fill */
    size_t len;
} mr_frame;

void mr_wire_init(mr_wire *w, int fd);
void mr_wire_clear(mr_wire *w); /* frees the buffers and received descriptors; the socket is the caller's */

/* Queues a frame. */
void mr_wire_put(mr_wire *w, mr_wire_type type, const void *data, size_t len);
/* Writes what is queued; with `wait` until all is out. False when the other end is gone. */
bool mr_wire_flush(mr_wire *w, bool wait);
/* Queue, flush with wait, and send fd along (-1: none). */
bool mr_wire_send(mr_wire *w, mr_wire_type type, const void *data, size_t len, int fd);
/* Reads what is there, a MiB at most (with `wait`: at least something). False at the end of the stream or on an error. */
bool mr_wire_fill(mr_wire *w, bool wait);
/* 1: *f is the next whole frame. 0: not there yet. -1: not a frame of ours. */
int mr_wire_next(mr_wire *w, mr_frame *f);
int mr_wire_take_fd(mr_wire *w); /* -1: none came */

void mr_put_u8(mr_str *s, unsigned v);
void mr_put_u32(mr_str *s, uint32_t v);
void mr_put_i64(mr_str *s, int64_t v);
void mr_put_f64(mr_str *s, double v);
void mr_put_bytes(mr_str *s, const char *bytes, size_t len);

/* A cursor that never leaves its frame: after the first short read `bad` is set and every read gives 0 or "". */
typedef struct mr_take {
    const char *at, *end;
    bool bad;
} mr_take;
mr_take mr_take_frame(const mr_frame *f);
unsigned mr_take_u8(mr_take *t);
uint32_t mr_take_u32(mr_take *t);
int64_t mr_take_i64(mr_take *t);
double mr_take_f64(mr_take *t);
const char *mr_take_bytes(mr_take *t, size_t *len);           /* borrowed from the frame, not NUL-terminated */
void mr_take_string(mr_take *t, char *out, size_t out_bytes); /* cut to fit, NUL-terminated */

#endif
