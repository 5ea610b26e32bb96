/* fuzz_template.c - chat templates in Jinja: compiled, or refused by line; the output is what it was before then. */
#include "fuzz.h"
#include "text/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mr_str lua = { 0 };
    mr_err err;
    mr_str_puts(&lua, "--");
    if (mr_jinja_compile(&lua, (const char *)data, size, "x.jinja", &err) != MR_OK) {
        fuzz_refused(err.msg, "x.jinja");
        PROMISE(lua.len == 2, "a refused template left %zu bytes", lua.len - 2);
    } else
        fuzz_accepted();
    mr_str_clear(&lua);
    return 0;
}
