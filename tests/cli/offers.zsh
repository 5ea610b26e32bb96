# offers.zsh DIR LINE...: what a zsh at a terminal offers after each LINE and a Tab, with DIR/_medrl as its only completions of ours;
# one line of words for each, sorted. The words are those that reach compadd: the list itself is not drawn when more keys wait.
# Keys are sent when the line editor says that it reads: before that the terminal would take ^U for itself and drop the line.
zmodload zsh/zpty
dir=$1 caught=$(mktemp)
shift
zpty shell zsh -f -i
zpty -w shell "PS1= PS2=; unsetopt beep; fpath=($dir \$fpath); autoload -Uz compinit; compinit -u -D"
zpty -w shell "compadd() { local -a words; builtin compadd -O words \"\$@\"; print -r -- \$words >>$caught; builtin compadd \"\$@\"; }"
zpty -w shell "zle-line-init() { print -n 'REA''DING' }; zle -N zle-line-init"
await_editor() { local all; zpty -r shell all '*READING' }
await_editor
for line in "$@"; do
  : >$caught
  zpty -w -n shell "$line"$'\t\x15\n'
  await_editor
  tr ' ' '\n' <$caught | grep . | sort -u | tr '\n' ' '
  print
done
zpty -d shell
rm -f $caught
