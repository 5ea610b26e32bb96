/* control.h - the socket of a run: who may talk to it, lines in, lines out. It knows nothing of what a method means.
 *
 * RUN/control.sock takes one JSON object a line, {"id":1,"method":"set","args":{...}}, and answers each with one,
 * {"id":1,"result":...} or {"id":1,"error":{"code":"invalid","message":"..."}}; docs/attach.md has the methods. What
 * has to wait for the end of the step is told {"id":1,"queued":true} first. After the method "watch" a client gets
 * lines {"event":...} unasked.
 * Who: mode 0600, and the peer's user id (SO_PEERCRED) must be that of this process; root is refused as any other user
 * is: it can become the right one.
 * The trainer never waits: sockets are non-blocking, there is no thread and no SIGPIPE; a line of more than 64 KiB, a
 * half line at the end, a reader that takes nothing for stall_s, all cost their client and nothing else. A line that came
 * whole is executed even if its sender has left.
 * Ownership: the socket file belongs to the holder of the run folder's lock, so what an earlier process left behind is
 * replaced. Threads: one. */
#ifndef MR_CONTROL_H
#define MR_CONTROL_H

#include <sys/types.h>

#include "rl/interfaces.h"

/* The protocol's number changes when a client of the former one would be misled. */
enum { MR_CONTROL_CLIENTS = 8, MR_CONTROL_LINE = 64 << 10, MR_CONTROL_PROTOCOL = 1 };

typedef struct mr_control_request {
    const char *method;
    const cJSON *args; /* an object, may be empty; borrowed for the call */
    pid_t pid;         /* of the client, as the kernel says */
    bool boundary;     /* between two steps: mr_control.serve */
    mr_trainer *trainer;
} mr_control_request;

typedef struct mr_control_opts {
    void *self;
    /* Does what the request says. *result: owned by the caller, NULL is null. *later = true: this has to wait for the
     * boundary; it is asked again then. A failure is told to the client. */
    mr_status (*call)(void *self, const mr_control_request *r, cJSON **result, bool *later, mr_err *err);
    double stall_s; /* 0: 10 */
} mr_control_opts;

typedef struct mr_control_socket mr_control_socket;

/* The caller holds the run's lock. MR_EINVAL when something that is no socket has the name. */
mr_status mr_control_open(mr_control_socket **out, const char *run_dir, const mr_control_opts *opts, mr_err *err);
/* Those who still wait for an answer are told that the run has ended. */
void mr_control_close(mr_control_socket *s);
/* What the trainer calls; borrowed until close. */
mr_control mr_control_of(mr_control_socket *s);
/* A line to every client that watches; nothing is written when nobody does. event is borrowed. */
void mr_control_tell(mr_control_socket *s, const cJSON *event);
int mr_control_clients(const mr_control_socket *s);
int mr_control_pids(const mr_control_socket *s, pid_t pids[MR_CONTROL_CLIENTS]); /* whose they are; returns how many */

/* The client's end: a connected socket, close-on-exec. MR_ENOTFOUND: there is no socket, or nobody listens;
 * MR_EINVAL: it is another user's. */
mr_status mr_control_connect(int *fd, const char *run_dir, mr_err *err);
/* "invalid" <-> MR_EINVAL ...: how a status is called on the wire. */
const char *mr_control_code(mr_status st);
mr_status mr_control_status(const char *code);

#endif
