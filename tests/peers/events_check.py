#!/usr/bin/env python3
"""events_check.py RUN: what TensorBoard's own reader makes of RUN/tensorboard, against every number of RUN/metrics.jsonl.

An optional extra, no part of the test suite: it wants the package tensorboard, and says so when that is absent. Make a run with
--set grpo.report_to=tensorboard, better one that was killed and resumed. Exit code 1: a number differs, lacks or stands twice."""
import json
import struct
import sys

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError:
    sys.exit("skip: the package tensorboard is not installed")

run = sys.argv[1]
events = EventAccumulator(run + "/tensorboard", size_guidance={"scalars": 0})
events.Reload()
read = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
written = {}
for line in open(run + "/metrics.jsonl"):
    metrics = json.loads(line)
    for key, value in metrics.items():
        if key == "step" or isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        tag = key if key.startswith("eval/") else "train/" + key
        written.setdefault(tag, []).append((metrics["step"], struct.unpack("f", struct.pack("f", value))[0]))
wrong = [tag for tag in sorted(set(read) | set(written)) if read.get(tag) != written.get(tag)]
for tag in wrong:
    print("FAIL", tag, "TensorBoard:", (read.get(tag) or [])[:3], "metrics.jsonl:", (written.get(tag) or [])[:3])
print("%d of %d names with %d numbers are the same" % (len(written) - len(wrong), len(written), sum(map(len, written.values()))))
sys.exit(bool(wrong))
