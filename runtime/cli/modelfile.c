/* modelfile.c - see modelfile.h. */
#include "cli/modelfile.h"

#include <stdio.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/json.h"

static const char chatml[] = "{{- range .Messages }}<|im_start|>{{ .Role }}\n"
                             "{{ .Content }}<|im_end|>\n"
                             "{{ end }}<|im_start|>assistant\n";
static const char llama3[] = "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n"
                             "{{ .Content }}<|eot_id|>{{ end }}<|start_header_id|>assistant<|end_header_id|>\n\n";

/* Text between three quotes cannot hold three quotes: false then, and nothing is written. */
static bool put_block(mr_str *s, const char *head, const char *text) {
    if (strstr(text, "\"\"\"") || mr_ends_with(text, "\"")) {
        mr_str_printf(s, "# %s is left out: it holds quotes that a Modelfile has no way to write\n", head);
        return false;
    }
    mr_str_printf(s, "%s \"\"\"%s\"\"\"\n", head, text);
    return true;
}

mr_status mr_modelfile_write(const char *dir, const char *gguf, const mr_parts *p, mr_err *err) {
    const char *template = mr_tokenizer_template(p->tokenizer);
    mr_str s = { 0 };
    mr_str_printf(&s, "FROM ./%s\n", gguf);
    if (template && strstr(template, "<|im_start|>"))
        put_block(&s, "TEMPLATE", chatml);
    else if (template && strstr(template, "<|start_header_id|>"))
        put_block(&s, "TEMPLATE", llama3);
    else
        mr_str_puts(&s,
                    "# No TEMPLATE: the chat format is neither ChatML nor Llama 3's; the GGUF holds the original.\n");
    int n;
    const int32_t *stops = mr_tokenizer_stops(p->tokenizer, &n);
    for (int i = 0; i < n; i++) {
        const char *symbol = mr_tokenizer_symbol(p->tokenizer, stops[i]);
        if (!symbol) continue;
        mr_str_puts(&s, "PARAMETER stop ");
        mr_json_put_string(&s, symbol, strlen(symbol));
        mr_str_puts(&s, "\n");
    }
    if (p->system) put_block(&s, "SYSTEM", p->system);
    for (int i = 0; i < p->n_shots; i++) {
        char head[40];
        snprintf(head, sizeof head, "MESSAGE %.20s", p->shots[i].role);
        put_block(&s, head, p->shots[i].content);
    }
    char *path = mr_path_join(dir, "Modelfile");
    mr_status st = mr_file_write(path, s.data, s.len, err);
    mr_free(path);
    mr_str_clear(&s);
    return st;
}
