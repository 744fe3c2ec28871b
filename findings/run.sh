#!/usr/bin/env bash
# Runs findings one after another and prints a table: all of them, or those that are named.
#   findings/run.sh [NAME...]
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")"
if [ $# = 0 ]; then
  for script in *.sh; do
    [ "$script" = run.sh ] || set -- "$@" "${script%.sh}"
  done
fi
for name in "$@"; do
  [ -x "$name.sh" ] || { echo "error: findings/$name.sh does not exist" >&2; exit 2; }
done
output=$(mktemp)
trap 'rm -f "$output"' EXIT
failed=0
printf '%-36s %-14s %s\n' finding result seconds
for name in "$@"; do
  start=$SECONDS
  "./$name.sh" >"$output" 2>&1
  case $? in
    0) result=ok ;;
    2) result='not installed' ;;
    *) result=changed ;;
  esac
  printf '%-36s %-14s %s\n' "$name" "$result" $((SECONDS - start))
  if [ "$result" != ok ]; then
    failed=1
    tail -n 20 "$output" | sed 's/^/  /'
  fi
done
exit "$failed"
