/* make_model.c - a model folder with random weights, in the shape of a real one: what the seed's job loads where
 * nothing can be fetched.
 *
 *   make_model SHAPE FOLDER [SEED]     SHAPE: qwen2.5-3b (6.2 GB) or tiny (20 MB: the same form, for a try)
 *
 * Writes config.json and model.safetensors (bf16), as transformers would: matrices with standard deviation
 * initializer_range, norms 1, biases 0. A value is a function of the seed, its tensor and its place: the sum of four
 * 16-bit numbers of one hash, near enough to normal. tokenizer.json is a byte-level BPE of Qwen2.5's kind and number of
 * symbols (151,643, then the chat's; half the bytes), so that reading it takes its time; the symbols are letters side by
 * side. Stands on the C library alone: threads fill pieces of 8 MiB and write them where they belong, so that the time
 * is the disk's. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct shape {
    const char *name;
    int hidden, inter, layers, heads, kv_heads, head_dim, vocab;
} shape;

static const shape shapes[] = {
    { "qwen2.5-3b", 2048, 11008, 36, 16, 2, 128, 151936 },
    { "tiny", 64, 192, 2, 4, 2, 16, 151936 },
};

enum { MAX_TENSORS = 1024, PIECE = 4 << 20 /* values */, MAX_THREADS = 64 };

typedef struct tensor {
    char name[96];
    int64_t rows, cols; /* cols 0: a vector */
    enum { MATRIX, ONES, ZEROS } kind;
    int64_t n, at; /* values, and how many lie before them */
} tensor;

static tensor tensors[MAX_TENSORS];
static int n_tensors;
static int64_t n_values;
static uint64_t seed = 3407;
static const float spread = 0.02f; /* initializer_range */

static int file;
static int64_t data_at;
static atomic_long next_piece;
static atomic_int failure; /* errno of the first write that failed */

static void add(const char *name, int64_t rows, int64_t cols, int kind) {
    tensor *t = &tensors[n_tensors++];
    snprintf(t->name, sizeof t->name, "%s", name);
    t->rows = rows, t->cols = cols, t->kind = kind;
    t->n = rows * (cols ? cols : 1);
    t->at = n_values;
    n_values += t->n;
}

static void add_layer(int layer, const char *name, int64_t rows, int64_t cols, int kind) {
    char full[96];
    snprintf(full, sizeof full, "model.layers.%d.%s", layer, name);
    add(full, rows, cols, kind);
}

/* Qwen2.5: tied embedding, biases on q, k and v. */
static void list(const shape *s) {
    const int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    add("model.embed_tokens.weight", s->vocab, s->hidden, MATRIX);
    for (int l = 0; l < s->layers; l++) {
        add_layer(l, "input_layernorm.weight", s->hidden, 0, ONES);
        add_layer(l, "self_attn.q_proj.weight", q, s->hidden, MATRIX);
        add_layer(l, "self_attn.q_proj.bias", q, 0, ZEROS);
        add_layer(l, "self_attn.k_proj.weight", kv, s->hidden, MATRIX);
        add_layer(l, "self_attn.k_proj.bias", kv, 0, ZEROS);
        add_layer(l, "self_attn.v_proj.weight", kv, s->hidden, MATRIX);
        add_layer(l, "self_attn.v_proj.bias", kv, 0, ZEROS);
        add_layer(l, "self_attn.o_proj.weight", s->hidden, q, MATRIX);
        add_layer(l, "post_attention_layernorm.weight", s->hidden, 0, ONES);
        add_layer(l, "mlp.gate_proj.weight", s->inter, s->hidden, MATRIX);
        add_layer(l, "mlp.up_proj.weight", s->inter, s->hidden, MATRIX);
        add_layer(l, "mlp.down_proj.weight", s->hidden, s->inter, MATRIX);
    }
    add("model.norm.weight", s->hidden, 0, ONES);
}

/* --- values --- */

/* splitmix64's finalizer (Steele et al. 2014). */
static uint64_t hash(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static void fill(uint16_t *to, const tensor *t, int64_t from, int64_t n) {
    if (t->kind != MATRIX) {
        for (int64_t i = 0; i < n; i++) to[i] = t->kind == ONES ? 0x3f80 : 0;
        return;
    }
    const uint64_t stream = hash(seed ^ hash((uint64_t)(t - tensors)));
    const float scale = spread / (65536.0f / sqrtf(3.0f)); /* a sum of four has the variance 4 * 65536^2 / 12 */
    for (int64_t i = 0; i < n; i++) {
        uint64_t x = hash(stream + (uint64_t)(from + i));
        int32_t sum = (int32_t)((x & 0xffff) + (x >> 16 & 0xffff) + (x >> 32 & 0xffff) + (x >> 48)) - 131070;
        to[i] = to_bf16((float)sum * scale);
    }
}

/* Values [from, from + n) of the file, which may be those of several tensors. */
static void fill_piece(uint16_t *to, int64_t from, int64_t n) {
    int i = 0;
    while (tensors[i].at + tensors[i].n <= from) i++;
    for (; n > 0; i++) {
        int64_t skip = from - tensors[i].at, take = tensors[i].n - skip < n ? tensors[i].n - skip : n;
        fill(to, &tensors[i], skip, take);
        to += take, from += take, n -= take;
    }
}

static void *work(void *unused) {
    uint16_t *piece = malloc(PIECE * sizeof *piece);
    (void)unused;
    if (!piece) failure = ENOMEM;
    while (!failure) {
        int64_t from = (int64_t)PIECE * next_piece++;
        if (from >= n_values) break;
        int64_t n = n_values - from < PIECE ? n_values - from : PIECE;
        fill_piece(piece, from, n);
        const char *bytes = (const char *)piece;
        for (int64_t done = 0, all = 2 * n; done < all;) {
            ssize_t wrote = pwrite(file, bytes + done, (size_t)(all - done), data_at + 2 * from + done);
            if (wrote < 0) {
                failure = errno;
                break;
            }
            done += wrote;
        }
    }
    free(piece);
    return NULL;
}

/* --- files --- */

static void fail(const char *what, int number) {
    fprintf(stderr, "make_model: %s: %s\n", what, strerror(number));
    exit(1);
}

static FILE *create(const char *dir, const char *name, char path[4096]) {
    snprintf(path, 4096, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    if (!f) fail(path, errno);
    return f;
}

static void write_config(const shape *s, const char *dir) {
    char path[4096];
    FILE *f = create(dir, "config.json", path);
    fprintf(
        f,
        "{ \"model_type\": \"qwen2\", \"architectures\": [\"Qwen2ForCausalLM\"], \"hidden_size\": %d, "
        "\"intermediate_size\": %d,\n"
        "  \"num_hidden_layers\": %d, \"num_attention_heads\": %d, \"num_key_value_heads\": %d, \"vocab_size\": %d,\n"
        "  \"max_position_embeddings\": 32768, \"rope_theta\": 1000000.0, \"rms_norm_eps\": 1e-06, "
        "\"tie_word_embeddings\": true,\n"
        "  \"initializer_range\": 0.02, \"hidden_act\": \"silu\", \"torch_dtype\": \"bfloat16\", "
        "\"use_sliding_window\": false,\n"
        "  \"bos_token_id\": 151643, \"eos_token_id\": 151645 }\n",
        s->hidden, s->inter, s->layers, s->heads, s->kv_heads, s->vocab);
    if (fclose(f)) fail(path, errno);
}

/* The header: eight bytes of its length, names with shapes and places, spaces up to a multiple of eight. */
static void write_header(const char *dir, char path[4096]) {
    FILE *f = create(dir, "model.safetensors", path);
    uint64_t length = 0;
    fwrite(&length, 8, 1, f);
    fprintf(f, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < n_tensors; i++) {
        const tensor *t = &tensors[i];
        fprintf(f, ",\"%s\":{\"dtype\":\"BF16\",\"shape\":[%lld", t->name, (long long)t->rows);
        if (t->cols) fprintf(f, ",%lld", (long long)t->cols);
        fprintf(f, "],\"data_offsets\":[%lld,%lld]}", (long long)(2 * t->at), (long long)(2 * (t->at + t->n)));
    }
    fputc('}', f);
    while (ftell(f) % 8) fputc(' ', f);
    data_at = ftell(f);
    length = (uint64_t)data_at - 8;
    rewind(f);
    fwrite(&length, 8, 1, f);
    if (fclose(f)) fail(path, errno);
}

/* --- the tokenizer --- */

enum { N_SYMBOLS = 151643, FIRST = 33, LAST = 126, LETTERS = 26 }; /* printable ASCII stands for itself */

/* The symbol of a byte as byte-level BPE writes it (GPT-2): itself when it is printable in Latin-1, else 256 and up. */
static int symbol_of(int byte, int *n_others) {
    bool printable = (byte >= FIRST && byte <= LAST) || (byte >= 161 && byte <= 172) || byte >= 174;
    return printable ? byte : 256 + (*n_others)++;
}

static void put_utf8(FILE *f, int c) {
    if (c == '"' || c == '\\') fputc('\\', f);
    if (c < 128)
        fputc(c, f);
    else
        fprintf(f, "%c%c", 0xc0 | c >> 6, 0x80 | (c & 0x3f));
}

/* Symbol `i` in two halves, which are symbols before it: pairs of printable bytes, three letters, four letters. */
static bool halves(long i, char a[4], char b[4]) {
    const long n = LAST - FIRST + 1, n3 = (long)LETTERS * LETTERS * LETTERS;
    memset(a, 0, 4), memset(b, 0, 4);
    if (i < 256) return false;
    if ((i -= 256) < n * n) {
        a[0] = (char)(FIRST + i / n), b[0] = (char)(FIRST + i % n);
    } else if ((i -= n * n) < n3) {
        a[0] = (char)('a' + i / (LETTERS * LETTERS)), a[1] = (char)('a' + i / LETTERS % LETTERS),
        b[0] = (char)('a' + i % LETTERS);
    } else {
        i -= n3;
        a[0] = (char)('a' + i / n3), a[1] = (char)('a' + i / (LETTERS * LETTERS) % LETTERS);
        b[0] = (char)('a' + i / LETTERS % LETTERS), b[1] = (char)('a' + i % LETTERS);
    }
    return true;
}

static void put_text(FILE *f, const char *text) {
    for (; *text; text++) put_utf8(f, *text);
}

static void write_tokenizer(const char *dir) {
    static const char *const chat[] = { "<|endoftext|>", "<|im_start|>", "<|im_end|>" };
    char path[4096], a[4], b[4];
    FILE *f = create(dir, "tokenizer.json", path);
    fprintf(f, "{\"version\":\"1.0\",\"added_tokens\":[");
    for (int i = 0; i < 3; i++)
        fprintf(f,
                "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                "\"normalized\":false,"
                "\"special\":true}",
                i ? "," : "", N_SYMBOLS + i, chat[i]);
    fprintf(
        f,
        "],\n\"normalizer\":{\"type\":\"NFC\"},\n\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
        "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{"
        "L}+|"
        "\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},"
        "\"behavior\":\"Isolated\",\"invert\":false},"
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}]},\n"
        "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},\n"
        "\"model\":{\"type\":\"BPE\",\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":false,\"vocab\":{");
    for (int byte = 0, others = 0; byte < 256; byte++) {
        fputs(byte ? ",\"" : "\"", f);
        put_utf8(f, symbol_of(byte, &others));
        fprintf(f, "\":%d", byte);
    }
    for (long i = 256; i < N_SYMBOLS; i++) {
        halves(i, a, b);
        fputs(",\"", f), put_text(f, a), put_text(f, b);
        fprintf(f, "\":%ld", i);
    }
    fputs("},\n\"merges\":[", f);
    for (long i = 256; i < N_SYMBOLS; i++) {
        halves(i, a, b);
        fputs(i == 256 ? "\"" : ",\"", f), put_text(f, a), fputc(' ', f), put_text(f, b), fputc('"', f);
    }
    fputs("]}}\n", f);
    if (fclose(f)) fail(path, errno);
}

int main(int argc, char **argv) {
    const shape *s = NULL;
    for (size_t i = 0; argc > 2 && i < sizeof shapes / sizeof shapes[0]; i++)
        if (strcmp(argv[1], shapes[i].name) == 0) s = &shapes[i];
    if (!s || argc > 4) {
        fprintf(stderr, "make_model: want a shape (qwen2.5-3b or tiny), a folder and perhaps a seed\n");
        return 2;
    }
    if (argc == 4) seed = strtoull(argv[3], NULL, 10);
    if (mkdir(argv[2], 0777) != 0 && errno != EEXIST) fail(argv[2], errno);
    list(s);
    char path[4096];
    write_config(s, argv[2]);
    write_tokenizer(argv[2]);
    write_header(argv[2], path);
    file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0) fail(path, errno);
    pthread_t threads[MAX_THREADS];
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    if (n > MAX_THREADS) n = MAX_THREADS;
    for (long i = 0; i < n; i++) {
        int e = pthread_create(&threads[i], NULL, work, NULL);
        if (e) fail("a thread", e);
    }
    for (long i = 0; i < n; i++) pthread_join(threads[i], NULL);
    if (!failure && close(file) != 0) failure = errno;
    if (failure) fail(path, failure);
    printf("%s: %.2f billion values in %d tensors\n", path, (double)n_values / 1e9, n_tensors);
    return 0;
}
