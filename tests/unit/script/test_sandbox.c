/* test_sandbox.c - what a script cannot reach, tried from inside a reward; and what medrl.re, medrl.text and medrl.json
 * promise. Each line of Lua below is the body of a score() function. */
#include "unit/script/script_test.h"

typedef struct attempt {
    const char *body;
    const char *want; /* part of the fault; NULL: it returns 1 */
} attempt;

/* All attempts in one file and one pool: the completion is the number of the attempt. */
static void run_attempts(const attempt *a, int n, const char *head) {
    mr_str text = { 0 };
    mr_str_printf(&text, "%s\nlocal try = {\n", head);
    for (int i = 0; i < n; i++) mr_str_printf(&text, "function() %s end,\n", a[i].body);
    mr_str_puts(&text, "}\nreturn { score = function(c) return try[tonumber(c)]() end }\n");
    put_file("rewards/try.lua", text.data);
    mr_str_clear(&text);
    put_recipe("try.lua", "\"try\"", "");
    mr_pool *p = open_pool("try.lua", 1, 5);
    for (int i = 0; i < n; i++) {
        char number[16];
        snprintf(number, sizeof number, "%d", i + 1);
        const char *texts[] = { number };
        mr_score s;
        mr_fault f = { .text = "" };
        int n_faults = score_texts(p, texts, 1, "{}", &s, &f, 1);
        CHECK_INT(n_faults, a[i].want ? 1 : 0);
        if (n_faults != (a[i].want ? 1 : 0)) fprintf(stderr, "  %s: %s\n", a[i].body, f.text);
        if (a[i].want)
            CHECK_CONTAINS(f.text, a[i].want);
        else
            CHECK_NEAR(s.value, 1, 0);
    }
    mr_pool_close(p);
}

static void nothing_outside_is_reached(void) {
    static const attempt list[] = {
        { "os.execute('id')", "attempt to index global 'os' (a nil value)" },
        { "return io.open('/etc/passwd')", "global 'io' (a nil value)" },
        { "return require('ffi')", "module \"ffi\" was not found" },
        { "return require('jit.util')", "was not found" },
        { "return require('string.buffer')", "was not found" },
        { "return require('/etc/passwd')", "is no module name" },
        { "return require('../../etc/passwd')", "is no module name" },
        { "return package.loadlib('libc.so.6', 'system')", "global 'package' (a nil value)" },
        { "return debug.getregistry()", "global 'debug' (a nil value)" },
        { "return jit.on()", "global 'jit' (a nil value)" },
        { "return load('return 1')()", "global 'load' (a nil value)" },
        { "return loadstring('return 1')()", "global 'loadstring' (a nil value)" },
        { "return dofile('x.lua')", "global 'dofile' (a nil value)" },
        { "return getfenv(0)", "global 'getfenv' (a nil value)" },
        { "setfenv(1, {})", "global 'setfenv' (a nil value)" },
        { "return newproxy(true)", "global 'newproxy' (a nil value)" },
        { "collectgarbage('stop')", "global 'collectgarbage' (a nil value)" },
        { "return coroutine.wrap(print)", "global 'coroutine' (a nil value)" },
        { "return string.dump(function() end)", "field 'dump' (a nil value)" },
        { "return ('x').dump == nil and 1 or 0", NULL },
        { "string.find = nil", "cannot be set: library tables are read-only" },
        { "math.floor = function() end", "read-only" },
        { "require('medrl.re').compile = nil", "read-only" },
        { "rawset(string, 'find', nil)", "this table is protected" },
        { "setmetatable(string, {})", "protected" },
        { "setmetatable(getmetatable('').__index, {})", "attempt to index" },
        { "return getmetatable('') == false and 1 or 0", NULL },
        { "return math.random()", "use medrl.rng" },
        { "return arg[0]", "global 'arg' (a nil value)" },
        { "return _G.os", "global '_G' (a nil value)" },
        { "local ok = pcall(require, 'medrl.files') return require('medrl.files').open('/etc/passwd')",
          "not a data file that medrl reads" },
        { "return require('medrl.files').open('/dev/null.jsonl')", "no such file" },
        { "return unpack({}, 0, 2 ^ 31 - 1)", "too many results to unpack" },
        { "table.sort({ 3, 1, 2, 5, 4, 9, 8, 7, 6, 0, 1 }, function() return true end)", "invalid order function" },
        { "return ('x'):find('x') and math.floor(1.5) or 0", NULL }, /* and after all of this the library is whole */
    };
    run_attempts(list, sizeof list / sizeof list[0], "");
}

static void globals_stay_in_their_file(void) {
    put_file("rewards/a.lua", "leak = 7\nreturn { score = function() leak = leak + 1 return leak end }\n");
    put_file("rewards/b.lua", "return { score = function() return leak == nil and 1 or 0 end }\n");
    put_recipe("leak.lua", "\"a\", \"b\"", "");
    mr_pool *p = open_pool("leak.lua", 1, 5);
    const char *texts[] = { "x" };
    mr_score s[2];
    CHECK_INT(score_texts(p, texts, 1, "{}", s, NULL, 0), 0);
    CHECK_NEAR(s[1].value, 1, 0);
    mr_pool_close(p);
}

static void regular_expressions_have_limits(void) {
    static const attempt list[] = {
        { "return re.compile('(a+)+$'):test(('a'):rep(40) .. 'b') and 0 or 1", NULL },
        { "local ok, why = re.compile('^(([a-z])+.)+[A-Z]'):test(('a'):rep(60)) return not ok and why == 'match limit "
          "reached' and 1 or 0",
          NULL },
        { "return re.compile('(')", "re.compile: missing closing parenthesis, at byte 1 of \"(\"" },
        { "return re.compile(('('):rep(300) .. (')'):rep(300))", "parentheses are too deeply nested" },
        { "return re.compile('\\\\C')", "is disabled" },
        { "return re.compile('a', 'q')", "unknown flag \"q\"" },
        { "return re.compile(('a'):rep(5000))", "want at most 4096" },
        { "for i = 1, 5000 do keep[i] = re.compile('a' .. i) end", "patterns are alive" },
    };
    run_attempts(list, sizeof list / sizeof list[0], "local re = require 'medrl.re'\nlocal keep = {}");
}

static void regular_expressions_find_what_python_finds(void) {
    static const attempt list[] = {
        /* match is anchored, test is not */
        { "return re.compile('b'):match('ab') == nil and re.compile('b'):test('ab') and 1 or 0", NULL },
        { "return re.compile('(a)(x)?(b)'):match('ab') == 'a' and 1 or 0", NULL },
        { "local a, x, b = re.compile('(a)(x)?(b)'):match('ab') return a == 'a' and x == nil and b == 'b' and 1 or 0",
          NULL },
        { "return re.compile('a.b'):test('a\\nb') == false and re.compile('a.b', 's'):test('a\\nb') and 1 or 0", NULL },
        { "return re.compile('a.b'):test('a\\rb') and re.compile('^a.b$'):test('a\\226\\128\\168b') and 1 or 0",
          NULL }, /* "." stops at \n only */
        { "return re.compile('b$'):test('ab\\n') and not re.compile('b$'):test('ab\\n\\n') and 1 or 0", NULL },
        { "return re.compile('^b$', 'm'):test('a\\nb\\nc') and re.compile('B', 'i'):test('b') and 1 or 0", NULL },
        { "local i, j, c = re.compile('\\\\d(\\\\d)'):find('ab12') return i == 3 and j == 4 and c == '2' and 1 or 0",
          NULL },
        { "return re.compile('a'):find('aba', 2) == 3 and 1 or 0", NULL },
        { "local t = {} for w in re.compile('\\\\w+'):gmatch('ab cd') do t[#t + 1] = w end return table.concat(t, '|') "
          "== 'ab|cd' and 1 or 0",
          NULL },
        { "local n = 0 for _ in re.compile(''):gmatch('\\195\\169x') do n = n + 1 end return n == 3 and 1 or 0", NULL },
        { "local s, n = re.compile('b+'):gsub('abbcb', '%') return s == 'a%c%' and n == 2 and 1 or 0", NULL },
        { "return re.compile('(b)'):gsub('abc', function(x) return x:upper() end) == 'aBc' and 1 or 0", NULL },
        { "return re.compile('é.', 'u'):match('é日') == 'é日' and 1 or 0", NULL },
        { "return re.compile('a'):test('\\255a') and 1 or 0", NULL }, /* bytes that are no UTF-8 do no harm */
        { "return re.compile('^' .. re.space .. '+$'):test(' \\9\\28\\31\\194\\160\\227\\128\\128') and 1 or 0", NULL },
    };
    run_attempts(list, sizeof list / sizeof list[0], "local re = require 'medrl.re'");
}

static void text_and_json(void) {
    static const attempt list[] = {
        { "return text.strip('\\28 a b\\194\\160\\n') == 'a b' and 1 or 0", NULL },
        { "return text.strip('\\226\\128\\139x') ~= 'x' and 1 or 0", NULL }, /* U+200B is no white space */
        { "return text.strip('\\255 ') == '\\255' and text.strip(' \\t') == '' and 1 or 0", NULL },
        { "return text.lower('ÀB\\255c') == 'àb\\255c' and 1 or 0", NULL },
        { "return text.ulen('é日🙂') == 3 and text.ulen('\\255\\255') == 2 and text.ulen('') == 0 and 1 or 0",
          NULL },
        { "return text.is_digit('²٤3') and not text.is_digit('Ⅷ') and not text.is_digit('') and not "
          "text.is_digit('-1') and 1 or 0",
          NULL },
        { "return text.count('aaa', 'aa') == 1 and text.count('abab', 'ab') == 2 and 1 or 0", NULL },
        { "return text.count('a', '')", "the part is empty" },
        { "return text.last_between('<a>1</a><a> 2 </a>', '<a>', '</a>') == '2' and 1 or 0", NULL },
        { "return text.last_between('<a>1', '<a>', '</a>') == nil and text.last_between('1</a>', '<a>', '</a>') == nil "
          "and 1 or 0",
          NULL },
        { "return text.after_last('aba', 'x') == 'aba' and text.before_first('aba', 'b') == 'a' and 1 or 0", NULL },
        { "return text.after_last('a\\n\\n\\nb', '\\n\\n') == '\\nb' and 1 or 0",
          NULL }, /* pieces are counted from the left, as in str.split */
        { "local s = text.strip() return s", "bad argument #1 to 'strip' (string expected, got no value)" },
        { "return text.strip()",
          "rewards/try.lua: bad argument #1" }, /* a tail call leaves no line, the file is still named */
        { "return json.encode({ b = 1, a = { 1, 'x', true }, c = {} }) == '{\"a\":[1,\"x\",true],\"b\":1,\"c\":{}}' "
          "and 1 or 0",
          NULL },
        { "return json.encode(json.decode('{\"l\":[],\"o\":{},\"n\":null}')) == '{\"l\":[],\"n\":null,\"o\":{}}' and 1 "
          "or 0",
          NULL },
        { "return json.decode('{\"n\":null}').n == json.null and json.decode('{\"n\":null}', { null = false }).n == "
          "nil and 1 or 0",
          NULL },
        { "return json.decode('{\"a\":1,\"a\":2}')", "json.decode" },
        { "return json.decode('[1,]')", "json.decode" },
        { "return json.encode({ f = print })", "a function has no JSON form" },
        { "local t = {} t.t = t return json.encode(t)", "nested deeper" },
        { "return json.encode({ 1, x = 2 })", "as key beside others" },
        { "return json.encode(0 / 0) == 'null' and json.encode(1e15) == '1000000000000000' and 1 or 0", NULL },
        { "local r = rng.pcg64(42):permutation(10) return table.concat(r, ' ') == '6 7 1 8 4 3 5 10 2 9' and 1 or 0",
          NULL },
        { "local u = rng.uniform(1, 2, 3) return u == rng.uniform(1, 2, 3) and u ~= rng.uniform(1, 3, 3) and u >= 0 "
          "and u < 1 and 1 or 0",
          NULL },
        { "return rng.uniform(-1, 0)", "want a whole number from 0 on" },
    };
    run_attempts(list, sizeof list / sizeof list[0],
                 "local text, json, rng = require 'medrl.text', require 'medrl.json', require 'medrl.rng'");
}

SCRIPT_TEST_MAIN({ "nothing_outside_is_reached", nothing_outside_is_reached },
                 { "globals_stay_in_their_file", globals_stay_in_their_file },
                 { "regular_expressions_have_limits", regular_expressions_have_limits },
                 { "regular_expressions_find_what_python_finds", regular_expressions_find_what_python_finds },
                 { "text_and_json", text_and_json })
