#!/usr/bin/env python3
"""Makes a Parquet file of the size and shape of PubMedQA's pqa_artificial (211,269 rows), for data_bench: made-up words, Snappy, and the
row groups that `datasets` writes. Needs pyarrow (a virtual environment with `pip install pyarrow`); nothing else of medrl does.

    pubmedqa_parquet.py FILE [ROWS [ROWS_IN_A_GROUP]]
    build/tests/data_bench FILE        # twice: the first start makes the row cache, the second finds it
"""
import random
import sys

import pyarrow as pa
import pyarrow.parquet as pq

if len(sys.argv) < 2:
    sys.exit(__doc__)
rows = int(sys.argv[2]) if len(sys.argv) > 2 else 211269
group = int(sys.argv[3]) if len(sys.argv) > 3 else 1000
draw = random.Random(7)
words = ["".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(draw.randint(2, 11))) for _ in range(30000)]
texts = pa.list_(pa.string())
schema = pa.schema([
    ("pubid", pa.int32()), ("question", pa.string()),
    ("context", pa.struct([("contexts", texts), ("labels", texts), ("meshes", texts)])),
    ("long_answer", pa.string()), ("final_decision", pa.string()),
])


def text(n):
    return " ".join(draw.choices(words, k=n))


def row(i):
    parts = draw.randint(2, 5)
    return {
        "pubid": i, "question": text(14) + "?",
        "context": {"contexts": [text(draw.randint(25, 70)) for _ in range(parts)],
                    "labels": ["BACKGROUND", "METHODS", "RESULTS", "CONCLUSIONS", "OBJECTIVE"][:parts],
                    "meshes": ["Humans", "Adult", "Female", draw.choice(words)]},
        "long_answer": text(35), "final_decision": draw.choice(["yes", "yes", "no"]),
    }


with pq.ParquetWriter(sys.argv[1], schema, compression="snappy") as out:
    for at in range(0, rows, group):
        part = [row(i) for i in range(at, min(at + group, rows))]
        out.write_table(pa.Table.from_pylist(part, schema=schema), row_group_size=group)
