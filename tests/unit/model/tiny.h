/* tiny.h - what the tests of the model share: fixtures, packs, sequences step by step. */
#ifndef MR_TINY_H
#define MR_TINY_H

#include <stdlib.h>

#include "base/json.h"
#include "device.h"
#include "model/decoder.h"
#include "test.h"

enum { MAX_ROWS = 1024, MAX_SPANS = 40 };

/* The CPU, or with MEDRL_TEST_DEVICE=cuda the first GPU. */
static inline mr_backend *tiny_backend(int threads) {
    mr_backend *b = NULL;
    mr_err err;
    const char *device = getenv("MEDRL_TEST_DEVICE");
    bool cuda = device && strcmp(device, "cuda") == 0;
    REQUIRE_OK(mr_backend_open(&b, cuda ? MR_CUDA : MR_CPU, 0, threads, &err), err);
    return b;
}

static inline cJSON *tiny_json(const char *path) {
    cJSON *root = NULL;
    mr_err err;
    REQUIRE_OK(mr_json_load(&root, path, (size_t)64 << 20, &err), err);
    return root;
}

static inline const cJSON *at(const cJSON *obj, const char *key) {
    const cJSON *x = cJSON_GetObjectItemCaseSensitive(obj, key);
    if (!x) fail_msg("fixture: no \"%s\"", key);
    return x;
}

static inline double num_at(const cJSON *list, int i) {
    return cJSON_GetArrayItem(list, i)->valuedouble;
}

/* Little-endian f32 values in base64; owned. */
static inline float *tiny_floats(const cJSON *item, int64_t *n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *s = item->valuestring;
    size_t len = strlen(s), out = 0;
    uint8_t *bytes = mr_alloc(len);
    uint32_t bits = 0;
    int have = 0;
    for (size_t i = 0; i < len && s[i] != '='; i++) {
        bits = bits << 6 | (uint32_t)(strchr(digits, s[i]) - digits);
        have += 6;
        if (have >= 8) {
            have -= 8;
            bytes[out++] = (uint8_t)(bits >> have);
        }
    }
    if (n) *n = (int64_t)(out / sizeof(float));
    return (float *)bytes;
}

static inline mr_model_opts tiny_opts(bool train) {
    return (mr_model_opts){ .store = MR_F32, .compute = MR_F32, .train = train };
}

static inline mr_model *tiny_open(mr_backend *b, const char *name, const char *adapter, mr_model_opts o) {
    mr_model *m = NULL;
    mr_err err;
    char path[512], dir[512];
    snprintf(path, sizeof path, "%s/tiny/%s", MR_GOLDEN, name);
    snprintf(dir, sizeof dir, "%s/tiny/%s", MR_GOLDEN, adapter ? adapter : "");
    if (adapter) REQUIRE_OK(mr_adapter_peek(&o.lora, dir, &err), err);
    REQUIRE_OK(mr_model_open(&m, b, path, &o, &err), err);
    if (adapter) REQUIRE_OK(mr_adapter_load(m, dir, &err), err);
    return m;
}

/* An adapter with both halves nonzero, from a seed. */
static inline void tiny_shake(mr_model *m, float size) {
    int n = 0;
    mr_param *p = mr_model_params(m, &n);
    mr_backend *b = mr_model_backend(m);
    uint32_t state = 12345;
    for (int i = 0; i < n; i++) {
        int64_t count = p[i].rows * p[i].cols;
        float *host = device_copy(b, p[i].value, count);
        for (int64_t j = 0; j < count; j++) {
            state = state * 1664525u + 1013904223u;
            host[j] += size * ((float)(state >> 8) / 8388608.0f - 1.0f);
        }
        device_put(b, p[i].value, host, count);
        mr_free(host);
    }
    mr_model_refresh(m);
}

static inline mr_lora_opts tiny_lora(int r) {
    mr_lora_opts o = { .r = r, .lora_alpha = 2.0f * (float)r, .seed = 7 };
    for (int p = 0; p < MR_N_PROJ; p++) o.targets[p] = true;
    return o;
}

static inline mr_decoder *tiny_decoder(mr_model *m, int rows, int slots, bool checkpointing) {
    mr_decoder *d = NULL;
    mr_err err;
    mr_decoder_opts o = { .rollout_rows = rows,
                          .rollout_slots = slots,
                          .train_rows = mr_model_options(m)->train ? rows : 0,
                          .train_slots = slots,
                          .head_rows = 7,
                          .gradient_checkpointing = checkpointing };
    REQUIRE_OK(mr_decoder_open(&d, m, &o, &err), err);
    return d;
}

static inline void tiny_sync(mr_backend *b) {
    mr_err err;
    REQUIRE_OK(b->sync(b, &err), err);
}

typedef struct tiny_pack {
    int32_t ids[MAX_ROWS], pos[MAX_ROWS], slots[MAX_ROWS];
    mr_span spans[MAX_SPANS];
    int32_t next_slot;
    mr_pack p;
} tiny_pack;

static inline void pack_clear(tiny_pack *k) {
    memset(k, 0, sizeof *k);
    k->p = (mr_pack){ .ids = k->ids, .pos = k->pos, .slots = k->slots, .spans = k->spans };
}

/* Adds a whole sequence: ids[n] behind the span `prefix` (-1: none). Returns its span's index. */
static inline int pack_add(tiny_pack *k, const int32_t *ids, int n, int prefix) {
    int row0 = k->p.n_rows, index = k->p.n_spans++;
    REQUIRE(row0 + n <= MAX_ROWS && index < MAX_SPANS);
    mr_span s = { .row0 = row0, .n_rows = n, .slot0 = k->next_slot };
    int pos0 = 0;
    if (prefix >= 0) {
        s.prefix_slot0 = k->spans[prefix].slot0;
        s.n_prefix = k->spans[prefix].n_rows;
        s.prefix_row0 = k->spans[prefix].row0;
        pos0 = s.n_prefix;
    }
    for (int i = 0; i < n; i++) {
        k->ids[row0 + i] = ids[i];
        k->pos[row0 + i] = pos0 + i;
        k->slots[row0 + i] = s.slot0 + i;
    }
    k->spans[index] = s;
    k->p.n_rows += n;
    k->next_slot = (s.slot0 + n + MR_KV_CHUNK - 1) / MR_KV_CHUNK * MR_KV_CHUNK;
    return index;
}

/* A group as GRPO has it, its targets and the rows that predict them. */
typedef struct tiny_group {
    int32_t prompt[256], completions[16][64];
    int n_prompt, n[16], size;
} tiny_group;

static inline void group_draw(tiny_group *g, int size, int n_prompt, int n_most, int vocab, uint32_t seed) {
    memset(g, 0, sizeof *g);
    g->size = size;
    g->n_prompt = n_prompt;
    for (int i = 0; i < n_prompt; i++) g->prompt[i] = (int32_t)((seed = seed * 1664525u + 1013904223u) >> 8) % vocab;
    for (int c = 0; c < size; c++) {
        g->n[c] = 1 + (int)((seed = seed * 1664525u + 1013904223u) >> 8) % n_most;
        for (int i = 0; i < g->n[c]; i++)
            g->completions[c][i] = (int32_t)((seed = seed * 1664525u + 1013904223u) >> 8) % vocab;
    }
}

typedef struct tiny_targets {
    int32_t rows[MAX_ROWS], targets[MAX_ROWS];
    int n;
} tiny_targets;

/* [prompt | c1 ... cG]; targets in the order of completions, but sorted by row: the prompt's last row comes first. */
static inline void group_pack(const tiny_group *g, tiny_pack *k) {
    pack_clear(k);
    int prompt = pack_add(k, g->prompt, g->n_prompt, -1);
    for (int c = 0; c < g->size; c++) pack_add(k, g->completions[c], g->n[c], prompt);
}

/* Targets of completion c of a packed group. */
static inline void group_targets(const tiny_group *g, const tiny_pack *k, int c, tiny_targets *t) {
    t->n = g->n[c];
    for (int i = 0; i < t->n; i++) {
        t->rows[i] = i == 0 ? g->n_prompt - 1 : k->spans[1 + c].row0 + i - 1;
        t->targets[i] = g->completions[c][i];
    }
}

static inline void train_logps(mr_decoder *d, const tiny_group *g, float out[16][64]) {
    static tiny_pack k;
    tiny_targets t;
    mr_decoder_phase(d, MR_PHASE_TRAIN);
    group_pack(g, &k);
    mr_decoder_forward(d, &k.p);
    for (int c = 0; c < g->size; c++) {
        group_targets(g, &k, c, &t);
        mr_decoder_logprobs(d, out[c], NULL, t.rows, t.targets, t.n, 1.0f);
    }
}

/* As a rollout does it: the prompt in pieces, then all live completions one token a forward, the token given. */
static inline void decode_logps(mr_decoder *d, const tiny_group *g, int piece, float out[16][64]) {
    static tiny_pack k;
    mr_decoder_phase(d, MR_PHASE_ROLLOUT);
    int prompt_slots = (g->n_prompt + MR_KV_CHUNK - 1) / MR_KV_CHUNK * MR_KV_CHUNK;
    for (int past = 0; past < g->n_prompt; past += piece) {
        int n = g->n_prompt - past < piece ? g->n_prompt - past : piece;
        pack_clear(&k);
        for (int i = 0; i < n; i++) {
            k.ids[i] = g->prompt[past + i];
            k.pos[i] = k.slots[i] = past + i;
        }
        k.spans[0] = (mr_span){ .n_rows = n, .past = past };
        k.p.n_rows = n;
        k.p.n_spans = 1;
        mr_decoder_forward(d, &k.p);
        if (past + n < g->n_prompt) continue;
        for (int c = 0; c < g->size; c++) {
            int32_t row = n - 1;
            mr_decoder_logprobs(d, &out[c][0], NULL, &row, &g->completions[c][0], 1, 1.0f);
        }
    }
    for (int t = 0;; t++) {
        int32_t rows[16], targets[16];
        int who[16], live = 0;
        pack_clear(&k);
        for (int c = 0; c < g->size; c++) {
            if (t + 1 >= g->n[c]) continue;
            int slot0 = prompt_slots + c * MR_KV_CHUNK;
            k.ids[live] = g->completions[c][t];
            k.pos[live] = g->n_prompt + t;
            k.slots[live] = slot0 + t;
            k.spans[live] = (mr_span){ .row0 = live, .n_rows = 1, .past = t, .slot0 = slot0, .n_prefix = g->n_prompt };
            rows[live] = live;
            targets[live] = g->completions[c][t + 1];
            who[live++] = c;
        }
        if (!live) break;
        k.p.n_rows = k.p.n_spans = live;
        mr_decoder_forward(d, &k.p);
        float logp[16];
        mr_decoder_logprobs(d, logp, NULL, rows, targets, live, 1.0f);
        for (int i = 0; i < live; i++) out[who[i]][t + 1] = logp[i];
    }
}

static inline void check_same(const tiny_group *g, float a[16][64], float b[16][64], const char *what) {
    int differ = 0;
    for (int c = 0; c < g->size; c++)
        for (int i = 0; i < g->n[c]; i++)
            if (memcmp(&a[c][i], &b[c][i], sizeof(float)) != 0 && differ++ == 0)
                fprintf(stderr, "%s: completion %d token %d: %.9g and %.9g\n", what, c, i, (double)a[c][i],
                        (double)b[c][i]);
    CHECK_INT(differ, 0);
}

static inline bool finite_logps(const tiny_group *g, float a[16][64]) {
    for (int c = 0; c < g->size; c++)
        for (int i = 0; i < g->n[c]; i++)
            if (!isfinite(a[c][i]) || a[c][i] >= 0.0f) return false;
    return true;
}

#endif
