# Supervises a PostgreSQL server, and stops the server when its owner ends.
#   $1  the folder to remove then; empty to remove nothing
#   $2  the process id of the owner; empty if the owner holds the other end of standard input
#   $3  the signal that stops the server
#   …   the command that runs the server
remove=$1 owner=$2 signal=$3
shift 3
exec 3<&0 </dev/null

alive() {
  if [ -r /proc/self/stat ]; then
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    case ${stat##*) } in Z* | X*) return 1 ;; esac
  else
    kill -0 "$1" 2>/dev/null || ps -p "$1" >/dev/null 2>&1
  fi
}

"$@" 3<&- &
server=$!
stopping=
trap 'stopping=1; kill -s "$signal" "$server" 2>/dev/null' TERM

(
  trap - TERM
  if [ -n "$owner" ]; then
    while alive "$owner"; do sleep 0.2; done
  else
    read -r _ <&3
  fi
  kill -s TERM $$ 2>/dev/null || exit
  sleep 10
  kill -s QUIT "$server" 2>/dev/null
) &
exec 3<&-

# A signal interrupts `wait` while the server is still shutting down, so wait again.
while :; do
  wait "$server"
  status=$?
  alive "$server" || break
done

[ -n "$stopping" ] && [ -n "$remove" ] && rm -rf "$remove"
# Ends the watcher above and its `sleep`, which are in the process group of this script.
trap '' TERM
kill -s TERM 0
exit "$status"
