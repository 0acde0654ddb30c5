#!/bin/bash
# Trains through a real Slurm of one machine, while a job is cancelled, the node drained and the controller restarted, and compares
# every file with what the same jobs give on local cores. Needs root, Debian's packages, and a cohort and an encoder (`make reproduce`).
set -euo pipefail
cd "$(dirname "$0")/../.."
cores=$(nproc) here=$PWD/build/slurm conf=$PWD/build/slurm/slurm.conf ready=${XMODAL_HOME:-$PWD} host=$(hostname -s)
methods="erm ours" fold=cbis_ddsm_42
export GIT_DIR=none  # the commit is on record with each run; both runs shall have the same
export PYTHONPATH=$PWD OMP_NUM_THREADS=1
say() { echo "$(date +%T) $*"; }

[ "$(id -u)" = 0 ] || { echo "This starts the daemons of Slurm, which only root may do."; exit 1; }
[ -e "$ready/data/lesson/cohort.parquet" ] ||
  { echo "There is no cohort in $ready; run make reproduce, or name a folder that has one in XMODAL_HOME."; exit 1; }
command -v slurmctld munged > /dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends slurm-wlm munge; }
rm -rf "$here" && mkdir -p "$here"/{state,spool} /run/munge

cat > "$conf" << END
ClusterName=xmodal
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
StateSaveLocation=$here/state
SlurmdSpoolDir=$here/spool
SlurmctldPidFile=$here/slurmctld.pid
SlurmdPidFile=$here/slurmd.pid
SlurmctldLogFile=$here/slurmctld.log
SlurmdLogFile=$here/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
MinJobAge=3600
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores RealMemory=6000 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
[ ! -e /etc/slurm/slurm.conf ] || [ "$(readlink /etc/slurm/slurm.conf)" = "$conf" ] || { echo "This machine has a Slurm of its own (/etc/slurm/slurm.conf)."; exit 1; }
mkdir -p /etc/slurm && ln -sfn "$conf" /etc/slurm/slurm.conf  # jobs look there: the variable SLURM_CONF does not reach them
cleanup() {
  for name in slurmd slurmctld; do [ -e "$here/$name.pid" ] && kill "$(cat "$here/$name.pid")" || true; done
  [ -z "${munge:-}" ] || kill "$munge" || true
  rm -f /etc/slurm/slurm.conf
}
trap cleanup EXIT
munge -n > /dev/null 2>&1 || { munged --force --foreground > "$here/munged.log" 2>&1 & munge=$!; sleep 1; }
slurmctld -c
slurmd
until [ "$(sinfo -h -o %T)" = idle ]; do sleep 1; done
say "$(slurmctld -V): one node, $cores cores"

targets() { for m in $methods; do echo "$1/runs/lesson/notebooks/03_train_${fold}_$m.ipynb"; done; }
prepare() {  # the cohort and what 02b froze, newer than what they were made of
  mkdir -p "$1"/{data,runs}/lesson/notebooks
  cp -r "$ready"/data/lesson/{cohort.parquet,images,masks,activations} "$1/data/lesson/"
  touch "$1"/runs/lesson/notebooks/01_download.ipynb && touch "$1"/data/lesson/cohort.parquet "$1"/runs/lesson/notebooks/{02_preprocess,02b_pretrain}.ipynb
}
prepare "$here/local" && prepare "$here/cluster-$$"

say "local cores"
XMODAL_HOME=$here/local .venv/bin/snakemake --cores "$cores" --quiet all --rerun-triggers mtime params --nolock --config profile=lesson jobs=methods \
  -- $(targets "$here/local")

running() { squeue -h -t RUNNING -o %i | sort -n; }
say "Slurm"
XMODAL_HOME=$here/cluster-$$ .venv/bin/snakemake --profile profiles/slurm --config profile=lesson jobs=methods --slurm-no-account \
  --slurm-status-command squeue --slurm-init-seconds-before-status-checks 5 --latency-wait 10 --nolock -- $(targets "$here/cluster-$$") \
  > "$here/snakemake.log" 2>&1 & job=$!
until [ -n "$(running)" ]; do kill -0 $job || { cat "$here/snakemake.log"; exit 1; }; sleep 1; done
sleep 20
victim=$(running | head -1) && scancel "$victim" && say "cancelled job $victim"
scontrol update nodename="$host" state=drain reason=test && say "drained: $(sinfo -h -o %T)"
sleep 10
kill "$(cat "$here/slurmctld.pid")"
sleep 5
slurmctld && say "controller restarted; still $(sinfo -h -o %T), $(squeue -h | wc -l) jobs in the queue"
sleep 20
scontrol update nodename="$host" state=resume && say "resumed"
wait $job || { cat "$here/snakemake.log"; exit 1; }
grep -E "steps \(100%\) done|Trying to restart|failed" "$here/snakemake.log" | sort | uniq -c

for m in $methods; do
  diff -r "$here"/{local,cluster-$$}/runs/lesson/"$m"
  say "$m: bit-identical"
done
