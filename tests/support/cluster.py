"""A real SLURM of two nodes on this machine, for tests: munged, slurmctld, two slurmd.

Everything lies in one folder and every daemon is a child of this process. Needs root.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PATIENCE = 240.0
NODES = ("n1", "n2")
CONF = """
ClusterName=navsynth
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
SlurmdTimeout=5
KillWait=60
OverTimeLimit=10
MinJobAge=3600
SchedulerParameters=batch_sched_delay=1,sched_interval=1,bf_interval=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=4 RealMemory=8000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=4 RealMemory=8000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; empty where there can."""
    absent = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not _find(name)]
    if absent:
        return f"real SLURM: {', '.join(absent)} not installed"
    return "" if os.geteuid() == 0 else "real SLURM: its daemons need root"


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def wait_for(condition: Callable[[], object], what: str, *, seconds: float = PATIENCE) -> None:
    """Look again and again until something is so; AssertionError after a long while."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.1)


class Cluster:
    """Two nodes, from `start` to `stop`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen] = {}
        self.hurried: set[tuple[str, str]] = set()

    def start(self) -> None:
        """Start every daemon and wait until both nodes are idle."""
        munge = self.folder / "munge"
        munge.mkdir(mode=0o755)
        (self.folder / "state").mkdir()
        key = munge / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        names = ("controller", *NODES)
        ports = dict(zip(names, _free_ports(len(names)), strict=True))
        text = CONF.format(host=socket.gethostname(), folder=self.folder, **ports)
        (self.folder / "slurm.conf").write_text(text)
        os.environ["SLURM_CONF"] = str(self.folder / "slurm.conf")
        self._daemon(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge}/socket",
            f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed",
        )  # fmt: skip
        wait_for((munge / "socket").exists, "munged")
        self._daemon("slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        wait_for(lambda: self.states() == ["idle", "idle"], f"idle nodes; see {self.folder}")

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        self._daemon("slurmd", "-D", "-N", node, name=node)

    def kill_node(self, node: str) -> None:
        """What a power cut does: the daemon and everything it started, at once."""
        doomed = [p for p in psutil.process_iter() if self._is_of(p, node)]
        for process in list(doomed):
            with suppress(psutil.NoSuchProcess):  # a step that ended meanwhile
                doomed += process.children(recursive=True)
        for process in doomed:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self.daemons.pop(node).wait()

    def _is_of(self, process: psutil.Process, node: str) -> bool:
        """Whether it is the node's slurmd or the step manager of one of its tasks."""
        if process.pid == self.daemons[node].pid:
            return True
        try:
            if process.name() not in ("slurmstepd", "slurmstepd-wlm"):
                return False
            text = (
                Path(f"/proc/{process.pid}/environ").read_bytes()
                + " ".join(process.cmdline()).encode()
            )
            children = [c.environ() for c in process.children()]
        except (psutil.Error, OSError):
            return False
        mine = str(self.folder).encode() in text or any(
            e.get("SLURM_CONF") == os.environ["SLURM_CONF"] for e in children
        )
        return mine and any(e.get("SLURMD_NODENAME") == node for e in children)

    def states(self) -> list[str]:
        """State of each node."""
        return self.run("sinfo", "-h", "-N", "-o", "%T").split()

    def run(self, *command: str) -> str:
        """Output of a SLURM command; empty where it fails."""
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def state(self, job: str) -> str:
        """State of a job."""
        return self.run("squeue", "-h", "--array", "-t", "all", "-j", job, "-o", "%T").strip()

    def show(self, job: str) -> dict[str, str]:
        """What the controller says of a job, by field."""
        words = self.run("scontrol", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def hurry(self, job: str) -> None:
        """Do not wait the minutes that SLURM gives a job which is queued again, only seconds: a
        start within the second of the requeue is refused (`Job credential revoked`)."""
        shown = self.show(job)
        life = (job, shown.get("Restarts", ""))
        if shown.get("JobState") == "PENDING" and shown.get("Reason") == "BeginTime":
            if life not in self.hurried:
                self.run("scontrol", "update", f"JobId={job}", "StartTime=now+3")
            self.hurried.add(life)

    def wait_end(self, job: str) -> str:
        """Wait until a job has ended for good, through requeues; its state."""

        def ended() -> bool:
            self.hurry(job)
            return self.state(job) in ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT")

        wait_for(ended, f"the end of job {job}")
        return self.state(job)

    def stop(self) -> None:
        """End jobs, daemons and whatever they left."""
        self.run("scancel", "--full", "--signal=KILL", "--user=root")
        children = [c for d in self.daemons.values() if d.poll() is None
                    for c in psutil.Process(d.pid).children(recursive=True)]  # fmt: skip
        for name in reversed(self.daemons):
            self.daemons[name].terminate()
        for name in reversed(self.daemons):
            try:
                self.daemons[name].wait(20)
            except subprocess.TimeoutExpired:
                self.daemons[name].kill()
                self.daemons[name].wait()
        for process in self._leftovers(children):
            process.kill()
        os.environ.pop("SLURM_CONF", None)

    def _leftovers(self, children: list[psutil.Process]) -> Iterator[psutil.Process]:
        """Processes of this cluster's jobs and daemons that still run."""
        yield from (c for c in children if c.is_running())
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("SLURM_CONF") == os.environ["SLURM_CONF"]
            except (psutil.Error, OSError):
                continue
            if mine and "SLURM_JOB_ID" in process.environ() and process.pid != os.getpid():
                yield process

    def _daemon(self, program: str, *args: str, name: str = "") -> None:
        path = _find(program)
        assert path is not None
        with (self.folder / f"{name or program}.out").open("ab") as out:
            self.daemons[name or program] = subprocess.Popen(
                [path, *args], stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster that is gone afterwards, whatever happens."""
    made = Cluster(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def _free_ports(count: int) -> list[int]:
    """Ports outside of the range that outgoing connections take theirs from."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(10000, 20000)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        found.append(port)
    return found
