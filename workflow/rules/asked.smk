"""What a run asks of the machine or of a cluster, as the plan has told it."""

# How many devices a node has: `--resources ranks_per_node=8`, or a profile. Jobs inherit it.
RANKS_PER_NODE = "LOMO_RANKS_PER_NODE"
if "ranks_per_node" in workflow.global_resources:
    os.environ[RANKS_PER_NODE] = str(workflow.global_resources["ranks_per_node"].value)


def num_devices_of(wildcards):
    """How many devices the run is spread over."""
    return run_of(wildcards).num_devices


@known
def nodes_of(wildcards):
    """How many nodes: as few as hold its ranks evenly."""
    num_devices = num_devices_of(wildcards)
    least = -(-num_devices // int(os.environ.get(RANKS_PER_NODE, num_devices)))
    return next(nodes for nodes in range(least, num_devices + 1) if num_devices % nodes == 0)


def several_nodes(value):
    """`value` of the run's nodes where they are several; else nothing is asked for."""
    return known(lambda wildcards: value(nodes) if (nodes := nodes_of(wildcards)) > 1 else None)


def told_of(name):
    """Host memory or minutes of a run. Of memory, each node is asked for its share."""

    def told(wildcards):
        run = run_of(wildcards)
        value = resources_of(Path(ESTIMATES), run.run_id, run.timeout_s)[name]
        return -(-value // nodes_of(wildcards)) if name == "mem_mb" else value

    return known(told)


@known
def _threads_of(wildcards):
    return PLAN.study.num_threads * num_devices_of(wildcards) // nodes_of(wildcards)


# What is the same for every run is said once: to ask ten thousand jobs for it takes seconds.
SPREAD = any(run.num_devices > 1 for run in PLAN.runs.values())
# CPU threads of a run, on each of its nodes.
threads_of = _threads_of if SPREAD else PLAN.study.num_threads


@known
def measured_threads(wildcards):
    """All cores of this machine: a measured run has it alone. On a cluster it has a node alone."""
    return workflow.cores if on_this_machine() else _threads_of(wildcards)


OF_DEVICES = dict(
    # Of none nothing is said: Kubernetes' plugin would ask of whom they are.
    gpu=known(lambda wildcards: GPUS_A_RUN * num_devices_of(wildcards) or None),
    nodes=nodes_of,
    # Of several nodes the first has the job and starts a launcher on each (`--nodes`): what Slurm's
    # plugin calls an MPI job.
    mpi=several_nodes(lambda nodes: "srun"),
    tasks=several_nodes(lambda nodes: nodes),
    tasks_per_gpu=several_nodes(lambda nodes: 0),
)
if not SPREAD:
    OF_DEVICES = {"nodes": 1, **({"gpu": GPUS_A_RUN} if GPUS_A_RUN else {})}
OF_A_RUN = dict(mem_mb=told_of("mem_mb"), runtime=told_of("runtime"), **OF_DEVICES)
