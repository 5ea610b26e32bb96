/* Gradients against finite differences, for adapters and for full training, on every architecture. */
#include "tiny.h"

typedef struct loss_case {
    mr_decoder *d;
    tiny_pack k;
    int32_t rows[MAX_ROWS], targets[MAX_ROWS];
    float w[MAX_ROWS];
    int n;
} loss_case;

/* sum of w * logp at temperature 1.25, in double over the rows */
static double loss(loss_case *x) {
    float logp[MAX_ROWS];
    double sum = 0;
    mr_decoder_forward(x->d, &x->k.p);
    mr_decoder_logprobs(x->d, logp, NULL, x->rows, x->targets, x->n, 0.8f);
    for (int i = 0; i < x->n; i++) sum += (double)x->w[i] * (double)logp[i];
    return sum;
}

static void build(loss_case *x, mr_decoder *d) {
    tiny_group g;
    memset(x, 0, sizeof *x);
    x->d = d;
    group_draw(&g, 3, 11, 7, 96, 21);
    group_pack(&g, &x->k);
    for (int c = -1; c < g.size; c++) /* the prompt's own tokens too, as supervised training has them */
        for (int i = 0; i < (c < 0 ? g.n_prompt : g.n[c]); i++) {
            x->rows[x->n] = x->k.spans[1 + c].row0 + i;
            x->targets[x->n] = (int32_t)((x->n * 37 + 5) % 96);
            x->w[x->n] = cosf((float)x->n) + 0.3f;
            x->n++;
        }
}

/* Central differences in the direction of a parameter's own gradient and along two single values. */
static void check_param(loss_case *x, mr_model *m, const mr_param *p) {
    mr_backend *b = mr_model_backend(m);
    int64_t n = p->rows * p->cols;
    float *value = device_copy(b, p->value, n), *grad = device_copy(b, p->grad, n), *moved = device_copy(b, p->value, n);
    double norm = 0;
    int64_t big = 0;
    for (int64_t i = 0; i < n; i++) {
        norm += (double)grad[i] * (double)grad[i];
        if (fabsf(grad[i]) > fabsf(grad[big])) big = i;
    }
    norm = sqrt(norm);
    if (!(norm > 1e-7)) {
        CHECK(strstr(p->name, "k_proj.bias") !=
              NULL); /* a constant shift of all keys changes no softmax, up to the rotation */
        mr_free(value), mr_free(grad), mr_free(moved);
        return;
    }
    double step = 2e-3, diff[2];
    for (int s = 0; s < 2; s++) {
        for (int64_t i = 0; i < n; i++)
            moved[i] = value[i] + (float)((s ? -step : step) * (double)grad[i] / norm);
        device_put(b, p->value, moved, n);
        mr_model_refresh(m);
        diff[s] = loss(x);
    }
    double slope = (diff[0] - diff[1]) / (2 * step);
    if (fabs(slope - norm) > 0.02 * norm + 2e-3) fprintf(stderr, "%s: ", p->name);
    CHECK_NEAR(slope, norm, 0.02 * norm + 2e-3);
    device_put(b, p->value, value, n);
    for (int s = 0; s < 2; s++) {
        device_put(b, p->value + big, &(float){ value[big] + (s ? -1e-2f : 1e-2f) }, 1);
        mr_model_refresh(m);
        diff[s] = loss(x);
    }
    slope = (diff[0] - diff[1]) / 2e-2;
    if (fabs(slope - (double)grad[big]) > 0.03 * fabs((double)grad[big]) + 2e-3)
        fprintf(stderr, "%s[%d]: ", p->name, (int)big);
    CHECK_NEAR(slope, grad[big], 0.03 * fabs((double)grad[big]) + 2e-3);
    device_put(b, p->value, value, n);
    mr_model_refresh(m);
    mr_free(value), mr_free(grad), mr_free(moved);
}

static void run(const char *name, bool full, bool checkpointing) {
    mr_backend *b = tiny_backend(2);
    mr_model_opts o = tiny_opts(true);
    o.full = full;
    if (!full) o.lora = tiny_lora(3);
    mr_model *m = tiny_open(b, name, NULL, o);
    tiny_shake(m, full ? 0.02f : 0.1f);
    mr_decoder *d = tiny_decoder(m, 64, 512, checkpointing);
    mr_decoder_phase(d, MR_PHASE_TRAIN);
    static loss_case x;
    build(&x, d);
    mr_model_zero_grads(m);
    loss(&x);
    mr_decoder_backward(d, &x.k.p, x.rows, x.targets, x.w, x.n, 0.8f);
    int n = 0;
    mr_param *p = mr_model_params(m, &n);
    CHECK(n > 0);
    int64_t total = 0, block = 0;
    for (int i = 0; i < n; i++) {
        total += p[i].rows * p[i].cols;
        bool vector = strstr(p[i].name, "norm") || strstr(p[i].name, ".bias");
        CHECK_INT(p[i].decay, !vector);
        check_param(&x, m, &p[i]);
    }
    float *grads = mr_model_grads(m, &block);
    CHECK(block >= total && grads <= p[0].grad);
    tiny_sync(b);
    mr_decoder_close(d);
    mr_model_close(m);
    mr_backend_close(b);
}

static void lora_qwen2(void) {
    run("tiny_qwen2", false, false);
}
static void lora_qwen3(void) {
    run("tiny_qwen3", false, true);
}
static void lora_smollm2(void) {
    run("tiny_smollm2", false, false);
}
static void full_qwen2(void) {
    run("tiny_qwen2", true, false);
}
static void full_qwen3(void) {
    run("tiny_qwen3", true, false);
}
static void full_llama3(void) {
    run("tiny_llama3", true, true);
}

/* Only some projections: the others keep no pair, and the gradients of those that stay do not change. */
static void some_targets(void) {
    mr_backend *b = tiny_backend(1);
    mr_model_opts o = tiny_opts(true);
    o.lora = tiny_lora(3);
    memset(o.lora.targets, 0, sizeof o.lora.targets);
    o.lora.targets[MR_K_PROJ] = o.lora.targets[MR_V_PROJ] = o.lora.targets[MR_UP_PROJ] = true;
    mr_model *m = tiny_open(b, "tiny_qwen2", NULL, o);
    tiny_shake(m, 0.1f);
    mr_decoder *d = tiny_decoder(m, 64, 512, false);
    mr_decoder_phase(d, MR_PHASE_TRAIN);
    static loss_case x;
    build(&x, d);
    loss(&x);
    mr_decoder_backward(d, &x.k.p, x.rows, x.targets, x.w, x.n, 0.8f);
    int n = 0;
    mr_param *p = mr_model_params(m, &n);
    CHECK_INT(n, 2 * 3 * 2);
    CHECK_STR(p[0].name, "model.layers.0.self_attn.k_proj.lora_A");
    CHECK_STR(p[1].name, "model.layers.0.self_attn.k_proj.lora_B");
    CHECK_STR(p[5].name, "model.layers.0.mlp.up_proj.lora_B");
    CHECK_INT(p[5].rows, 48);
    CHECK_INT(p[5].cols, 3);
    for (int i = 0; i < n; i++) check_param(&x, m, &p[i]);
    tiny_sync(b);
    mr_decoder_close(d);
    mr_model_close(m);
    mr_backend_close(b);
}

/* A fresh adapter is the identity: A within its bounds, B zero, the same logits bit for bit. */
static void fresh_adapter(void) {
    mr_backend *b = tiny_backend(1);
    mr_model_opts o = tiny_opts(true);
    o.lora = tiny_lora(4);
    mr_model *m = tiny_open(b, "tiny_qwen2", NULL, o);
    mr_decoder *d = tiny_decoder(m, 64, 512, false);
    static loss_case x;
    build(&x, d);
    double with = loss(&x);
    mr_model_adapter(m, false);
    CHECK(with == loss(&x));
    mr_model_adapter(m, true);
    int n = 0;
    mr_param *p = mr_model_params(m, &n);
    CHECK_INT(n, 28);
    for (int i = 0; i < n; i++) {
        double most = 0, sum = 0, bound = 1 / sqrt((double)p[i].cols);
        int64_t count = p[i].rows * p[i].cols;
        float *value = device_copy(b, p[i].value, count);
        for (int64_t j = 0; j < count; j++) {
            most = fmax(most, fabs((double)value[j]));
            sum += (double)value[j] * (double)value[j];
        }
        mr_free(value);
        if (i % 2)
            CHECK(most == 0);
        else {
            CHECK(most <= bound && most > 0.9 * bound);
            CHECK_NEAR(sum / (double)count, bound * bound / 3,
                       0.25 * bound * bound / 3); /* variance of a uniform */
        }
    }
    mr_decoder_close(d);
    mr_model_close(m);
    mr_backend_close(b);
}

TEST_MAIN({ "lora_qwen2", lora_qwen2 }, { "lora_qwen3", lora_qwen3 }, { "lora_smollm2", lora_smollm2 },
          { "full_qwen2", full_qwen2 }, { "full_qwen3", full_qwen3 }, { "full_llama3", full_llama3 },
          { "some_targets", some_targets }, { "fresh_adapter", fresh_adapter })
