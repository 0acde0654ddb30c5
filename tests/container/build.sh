#!/usr/bin/env bash
# Builds the image as a user would with Docker, on a base of Debian's own packages, and uses it as its user: the quick tests, a notebook,
# and JupyterLab in a real browser. As root: `make container`. Needs buildah, debootstrap, chromium, python3-venv, curl, procps, the network, and
# 30 GB in TMPDIR, where the screenshot and the logs stay.
#   OPTIONS   more options for `buildah build` and `buildah run`, such as a volume with the certificates of a company's proxy
#   RESULTS   a folder of user 1000 with data/ and runs/ of a finished `make reproduce`: its model then answers in the notebook, and a student
#             walks through the course (course.py): an exercise, a training with its bar, the browser of 06, a card of 08
set -euo pipefail
cd "$(dirname "$0")/../.."
[ "$(id -u)" = 0 ] || { echo "debootstrap makes the base system, which only root may do."; exit 1; }
for tool in buildah debootstrap chromium curl pgrep; do
  command -v $tool > /dev/null || { echo "$tool is missing: apt-get install buildah debootstrap chromium python3-venv curl procps"; exit 1; }
done
work=$(mktemp --directory --tmpdir xmodal-container-XXXX)
exec > >(tee "$work/log.txt") 2>&1
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER="${STORAGE_DRIVER:-overlay}" TMPDIR=$work
read -ra options <<< "${OPTIONS:-}"
address=http://127.0.0.1:8888

builder() { buildah --root "$work/storage" --runroot "$work/run" "$@"; }
inside() { builder run "${options[@]}" "$container" -- "$@"; }
say() { printf '\n== %s\n' "$*"; }
is() { [ "$2" = "$3" ] || { echo "FAILED: $1: $2, not $3"; exit 1; }; echo "$1: $2"; }
status() { curl --silent --output /dev/null --write-out '%{http_code}' "$@" "$address/api/contents" || true; }
asks() { builder inspect --type image --format "{{range .Docker.Config.$1}}{{println .}}{{end}}" xmodal | sed '/^$/d'; }

clean() {  # keeps logs and screenshot
  stop 2>> "$work/clean.log" || true
  builder rm --all >> "$work/clean.log" 2>&1 || true
  builder rmi --all --force >> "$work/clean.log" 2>&1 || true
  rm -rf "$work/storage" "$work/run" "$work/browser"
}
trap clean EXIT

start() {  # JUPYTER_TOKEN: starts what the image starts by itself, and waits until its health check is content
  mapfile -t command < <(asks Entrypoint; asks Cmd)
  builder run "${options[@]}" --env JUPYTER_TOKEN="$1" "$container" -- "${command[@]}" > "$work/lab.log" 2>&1 &
  for _ in {1..120}; do
    if curl --silent --fail --output "$work/api.json" "$address/api"; then return; fi
    sleep 1
  done
  tail -n 20 "$work/lab.log"; echo "FAILED: JupyterLab does not answer"; exit 1
}
stop() {
  curl --silent --request POST --header "Authorization: token ${token:-}" "$address/api/shutdown" && wait %%
}

if curl --silent --output "$work/api.json" "$address/api"; then echo "Something answers at $address already; stop it first."; exit 1; fi

say "base: Debian by debootstrap"
debootstrap --variant=minbase bookworm "$work/base" > "$work/debootstrap.log"
tar --create --directory "$work/base" --file "$work/base.tar" . && rm -rf "$work/base"
printf 'FROM scratch\nADD base.tar /\n' | builder build --quiet --tag base --file - "$work" && rm "$work/base.tar"

say "image"
make image ENGINE="buildah --root $work/storage --runroot $work/run" IMAGE_OPTIONS="--build-arg BASE=localhost/base ${OPTIONS:-}" > "$work/build.log" 2>&1 || {
  tail -n 20 "$work/build.log"; exit 1; }
builder images xmodal
is "its user" "$(builder inspect --type image --format '{{.Docker.Config.User}}' xmodal)" 1000:100
is "its port" "$(builder inspect --type image --format '{{range $port, $_ := .Docker.Config.ExposedPorts}}{{$port}}{{end}}' xmodal)" 8888/tcp
container=$(builder from xmodal)
if [ -n "${RESULTS:-}" ]; then options+=(--volume "$(realpath "$RESULTS"):/home/jovyan/results"); fi

say "inside"
is "user" "$(inside id --user --name)" jovyan
is "groups" "$(inside id --groups)" 100
is "first process" "$(asks Entrypoint | head -n 1)" /usr/bin/tini
is "CUDA that torch was built for" "$(inside .venv/bin/python -c 'import torch; print(torch.version.cuda.split(".")[0])')" 13
inside .venv/bin/python -c 'import ctypes, torch; ctypes.CDLL(torch.__path__[0] + "/lib/libtorch_cuda.so")'
inside make doctor
inside .venv/bin/python -m pytest -q tests/test_house.py tests/test_stats.py tests/test_model.py tests/runtime/test_doctor.py
inside .venv/bin/python -m xmodal.runtime.notebook notebooks/00_start_here.ipynb /home/jovyan/out.ipynb
inside .venv/bin/papermill --no-progress-bar notebooks/00_start_here.ipynb /home/jovyan/bare.ipynb

say "JupyterLab: the token"
if builder run --user 0 "${options[@]}" "$container" -- make lab; then echo "FAILED: it runs as root"; exit 1; fi
start ""
drawn=$(grep --only-matching --max-count 1 'token=[0-9a-f]*' "$work/lab.log" | cut -d = -f 2)
is "empty JUPYTER_TOKEN, letters of the token drawn" "${#drawn}" 48
is "empty JUPYTER_TOKEN, no token" "$(status)" 403
is "empty JUPYTER_TOKEN, empty token" "$(status --header 'Authorization: token ')" 403
is "empty JUPYTER_TOKEN, the drawn token" "$(status --header "Authorization: token $drawn")" 200
token=$drawn stop
token=$(head -c 24 /dev/urandom | base64 | tr -d '/+=')
start "$token"
is "no token" "$(status)" 403
is "wrong token" "$(status --header "Authorization: token x$token")" 403
is "right token" "$(status --header "Authorization: token $token")" 200
mapfile -t health < <(builder inspect --type image --format '{{range .Docker.Config.Healthcheck.Test}}{{println .}}{{end}}' xmodal | sed '/^$/d')
inside "${health[@]:1}" && echo "health check: content"
is "its processes run as" "$(pgrep --full 'jupyter-lab.*--port=8888' | xargs ps -o uid= -p | sort --unique | xargs)" 1000

say "JupyterLab: a browser"
python3 -m venv "$work/browser" && "$work/browser/bin/pip" install --quiet playwright
"$work/browser/bin/python" tests/container/browser.py "$address/lab/tree/notebooks/00_start_here.ipynb?token=$token" "$work/screenshot.png"
if [ -n "${RESULTS:-}" ]; then "$work/browser/bin/python" tests/container/course.py "$address" "$token" "$work"; fi
say "all is well; logs and screenshot are in $work"
