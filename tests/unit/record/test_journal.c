/* test_journal.c - what a run has to repeat after its checkpoint: from events.jsonl, and from what a second death on the
 * way had left of it. */
#include <stdlib.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "record/run.h"
#include "test.h"

static char folder[] = "/tmp/medrl-journal-XXXXXX";

static void put(const char *name, const char *text) {
    mr_err err;
    char *path = mr_path_join(folder, name);
    REQUIRE_OK(mr_file_write(path, text, strlen(text), &err), err);
    mr_free(path);
}

/* "reload@4 set@4": kinds and steps of the events. */
static char *short_form(const cJSON *events) {
    mr_str s = { 0 };
    for (const cJSON *e = events ? events->child : NULL; e; e = e->next)
        mr_str_printf(&s, "%s%s@%d", s.len ? " " : "", cJSON_GetObjectItem(e, "kind")->valuestring,
                      cJSON_GetObjectItem(e, "step")->valueint);
    return mr_str_steal(&s);
}

static void check_journal(int64_t bytes, const char *want, int64_t want_last) {
    mr_err err;
    cJSON *events;
    int64_t last;
    REQUIRE_OK(mr_run_journal(folder, bytes, &events, &last, &err), err);
    char *got = short_form(events);
    CHECK_STR(got, want);
    CHECK_INT(last, want_last);
    mr_free(got);
    cJSON_Delete(events);
}

static const char before[] = "{\"step\": 2, \"kind\": \"set\", \"text\": \"old\"}\n";

static void only_changes_after_the_checkpoint(void) {
    mr_str text = { 0 };
    mr_str_puts(&text, before);
    mr_str_puts(&text, "{\"step\": 4, \"kind\": \"checkpoint\", \"text\": \"checkpoint-4\"}\n"
                       "{\"step\": 5, \"kind\": \"reload\", \"text\": \"a\", \"detail\": {}}\n"
                       "{\"step\": 5, \"kind\": \"fault\", \"text\": \"f\"}\n"
                       "not a line of ours\n"
                       "{\"step\": 7, \"kind\": \"set\", \"text\": \"b\"}\n"
                       "{\"step\": 8, \"kind\": \"script\", \"text\": \"c\"}\n"
                       "{\"step\": 9, \"kind\": \"set\", \"te"); /* killed here */
    put("events.jsonl", text.data);
    put("metrics.jsonl", "{\"step\": 8, \"loss\": 1}\n{\"step\": 9, \"loss\": 1}\n{\"step\": 10, \"lo");
    check_journal((int64_t)strlen(before), "reload@5 set@7 script@8", 9);
    check_journal(0, "set@2 reload@5 set@7 script@8", 9);
    check_journal((int64_t)text.len + 5, "", 9);
    mr_str_clear(&text);
}

/* The first attempt had recorded changes up to step 20; the second one died at 12, with one of two equal changes of that
 * step done again. */
static void what_was_left_is_not_lost(void) {
    put("events.jsonl",
        "{\"step\": 11, \"kind\": \"set\", \"text\": \"x\"}\n{\"step\": 12, \"kind\": \"set\", \"text\": "
        "\"y\"}\n");
    put("metrics.jsonl", "{\"step\": 12, \"loss\": 1}\n");
    put("journal.json",
        "{\"last\": 20, \"events\": [{\"step\": 11, \"kind\": \"set\", \"text\": \"x\"},"
        "{\"step\": 12, \"kind\": \"set\", \"text\": \"y\"},{\"step\": 12, \"kind\": \"set\", \"text\": "
        "\"y\"},{\"step\": 15, \"kind\": \"reload\", \"text\": \"z\"}]}\n");
    check_journal(0, "set@11 set@12 set@12 reload@15", 20);
    put("metrics.jsonl", "{\"step\": 30, \"loss\": 1}\n"); /* long past it: nothing of the old one counts */
    check_journal(0, "set@11 set@12", 30);
    put("journal.json", "{\"last\": 20, ");
    mr_err err;
    cJSON *events;
    int64_t last;
    CHECK_INT(mr_run_journal(folder, 0, &events, &last, &err), MR_EDATA);
    CHECK(events == NULL);
    CHECK_CONTAINS(err.msg, "journal.json");
}

static void it_is_kept_and_removed(void) {
    mr_err err;
    mr_run *r;
    const mr_run_opts opts = { .mode = MR_RUN_RESUME };
    char *path = mr_path_join(folder, "journal.json");
    put("events.jsonl", "");
    put("metrics.jsonl", "{\"step\": 3, \"loss\": 1}\n");
    REQUIRE_OK(mr_run_open(&r, folder, &opts, &err), err);
    cJSON *events = cJSON_Parse("[{\"step\": 5, \"kind\": \"set\", \"text\": \"x\", \"detail\": {\"value\": 1e-06}}]");
    REQUIRE_OK(mr_run_keep_journal(r, events, 8, &err), err);
    cJSON_Delete(events);
    check_journal(0, "set@5", 8);
    REQUIRE_OK(mr_run_keep_journal(r, NULL, 8, &err), err);
    CHECK(!mr_path_exists(path));
    REQUIRE_OK(mr_run_keep_journal(r, NULL, 8, &err), err); /* absent is fine */
    check_journal(0, "", 3);
    mr_run_close(r);
    mr_free(path);
}

static void clean_up(void) {
    mr_err err = { "" };
    CHECK_INT(mr_remove_tree(folder, &err), MR_OK);
}

static void make_folder(void) {
    REQUIRE(mkdtemp(folder) != NULL);
}

TEST_MAIN({ "make_folder", make_folder }, { "only_changes_after_the_checkpoint", only_changes_after_the_checkpoint },
          { "what_was_left_is_not_lost", what_was_left_is_not_lost },
          { "it_is_kept_and_removed", it_is_kept_and_removed }, { "clean_up", clean_up })
