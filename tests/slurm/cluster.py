"""A real Slurm cluster of two nodes on one machine: controller, two node daemons and munge, in one temporary folder.

All run in the foreground as children of the test process and as its user: no system file is touched, no service is
started, and nothing is left behind. The nodes share the machine's address and differ in their ports. The first has
the machine's own name, for that is the name that its ranks meet at and it must resolve.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

PROGRAMS = ("sbatch", "srun", "scontrol", "squeue", "slurmctld", "slurmd", "munged")
INSTALL = "apt-get install -y --no-install-recommends slurm-wlm munge"
PATHS = ("/usr/sbin", "/sbin")  # of daemons; not in every user's PATH
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
STABLE = 8  # times in a row that a job is asked for its state, a quarter of a second apart
T = TypeVar("T")

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/%n
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
PlugStackConfig=/dev/null
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=30
InactiveLimit=0
NodeName={names[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4000
NodeName={names[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def what_is_missing() -> str | None:
    """Say why no cluster can be started here; None where one can."""
    missing = [name for name in PROGRAMS if find(name) is None]
    if missing:
        return f"needs Slurm: {', '.join(missing)} not found; `{INSTALL}` as root, or `make test-slurm INSTALL=1`"
    host = socket.gethostname().split(".")[0]
    try:
        socket.gethostbyname(host)
    except OSError:
        return f"needs a machine whose own name ({host}) resolves; add it to /etc/hosts"
    return None


def find(program: str) -> str | None:
    """Return the path of a program or daemon."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), *PATHS]))


def free_ports(count: int) -> list[int]:
    """Return port numbers that nobody listens on."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def wait_until(ask: Callable[[], T], seconds: float, what: str) -> T:
    """Ask again and again until the answer is true, and return it."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < end, f"{what} did not happen in {seconds} s"
        time.sleep(0.25)
    return answer


class Cluster:
    """The running cluster; use it in a ``with``."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: the path of a Unix socket has at most 107 bytes
        host = socket.gethostname().split(".")[0]
        self.nodes = (host, f"{host}-second")
        self.config = self.folder / "slurm.conf"
        # not the environment of a job that the tests themselves may run in
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
        self.environment = {**outside, "SLURM_CONF": str(self.config)}
        self._daemons: list[subprocess.Popen[bytes]] = []
        names = {"folder": self.folder, "host": host, "user": getpass.getuser(), "names": self.nodes}
        self.config.write_text(CONFIG.format(ports=free_ports(3), **names))

    def __enter__(self) -> Cluster:
        """Start all daemons; return when both nodes are idle."""
        for name in ("state", *self.nodes):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        files = {"key-file": key, "socket": self.folder / "munge.socket", "log-file": self.folder / "munged.log"}
        files |= {"pid-file": self.folder / "munged.pid", "seed-file": self.folder / "munge.seed"}
        try:
            self._start("munged", "--foreground", "--force", *(f"--{name}={file}" for name, file in files.items()))
            wait_until(files["socket"].exists, 10, "munge's start")
            self._start("slurmctld", "-D", "-c", "-i")
            for node in self.nodes:
                self._start("slurmd", "-D", "-N", node)
            wait_until(self._is_idle, 30, f"the start of both nodes (see {self.folder})")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing running, and no file."""
        self.stop()
        shutil.rmtree(self.folder)

    def stop(self) -> None:
        """Cancel all jobs, stop the daemons in the opposite order of their start, then whatever they left behind."""
        for job in self.call("squeue", "-h", "-o", "%i").split():
            self.call("scancel", "--full", "--signal=KILL", job)
            self.call("scancel", job)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
        for process in self.processes():
            os.kill(process, signal.SIGKILL)

    def call(self, program: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """Run one of Slurm's commands and return what it prints; its complaints with it."""
        path = find(program)
        assert path is not None
        done = subprocess.run(
            [path, *arguments],
            env={**self.environment, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """Return what the controller knows of a job: JobState, Restarts, ExitCode and so on."""
        words = self.call("scontrol", "show", "job", "-o", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for_end(self, number: str, seconds: float) -> str:
        """Wait until a job has ended for good, and return its state; a requeued one need not wait its two minutes.

        Slurm has it wait because the controller takes what is left of the last start for a part of the next one.
        """
        seen = [""]

        def ask() -> str:
            job = self.job(number)
            seen.append(job.get("JobState", ""))
            is_waiting = seen[-STABLE:] == ["PENDING"] * STABLE and job.get("Restarts") != "0"
            if is_waiting and not self._is_ending(number):
                self.call("scontrol", "update", f"JobId={number}", "StartTime=now")
            return seen[-1] if seen[-1] in ENDED and seen[-STABLE:] == [seen[-1]] * STABLE else ""

        return wait_until(ask, seconds, f"the end of job {number} ({self.job(number)})")

    def processes(self) -> list[int]:
        """Return the processes of this cluster, by the configuration that is in their environment."""
        mark = f"SLURM_CONF={self.config}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes()
            except OSError:  # it has ended, or is somebody else's
                continue
            if mark in environment.split(b"\0"):
                found.append(int(folder.name))
        return found

    def _is_ending(self, number: str) -> bool:
        for process in self.processes():
            with contextlib.suppress(OSError):  # it has ended by now
                if Path(f"/proc/{process}/cmdline").read_bytes().startswith(f"slurmstepd: [{number}.".encode()):
                    return True
        return False

    def _start(self, program: str, *arguments: str) -> None:
        path = find(program)
        assert path is not None
        with (self.folder / f"{program}{len(self._daemons)}.log").open("wb") as log:
            daemon = subprocess.Popen([path, *arguments], env=self.environment, stdout=log, stderr=log)
        self._daemons.append(daemon)

    def _is_idle(self) -> bool:
        for daemon in self._daemons:
            assert daemon.poll() is None, f"{daemon.args!r} has ended; see {self.folder}"
        return self.call("sinfo", "-h", "-N", "-o", "%t").split() == ["idle", "idle"]
