#!/bin/sh
# test_pull.sh - `medrl pull` against a hub that is well, breaks off, lies, stalls, sends us elsewhere, or names files as an attacker would.
# Source: reliability.md, P11.
. "$(dirname "$0")/lib_hub.sh"
start_hub 200

# --- a model, once: what comes, what does not, and nothing twice
fresh plain
run 0 pull test/tiny
is "$(cat "$temp/out")" "$(snapshot models--test--tiny)"
says "6 of 6 files downloaded and checked, 9.4 MB"
whole models--test--tiny 6
is "$(requests pytorch_model)" 0
is "$(requests 'bytes=4194304-')" 1 # several connections
: >"$hub/requests"
run 0 pull test/tiny --json
prints '"fetched_bytes": 0'
prints '"files": 6'
is "$(requests resolve)" 0
rm "$(snapshot models--test--tiny)/config.json" # a link that is gone, a blob that is damaged
run 0 pull test/tiny
whole models--test--tiny 6
blob=$(readlink -f "$(snapshot models--test--tiny)/model.safetensors")
printf x | dd of="$blob" conv=notrunc bs=1 seek=1000 2>/dev/null
run 0 pull test/tiny
says "all 6 files are here already"
run 0 pull test/tiny --verify
says "1 of 6 files downloaded"
whole models--test--tiny 6
run 0 pull test/tiny@v1
is "$(cat "$HF_HOME/hub/models--test--tiny/refs/v1")" bad8398ba36544fbb141c94e3776a67983afb276
run 0 pull test/tiny@refs/pr/1 -q
is "$(wc -c <"$temp/err")" 0
[ -e "$HF_HOME/hub/models--test--tiny/refs/refs/pr/1" ] || fail "no refs/refs/pr/1"
run 0 pull test/tiny --revision bad8398ba36544fbb141c94e3776a67983afb276
run 2 pull test/tiny@v9
says 'model "test/tiny" at revision "v9" is not on'
run 2 pull test/absent
says "(HTTP 404 for http://127.0.0.1"
run 2 pull nonsense
says 'want org/name or org/name@revision'

# --- other shapes of models, data sets
run 0 pull test/sharded
whole models--test--sharded 4
run 77 pull test/pickle
says "pytorch_model.bin is a Python pickle"
run 77 pull test/tiny --include pytorch_model.bin
says "pickle, which can run code when it is read: never downloaded"
run 77 pull test/tiny/pytorch_model.bin
run 77 pull test/tiny/weights.h5
says "no kind of file that medrl downloads"
run 2 pull test/gguf
says "say which with --include: a-q4_k_m.gguf, a-q8_0.gguf"
run 0 pull test/gguf --include '*q4_k_m*'
run 0 pull test/one-gguf
whole models--test--one-gguf 1
run 65 pull test/nothing
run 2 pull test/gguf --include 'x*'
run 0 pull test/data --dataset
whole datasets--test--data 3 # README.md too, evil.py not
is "$(requests evil)" 0
run 0 pull test/data/README.md --dataset -q
run 0 pull test/data/data/train.jsonl --dataset
prints "/data/train.jsonl"
run 0 pull hf:datasets/test/one
whole datasets--test--one 1
run 0 pull -d test/many -q
whole datasets--test--many 300

# --- what the Python tools leave: links, plain files, a shared store of blobs
fresh plain
mkdir -p "$(snapshot models--test--one-gguf)" "$HF_HOME/hub/models--test--one-gguf/blobs" "$HF_HOME/hub/blobs/ab"
sum=$(grep one-gguf "$hub/sums" | cut -d' ' -f1)
cp "$(readlink -f "$temp/hf-1/hub/models--test--one-gguf/blobs/$sum")" "$HF_HOME/hub/blobs/ab/x"
ln -s ../../blobs/ab/x "$HF_HOME/hub/models--test--one-gguf/blobs/$sum"
run 0 pull test/one-gguf
says "is here already"
whole models--test--one-gguf 1
rm "$(snapshot models--test--one-gguf)"/* "$HF_HOME/hub/models--test--one-gguf/blobs/$sum"
cp "$HF_HOME/hub/blobs/ab/x" "$(snapshot models--test--one-gguf)/a-q8_0.gguf"
run 0 pull test/one-gguf
says "is here already"
is "$(requests resolve)" 0
fresh plain
HF_HUB_DISABLE_SYMLINKS=1 run 0 pull test/one-gguf
[ -f "$(snapshot models--test--one-gguf)/a-q8_0.gguf" ] && [ ! -L "$(snapshot models--test--one-gguf)/a-q8_0.gguf" ] || fail "a link where links are off"

# --- broken off, ranges ignored
fresh cut
run 0 pull test/tiny
whole models--test--tiny 6
is "$(requests 'bytes=2097152-4194303')" 1 # half of the first span, and on from there
fresh cutall
run 0 pull test/tiny --connections 1
whole models--test--tiny 6
fresh norange
run 0 pull test/tiny
whole models--test--tiny 6
is "$(requests '"cdn"')" 1
fresh cutnorange
run 0 pull test/tiny
whole models--test--tiny 6
fresh expired
run 0 pull test/tiny
whole models--test--tiny 6

# --- lies
for what in badsha short long badetag badsize midhtml html gzip badblob; do
    fresh $what
    code=65
    [ $what != gzip ] || code=77
    run $code pull test/tiny --tries 2
    nothing models--test--tiny
    case $what in
    badsha) says "not the file that was announced; thrown away" ;;
    short) says "the server has 9449429 bytes, its list says 9449529" ;;
    long) says "the server sends more than it announced" ;;
    badetag) says "the server names another content (00000000" ;;
    badsize) says "the server names another size (17)" ;;
    *html) says "a page for a browser came instead of the file" ;;
    gzip) says "packed (gzip), which was not asked for" ;;
    badblob) says "git's SHA-1 is" ;;
    esac
done
fresh badsha # a part that was right so far does not hide it
run 65 pull test/tiny
scenario plain
run 0 pull test/tiny
whole models--test--tiny 6
for what in htmlapi:65 gzipapi:77 badjson:65 dupjson:65 empty:65 gone:2 evilnext:77; do
    fresh "${what%:*}"
    run "${what#*:}" pull test/tiny
    nothing models--test--tiny
done
fresh pages
run 0 pull test/tiny
whole models--test--tiny 6

# --- elsewhere
for what in loop:69 hops6:69 tofile:77 tometa:77 touser:77 tofake:77 togopher:77; do
    fresh "${what%:*}"
    run "${what#*:}" pull test/tiny
    nothing models--test--tiny
done
fresh tolocal
run 0 pull test/tiny
fresh hops5
run 0 pull test/tiny
whole models--test--tiny 6

# --- names
for name in ../x.json /abs.json a//b.json a/../../b.json '..\x.json' C:x.json 'a
b.json' "$(printf '%0300d' 0).json"; do
    fresh "name-$(printf %s "$name" | od -An -v -tx1 | tr -d ' \n')"
    run 77 pull -d test/data
    says 'holds a file named "'
    is "$(find "$HF_HOME" -type f 2>/dev/null | wc -l)" 0
done
fresh name-78002e6a736f6e # "x", NUL, ".json": no JSON that is accepted
run 65 pull -d test/data
fresh twins
run 77 pull test/tiny
says 'one file on disks that do not tell case apart'
# links that somebody planted: where a part, a folder, a blob or the snapshot's link goes
mkdir "$temp/elsewhere"
sum=$(grep 'tiny model.safetensors' "$hub/sums" | cut -d' ' -f1)
fresh plain
mkdir -p "$HF_HOME/hub/models--test--tiny/blobs" "$(snapshot models--test--tiny)"
echo keep >"$temp/elsewhere/file"
ln -s "$temp/elsewhere/file" "$HF_HOME/hub/models--test--tiny/blobs/$sum.medrl"
ln -s "$temp/elsewhere/file" "$HF_HOME/hub/models--test--tiny/blobs/$sum"
ln -s "$temp/elsewhere/file" "$(snapshot models--test--tiny)/config.json"
run 0 pull test/tiny
whole models--test--tiny 6
is "$(cat "$temp/elsewhere/file")" keep
for folder in blobs snapshots ../.locks; do
    fresh plain
    mkdir -p "$HF_HOME/hub/models--test--tiny"
    ln -s "$temp/elsewhere" "$HF_HOME/hub/models--test--tiny/$folder"
    run 77 pull test/tiny
    says "is a link or a file where a folder was expected"
    is "$(find "$temp/elsewhere" -type f | wc -l)" 1
done
fresh plain
mkdir -p "$HF_HOME/hub"
ln -s "$temp/elsewhere" "$HF_HOME/hub/models--test--tiny"
run 77 pull test/tiny
ln -s "$temp/elsewhere/file" "$temp/elsewhere/main" 2>/dev/null
fresh plain
mkdir -p "$HF_HOME/hub/models--test--tiny/refs"
ln -s "$temp/elsewhere/file" "$HF_HOME/hub/models--test--tiny/refs/main"
run 0 pull test/tiny
whole models--test--tiny 6
is "$(cat "$temp/elsewhere/file")" keep

# --- too many requests, busy, stalled
fresh api429
run 0 pull test/one-gguf
fresh file429
run 0 pull test/one-gguf
fresh file503
run 0 pull test/tiny --include config.json
fresh always503
run 69 pull test/tiny --include config.json --tries 3
says "HTTP 503"
is "$(requests resolve)" 3
fresh wait
run 69 pull test/tiny
says "asks to wait 86400 s"
start=$(date +%s)
export HF_HUB_DOWNLOAD_TIMEOUT=1 HF_HUB_ETAG_TIMEOUT=1
fresh loris
run 69 pull test/tiny --tries 1
says "less than 512 bytes a second"
fresh lorishead
run 69 pull test/tiny --tries 1
[ $(($(date +%s) - start)) -lt 15 ] || fail "a slow server was waited for"
export HF_HUB_DOWNLOAD_TIMEOUT=20
unset HF_HUB_ETAG_TIMEOUT
fresh plain
HF_ENDPOINT=http://127.0.0.1:1/x run 69 pull test/tiny --tries 2
HF_ENDPOINT=http://no-such-host.invalid run 69 pull test/tiny
HF_ENDPOINT=nonsense run 2 pull test/tiny
HF_HUB_OFFLINE=1 run 69 pull test/tiny
says "HF_HUB_OFFLINE is set"
is "$(requests .)" 0

passed
