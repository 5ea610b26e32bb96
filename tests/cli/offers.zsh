# offers.zsh DIR LINE...: what a zsh at a terminal offers after each LINE and a Tab, with DIR/_medrl as its only completions of ours;
# one line of words for each, sorted. The words are those that reach compadd: the list itself is not drawn when more keys wait.
zmodload zsh/zpty
dir=$1 caught=$(mktemp)
shift
zpty shell zsh -f -i
zpty -w shell "PS1= PS2=; unsetopt beep; fpath=($dir \$fpath); autoload -Uz compinit; compinit -u -D"
zpty -w shell "compadd() { local -a words; builtin compadd -O words \"\$@\"; print -r -- \$words >>$caught; builtin compadd \"\$@\"; }"
zpty -w shell "echo RE''ADY"
read_to() { # WORD
  local out= piece
  while zpty -r shell piece; do
    out+=$piece
    [[ $out == *$1* ]] && return
  done
}
read_to READY
for line in "$@"; do
  : >$caught
  zpty -w -n shell "$line"$'\t\x15'"echo DO''NE"$'\n'
  read_to DONE
  tr ' ' '\n' <$caught | grep . | sort -u | tr '\n' ' '
  print
done
zpty -d shell
rm -f $caught
