#!/usr/bin/env bash
# Clones the project on a machine that has nothing but Debian's base system and what the README wants beforehand, as a user, and follows the
# README there. The log is the proof. As root: `tests/container/fresh.sh [quick|full]`; full is `make reproduce` and `make test`, over an hour on two
# cores; quick stops after `make doctor` and the tests that take seconds. Needs debootstrap, git, the network and 15 GB in TMPDIR.
#   SETUP   a command to run in the new system first, as root, such as one that trusts the certificates of a company's proxy
#   SHARE   a folder of this machine that SETUP finds as /srv
set -euo pipefail
cd "$(dirname "$0")/../.."
case "${1:-quick}" in
  quick) steps=("make doctor" ".venv/bin/python -m pytest -q tests/test_house.py tests/test_stats.py tests/runtime/test_doctor.py") ;;
  full) steps=("make reproduce" "make test") ;;
  *) echo "quick or full, not $1"; exit 2 ;;
esac
beforehand=(ca-certificates python3 python3-dev python3-venv g++ git make)
[ "$(id -u)" = 0 ] || { echo "debootstrap makes the base system, which only root may do."; exit 1; }
command -v debootstrap > /dev/null || { echo "debootstrap is missing: apt-get install debootstrap"; exit 1; }
work=$(mktemp --directory --tmpdir xmodal-fresh-XXXX)
base=$work/base
exec > >(tee "$work/log.txt") 2>&1
trap 'rm -rf --one-file-system "$base"; echo "The log is $work/log.txt"' EXIT

machine() {  # COMMAND: in the new system, with mounts that vanish with the process
  unshare --mount --pid --fork --kill-child bash -c '
    mount --bind "$SHARE" "$0/srv" && mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" &&
    exec chroot "${@:2}" "$0" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME="$HOME_THERE" bash -euo pipefail -c "$1"' "$base" "$@"
}
received() { awk '$1 !~ /^lo:/ && $2 ~ /^[0-9]+$/ { sum += $2 } END { printf "%d", sum / 2^20 }' /proc/net/dev; }
export SHARE=${SHARE:-$work}

echo "== Debian's base system, and ${beforehand[*]}"
debootstrap --variant=minbase bookworm "$base" > "$work/debootstrap.log"
cp /etc/resolv.conf "$base/etc/resolv.conf"
echo "127.0.0.1 localhost" > "$base/etc/hosts"  # as Debian's installer writes it
HOME_THERE=/ machine "apt-get update -qq && apt-get install -qq --no-install-recommends ${beforehand[*]} > /var/log/beforehand.log 2>&1 && useradd --create-home jovyan"
HOME_THERE=/ machine "${SETUP:-true}"
git bundle create --quiet "$base/home/jovyan/project.bundle" HEAD
git -C . log -1 --format='== commit %h, %s'

before=$(received)
export HOME_THERE=/home/jovyan
user() {  # COMMAND: as the README's reader would; what fails ends the script
  echo "\$ $1"
  time machine "cd ~ && test ! -d xmodal || cd xmodal; id -un > ~/who; $1" --userspec=jovyan:jovyan
  echo "== ended well: $1"
}
user "git clone --quiet --config advice.detachedHead=false project.bundle xmodal"
for step in "${steps[@]}"; do user "$step"; done
user "git status --short"
echo "== run by $(cat "$base/home/jovyan/who"); received meanwhile by the whole machine: $(($(received) - before)) MiB"
echo "== disk: $(du -sh "$base/home/jovyan/xmodal" | cut -f 1)"
