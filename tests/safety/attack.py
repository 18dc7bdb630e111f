"""attack.py MAJOR MINOR: what the root of a node tries against the host. A line for each attempt: "refused" or "WORKED"."""
import ctypes, errno, os, subprocess, sys

libc = ctypes.CDLL(None, use_errno=True)
major, minor = int(sys.argv[1]), int(sys.argv[2])


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
print("WORKED open " + " ".join(opened[:5]) if opened else "refused every file of /proc/sys")
attempt("core_pattern", write("/proc/sys/kernel/core_pattern", "|/tmp/evil"))
attempt("swappiness", write("/proc/sys/vm/swappiness", "60"))
attempt("sysrq", write("/proc/sysrq-trigger", "h"))
attempt("kernel memory", lambda: os.open("/proc/kcore", os.O_RDONLY) and len(os.read(os.open("/proc/kcore", os.O_RDONLY), 1)) > 0)

# A program that the kernel runs on the host when a cgroup gets empty.
for base in "/dev/oar_cgroups_links", "/sys/fs/cgroup":
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
# What only user namespaces can close: docs/security.md has to tell of each that works.
for kind in "debugfs", "tracefs", "devtmpfs", "sysfs", "proc":
    mounted = subprocess.run(["mount", "-t", kind, "none", "/mnt/x"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(("open " if mounted.returncode == 0 else "refused ") + kind)
    subprocess.run(["umount", "/mnt/x"], stderr=subprocess.DEVNULL)
attempt("time", run("date", "-s", "2001-01-01"))
attempt("modules", call(175, None, 0, b"") if os.uname().machine == "x86_64" else run("modprobe", "dummy"))
