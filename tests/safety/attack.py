"""attack.py MAJOR MINOR own|host: what the root of a node tries against the host. A line for each attempt: "refused" or "WORKED"."""
import ctypes, errno, os, subprocess, sys

libc = ctypes.CDLL(None, use_errno=True)
major, minor = int(sys.argv[1]), int(sys.argv[2])
# Whether the node has a user namespace.
own_ids = sys.argv[3] == "own"


def attempt(what, action):
    try:
        result = action()
    except OSError as e:
        return print("refused", what, "-", e.strerror)
    except subprocess.CalledProcessError as e:
        return print("refused", what, "-", (e.stderr or b"").decode().strip())
    print("WORKED" if result is not False else "refused", what, "-", result)


def run(*words):
    return lambda: subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout


def write(path, text):
    def action():
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    return action


def call(number, *args):
    """A system call; refused means that it was refused as such, not for its arguments."""
    def action():
        if libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args]) >= 0:
            return True
        error = ctypes.get_errno()
        if error in (errno.EPERM, errno.ENOSYS):
            raise OSError(error, os.strerror(error))
        return os.strerror(error)
    return action


os.makedirs("/mnt/x", exist_ok=True)

# Devices: allowing, making, opening and mounting them.
for kind in "b", "c":
    for rule in "%s %d:%d rwm" % (kind, major, minor), "%s *:* rwm" % kind, "a *:* rwm", "a":
        attempt("allow " + rule, write("/dev/oar_cgroups_links/devices/devices.allow", rule))
attempt("devices of a cgroup mounted anew",
        lambda: (run("mount", "-t", "cgroup", "-o", "devices", "devices", "/mnt/x")(),
                 write("/mnt/x/devices.allow", "b %d:%d rwm" % (major, minor))()))
subprocess.run(["umount", "/mnt/x"], stderr=subprocess.DEVNULL)
attempt("mknod of a disk", run("mknod", "/root/disk", "b", str(major), str(minor)))
attempt("mknod of memory", run("mknod", "/root/mem", "c", "1", "1"))
attempt("open a disk that is in a shared folder", lambda: os.open("/shared/disk", os.O_RDONLY))
attempt("write to it", lambda: os.open("/shared/disk", os.O_WRONLY))
attempt("mount it", run("mount", "/shared/disk", "/mnt/x"))
attempt("cp of it as a device", run("cp", "-a", "/shared/disk", "/root/copy"))

# What of /proc/sys belongs to the host.
opened = []
for top, _, names in os.walk("/proc/sys"):
    for name in names:
        try:
            os.close(os.open(os.path.join(top, name), os.O_WRONLY))
            opened.append(os.path.join(top, name))
        except OSError:
            pass
# What of it is the node's own network, or the names of its own namespaces, is no matter.
opened = [f for f in opened if not (own_ids and f.startswith(("/proc/sys/net/", "/proc/sys/user/")))]
print("WORKED open " + " ".join(opened[:5]) if opened else "refused every file of /proc/sys")
attempt("core_pattern", write("/proc/sys/kernel/core_pattern", "|/tmp/evil"))
attempt("swappiness", write("/proc/sys/vm/swappiness", "60"))
attempt("sysrq", write("/proc/sysrq-trigger", "h"))
attempt("kernel memory", lambda: os.open("/proc/kcore", os.O_RDONLY) and len(os.read(os.open("/proc/kcore", os.O_RDONLY), 1)) > 0)

# A program that the kernel runs on the host when a cgroup gets empty.
for base in filter(os.path.isdir, ("/dev/oar_cgroups_links", "/sys/fs/cgroup")):
    for top in sorted(os.listdir(base)):
        for name in "release_agent", "notify_on_release":
            path = os.path.join(base, top, name)
            if name == "release_agent":
                attempt(path, write(path, "/tmp/evil"))
attempt("a hierarchy of its own", run("mount", "-t", "cgroup", "-o", "none,name=evil,release_agent=/tmp/evil", "none", "/mnt/x"))
attempt("a remounted hierarchy",
        run("mount", "-o", "remount,release_agent=/tmp/evil", "/dev/oar_cgroups_links/cpuset"))

# System calls, by their numbers on x86_64.
if os.uname().machine == "x86_64":
    attempt("keyctl", call(250, 0, -4, 0))
    attempt("add_key", call(248, b"user", b"x", b"y", 1, -4))
    attempt("request_key", call(249, b"user", b"x", None, -4))
    attempt("syslog", call(103, 3, None, 0))
    attempt("perf_event_open", call(298, None, 0, -1, -1, 0))
    attempt("fanotify_init", call(300, 0, 0))
    attempt("open_by_handle_at", call(304, -100, None, 0))
    attempt("swapon", call(167, b"/root/none", 0))
    attempt("swapoff", call(168, b"/root/none"))
    attempt("quotactl", call(179, 0, None, 0, None))
    attempt("acct", call(163, None))
    attempt("kexec_load", call(246, 0, 0, None, 0))
    # BPF_PROG_DETACH, BPF_PROG_TEST_RUN, BPF_PROG_GET_FD_BY_ID, BPF_RAW_TRACEPOINT_OPEN, BPF_LINK_CREATE, and with bits too many.
    for command in 9, 10, 13, 17, 28, 99, (1 << 32) | 9, (1 << 32) | 17:
        attempt("bpf %d" % command, call(321, command, None, 0))
    # io_uring_setup, userfaultfd, clock_settime, kcmp: what reaches far into the kernel.
    if own_ids:
        attempt("io_uring_setup", call(425, 1, None))
        attempt("userfaultfd", call(323, 0))
        attempt("clock_settime", call(227, 0, None))
        attempt("kcmp", call(312, 1, 1, 0, 0, 0))
        attempt("bpf 0", call(321, 0, None, 0))
        attempt("a socket to the host of a virtual machine", lambda: libc.socket(40, 1, 0) >= 0)
attempt("time", run("date", "-s", "2001-01-01"))
attempt("modules", call(175, None, 0, b"") if os.uname().machine == "x86_64" else run("modprobe", "dummy"))
attempt("a lower score for the killer of processes", write("/proc/self/oom_score_adj", "-1000"))
attempt("a better priority", lambda: own_ids and os.nice(-5) < 0)

# What only user namespaces can close: docs/security.md has to tell of each that works where there are none.
def opens(kind, action):
    try:
        action()
        print("open " + kind)
    except (OSError, subprocess.CalledProcessError) as e:
        print("refused", kind, "-", e)
    subprocess.run(["umount", "/mnt/x"], stderr=subprocess.DEVNULL)


def mounted(kind):
    run("mount", "-t", kind, "none", "/mnt/x")()


def writable(top, own):
    """The files below that can be opened for writing, but for those of namespaces that are the node's."""
    found = []
    for path, _, names in os.walk(top):
        for name in names:
            file = os.path.join(path, name)
            if os.path.relpath(file, top).startswith(own):
                continue
            try:
                os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))
                found.append(file)
            except OSError:
                pass
    return found


def a_writable(kind, below, own):
    def action():
        mounted(kind)
        found = writable("/mnt/x/" + below, own)
        if not found:
            raise OSError(errno.EACCES, "mounted, and nothing of the host can be written there")
        print("  " + " ".join(found[:5]))
    return action


# In a user namespace a bpf is the namespace's own.
for kind in ["debugfs", "tracefs", "devtmpfs", "configfs", "securityfs", "pstore", "efivarfs"] + ([] if own_ids else ["bpf"]):
    opens(kind, lambda: mounted(kind))
# Network, System V's memory and queues, names, processes and limits of the node's own namespaces.
opens("proc", a_writable("proc", "sys", ("net/", "user/", "fs/mqueue/", "kernel/msg", "kernel/shm", "kernel/sem", "kernel/auto_msgmni",
                                         "kernel/hostname", "kernel/domainname", "kernel/ns_last_pid", "kernel/ipc", "kernel/pid_max")))
opens("sysfs", a_writable("sysfs", "", ("class/net/", "devices/virtual/net/")))

if own_ids:
    # Limits of its own, on each hierarchy; and the way up.
    for base in filter(os.path.isdir, ("/dev/oar_cgroups_links", "/sys/fs/cgroup")):
        tops = [os.path.join(base, top) for top in sorted(os.listdir(base))] if base.startswith("/dev") else [base]
        for top in filter(os.path.isdir, tops):
            for name in "cpuset.cpus", "cpu.shares", "memory.limit_in_bytes", "pids.max", "cpu.max", "memory.max", "freezer.state", "cgroup.freeze":
                path = os.path.join(top, name)
                if os.path.exists(path):
                    attempt("a limit of its own, " + path, write(path, "max"))
            attempt("a cgroup above, " + top, lambda: os.mkdir(os.path.join(top, "..", "evil")) if not os.path.ismount(top) else False)

    # What is shared read-only stays so.
    for place in "/readonly", "/var/lib/container/init-scripts", "/var/lib/container/nodes":
        if not os.path.exists(place):
            continue
        attempt("a writable " + place, lambda: (run("mount", "-o", "remount,rw,bind", place)(), os.access(place, os.W_OK))[1])
        attempt("a new name for " + place, lambda: (
            open("/mnt/file", "w").close(),
            run("mount", "--bind", place, "/mnt/file" if os.path.isfile(place) else "/mnt/x")(),
            run("mount", "-o", "remount,rw,bind", "/mnt/file" if os.path.isfile(place) else "/mnt/x")(),
            os.access("/mnt/file" if os.path.isfile(place) else "/mnt/x", os.W_OK))[3])
        subprocess.run(["umount", "/mnt/x"], stderr=subprocess.DEVNULL)
        subprocess.run(["umount", "/mnt/file"], stderr=subprocess.DEVNULL)
    # The filesystem that a shared folder is on.
    FIFREEZE = 0xC0045877
    import fcntl
    def freeze():
        fd = os.open("/shared", os.O_RDONLY)
        fcntl.ioctl(fd, FIFREEZE, 0)
        fcntl.ioctl(fd, 0xC0045878, 0)
    attempt("freeze the filesystem of a shared folder", freeze)
    attempt("remount it", run("mount", "-o", "remount,ro", "/shared"))
    attempt("give a file there to the host's root", lambda: (open("/shared/mine", "w").close(), os.chown("/shared/mine", 65534, 65534)) and os.chown("/shared/mine", 100000, 100000))
    attempt("write to what is root's there", write("/shared/of-root", "x"))
    attempt("become an id beyond its own", lambda: os.setresuid(70000, 70000, 70000))
    # Sockets without a path are those of its own network.
    names = [l.split()[-1] for l in open("/proc/net/unix") if " @" in l]
    print(("WORKED " if any("containerd" in n or "docker" in n or "podman" in n for n in names) else "refused ") + "abstract sockets of the host")
    print(("WORKED " if any(os.path.exists(p) for p in ("/run/containerd", "/run/docker.sock", "/run/podman", "/run/oardocker")) else "refused ") + "sockets of the host")
    # Processes of the host and of other nodes have no number here.
    others = [p for p in os.listdir("/proc") if p.isdigit() and not os.path.exists("/proc/%s/root/var/lib/container" % p) and os.path.exists("/proc/%s/exe" % p)]
    print(("WORKED ptrace of " + " ".join(others)) if others else "refused processes that are not the node's")
    # A namespace of its own in its own gives no more than it has.
    nested = "mount --bind /proc/sys /mnt/x && mount -o remount,rw,bind /mnt/x && echo x > /mnt/x/kernel/core_pattern"
    attempt("nested namespaces", run("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", nested))
    owner = os.stat("/shared/of-root").st_uid
    print("refused" if owner == 65534 else "WORKED", "to be the host's root, who is account", owner)
