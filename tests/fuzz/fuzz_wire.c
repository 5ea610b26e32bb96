/* fuzz_wire.c - frames from a worker that may be hostile: every frame lies inside what came, and fields are read to the end or `bad`. */
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz.h"
#include "script/wire.h"

static void read_fields(const mr_frame *f, const uint8_t *order, size_t n) {
    mr_take t = mr_take_frame(f);
    char text[32];
    size_t len;
    for (size_t i = 0; i < n && i < 64; i++) {
        const char *before = t.at;
        switch (order[i] % 6) {
        case 0: mr_take_u8(&t); break;
        case 1: mr_take_u32(&t); break;
        case 2: mr_take_i64(&t); break;
        case 3: mr_take_f64(&t); break;
        case 4: mr_take_string(&t, text, sizeof text); break;
        default: {
            const char *bytes = mr_take_bytes(&t, &len);
            PROMISE(!len || (bytes >= f->data && bytes + len <= f->data + f->len), "bytes outside of the frame");
        }
        }
        PROMISE(t.at >= before && t.at <= t.end, "the cursor left its frame");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int pair[2];
    mr_wire w;
    mr_frame f;
    int got;
    if (size > 60000) return 0; /* what a socket holds */
    PROMISE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
    PROMISE(write(pair[1], data, size) == (ssize_t)size, "write");
    close(pair[1]);
    mr_wire_init(&w, pair[0]);
    w.limit = 1 << 20;
    while (mr_wire_fill(&w, true)) {}
    bool any = false;
    while ((got = mr_wire_next(&w, &f)) == 1) {
        PROMISE(f.len <= size && f.type < MR_WIRE_TYPES, "a frame of %zu bytes, type %d", f.len, (int)f.type);
        read_fields(&f, data, size);
        any = true;
    }
    if (any)
        fuzz_accepted();
    else
        fuzz_n_refused++;
    mr_wire_clear(&w);
    close(pair[0]);
    return 0;
}
