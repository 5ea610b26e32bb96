"use strict";
// The page of `medrl report`. All that a model or a data set wrote comes to the screen through textContent.
(() => {
  let D = JSON.parse(document.getElementById("data").textContent);
  const page = document.getElementById("page");
  const state = { hidden: new Set(), smooth: null, group: 1e9, set: "", order: "sampled", only: "", find: "",
    hover: null };
  const COLORS = [0, 1, 2, 3, 4, 5, 6, 7].map(i => `var(--c${i})`);
  const KINDS = {
    reload: ["var(--c2)", "reload"], set: ["var(--c6)", "setting"], fault: ["var(--bad)", "fault"],
    pause: ["var(--warn)", "pause"], warning: ["var(--warn)", "warning"], checkpoint: ["var(--soft)", "checkpoint"],
    stop: ["var(--soft)", "stop"], start: ["var(--soft)", "start"], "go on": ["var(--good)", "goes on"],
    attach: ["var(--c5)", "attach"], eval: ["var(--c0)", "evaluation"],
  };

  // ---- elements ----
  function fill(e, attrs, kids) {
    for (const [k, v] of Object.entries(attrs || {})) {
      if (v == null || v === false) continue;
      if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
      else e.setAttribute(k, v === true ? "" : v);
    }
    for (const kid of kids.flat(9)) if (kid != null && kid !== false) e.append(kid);
    return e;
  }
  const h = (tag, attrs, ...kids) => fill(document.createElement(tag), attrs, kids);
  const s = (tag, attrs, ...kids) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attrs, kids);
  const colored = (e, c, what) => { e.style[what || "color"] = c; return e; };

  // ---- numbers ----
  const ok = x => typeof x === "number" && isFinite(x);
  function num(x, digits) {
    if (!ok(x)) return "–";
    const a = Math.abs(x);
    if (a === 0) return "0";
    if (a >= 1e6) return (x / 1e6).toFixed(2) + "M";
    if (a >= 1e4) return (x / 1e3).toFixed(1) + "k";
    if (a < 1e-3) return x.toExponential(1);
    return String(+x.toPrecision(digits || 3));
  }
  function pct(x) {
    const p = 100 * x;
    return !ok(x) ? "–" : (p === 0 || (p >= 9.95 && p < 99.5) || p >= 100 ? p.toFixed(0) : p >= 99.5 ? p.toFixed(1)
      : String(+p.toPrecision(2))) + " %";
  }
  const usd = x => ok(x) ? (x < 0.01 && x > 0 ? "< $0.01" : "$" + x.toFixed(2)) : "–";
  function span(sec) {
    if (!ok(sec)) return "–";
    if (sec < 90) return sec.toFixed(sec < 10 ? 1 : 0) + " s";
    if (sec < 5400) return (sec / 60).toFixed(0) + " min";
    const m = Math.round(sec / 60);
    return `${Math.floor(m / 60)} h ${m % 60} min`;
  }
  const at = key => D.series[key];
  const last = key => { const v = at(key); if (v) for (let i = v.length - 1; i >= 0; i--) if (ok(v[i])) return v[i]; };
  const has = key => { const v = at(key); return !!v && v.some(ok); };
  function mean(values) { const v = values.filter(ok); return v.length ? v.reduce((a, b) => a + b,
    0) / v.length : NaN; }
  const ends = key => { const v = (at(key) || []).filter(ok), n = Math.max(1, Math.min(10, v.length >> 3));
    return [mean(v.slice(0, n)), mean(v.slice(-n))]; };

  function smoothed(v) {
    if (!v || state.smooth <= 0) return v;
    const keep = state.smooth, out = [];
    let m = 0, w = 0;
    for (const x of v) { // an average whose weights fade, without the pull of its start
      if (ok(x)) { m = keep * m + (1 - keep) * x; w = keep * w + (1 - keep); }
      out.push(ok(x) ? m / w : null);
    }
    return out;
  }

  // ---- charts ----
  const charts = [];
  function ticks(lo, hi, n) {
    const raw = (hi - lo) / n, p = Math.pow(10, Math.floor(Math.log10(raw))), f = raw / p;
    const step = (f < 1.5 ? 1 : f < 3.5 ? 2 : f < 7.5 ? 5 : 10) * p, out = [];
    for (let x = Math.ceil(lo / step - 1e-9) * step; x <= hi + step * 1e-9; x += step)
      out.push(Math.abs(x) < step * 1e-6 ? 0 : +x.toPrecision(12));
    return out;
  }
  function line(xs, ys, X, Y, dots) {
    let d = "", pen = false, single = "";
    for (let i = 0; i < xs.length; i++) {
      if (!ok(ys[i])) { if (!dots) pen = false; continue; }
      d += (pen ? "L" : "M") + X(xs[i]).toFixed(1) + " " + Y(ys[i]).toFixed(1);
      if (!pen) single = d;
      pen = true;
    }
    return d === single && d ? d + "h0.1" : d;
  }
  function band(xs, lo, hi, X, Y) {
    const i = xs.map((_, k) => k).filter(k => ok(lo[k]) && ok(hi[k]));
    if (i.length < 2) return "";
    return "M" + i.map(k => X(xs[k]).toFixed(1) + " " + Y(hi[k]).toFixed(1)).join("L") + "L" +
      i.reverse().map(k => X(xs[k]).toFixed(1) + " " + Y(lo[k]).toFixed(1)).join("L") + "Z";
  }

  // o: title, note, lines: [{ key, label, color, band: [lo, hi] as arrays, dots, plain }],
  //    min, max, format, wide, marks
  function chart(o) {
    const lines = o.lines.filter(l => has(l.key));
    if (!lines.length) return null;
    lines.forEach((l, i) => { l.color = l.color || COLORS[i % COLORS.length]; l.format = l.format || o.format ||
      num; });
    const svg = s("svg", { role: "img", "aria-label": o.title });
    const values = new Map(), legend = h("div", { class: "legend" });
    for (const l of lines) {
      const v = h("span", { class: "v" });
      values.set(l.key, v);
      const b = h("button", { type: "button", title: "show or hide " + l.label, onclick: () => {
        const id = o.title + l.key;
        if (!state.hidden.delete(id)) state.hidden.add(id);
        draw();
      } }, colored(h("i"), l.color, "background"), h("span", { class: "n" }, l.label), v);
      l.button = b;
      legend.append(b);
    }
    const xs = D.steps;
    let geometry = null;
    function draw() {
      const W = Math.max(200, svg.clientWidth || 360), H = svg.clientHeight || 176, left = 44, right = 10, top = 8,
        bottom = 22;
      const shown = lines.filter(l => !state.hidden.has(o.title + l.key));
      lines.forEach(l => l.button.classList.toggle("off", !shown.includes(l)));
      let lo = Infinity, hi = -Infinity;
      const see = v => { for (const x of v) if (ok(x)) { if (x < lo) lo = x; if (x > hi) hi = x; } };
      shown.forEach(l => { see(at(l.key)); if (l.band) { see(l.band[0]); see(l.band[1]); } });
      if (!(hi >= lo)) { lo = 0; hi = 1; }
      if (o.min != null) lo = Math.min(lo, o.min);
      if (o.max != null) hi = Math.max(hi, o.max);
      if (hi - lo < 1e-12) { const pad = Math.abs(hi) * 0.1 || 0.5; lo -= o.min != null &&
        lo === o.min ? 0 : pad; hi += pad; }
      const pad = (hi - lo) * 0.05;
      if (!(o.min != null && lo >= o.min)) lo -= pad;
      if (!(o.max != null && hi <= o.max)) hi += pad;
      const x0 = xs.length ? xs[0] : 0, x1 = Math.max(xs.length ? xs[xs.length - 1] : 1, x0 + 1);
      const X = x => left + (x - x0) / (x1 - x0) * (W - left - right),
        Y = y => H - bottom - (y - lo) / (hi - lo) * (H - top - bottom);
      svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
      svg.replaceChildren();
      for (const y of ticks(lo, hi, H > 190 ? 5 : 4)) svg.append(
        s("line", { class: "grid", x1: left, x2: W - right, y1: Y(y), y2: Y(y) }),
        s("text", { class: "tick", x: left - 7, y: Y(y) + 4, "text-anchor": "end" }, (o.format || num)(y)));
      for (const x of ticks(x0, x1, W > 500 ? 8 : 4)) if (Number.isInteger(x)) svg.append(
        s("text", { class: "tick", x: X(x), y: H - 5, "text-anchor": "middle" }, String(x)));
      for (const m of marks()) {
        const [color] = KINDS[m.kind] || ["var(--soft)"];
        const x = X(Math.max(x0, Math.min(x1, m.step)));
        const small = m.kind === "checkpoint", r = o.wide ? 4.5 : 3;
        svg.append(colored(s("g", { opacity: small ? 0.35 : o.wide ? 0.9 : 0.6 },
          small ? null : s("line", { x1: x, x2: x, y1: top, y2: H - bottom, stroke: "currentColor", "stroke-width": 1,
            "stroke-dasharray": "2 4", opacity: o.wide ? 0.6 : 0.45 }),
          s("path", { d: small ? `M${x} ${H - bottom}v-5` : `M${x} ${top - r - 1}l${r} ${r}l${-r} ${r}l${-r} ${-r}z`,
            fill: "currentColor", stroke: small ? "currentColor" : "none" }),
          s("title", {}, `step ${m.step}: ${m.text}`)), color));
      }
      for (const l of shown) {
        const raw = at(l.key), v = l.plain || l.dots ? raw : smoothed(raw);
        const g = colored(s("g", { fill: "none", stroke: "currentColor", "stroke-linejoin": "round",
          "stroke-linecap": "round" }), l.color);
        if (l.band) g.append(s("path", { d: band(xs, l.plain || l.dots ? l.band[0] : smoothed(l.band[0]),
          l.plain || l.dots ? l.band[1] : smoothed(l.band[1]), X, Y), fill: "currentColor", stroke: "none",
            opacity: 0.13 }));
        if (v !== raw) g.append(s("path", { d: line(xs, raw, X, Y, l.join), "stroke-width": 1, opacity: 0.2 }));
        g.append(s("path", { d: line(xs, v, X, Y, l.dots || l.join), "stroke-width": 2 }));
        if (l.dots) raw.forEach((y, i) => ok(y) && g.append(
          s("circle", { cx: X(xs[i]), cy: Y(y), r: 3.4, fill: "var(--card)", "stroke-width": 2 })));
        svg.append(g);
      }
      geometry = { X, Y, W, H, left, right, top, bottom, x0, x1 };
      cross();
    }
    function cross() {
      for (const old of svg.querySelectorAll(".cross, .here")) old.remove();
      const i = state.hover;
      for (const l of lines) {
        const raw = at(l.key), v = i == null ? last(l.key) : raw[i];
        values.get(l.key).textContent = l.format(v);
      }
      if (i == null || !geometry || i >= xs.length) return;
      const { X, Y, H, top, bottom } = geometry, x = X(xs[i]);
      svg.append(s("line", { class: "cross", x1: x, x2: x, y1: top, y2: H - bottom }));
      for (const l of lines) if (!state.hidden.has(o.title + l.key) && ok(at(l.key)[i])) {
        const v = l.plain || l.dots ? at(l.key) : smoothed(at(l.key));
        svg.append(colored(s("circle", { class: "here", cx: x, cy: Y(v[i]), r: 3.5, fill: "currentColor" }), l.color));
      }
    }
    const pick = e => {
      if (!geometry || !xs.length) return;
      const box = svg.getBoundingClientRect(), px = (e.clientX - box.left) / box.width * geometry.W;
      const share = (px - geometry.left) / (geometry.W - geometry.left - geometry.right);
      const x = geometry.x0 + share * (geometry.x1 - geometry.x0);
      let a = 0, b = xs.length - 1;
      while (a < b) { const m = (a + b) >> 1; if (xs[m] < x) a = m + 1; else b = m; }
      if (a > 0 && Math.abs(xs[a - 1] - x) < Math.abs(xs[a] - x)) a--;
      hover(a);
    };
    svg.addEventListener("pointermove", pick);
    svg.addEventListener("pointerdown", pick);
    svg.addEventListener("pointerleave", () => hover(null));
    svg.addEventListener("dblclick", () => { if (state.hover != null) show(xs[state.hover]); });
    charts.push({ draw, cross });
    return h("section", { class: "card chart" + (o.wide ? " wide" : "") }, h("h3", {}, o.title),
      o.note ? h("p", {}, o.note) : null, legend, svg);
  }
  let stepLabel = null;
  function hover(i) {
    if (state.hover === i) return;
    state.hover = i;
    charts.forEach(c => c.cross());
    if (stepLabel) stepLabel.textContent = i == null ? "values: of the last step" : "values: of step " + D.steps[i];
  }
  let marked = null;
  function marks() {
    if (marked) return marked;
    const seen = new Set();
    marked = [];
    for (const e of D.events) {
      if (["start", "stop", "script", "attach", "eval"].includes(e.kind)) continue;
      const id = e.kind + e.step;
      if (seen.has(id)) continue; // one mark for all faults of a step
      seen.add(id);
      marked.push(e);
    }
    return marked;
  }

  // ---- the head ----
  function tile(label, value, detail, cls) {
    return h("div", { class: "tile" }, h("span", {}, label), h("b", { class: cls }, value), h("span", {}, detail));
  }
  function tiles() {
    const out = [], [r0, r1] = ends("reward"), steps = D.steps.length ? D.steps[D.steps.length - 1] : 0;
    if (ok(r1)) out.push(tile("mean reward", num(r1),
      `from ${num(r0)}, ${r1 >= r0 ? "+" : "−"}${num(Math.abs(r1 - r0))}`,
      r1 > r0 ? "up" : r1 < r0 ? "down" : ""));
    else if (has("loss")) out.push(tile("loss", num(last("loss")), `from ${num(ends("loss")[0])}`));
    if (has("eval/accuracy")) {
      const v = at("eval/accuracy").filter(ok);
      out.push(tile("eval accuracy", pct(v[v.length - 1]), `best ${pct(Math.max(...v))} of ${v.length} evaluations`));
    }
    out.push(tile("steps", String(steps), D.max_steps ? `of ${D.max_steps}` : " "));
    const run = last("time/run_s");
    out.push(tile("time", span(run != null ? run : (at("step_time") || []).filter(ok).reduce((a, b) => a + b, 0)),
      `${num(ends("step_time")[1])} s a step`));
    if (has("cost/usd")) out.push(tile("cost", usd(last("cost/usd")), usd(last("cost/usd") / Math.max(1,
      steps) * 1000) +
      " per 1,000 steps"));
    if (has("time/tokens_per_s")) out.push(tile("sampling", num(ends("time/tokens_per_s")[1]), "tokens a second"));
    if (has("completions/mean_length")) out.push(tile("answer length", num(ends("completions/mean_length")[1]),
      `tokens; ${pct(ends("completions/clipped_ratio")[1])} cut off`));
    const faults = (at("rewards/faults") || []).filter(ok).reduce((a, b) => a + b, 0);
    if (faults) out.push(tile("reward faults", num(faults), "calls that failed", "down"));
    return h("div", { class: "tiles" }, out);
  }
  function head() {
    const run = D.config.run || {}, m = D.config.model || {}, l = D.config.lora;
    const st = D.status || {};
    const theme = h("button", { class: "btn", type: "button", onclick: () => {
      const dark = document.documentElement.dataset.theme
        ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      document.documentElement.dataset.theme = dark ? "light" : "dark";
      charts.forEach(c => c.draw());
    } }, "light / dark");
    return h("header", {}, h("div", { class: "row" }, h("div", {},
      h("h1", {}, D.name, " ", h("span", { class: "badge " + (st.state || "") }, st.state || "recorded")),
      h("p", {}, [m.name, l && l.r ? `LoRA r=${l.r}` : "", run.recipe, run.device].filter(Boolean).join(" · ")),
      st.text ? h("p", {}, st.text) : null), theme), tiles());
  }

  // ---- the parts ----
  const named = (prefix, suffix) => Object.keys(D.series).filter(k => k.startsWith(prefix) && k.endsWith(suffix) &&
    k.length > prefix.length + suffix.length && has(k)).map(k => ({ key: k, label: k.slice(prefix.length,
      -suffix.length) }));
  function curves() {
    charts.length = 0;
    marked = null;
    if (state.smooth == null) state.smooth = D.steps.length > 400 ? 0.92 : D.steps.length > 60 ? 0.8 : 0;
    const rewards = named("rewards/", "/mean"), sets = named("data/", "/reward").map(l => ({ ...l, join: true })),
      evals = named("eval/", "/accuracy");
    const r = at("reward"), sd = at("reward_std");
    const around = r && sd ? [r.map((x, i) => ok(x) && ok(sd[i]) ? x - sd[i] : null),
      r.map((x, i) => ok(x) && ok(sd[i]) ? x + sd[i] : null)] : null;
    const all = [
      chart({ title: "Reward",
        note: "mean of all completions of a step; the band is one standard deviation within groups",
        wide: true, lines: [{ key: "reward", label: "reward", band: around }] }),
      chart({ title: "Rewards by name", wide: rewards.length > 3, lines: rewards, min: 0 }),
      chart({ title: "Reward by data set", lines: sets }),
      chart({ title: "Evaluation", note: "greedy accuracy on data.eval, with its 95 % interval", format: pct, min: 0,
        lines: [
        { key: "eval/accuracy", label: "all", dots: true, band: at("eval/accuracy_low") &&
          [at("eval/accuracy_low"), at("eval/accuracy_high")] },
        ...evals.map((e, i) => ({ ...e, dots: true, color: COLORS[(i + 1) % 8] })),
        { key: "eval/invalid_ratio", label: "invalid", dots: true, color: "var(--bad)" }] }),
      chart({ title: "Answer length", note: "tokens; the band goes from the shortest to the longest", min: 0, lines: [
        { key: "completions/mean_length", label: "mean", band: has("completions/min_length") &&
          [at("completions/min_length"), at("completions/max_length")] },
        { key: "completions/mean_terminated_length", label: "of those that ended" }] }),
      chart({ title: "Wasted", note: "shares: cut at the longest length, groups without a difference, repeated answers",
        format: pct, min: 0, max: 1, lines: [
          { key: "completions/clipped_ratio", label: "cut off", color: "var(--c1)" },
          { key: "frac_reward_zero_std", label: "no difference", color: "var(--c2)" },
          { key: "completions/duplicate_ratio", label: "duplicates", color: "var(--c4)" }] }),
      chart({ title: "KL", note: "to the base model", lines: [{ key: "kl", label: "kl", color: "var(--c3)" }] }),
      chart({ title: "Entropy", note: "nats a token; near 0 the policy no longer tries anything", min: 0,
        lines: [{ key: "entropy", label: "entropy", color: "var(--c6)" }] }),
      chart({ title: "Clipping", note: "share of tokens whose ratio was clipped", format: pct, min: 0, lines: [
        { key: "clip_ratio/region_mean", label: "both" }, { key: "clip_ratio/low_mean", label: "low" },
        { key: "clip_ratio/high_mean", label: "high" }] }),
      chart({ title: "Gradient norm", note: "before clipping", min: 0,
        lines: [{ key: "grad_norm", label: "norm", color: "var(--c4)" }] }),
      chart({ title: "Loss", note: has("reward") ? "near 0 by construction: look at the reward" : "",
        lines: [{ key: "loss", label: "loss", color: "var(--c1)" }] }),
      chart({ title: "Learning rate", min: 0, lines: [{ key: "learning_rate", label: "rate", plain: true,
        color: "var(--c5)" }] }),
      chart({ title: "Speed", note: "generated tokens a second, while sampling", min: 0,
        lines: [{ key: "time/tokens_per_s", label: "tokens/s" }] }),
      chart({ title: "Seconds a step", min: 0, lines: [
        { key: "step_time", label: "step", color: "var(--c0)" }, { key: "time/rollout_s", label: "sampling",
          color: "var(--c2)" },
        { key: "time/train_s", label: "training", color: "var(--c1)" }, { key: "time/score_s", label: "rewards",
          color: "var(--c3)" }] }),
      chart({ title: "Cost", note: "dollars so far", min: 0, format: x => ok(x) ? "$" + num(x) : "–",
        lines: [{ key: "cost/usd", label: "dollars", plain: true, color: "var(--c7)" }] }),
      chart({ title: "Reward faults", note: "calls of rewards that failed in a step", min: 0,
        lines: (at("rewards/faults") || []).some(x => x > 0) ? [{ key: "rewards/faults", label: "faults", plain: true,
          color: "var(--bad)" }] : [] }),
    ].filter(Boolean);
    const slider = h("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: state.smooth,
      oninput: e => { state.smooth = +e.target.value; charts.forEach(c => c.draw()); } });
    stepLabel = h("small", {}, "values: of the last step");
    const kinds = [...new Set(marks().map(m => m.kind))];
    return h("section", {}, h("h2", {}, "Curves", stepLabel, h("label", {}, "smoothing", slider)),
      all.length ? h("div", { class: "charts" }, all) : h("p", { class: "empty" }, "no step is recorded yet"),
      kinds.length ? h("div", { class: "marks" }, kinds.map(k => h("span", {},
        colored(h("i"), (KINDS[k] || ["var(--soft)"])[0], "background"), (KINDS[k] || [0, k])[1]))) : null);
  }

  function evaluation() {
    const e = D.eval;
    if (!e || !Array.isArray(e.sets)) return null;
    const sides = ["model", "base", "tuned"].filter(k => e.all && e.all[k]);
    const color = { model: "var(--c0)", base: "var(--soft)", tuned: "var(--c0)" };
    const rows = [];
    for (const set of [...e.sets, e.sets.length === 1 ? null : { ...e.all, name: "all" }].filter(Boolean))
      sides.forEach((side, i) => {
        const v = set[side], bar = colored(h("div", { class: "bar" }), color[side]);
        const iv = h("i"), dot = h("b");
        iv.style.left = 100 * v.low + "%";
        iv.style.width = 100 * (v.high - v.low) + "%";
        dot.style.left = 100 * v.accuracy + "%";
        bar.append(iv, dot);
        rows.push(h("tr", {}, h("td", {}, i ? "" : set.name), h("td", {}, side), h("td", { class: "num" },
          pct(v.accuracy)),
          h("td", {}, bar), h("td", { class: "num" }, pct(v.invalid_ratio)),
          h("td", { class: "num" }, i ? "" : set.judged), h("td", {}, i || set.became_right == null ? "" :
            `${set.became_right} became right, ${set.became_wrong} wrong (p = ${num(set.p_value, 2)})`)));
      });
    return h("section", {}, h("h2", {}, "Evaluation", h("small", {}, e.data)), h("div", { class: "card scroll" },
      h("table", { class: "whole" }, h("tr", {}, h("th", {}, "data set"), h("th"), h("th", { class: "num" }, "right"),
        h("th", {}, "95 % interval"),
        h("th", { class: "num" }, "invalid"), h("th", { class: "num" }, "rows"), h("th", {},
          sides.length > 1 ? "flips" : "")), rows)));
  }

  // ---- samples ----
  let browser = null;
  function chosen() {
    const find = state.find.toLowerCase();
    return D.groups.filter(g => (!state.set || g.source === state.set) &&
      (state.only !== "cut" || g.c.some(c => c.cut)) && (state.only !== "fault" || g.c.some(c => c.faults)) &&
      (state.only !== "differ" || new Set(g.c.map(c => c.reward)).size > 1) &&
      (!find || (g.prompt + "\n" + g.answer).toLowerCase().includes(find) ||
        g.c.some(c => c.text.toLowerCase().includes(find))));
  }
  function show(step) {
    const list = chosen();
    let best = 0;
    list.forEach((g, i) => { if (Math.abs(g.step - step) < Math.abs(list[best].step - step)) best = i; });
    state.group = best;
    paint();
    browser.scrollIntoView({ behavior: "smooth" });
  }
  // Tags in color, what stands in the answer marked.
  function pretty(text) {
    const out = [];
    let i = 0, inside = false;
    for (const m of text.matchAll(/<\/?(reasoning|answer|think)>/g)) {
      const between = text.slice(i, m.index);
      const parts = inside && between.match(/^(\s*)(\S[^]*?)(\s*)$/); // white space is not part of the answer
      if (parts) out.push(parts[1], h("mark", {}, parts[2]), parts[3]);
      else if (between) out.push(between);
      out.push(h("span", { class: "tag" }, m[0]));
      if (m[1] === "answer") inside = m[0][1] !== "/";
      i = m.index + m[0].length;
    }
    out.push(text.slice(i));
    return h("pre", {}, out);
  }
  // What the last answer block of a text holds.
  function said(text) {
    const open = text.lastIndexOf("<answer>"), close = open < 0 ? -1 : text.indexOf("</answer>", open);
    return close < 0 ? null : text.slice(open + 8, close).trim();
  }
  function completion(c, most, gold) {
    const answer = said(c.text);
    const chips = D.rewards.map((name, i) => {
      const v = c.r[i], top = D.reward_max[i], bad = c.faults && c.faults.includes(name);
      if (v == null && !bad) return null; // it had no opinion
      return h("span", { class: "chip" + (bad ? " fault" : v > 0 && v >= top ? " full" : v === 0 ? " zero" : "") },
        name + " ", h("b", {}, bad ? "failed" : num(v)));
    });
    const a = h("i"), share = most > 0 && ok(c.adv) ? Math.min(1, Math.abs(c.adv) / most) : 0;
    a.style.width = 50 * share + "%";
    a.style.left = (c.adv >= 0 ? 50 : 50 - 50 * share) + "%";
    a.style.background = c.adv >= 0 ? "var(--good)" : "var(--bad)";
    const same = answer != null && gold && answer.toLowerCase() === gold.toLowerCase();
    return h("article", { class: "answer" }, h("div", { class: "row" }, h("span", { class: "total" }, num(c.reward)),
      answer != null ? h("span", { class: "said" + (same ? " up" : "") }, answer.length > 60 ? answer.slice(0,
        60) + "…" : answer)
        : h("span", { class: "said soft" }, "no answer"),
      h("span", { class: "soft" },
        `advantage ${ok(c.adv) ? (c.adv > 0 ? "+" : "") + num(c.adv) : "–"} · ${c.n} tokens`),
      c.cut ? h("span", { class: "chip fault" }, "cut off") : null),
      h("div", { class: "adv", title: "advantage within its group" }, a), h("div", { class: "chips" }, chips),
        pretty(c.text));
  }
  function paint() {
    const list = chosen(), keep = browser.querySelector(".found");
    state.group = Math.max(0, Math.min(list.length - 1, state.group));
    const g = list[state.group];
    keep.replaceChildren();
    browser.querySelector(".where").textContent =
      g ? `step ${g.step} · group ${state.group + 1} of ${list.length}` : "";
    const slider = browser.querySelector("input[type=range]");
    slider.max = Math.max(0, list.length - 1);
    slider.value = state.group;
    slider.disabled = list.length < 2;
    browser.querySelector(".prev").disabled = state.group <= 0;
    browser.querySelector(".next").disabled = state.group >= list.length - 1;
    if (!g) return void keep.append(h("p", { class: "empty" },
      D.groups.length ? "nothing fits" : "no sample is recorded yet"));
    const cs = [...g.c], most = Math.max(...cs.map(c => Math.abs(c.adv) || 0));
    if (state.order === "best") cs.sort((a, b) => (b.reward || 0) - (a.reward || 0));
    if (state.order === "worst") cs.sort((a, b) => (a.reward || 0) - (b.reward || 0));
    keep.append(h("div", { class: "row soft" }, g.source ? h("span", { class: "chip" }, g.source) : null,
      "row " + (g.row + 1),
      g.answer ? h("span", {}, "answer ", h("span", { class: "gold" }, g.answer)) : null),
      h("details", { open: g.prompt.length < 700 }, h("summary", {}, "prompt"), h("pre", { class: "asked" }, g.prompt)),
      h("div", { class: "answers" }, cs.map(c => completion(c, most, g.answer))));
  }
  function samples() {
    const pick = (value, options, set) => h("select", { onchange: e => { set(e.target.value); paint(); } },
      options.map(([v, label]) => h("option", { value: v, selected: v === value }, label)));
    const sets = [...new Set(D.groups.map(g => g.source))].sort();
    const go = d => { state.group += d; paint(); };
    browser = h("section", {}, h("h2", {}, "Samples", h("small", {}, D.groups.length < D.n_groups
      ? `${D.groups.length} of ${D.n_groups} groups, evenly spaced; samples.jsonl has all` : `${D.n_groups} groups`)),
      h("div", { class: "card", tabindex: 0, onkeydown: e => {
        if (e.target.matches("input, select, summary")) return;
        if (e.key === "ArrowLeft" || e.key === "ArrowRight") { e.preventDefault(); go(e.key === "ArrowLeft" ? -1 : 1); }
      } }, h("div", { class: "row nav" },
        sets.length > 1 ? pick(state.set, [["", "all data sets"], ...sets.map(x => [x, x || "(no name)"])],
          v => { state.set = v; }) : null,
        pick(state.order, [["sampled", "as sampled"], ["best", "best first"], ["worst", "worst first"]],
          v => { state.order = v; }),
        pick(state.only, [["", "all groups"], ["differ", "with a difference"], ["cut", "with one cut off"],
          ["fault", "with a fault"]], v => { state.only = v; }),
        h("input", { type: "search", placeholder: "find in texts", value: state.find, "aria-label": "find in texts",
          oninput: e => { state.find = e.target.value; paint(); } })),
      h("div", { class: "row nav" }, h("button", { class: "btn prev", type: "button", onclick: () => go(-1) }, "←"),
        h("input", { type: "range", min: 0, "aria-label": "group",
          oninput: e => { state.group = +e.target.value; paint(); } }),
        h("button", { class: "btn next", type: "button", onclick: () => go(1) }, "→"), h("span",
          { class: "where soft" })),
      h("div", { class: "found group" })));
    return browser;
  }

  // ---- events and settings ----
  function events() {
    const list = D.events.filter(e => e.kind !== "script");
    if (!list.length) return null;
    const row = e => { const [color, label] = KINDS[e.kind] || ["var(--soft)", e.kind];
      return h("tr", {}, h("td", { class: "num" }, e.step), h("td", { class: "kind" }, colored(h("span",
        { class: "dot" }), color, "background"),
        label), h("td", {}, e.text)); };
    const first = list.slice(0, 12), rest = list.slice(12);
    const headers = () => h("tr", {}, h("th", { class: "num" }, "step"), h("th", {}, "what"), h("th"));
    return h("section", {}, h("h2", {}, "What happened", h("small", {}, D.n_events > list.length
      ? `${list.length} of ${D.n_events} events; events.jsonl has all` : "")), h("div", { class: "card scroll" },
      h("table", {}, headers(), first.map(row)),
      rest.length ? h("details", {}, h("summary", {}, `${rest.length} more`), h("table", {}, headers(),
        rest.map(row))) : null));
  }
  function settings() {
    return h("section", {}, h("h2", {}, "Settings"), h("div", { class: "card" }, h("details", {}, h("summary", {},
      "everything that the run was started with (config.json)"), h("pre", {}, JSON.stringify(D.config, null, 2)))));
  }

  function render() {
    document.title = D.name + " · medrl";
    const open = [...page.querySelectorAll("details")].map(d => d.open);
    page.replaceChildren(head(), curves(), evaluation() || "", samples(), events() || "", settings(), h("footer", {},
      `medrl ${(D.config.run || {}).medrl || ""} · made ${new Date(1000 * D.made).toLocaleString()}` +
      " · one file, nothing is fetched · double-click a curve to see samples of that step"));
    paint();
    if (open.length) [...page.querySelectorAll("details")].forEach((d,
      i) => { if (open[i] != null) d.open = open[i]; });
    charts.forEach(c => c.draw());
    const root = document.documentElement; // whether it fits the window, for the test in a browser
    root.dataset.fits = String(root.scrollWidth <= root.clientWidth);
  }
  render();
  let wide = page.clientWidth;
  addEventListener("resize", () => {
    if (page.clientWidth === wide) return;
    wide = page.clientWidth;
    charts.forEach(c => c.draw());
  });

  // Served by `medrl report --serve`: ask for what is new. A page that is a file asks nobody.
  if (location.protocol === "http:" && D.served) {
    let tag = D.served;
    let held = false; // a knob is being turned, a text typed: what is there stays for now
    addEventListener("pointerdown", () => { held = true; });
    addEventListener("pointerup", () => { held = false; });
    const again = async () => {
      const e = document.activeElement;
      if (held || (e && e.matches("input[type=search], select"))) return void setTimeout(again, 2000);
      try {
        const r = await fetch("data.json", { headers: { "If-None-Match": tag }, cache: "no-store" });
        if (r.status === 200) {
          D = await r.json();
          tag = D.served;
          render();
        }
      } catch (_) { // the server has ended; the page stays
        const b = page.querySelector(".badge");
        if (b) b.textContent = "not connected";
      }
      setTimeout(again, document.hidden ? 10000 : 2000);
    };
    setTimeout(again, 2000);
  }
})();
