/* fuzz_control.c - what a client may write to the socket of a run (attach): whole and half lines, then it leaves. Afterwards the server is
 * as before: nobody is connected, and a client that behaves is answered. Every line that comes back is one strict JSON object. */
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/json.h"
#include "fuzz.h"
#include "record/control.h"

static long n_called;

static mr_status call(void *self, const mr_control_request *r, cJSON **result, bool *later, mr_err *err) {
    (void)self;
    n_called++;
    PROMISE(r->method && cJSON_IsObject(r->args), "a request without a method or arguments was handed on");
    if (!strcmp(r->method, "later") && !r->boundary) {
        *later = true;
        return MR_OK;
    }
    if (!strcmp(r->method, "bad")) return mr_fail(err, MR_EINVAL, "bad: not this one");
    *result = cJSON_CreateString(r->method);
    return MR_OK;
}

static mr_control_socket *server(char dir[32]) {
    static mr_control_socket *s;
    static char path[32] = "/tmp/medrl-fuzz-XXXXXX";
    mr_err err;
    if (!s) {
        mr_control_opts opts = { .call = call };
        PROMISE(mkdtemp(path) && mr_control_open(&s, path, &opts, &err) == MR_OK, "no socket");
    }
    memcpy(dir, path, sizeof path);
    return s;
}

/* What the server wrote, as far as it came. */
static void take(int fd, mr_str *got) {
    char buf[4096];
    for (ssize_t n; (n = recv(fd, buf, sizeof buf, MSG_DONTWAIT)) > 0;) mr_str_add(got, buf, (size_t)n);
}

static void check_answers(const mr_str *got) {
    for (size_t at = 0; at < got->len;) {
        const char *line = got->data + at, *end = memchr(line, '\n', got->len - at);
        cJSON *tree;
        mr_err err;
        PROMISE(end, "half a line came back");
        PROMISE(mr_json_parse(&tree, line, (size_t)(end - line), "answer", &err) == MR_OK, "no JSON came back: %s", err.msg);
        PROMISE(cJSON_IsObject(tree) && cJSON_HasObjectItem(tree, "id"), "an answer without an id");
        cJSON_Delete(tree);
        at = (size_t)(end - got->data) + 1;
    }
}

/* Sends bytes and leaves; serves until nobody is connected. */
static void visit(mr_control_socket *s, const char *dir, const void *bytes, size_t size, mr_str *got) {
    mr_control c = mr_control_of(s);
    mr_err err;
    int fd;
    PROMISE(mr_control_connect(&fd, dir, &err) == MR_OK, "%s", err.msg);
    for (size_t at = 0; at < size;) {
        ssize_t n = send(fd, (const char *)bytes + at, size - at, MSG_NOSIGNAL | MSG_DONTWAIT);
        at += n > 0 ? (size_t)n : 0;
        if (n <= 0 && at < size) c.serve(c.self, NULL, false, 0);
        take(fd, got);
    }
    shutdown(fd, SHUT_WR);
    for (int i = 0; i < 1000; i++) {
        c.serve(c.self, NULL, i % 2, 0);
        take(fd, got);
        if (i && mr_control_clients(s) == 0) break;
    }
    take(fd, got);
    close(fd);
    PROMISE(mr_control_clients(s) == 0, "a client that left is still there");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char ask[] = "{\"id\":7,\"method\":\"hello\"}\n";
    char dir[32];
    mr_control_socket *s = server(dir);
    mr_str got = { 0 }, again = { 0 };
    n_called = 0;
    visit(s, dir, data, size, &got);
    check_answers(&got);
    if (n_called)
        fuzz_accepted();
    else
        fuzz_n_refused++;
    visit(s, dir, ask, sizeof ask - 1, &again);
    PROMISE(again.len && !strcmp(again.data, "{\"id\": 7, \"result\": \"hello\"}\n"), "a good client is told: %s", again.data ? again.data : "");
    mr_str_clear(&got), mr_str_clear(&again);
    return 0;
}
