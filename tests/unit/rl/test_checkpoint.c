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

/* What may stand in the place of a manifest, and what is said of it. */
static void manifests(void) {
    static const char z[] = "0000000000000000000000000000000000000000000000000000000000000000";
    char *dir = rig_tmp(), *at = mr_path_join(dir, "checkpoint-1"), *file = mr_path_join(at, "MANIFEST"), *whole;
    mr_err err;
    size_t len;
    save(dir, 1, NULL);
    REQUIRE_OK(mr_checkpoint_verify(at, &err), err);
    REQUIRE_OK(mr_file_read(&whole, &len, file, 1 << 16, &err), err);
    const struct {
        const char *end, *says; /* behind the whole text */
    } lines[] = {
        { "x", "its last line is cut" },        { "\n", "not of the form" },           { "%s \n", "not of the form" },
        { "%s  \n", "not of the form" },       { "%s -a\n", "not of the form" },      { "%s- a\n", "not of the form" },
        { "%s  ../a\n", "not of the form" },   { "%s  .a\n", "not of the form" },     { "%s  nothing\n", "missing, but MANIFEST names it" },
        { "%s  MANIFEST\n", "is not the one in MANIFEST" },
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        mr_str s = { 0 };
        const char *mark = strstr(lines[i].end, "%s");
        mr_str_add(&s, whole, len);
        if (mark) mr_str_puts(&s, z);
        mr_str_puts(&s, mark ? mark + 2 : lines[i].end);
        REQUIRE_OK(mr_file_write(file, s.data, s.len, &err), err);
        mr_str_clear(&s);
        CHECK_INT(mr_checkpoint_verify(at, &err), MR_EDATA);
        CHECK_CONTAINS(err.msg, lines[i].says);
    }
    char name[600];
    memset(name, 'n', sizeof name);
    mr_str s = { 0 };
    mr_str_printf(&s, "%s  %.599s\n", z, name);
    REQUIRE_OK(mr_file_write(file, s.data, s.len, &err), err);
    CHECK_INT(mr_checkpoint_verify(at, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "not of the form");
    s.len = 70;
    s.data[68] = 0, s.data[69] = '\n';
    REQUIRE_OK(mr_file_write(file, s.data, s.len, &err), err);
    CHECK_INT(mr_checkpoint_verify(at, &err), MR_EDATA);
    mr_str_clear(&s);
    for (int i = 0; i < 3; i++) { /* nothing, the first line, the second line: the two that must be there */
        const char *second = strchr(whole, '\n') + 1;
        REQUIRE_OK(mr_file_write(file, i == 2 ? second : whole, i == 0 ? 0 : i == 1 ? (size_t)(second - whole) : len - (size_t)(second - whole), &err), err);
        CHECK_INT(mr_checkpoint_verify(at, &err), MR_EDATA);
        CHECK_CONTAINS(err.msg, i == 1 ? "does not name trainer_state.json" : i == 2 ? "does not name optimizer.safetensors" : "does not name trainer_state.json");
    }
    REQUIRE(unlink(file) == 0);
    CHECK_INT(mr_checkpoint_verify(at, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "MANIFEST: missing; the checkpoint was not finished");
    char *found, hex[65];
    CHECK_INT(mr_checkpoint_find(&found, dir, &err), MR_ENOTFOUND);
    CHECK_CONTAINS(err.msg, "none of its checkpoints is whole");
    CHECK_INT(mr_checkpoint_find(&found, at, &err), MR_ENOTFOUND); /* a folder without any */
    CHECK_INT(mr_checkpoint_hash(hex, at, &err), MR_ENOTFOUND);
    CHECK_CONTAINS(err.msg, "holds neither");
    char *nowhere = mr_path_join(dir, "nowhere");
    CHECK(mr_checkpoint_find(&found, nowhere, &err) != MR_OK);
    CHECK(mr_checkpoint_commit(nowhere, dir, 9, &err) != MR_OK);
    mr_checkpoint_prune(nowhere, 1);
    mr_free(nowhere);
    /* names that are nearly those of a checkpoint */
    static const char *const odd[] = { "checkpoint-", "checkpoint-x", "checkpoint-1x", "checkpoint-99999999999999999999", "checkpoint" };
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        char *path = mr_path_join(dir, odd[i]);
        REQUIRE_OK(mr_mkdirs(path, &err), err);
        mr_free(path);
    }
    CHECK_INT(mr_checkpoint_find(&found, dir, &err), MR_ENOTFOUND);
    mr_checkpoint_prune(dir, 1);
    CHECK_STR(names(dir), "1");
    mr_free(whole), mr_free(file), mr_free(at);
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
          { "manifests", manifests }, { "formats", formats })
