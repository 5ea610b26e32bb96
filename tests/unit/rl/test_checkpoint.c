/* test_checkpoint.c - which checkpoints stay when older ones go, what an unfinished removal leaves, and whose format is read. */
#include <stdlib.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "rl/checkpoint.h"
#include "rl/trainer.h"
#include "test.h"
#include "unit/rl/rig.h"

/* best: what trainer_state.json calls the best checkpoint; NULL none. */
static void save(const char *dir, int step, const char *best) {
    mr_err err;
    char *tmp = NULL;
    REQUIRE_OK(mr_checkpoint_begin(&tmp, dir, step, &err), err);
    cJSON *state = cJSON_CreateObject();
    if (best) cJSON_AddStringToObject(state, "best_model_checkpoint", best);
    cJSON_AddObjectToObject(state, "medrl");
    REQUIRE_OK(mr_checkpoint_write_state(tmp, state, &err), err);
    cJSON_Delete(state);
    char *file = mr_path_join(tmp, "optimizer.safetensors");
    REQUIRE_OK(mr_file_write(file, "o", 1, &err), err);
    mr_free(file);
    REQUIRE_OK(mr_checkpoint_commit(tmp, dir, step, &err), err);
    mr_free(tmp);
}

/* "1 3 5": the checkpoints that are there. */
static const char *names(const char *dir) {
    static char text[128];
    text[0] = 0;
    for (int i = 0; i < 30; i++) {
        char *path = mr_asprintf("%s/checkpoint-%d", dir, i);
        if (mr_path_exists(path)) snprintf(text + strlen(text), sizeof text - strlen(text), "%s%d", text[0] ? " " : "", i);
        mr_free(path);
    }
    return text;
}

static void spoil_file(const char *dir, int step, const char *name) {
    char *path = mr_asprintf("%s/checkpoint-%d/%s", dir, step, name);
    REQUIRE(unlink(path) == 0);
    mr_free(path);
}
static void spoil(const char *dir, int step) { spoil_file(dir, step, "optimizer.safetensors"); }

static void the_newest_stay(void) {
    char *dir = rig_tmp();
    for (int i = 1; i <= 5; i++) save(dir, i, NULL);
    mr_checkpoint_prune(dir, 0);
    CHECK_STR(names(dir), "1 2 3 4 5");
    mr_checkpoint_prune(dir, 3);
    CHECK_STR(names(dir), "3 4 5");
    mr_checkpoint_prune(dir, 1); /* two whole ones stay, whatever was asked */
    CHECK_STR(names(dir), "4 5");
    save(dir, 6, NULL);
    spoil(dir, 6);
    mr_checkpoint_prune(dir, 1); /* 6 is not whole: 4 and 5 are the last two that are */
    CHECK_STR(names(dir), "4 5 6");
    save(dir, 7, NULL);
    mr_checkpoint_prune(dir, 2); /* 6 is among the newest two, and 5 the second whole one */
    CHECK_STR(names(dir), "5 6 7");
    rig_tmp_clear(dir);
}

static void the_best_stays(void) {
    char *dir = rig_tmp();
    for (int i = 1; i <= 6; i++) save(dir, i, i >= 2 ? "outputs/checkpoint-2" : NULL);
    mr_checkpoint_prune(dir, 2);
    CHECK_STR(names(dir), "2 5 6");
    save(dir, 7, "outputs/checkpoint-2");
    spoil_file(dir, 7, "trainer_state.json"); /* which says so: the one before it does too */
    mr_checkpoint_prune(dir, 1);
    CHECK_STR(names(dir), "2 5 6 7");
    save(dir, 7, "checkpoint-7");
    mr_checkpoint_prune(dir, 2);
    CHECK_STR(names(dir), "6 7");
    save(dir, 8, "checkpoint-6");
    save(dir, 9, "checkpoint-6");
    mr_checkpoint_prune(dir, 1);
    CHECK_STR(names(dir), "6 8 9");
    save(dir, 10, "checkpoint-3"); /* long gone */
    mr_checkpoint_prune(dir, 1);
    CHECK_STR(names(dir), "9 10");
    rig_tmp_clear(dir);
}

static void leftovers_go(void) {
    char *dir = rig_tmp(), *trash = mr_path_join(dir, ".trash-checkpoint-1"), *inner = mr_path_join(trash, "MANIFEST");
    mr_err err;
    for (int i = 2; i <= 4; i++) save(dir, i, NULL);
    REQUIRE_OK(mr_mkdirs(trash, &err), err);
    REQUIRE_OK(mr_file_write(inner, "x", 1, &err), err);
    char *found = NULL;
    REQUIRE_OK(mr_checkpoint_find(&found, dir, &err), err); /* what is in the trash is no checkpoint */
    CHECK_STR(mr_path_name(found), "checkpoint-4");
    mr_free(found);
    mr_checkpoint_prune(dir, 2);
    CHECK(!mr_path_exists(trash));
    CHECK_STR(names(dir), "3 4");
    save(dir, 4, NULL); /* the same step again */
    CHECK_STR(names(dir), "3 4");
    char *again = mr_path_join(dir, ".trash-checkpoint-4");
    CHECK(!mr_path_exists(again));
    mr_free(again);
    mr_free(inner);
    mr_free(trash);
    rig_tmp_clear(dir);
}

static mr_status format_of(const char *text, mr_err *err) {
    cJSON *state = NULL;
    REQUIRE_OK(mr_json_parse(&state, text, strlen(text), "state", err), *err);
    mr_status st = mr_checkpoint_check_format(state, "run/checkpoint-3", err);
    cJSON_Delete(state);
    return st;
}

static void formats(void) {
    mr_err err = { "" };
    CHECK_INT(format_of("{\"medrl\": {}}", &err), MR_OK); /* of before the number was written */
    CHECK_INT(format_of("{\"medrl\": {\"format\": 1}}", &err), MR_OK);
    CHECK_INT(format_of("{\"medrl\": {\"format\": 2}}", &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "run/checkpoint-3/trainer_state.json: is of checkpoint format 2, this medrl reads up to 1");
    CHECK_INT(format_of("{\"medrl\": {\"format\": \"1\"}}", &err), MR_EDATA);
    CHECK_INT(format_of("{\"medrl\": {\"format\": 0}}", &err), MR_EDATA);
    CHECK_INT(format_of("{\"global_step\": 3}", &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "not a checkpoint of medrl");
}

TEST_MAIN({ "the_newest_stay", the_newest_stay }, { "the_best_stays", the_best_stays }, { "leftovers_go", leftovers_go },
          { "formats", formats })
