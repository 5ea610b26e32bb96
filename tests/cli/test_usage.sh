#!/bin/sh
# test_usage.sh - help, unknown commands and options, values out of range, missing arguments: texts and exit codes.
. "$(dirname "$0")/lib.sh"

run 0
prints "medrl demo"
run 0 help
prints "commands:"
prints "exit codes:"
run 0 --help
run 0 version
prints "medrl 0."
run 0 --version
run 0 version --json
prints '"version": "0.'

# every command's help begins with an example that can be typed, and names its options
for command in run resume plan hash demo generate chat export test score new data tokenize logprobs bench doctor pull help version; do
    run 0 "$command" --help
    first=$(head -n 1 "$temp/out")
    case $first in "  medrl $command"* | "  echo "*"| medrl $command"*) ;; *) fail "$command --help begins with: $first" ;; esac
    prints "usage: medrl $command"
    prints "--help"
    cp "$temp/out" "$temp/first"
    run 0 help "$command"
    cmp -s "$temp/first" "$temp/out" || fail "help $command differs from $command --help"
done
for command in resume plan hash demo generate export test score data tokenize logprobs bench doctor pull version run; do
    run 0 "$command" --help
    prints "--json"
done
run 0 help recipe
prints "max_steps"
prints "lora_alpha"

run 2 rnu
says 'medrl: unknown command "rnu"; did you mean "run"?'
run 2 xyzzy
says 'medrl: unknown command "xyzzy"; `medrl help` lists them'
run 2 help recipee
says 'did you mean "recipe"?'
run 2 generate m --temprature 1
says 'medrl: generate: unknown option "--temprature"; did you mean "--temperature"?'
run 2 generate m -z
says 'generate: unknown option "-z"'
run 2 generate m --temperature hot
says '--temperature is "hot", want a number'
run 2 generate m --temperature nan
says '--temperature is nan, want 0..100'
run 2 generate m -n 0
says '--n is 0, want 1..1024'
run 2 generate m -n 99999999999999999999
says 'want 1..1024'
run 2 generate m --seed
says '--seed wants a value: --seed N'
run 2 generate m --json=yes
says '--json takes no value'
run 2 generate
says 'generate: wants MODEL|RUN [PROMPT]; for example: medrl generate'
run 2 generate m p extra
says '"extra" is one argument too many'
run 2 version what
says '"what" is one argument too many, wants none'

# what is not there
run 2 generate no/such-model hello
says 'no/such-model'
run 2 tokenize smollm2-135m-instruct
says './bootstrap fetch'
run 2 run no_such_recipe.lua
says 'no_such_recipe.lua'
run 2 resume "$temp"
says 'is no run folder, want one that `medrl run` made'
run 2 hash "$temp"
run 2 generate m hello --device gpu --adapter x
passed
