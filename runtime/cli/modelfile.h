/* modelfile.h - the Modelfile that makes a GGUF a model of Ollama: `ollama create NAME -f DIR/Modelfile`. */
#ifndef MR_MODELFILE_H
#define MR_MODELFILE_H

#include "cli/parts.h"

/* dir/Modelfile for the file beside it: stop tokens, the chat format in Ollama's words where it is ChatML's or Llama
 * 3's, the run's system prompt and example messages. p: tokenizer, system and shots are used. */
mr_status mr_modelfile_write(const char *dir, const char *gguf, const mr_parts *p, mr_err *err);

#endif
