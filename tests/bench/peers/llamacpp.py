"""llama.cpp on the same model: prompt processing of 256 tokens, and batched decoding of 1, 6 and 24 sequences that
share a prompt of 128, at positions 128 to 224; what `medrl bench` measures.

  python llamacpp.py MODEL.gguf [--threads 2] [--repeats 5] -> one line of JSON

Through the batch API of llama-cpp-python (pip install --no-binary llama-cpp-python llama-cpp-python): one
llama_decode a step, logits of every sequence, no sampling. MODEL.gguf is first written as bf16 (norms f32) into the
temporary folder by the package gguf, since bf16 is what medrl computes in. Decoding is measured with one shared
cache (the prompt's cells belong to all sequences) and with one cache a sequence; the faster one counts. A rate of
decoding is n divided by the median time of a step.
"""
import argparse
import ctypes
import json
import os
import pathlib
import random
import statistics
import tempfile
import time

import gguf
import llama_cpp as lib
import numpy

PREFILL, PROMPT, STEPS = 256, 128, 96


def bf16_copy(path):
    """The path of the same model with bf16 matrices."""
    out = pathlib.Path(tempfile.gettempdir()) / (pathlib.Path(path).stem + ".medrl-bench-bf16.gguf")
    if out.exists() and out.stat().st_mtime > os.stat(path).st_mtime:
        return str(out)
    reader = gguf.GGUFReader(path)
    part = out.with_suffix(".part")
    writer = gguf.GGUFWriter(str(part), reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = field.types[0]
        value = int(gguf.LlamaFileType.MOSTLY_BF16) if name == "general.file_type" else field.contents()
        writer.add_key_value(name, value, kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    bf16 = gguf.GGMLQuantizationType.BF16
    for t in reader.tensors:
        data = gguf.dequantize(t.data, t.tensor_type).astype(numpy.float32)
        if data.ndim == 1:
            writer.add_tensor(t.name, data)
        else:
            writer.add_tensor(t.name, gguf.quantize(data, bf16), raw_dtype=bf16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(out)
    return str(out)


class Run:
    def __init__(self, path, threads, unified):
        lib.llama_backend_init()
        # keeps the library's loading report off the terminal; the callback must outlive the run
        self.silent = lib.llama_log_callback(lambda level, text, data: None)
        lib.llama_log_set(self.silent, ctypes.c_void_p(0))
        self.model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        params = lib.llama_context_default_params()
        params.n_seq_max = 24
        params.n_ctx = PREFILL + 24 * (STEPS + 32) if unified else 24 * PREFILL
        params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = unified
        self.ctx = lib.llama_init_from_model(self.model, params)
        if not self.ctx:
            raise SystemExit("llama.cpp: no context")
        self.batch = lib.llama_batch_init(512, 0, 1)
        self.memory = lib.llama_get_memory(self.ctx)

    def decode(self, rows):
        """rows: (token, position, sequence, wants logits)."""
        b = self.batch
        b.n_tokens = len(rows)
        for i, (token, pos, seq, logits) in enumerate(rows):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = token, pos, 1, logits
            b.seq_id[i][0] = seq
        if lib.llama_decode(self.ctx, b) != 0:
            raise SystemExit("llama.cpp: llama_decode failed")
        lib.llama_synchronize(self.ctx)

    def prefill(self, n):
        lib.llama_memory_clear(self.memory, True)
        rows = [(random.randrange(17, 49152), i, 0, i == n - 1) for i in range(n)]
        begin = time.perf_counter()
        self.decode(rows)
        return n / (time.perf_counter() - begin)

    def steps(self, n):
        self.prefill(PROMPT)
        for seq in range(1, n):
            lib.llama_memory_seq_cp(self.memory, 0, seq, -1, -1)
        seconds = []
        for t in range(STEPS):  # the first step also carries out the copies of the prompt; the median passes over it
            rows = [(random.randrange(17, 49152), PROMPT + t, seq, True) for seq in range(n)]
            begin = time.perf_counter()
            self.decode(rows)
            seconds.append(time.perf_counter() - begin)
        return n / statistics.median(seconds)

    def close(self):
        lib.llama_batch_free(self.batch)
        lib.llama_free(self.ctx)
        lib.llama_model_free(self.model)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("gguf")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    path = bf16_copy(args.gguf)
    result = {"peer": f"llama-cpp-python {lib.__version__} bf16", "threads": args.threads, "repeats": args.repeats}
    for unified in (True, False):
        run = Run(path, args.threads, unified)
        run.prefill(PREFILL)  # warms up
        found = {"prefill_256_tok_s": statistics.median(run.prefill(PREFILL) for _ in range(args.repeats))}
        for n in (1, 6, 24):
            found[f"decode_{n}_tok_s"] = run.steps(n)
        run.close()
        for key, value in found.items():
            result[key] = max(result.get(key, 0), round(value, 1))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
