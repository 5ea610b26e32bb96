/* fuzz_json.c - the strict scanner against cJSON: what ours accepts, cJSON accepts, and both write the same; what we write is accepted. */
#include "base/json.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cJSON *tree, *again;
    mr_err err;
    if (mr_json_parse(&tree, (const char *)data, size, "x.json", &err) != MR_OK) {
        fuzz_refused(err.msg, "x.json");
        return 0;
    }
    fuzz_accepted();
    PROMISE(mr_json_check((const char *)data, size, "x.json", &err) == MR_OK, "parsed, but not checked: %s", err.msg);
    cJSON *theirs = cJSON_ParseWithLength((const char *)data, size);
    PROMISE(theirs && mr_json_equal(tree, theirs), "cJSON reads something else");
    mr_str text = { 0 };
    mr_json_put(&text, tree);
    PROMISE(mr_json_parse(&again, text.data, text.len, "ours", &err) == MR_OK, "what we wrote is refused: %s", err.msg);
    PROMISE(mr_json_equal(tree, again), "what we wrote reads as something else");
    mr_str_clear(&text);
    cJSON_Delete(tree), cJSON_Delete(theirs), cJSON_Delete(again);
    return 0;
}
