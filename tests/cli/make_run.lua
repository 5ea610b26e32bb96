-- make_run.lua DIR STEPS: a run folder of the given length, as `medrl run` leaves one, for the tests of its report.
-- Plain Lua. Some texts try to break out of a page; their marks (PWNED) must never become markup.
local dir, steps = arg[1], tonumber(arg[2])
local seed = 7
local function rnd()
  seed = (seed * 16807) % 2147483647
  return seed / 2147483647
end
local function quote(s)
  s = s:gsub('[%c"\\]', function(c) return ("\\u%04x"):format(c:byte()) end)
  return '"' .. s .. '"'
end
local function file(name) return assert(io.open(dir .. "/" .. name, "w")) end

local hostile = {
  "</script><script>document.title='PWNED'</script>", "<img src=x onerror=\"document.title='PWNED'\">",
  "<!--<script>", "]]><svg onload=document.title='PWNED'>", "\27[31mred\27[0m \226\128\174txet \226\128\168 \0 end",
}
local names = { "xmlcount", "soft_format", "strict_format", "valid_answer", "correctness" }
local most = { 0.5, 0.5, 0.5, 0.5, 2 }
local sets = { "gsm8k", "pubmedqa", "med_mc" }
local golds = { gsm8k = "42", pubmedqa = "yes", med_mc = "B" }
local words = { "the", "patient", "has", "a", "history", "of", "chronic", "pain", "and", "was", "given", "aspirin",
  "twice",
                "a", "day,", "so", "we", "add", "both", "numbers", "first.", "It", "follows", "that" }
local function prose(n)
  local t = {}
  for i = 1, n do t[i] = words[1 + math.floor(rnd() * #words)] end
  return table.concat(t, " ")
end

local c = file "config.json"
c:write('{"model": {"name": "Qwen/Qwen2.5-3B-Instruct", "load_in_4bit": true}, "lora": {"r": 64, "lora_alpha": 64}, ',
  '"grpo": {"max_steps": ', steps, ', "learning_rate": 5e-06, "num_generations": 6}, "rewards": ["xmlcount"], ',
  '"run": {"medrl": "0.1.0", "recipe": "recipes/medical_mix.lua", "device": "NVIDIA T4", "scripts": {"a": "b"}}}\n')
c:close()

local metrics, samples, events = file "metrics.jsonl", file "samples.jsonl", file "events.jsonl"
local function event(step, kind, text)
  events:write(('{"step": %d, "time": %.3f, "kind": "%s", "text": %s}\n'):format(step, 1795733438 + step * 21, kind,
    quote(text)))
end
event(0, "script", "lua/recipes/medical_mix.lua")
event(0, "start", "started at step 0")
local cost = 0
for i = 1, steps do
  local x = i / steps
  local skill = 1 / (1 + math.exp(-9 * (x - 0.35)))
  local mean, total = {}, 0
  for k = 1, 5 do
    mean[k] = most[k] * math.max(0, math.min(1, skill * (k == 5 and 0.62 or 0.95) + 0.1 * (rnd() - 0.5)))
    total = total + mean[k]
  end
  local len = 380 - 200 * skill + 60 * rnd()
  local seconds = 19 + 4 * rnd()
  cost = cost + seconds / 3600 * 0.35
  local line = { ('"step": %d, "loss": %.6g, "grad_norm": %.5g, "learning_rate": %.6g, "num_tokens": %d'):format(i,
    0.02 * (rnd() - 0.5), 0.4 + 0.3 * rnd(), 5e-6 * math.min(1,
      i / (0.1 * steps)) * (0.5 + 0.5 * math.cos(math.pi * x)), i * 3000),
    ('"completions/mean_length": %.4f, "completions/min_length": %d, "completions/max_length": %d, '
      .. '"completions/clipped_ratio": %.4f, "completions/mean_terminated_length": %.4f'):format(len, len * 0.4,
      math.min(1024, len * 2), 0.2 * (1 - skill) * rnd(), len * 0.95) }
  for k, name in ipairs(names) do
    line[#line + 1] = ('"rewards/%s/mean": %.6g, "rewards/%s/std": %.6g'):format(name, mean[k], name, 0.2 * most[k])
  end
  line[#line + 1] = ('"reward": %.8g, "reward_std": %.6g, "frac_reward_zero_std": %d, "kl": %.6g, "entropy": %.6g, '
    .. '"clip_ratio/region_mean": %.6g, "clip_ratio/low_mean": %.6g, "clip_ratio/high_mean": %.6g, '
    .. '"step_time": %.5g'):format(total, 0.9 * (1 - 0.6 * skill), rnd() < 0.2 and 1 or 0, 0.03 * skill + 0.004 * rnd(),
    0.6 - 0.35 * skill + 0.05 * rnd(),
    0.002 * rnd(), 0.001 * rnd(), 0.001 * rnd(), seconds)
  line[#line + 1] = ('"sampling/is_ratio": 1, "rewards/faults": %d, "scripts/version": %d'):format(
    i % 97 == 0 and 3 or 0, i > steps / 2 and 2 or 1)
  local set = sets[1 + math.floor(rnd() * 3)]
  line[#line + 1] = ('"data/%s/reward": %.6g, "time/rollout_s": %.5g, "time/score_s": 0.01, "time/train_s": %.5g, '
    .. '"time/tokens_per_s": %.5g, "time/run_s": %.6g, "cost/usd": %.6g'):format(set, total, seconds * 0.8,
      seconds * 0.2,
    115 + 10 * rnd(), i * 21, cost)
  if i % 50 == 0 or i == steps then
    local a = 0.22 + 0.5 * skill
    line[#line + 1] = ('"eval/accuracy": %.4f, "eval/accuracy_low": %.4f, "eval/accuracy_high": %.4f, '
      .. '"eval/invalid_ratio": %.4f, "eval/gsm8k/accuracy": %.4f, "eval/pubmedqa/accuracy": %.4f'):format(
        a, a - 0.07, a + 0.07, 0.5 * (1 - skill), a - 0.1, a + 0.08)
  end
  metrics:write("{", table.concat(line, ", "), "}\n")
  local question = "Given the scientific context below:\n" .. prose(120)
    .. "\n\nAnswer the following question:\nIs it so?"
  for g = 0, 5 do
    local right = rnd() < skill * 0.7
    local bad = (i * 6 + g) % 31 == 0 and hostile[1 + (i + g) % #hostile] or ""
    local text = "<reasoning>\n" .. prose(30 + 120 * (1 - skill)) .. bad .. "\n</reasoning>\n<answer>\n"
      .. (right and golds[set] or "no") .. "\n</answer>\n"
    local parts = {}
    for k, name in ipairs(names) do
      local v = k == 5 and (right and 2 or 0) or most[k] * (rnd() < skill + 0.1 and 1 or 0)
      parts[k] = ('"%s": %.3g'):format(name, v)
    end
    local prompt = "<|im_start|>user\n" .. question .. "<|im_end|>\n<|im_start|>assistant\n"
    samples:write(('{"step": %d, "prompt_index": 0, "sample": %d, "row": %d, "source": "%s", "prompt": %s, '
      .. '"completion": %s, "answer": "%s", "rewards": {%s}, "faults": [%s], "reward": %.5g, "advantage": %.5g, '
      .. '"tokens": %d, "truncated": %s}\n'):format(i, g, i * 7 % 7473, set, quote(prompt), quote(text),
      golds[set], table.concat(parts, ", "), i % 97 == 0 and g == 0 and '"correctness"' or "",
        (right and 3.4 or 1.1) + rnd() * 0.4,
      (right and 1 or -0.7) + 0.2 * rnd(), 60 + 200 * rnd(), rnd() < 0.03 and "true" or "false"))
  end
  if i % 97 == 0 then
    event(i, "fault", "lua/rewards/correctness.lua:12: attempt to index a nil value (sample 0) " .. hostile[2])
  end
  if i == math.floor(steps / 2) then
    event(i, "reload", "rewards/correctness.lua: taken over (7 cases passed; last batch: correctness 1.12 -> 1.20)")
  end
  if i == math.floor(steps * 0.7) then event(i, "set", "grpo.learning_rate 5e-06 -> 2e-06 (attach)") end
  if i % 100 == 0 then event(i, "checkpoint", "checkpoint-" .. i) end
end
event(steps, "stop", "done after step " .. steps)
metrics:close() samples:close() events:close()
local e = file "eval.json"
local function side(r, n, a, lo, hi, inv)
  return ('{"right": %d, "accuracy": %g, "low": %g, "high": %g, "invalid": %d, "invalid_ratio": %g, '
    .. '"mean_length": 170}'):format(r, a, lo, hi, inv * n, inv)
end
local function set(name, n, base, tuned)
  return ('{"name": "%s", "rows": %d, "judged": %d, "tuned": %s, "base": %s, "became_right": 71, '
    .. '"became_wrong": 12, "p_value": 3e-11}'):format(name, n, n, tuned, base)
end
e:write('{"data": "data.eval of recipes/medical_mix.lua", "sets": [',
  set("gsm8k", 200, side(44, 200, 0.22, 0.168, 0.282, 0.41), side(103, 200, 0.515, 0.446, 0.583, 0.02)), ", ",
  set("pubmedqa", 200, side(92, 200, 0.46, 0.392, 0.529, 0.22), side(138, 200, 0.69, 0.623, 0.75, 0.005)), '], "all": ',
  set("all", 400, side(136, 400, 0.34, 0.295, 0.388, 0.315), side(241, 400, 0.6025, 0.554, 0.649, 0.0125)),
    ', "flips": []}\n')
e:close()
