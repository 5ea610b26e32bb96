/* Bytes and operations of a pass, worked out by hand for a model of one layer, and the counts of a real job that are
 * known from elsewhere. */
#include "model/cost.h"

#include "test.h"

/* 4 channels, 2 heads of 3, 1 key head, F = 5, V = 10: q [6,4], k and v [3,4], o [4,6], gate, up [5,4], down [4,5] */
static mr_config small(void) {
    return (mr_config){ .hidden_size = 4,
                        .intermediate_size = 5,
                        .num_hidden_layers = 1,
                        .num_attention_heads = 2,
                        .num_key_value_heads = 1,
                        .head_dim = 3,
                        .vocab_size = 10,
                        .tie_word_embeddings = true };
}
enum { LINEARS = 24 + 12 + 12 + 24 + 20 + 20 + 20, TABLE = 40 };

static void forward_by_hand(void) {
    mr_config c = small();
    mr_model_opts o = { .store = MR_F32, .compute = MR_F32 };
    /* a prompt of 3, one row of logits: pairs 1 + 2 + 3 */
    mr_pass p = { .head_rows = 1, .kv_token_bytes = 24 };
    mr_pass_group(&p, 1, 3, 0, 0);
    CHECK_NEAR(p.rows, 3, 0);
    CHECK_NEAR(p.pairs, 6, 0);
    CHECK_NEAR(p.keys, 3, 0);
    mr_cost x = mr_cost_pass(&c, &o, &p);
    CHECK_NEAR(x.flops, 2 * 3 * LINEARS + 4 * 6 * 6 + 2 * TABLE, 0);
    CHECK_NEAR(x.bytes, 4 * LINEARS + (3 + 3) * 24 + 3 * 4 * 4 + 4 * TABLE + 2 * 10 * 4, 0);
    /* stored in 4 bit with 16-bit tables; LoRA r = 2 on v [3,4] and down [4,5]: 14 and 18 values */
    o = (mr_model_opts){ .store = MR_NF4, .compute = MR_BF16, .lora = { .r = 2 } };
    o.lora.targets[MR_V_PROJ] = o.lora.targets[MR_DOWN_PROJ] = true;
    mr_cost y = mr_cost_pass(&c, &o, &p);
    CHECK_NEAR(y.flops - x.flops, 2 * 3 * 32, 0);
    CHECK_NEAR(y.bytes, 0.515869140625 * LINEARS + 2 * 32 + 6 * 24 + 3 * 4 * 2 + 2 * TABLE + 80, 1e-9);
}

static void backward_by_hand(void) {
    mr_config c = small();
    mr_model_opts o = { .store = MR_BF16, .compute = MR_BF16, .train = true, .lora = { .r = 2 } };
    o.lora.targets[MR_V_PROJ] = o.lora.targets[MR_DOWN_PROJ] = true;
    /* a prompt of 3 and two completions of 2 rows each: pairs 6 + 2 * (6 + 3), 7 rows, 6 targets */
    mr_pass p = { .head_rows = 6, .kv_token_bytes = 12 };
    mr_pass_group(&p, 1, 3, 2, 2);
    CHECK_NEAR(p.pairs, 24, 0);
    mr_cost f = mr_cost_pass(&c, &o, &p);
    p.backward = true;
    mr_cost b = mr_cost_pass(&c, &o, &p);
    /* inputs but those of q, k, v (48 weights, and v's A of 8 values); adapters twice; 5 products instead of 2 */
    CHECK_NEAR(b.flops - f.flops, 2 * 7 * (LINEARS - 48) + 2 * 7 * (2 * 32 - 8) + 10 * 24 * 6 + 4 * 6 * TABLE, 0);
    CHECK_NEAR(b.bytes - f.bytes, 2 * LINEARS + 2 * 32 + 7 * 12 + 2 * 2 * TABLE + 4 * 6 * 10 * 4 + 2 * 32 * 4, 0);
    p.checkpointing = true;
    mr_cost k = mr_cost_pass(&c, &o, &p);
    CHECK_NEAR(k.flops - b.flops, 2 * 7 * (LINEARS - 20 + 14) + 4 * 24 * 6, 0);
    CHECK_NEAR(k.bytes - b.bytes, 2 * (LINEARS - 20) + 2 * 14 + 14 * 12, 0);
    /* 32 trained values: gradient 8, value 8, 8-bit states 4, copy 4 + 2 */
    CHECK_NEAR(mr_cost_update(&c, &o, 2).bytes, 32 * 26, 0);
}

/* The shape that the rival's figures are for: 3.0e9 * 2 operations a token forward, weights of 1.43 GB in NF4. */
static void of_3b(void) {
    mr_config c;
    mr_err err;
    REQUIRE_OK(mr_config_named(&c, "qwen2.5-3b", &err), err);
    mr_model_opts o = { .store = MR_NF4, .compute = MR_BF16 };
    mr_cost x = mr_cost_pass(&c, &o, &(mr_pass){ .rows = 1 });
    CHECK_NEAR(x.flops, 2 * 2.7747e9, 1e6);
    CHECK_NEAR(x.bytes, 0.515869140625 * 2774532096 + 2 * 2048, 1);
    o.lora.r = 64;
    for (int i = 0; i < MR_N_PROJ; i++) o.lora.targets[i] = true;
    CHECK_NEAR((mr_cost_pass(&c, &o, &(mr_pass){ .rows = 1 }).bytes - x.bytes) / 2, 119734272, 0.5);
    /* one head row: the table in 16 bits, logits written and read */
    CHECK_NEAR(mr_cost_pass(&c, &o, &(mr_pass){ .head_rows = 1 }).bytes -
                   mr_cost_pass(&c, &o, &(mr_pass){ .head_rows = 0 }).bytes,
               2.0 * 151936 * 2048 + 8.0 * 151936, 0.5);
}

TEST_MAIN({ "forward_by_hand", forward_by_hand }, { "backward_by_hand", backward_by_hand }, { "of_3b", of_3b })
