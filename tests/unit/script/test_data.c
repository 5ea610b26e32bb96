/* test_data.c - rows and their mixing: every list of datasets_mixing.json (Hugging Face datasets 5.2.0), the seed's
 * prompts word for word, filters and skipped rows, files that are not what they should be. */
#include "base/proc.h"
#include "unit/script/script_test.h"

static const char head[] =
    "local data = require 'medrl.data'\n"
    "local function rows(letter, n)\n"
    "  local t = {}\n"
    "  for i = 1, n do t[i] = { messages = { { role = 'user', content = letter .. (i - 1) } }, k = i - 1 } end\n"
    "  return data.from_list(t)\n"
    "end\n"
    "local a, b, c, ten = rows('a', 4), rows('b', 6), rows('c', 3), rows('', 10)\n";

/* The user contents of a split, joined by spaces; "error: ..." when it does not open. */
static char *contents(const char *recipe, const char *split) {
    mr_pool *p = open_pool(recipe, 1, 5);
    mr_err err = { .msg = "" };
    mr_row_source src;
    mr_str s = { 0 };
    if (mr_pool_rows(p, split, &src, &err) != MR_OK) {
        mr_str_printf(&s, "error: %s", err.msg);
    } else {
        for (int64_t i = 0; i < src.n_rows; i++) {
            mr_row row = { 0 };
            if (src.get(src.self, i, &row, &err) != MR_OK) {
                mr_str_printf(&s, "%serror: %s", i ? " " : "", err.msg);
                break;
            }
            mr_str_printf(&s, "%s%s", i ? " " : "", row.messages[row.n_messages - 1].content);
            mr_row_clear(&row);
        }
    }
    mr_pool_close(p);
    return mr_str_steal(&s);
}

static void check_set(const char *expression, const char *want) {
    char *text = mr_asprintf("%sreturn { data = { system = '', train = %s } }\n", head, expression);
    put_file("mix.lua", text);
    char *got = contents("mix.lua", "train");
    if (strcmp(got, want) != 0) fprintf(stderr, "%s:\n", expression);
    CHECK_STR(got, want);
    mr_free(got);
    mr_free(text);
}

static void join(mr_str *s, const cJSON *list) {
    s->len = 0;
    const cJSON *x;
    cJSON_ArrayForEach(x, list) {
        if (s->len) mr_str_puts(s, " ");
        if (cJSON_IsString(x))
            mr_str_puts(s, x->valuestring);
        else
            mr_str_printf(s, "%d", x->valueint);
    }
}

/* All mixes of the fixture as splits of one recipe: opening workers twenty times would be the slow part. */
static void mixing_equals_datasets(void) {
    char *fixture;
    size_t len;
    mr_err err = { .msg = "" };
    REQUIRE_OK(mr_file_read(&fixture, &len, GOLDEN("datasets_mixing.json"), 1 << 20, &err), err);
    cJSON *f = cJSON_Parse(fixture); /* it holds 64-bit numbers, which the strict reader refuses */
    mr_free(fixture);
    REQUIRE(f != NULL);
    mr_str text = { 0 }, want = { 0 };
    const cJSON *item, *part;
    char *wants[64];
    int n = 0;
    mr_str_printf(&text, "%slocal sets = {\n", head);
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(f, "interleave")) {
        const bool behind = n % 2; /* the options stand in the list or behind it */
        mr_str_printf(&text, "data.interleave%s a, b, c%s stopping_strategy = '%s'", behind ? "({" : " {",
                      behind ? " }, {" : ",", cJSON_GetObjectItem(item, "stopping_strategy")->valuestring);
        const cJSON *p = cJSON_GetObjectItem(item, "probabilities");
        if (cJSON_IsArray(p)) {
            mr_str_puts(&text, ", probabilities = {");
            cJSON_ArrayForEach(part, p) mr_str_printf(&text, "%.17g,", part->valuedouble);
            mr_str_printf(&text, "}, seed = %d", cJSON_GetObjectItem(item, "seed")->valueint);
        }
        mr_str_puts(&text, behind ? " }),\n" : " },\n");
        join(&want, cJSON_GetObjectItem(item, "result"));
        wants[n++] = mr_strdup(want.data);
    }
    CHECK_INT(n, 21);
    mr_str_puts(&text, "data.concatenate { a, b, c },\n");
    join(&want, cJSON_GetObjectItem(f, "concatenate"));
    wants[n++] = mr_strdup(want.data);
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(f, "shuffle")) {
        mr_str_printf(&text, "ten:shuffle(%d),\n", cJSON_GetObjectItem(item, "seed")->valueint);
        join(&want, cJSON_GetObjectItem(item, "result"));
        wants[n++] = mr_strdup(want.data);
    }
    const cJSON *split = cJSON_GetObjectItem(f, "train_test_split");
    mr_str_puts(
        &text, "ten:split({ test_size = 0.2, seed = 42 }).train, ten:split({ test_size = 0.2, seed = 42 }).test,\n}\n");
    join(&want, cJSON_GetObjectItem(split, "train"));
    wants[n++] = mr_strdup(want.data);
    join(&want, cJSON_GetObjectItem(split, "test"));
    wants[n++] = mr_strdup(want.data);
    /* one long set: the mixes behind each other; their lengths are those of the expected lists */
    mr_str_puts(&text, "return { data = { system = '', train = data.concatenate(sets) } }\n");
    put_file("mix.lua", text.data);
    mr_str all = { 0 };
    for (int i = 0; i < n; i++) {
        mr_str_printf(&all, "%s%s", i ? " " : "", wants[i]);
        mr_free(wants[i]);
    }
    char *got = contents("mix.lua", "train");
    CHECK_STR(got, all.data);
    mr_free(got);
    mr_str_clear(&all);
    mr_str_clear(&text);
    mr_str_clear(&want);
    cJSON_Delete(f);
}

static void operations_by_hand(void) {
    check_set("a:take(2)", "a0 a1");
    check_set("a:skip(3)", "a3");
    check_set("data.concatenate { a:take(0), b:skip(4), c:select { 3, 1 } }", "b4 b5 c2 c0");
    check_set("b:filter(function(r) return r.k % 2 == 1 end):take(2)", "b1 b3");
    check_set("c:map(function(r) r.messages[1].content = r.messages[1].content .. '!' return r end)", "c0! c1! c2!");
    check_set("c:rename('k', 'n'):filter(function(r) return r.n > 0 and r.k == nil end)", "c1 c2");
    check_set("data.interleave { a, c:take(1), probabilities = { 1, 0 }, seed = 3 }", "a0 a1 a2 a3");
    check_set(
        "data.interleave({ a, c:take(0), b:take(0) }, { probabilities = { 1, 0, 0 }, seed = 3, stopping_strategy = "
        "'all_exhausted' })",
        "a0 a1 a2 a3");
    check_set("data.interleave({ a, c }, { seed = 1 })", "a0 c0 a1 c1 a2 c2"); /* a seed without probabilities */
    check_set("data.interleave_datasets { c, data.concatenate_datasets { a:take(1), a:skip(1) } }",
              "c0 a0 c1 a1 c2 a2");
    check_set("ten:shuffle { seed = 42 }:take(3)", "5 6 0");
    check_set("ten:split({ test_size = 3, seed = 42 }).test", "5 6 0");
    check_set("ten:train_test_split({ test_size = 3, seed = 42 }).train", "7 3 2 4 9 1 8");
    check_set("ten:filter(function(_, i) return i % 4 == 0 end)", "3 7");
    check_set("a:map(function(r, i) return { messages = { { role = 'user', content = r.k .. '/' .. i } } } end)",
              "0/1 1/2 2/3 3/4");
    /* map puts its columns over the row's; what goes goes first */
    check_set("a:map(function(r) return { n = r.k + 1 } end):filter(function(r) return r.n == r.k + 1 and r.n > 2 end)",
              "a2 a3");
    check_set("a:map(function(r) return { n = r.k } end, { remove_columns = { 'k' } }):filter(function(r)\n"
              " return r.k == nil and r.n % 2 == 1 end)",
              "a1 a3");
    check_set(
        "c:rename_column('k', 'n'):map(function(r) r.n = nil return r end):filter(function(r) return r.n == nil end)",
        "c0 c1 c2");
    check_set("c:remove_columns('k'):filter(function(r) return r.k == nil end)", "c0 c1 c2");
    check_set("c:remove_columns { 'none', 'k' }:filter(function(r) return r.k end):take(1)",
              "error: mix.lua: data.train has no rows: list of 3 rows:remove_columns(none, k):filter(mix.lua:8) kept 0 "
              "of 3 rows; 3 filtered: the function said no (first: row 1 of a list)");
}

/* test gets ceil(test_size * n) rows, train the rest, in the order of the permutation. */
static void split_rounds_as_datasets_does(void) {
    char *text = mr_asprintf("%sreturn { data = { system = '', train = b:shuffle(1):skip(2):take(4) } }\n", head);
    put_file("mix.lua", text);
    char *want = contents("mix.lua", "train");
    CHECK_INT(strlen(want), 4 * 2 + 3);
    check_set("b:split({ test_size = 0.25, seed = 1 }).train", want);
    mr_free(want);
    mr_free(text);
}

/* Nothing is called before a row is asked for, and only for that row; a filter alone looks at its own input. */
static void operations_are_lazy(void) {
    check_set("a:map(function() error('called') end):take(1)",
              "error: row 1 of a list: map (mix.lua:8): mix.lua:8: called");
    check_set(
        "data.concatenate { a:take(2), b:map(function(r) if r.k > 1 then error('too far') end return r end):take(2) }",
        "a0 a1 b0 b1");
    check_set("data.concatenate { a:skip(3), b:map(function(r, i) if i ~= 5 then error('not this') end return r "
              "end):select { 5, 5 }:rename('k', 'n') }",
              "a3 b4 b4");
    check_set("b:take(2):filter(function(r) if r.k > 1 then error('too far') end return true end)", "b0 b1");
}

static void mistakes_name_their_place(void) {
    check_set("a:filter(function(r) return r.no.such end)",
              "error: row 1 of a list: filter (mix.lua:8): mix.lua:8: attempt to index field 'no' (a nil value)");
    check_set("a:map(function() return 5 end)",
              "error: row 1 of a list: map (mix.lua:8) returned a number, want a row or a table of columns");
    check_set("a:select { 5 }", "error: mix.lua: select: place 1 is 5, want 1 to 4");
    check_set("a:take(0)", "error: mix.lua: data.train has no rows: ");
    check_set("data.interleave { a, b:take(0) }", "error: mix.lua: interleave: list of 6 rows:take(0) has no rows");
    check_set(
        "data.get 'gsm8k'",
        "error: mix.lua: no file for data set \"gsm8k\": put the file there with data.files.gsm8k = \"PATH\" (\"none\" leaves "
        "the set out), or fetch it: data set \"openai/gsm8k\" is not on this machine; `medrl pull openai/gsm8k --dataset "
        "--include 'main/*'` downloads it");
    check_set("a:rename('k', 'messages')",
              "error: row 1 of a list: rename: the row has a column \"messages\" already; remove it first "
              "(remove_columns)");
    check_set("a:remove_columns 'messages'", "error: mix.lua: data.train row 0 (row 1 of a list) has no messages");
    check_set("ten:split({ test_size = 11, seed = 1 }).test", "error: mix.lua: split: test_size is 11 rows of 10");
    check_set("data.interleave({ a, c }, { probabilities = { 1, 0 }, seed = 1, stopping_strategy = 'all_exhausted' "
              "}):filter(function(r) return r.k == 0, 'not the first' end)",
              "a0");
    check_set("7", "error: mix.lua: data.train is a number, want a data set (data.get \"NAME\")");
}

/* Mistakes that are found when the recipe is read. */
static void wrong_calls_are_refused(void) {
    static const char *const calls[][2] = {
        { "a:filtre(f)",
          "mix.lua:8: a data set has no \"filtre\"; it has map, filter, select, rename, remove_columns" },
        { "a:sort('k')", "mix.lua:8: a data set has no \"sort\"" },
        { "a:filter 'x'", "mix.lua:8: filter: want a function" },
        { "a:remove_columns {}", "mix.lua:8: remove_columns: want the name of a column or a list of names" },
        { "a:remove_columns { 1 }", "mix.lua:8: remove_columns: entry 1 is a number, want a name" },
        { "a:map(print, { columns = 'x' })", "mix.lua:8: map: unknown option \"columns\", want remove_columns" },
        { "a:select(b)", "mix.lua:8: select: want a list of places, counted from 1" },
        { "data.interleave(a, b)", "mix.lua:8: data.interleave: want a list of data sets" },
        { "data.interleave({ a }, b)", "mix.lua:8: data.interleave: the options are a data set, want a table" },
        { "data.interleave({ a, b }, { probabilites = { 0.5, 0.5 } })",
          "mix.lua:8: data.interleave: unknown option \"probabilites\", want probabilities, seed or" },
        { "data.interleave({ a, b, sed = 1 })", "mix.lua:8: data.interleave: unknown option \"sed\"" },
        { "data.interleave({ a, b }, { probabilities = { 0.5, 0.5 } })",
          "mix.lua:8: data.interleave: with probabilities a seed is needed" },
        { "data.interleave({ a, b }, { probabilities = { 0.5, 0.4 }, seed = 1 })",
          "mix.lua:8: data.interleave: the probabilities sum to 0.9, want 1" },
        { "data.interleave({ a, b }, { stopping_strategy = 'both' })",
          "mix.lua:8: data.interleave: unknown stopping_strategy \"both\"" },
        { "a:split(0.1)", "mix.lua:8: split: want { test_size = 0.1, seed = 42 }" },
        { "a:split { test_size = 1.5, seed = 1 }", "mix.lua:8: split: test_size has to lie between 0 and 1" },
        { "a:split { test_size = 0.5 }", "mix.lua:8: split: the seed is not a whole number" },
        { "a:shuffle()", "mix.lua:8: shuffle: the seed is not a whole number from 0 on" },
    };
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        char *text = mr_asprintf("%sreturn { data = { train = %s } }\n", head, calls[i][0]);
        put_file("mix.lua", text);
        const mr_pool_opts o = { .n_workers = 1 };
        CHECK_CONTAINS(refusal("mix.lua", &o), calls[i][1]);
        mr_free(text);
    }
}

static const char *open_row(const char *recipe, const char *const *overrides, int64_t index, mr_row *row) {
    static mr_err err;
    err.msg[0] = 0;
    mr_pool_opts o = { .n_workers = 1, .deadline_s = 5, .overrides = overrides };
    mr_pool *p;
    mr_row_source src;
    if (mr_pool_open(&p, recipe, &o, &err) != MR_OK) return err.msg;
    if (mr_pool_rows(p, "train", &src, &err) == MR_OK) src.get(src.self, index, row, &err);
    mr_pool_close(p);
    return err.msg;
}

static void prompts_of_the_seed(void) {
    put_file("gsm.jsonl", "{\"question\":\"How many?\",\"answer\":\"48/2\\n#### 72\"}\n");
    put_file("pub.jsonl", "{\"pubid\":1,\"question\":\"Is "
                          "it?\",\"context\":{\"contexts\":[\"One.\",\"Two.\"],\"labels\":[],\"meshes\":[]},"
                          "\"long_answer\":\"L\",\"final_decision\":\"maybe\"}\n");
    put_file("seed.lua", "local data = require 'medrl.data'\nreturn { data = { train = data.concatenate { data.get "
                         "'gsm8k', data.get 'pubmedqa' },\n"
                         "files = { gsm8k = 'gsm.jsonl', pubmedqa = 'pub.jsonl' } } }\n");
    mr_row row = { 0 };
    CHECK_STR(open_row("seed.lua", NULL, 0, &row), "");
    CHECK_INT(row.n_messages, 2);
    CHECK_STR(row.messages[0].role, "system");
    CHECK_STR(row.messages[0].content,
              "\nRespond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n");
    CHECK_STR(row.messages[1].role, "user");
    CHECK_STR(row.messages[1].content, "How many?");
    CHECK_STR(row.json, "{\"answer\":\"72\",\"db_set\":\"gsm8k\",\"source\":\"gsm8k\"}");
    CHECK_STR(row.source, "gsm8k");
    mr_row_clear(&row);
    CHECK_STR(open_row("seed.lua", NULL, 1, &row), "");
    CHECK_STR(row.messages[1].content, "Given the scientific context below:\nOne.\nTwo.\n\nAnswer the following "
                                       "question:\nIs it? with 'yes', 'no' or 'maybe'. You need to "
                                       "carefully review the context and reason before answering.");
    CHECK_STR(row.json, "{\"answer\":\"maybe\",\"db_set\":\"pubmedqa\",\"source\":\"pubmedqa\"}");
    mr_row_clear(&row);
    const char *only[] = { "data.files.gsm8k=none", NULL };
    CHECK_STR(open_row("seed.lua", only, 0, &row), "");
    CHECK_STR(row.source, "pubmedqa");
    mr_row_clear(&row);
    const char *nothing[] = { "data.files.gsm8k=none", "data.files.pubmedqa=none", NULL };
    CHECK_STR(open_row("seed.lua", nothing, 0, &row), "seed.lua: data.train: every data set in it is left out");
    CHECK_STR(open_row("seed.lua", NULL, 2, &row), "seed.lua: data.train has no row 2, it has 2");
}

static void files_that_are_not_what_they_should_be(void) {
    put_file("seed.lua", "local data = require 'medrl.data'\nreturn { data = { train = data.get 'gsm8k', files = { "
                         "gsm8k = 'x.jsonl' } } }\n");
    mr_row row = { 0 };
    unlink("x.jsonl");
    CHECK_CONTAINS(open_row("seed.lua", NULL, 0, &row), "data set \"gsm8k\": x.jsonl: no such file here or in ");
    put_file("x.jsonl", "{\"frage\":\"?\",\"answer\":\"#### 1\"}\n");
    CHECK_CONTAINS(open_row("seed.lua", NULL, 0, &row),
                   "x.jsonl:1: field \"question\" is missing, want a string; 1 of 1 rows were skipped");
    put_file("x.jsonl", "{\"question\":\"?\",\"answer\":\"#### 1\"}\n\n{\"question\":7,\"answer\":\"#### 1\"}\n");
    CHECK_CONTAINS(open_row("seed.lua", NULL, 0, &row),
                   "x.jsonl:3: field \"question\" is a number, want a string; 1 of 2 rows");
    put_file("x.jsonl", "{\"question\":\"?\",\"answer\":\"#### 1\"}\n{\"question\":\n");
    CHECK_CONTAINS(open_row("seed.lua", NULL, 0, &row), "x.jsonl:2");
    put_file("x.jsonl", "");
    CHECK(strlen(open_row("seed.lua", NULL, 0, &row)) > 0);
    const char *const other[][2] = {
        { "data.files.gsm8k=/etc/passwd", "not a data file that medrl reads" },
        { "data.files.gsm8k=.", "data set \"gsm8k\": .: no file of split \"train\" of \"main\"; set data.files.gsm8k" },
        { "data.files.gsm8k=5", "no file for data set \"gsm8k\"" },
        { "data.files.gsm8k.x=5",
          "--set data.files.gsm8k.x=5: \"data.files.gsm8k\" is a string, so nothing below it can be set" },
        { "data.train.x=5", "\"data.train\" is a data set, so nothing below it can be set" },
    };
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++) {
        const char *set[] = { other[i][0], NULL };
        CHECK_CONTAINS(open_row("seed.lua", set, 0, &row), other[i][1]);
    }
}

static void few_skipped_rows_are_counted(void) {
    mr_str text = { 0 };
    for (int i = 0; i < 40; i++)
        mr_str_printf(&text, "{\"question\":\"q%d\",\"answer\":\"%s%d\"}\n", i, i == 7 || i == 9 ? "" : "#### ", i);
    put_file("x.jsonl", text.data);
    mr_str_clear(&text);
    put_file("seed.lua", "local data = require 'medrl.data'\nreturn { data = { train = data.get 'gsm8k', files = { "
                         "gsm8k = 'x.jsonl' } } }\n");
    mr_pool *p = open_pool("seed.lua", 1, 5);
    mr_str report = { 0 };
    mr_err err = { .msg = "" };
    REQUIRE_OK(mr_pool_data_report(p, "train", &report, &err), err);
    CHECK_STR(report.data, "gsm8k: 38 of 40 rows from x.jsonl, 0 filtered, 2 skipped\n"
                           "  2 skipped: no gold answer behind \"####\" (first: x.jsonl:8)\n");
    mr_str_clear(&report);
    mr_row_source src;
    REQUIRE_OK(mr_pool_rows(p, "train", &src, &err), err);
    CHECK_INT(src.n_rows, 38);
    mr_row row = { 0 };
    REQUIRE_OK(src.get(src.self, 7, &row, &err), err);
    CHECK_STR(row.messages[1].content, "q8"); /* q7 has no gold answer */
    mr_row_clear(&row);
    REQUIRE_OK(mr_pool_rows(p, "eval", &src, &err), err);
    CHECK_INT(src.n_rows, 0);
    mr_pool_close(p);
}

static void a_row_that_never_ends_is_an_error_of_that_row(void) {
    put_file("slow.lua", "local data = require 'medrl.data'\n"
                         "local set = data.from_list { { messages = { { role = 'user', content = 'a' } } }, { messages "
                         "= { { role = 'user', content = 'b' } } } }\n"
                         "return { data = { system = 's', train = set:map(function(r) while r.messages[1].content == "
                         "'a' do end return r end) } }\n");
    mr_pool *p = open_pool("slow.lua", 1, 0.2);
    mr_row_source src;
    mr_row row = { 0 };
    mr_err err = { .msg = "" };
    REQUIRE_OK(mr_pool_rows(p, "train", &src, &err), err);
    for (int i = 0; i < 2; i++) {
        CHECK_INT(src.get(src.self, 0, &row, &err), MR_EDATA);
        CHECK_CONTAINS(err.msg, "slow.lua: data.train row 0: no answer for 0.2 s");
        REQUIRE_OK(src.get(src.self, 1, &row, &err), err); /* by a new worker */
        CHECK_STR(row.messages[1].content, "b");
        mr_row_clear(&row);
    }
    mr_pool_close(p);
}

static double seconds_to_filter(int n) {
    char *text = mr_asprintf("local data = require 'medrl.data'\n"
                             "return { data = { system = 's', train = data.get('nano_tasks', { n = %d }):filter("
                             "function()\n  local x = 0\n  for i = 1, 2000000 do x = x + i %% 7 end\n  return x > 0\n"
                             "end) } }\n",
                             n);
    put_file("slow.lua", text);
    mr_free(text);
    mr_pool *p = open_pool("slow.lua", 1, 0.2);
    mr_row_source src;
    mr_err err = { .msg = "" };
    const double start = mr_now_s();
    REQUIRE_OK(mr_pool_rows(p, "train", &src, &err), err);
    const double took = mr_now_s() - start;
    mr_pool_close(p);
    return took;
}

/* A pass that takes longer than a worker may be silent (five deadlines: 1 s) says now and then that it is at work. How
 * many rows that takes depends on the machine and on what else it does. */
static void a_long_pass_is_not_a_hung_one(void) {
    double took = 0;
    for (int n = 100; n <= 25600 && took < 1.1; n *= 2) took = seconds_to_filter(n);
    CHECK(took > 1.1);
}

static void shots_come_between(void) {
    put_file("shots.lua", "local data, chat = require 'medrl.data', require 'medrl.chat'\n"
                          "local set = data.from_list { { messages = { chat.user 'q' }, source = 'one' }, { messages = "
                          "{ chat.system 'own', chat.user 'r' }, source = 'two' } }\n"
                          "return { data = { system = 'sys', train = set, shots = { one = { chat.user 'x', "
                          "chat.assistant(chat.tagged('r', 'y')) } } } }\n");
    mr_row row = { 0 };
    CHECK_STR(open_row("shots.lua", NULL, 0, &row), "");
    CHECK_INT(row.n_messages, 4);
    CHECK_STR(row.messages[2].role, "assistant");
    CHECK_STR(row.messages[2].content, "<reasoning>\nr\n</reasoning>\n<answer>\ny\n</answer>\n");
    CHECK_STR(row.messages[3].content, "q");
    mr_row_clear(&row);
    CHECK_STR(open_row("shots.lua", NULL, 1, &row), "");
    CHECK_INT(row.n_messages, 2);
    CHECK_STR(row.messages[0].content, "own");
    mr_row_clear(&row);
}

SCRIPT_TEST_MAIN({ "mixing_equals_datasets", mixing_equals_datasets }, { "operations_by_hand", operations_by_hand },
                 { "split_rounds_as_datasets_does", split_rounds_as_datasets_does },
                 { "operations_are_lazy", operations_are_lazy },
                 { "mistakes_name_their_place", mistakes_name_their_place },
                 { "wrong_calls_are_refused", wrong_calls_are_refused }, { "prompts_of_the_seed", prompts_of_the_seed },
                 { "files_that_are_not_what_they_should_be", files_that_are_not_what_they_should_be },
                 { "few_skipped_rows_are_counted", few_skipped_rows_are_counted },
                 { "a_row_that_never_ends_is_an_error_of_that_row", a_row_that_never_ends_is_an_error_of_that_row },
                 { "a_long_pass_is_not_a_hung_one", a_long_pass_is_not_a_hung_one },
                 { "shots_come_between", shots_come_between })
