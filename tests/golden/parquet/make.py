#!/usr/bin/env python3
"""Writes types.parquet, the codec_*.parquet, the odd_*.parquet and rows.json beside it: made-up rows, by pyarrow 26.0.1. (The
*_like.parquet and expected.json were written by Hugging Face datasets, in the layouts of the real data sets.)

rows.json is what pyarrow reads back (Table.to_pylist), with the conversions that runtime/files/parquet.h promises: dates and
times as text, integers beyond 2**53 as digits, NaN and infinities as null.
"""
import datetime as d
import json
import math
import os

import pyarrow as pa
import pyarrow.parquet as pq

here = os.path.dirname(os.path.abspath(__file__))
out = {}


def moment(x, unit, utc):
    """x: a count of units since 1970."""
    a_second = {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    seconds, rest = divmod(x, a_second)
    text = (d.datetime(1970, 1, 1) + d.timedelta(seconds=seconds)).isoformat()
    return text + (".%0*d" % (len(str(a_second)) - 1, rest) if rest else "") + ("Z" if utc else "")


def plain(x, t):
    if x is None:
        return None
    if pa.types.is_struct(t):
        return {f.name: plain(x[f.name], f.type) for f in t}
    if pa.types.is_list(t):
        return [plain(y, t.value_type) for y in x]
    if pa.types.is_floating(t):
        return float(x) if math.isfinite(x) else None
    if pa.types.is_integer(t):
        return x if abs(x) <= 2**53 else str(x)
    if pa.types.is_date(t) or pa.types.is_time(t):
        return x.isoformat() if "." not in str(x) or t.unit != "ms" else x.isoformat()[:-3]
    return x


def write(name, table, **options):
    pq.write_table(table, os.path.join(here, name + ".parquet"), **options)
    rows = []
    columns = [(f.name, f.type) for f in pq.read_table(os.path.join(here, name + ".parquet")).schema]
    data = {n: pq.read_table(os.path.join(here, name + ".parquet"))[n] for n, _ in columns}
    for i in range(table.num_rows):
        row = {}
        for n, t in columns:
            if pa.types.is_timestamp(t):
                raw = data[n].cast(pa.int64())[i].as_py()
                row[n] = None if raw is None else moment(raw, t.unit, t.tz is not None)
            else:
                row[n] = plain(data[n][i].as_py(), t)
        rows.append(row)
    out[name] = rows


def types():
    parts = pa.struct([("contexts", pa.list_(pa.string())), ("n", pa.int32())])
    turn = pa.struct([("role", pa.string()), ("content", pa.string()), ("marks", pa.list_(pa.float64()))])
    schema = pa.schema([
        ("b", pa.bool_()), ("i8", pa.int8()), ("i16", pa.int16()), ("i32", pa.int32()), ("i64", pa.int64()),
        ("u8", pa.uint8()), ("u16", pa.uint16()), ("u32", pa.uint32()), ("u64", pa.uint64()),
        ("h", pa.float16()), ("f", pa.float32()), ("d", pa.float64()), ("s", pa.string()),
        ("day", pa.date32()), ("ms", pa.timestamp("ms")), ("us", pa.timestamp("us", tz="UTC")), ("ns", pa.timestamp("ns")),
        ("t32", pa.time32("ms")), ("t64", pa.time64("us")),
        ("parts", parts), ("turns", pa.list_(turn)), ("grid", pa.list_(pa.list_(pa.int64()))),
        pa.field("must", pa.string(), nullable=False), ("nothing", pa.null()), ("key \"é\"", pa.string()),
    ])
    full = {
        "b": True, "i8": -128, "i16": 32767, "i32": -2147483648, "i64": 2**53, "u8": 255, "u16": 65535, "u32": 4294967295,
        "u64": 2**64 - 1, "h": 0.5, "f": 0.1, "d": 0.1, "s": "a \"quote\"\n\ttab \\ \u00e9 \U0001f600 \x7f",
        "day": d.date(2024, 2, 29), "ms": d.datetime(1969, 12, 31, 23, 59, 59, 999000), "us": d.datetime(2024, 1, 31, 9, 30),
        "ns": d.datetime(2024, 12, 1, 0, 0, 0, 5), "t32": d.time(23, 59, 59, 999000), "t64": d.time(0, 0, 1, 5),
        "parts": {"contexts": ["one", None, ""], "n": 3},
        "turns": [{"role": "user", "content": "hi", "marks": [1.5, None, -2.0]}, None, {"role": None, "content": "", "marks": []}],
        "grid": [[1, 2], [], None, [-(2**53) - 1]], "must": "here", "nothing": None, "key \"é\"": "x",
    }
    empty = {f.name: None for f in schema} | {"must": ""}
    other = full | {
        "b": False, "d": math.inf, "f": math.nan, "h": -math.inf, "i64": -(2**63), "u64": 2**53 + 1, "day": d.date(1, 1, 1),
        "ms": d.datetime(2000, 3, 1), "ns": d.datetime(1900, 2, 28, 1, 2, 3, 400000), "t32": d.time(0), "parts": {"contexts": None, "n": None},
        "turns": [], "grid": [], "s": "",
    }
    rows = [full, empty, other, full, empty]
    write("types", pa.Table.from_pylist(rows, schema=schema), row_group_size=2)


def codecs():
    rows = [{"id": i, "text": "row %d " % i + "abc " * (i % 7), "list": [None if k == 3 else "x%d" % k for k in range(i % 5)],
             "s": None if i % 4 == 1 else {"a": i / 4, "l": list(range(i % 3))}} for i in range(60)]
    table = pa.Table.from_pylist(rows)
    write("codec_none", table, compression="none", use_dictionary=False)
    write("codec_gzip", table, compression="gzip", row_group_size=7)
    write("codec_zstd_v2", table, compression="zstd", data_page_version="2.0", write_page_index=True)
    write("codec_lz4_v2", table, compression="lz4", data_page_version="2.0", use_dictionary=False)
    write("codec_snappy_checksums", table, compression="snappy", write_page_checksum=True, data_page_size=64)


def odd():
    from decimal import Decimal
    for name, values, t in [
        ("decimal", [Decimal("1.50")], pa.decimal128(10, 2)), ("binary", [b"\x89PNG"], pa.binary()),
        ("fixed", [b"12345678"], pa.binary(8)), ("map", [[("a", 1)]], pa.map_(pa.string(), pa.int64())),
    ]:
        inner = pa.StructArray.from_arrays([pa.array(values, t)], ["it"])
        pq.write_table(pa.table({"q": ["text"], "a": inner}), os.path.join(here, "odd_%s.parquet" % name))
    pq.write_table(pa.table({"q": ["text"]}), os.path.join(here, "odd_brotli.parquet"), compression="brotli")
    pq.write_table(pa.table({"q": [d.datetime(2024, 1, 1)]}), os.path.join(here, "odd_int96.parquet"), use_deprecated_int96_timestamps=True)
    pq.write_table(pa.table([["a"], ["b"]], names=["q", "q"]), os.path.join(here, "odd_twice.parquet"))
    pq.write_table(pa.table(
        {"q": pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"ok\xff"))}),
        os.path.join(here, "odd_latin1.parquet"))
    pq.write_table(pa.table({"q": pa.array([], pa.string())}), os.path.join(here, "odd_empty.parquet"))


types()
codecs()
odd()
with open(os.path.join(here, "rows.json"), "w") as f:
    json.dump(out, f, ensure_ascii=False, indent=0)
