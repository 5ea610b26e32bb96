/* Quantized weights in a file beside the model's: equal to quantizing again, made again when anything is off, and never in the way. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/log.h"
#include "base/rng.h"
#include "model/cache.h"
#include "model/layout.h"
#include "tiny.h"

typedef struct place {
    char *dir, *model, *kept; /* a scratch folder; the model's copy in it; where its cache goes */
} place;

/* Whole tiles of 16 x 64, as on a GPU the weights of real models are (kernels/cuda/weights.cu). */
static const char config[] = "{\"model_type\":\"llama\",\"hidden_size\":128,\"intermediate_size\":256,\"num_hidden_layers\":2,"
                             "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":64,\"tie_word_embeddings\":true}";

typedef struct maker {
    mr_tensor_out list[64];
    int n;
} maker;

static void add(maker *k, char *name, int64_t rows, int64_t cols) {
    const int64_t n = rows * (cols ? cols : 1);
    float *x = mr_alloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = 0.02f * mr_normal_at(5, (uint64_t)k->n, (uint64_t)i);
    mr_tensor_out *t = &k->list[k->n++];
    *t = (mr_tensor_out){ .name = name, .type = "F32", .n_dims = cols ? 2 : 1, .data = x };
    t->dims[0] = rows, t->dims[1] = cols;
}

static void write_model(const char *dir) {
    char *file = mr_path_join(dir, "config.json"), *weights = mr_path_join(dir, "model.safetensors");
    maker k = { .n = 0 };
    mr_config c;
    mr_err err;
    REQUIRE_OK(mr_file_write(file, config, sizeof config - 1, &err), err);
    REQUIRE_OK(mr_config_load(&c, dir, NULL, &err), err);
    add(&k, mr_strdup("model.embed_tokens.weight"), c.vocab_size, c.hidden_size);
    add(&k, mr_strdup("model.norm.weight"), c.hidden_size, 0);
    for (int l = 0; l < c.num_hidden_layers; l++) {
        add(&k, mr_asprintf("model.layers.%d.input_layernorm.weight", l), c.hidden_size, 0);
        add(&k, mr_asprintf("model.layers.%d.post_attention_layernorm.weight", l), c.hidden_size, 0);
        for (int p = 0; p < MR_N_PROJ; p++) {
            char path[96];
            mr_proj_path(path, sizeof path, l, p);
            add(&k, mr_asprintf("%s.weight", path), mr_proj_rows(&c, p), mr_proj_cols(&c, p));
        }
    }
    REQUIRE_OK(mr_safetensors_write(weights, k.list, k.n, NULL, &err), err);
    for (int i = 0; i < k.n; i++) {
        mr_free((void *)(uintptr_t)k.list[i].name);
        mr_free((void *)(uintptr_t)k.list[i].data);
    }
    mr_free(file);
    mr_free(weights);
}

static place place_new(void) {
    char name[] = "/tmp/mr_cache_XXXXXX";
    place p;
    mr_err err;
    REQUIRE(mkdtemp(name) != NULL);
    p.dir = mr_strdup(name);
    p.model = mr_path_join(p.dir, "model");
    p.kept = mr_path_join(p.dir, "kept");
    REQUIRE_OK(mr_mkdirs(p.model, &err), err);
    write_model(p.model);
    return p;
}

static void place_clear(place *p) {
    mr_err err;
    REQUIRE_OK(mr_remove_tree(p->dir, &err), err);
    mr_free(p->dir);
    mr_free(p->model);
    mr_free(p->kept);
}

/* All NF4 bytes of a model's linears, as they come back from the device. */
static char *bytes_of(mr_backend *b, const char *path, const char *cache, size_t *n) {
    const mr_model_opts o = { .store = MR_NF4, .compute = MR_F32, .cache = cache };
    mr_model *m;
    mr_err err;
    mr_str s = { 0 };
    REQUIRE_OK(mr_model_open(&m, b, path, &o, &err), err);
    for (int i = 0; i < m->config.num_hidden_layers; i++)
        for (int g = 0; g < MR_N_GROUPS; g++) {
            const mr_weight *w = m->layers[i].linear[g].w;
            const mr_weight_info info = b->weight_info(w);
            const int64_t count = info.n_out * info.n_in, blocks = (count + 63) / 64;
            const uint8_t *codes, *absmax;
            const float *nested;
            float offset;
            REQUIRE(b->weight_nf4(w, &codes, &absmax, &nested, &offset));
            mr_str_add(&s, codes, (size_t)(count + 1) / 2);
            mr_str_add(&s, absmax, (size_t)blocks);
            mr_str_add(&s, nested, (size_t)((blocks + 255) / 256) * sizeof(float));
            mr_str_add(&s, &offset, sizeof offset);
        }
    mr_model_close(m);
    *n = s.len;
    return mr_str_steal(&s);
}

/* Opens the model with the cache in p->kept; its bytes must be those without one. */
static void check_equal(const place *p, const char *cache) {
    mr_backend *b = tiny_backend(2);
    size_t n, n_cached;
    char *plain = bytes_of(b, p->model, NULL, &n), *cached = bytes_of(b, p->model, cache, &n_cached);
    CHECK(n == n_cached && n > 10000 && memcmp(plain, cached, n) == 0);
    mr_free(plain);
    mr_free(cached);
    mr_backend_close(b);
}

/* Whether opening the cache finds one that is good. Opening for writing leaves nothing. */
static bool is_good(const place *p) {
    mr_tensors *t;
    mr_cache *c;
    mr_err err;
    REQUIRE_OK(mr_tensors_open(&t, p->model, &err), err);
    REQUIRE_OK(mr_cache_open(&c, p->kept, t, 1, NULL, &err), err);
    const bool good = mr_cache_reads(c);
    mr_cache_close(c);
    mr_tensors_close(t);
    return good;
}

/* The one file in p->kept; owned. */
static char *kept_file(const place *p) {
    char *command = mr_asprintf("ls %s/kept", p->dir), line[512] = "";
    FILE *f = popen(command, "r");
    REQUIRE(f != NULL && fgets(line, sizeof line, f) != NULL);
    char more[8];
    CHECK(fgets(more, sizeof more, f) == NULL); /* nothing else, no .tmp */
    pclose(f);
    mr_free(command);
    line[strcspn(line, "\n")] = '\0';
    return mr_path_join(p->kept, line);
}

static void made_once_and_equal(void) {
    place p = place_new();
    CHECK(!is_good(&p));
    check_equal(&p, p.kept);
    char *file = kept_file(&p);
    struct stat before, after;
    REQUIRE(stat(file, &before) == 0);
    CHECK(is_good(&p));
    check_equal(&p, p.kept);
    REQUIRE(stat(file, &after) == 0);
    CHECK(before.st_ino == after.st_ino && before.st_size == after.st_size); /* was read, not written again */
    mr_free(file);
    place_clear(&p);
}

static void poke(const char *file, off_t at, uint8_t with) {
    uint8_t byte;
    int fd = open(file, O_RDWR);
    REQUIRE(fd >= 0);
    struct stat info;
    REQUIRE(fstat(fd, &info) == 0);
    if (at < 0) at += info.st_size;
    REQUIRE(pread(fd, &byte, 1, at) == 1);
    byte ^= with;
    REQUIRE(pwrite(fd, &byte, 1, at) == 1);
    close(fd);
}

static void damage_is_seen(void) {
    place p = place_new();
    check_equal(&p, p.kept);
    char *file = kept_file(&p);
    struct stat info;
    REQUIRE(stat(file, &info) == 0);
    /* the head: magic, version, count, index, size, key, hash; weights from the first byte to their last; the index */
    const off_t spots[] = { 0, 8, 12, 16, 24, 32, 100, 256, 256 + 37, 20000, -1, -60, -152, -152 + 112 };
    for (size_t i = 0; i < sizeof spots / sizeof spots[0]; i++) {
        poke(file, spots[i], 1);
        if (is_good(&p)) fail_msg("a changed byte at %lld of %lld was not seen", (long long)spots[i], (long long)info.st_size);
        poke(file, spots[i], 1);
        CHECK(is_good(&p));
    }
    const off_t lengths[] = { 0, 1, 255, 256, 5000, info.st_size - 1 };
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        REQUIRE(truncate(file, lengths[i]) == 0);
        CHECK(!is_good(&p));
        check_equal(&p, p.kept); /* with the damaged file there */
        CHECK(is_good(&p));      /* and made again */
    }
    mr_free(file);
    place_clear(&p);
}

static void other_files_are_seen(void) {
    place p = place_new();
    check_equal(&p, p.kept);
    char *weights = mr_path_join(p.model, "model.safetensors");
    const struct timespec times[2] = { { 1000000000, 0 }, { 1000000000, 5 } };
    REQUIRE(utimensat(AT_FDCWD, weights, times, 0) == 0);
    CHECK(!is_good(&p));
    check_equal(&p, p.kept);
    CHECK(is_good(&p));
    /* as in a hub's cache: the blob's name says what is in it, its time nothing */
    char *blob = mr_asprintf("%s/%064x", p.dir, 7);
    REQUIRE(rename(weights, blob) == 0 && symlink(blob, weights) == 0);
    check_equal(&p, p.kept);
    CHECK(is_good(&p));
    REQUIRE(utimensat(AT_FDCWD, blob, (const struct timespec[2]){ { 5, 0 }, { 5, 0 } }, 0) == 0);
    CHECK(is_good(&p));
    mr_free(blob);
    mr_free(weights);
    place_clear(&p);
}

static void nothing_stands_in_the_way(void) {
    place p = place_new();
    char *file = mr_path_join(p.dir, "file"), *below = mr_path_join(file, "kept");
    mr_err err;
    REQUIRE_OK(mr_file_write(file, "x", 1, &err), err);
    mr_log_set_level(MR_LOG_ERROR);
    check_equal(&p, below); /* no folder can be made there: a warning */
    mr_log_set_level(MR_LOG_INFO);
    check_equal(&p, "off");
    CHECK(!mr_path_exists(p.kept));
    check_equal(&p, "auto"); /* too small to be worth it */
    char *near = mr_path_join(p.model, "medrl.nf4");
    CHECK(!mr_path_exists(near));
    mr_free(near);
    mr_model *m;
    mr_backend *b = tiny_backend(1);
    const mr_model_opts o = { .store = MR_NF4, .compute = MR_F32, .cache = "of" };
    CHECK(mr_model_open(&m, b, p.model, &o, &err) == MR_EINVAL);
    CHECK_CONTAINS(err.msg, "\"of\", want auto, off or a folder");
    mr_backend_close(b);
    mr_free(file);
    mr_free(below);
    place_clear(&p);
}

/* While another process writes the file, this one does not; and a load that fails leaves nothing. */
static void one_writer_and_no_halves(void) {
    place p = place_new();
    mr_err err;
    check_equal(&p, p.kept);
    char *file = kept_file(&p), *tmp = mr_asprintf("%s.tmp", file);
    REQUIRE(unlink(file) == 0);
    int fd = open(tmp, O_RDWR | O_CREAT, 0644);
    REQUIRE(fd >= 0 && flock(fd, LOCK_EX) == 0);
    check_equal(&p, p.kept);
    CHECK(!mr_path_exists(file));
    close(fd);
    check_equal(&p, p.kept); /* what a killed one left behind is no hindrance */
    CHECK(mr_path_exists(file) && !mr_path_exists(tmp));
    REQUIRE(unlink(file) == 0);

    mr_tensors *t;
    mr_cache *c;
    mr_backend *b = tiny_backend(1);
    mr_model *m;
    const mr_model_opts o = { .store = MR_NF4, .compute = MR_F32 };
    REQUIRE_OK(mr_model_open(&m, b, p.model, &o, &err), err);
    REQUIRE_OK(mr_tensors_open(&t, p.model, &err), err);
    REQUIRE_OK(mr_cache_open(&c, p.kept, t, 1, NULL, &err), err);
    mr_cache_put(c, b, m->layers[0].linear[0].w, "one");
    mr_cache_close(c); /* without mr_cache_end */
    CHECK(!mr_path_exists(file) && !mr_path_exists(tmp));
    mr_tensors_close(t);
    mr_model_close(m);
    mr_backend_close(b);
    mr_free(file);
    mr_free(tmp);
    place_clear(&p);
}

TEST_MAIN({ "made_once_and_equal", made_once_and_equal }, { "damage_is_seen", damage_is_seen },
          { "other_files_are_seen", other_files_are_seen }, { "nothing_stands_in_the_way", nothing_stands_in_the_way },
          { "one_writer_and_no_halves", one_writer_and_no_halves })
