/* test_checkpoint.c - which checkpoints stay when older ones go, what an unfinished removal leaves, system calls that fail in the middle of all
 * that, what the hash is of, and whose format is read. */
#include <stdlib.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "rl/checkpoint.h"
#include "rl/trainer.h"
#include "calls.h"
#include "test.h"
#include "unit/rl/rig.h"

/* A folder with all that a checkpoint has but its MANIFEST; owned. best: what trainer_state.json calls the best checkpoint; NULL none. */
static char *prepare(const char *dir, int step, const char *best) {
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
    return tmp;
}

static void save(const char *dir, int step, const char *best) {
    mr_err err;
    char *tmp = prepare(dir, step, best);
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

static void put_in(const char *dir, const char *name, const char *text) {
    mr_err err;
    char *path = mr_path_join(dir, name);
    REQUIRE_OK(mr_file_write(path, text, strlen(text), &err), err);
    mr_free(path);
}

static void spoil_file(const char *dir, int step, const char *name) {
    char *path = mr_asprintf("%s/checkpoint-%d/%s", dir, step, name);
    REQUIRE(unlink(path) == 0);
    mr_free(path);
}
static void spoil(const char *dir, int step) { spoil_file(dir, step, "optimizer.safetensors"); }

static int stderr_was = -1;
static FILE *listener;

/* What is written to stderr from here on is what heard() gives, borrowed until the next call. */
static void listen_to_warnings(void) {
    listener = tmpfile();
    stderr_was = dup(STDERR_FILENO);
    REQUIRE(listener && stderr_was >= 0 && dup2(fileno(listener), STDERR_FILENO) >= 0);
}
static const char *heard(void) {
    static char text[4096];
    dup2(stderr_was, STDERR_FILENO);
    __real_close(stderr_was);
    rewind(listener);
    text[fread(text, 1, sizeof text - 1, listener)] = 0;
    fclose(listener);
    return text;
}

/* The best checkpoint by the state of checkpoint-STEP, which is whole; "" when it names none. */
static const char *best_of(const char *dir, int step) {
    static char text[64];
    mr_err err;
    cJSON *state;
    char *path = mr_asprintf("%s/checkpoint-%d", dir, step);
    REQUIRE_OK(mr_checkpoint_verify(path, &err), err);
    REQUIRE_OK(mr_checkpoint_read_state(&state, path, &err), err);
    const cJSON *best = cJSON_GetObjectItemCaseSensitive(state, "best_model_checkpoint");
    snprintf(text, sizeof text, "%s", best ? best->valuestring : "");
    cJSON_Delete(state);
    mr_free(path);
    return text;
}

static bool is_there(const char *dir, const char *name) {
    char *path = mr_path_join(dir, name);
    const bool there = mr_path_exists(path);
    mr_free(path);
    return there;
}

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
    save(dir, 11, "checkpoint-9");
    save(dir, 12, "checkpoint-9");
    save(dir, 13, "checkpoint-9");
    spoil(dir, 9); /* the best one stays though it is damaged, and is none of the two whole ones */
    spoil(dir, 13);
    mr_checkpoint_prune(dir, 1);
    CHECK_STR(names(dir), "9 11 12 13");
    for (int i = 9; i <= 13; i++)
        if (i != 10) spoil_file(dir, i, "trainer_state.json"); /* nobody knows a best one, and none is whole: the newest stays */
    mr_checkpoint_prune(dir, 1);
    CHECK_STR(names(dir), "13");
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

/* Where something cannot be removed, that is a warning, the rest goes on, and the next time tries again. */
static void removals_that_fail(void) {
    mr_err err;
    char *dir = rig_tmp(), *found;
    for (int i = 1; i <= 4; i++) save(dir, i, NULL);
    listen_to_warnings();
    call_fails("rename", 1, EIO); /* of 2, the first that goes */
    mr_checkpoint_prune(dir, 2);
    CHECK_CONTAINS(heard(), "/checkpoint-2: an old checkpoint could not be removed: Input/output error");
    CHECK(calls_settled());
    CHECK_STR(names(dir), "2 3 4");
    listen_to_warnings();
    call_fails("unlinkat", 1, EIO);
    mr_checkpoint_prune(dir, 2);
    CHECK_CONTAINS(heard(), "/.trash-checkpoint-2: an old checkpoint could not be removed: ");
    CHECK(calls_settled());
    CHECK_STR(names(dir), "3 4"); /* it has no checkpoint's name any more */
    CHECK(is_there(dir, ".trash-checkpoint-2"));
    save(dir, 5, NULL);
    listen_to_warnings();
    call_fails("unlinkat", 1, EBUSY); /* the trash stays, and is not tried for ever; 3 goes */
    mr_checkpoint_prune(dir, 2);
    CHECK_CONTAINS(heard(), "/.trash-checkpoint-2: an old checkpoint could not be removed: ");
    CHECK(calls_settled());
    CHECK(is_there(dir, ".trash-checkpoint-2"));
    CHECK_STR(names(dir), "4 5");
    save(dir, 6, NULL);
    listen_to_warnings();
    call_fails("readdir", 3, EIO); /* what is there is not known: nothing goes */
    mr_checkpoint_prune(dir, 2);
    CHECK_CONTAINS(heard(), "could not be listed: Input/output error; old checkpoints stay");
    CHECK(calls_settled());
    CHECK_STR(names(dir), "4 5 6");
    call_fails("readdir", 3, EIO); /* nor does it look as if there were none */
    CHECK_INT(mr_checkpoint_find(&found, dir, &err), MR_EIO);
    CHECK(calls_settled() && found == NULL);
    CHECK_CONTAINS(err.msg, "could not be listed: Input/output error");
    listen_to_warnings();
    mr_checkpoint_prune(dir, 2);
    CHECK_STR(heard(), "");
    CHECK(!is_there(dir, ".trash-checkpoint-2"));
    CHECK_STR(names(dir), "5 6");
    rig_tmp_clear(dir);
}

/* A step that is saved again takes the place of the one that is there, also where a file system cannot swap two names. */
static void a_step_again(void) {
    mr_err err;
    char *dir = rig_tmp(), *tmp;
    save(dir, 3, "a");
    save(dir, 4, "a");
    save(dir, 4, "b");
    CHECK_STR(best_of(dir, 4), "b");
    call_fails("renameat2", 1, EINVAL);
    save(dir, 4, "c");
    CHECK(calls_settled());
    CHECK_STR(best_of(dir, 4), "c");
    CHECK(!is_there(dir, ".tmp-checkpoint-4") && !is_there(dir, ".trash-checkpoint-4"));

    tmp = prepare(dir, 4, "d");
    listen_to_warnings();
    call_fails("unlinkat", 1, EIO); /* the old one, which has the temporary name by then */
    mr_status st = mr_checkpoint_commit(tmp, dir, 4, &err);
    CHECK_CONTAINS(heard(), "/.tmp-checkpoint-4: an old checkpoint could not be removed: ");
    CHECK(calls_settled());
    CHECK_INT(st, MR_OK);
    CHECK_STR(best_of(dir, 4), "d");
    CHECK(mr_path_exists(tmp));
    mr_free(tmp);
    tmp = prepare(dir, 4, "e"); /* begins with an empty folder all the same */
    char *manifest = mr_path_join(tmp, "MANIFEST");
    CHECK(!mr_path_exists(manifest));
    mr_free(manifest);

    /* neither swapped nor moved out of the way: the old one stays */
    call_fails("renameat2", 1, EINVAL);
    call_fails("renameat2", 2, EINVAL);
    call_fails("rename", 3, EIO); /* 1: MANIFEST, 2: the folder, in whose place there is one */
    listen_to_warnings();
    st = mr_checkpoint_commit(tmp, dir, 4, &err);
    CHECK_CONTAINS(heard(), "/checkpoint-4: an old checkpoint could not be removed: Input/output error");
    CHECK(calls_settled());
    CHECK_INT(st, MR_EINVAL);
    CHECK_CONTAINS(err.msg, "/checkpoint-4: could not be put in place: ");
    CHECK_STR(best_of(dir, 4), "d");
    CHECK_INT(mr_checkpoint_commit(tmp, dir, 4, &err), MR_OK);
    CHECK_STR(best_of(dir, 4), "e");
    mr_free(tmp);

    char *file = mr_path_join(dir, "checkpoint-5"); /* a file of that name is not ours to remove */
    REQUIRE_OK(mr_file_write(file, "x", 1, &err), err);
    tmp = prepare(dir, 5, "f");
    CHECK_INT(mr_checkpoint_commit(tmp, dir, 5, &err), MR_EIO);
    CHECK_CONTAINS(err.msg, "/checkpoint-5: could not be put in place: Not a directory");
    CHECK(!mr_path_is_dir(file));
    mr_free(file);
    mr_free(tmp);
    rig_tmp_clear(dir);
}

/* In memory where there is such a place: hundreds of commits would wait for a disk for seconds. */
static char *quick_tmp(void) {
    char *dir = mr_strdup("/dev/shm/medrl_rl_XXXXXX");
    if (mkdtemp(dir)) return dir;
    mr_free(dir);
    return rig_tmp();
}

/* Whatever fails while a checkpoint is written: the error is said, the ones before it hold, and what was not put in place can be tried
 * again, with a MANIFEST of every file, but not of itself and of hidden ones. */
static void commits_that_fail(void) {
    static const char *const calls[] = { "opendir", "readdir", "open", "read", "fstat", "mmap", "mkostemp", "write", "fchmod", "fsync", "close",
                                         "lstat", "rename" };
    mr_err err;
    char *dir = quick_tmp(), *older = mr_path_join(dir, "checkpoint-1"), *final = mr_path_join(dir, "checkpoint-2");
    int failed = 0;
    save(dir, 1, NULL);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        int n = 0;
        for (bool played = true; played;) {
            char *tmp = prepare(dir, 2, NULL);
            put_in(tmp, ".nfs000000000001", "what a network file system keeps of an open file");
            err.msg[0] = 0;
            call_fails(calls[i], ++n, EIO);
            mr_status st = mr_checkpoint_commit(tmp, dir, 2, &err);
            played = calls_settled();
            failed += st != MR_OK;
            CHECK(played || st == MR_OK);
            if (played && st == MR_OK) CHECK_STR(calls[i], "close"); /* of what was only read */
            CHECK((st == MR_OK) == (err.msg[0] == 0));
            CHECK_INT(mr_checkpoint_verify(older, &err), MR_OK);
            if (!mr_path_exists(final)) {
                CHECK(st != MR_OK);
                REQUIRE_OK(mr_checkpoint_commit(tmp, dir, 2, &err), err);
            }
            REQUIRE_OK(mr_checkpoint_verify(final, &err), err);
            char *text, *manifest = mr_path_join(final, "MANIFEST");
            size_t len;
            REQUIRE_OK(mr_file_read(&text, &len, manifest, 1 << 16, &err), err);
            CHECK(strstr(text, "  optimizer.safetensors\n") && strstr(text, "  trainer_state.json\n"));
            CHECK(len == 2 * 66 + strlen("optimizer.safetensors\ntrainer_state.json\n"));
            mr_free(text), mr_free(manifest);
            CHECK_INT(mr_remove_tree(final, &err), MR_OK);
            mr_free(tmp);
        }
    }
    CHECK(failed > 20);
    mr_free(older), mr_free(final);
    rig_tmp_clear(dir);
}

/* The folder to write into: there and empty, or an error and none. */
static void beginnings(void) {
    mr_err err;
    char *dir = quick_tmp(), *file = mr_path_join(dir, "file"), *below = mr_path_join(file, "run"), *run = mr_path_join(dir, "new/run"), *tmp;
    REQUIRE_OK(mr_file_write(file, "x", 1, &err), err);
    CHECK_INT(mr_checkpoint_begin(&tmp, below, 1, &err), MR_EIO);
    CHECK_CONTAINS(err.msg, "/file: folder could not be made: ");
    CHECK(tmp == NULL);
    REQUIRE_OK(mr_checkpoint_begin(&tmp, run, 1, &err), err);
    CHECK_STR(mr_path_name(tmp), ".tmp-checkpoint-1");
    mr_free(tmp);
    static const char *const calls[] = { "mkdir", "unlinkat" };
    for (int i = 0; i < 2; i++) {
        int n = 0;
        for (bool played = true; played;) {
            call_fails(calls[i], ++n, EIO);
            mr_status st = mr_checkpoint_begin(&tmp, run, 1, &err);
            played = calls_settled();
            CHECK_INT(st, played ? MR_EIO : MR_OK);
            CHECK((tmp != NULL) == (st == MR_OK));
            mr_free(tmp);
        }
        CHECK(n > 2);
    }
    /* nothing at all is a checkpoint that is not whole */
    char *final = mr_path_join(run, "checkpoint-1");
    REQUIRE_OK(mr_checkpoint_begin(&tmp, run, 1, &err), err);
    REQUIRE_OK(mr_checkpoint_commit(tmp, run, 1, &err), err);
    CHECK_INT(mr_checkpoint_verify(final, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "does not name trainer_state.json");
    mr_free(tmp), mr_free(final), mr_free(run), mr_free(below), mr_free(file);
    rig_tmp_clear(dir);
}

/* json.dump(..., indent=2, sort_keys=True), as transformers writes it. */
static void states_are_sorted(void) {
    const char *given = "{\"log_history\": [{\"step\": 1, \"loss\": 0.5}, {}], \"epoch\": 0.25, \"is_world_process_zero\": true, "
                        "\"best_metric\": null, \"a\": []}";
    const char *want = "{\n  \"a\": [],\n  \"best_metric\": null,\n  \"epoch\": 0.25,\n  \"is_world_process_zero\": true,\n"
                       "  \"log_history\": [\n    {\n      \"loss\": 0.5,\n      \"step\": 1\n    },\n    {}\n  ]\n}\n";
    mr_err err;
    cJSON *state, *again;
    char *dir = rig_tmp(), *path = mr_path_join(dir, "trainer_state.json"), *text;
    size_t len;
    REQUIRE_OK(mr_json_parse(&state, given, strlen(given), "state", &err), err);
    REQUIRE_OK(mr_checkpoint_write_state(dir, state, &err), err);
    REQUIRE_OK(mr_file_read(&text, &len, path, 4096, &err), err);
    CHECK_STR(text, want);
    REQUIRE_OK(mr_checkpoint_read_state(&again, dir, &err), err);
    CHECK(mr_json_equal(state, again));
    call_fails("rename", 1, ENOSPC);
    CHECK_INT(mr_checkpoint_write_state(dir, state, &err), MR_EIO);
    CHECK(calls_settled());
    mr_free(text), mr_free(path);
    cJSON_Delete(state), cJSON_Delete(again);
    rig_tmp_clear(dir);
}

static void take_out(const char *dir, const char *name) {
    char *path = mr_path_join(dir, name);
    REQUIRE(unlink(path) == 0);
    mr_free(path);
}

/* One hash over values, optimizer and position: each of them counts, the rest does not. */
static void hashes(void) {
    static const char whole[] = "{\"log_history\": [{\"time/step_s\": 1}], \"medrl\": {\"format\": 1, \"position\": {\"step\": 3, \"seed\": 7}}}";
    static const char later[] = "{\"log_history\": [{\"time/step_s\": 2}], \"medrl\": {\"position\": {\"seed\": 7, \"step\": 3}, \"format\": 1}}";
    static const char *const files[] = { "adapter_model.safetensors", "optimizer.safetensors", "trainer_state.json" };
    const char *const texts[] = { "values", "moments", whole };
    static const char *const others[] = { "Values", "Moments", "{\"medrl\": {\"position\": {\"step\": 4, \"seed\": 7}}}" };
    char *dir = rig_tmp(), hex[65], other[65];
    mr_err err;
    for (int i = 0; i < 3; i++) put_in(dir, files[i], texts[i]);
    REQUIRE_OK(mr_checkpoint_hash(hex, dir, &err), err);
    CHECK_INT(strspn(hex, "0123456789abcdef"), 64);
    put_in(dir, "trainer_state.json", later); /* another clock, another order of keys */
    put_in(dir, "rng_state.json", "of no matter");
    REQUIRE_OK(mr_checkpoint_hash(other, dir, &err), err);
    CHECK_STR(other, hex);
    for (int i = 0; i < 3; i++) {
        put_in(dir, files[i], others[i]);
        REQUIRE_OK(mr_checkpoint_hash(other, dir, &err), err);
        CHECK(strcmp(other, hex) != 0);
        take_out(dir, files[i]);
        strcpy(other, "left");
        CHECK_INT(mr_checkpoint_hash(other, dir, &err), MR_ENOTFOUND);
        CHECK_CONTAINS(err.msg, i == 0 ? "holds neither params.safetensors nor adapter_model.safetensors" : files[i]);
        CHECK_STR(other, "");
        put_in(dir, files[i], texts[i]);
    }
    static const char *const odd[] = { "{}", "{\"medrl\": {}}", "{\"medrl\": {\"position\": [1]}}", "[]" };
    for (int i = 0; i < 4; i++) {
        put_in(dir, "trainer_state.json", odd[i]);
        CHECK_INT(mr_checkpoint_hash(other, dir, &err), MR_EDATA);
        CHECK_CONTAINS(err.msg, "/trainer_state.json: field \"medrl.position\" is missing");
        CHECK_STR(other, "");
    }
    put_in(dir, "trainer_state.json", "{");
    CHECK_INT(mr_checkpoint_hash(other, dir, &err), MR_EDATA);
    put_in(dir, "trainer_state.json", whole);
    call_fails("mmap", 1, EIO); /* the values are there, and cannot be read */
    CHECK_INT(mr_checkpoint_hash(other, dir, &err), MR_EIO);
    CHECK(calls_settled());
    CHECK_CONTAINS(err.msg, "/adapter_model.safetensors: Input/output error");
    CHECK_STR(other, "");
    put_in(dir, "params.safetensors", "all values"); /* the masters of full training come before an adapter */
    REQUIRE_OK(mr_checkpoint_hash(other, dir, &err), err);
    CHECK(strcmp(other, hex) != 0);
    take_out(dir, "adapter_model.safetensors");
    REQUIRE_OK(mr_checkpoint_hash(hex, dir, &err), err);
    CHECK_STR(other, hex);
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
          { "removals_that_fail", removals_that_fail }, { "a_step_again", a_step_again }, { "commits_that_fail", commits_that_fail },
          { "beginnings", beginnings }, { "states_are_sorted", states_are_sorted }, { "hashes", hashes },
          { "manifests", manifests }, { "formats", formats })
