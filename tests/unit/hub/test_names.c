/* test_names.c - names, URLs, redirects and headers: what is taken and what is refused, one by one; SHA-256 against FIPS 180-4. */
#include <dlfcn.h>
#include <stdlib.h>

#include "base/fsafe.h"
#include "calls.h"
#include "hub/hub.h"
#include "hub/names.h"
#include "test.h"

static void repositories(void) {
    mr_hub_name n;
    mr_err err;
    REQUIRE_OK(mr_hub_name_parse(&n, "Qwen/Qwen2.5-3B-Instruct", false, &err), err);
    CHECK_STR(n.repo, "Qwen/Qwen2.5-3B-Instruct");
    CHECK_STR(n.revision, "main");
    CHECK(!n.dataset && !n.file[0]);
    REQUIRE_OK(mr_hub_name_parse(&n, "hf:datasets/openai/gsm8k@v1.0/main/train-00000.parquet", false, &err), err);
    CHECK(n.dataset);
    CHECK_STR(n.repo, "openai/gsm8k");
    CHECK_STR(n.revision, "v1.0");
    CHECK_STR(n.file, "main/train-00000.parquet");
    REQUIRE_OK(mr_hub_name_parse(&n, "a/b@refs/pr/1", true, &err), err);
    CHECK_STR(n.revision, "refs/pr/1");
    CHECK(n.dataset && !n.file[0]);
    REQUIRE_OK(mr_hub_name_parse(&n, "hf://models/a/b@refs/convert/parquet/x.json", true, &err), err);
    CHECK_STR(n.revision, "refs/convert/parquet");
    CHECK_STR(n.file, "x.json");
    CHECK(!n.dataset);
    static const char *const bad[] = { "", "a", "/a/b", "a/", "/b", "../b", "a/..", "a/.b", ".a/b", "a b/c", "a/b@", "a/b@../x",
                                       "a/b@x y", "-a/b", "a/-b", "a--x/b", "a/b..c", "a\\b/c", "a/b@-x", "a/b/../c", "a/b//c",
                                       "hf:", "hf:a", "a/b\n", "a/b@x/..", "https://x/y", "a:b/c", "a/b/C:x" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        err.msg[0] = '\0';
        if (mr_hub_name_parse(&n, bad[i], false, &err) != MR_EINVAL) fail_msg("\"%s\" was taken", bad[i]);
        CHECK(err.msg[0]);
    }
    char longer[300];
    memset(longer, 'a', sizeof longer);
    longer[100] = '/';
    longer[299] = '\0';
    CHECK_INT(mr_hub_name_parse(&n, longer, false, &err), MR_EINVAL);
    CHECK(mr_hub_is_name("org/name") && mr_hub_is_name("org/name@v1") && mr_hub_is_name("hf:org/name/x.jsonl"));
    CHECK(!mr_hub_is_name("data/train.jsonl") && !mr_hub_is_name("./a/b") && !mr_hub_is_name("org/name/x.jsonl"));
}

static void file_names(void) {
    static const char *const good[] = { "x.json", "a/b/c.txt", "model-00001-of-00002.safetensors", "..a", "a..b/c", "\xc3\xa9.txt",
                                        "a b.txt", ".hidden" };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        if (mr_hub_bad_path(good[i], strlen(good[i]))) fail_msg("\"%s\" was refused", good[i]);
    static const char *const bad[] = { "",      "/abs",  "../x",   "a/../../b", "a//b", "a/",   "..",     ".",   "a/./b",
                                       "..\\x", "C:x",   "a\\b",   "a\tb",      "a\nb", "\x7f", "a/..",   "//x", "\xc0\xae/x",
                                       "a\xff", "x:y",   "a/\x01" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (!mr_hub_bad_path(bad[i], strlen(bad[i]))) fail_msg("\"%s\" was taken", bad[i]);
    CHECK(mr_hub_bad_path("a\0b", 3) != NULL);
    char part[400];
    memset(part, 'a', sizeof part);
    CHECK(mr_hub_bad_path(part, 255) == NULL);
    CHECK(mr_hub_bad_path(part, 300) != NULL);
    CHECK(mr_hub_is_known_kind("a/train.jsonl.gz") && mr_hub_is_known_kind("X.SafeTensors") && mr_hub_is_known_kind("t.csv.zst"));
    CHECK(!mr_hub_is_known_kind("x.py") && !mr_hub_is_known_kind("x.md") && !mr_hub_is_known_kind("x.tar.gz") &&
          !mr_hub_is_known_kind(".json") && !mr_hub_is_known_kind("x.parquet.gz"));
    CHECK(mr_hub_is_pickle("pytorch_model.bin") && mr_hub_is_pickle("a/x.PT") && !mr_hub_is_pickle("x.safetensors"));
    CHECK(!mr_hub_is_known_kind("pytorch_model.bin") && !mr_hub_is_known_kind("x.pt"));
}

static void urls(void) {
    mr_hub_url u;
    CHECK(mr_hub_url_parse(&u, "https://HuggingFace.co/a?b#c") && u.https && u.port == 443);
    CHECK_STR(u.host, "huggingface.co");
    CHECK_INT(u.path_at, 22);
    CHECK(mr_hub_url_parse(&u, "http://[::1]:8080") && !u.https && u.port == 8080 && u.path_at == 17);
    CHECK_STR(u.host, "::1");
    static const char *const bad[] = { "",           "ftp://a/b",      "file:///etc/passwd", "http://",         "http:///x",
                                       "http://u@h", "http://u:p@h/x", "http://h:0/",        "http://h:99999",  "http://h:8x/",
                                       "http://a b", "http://h\\x",    "http://[::1",        "http://[zz]/",    "http://h%41/",
                                       "http://h:/", "javascript:x",   "//h/x",              "http://h\r\nX:y", "http://a,b/" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (mr_hub_url_parse(&u, bad[i])) fail_msg("\"%s\" was taken", bad[i]);
    CHECK(mr_hub_same_origin("https://h/a", "https://H:443/b"));
    CHECK(!mr_hub_same_origin("https://h/a", "http://h/a"));
    CHECK(!mr_hub_same_origin("https://h/a", "https://h:444/a"));
    CHECK(!mr_hub_same_origin("https://h/a", "https://h.evil.org/a"));
    static const char *const loop[] = { "localhost", "127.0.0.1", "127.9.9.9", "::1", "2130706433", "0x7f.1", "x.localhost",
                                        "::ffff:127.0.0.1" };
    for (size_t i = 0; i < sizeof loop / sizeof loop[0]; i++)
        if (!mr_hub_is_loopback(loop[i])) fail_msg("%s is loopback", loop[i]);
    static const char *const link[] = { "169.254.169.254", "0xa9fea9fe", "fe80::1", "0.0.0.0", "::", "::ffff:169.254.1.1" };
    for (size_t i = 0; i < sizeof link / sizeof link[0]; i++)
        if (!mr_hub_is_link_local(link[i])) fail_msg("%s is link-local", link[i]);
    CHECK(!mr_hub_is_loopback("128.0.0.1") && !mr_hub_is_link_local("169.253.0.1") && !mr_hub_is_loopback("notlocalhost"));
}

static void redirects(void) {
    char to[MR_HUB_URL_MAX];
    mr_err err;
    const char *hub = "https://hub.example";
#define GOES(from, location, want)                                              \
    do {                                                                        \
        REQUIRE_OK(mr_hub_redirect(to, from, location, hub, &err), err);        \
        CHECK_STR(to, want);                                                    \
    } while (0)
#define REFUSED(from, location, why)                                            \
    do {                                                                        \
        if (mr_hub_redirect(to, from, location, hub, &err) != MR_EREFUSED) fail_msg("%s was followed", location); \
        CHECK_CONTAINS(err.msg, why);                                           \
        CHECK(!to[0]);                                                          \
    } while (0)
    GOES("https://hub.example/a/b?c", "/x?y#z", "https://hub.example/x?y");
    GOES("https://hub.example/a/b?c", "?y", "https://hub.example/a/b?y");
    GOES("https://hub.example/a", "//cdn.example/x", "https://cdn.example/x");
    GOES("https://hub.example/a", "https://cdn.example:8443/x?sig=1", "https://cdn.example:8443/x?sig=1");
    REFUSED("https://hub.example/a", "http://hub.example/a", "from https");
    REFUSED("https://hub.example/a", "file:///etc/passwd", "no http");
    REFUSED("https://hub.example/a", "gopher://x/", "no http");
    REFUSED("https://hub.example/a", "https://169.254.169.254/latest/meta-data", "inside this machine");
    REFUSED("https://hub.example/a", "https://[fe80::1]/", "inside this machine");
    REFUSED("https://hub.example/a", "https://127.0.0.1/", "inside this machine");
    REFUSED("https://hub.example/a", "https://2130706433/", "inside this machine");
    REFUSED("https://hub.example/a", "https://localhost:1/", "inside this machine");
    REFUSED("https://hub.example/a", "https://u:p@cdn.example/", "no http");
    REFUSED("https://hub.example/a", "", "no http");
    REFUSED("https://hub.example/a", "?\r\nX: y", "no http");
    REFUSED("https://hub.example/a", "../x", "no http");
    hub = "http://127.0.0.1:80";
    GOES("http://127.0.0.1:80/a", "http://localhost:9/x", "http://localhost:9/x");
    REFUSED("http://127.0.0.1:80/a", "http://169.254.1.1/", "inside this machine");
    char shown[256];
    mr_hub_url_shown(shown, "https://cdn.example/x?X-Signature=secret");
    CHECK_STR(shown, "https://cdn.example/x");
}

static void lines(mr_hub_reply *r, const char *text) {
    mr_hub_reply_clear(r);
    while (*text) {
        size_t n = strcspn(text, "\n");
        mr_hub_reply_line(r, text, n, 784111777.0); /* Sun, 06 Nov 1994 08:49:37 GMT */
        text += n + (text[n] == '\n');
    }
}

static void answers(void) {
    static mr_hub_reply r;
    lines(&r, "HTTP/1.1 302 Found\r\nLocation: https://x/y\r\nX-Linked-Etag: \"abc\"\r\nX-Linked-Size: 17\r\nETag: W/\"def\"\r\n");
    CHECK_INT(r.status, 302);
    CHECK_STR(r.location, "https://x/y");
    CHECK_STR(r.linked_etag, "abc");
    CHECK_STR(r.etag, "def");
    CHECK_INT(r.linked_size, 17);
    CHECK_INT(r.length, -1);
    lines(&r, "HTTP/1.1 100 Continue\n\nHTTP/2 206\ncontent-length:5\ncontent-range: bytes 10-14/100\n"
              "content-type: Text/HTML; charset=x\nretry-after: 7\nContent-Encoding: GZIP\n");
    CHECK_INT(r.status, 206);
    CHECK_INT(r.length, 5);
    CHECK_INT(r.range_from, 10);
    CHECK_INT(r.range_total, 100);
    CHECK_STR(r.type, "text/html");
    CHECK_STR(r.encoding, "gzip");
    CHECK_NEAR(r.retry_after_s, 7, 0);
    lines(&r, "HTTP/1.1 429 x\nRetry-After: Sun, 06 Nov 1994 08:49:47 GMT\n");
    CHECK_NEAR(r.retry_after_s, 10, 0);
    lines(&r, "HTTP/1.1 200 x\nLink: <https://a/1>; rel=\"first\", <https://a/2>; rel=\"next\"\n");
    CHECK_STR(r.next, "https://a/2");
    lines(&r, "HTTP/1.1 200 x\ncontent-length: 99999999999999999999\ncontent-range: bytes x-y/z\nLocation: a\x01" "b\netag: \"\x80\"\n"
              "retry-after: soon\nContent-Length : 4\nNo colon here\n");
    CHECK_INT(r.length, -1);
    CHECK_INT(r.range_from, -1);
    CHECK_STR(r.location, "?");
    CHECK_STR(r.etag, "");
    CHECK_NEAR(r.retry_after_s, -1, 0);
    lines(&r, "HTTP/1.1 99 x\n");
    CHECK_INT(r.status, 0);
}

static void escapes(void) {
    mr_str s = { 0 };
    mr_hub_escape(&s, "a b/\xc3\xa9?#%", true);
    CHECK_STR(s.data, "a%20b/%C3%A9%3F%23%25");
    mr_str_clear(&s);
    mr_hub_escape(&s, "refs/pr/1", false);
    CHECK_STR(s.data, "refs%2Fpr%2F1");
    mr_str_clear(&s);
    mr_hub_name n;
    REQUIRE(mr_hub_name_parse(&n, "a/b@v1/x.json", true, NULL) == MR_OK);
    char *command = mr_hub_command(&n);
    CHECK_STR(command, "medrl pull a/b@v1/x.json --dataset");
    mr_free(command);
}

/* FIPS 180-4's examples, and every length around a block and around where the library changes, in two pieces, against one
 * piece. */
static void sha256(void) {
    char hex[65], other[65];
    mr_sha256(hex, "abc", 3);
    CHECK_STR(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    mr_sha256(hex, "", 0);
    CHECK_STR(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    mr_sha256(hex, "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56);
    CHECK_STR(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    static char million[1000000];
    memset(million, 'a', sizeof million);
    mr_sha256(hex, million, sizeof million);
    CHECK_STR(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    CHECK(dlopen("libcrypto.so.3", RTLD_NOLOAD | RTLD_NOW) != NULL); /* the million took it; where tests run libcurl needs it too */
    for (size_t n = 0; n < 65700; n += n == 199 ? 65300 : 1)
        for (size_t cut = n < 200 ? 0 : n % 7 + 65380; cut <= n; cut += 7) {
            mr_sha *s = mr_sha_new();
            mr_sha_add(s, million, cut);
            mr_sha_add(s, million + cut, n - cut);
            mr_sha_end(s, other);
            mr_sha256(hex, million, n);
            if (strcmp(hex, other) != 0) fail_msg("%zu bytes cut at %zu", n, cut);
        }
}

static char root[] = "/tmp/medrl-names-XXXXXX";

static void put(const char *name) {
    mr_err err;
    char *path = mr_path_join(root, name), *dir = mr_path_dir(path);
    REQUIRE_OK(mr_mkdirs(dir, &err), err);
    FILE *f = fopen(path, "w");
    REQUIRE(f && fclose(f) == 0);
    mr_free(dir);
    mr_free(path);
}

/* The data files of a folder: all of them, or an error. Half of a data set would be trained on in silence. */
static void folders(void) {
    static const char *const names[] = { "main/b.jsonl", "main/a.parquet", "test.csv", ".git/x.json", "README.md", "a.safetensors",
                                         "dataset_infos.json", "1/2/3/in.json", "1/2/3/4/too_deep.json" };
    mr_hub_files f;
    mr_err err;
    REQUIRE(mkdtemp(root));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) put(names[i]);
    REQUIRE_OK(mr_hub_files_find(&f, root, NULL, &err), err);
    REQUIRE(f.n == 4);
    CHECK_STR(f.names[0], "1/2/3/in.json");
    CHECK_STR(f.names[1], "main/a.parquet");
    CHECK_STR(f.names[2], "main/b.jsonl");
    CHECK_STR(f.names[3], "test.csv");
    CHECK(strncmp(f.base, root, strlen(root)) == 0 && mr_ends_with(f.base, "/"));
    mr_hub_files_clear(&f);
    for (int nth = 1; nth <= 5; nth++) { /* five folders are opened: the root, 1, 1/2, 1/2/3, main */
        call_fails("opendir", nth, EIO);
        CHECK_INT(mr_hub_files_find(&f, root, NULL, &err), MR_EIO);
        CHECK_CONTAINS(err.msg, root);
        CHECK(calls_settled());
        mr_hub_files_clear(&f);
    }
    for (int nth = 1; nth <= 20; nth++) { /* every entry of them, ".", ".." and the ends too */
        call_fails("readdir", nth, EIO);
        CHECK_INT(mr_hub_files_find(&f, root, NULL, &err), MR_EIO);
        CHECK(calls_settled());
        mr_hub_files_clear(&f);
    }
    for (int i = 0; i < MR_HUB_FILES_MAX - 4; i++) {
        char name[32];
        snprintf(name, sizeof name, "part/%04d.json", i);
        put(name);
    }
    REQUIRE_OK(mr_hub_files_find(&f, root, NULL, &err), err);
    CHECK_INT(f.n, MR_HUB_FILES_MAX);
    mr_hub_files_clear(&f);
    put("part/x.json");
    CHECK_INT(mr_hub_files_find(&f, root, NULL, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "more than 4096 data files");
    mr_hub_files_clear(&f);
    REQUIRE_OK(mr_remove_tree(root, &err), err);
}

TEST_MAIN({ "folders", folders }, { "repositories", repositories }, { "file_names", file_names }, { "urls", urls }, { "redirects", redirects },
          { "answers", answers }, { "escapes", escapes }, { "sha256", sha256 })
