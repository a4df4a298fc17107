"""Configuration files of the loopback cluster, as templates; loopback.py fills them in."""

# cred_expire cannot be less than 5 s, a requeued job waits for it, and KillWait has to be less than it.
SLURM_CONF = """\
ClusterName=loopback
# ids must not repeat after a purge: log files are named after them
FirstJobId=$first_job_id
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller_port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$lab/run/munge.sock,cred_expire=5
StateSaveLocation=$lab/state
SlurmdSpoolDir=$lab/spool/%n
SlurmctldPidFile=$lab/run/slurmctld.pid
SlurmdPidFile=$lab/run/slurmd-%n.pid
SlurmctldLogFile=$lab/log/slurmctld.log
SlurmdLogFile=$lab/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
PropagateResourceLimits=NONE
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,requeue_delay=1
PriorityType=priority/basic
DefMemPerCPU=100
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
$controller_parameters
SlurmctldTimeout=30
MessageTimeout=4
SlurmdTimeout=20
ReturnToService=1
KillWait=2
MinJobAge=300
InactiveLimit=0
Waittime=0
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
$accounting
JobCompType=jobcomp/none
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=$nodes NodeHostname=$host NodeAddr=127.0.0.1 Port=$node_ports CPUs=$cpus Boards=1 SocketsPerBoard=1 \
CoresPerSocket=$cpus ThreadsPerCore=1 RealMemory=16000 Gres=gpu:toy:4 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=120 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=25
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""

ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$database_daemon_port
AccountingStoragePass=$lab/run/munge.sock
AccountingStorageTRES=gres/gpu"""

# A character device per fake GPU, all of which every Linux has.
GRES_CONF = "AutoDetect=off\n" + "".join(
    f"NodeName=$nodes Name=gpu Type=toy File=/dev/{device}\n" for device in ("null", "zero", "full", "random")
)

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket=$lab/run/munge.sock
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=$database_daemon_port
SlurmUser=root
PidFile=$lab/run/slurmdbd.pid
LogFile=$lab/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$database_port
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""

MARIADB_CONF = """\
[mysqld]
user=root
datadir=$lab/mysql
socket=$lab/run/mysqld.sock
pid-file=$lab/run/mariadbd.pid
log-error=$lab/log/mariadbd.log
bind-address=127.0.0.1
port=$database_port
skip-name-resolve
skip-log-bin
performance-schema=OFF
innodb-buffer-pool-size=64M
innodb-log-file-size=16M
innodb-lock-wait-timeout=900
innodb-flush-log-at-trx-commit=0
innodb-flush-method=nosync
innodb-use-native-aio=0
init-file=$lab/etc/users.sql
"""

USERS_SQL = """\
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE OR REPLACE USER 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';
"""

FILES = {
    "slurm.conf": SLURM_CONF,
    "gres.conf": GRES_CONF,
    "slurmdbd.conf": SLURMDBD_CONF,
    "my.cnf": MARIADB_CONF,
    "users.sql": USERS_SQL,
}
