/* test_order.c - LuaJIT seeds the hashes of strings in every process, so that `pairs` gives their keys in another order
 * each time. Eight processes of this program, each with workers of its own, load the same recipe, open the same rows and
 * score the same texts; what they have to say must be the same bytes. */
#include <sys/wait.h>

#include "base/proc.h"
#include "unit/script/script_test.h"

enum { N_PROCESSES = 8, N_KEYS = 40 };

/* Tables of many names in the recipe, a sum over pairs in a reward, rows and faults that are put together by pairs. */
static void put_scripts(void) {
    mr_str s = { 0 };
    mr_str_puts(&s, "local data = require \"medrl.data\"\nlocal weights = {");
    for (int i = 0; i < N_KEYS; i++) mr_str_printf(&s, " key_%c%d = 1 / %d,", 'a' + i * 7 % 26, i, i * i + 3);
    mr_str_puts(&s,
                " [1] = 0.1, [7.5] = 0.3 }\n"
                "local flat = \"\"\n"
                "for name, value in pairs(weights) do flat = flat .. tostring(name) .. \"=\" .. value .. \" \" end\n"
                "return {\n  order = flat, model = { name = \"x\" },\n"
                "  data = { system = \"\", files = { gsm8k = \"a.jsonl\", medmcqa = \"b.jsonl\" },\n"
                "    train = data.concatenate { data.get \"gsm8k\", data.get \"medmcqa\" }:shuffle(5)\n"
                "      :map(function(r) local names = {} for k in pairs(r) do names[#names + 1] = k end\n"
                "        r.names = table.concat(names, \",\") return r end) },\n"
                "  rewards = { { \"sum\", alpha = 0.25, beta = 3, gamma = 1e-3, delta = 7 }, \"complain\" },\n"
                "  on_cpu = { grpo = {");
    for (int i = 0; i < N_KEYS; i++) mr_str_printf(&s, " o%d = %d,", i * 31 % 97, i);
    mr_str_puts(&s, " } },\n}\n");
    put_file("order.lua", s.data);
    mr_str_clear(&s);
    put_file("rewards/sum.lua",
             "local M = { name = 'sum', options = { alpha = 0, beta = 0, gamma = 0, delta = 0, epsilon = 1 / 3 } }\n"
             "function M.score(completion, row, info)\n"
             "  local x, count = 0, {}\n"
             "  for k, v in pairs(info.options) do x = x / 3 + v * #k end\n"
             "  for w in completion:gmatch('%a+') do count[w] = (count[w] or 0) + 1 end\n"
             "  for w, n in pairs(count) do x = x / 1.7 + n / #w + w:byte() / 7 end\n"
             "  for k, v in pairs(row) do x = x / 1.3 + #k + #tostring(v) end\n"
             "  return x\nend\nreturn M\n");
    put_file("rewards/complain.lua", "return { score = function(c, row)\n"
                                     "  local said = {}\n"
                                     "  for k, v in pairs(row) do said[#said + 1] = k .. '=' .. tostring(v) end\n"
                                     "  error(table.concat(said, ' ') .. tostring({}) .. tostring(print))\nend }\n");
    mr_str rows = { 0 };
    for (int i = 0; i < 30; i++)
        mr_str_printf(&rows,
                      "{\"question\":\"%d+2?\",\"answer\":\"4 #### 4\",\"zeta\":1,\"eta\":2,\"theta\":3,\"iota\":4,"
                      "\"kappa\":%s}\n",
                      i, i % 2 ? "5" : "{\"a\":1,\"b\":[],\"c\":{}}");
    mr_str_puts(&rows, "{\"bad\":1,\"row\":2}\n");
    put_file("a.jsonl", rows.data);
    mr_str_clear(&rows);
    put_file("b.jsonl", "{\"question\":\"q\",\"opa\":\"w\",\"opb\":\"x\",\"opc\":\"y\",\"opd\":\"z\",\"cop\":3,\"exp\":"
                        "\"e\",\"subject_name\":\"s\"}\n");
    /* two mistakes: which one is named must not depend on the order either */
    put_file("wrong.lua",
             "return { rewards = { { 'sum', wrong1 = 1, wrong2 = 2, wrong3 = 3, wrong4 = 4, wrong5 = 5 } } }\n");
    put_file("nan.lua", "return { a = 0 / 0, b = { 1, x = 2 }, c = 0 / 0, d = { e = 0 / 0 }, f = 0 / 0, g = 0 / 0 }\n");
}

/* Everything that leaves the workers, as text. */
static int dump(const char *path) {
    mr_str out = { 0 };
    mr_err err = { .msg = "" };
    mr_pool_opts o = { .n_workers = 2, .deadline_s = 10 };
    static const char *const settings[] = { "grpo.a.b=1", "grpo.a.c=2", NULL };
    o.overrides = settings;
    for (int on_cpu = 0; on_cpu < 2; on_cpu++) {
        mr_pool *p;
        o.on_cpu = on_cpu;
        if (mr_pool_open(&p, "order.lua", &o, &err) != MR_OK) {
            fprintf(stderr, "%s\n", err.msg);
            return 1;
        }
        char *recipe = cJSON_PrintUnformatted(mr_pool_recipe(p));
        mr_str_printf(&out, "%s\n", recipe);
        free(recipe);
        mr_row_source rows;
        if (mr_pool_rows(p, "train", &rows, &err) != MR_OK || mr_pool_data_report(p, "train", &out, &err) != MR_OK) {
            fprintf(stderr, "%s\n", err.msg);
            return 1;
        }
        mr_scorer s = mr_pool_scorer(p);
        int n = 2 * (int)rows.n_rows;
        for (int i = 0; i < n; i++) {
            mr_row row;
            if (rows.get(rows.self, i % rows.n_rows, &row, &err) != MR_OK) return 2;
            for (int m = 0; m < row.n_messages; m++)
                mr_str_printf(&out, "%s: %s\n", row.messages[m].role, row.messages[m].content);
            mr_str_printf(&out, "%s %s\n", row.json, row.source);
            mr_score_job job = {
                .id = i, .text = "the quick brown fox jumps over the lazy dog and on", .len = 51, .row_json = row.json
            };
            if (s.submit(s.self, &job, &err) != MR_OK) return 3;
            mr_row_clear(&row);
        }
        mr_score *scores = mr_alloc((size_t)(n * s.n_rewards) * sizeof *scores);
        mr_fault f[16];
        int n_faults;
        if (s.collect(s.self, scores, n, f, 16, &n_faults, &err) != MR_OK) return 4;
        for (int i = 0; i < n * s.n_rewards; i++) mr_str_printf(&out, "%d %a\n", scores[i].kind, scores[i].value);
        for (int i = 0; i < n_faults && i < 16; i++) mr_str_printf(&out, "%s\n", f[i].text);
        mr_free(scores);
        mr_pool_close(p);
    }
    static const char *const wrong[] = { "wrong.lua", "nan.lua" };
    for (int i = 0; i < 2; i++) mr_str_printf(&out, "%s\n", refusal(wrong[i], &o));
    int n_passed, n_failed;
    static const char *const files[] = { "rewards" };
    if (mr_script_test(files, 1, &out, NULL, &n_passed, &n_failed, &err) != MR_OK) return 5;
    mr_str_printf(&out, "%d %d\n", n_passed, n_failed);
    bool ok = mr_file_write(path, out.data, out.len, &err) == MR_OK;
    mr_str_clear(&out);
    return ok ? 0 : 6;
}

static void eight_processes_say_the_same(void) {
    put_scripts();
    pid_t pids[N_PROCESSES];
    for (int i = 0; i < N_PROCESSES; i++) {
        char name[16];
        snprintf(name, sizeof name, "dump%d", i);
        pids[i] = fork();
        if (pids[i] == 0) {
            execl("/proc/self/exe", "test_order", "--dump", name, (char *)NULL);
            _exit(99);
        }
    }
    char *first = NULL;
    for (int i = 0; i < N_PROCESSES; i++) {
        int status;
        REQUIRE(waitpid(pids[i], &status, 0) == pids[i]);
        CHECK_INT(status, 0);
        char name[16], *text;
        size_t len;
        snprintf(name, sizeof name, "dump%d", i);
        mr_err err = { .msg = "" };
        REQUIRE_OK(mr_file_read(&text, &len, name, 1 << 20, &err), err);
        CHECK(len > 2000);
        if (first) CHECK_STR(text, first);
        if (first)
            mr_free(text);
        else
            first = text;
    }
    CHECK_CONTAINS(first, "unknown option \"wrong1\"");
    CHECK_CONTAINS(first, "nan.lua: a is NaN");
    CHECK_CONTAINS(first, "eta=2 iota=4 kappa=table names=");
    mr_free(first);
}

/* The iterator in detail. */
static void pairs_in_order(void) {
    put_file("rewards/walk.lua",
             "local function keys(t) local s = {} for k in pairs(t) do s[#s + 1] = tostring(k) end\n"
             "  return table.concat(s, ' ') end\n"
             "local tests = {\n"
             "  function() return keys { b = 1, a = 2, [3] = 1, [2] = 1, [0.5] = 1, ab = 1 } == '0.5 2 3 a ab b' end,\n"
             "  function() return keys {} == '' and keys { 1, 2, 3 } == '1 2 3' and keys { x = 1 } == 'x' end,\n"
             "  function() return keys { [true] = 1, b = 1, [1] = 1 } == '1 b true' end,\n"
             "  function() local t, n = { a = 1, b = 2, c = 3, d = 4 }, 0\n"
             "    for k in pairs(t) do t[k] = nil n = n + 1 if k == 'b' then t.c = nil end end\n"
             "    return n == 3 and next(t) == nil end,\n"
             "  function() local t = setmetatable({ b = 1, a = 2 }, { __index = function() return 7 end })\n"
             "    return keys(t) == 'a b' end,\n"
             "  function() local ok, why = pcall(function() for _ in pairs(nil) do end end)\n"
             "    return not ok and why == \"rewards/walk.lua:12: bad argument #1 to 'pairs' (table expected, got "
             "nil)\" or why end,\n"
             "  function() for k, v in pairs { z = 26, y = 25 } do return k == 'y' and v == 25 end end,\n"
             "}\n"
             "return { score = function(c) local got = tests[tonumber(c)]()\n"
             "  if got ~= true then error(tostring(got)) end return 1 end }\n");
    put_recipe("walk.lua", "\"walk\"", "");
    for (int no_jit = 0; no_jit < 2; no_jit++) {
        mr_pool_opts o = { .n_workers = 1, .no_jit = no_jit };
        mr_pool *p;
        mr_err err = { .msg = "" };
        REQUIRE_OK(mr_pool_open(&p, "walk.lua", &o, &err), err);
        for (int i = 1; i <= 7; i++) {
            char number[8];
            snprintf(number, sizeof number, "%d", i & 7);
            const char *texts[] = { number };
            mr_score s;
            mr_fault f = { .text = "" };
            CHECK_INT(score_texts(p, texts, 1, "{}", &s, &f, 1), 0);
            CHECK_STR(f.text, "");
        }
        mr_pool_close(p);
    }
}

static int tests(int argc, char **argv);
#define main tests
SCRIPT_TEST_MAIN({ "eight_processes_say_the_same", eight_processes_say_the_same }, { "pairs_in_order", pairs_in_order })
#undef main

int main(int argc, char **argv) {
    if (argc > 2 && strcmp(argv[1], "--dump") == 0) return dump(argv[2]);
    return tests(argc, argv);
}
