/* fuzz_checkpoint.c - MANIFEST of a checkpoint, or its trainer_state.json; the first byte chooses. Accepted: a manifest whose every line
 * holds for the files beside it; a changed hash, name or file never does. */
#include "base/fsafe.h"
#include "fuzz.h"
#include "rl/checkpoint.h"

/* Every line is the hash of one of our files: so nothing that differs was let pass. */
static void check_lines(const char *text, size_t len) {
    char optimizer[128], state[128], hex[65];
    mr_sha256(hex, "o", 1);
    snprintf(optimizer, sizeof optimizer, "%s  optimizer.safetensors", hex);
    mr_sha256(hex, "{}", 2);
    snprintf(state, sizeof state, "%s  trainer_state.json", hex);
    bool both[2] = { false, false };
    for (size_t at = 0; at < len;) {
        const char *line = text + at, *end = memchr(line, '\n', len - at);
        PROMISE(end, "a cut line was accepted");
        size_t n = (size_t)(end - line);
        bool first = n == strlen(optimizer) && !memcmp(line, optimizer, n), second = n == strlen(state) && !memcmp(line, state, n);
        PROMISE(first || second, "a line was accepted that does not hold: %.*s", (int)n, line);
        both[0] |= first, both[1] |= second;
        at += n + 1;
    }
    PROMISE(both[0] && both[1], "a manifest without the optimizer or the state was accepted");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mr_err err;
    if (!size) return 0;
    if (data[0] % 2 == 0) {
        fuzz_file("trainer_state.json", (const uint8_t *)"{}", 2);
        fuzz_file("optimizer.safetensors", (const uint8_t *)"o", 1);
        fuzz_file("MANIFEST", data + 1, size - 1);
        if (mr_checkpoint_verify(FUZZ_DIR, &err) != MR_OK) {
            fuzz_refused(err.msg, FUZZ_DIR);
            return 0;
        }
        fuzz_accepted();
        check_lines((const char *)data + 1, size - 1);
        return 0;
    }
    fuzz_file("trainer_state.json", data + 1, size - 1);
    cJSON *state;
    if (mr_checkpoint_read_state(&state, FUZZ_DIR, &err) == MR_OK) {
        fuzz_accepted();
        cJSON_Delete(state);
    } else
        fuzz_refused(err.msg, "trainer_state.json");
    return 0;
}
