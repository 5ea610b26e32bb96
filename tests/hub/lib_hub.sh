# lib_hub.sh - sourced by the tests of this folder: a hub on loopback (server.py), fresh caches, and what is compared.
# shellcheck shell=sh
faulty=$2
[ -x "$faulty" ] || { echo "usage: $0 MEDRL MEDRL_FAULTY" >&2; exit 1; }
case $faulty in /*) ;; *) faulty=$PWD/$faulty ;; esac
. "$(dirname "$0")/../cli/lib.sh"
command -v python3 >/dev/null || { echo "$0: no python3: skipped"; exit 0; }
unset HF_TOKEN HF_TOKEN_PATH HF_HUB_OFFLINE HF_HUB_DISABLE_IMPLICIT_TOKEN HF_HUB_DISABLE_SYMLINKS HF_HUB_DISABLE_PROGRESS_BARS
unset http_proxy https_proxy all_proxy HTTPS_PROXY ALL_PROXY
export HF_HUB_DOWNLOAD_TIMEOUT=20
hub=$temp/hub
mkdir "$hub"
server=
trap ': >"$hub/stop"; [ -z "$server" ] || wait "$server"; rm -rf "$temp"' EXIT

start_hub() { # SECONDS: until it ends by itself
    MEDRL_GOLDEN=$golden python3 "$here/server.py" "$hub" "$1" >"$hub/log" 2>&1 &
    server=$!
    for _ in $(seq 200); do [ -e "$hub/port" ] && break; sleep 0.05; done
    [ -e "$hub/port" ] || fail "the hub does not start: $(cat "$hub/log")"
    port=$(cat "$hub/port") cdn=$(cat "$hub/cdn")
}

n_caches=0
scenario() { export HF_ENDPOINT="http://127.0.0.1:$port/$1"; } # NAME, as in server.py
fresh() { # NAME: that scenario, and an empty cache
    scenario "$1"
    n_caches=$((n_caches + 1))
    export HF_HOME="$temp/hf-$n_caches"
    : >"$hub/requests"
}
snapshot() { echo "$HF_HOME/hub/$1/snapshots/bad8398ba36544fbb141c94e3776a67983afb276"; } # FOLDER
# whole FOLDER N: the snapshot has N files, each as the server made it, and its reference names it.
whole() {
    at=$(snapshot "$1") repo=$(echo "$1" | sed 's/--/\//g')
    is "$(find "$at" -type l | wc -l)" "$2"
    is "$(cat "$HF_HOME/hub/$1/refs/main")" "${at##*/}"
    is "$(find "$HF_HOME" -name '*.medrl' -o -name '.medrl-*' | wc -l)" 0
    find "$at" -type l | while read -r f; do
        sum=$(sha256sum "$f" | cut -d' ' -f1)
        grep -qxF "$sum $repo ${f#"$at"/}" "$hub/sums" || { echo "$f"; break; }
    done >"$temp/wrong"
    checks=$((checks + 1))
    [ ! -s "$temp/wrong" ] || fail "$(cat "$temp/wrong") is not what the server has"
}
# nothing FOLDER: no reference, and no blob with a name.
nothing() {
    checks=$((checks + 1))
    [ ! -e "$HF_HOME/hub/$1/refs" ] || fail "$1 has a reference"
    [ -z "$(find "$HF_HOME/hub/$1/blobs" -type f -size +2000 ! -name '*.medrl' 2>/dev/null)" ] || fail "$1 has a large blob"
}
requests() { grep -c -- "$1" "$hub/requests"; } # PATTERN: how many
