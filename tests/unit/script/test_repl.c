/* test_repl.c - the session over a host that is a table of answers: printing, chunks of many lines, errors, what a
 * session may not do, interruption, completion, help. */
#include <pthread.h>

#include "base/proc.h"
#include "script/repl.h"
#include "script_test.h"

static mr_str said;                /* what was printed */
static mr_str asked;               /* "method {args}\n" */
static const char *answers[16][2]; /* method, JSON; "!" in front: an error */
static mr_repl *repl;
static mr_err err;

static void write_said(void *self, const char *text, size_t len) {
    (void)self;
    mr_str_add(&said, text, len);
}

static mr_status answer(void *self, const char *method, const cJSON *args, cJSON **result, mr_err *e) {
    (void)self;
    *result = NULL;
    mr_str_printf(&asked, "%s ", method);
    mr_json_put(&asked, args);
    mr_str_puts(&asked, "\n");
    for (int i = 0; answers[i][0]; i++) {
        if (strcmp(answers[i][0], method) != 0) continue;
        const char *text = answers[i][1];
        if (text[0] == '!') return mr_fail(e, MR_EINVAL, "%s", text + 1);
        return mr_json_parse(result, text, strlen(text), method, e);
    }
    return MR_OK;
}

static void begin_as(bool attached, bool trust) {
    const mr_repl_opts o = { .host = { NULL, answer }, .attached = attached, .trust = trust, .write = write_said };
    memset(answers, 0, sizeof answers);
    said.len = asked.len = 0;
    REQUIRE_OK(mr_repl_open(&repl, &o, &err), err);
}

static void begin(void) {
    begin_as(false, false);
}

static void end(void) {
    mr_repl_close(repl);
    repl = NULL;
    mr_str_clear(&said);
    mr_str_clear(&asked);
}

/* What a line prints; "! message" for a failure, "..." when it goes on. */
static const char *type(const char *line) {
    static char text[16384];
    said.len = 0;
    mr_repl_state s = mr_repl_line(repl, line, &err);
    if (s == MR_REPL_FAILED) {
        snprintf(text, sizeof text, "! %s", err.msg);
        return text;
    }
    if (s == MR_REPL_MORE) return "...";
    if (s == MR_REPL_QUIT) return "(quit)";
    return said.len ? said.data : "";
}

static void values_are_printed(void) {
    begin();
    CHECK_STR(type("1 + 1"), "2\n");
    CHECK_STR(type("=1 + 1"), "2\n");
    CHECK_STR(type("return 7"), "7\n");
    CHECK_STR(type("1, 'a', nil, true"), "1\n\"a\"\nnil\ntrue\n");
    CHECK_STR(type("x = 5"), "");
    CHECK_STR(type("x"), "5\n");
    CHECK_STR(type(""), "");
    CHECK_STR(type("  -- nothing"), "");
    CHECK_STR(type("print('a', 1, nil)"), "a\t1\tnil\n");
    CHECK_STR(type("nil"), "nil\n");
    CHECK_STR(type("0.1, 1e300, -0.5, 2^53, 1/3, 1/0, -1/0, 0/0 ~= 0/0, 2e-6"),
              "0.1\n1e+300\n-0.5\n9007199254740992\n0.3333333333333333\ninf\n-inf\ntrue\n2e-06\n");
    CHECK_STR(type("123456789012"), "123456789012\n");
    end();
}

static void last_values(void) {
    begin();
    type("40 + 2");
    CHECK_STR(type("_"), "42\n");
    type("'new'");
    CHECK_STR(type("__"), "42\n");
    CHECK_STR(type("_, __"), "42\n\"new\"\n"); /* the line before gave 42 */
    type("y = 1");
    CHECK_STR(type("_"), "42\n");
    end();
}

static void tables(void) {
    begin();
    CHECK_STR(type("{ 1, 2, 3 }"), "{ 1, 2, 3 }\n");
    CHECK_STR(type("{}"), "{}\n");
    CHECK_STR(type("{ b = 1, a = 'x', [3] = true, ['not a name'] = 2, ['end'] = 0 }"),
              "{ [3] = true, a = \"x\", b = 1, [\"end\"] = 0, [\"not a name\"] = 2 }\n");
    CHECK_STR(type("{ { { { { 1 } } } } }"), "{ { { { {...} } } } }\n");
    type("t = { name = 'loop' } t.self = t");
    CHECK_STR(type("t"), "{ name = \"loop\", self = <cycle> }\n");
    type("s = { 1 } both = { s, s }");
    CHECK_STR(type("both"), "{ { 1 }, { 1 } }\n");
    mr_repl_set_columns(repl, 30);
    CHECK_STR(type("{ name = 'a longer text', list = { 1, 2, 3 }, z = 1 }"),
              "{\n  list = { 1, 2, 3 },\n  name = \"a longer text\",\n  z = 1,\n}\n");
    CHECK_STR(type("{ 10000, 20000, 30000, 40000, 50000, 60000 }"),
              "{\n  10000, 20000, 30000, 40000,\n  50000, 60000,\n}\n");
    type("long = {} for i = 1, 1000 do long[i] = i end");
    CHECK_CONTAINS(type("long"), "  ... 960 more\n}\n");
    CHECK_STR(type("setmetatable({}, { __tostring = function() return 'mine' end })"), "mine\n");
    CHECK_CONTAINS(type("setmetatable({}, { __tostring = function() error('no') end })"), "no>");
    CHECK_STR(type("setmetatable({ a = 1 }, { __index = function() error('never') end })"), "{ a = 1 }\n");
    CHECK_STR(type("{ json.null }"), "{ null }\n");
    end();
}

static void strings(void) {
    begin();
    CHECK_STR(type("'a\\n\"b\"\\\\'"), "\"a\\n\\\"b\\\"\\\\\"\n");
    CHECK_STR(type("'\\27[31mred\\0'"), "\"\\x1b[31mred\\x00\"\n");
    CHECK_STR(type("'caf\xc3\xa9 \xf0\x9f\x99\x82'"), "\"caf\xc3\xa9 \xf0\x9f\x99\x82\"\n");
    CHECK_STR(type("'\\255\\194\\133'"), "\"\\xff\\xc2\\x85\"\n");
    CHECK_CONTAINS(type("('x'):rep(5000)"), "x\"... (5000 bytes)\n");
    CHECK_CONTAINS(type("{ ('\xc3\xa9'):rep(300) }"), "\xc3\xa9\"... (600 bytes)");
    end();
}

static void many_lines(void) {
    begin();
    CHECK_STR(type("function f(x)"), "...");
    CHECK(mr_repl_pending(repl));
    CHECK_STR(type("  return x * 2"), "...");
    CHECK_STR(type(""), "...");
    CHECK_STR(type("end"), "");
    CHECK_STR(type("f(21)"), "42\n");
    CHECK_STR(type("1 +"), "...");
    CHECK_STR(type("2"), "3\n");
    CHECK_STR(type("x = [[one"), "...");
    CHECK_STR(type("two]]"), "");
    CHECK_STR(type("x"), "\"one\\ntwo\"\n");
    CHECK_STR(type("for i = 1, 2 do"), "...");
    mr_repl_forget(repl);
    CHECK(!mr_repl_pending(repl));
    CHECK_STR(type("1"), "1\n");
    CHECK_STR(type("if true then"), "...");
    CHECK(mr_repl_end(repl, &err) == MR_REPL_FAILED);
    CHECK_CONTAINS(err.msg, "'end' expected (to close 'if' at line 1) near '<eof>'");
    CHECK(mr_repl_end(repl, &err) == MR_REPL_DONE);
    end();
}

static void errors(void) {
    begin();
    CHECK_STR(type("error('no', 0)"), "! no");
    CHECK_STR(type("nothing.x"), "! repl:1: attempt to index global 'nothing' (a nil value)");
    CHECK_STR(mr_repl_trace(repl), "");
    type("function g() local x = nil; return x.y end");
    type("function f() return 1 + g() end");
    CHECK_CONTAINS(type("f()"), "attempt to index local 'x'");
    CHECK_CONTAINS(mr_repl_trace(repl), "in function 'g'");
    CHECK_CONTAINS(mr_repl_trace(repl), "in function <repl:1>");
    CHECK(!strstr(mr_repl_trace(repl), "[C]"));
    CHECK_STR(type("1"), "1\n");
    CHECK_STR(mr_repl_trace(repl), "");
    CHECK_CONTAINS(type("x ="), "...");
    mr_repl_forget(repl);
    CHECK_CONTAINS(type("x = = 2"), "! repl:1: unexpected symbol");
    CHECK_STR(type("error({ 1 })"), "! the error object is a table");
    CHECK_STR(type("error(setmetatable({}, { __tostring = function() return 'own' end }))"), "! own");
    CHECK_STR(type("error()"), "! the error object is a nil");
    CHECK_CONTAINS(type("(function() local function r() return 1 + r() end return r() end)()"), "stack overflow");
    CHECK_STR(type("1"), "1\n");
    answers[0][0] = "status";
    answers[0][1] = "!the run has ended";
    CHECK_STR(type("run.step"), "! the run has ended");
    end();
}

static void what_a_session_may_not_do(void) {
    begin();
    CHECK_STR(
        type("io, ffi, package, jit, os.execute, os.remove, os.exit, debug.getregistry, string.dump, newproxy, dofile"),
        "nil\nnil\nnil\nnil\nnil\nnil\nnil\nnil\nnil\nnil\nnil\n");
    CHECK_CONTAINS(type("require 'ffi'"), "was not found");
    CHECK_CONTAINS(type("require 'io'"), "was not found");
    CHECK_CONTAINS(type("require '../x'"), "is no module name");
    CHECK_CONTAINS(type("require '/etc/passwd'"), "is no module name");
    CHECK_CONTAINS(type("load('\\27LJ')"), "nil\n\"");
    CHECK_STR(type("load('return 1 + 1')()"), "2\n");
    CHECK_CONTAINS(type("load(function() end)"), "want a text");
    CHECK_STR(type("type(os.time()), type(os.getenv), type(debug.traceback), type(coroutine.create)"),
              "\"number\"\n\"function\"\n\"function\"\n\"function\"\n");
    CHECK_STR(type("_G.x == x, _G._G == _G"), "true\ntrue\n");
    end();
    begin_as(false, true);
    CHECK_STR(type("type(io), type(debug.getregistry), type(require 'ffi')"), "\"table\"\n\"function\"\n\"table\"\n");
    end();
}

static void modules(void) {
    begin();
    put_file("mine.lua", "return { n = 1 }");
    put_file("lua/other.lua", "local mine = require 'mine' return { m = mine.n + 1 }");
    put_file("bad.lua", "return = 1");
    CHECK_STR(type("require('mine').n"), "1\n");
    CHECK_STR(type("require('other').m"), "2\n");
    CHECK_CONTAINS(type("require 'bad'"), "! bad.lua:1: unexpected symbol");
    CHECK_STR(type("require('rewards.correctness').score('<answer>yes</answer>', { answer = 'yes' })"), "2\n");
    CHECK_STR(type("type(require('medrl.text').strip), type(text.strip), type(re.compile), json.encode { 1 }"),
              "\"function\"\n\"function\"\n\"function\"\n\"[1]\"\n");
    CHECK_STR(type("type(require('recipes.smoke').data.train)"), "\"table\"\n");
    put_file("mine.lua", "return { n = 10 }");
    CHECK_STR(type("require('mine').n"), "1\n");
    answers[0][0] = "reload";
    answers[0][1] = "{\"note\":\"mine.lua: taken over\"}";
    CHECK_STR(type("reload()"), "\"mine.lua: taken over\"\n");
    CHECK_STR(type("require('mine').n"), "10\n");
    end();
}

/* Presses Ctrl-C, as it were, after a while. */
static void *press(void *delay_s) {
    double until = mr_now_s() + *(double *)delay_s;
    while (mr_now_s() < until) usleep(1000);
    mr_repl_interrupt(repl);
    return NULL;
}

static const char *interrupted(const char *line) {
    pthread_t thread;
    double delay = 0.05;
    REQUIRE(pthread_create(&thread, NULL, press, &delay) == 0);
    double t = mr_now_s();
    const char *text = type(line);
    CHECK(mr_now_s() - t < 2);
    pthread_join(thread, NULL);
    mr_repl_uninterrupt(repl);
    return text;
}

static void loops_end_at_an_interrupt(void) {
    begin();
    CHECK_STR(interrupted("while true do end"), "! interrupted");
    CHECK_STR(interrupted("while true do pcall(function() while true do end end) end"), "! interrupted");
    CHECK_CONTAINS(interrupted("local t = {} for i = 1, 1e12 do t[i % 100] = i * 2 end"), "interrupted");
    CHECK_CONTAINS(interrupted("coroutine.wrap(function() while true do end end)()"), "interrupted");
    CHECK_CONTAINS(interrupted("setmetatable({}, { __tostring = function() while true do end end })"), "interrupted");
    CHECK_STR(type("1"), "1\n");
    mr_repl_interrupt(repl); /* between the end of a line and its first instruction */
    CHECK_STR(type("while true do end"), "! interrupted");
    mr_repl_uninterrupt(repl);
    mr_repl_interrupt(repl); /* nothing runs, and it is said to be of nothing: nothing happens */
    mr_repl_uninterrupt(repl);
    CHECK_STR(type("2"), "2\n");
    end();
}

static void objects_ask_the_host(void) {
    begin();
    static const char *const table[][2] = {
        { "status", "{\"step\":3,\"max_steps\":60,\"paused\":null}" },
        { "metrics", "[{\"step\":2,\"reward\":1},{\"step\":3,\"reward\":1.5}]" },
        { "sample",
          "{\"completions\":[{\"text\":\"a\",\"rewards\":{\"x\":1,\"y\":null},\"reward\":1},{\"text\":\"b\"}]}" },
        { "score", "{\"rewards\":{\"x\":2},\"reward\":2}" },
        { "row", "{\"index\":16,\"messages\":[{\"role\":\"user\",\"content\":\"q\"}],\"row\":{\"answer\":\"B\"},"
                 "\"source\":\"s\"}" },
        { "rows", "{\"rows\":1}" },
        { "last", "[{\"prompt\":\"p\",\"completions\":[]}]" },
        { "set", "{\"grpo.learning_rate\":0.000002}" },
        { "save", "{\"path\":\"x/adapter\"}" },
    };
    memcpy(answers, table, sizeof table);
    CHECK_STR(type("run.step, run.paused"), "3\nnil\n");
    CHECK_CONTAINS(type("run.nothing"), "run has no field \"nothing\"");
    CHECK_CONTAINS(type("run.step = 4"), "cannot be set here");
    asked.len = 0;
    CHECK_STR(type("run:metrics()"), "{ reward = 1.5, step = 3 }\n");
    CHECK_STR(asked.data, "metrics {\"n\": 1}\n");
    asked.len = 0;
    CHECK_STR(type("model:generate('Is it?', { n = 2, temperature = 0.9 })"), "{ \"a\", \"b\" }\n");
    CHECK_STR(asked.data, "sample {\"n\": 2, \"prompt\": \"Is it?\", \"temperature\": 0.9}\n");
    asked.len = 0;
    CHECK_STR(type("model:generate('Is it?', { row = { answer = 'B' } })[1]"),
              "{ reward = 1, rewards = { x = 1 }, text = \"a\" }\n");
    CHECK_STR(asked.data, "sample {\"prompt\": \"Is it?\", \"row\": {\"answer\": \"B\"}}\n");
    CHECK_CONTAINS(type("model:generate('x', { temprature = 1 })"), "unknown option \"temprature\"");
    CHECK_CONTAINS(type("model:generate(1)"), "the prompt is a number");
    asked.len = 0;
    CHECK_STR(type("data[17].index, data[17].row.answer"), "17\n\"B\"\n");
    CHECK_CONTAINS(asked.data, "row {\"index\": 16, \"split\": \"train\"}");
    asked.len = 0;
    type("model:generate(data[17])");
    CHECK_CONTAINS(asked.data,
                   "sample {\"messages\": [{\"content\": \"q\", \"role\": \"user\"}], \"row\": {\"answer\": \"B\"}}");
    CHECK_STR(type("data:len(), data:sample().source"), "1\n\"s\"\n");
    asked.len = 0;
    CHECK_STR(type("score('<answer>B</answer>', data[17])"), "{ reward = 2, rewards = { x = 2 } }\n");
    CHECK_CONTAINS(asked.data, "score {\"row\": {\"answer\": \"B\"}, \"text\": \"<answer>B</answer>\"}");
    CHECK_STR(type("#score({ 'a', 'b' })"), "2\n");
    CHECK_STR(type("run:last(1).prompt"), "\"p\"\n");
    CHECK_STR(type("set{ learning_rate = 2e-6 }"), "{ [\"grpo.learning_rate\"] = 2e-06 }\n");
    asked.len = 0;
    type(":set learning_rate 2e-6");
    CHECK_STR(asked.data, "set {\"learning_rate\": 2e-06}\n");
    CHECK_STR(type("save('x')"), "\"x/adapter\"\n");
    asked.len = 0;
    type("step(5)");
    type(":step");
    CHECK_STR(asked.data, "step {\"n\": 5}\nstep {\"n\": 1}\n");
    CHECK_STR(type("quit()"), "(quit)");
    end();
    begin_as(true, false);
    CHECK_STR(type("type(step), type(run.pause)"), "\"nil\"\n\"function\"\n");
    CHECK_STR(type(":quit"), "(quit)");
    end();
}

static const char *tab(const char *line) {
    static char text[4096];
    char **list = mr_repl_complete(repl, line);
    text[0] = 0;
    for (int i = 0; list[i]; i++) {
        strcat(text, list[i]);
        strcat(text, "|");
        mr_free(list[i]);
    }
    mr_free(list);
    return text;
}

static void completion(void) {
    begin();
    CHECK_STR(tab("mod"), "model|");
    CHECK_STR(tab("model:ge"), "model:generate(|");
    CHECK_STR(tab("x = run:se"), "run:set(|run:settings(|");
    CHECK_STR(tab("run.st"), "run.step|");
    CHECK_CONTAINS(tab("run:"), "run:checkpoint(|run:last(|");
    CHECK(!strstr(tab("run:"), "step"));
    CHECK_STR(tab("string.re"), "string.rep(|string.reverse(|");
    CHECK_STR(tab("whi"), "while|");
    type("mine = { alpha = { beta = 1, beyond = 2 }, ['no name'] = 1 }");
    CHECK_STR(tab("print(mine.alpha.be"), "mine.alpha.beta|mine.alpha.beyond|");
    CHECK_STR(tab("mine."), "mine.alpha|");
    CHECK_STR(tab("nothing.x"), "");
    CHECK_STR(tab("mine.alpha.beta.x"), "");
    type("s = 'text'");
    CHECK_STR(tab("s:upp"), "s:upper(|");
    CHECK_STR(tab(":res"), ":reset|");
    CHECK_STR(tab("model:generate('x', { temp"), "temperature = |");
    answers[0][0] = "keys";
    answers[0][1] = "[\"learning_rate\",\"beta\"]";
    CHECK_STR(tab("set{ lea"), "learning_rate = |");
    CHECK_STR(tab("run:set{ learning_rate = 1, be"), "beta = |");
    CHECK_STR(tab("set{ learning_rate = mi"), "mine|");
    type("evil = setmetatable({}, { __index = function() error('no') end })");
    CHECK_STR(tab("evil.x.y"), "");
    type("_G.string = nil");
    CHECK_STR(tab("string.re"), "");
    end();
}

/* Everything that a session finds has a line in the help, and every example in the help is Lua. */
static void help_is_complete(void) {
    for (int attached = 0; attached < 2; attached++) {
        begin_as(attached, false);
        type(
            "known = {} for name in ('_G _VERSION assert bit collectgarbage coroutine debug error getmetatable ipairs "
            "load "
            "loadstring math next os pairs pcall print rawequal rawget rawset require select setmetatable string table "
            "tonumber tostring type unpack xpcall known known_help exit help __'):gmatch('%S+') do known[name] = true "
            "end");
        type("known_help = tostring(help)");
        CHECK_STR(
            type("for name in pairs(_G) do if not known[name] and not known_help:find(name, 1, true) then print(name) "
                 "end end"),
            "");
        CHECK_STR(type("for name in pairs(getmetatable(run).__methods) do if not known_help:find('run:' .. name .. "
                       "'(', 1, true) "
                       "and not known_help:find('run:' .. name .. '{', 1, true) then print(name) end end"),
                  "");
        CHECK_STR(type("for line in known_help:gmatch('[^\\n]+') do local code = "
                       "line:match('^([%w_]+[:%.]?[%w_]*[%(%[].-[%)%]])  ') "
                       "if code and not code:find('...', 1, true) and not load('return ' .. code) and not load(code) "
                       "then print(code) end end"),
                  "");
        CHECK_CONTAINS(type("help"), "model:generate(");
        CHECK_CONTAINS(type("help 'run'"), "run:metrics()");
        CHECK_CONTAINS(type("help(run)"), "run:metrics()");
        CHECK_CONTAINS(type(":help score"), "score(");
        CHECK_CONTAINS(type("help 'nothing'"), "there is no help on \"nothing\"");
        end();
    }
}

static void json_of_the_last_value(void) {
    begin();
    mr_str s = { 0 };
    type("{ a = { 1, 2 }, b = 'x' }");
    CHECK(mr_repl_json(repl, &s, &err) == MR_OK);
    CHECK_STR(s.data, "{\"a\":[1,2],\"b\":\"x\"}");
    s.len = 0;
    type("print");
    CHECK(mr_repl_json(repl, &s, &err) == MR_EINVAL);
    CHECK_CONTAINS(err.msg, "a function has no JSON form");
    mr_str_clear(&s);
    end();
}

SCRIPT_TEST_MAIN({ "values_are_printed", values_are_printed }, { "last_values", last_values }, { "tables", tables },
                 { "strings", strings }, { "many_lines", many_lines }, { "errors", errors },
                 { "what_a_session_may_not_do", what_a_session_may_not_do }, { "modules", modules },
                 { "loops_end_at_an_interrupt", loops_end_at_an_interrupt },
                 { "objects_ask_the_host", objects_ask_the_host }, { "completion", completion },
                 { "help_is_complete", help_is_complete }, { "json_of_the_last_value", json_of_the_last_value })
