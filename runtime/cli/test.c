/* test.c - `medrl test`: the cases in Lua files, and with --fuzz what a reward gives to completions that try to earn
 * it without an answer. */
#include <stdlib.h>
#include <string.h>

#include "base/fsafe.h"
#include "cli/cli.h"
#include "cli/fuzz.h"
#include "script/script.h"

static mr_status run_cases(const mr_args *a, bool json, mr_err *err) {
    char *lua = mr_path_join(mr_home_dir(), "lua"), *here = realpath("lua", NULL), *there = realpath(lua, NULL);
    const char *paths[2] = { lua, "lua" };
    bool other = here && (!there || strcmp(here, there) != 0);
    mr_str out = { 0 };
    int passed = 0, failed = 0;
    cJSON *o = json ? cJSON_CreateObject() : NULL, *files = json ? cJSON_AddArrayToObject(o, "files") : NULL;
    mr_status st = a->n ? mr_script_test(a->items, a->n, &out, files, &passed, &failed, err)
                        : mr_script_test(paths, other ? 2 : 1, &out, files, &passed, &failed, err);
    if (st == MR_OK && json) {
        cJSON_AddNumberToObject(o, "passed", passed);
        cJSON_AddNumberToObject(o, "failed", failed);
        cJSON_AddStringToObject(o, "failures", out.data ? out.data : "");
        mr_print_json(o);
    } else if (st == MR_OK) {
        if (out.len) printf("%s%s", out.data, out.data[out.len - 1] == '\n' ? "" : "\n");
        printf("%d passed, %d failed\n", passed, failed);
    }
    fflush(stdout);
    if (st == MR_OK && failed)
        st = mr_fail(err, MR_EINVAL, "test: %d of %d cases failed; they are printed above", failed, passed + failed);
    cJSON_Delete(o);
    mr_str_clear(&out);
    mr_free(lua);
    free(here);
    free(there);
    return st;
}

mr_status mr_cmd_test(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "test",
        "medrl test\nmedrl test lua/rewards/correctness.lua my_rewards/\nmedrl test --fuzz number_match",
        "[PATH...]",
        0,
        1000000,
        "Runs the cases that Lua files carry, in fresh workers, and prints those that fail with what came and what was "
        "wanted. Without a path: the\n"
        "installation's lua folder, and ./lua. With --fuzz the arguments are rewards (NAME, FILE, NAME:option=value): "
        "each scores a stored set of completions that have no answer in them, and those that earn more than an honest "
        "wrong answer are printed, with faults and slow calls.",
    };
    bool json = false, fuzz = false;
    const mr_opt opts[] = {
        { "fuzz", 0, MR_OPT_FLAG, NULL, "score the stored exploit completions instead", &fuzz, 0, 0 },
        { "json", 0, MR_OPT_FLAG, NULL, "the counts and failures as one JSON object", &json, 0, 0 },
    };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, 2, argc, argv, err);
    if (st == MR_OK && !a.help) st = fuzz ? mr_fuzz(a.items, a.n, json, err) : run_cases(&a, json, err);
    mr_args_clear(&a);
    return st;
}
