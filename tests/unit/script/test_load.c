/* test_load.c - files that are no scripts, or not yet: what a person reads when a run does not start. Each message is
 * one line that names the file, and the line where there is one. (Reloads of the same: test_worker.c.) */
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/proc.h"
#include "unit/script/script_test.h"

/* The message for a recipe whose reward "bad" is what stands at rewards/bad.lua; within a second or so. */
static const char *reward_refusal(void) {
    mr_pool_opts o = { .n_workers = 1, .deadline_s = 0.2 };
    put_recipe("r.lua", "\"bad\"", "");
    double t = mr_now_s();
    const char *said = refusal("r.lua", &o);
    CHECK(mr_now_s() - t < 5);
    CHECK(strchr(said, '\n') == NULL);
    return said;
}

static void texts_that_are_no_rewards(void) {
    static const struct {
        const char *text, *want;
    } files[] = {
        { "return { score = function(c) return 1 end\n",
          "rewards/bad.lua:2: '}' expected (to close '{' at line 1) near '<eof>'" },
        { "local x = 1\nreturn { score = function(c) retrun 1 end }\n", "rewards/bad.lua:2: " },
        { "local t = nil\n\nreturn { score = t.score }\n",
          "rewards/bad.lua:3: attempt to index local 't' (a nil value)" },
        { "error('not today')\n", "rewards/bad.lua:1: not today" },
        { "error({ code = 7 })\n", "rewards/bad.lua: the error object is a table, want a string" },
        { "return { name = 'bad' }\n",
          "rewards/bad.lua: score is missing, want a function score(completion, row, info)" },
        { "return { score = 3 }\n", "rewards/bad.lua: score is a number, want a function" },
        { "return function() return 1 end\n",
          "rewards/bad.lua: the file returned a function, want a table with a function score" },
        { "", "rewards/bad.lua: the file returned a boolean, want a table with a function score" },
        { "\n\n-- nothing yet\n", "rewards/bad.lua: the file returned a boolean, want a table" },
        { "local M = {}\nfunction M.score(completion, row)\n  if row.answer == comp",
          "rewards/bad.lua:3: 'then' expected near '<eof>'" },
        { "\x1bLJ\x02\x08", "rewards/bad.lua: byte 0: this is bytecode, want Lua source text" },
        { "return { score = function() return 1 end, cases = { { 'a', {}, 2 } } }\n",
          "rewards/bad.lua: case 1 (\"a\"): got 1, want 2" },
        { "return { score = function() error('x') end, cases = { { 'a', {}, 2 } } }\n",
          "rewards/bad.lua: case 1 (\"a\"): rewards/bad.lua:1: x" },
        { "while true do end\n",
          "rewards/bad.lua: loading the file: no answer for 1 s; the worker was killed; look for a loop" },
        { "local s = 'x' while true do s = s .. s end\n", "rewards/bad.lua" },
        { "return require('rewards.bad')\n", "module \"rewards.bad\" requires itself" },
        { "local m = require('rewards.gone')\n",
          "rewards/bad.lua:1: module \"rewards.gone\" was not found; looked for" },
        { "return require('rewards.gone')\n", "rewards/bad.lua: module \"rewards.gone\" was not found; looked for" },
        { "local x <const> = 1\n", "rewards/bad.lua:1: " },
        { "\xff\xfe"
          "l",
          "rewards/bad.lua:1: " },
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        put_file("rewards/bad.lua", files[i].text);
        CHECK_CONTAINS(reward_refusal(), files[i].want);
    }
    /* a byte order mark is no mistake */
    put_file("rewards/bad.lua", "\xef\xbb\xbfreturn { score = function() return 1 end }\n");
    CHECK_STR(reward_refusal(), "(it opened)");
    unlink("rewards/bad.lua");
}

static void things_that_are_no_files(void) {
    REQUIRE(mkdir("rewards/bad.lua", 0755) == 0);
    CHECK_CONTAINS(reward_refusal(), "module \"rewards.bad\" was not found; looked for");
    rmdir("rewards/bad.lua");

    REQUIRE(symlink("bad.lua", "rewards/bad.lua") == 0); /* itself */
    CHECK_CONTAINS(reward_refusal(), "module \"rewards.bad\" was not found");
    unlink("rewards/bad.lua");

    REQUIRE(symlink("nowhere.lua", "rewards/bad.lua") == 0);
    CHECK_CONTAINS(reward_refusal(), "module \"rewards.bad\" was not found");
    unlink("rewards/bad.lua");

    REQUIRE(mkfifo("rewards/bad.lua", 0644) == 0); /* opening it would wait for a writer */
    CHECK_CONTAINS(reward_refusal(), "rewards/bad.lua: is no plain file");
    unlink("rewards/bad.lua");

    REQUIRE(symlink("/dev/zero", "rewards/bad.lua") == 0);
    CHECK_CONTAINS(reward_refusal(), "rewards/bad.lua: is no plain file");
    unlink("rewards/bad.lua");

    struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "rewards/bad.lua" };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(fd >= 0 && bind(fd, (struct sockaddr *)&name, sizeof name) == 0);
    CHECK_CONTAINS(reward_refusal(), "rewards/bad.lua: is no plain file");
    close(fd);
    unlink("rewards/bad.lua");

    if (geteuid() != 0) { /* root reads everything */
        put_file("rewards/bad.lua", "return {}\n");
        REQUIRE(chmod("rewards/bad.lua", 0) == 0);
        CHECK_CONTAINS(reward_refusal(), "rewards/bad.lua");
        CHECK_CONTAINS(reward_refusal(), "Permission denied");
        unlink("rewards/bad.lua");
    }

    CHECK_CONTAINS(reward_refusal(), "module \"rewards.bad\" was not found; looked for");
}

static void recipes_that_are_none(void) {
    mr_pool_opts o = { .n_workers = 1, .deadline_s = 0.2 };
    CHECK_CONTAINS(refusal("gone.lua", &o), "gone.lua: no such file here or in");
    REQUIRE(mkdir("folder.lua", 0755) == 0);
    CHECK_CONTAINS(refusal("folder.lua", &o), "folder.lua: no such file here or in");
    REQUIRE(mkfifo("fifo.lua", 0644) == 0);
    CHECK_CONTAINS(refusal("fifo.lua", &o), "fifo.lua: is no plain file");
    put_file("empty.lua", "");
    CHECK_CONTAINS(refusal("empty.lua", &o), "empty.lua: the file returns nothing, want a recipe");
    put_file("code.lua", "\x1bLJ\x02");
    CHECK_CONTAINS(refusal("code.lua", &o), "code.lua: byte 0: this is bytecode");
    put_file("half.lua", "return {\n  grpo = { max_steps = 5,\n");
    CHECK_CONTAINS(refusal("half.lua", &o), "half.lua:3: ");
    put_file("loop.lua", "while true do end");
    CHECK_CONTAINS(refusal("loop.lua", &o), "loop.lua: loading the file: no answer for 1 s");
}

SCRIPT_TEST_MAIN({ "texts_that_are_no_rewards", texts_that_are_no_rewards },
                 { "things_that_are_no_files", things_that_are_no_files },
                 { "recipes_that_are_none", recipes_that_are_none })
