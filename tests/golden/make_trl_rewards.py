"""Writes trl_rewards.json: what TRL 1.16's reward functions give, for the rewards of the same names here.

    pip download --no-deps trl==1.16.0 && unzip trl-1.16.0-*.whl 'trl/rewards/*'
    pip install math-verify==0.9.0
    python3 make_trl_rewards.py FOLDER_WITH_trl/rewards ours.jsonl > trl_rewards.json

Each case: reward (as `medrl score --reward` takes it), completion, row, n_tokens, want (null: abstains). Of the accuracy
cases, medrl_differs holds what medrl gives instead where it decides otherwise on purpose (lua/rewards/accuracy.lua)."""
import json
import logging
import sys
import types

logging.disable(logging.CRITICAL)
folder = sys.argv[1]
package = types.ModuleType("trl_parts")
package.__path__ = [folder]
sys.modules["trl_parts"] = package
checks = types.ModuleType("import_utils")
checks.is_math_verify_available = lambda: True
sys.modules["import_utils"] = checks


def load(name):
    text = open(f"{folder}/{name}.py").read().replace("from ..import_utils", "from import_utils")
    module = types.ModuleType(name)
    exec(compile(text, name, "exec"), module.__dict__)
    return module


accuracy = load("accuracy_rewards")
formats = load("format_rewards")
other = load("other_rewards")
cases = []


def add(reward, completion, want, row=None, n_tokens=1):
    cases.append({"reward": reward, "completion": completion, "row": row or {}, "n_tokens": n_tokens, "want": want})


def message(text):
    return [[{"role": "assistant", "content": text}]]


golds = {
    "42": ["\\boxed{42}", "\\boxed{42.0}", "\\boxed{42.5}", "$42$", "The answer is $42$.", "The final answer is 42",
           "The answer is 42.", "42", "\\boxed{42\\text{ apples}}", "\\boxed{x = 42}", "\\boxed{42\\%}",
           "\\boxed{84/2}", "\\boxed{40+2}", "\\boxed{}", "\\boxed{\\$42}", "\\boxed{-42}", "\\boxed{42}.",
           "\\boxed{ 42 }", "\\boxed{42^\\circ}", "\\boxed{forty-two}", "\\boxed{4.2\\times 10^1}", "\\boxed{4 2}",
           "\\boxed{42,0}", "\\boxed{41} then \\boxed{42}", "\\boxed{42} then \\boxed{41}"],
    "\\frac{1}{3}": ["\\boxed{\\frac{1}{3}}", "\\boxed{1/3}", "\\boxed{\\frac13}", "\\boxed{0.333}",
                     "\\boxed{\\dfrac{2}{6}}", "\\boxed{\\frac{1}{2}}", "\\boxed{33.3\\%}"],
    "0.5": ["\\boxed{50\\%}", "\\boxed{\\frac12}", "\\boxed{.5}", "\\boxed{0,5}", "\\boxed{1/2}",
            "\\boxed{5\\times 10^{-1}}", "\\boxed{5e-1}"],
    "1200": ["\\boxed{1,200}", "\\boxed{1{,}200}", "\\boxed{1200.00}", "\\boxed{1\\,200}", "\\boxed{12,00}",
             "\\boxed{1.2\\times10^3}", "\\boxed{1200\\text{ km}}"],
    "-7": ["\\boxed{-7}", "\\boxed{- 7}", "\\boxed{7}", "\\boxed{\u22127}", "\\boxed{(-7)}"],
    "$x+1$": ["\\boxed{x+1}", "\\boxed{1+x}", "\\boxed{x + 1}", "\\boxed{x-1}", "\\boxed{y+1}"],
    "$\\sqrt{2}$": ["\\boxed{\\sqrt{2}}", "\\boxed{2^{1/2}}", "\\boxed{1.414}"],
    "$(1,2)$": ["\\boxed{(1,2)}", "\\boxed{(1, 2)}", "\\boxed{(2,1)}", "\\boxed{1,2}"],
    "$\\pi$": ["\\boxed{\\pi}", "\\boxed{3.14159}", "\\boxed{3.14}"],
    "2.5": ["\\boxed{2\\frac{1}{2}}", "\\boxed{2 1/2}", "\\boxed{5/2}", "\\boxed{2.50}"],
}
for gold, texts in golds.items():
    for text in texts:
        add("accuracy", text, accuracy.accuracy_reward(message(text), [gold])[0], {"solution": gold})
third = "\\frac{1}{3}"
for text in ["<think> r </think> \\boxed{\\frac{1}{3}}", "<think> r </think> \\boxed{\\frac{1}{2}}",
             "<think> \\boxed{\\frac{1}{3}}", "<think> \\boxed{\\frac{1}{3}} </think> so",
             "a</think>b</think>\\boxed{1/3}", "\\boxed{1/3}"]:
    add("reasoning_accuracy", text, accuracy.reasoning_accuracy_reward(message(text), [third])[0], {"solution": third})
for text in ["<think>\nThis is my reasoning.\n</think>\nThis is my answer.", "<think></think>", "<think>a</think>",
             "<think>\na\n<think>\nb\n</think>", "x<think>a</think>", "\n<think>a</think>", "<think>a", "</think>", "",
             "<think>a</think></think>", "<think>a</think>\n\n\n", "<think>a</think> b <think>c</think>",
             "<THINK>a</THINK>", "<think>\r\na\r\n</think>", "<think>\u2028</think>"]:
    add("think_format", text, formats.think_format_reward(message(text))[0])
for n in [0, 1, 25, 50, 99, 100, 101, 500]:
    for text in ["\\boxed{\\frac{1}{3}}", "\\boxed{\\frac{1}{2}}"]:
        plain = accuracy.get_cosine_scaled_reward(max_len=100)
        odd = accuracy.get_cosine_scaled_reward(80, -0.75, -0.25, 0.125, 0.5)
        add("cosine_scaled:max_len=100", text, plain(message(text), [third], [[1] * n])[0], {"solution": third}, n)
        add("cosine_scaled:max_len=80,min_value_wrong=-0.75,max_value_wrong=-0.25,min_value_correct=0.125,"
            "max_value_correct=0.5", text, odd(message(text), [third], [[1] * n])[0], {"solution": third}, n)
for text in ["1 2 3 4", "5 5 5 5 5", "a b", "", "a b c", "a b c a b c", "no no no no no no no", "x y x y x y x y z",
             "the cat saw the dog and the cat saw the bird"]:
    ids = [hash(w) for w in text.split()]  # one id a word: then TRL's n-grams of ids are those of words
    for n in (1, 2, 3):
        add(f"repetition_penalty:ngram_size={n}", text, other.get_repetition_penalty_reward(n)([ids])[0])
    add("repetition_penalty:max_penalty=-0.5", text, other.get_repetition_penalty_reward(3, -0.5)([ids])[0])
for longest, cache in [(100, 20), (100, 0), (10, 10), (64, 1)]:
    for n in [0, 1, 9, 10, 11, 63, 64, 65, 79, 80, 81, 90, 99, 100, 101, 1000]:
        add(f"soft_overlong_punishment:max_completion_len={longest},soft_punish_cache={cache}", "x",
            other.get_soft_overlong_punishment(longest, cache)([[1] * n])[0], None, n)

if len(sys.argv) > 2:  # what medrl gives, one JSON line a case, to mark where it differs on purpose
    for case, line in zip(cases, open(sys.argv[2])):
        got = list(json.loads(line)["rewards"].values())[0]
        if case["reward"] == "accuracy" and got != case["want"]:
            case["medrl_differs"] = got
print('{"source": "TRL 1.16.0 with math-verify 0.9.0", "cases": [')
print(",\n".join("  " + json.dumps(c) for c in cases))
print("]}")
