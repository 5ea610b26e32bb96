/* fuzz_adapter.c - adapter_config.json of a PEFT folder, and config.json of a model; the first byte chooses. Accepted: options within the
 * ranges that the model's code relies on. */
#include "base/log.h"
#include "fuzz.h"
#include "model/config.h"
#include "model/model.h"

static void adapter(const uint8_t *data, size_t size) {
    mr_lora_opts o;
    mr_err err;
    fuzz_file("adapter_config.json", data, size);
    if (mr_adapter_peek(&o, FUZZ_DIR, &err) != MR_OK) {
        fuzz_refused(err.msg, "adapter_");
        return;
    }
    fuzz_accepted();
    PROMISE(o.r >= 1 && o.r <= 4096, "r = %d was accepted", o.r);
    PROMISE(o.lora_alpha >= 0 && o.lora_alpha <= 65536, "lora_alpha = %g was accepted", (double)o.lora_alpha);
}

static void model(const uint8_t *data, size_t size) {
    mr_config c;
    mr_err err;
    fuzz_file("config.json", data, size);
    if (mr_config_load(&c, FUZZ_DIR, NULL, &err) != MR_OK) {
        fuzz_refused(err.msg, "config.json");
        return;
    }
    fuzz_accepted();
    PROMISE(c.num_hidden_layers >= 1 && c.num_key_value_heads >= 1 && c.num_attention_heads >= c.num_key_value_heads &&
                c.num_attention_heads % c.num_key_value_heads == 0 && c.hidden_size >= 1 && c.vocab_size >= 1 && c.head_dim >= 2 &&
                c.head_dim <= 512 && c.head_dim % 2 == 0,
            "a model of %d layers, %d heads, %d kv heads was accepted", c.num_hidden_layers, c.num_attention_heads, c.num_key_value_heads);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mr_log_set_level(MR_LOG_ERROR); /* unknown settings are warnings */
    if (!size) return 0;
    if (data[0] % 2 == 0)
        adapter(data + 1, size - 1);
    else
        model(data + 1, size - 1);
    return 0;
}
