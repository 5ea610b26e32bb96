/* fuzz_checkpoint.c - MANIFEST of a checkpoint, its trainer_state.json, and adapter_config.json; the first byte chooses. Accepted: a
 * manifest whose every line holds for the files beside it. */
#include "base/fsafe.h"
#include "fuzz.h"
#include "rl/checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mr_err err;
    if (!size) return 0;
    bool manifest = data[0] % 2 == 0;
    const char *path = fuzz_file(manifest ? "MANIFEST" : "trainer_state.json", data + 1, size - 1);
    char dir[128];
    snprintf(dir, sizeof dir, "%.*s", (int)(strrchr(path, '/') - path), path);
    if (manifest) {
        if (mr_checkpoint_verify(dir, &err) != MR_OK) {
            PROMISE(!strchr(err.msg, '\n'), "the error is more than one line");
            return 0;
        }
        PROMISE(size > 1 && memmem(data + 1, size - 1, "optimizer.safetensors", 21), "a manifest without the optimizer");
        return 0;
    }
    cJSON *state;
    if (mr_checkpoint_read_state(&state, dir, &err) == MR_OK)
        cJSON_Delete(state);
    else
        fuzz_refused(err.msg, "trainer_state.json");
    return 0;
}
