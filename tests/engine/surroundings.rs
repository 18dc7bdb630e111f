//! The machine that a build happens on: its umask, disks, routes, proxies, kernel settings.

use super::{context, image_workdir, nonce, run_in_image};
use crate::support::{Workdir, alone, require_root, texts};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

/// Runs oardocker after a line of the shell, in namespaces of its own if `unshare` says so.
fn after(workdir: &Workdir, unshare: &[&str], line: &str, args: &str) -> Output {
    let mut command = workdir.around("unshare");
    command.args(unshare).args(["sh", "-ec", &format!("{line}\nexec '{}' {args}", workdir.program().display())]);
    command.output().unwrap()
}

#[track_caller]
fn good(out: &Output) -> String {
    let (stdout, stderr) = texts(out);
    assert!(out.status.success(), "{stdout}\n{stderr}");
    stdout
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    require_root();
    let _alone = alone();
    let dockerfile = "FROM debian:trixie\nCOPY file /a/b/file\nWORKDIR /w/x\nADD file /c/\nVOLUME [\"/data/deep\"]\nRUN mkdir /made\n";
    let workdir = image_workdir("umask", dockerfile);
    context(&workdir, "file", &nonce());
    good(&after(&workdir, &[], "umask 077", "build"));
    let modes = run_in_image(&workdir, "stat -c %a /a /a/b /w /w/x /c /made /etc /tmp");
    assert_eq!(modes, "755\n755\n755\n755\n755\n755\n755\n1777\n");
}

/// What overlayfs does by default is this machine's, so it is only changed for a moment.
struct RedirectsByDefault(String);

const REDIRECT_DIR: &str = "/sys/module/overlay/parameters/redirect_dir";

impl RedirectsByDefault {
    fn set() -> Self {
        let before = fs::read_to_string(REDIRECT_DIR).unwrap();
        fs::write(REDIRECT_DIR, "Y").unwrap();
        Self(before)
    }
}

impl Drop for RedirectsByDefault {
    fn drop(&mut self) {
        fs::write(REDIRECT_DIR, self.0.trim()).unwrap();
    }
}

#[test]
fn directories_are_moved_where_overlayfs_would_redirect() {
    require_root();
    let _alone = alone();
    let line = format!("RUN mv /usr/share/doc /usr/share/moved && echo {} > /usr/share/moved/new\n", nonce());
    let workdir = image_workdir("redirect", &format!("FROM debian:trixie\n{line}"));
    {
        let _redirects = RedirectsByDefault::set();
        workdir.ok(&["build"]);
    }
    assert_eq!(
        run_in_image(&workdir, "ls -d /usr/share/doc /usr/share/moved/base-files 2>/dev/null || true"),
        "/usr/share/moved/base-files\n"
    );
}

/// A disk of the test's own.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount(size: &str) -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        disk.run(&format!("mount -t tmpfs -o size={size} tmpfs $0"));
        disk
    }

    fn run(&self, line: &str) {
        let status = Command::new("sh").args(["-c", line]).arg(self.0.path()).status().unwrap();
        assert!(status.success(), "{line}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_named_and_a_larger_one_goes_on() {
    require_root();
    let _alone = alone();
    let disk = Disk::mount("64m");
    // A base that is in the store of all engines is as good as any, and small.
    let workdir = image_workdir(
        "full-disk",
        &format!("FROM scratch\nCOPY program /bin/sh\nRUN echo {}\nRUN [\"/bin/sh\", \"-c\", \"fill\"]\n", nonce()),
    );
    build_program(&workdir);
    let data = disk.0.path().join("data");
    let run = |args: &[&str]| {
        let mut command = workdir.command(args);
        command
            .env("OARDOCKER_DATA_DIR", &data)
            .env("OARDOCKER_RUNTIME_DIR", format!("{}.full", crate::support::runtime_dir().display()));
        command.output().unwrap()
    };
    let out = run(&["build"]);
    let text = texts(&out).1;
    assert_eq!(out.status.code(), Some(1), "{text}");
    let error = text.lines().find(|l| l.starts_with("Error:")).unwrap_or_else(|| panic!("{text}"));
    let named = format!("the file system tmpfs at {} is full", disk.0.path().display());
    assert!(error.contains(&named) && text.contains("make room there"), "{text}");
    disk.run("mount -o remount,size=1g $0");
    let out = run(&["build"]);
    assert!(good(&out).contains("Using cache"), "what was done is not done again: {}", texts(&out).0);
    good(&run(&["destroy", "-f"]));
}

/// A shell of a kind, as the image is made from nothing: it says what it is asked to, and fills the disk with 100 MB.
fn build_program(workdir: &Workdir) {
    let dir = workdir.root.join(".oardocker/images/one");
    let source = dir.parent().unwrap().join("program.c");
    let text = "#include <fcntl.h>\n#include <stdio.h>\n#include <string.h>\n#include <unistd.h>\nint main(int n, char **words) {\n\
                static char block[1 << 20]; memset(block, 7, sizeof block);\n\
                if (n < 3 || strcmp(words[2], \"fill\")) { puts(words[n - 1]); return 0; }\n\
                int fd = open(\"/big\", O_CREAT | O_WRONLY, 0644);\n\
                for (int i = 0; i < 100; i++) if (write(fd, block, sizeof block) != sizeof block) { perror(\"write\"); return 9; }\n\
                return 0; }\n";
    fs::write(&source, text).unwrap();
    let status = Command::new("gcc").args(["-static", "-o"]).arg(dir.join("program")).arg(&source).status().unwrap();
    assert!(status.success(), "gcc");
    fs::remove_file(source).unwrap();
}

#[test]
fn routes_of_a_vpn_leave_room_and_a_clash_is_named() {
    require_root();
    let _alone = alone();
    let workdir = image_workdir("routes", &format!("FROM debian:trixie\nRUN cat /proc/net/route; echo {}\n", nonce()));
    // The managed containerd, if this is the first to need it, is not in the namespace of the test.
    workdir.ok(&["status"]);
    let vpn = "ip link set lo up; ip link add vpn type bridge; ip addr add 10.9.9.9/32 dev vpn; ip link set vpn up; \
               ip route add 10.0.0.0/8 dev vpn; ip route add 192.168.7.128/25 dev vpn";
    good(&after(&workdir, &["-n"], vpn, "build --no-cache"));
    let text = good(&after(&workdir, &["-n"], vpn, "--network 192.168.8.0/24 build --no-cache"));
    // The kernel tells addresses backwards, in hexadecimal.
    assert!(text.contains("0008A8C0"), "{text}");
    let text = good(&after(
        &workdir,
        &["-n"],
        &format!("{vpn}; export OARDOCKER_NETWORKS=192.168.7.0/24,172.30.0.0/16"),
        "build --no-cache",
    ));
    assert!(text.contains("1EAC"), "{text}");
    let out = after(&workdir, &["-n"], vpn, "--network 192.168.7.0/24 build --no-cache");
    let text = texts(&out).1;
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(
        text.contains("every network in 192.168.7.0/24 is in use: the route 192.168.7.128/25 through vpn"),
        "{text}"
    );
    assert!(text.contains("--network"), "{text}");
    for bad in ["10.1.2.3", "10.1.2.0/16", "fd00::/64", "x"] {
        let text = workdir.fails(2, &["--network", bad, "build"]);
        assert!(text.contains(&format!("{bad:?} is no range of addresses")), "{text}");
    }
}

#[test]
fn a_name_server_that_nobody_reaches_is_told() {
    require_root();
    let _alone = alone();
    let workdir = image_workdir("resolv", &format!("FROM debian:trixie\nRUN echo {}; cat /etc/resolv.conf\n", nonce()));
    workdir.ok(&["status"]);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let stub = file("stub", "nameserver 127.0.0.53\n");
    let hide = format!("mount --bind {stub} /etc/resolv.conf");
    // containerd is not in the namespace, so there is no step to run.
    workdir.ok(&["build"]);
    let out = after(&workdir, &["-m"], &hide, "build");
    good(&out);
    let text = texts(&out).1;
    assert!(text.contains("names no server that hosts and build steps reach (127.0.0.53)"), "{text}");
    // NetworkManager knows one.
    let known = file("known", "nameserver 192.0.2.53\n");
    let hide = format!(
        "{hide}; mount -t tmpfs tmpfs /run/lock; mkdir -p /run/lock/NetworkManager; cp {known} /run/lock/NetworkManager/no-stub-resolv.conf; \
                        mkdir -p /run/NetworkManager; mount --bind /run/lock/NetworkManager /run/NetworkManager"
    );
    let made = !Path::new("/run/NetworkManager").exists();
    let out = after(&workdir, &["-m"], &hide, "build");
    if made {
        fs::remove_dir("/run/NetworkManager").unwrap();
    }
    good(&out);
    assert!(!texts(&out).1.contains("names no server"), "{}", texts(&out).1);
}

/// A proxy on loopback that answers everything itself.
fn proxy(answer: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 2048]);
            let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{answer}\n");
        }
    });
    port
}

#[test]
fn steps_have_the_caller_s_proxies_and_images_do_not() {
    require_root();
    let _alone = alone();
    let answer = nonce();
    let port = proxy(answer.clone());
    let workdir = image_workdir(
        "proxy",
        &format!(
            "FROM debian:trixie\nRUN echo {answer} > /one\nRUN bash -c 'hostport=${{http_proxy#http://}}; \
             exec 3<>/dev/tcp/${{hostport%:*}}/${{hostport#*:}}; printf \"GET http://far.test/ HTTP/1.0\\r\\n\\r\\n\" >&3; tail -n 1 <&3' > /answer; \
             echo $NO_PROXY >> /answer; env | grep -c http_proxy >> /answer\n"
        ),
    );
    workdir.ok(&["status"]);
    for host in ["localhost", "127.0.0.1"] {
        let mut build = workdir.command(&["build", "--no-cache"]);
        good(&build.env("http_proxy", format!("http://{host}:{port}")).env("NO_PROXY", "mirror.lab").output().unwrap());
        assert_eq!(
            run_in_image(&workdir, "cat /answer; env | grep -ci proxy || true"),
            format!("{answer}\nmirror.lab\n1\n0\n")
        );
    }
    // They are no reason to do a step again.
    let mut again = workdir.command(&["build"]);
    let text = good(&again.env("http_proxy", "http://127.0.0.1:1").output().unwrap());
    assert_eq!(text.matches("Using cache").count(), 2, "{text}");
}
