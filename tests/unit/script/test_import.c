/* test_import.c - packed data files: rows through a process of its own into a row cache and out of it; the cache found
 * again, out of date, damaged, or without room; and processes that hang, crash and lie. Data sets by folder, in the
 * layouts of the hub. What needs Parquet is passed over by a program that was built without it. */
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <sys/resource.h>
#include <zlib.h>

#include "base/log.h"
#include "base/proc.h"
#include "files/parquet.h"
#include "files/rowcache.h"
#include "files/rows.h"
#include "script/import.h"
#include "script/wire.h"
#include "unit/script/script_test.h"

/* The child of this test: what the file "play" says, in place of reading. */
static int worker(void) {
    char *play;
    size_t len;
    if (mr_file_read(&play, &len, "play", 64, NULL) != MR_OK) return mr_worker_main();
    mr_wire w;
    mr_frame f;
    mr_wire_init(&w, 3);
    while (mr_wire_next(&w, &f) == 0)
        if (!mr_wire_fill(&w, true)) return 0;
    if (strcmp(play, "crash") == 0) abort();
    if (strcmp(play, "hang") == 0) pause();
    mr_wire_send(&w, MR_WIRE_READY, "\3", 1, -1);
    if (strcmp(play, "half a row") == 0) mr_wire_send(&w, MR_WIRE_BYTES, "{}\n{", 4, -1);
    if (strcmp(play, "no frame") == 0) mr_wire_send(&w, MR_WIRE_SCORED, "x", 1, -1);
    if (strcmp(play, "too much") == 0) {
        static char zeros[1 << 20];
        for (int i = 0; i < 300; i++)
            if (!mr_wire_send(&w, MR_WIRE_BYTES, zeros, sizeof zeros, -1)) return 0;
    }
    if (strcmp(play, "gone") == 0) _exit(0);
    pause();
    return 0;
}

static void copy_golden(const char *name, const char *to) {
    char *data, path[512];
    size_t len;
    mr_err err = { "" };
    snprintf(path, sizeof path, GOLDEN("parquet/%s"), name);
    REQUIRE_OK(mr_file_read(&data, &len, path, 1 << 20, &err), err);
    char *dir = mr_path_dir(to);
    REQUIRE_OK(mr_mkdirs(dir, &err), err);
    REQUIRE_OK(mr_file_write(to, data, len, &err), err);
    mr_free(dir);
    mr_free(data);
}

static void put_gzip(const char *path, const char *text) {
    gzFile f = gzopen(path, "wb");
    REQUIRE(f && gzwrite(f, text, (unsigned)strlen(text)) == (int)strlen(text) && gzclose(f) == Z_OK);
}

/* The rows of a file by way of a cache: their number, or the error. */
static mr_status rows_of(const char *path, const mr_import_opts *o, int64_t *n, mr_err *err) {
    *n = -1;
    mr_packing how;
    int cache;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    REQUIRE(fd >= 0);
    mr_status st = mr_import_kind(&how, fd, path, err);
    if (st == MR_OK) st = mr_import_open(&cache, fd, path, how, o, err);
    CHECK_INT(close(fd), 0);
    if (st != MR_OK) return st;
    mr_rows *r;
    CHECK((fcntl(cache, F_GETFL) & O_ACCMODE) == O_RDONLY);
    REQUIRE_OK(mr_rows_open_cache(&r, cache, path, err), *err);
    close(cache);
    *n = mr_rows_count(r);
    mr_rows_close(r);
    return MR_OK;
}

/* The only cache that there is; "" when there is not one. Borrowed until the next call. */
static const char *the_cache(void) {
    static char path[256];
    glob_t g;
    path[0] = 0;
    if (glob("row-cache/*.rows", 0, NULL, &g) == 0 && g.gl_pathc == 1) snprintf(path, sizeof path, "%s", g.gl_pathv[0]);
    globfree(&g);
    return path;
}

static void forget_caches(void) {
    REQUIRE(mr_remove_tree("row-cache", NULL) == MR_OK);
}

static void change_byte(const char *path, off_t at) {
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    char c;
    REQUIRE(fd >= 0 && pread(fd, &c, 1, at) == 1);
    c ^= 1;
    REQUIRE(pwrite(fd, &c, 1, at) == 1);
    close(fd);
}

static ino_t inode(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 ? s.st_ino : 0;
}

static void caches_are_found_again(void) {
    mr_err err = { "" };
    int64_t n;
    forget_caches();
    put_gzip("x.jsonl.gz", "{\"q\":1}\n\n{\"q\":2}\n");
    REQUIRE_OK(rows_of("x.jsonl.gz", NULL, &n, &err), err);
    CHECK_INT(n, 2);
    char *first = mr_strdup(the_cache());
    CHECK(first[0]);
    const ino_t made = inode(first);
    put_file("play", "crash"); /* the second time no process is asked */
    REQUIRE_OK(rows_of("x.jsonl.gz", NULL, &n, &err), err);
    CHECK_INT(n, 2);
    unlink("play");
    CHECK(inode(first) == made);
    change_byte(first, 3);
    REQUIRE_OK(rows_of("x.jsonl.gz", NULL, &n, &err), err); /* damaged: made anew */
    CHECK_INT(n, 2);
    CHECK_STR(the_cache(), first);
    CHECK(inode(first) != made);
    REQUIRE(truncate(first, 5) == 0);
    REQUIRE_OK(rows_of("x.jsonl.gz", NULL, &n, &err), err);
    CHECK_INT(n, 2);
    put_gzip("x.jsonl.gz", "{\"q\":1}\n\n{\"q\":2}\n{\"q\":3}\n"); /* another file of that name: the old cache goes */
    REQUIRE_OK(rows_of("x.jsonl.gz", NULL, &n, &err), err);
    CHECK_INT(n, 3);
    CHECK(the_cache()[0] && strcmp(the_cache(), first) != 0);
    mr_free(first);
}

static void caches_without_room(void) {
    mr_err err = { "" };
    int64_t n;
    forget_caches();
    put_gzip("x.csv.gz", "q,a\n1,2\n");
    setenv("MEDRL_ROW_CACHE", "/proc/nowhere", 1);
    REQUIRE_OK(rows_of("x.csv.gz", NULL, &n, &err), err);
    CHECK_INT(n, 1);
    setenv("TMPDIR", "/proc/nowhere", 1); /* not there either: memory */
    REQUIRE_OK(rows_of("x.csv.gz", NULL, &n, &err), err);
    CHECK_INT(n, 1);
    setenv("MEDRL_ROW_CACHE", "row-cache", 1);
    /* a disk that is full in the middle: the file cannot grow beyond 4 kB, in any folder */
    mr_str text = { 0 };
    mr_str_puts(&text, "q,a\n");
    for (int i = 0; i < 3000; i++) mr_str_printf(&text, "%d,%d\n", i, i * i);
    put_gzip("x.csv.gz", text.data);
    struct rlimit before;
    getrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 4096, before.rlim_max });
    const mr_status st = rows_of("x.csv.gz", NULL, &n, &err);
    setrlimit(RLIMIT_FSIZE, &before);
    CHECK_INT(
        st, MR_EIO); /* memory is a file as well, for this limit: all three are tried, and the last one's error comes */
    CHECK_CONTAINS(err.msg, "memory for rows: ");
    CHECK_STR(the_cache(), ""); /* nothing is left of it */
    unsetenv("TMPDIR");
    REQUIRE_OK(rows_of("x.csv.gz", NULL, &n, &err), err);
    CHECK_INT(n, 3000);
    mr_str_clear(&text);
}

static void processes_that_do_harm(void) {
    static const char *const plays[][2] = {
        { "crash", "y.jsonl.gz: the process that read it ended: killed by signal 6" },
        { "gone", "y.jsonl.gz: the process that read it ended: exit 0" },
        { "hang", "y.jsonl.gz: the process that read it was stopped after 0." },
        { "no frame", "y.jsonl.gz: the process that read it was stopped, it sent what is no answer" },
        { "too much", "y.jsonl.gz: becomes more than 268" },
    };
    mr_err err = { "" };
    int64_t n;
    forget_caches();
    put_gzip("y.jsonl.gz", "{\"q\":1}\n");
    for (size_t i = 0; i < sizeof plays / sizeof plays[0]; i++) {
        put_file("play", plays[i][0]);
        const mr_import_opts o = { .deadline_s = strcmp(plays[i][0], "hang") == 0 ? 0.3 : 20 };
        CHECK_INT(rows_of("y.jsonl.gz", &o, &n, &err), MR_EDATA);
        CHECK_CONTAINS(err.msg, plays[i][1]);
    }
    put_file("play", "half a row");
    if (mr_parquet_version()) {
        copy_golden("gsm8k_like.parquet", "g.parquet");
        CHECK_INT(rows_of("g.parquet", &(mr_import_opts){ .deadline_s = 20 }, &n, &err), MR_EDATA);
        CHECK_CONTAINS(err.msg, "g.parquet: the process that read it was stopped, it sent what is no answer");
    }
    unlink("play");
    CHECK_STR(the_cache(), "");
    glob_t g;
    CHECK(glob("row-cache/.rows*", 0, NULL, &g) == GLOB_NOMATCH); /* no temporary file either */
    const mr_import_opts high = { .require_sandbox = 4 };
    CHECK_INT(rows_of("y.jsonl.gz", &high, &n, &err), MR_EREFUSED);
    CHECK_CONTAINS(err.msg, "y.jsonl.gz: the process that would read it reaches level ");
}

static void names_and_contents(void) {
    mr_err err = { "" };
    int64_t n;
    put_file("t.jsonl.gz", "{\"q\":1}\n");
    CHECK_INT(rows_of("t.jsonl.gz", NULL, &n, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "t.jsonl.gz: is something else, want gzip as its name says; rename it");
    put_gzip("t.jsonl.zst", "{\"q\":1}\n");
    CHECK_INT(rows_of("t.jsonl.zst", NULL, &n, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "t.jsonl.zst: is gzip, want zstd as its name says");
    put_file("t.parquet", "");
    CHECK_INT(rows_of("t.parquet", NULL, &n, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "t.parquet: is empty, want Parquet as its name says; fetch it again");
    put_gzip("t.jsonl", "{\"q\":1}\n{\"q\":2}\n"); /* a stream by mistake */
    REQUIRE_OK(rows_of("t.jsonl", NULL, &n, &err), err);
    CHECK_INT(n, 2);
}

/* ---- data sets ---- */

static const char *answer_of(const cJSON *columns) {
    static char text[32];
    const cJSON *answer = cJSON_GetObjectItem(columns, "answer");
    if (cJSON_IsString(answer)) return answer->valuestring;
    snprintf(text, sizeof text, "%g", answer ? answer->valuedouble : -1);
    return text;
}

/* "N: PLACE=ANSWER PLACE=ANSWER", of the first and the last row of a set with these files; or the error. */
static char *set_of(const char *get, const char *files) {
    char *recipe = mr_asprintf(
        "local data = require 'medrl.data'\nreturn { data = { system = '', train = data.get(%s), files = %s } }\n", get,
        files);
    put_file("set.lua", recipe);
    mr_free(recipe);
    mr_pool *p = open_pool("set.lua", 1, 20);
    mr_err err = { .msg = "" };
    mr_row_source src;
    mr_str s = { 0 };
    if (mr_pool_rows(p, "train", &src, &err) != MR_OK) {
        mr_str_puts(&s, err.msg);
    } else {
        mr_str_printf(&s, "%d:", (int)src.n_rows);
        for (int64_t i = 0; i<src.n_rows; i += src.n_rows> 1 ? src.n_rows - 1 : 1) {
            mr_row row = { 0 };
            if (src.get(src.self, i, &row, &err) != MR_OK) {
                mr_str_printf(&s, " error: %s", err.msg);
                break;
            }
            cJSON *columns = cJSON_Parse(row.json);
            mr_str_printf(&s, " %s=%s", row.place, answer_of(columns));
            cJSON_Delete(columns);
            mr_row_clear(&row);
        }
    }
    mr_pool_close(p);
    return mr_str_steal(&s);
}

#define SET(get, files, want)                                                                                          \
    do {                                                                                                               \
        char *got_ = set_of(get, files);                                                                               \
        CHECK_CONTAINS(got_, want);                                                                                    \
        mr_free(got_);                                                                                                 \
    } while (0)

static void data_sets_of_text(void) {
    static const char rows[] =
        "{\"question\":\"a\",\"answer\":\"#### 1\"}\n{\"question\":\"b\",\"answer\":\"#### 2\"}\n";
    REQUIRE(mkdir("g", 0777) == 0 && mkdir("g/main", 0777) == 0 && mkdir("g/socratic", 0777) == 0);
    put_gzip("g/main/train-00000-of-00002.jsonl.gz", rows);
    put_file("g/main/train-00001-of-00002.jsonl", "{\"question\":\"c\",\"answer\":\"#### 3\"}\n");
    put_file("g/main/test-00000-of-00001.jsonl", "{\"question\":\"t\",\"answer\":\"#### 9\"}\n");
    put_file("g/socratic/train-00000-of-00001.jsonl", "{\"question\":\"s\",\"answer\":\"#### 7\"}\n");
    put_file("g/README.json", "{}");
    SET("'gsm8k'", "{ gsm8k = 'g' }",
        "3: g/main/train-00000-of-00002.jsonl.gz:1=1 g/main/train-00001-of-00002.jsonl:1=3");
    SET("'gsm8k', { split = 'test' }", "{ gsm8k = 'g/' }", "1: g/main/test-00000-of-00001.jsonl:1=9");
    SET("'gsm8k', { config = 'socratic' }", "{ gsm8k = 'g' }", "1: g/socratic/train-00000-of-00001.jsonl:1=7");
    SET("'gsm8k'", "{ gsm8k = 'g/main' }", "3: g/main/train-00000-of-00002.jsonl.gz:1=1");
    SET("'gsm8k', { split = 'valid' }", "{ gsm8k = 'g' }",
        "data set \"gsm8k\": g: no file of split \"valid\" of \"main\"");
    SET("'gsm8k', { config = 'pqa' }", "{ gsm8k = 'g' }",
        "g: no file of split \"train\" of \"pqa\""); /* none of another configuration */
    SET("'gsm8k'", "{ gsm8k = 'g/main/train-00000-of-00002.jsonl.gz' }", "2: g/main/train-00000-of-00002.jsonl.gz:1=1");

    /* both layouts of the 52 specialties; and parts of them */
    static const char *const layouts[] = { "h1/data/%s-00000-of-00001.csv", "h2/%s/%s-00000-of-00001.csv" };
    static const char *const some[] = { "Cardiology", "Pediatric_Surgery", "Pediatrics", "Sleep" };
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < 4; i++) {
            char path[128], text[128];
            snprintf(path, sizeof path, layouts[k], some[i], some[i]);
            snprintf(text, sizeof text, "Questions,Answers\nWhich %s?,%c\n", some[i], 'A' + i);
            put_file(path, text);
        }
    SET("'health_benchmarks', { categories = { 'Sleep', 'Pediatrics', 'Cardiology' } }", "{ health_benchmarks = 'h1' }",
        "3: h1/data/Sleep-00000-of-00001.csv:2=D h1/data/Cardiology-00000-of-00001.csv:2=A");
    SET("'health_benchmarks', { categories = { 'Pediatrics', 'Sleep' } }", "{ health_benchmarks = 'h2' }",
        "2: h2/Pediatrics/Pediatrics-00000-of-00001.csv:2=C h2/Sleep/Sleep-00000-of-00001.csv:2=D");
    SET("'health_benchmarks'", "{ health_benchmarks = 'h2' }",
        "h2: no file of 48 of the 52 parts (Lab_Medicine, Wearables, Dermatology, Gastroenterology, Internal_Medicine, "
        "...)");
}

static void data_sets_of_parquet(void) {
    if (!mr_parquet_version()) {
        SET("'gsm8k'", "{ gsm8k = 'none.parquet' }", "none.parquet");
        return;
    }
    copy_golden("gsm8k_like.parquet", "p/main/train-00000-of-00001.parquet");
    copy_golden("pubmedqa_artificial_like.parquet", "p/pqa_artificial/train-00000-of-00001.parquet");
    copy_golden("pubmedqa_labeled_like.parquet", "p/pqa_labeled/train/0000.parquet"); /* as the hub converts */
    SET("'gsm8k'", "{ gsm8k = 'p' }",
        "2: p/main/train-00000-of-00001.parquet:1=7 p/main/train-00000-of-00001.parquet:2=60");
    SET("'pubmedqa'", "{ pubmedqa = 'p' }",
        "3: p/pqa_artificial/train-00000-of-00001.parquet:1=yes p/pqa_artificial/train-00000-of-00001.parquet:3=no");
    SET("'pubmedqa', { config = 'pqa_labeled' }", "{ pubmedqa = 'p' }", "3: p/pqa_labeled/train/0000.parquet:1=yes");
    copy_golden("gsm8k_like.parquet", "wrong.jsonl"); /* what is in it counts */
    SET("'gsm8k'", "{ gsm8k = 'wrong.jsonl' }", "2: wrong.jsonl:1=7 wrong.jsonl:2=60");
    copy_golden("odd_binary.parquet", "odd.parquet");
    SET("'gsm8k'", "{ gsm8k = 'odd.parquet' }", "data set \"gsm8k\": odd.parquet: column \"a.it\" is binary");

    /* all 52, in the order of the recipe: more files than a worker could hold once */
    static const char *const head[] = { "Lab_Medicine", "Wellbeing" };
    char *lua, *at;
    size_t len;
    mr_err err = { "" };
    REQUIRE_OK(mr_file_read(&lua, &len, MR_ROOT "/lua/datasets/health_benchmarks.lua", 1 << 20, &err), err);
    int n = 0;
    char *end = strstr(lua, "local M");
    for (at = strstr(lua, "local categories"); (at = strchr(at, '"')) && at < end; n++) {
        char *close = strchr(at + 1, '"'), path[160];
        snprintf(path, sizeof path, "all/data/%.*s-00000-of-00001.parquet", (int)(close - at - 1), at + 1);
        copy_golden("health_benchmarks_like.parquet", path);
        at = close + 1;
    }
    CHECK_INT(n, 52);
    copy_golden("health_benchmarks_like.parquet", "all/data/Ethics-00000-of-00001.parquet");
    char want[256];
    snprintf(want, sizeof want, "52: all/data/%s-00000-of-00001.parquet:1=C all/data/%s-00000-of-00001.parquet:1=C",
             head[0], head[1]);
    SET("'health_benchmarks'", "{ health_benchmarks = 'all' }", want);
    mr_free(lua);
}

/* ---- passes over many rows ---- */

static int n_passes(void) {
    glob_t g;
    const int n = glob("row-cache/*.pass", 0, NULL, &g) == 0 ? (int)g.gl_pathc : 0;
    globfree(&g);
    return n;
}

/* 25,000 rows: what keep() and row() said is taken over while module, files, options and recipe are the same. A row
 * that says "odd" is skipped, every third one is filtered. */
static void passes_are_kept(void) {
    static const char module[] =
        "local M = { name = 'many' }\n"
        "function M.keep(r) if r.k %% %d == 0 then return false, 'a multiple' end return true end\n"
        "function M.row(r)\n"
        "  if r.k == 17 then return nil, 'odd' end\n"
        "  return { messages = { { role = 'user', content = 'q' .. r.k } }, answer = r.k }\n"
        "end\n"
        "return M\n";
    mr_str rows = { 0 };
    for (int i = 0; i < 25000; i++) mr_str_printf(&rows, "{\"k\":%d}\n", i);
    put_file("many.jsonl", rows.data);
    mr_str_clear(&rows);
    char *text = mr_asprintf(module, 3);
    put_file("datasets/many.lua", text);
    mr_free(text);
    forget_caches();
    static const char get[] = "'many'", files[] = "{ many = 'many.jsonl' }";
    CHECK_INT(n_passes(), 0);
    char *one = set_of(get, files); /* made by looking */
    CHECK_INT(n_passes(), 1);
    char *two = set_of(get, files); /* by what was kept */
    CHECK_INT(n_passes(), 1);
    CHECK_STR(one, two);
    CHECK(strncmp(one, "16665:", 6) == 0);
    mr_free(one);
    mr_free(two);
    /* that it was kept shows when it is wrong: one place less, with a hash that is right */
    glob_t g;
    REQUIRE(glob("row-cache/*.pass", 0, NULL, &g) == 0);
    char *kept, hex[65], *path = mr_strdup(g.gl_pathv[0]);
    globfree(&g);
    size_t len;
    mr_err err = { "" };
    REQUIRE_OK(mr_file_read(&kept, &len, path, 1 << 20, &err), err);
    char *first = strstr(kept, "\"places\"");
    REQUIRE(first && (first = strchr(first, '[')));
    CHECK(strncmp(first, "[2,3,", 5) == 0);
    memcpy(first, "[1,3,", 5);
    put_file(path, kept);
    SET(get, files, "16665: many.jsonl:2=1"); /* another hash: not believed, and made anew */
    memcpy(first, "[1,3,", 5);
    mr_sha256(hex, kept + 65, len - 65);
    memcpy(kept, hex, 64);
    put_file(path, kept);
    SET(get, files, "16665: many.jsonl:1=0 many.jsonl:24999=24998"); /* believed: keep() is not asked again */
    put_file("datasets/many.lua", "return {}\n");                    /* the module has changed */
    text = mr_asprintf(module, 5);
    put_file("datasets/many.lua", text);
    mr_free(text);
    SET(get, files, "19999: many.jsonl:2=1 many.jsonl:25000=24999");
    CHECK_INT(n_passes(), 2);
    put_file("more.jsonl", "{\"k\":1}\n"); /* and another file is another pass, too few rows for one */
    SET(get, "{ many = 'more.jsonl' }", "1: more.jsonl:1=1");
    CHECK_INT(n_passes(), 2);
    mr_free(kept);
    mr_free(path);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--worker") == 0) return worker();
    mr_log_set_level(MR_LOG_ERROR); /* of caches that are made anew */
    static test_entry_ entries[] = {
        { "caches_are_found_again", caches_are_found_again },
        { "caches_without_room", caches_without_room },
        { "processes_that_do_harm", processes_that_do_harm },
        { "names_and_contents", names_and_contents },
        { "data_sets_of_text", data_sets_of_text },
        { "data_sets_of_parquet", data_sets_of_parquet },
        { "passes_are_kept", passes_are_kept },
    };
    enum { n_entries = sizeof entries / sizeof entries[0] };
    static struct CMUnitTest tests[n_entries];
    for (int i = 0; i < n_entries; i++)
        tests[i] = (struct CMUnitTest){ entries[i].name, test_run_one_, NULL, NULL, &entries[i] };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
