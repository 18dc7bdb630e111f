//! Suites that are in Debian's archive only, which the tests cannot reach: what can be tested without it.

use crate::support::{Workdir, alone, assert_same_state, host_state, require_root};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// Runs a shell script in a folder; whether it succeeded, and all it said.
fn shell(dir: &Path, script: &str) -> (bool, String) {
    let out = Command::new("sh")
        .args(["-ec", &format!("exec 2>&1; export GNUPGHOME={}/gnupg; {script}", dir.display())])
        .current_dir(dir)
        .output()
        .unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A repository that was signed in 2020 with a key that expired in 2021, as apt finds it with and without our gpgv.
#[test]
fn apt_accepts_an_expired_key_and_nothing_else() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    let done = shell(
        dir,
        "mkdir -m 700 gnupg; mkdir -p repo/dists/old/main/binary-amd64
         gpg='gpg --batch -q --yes --faked-system-time'
         $gpg 20200101T000000 --passphrase '' --quick-generate-key 'Old <old@example.org>' rsa2048 sign 1y
         $gpg 20200101T000000 --export > key.gpg
         printf 'Package: x\\nVersion: 1\\nArchitecture: all\\nFilename: x.deb\\nSize: 1\\n' \\
             > repo/dists/old/main/binary-amd64/Packages
         cd repo/dists/old
         release='-o APT::FTPArchive::Release::Codename=old -o APT::FTPArchive::Release::Components=main'
         apt-ftparchive $release -o APT::FTPArchive::Release::Architectures=amd64 release . > ../Release
         mv ../Release .
         $gpg 20200601T000000 --clearsign -o InRelease Release
         gpgconf --kill all",
    );
    assert!(done.0, "{}", done.1);
    let gpgv = dir.join("gpgv_expired_keys");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("images/debian/gpgv_expired_keys"), &gpgv).unwrap();
    fs::set_permissions(&gpgv, fs::Permissions::from_mode(0o755)).unwrap();
    let root = dir.display();
    fs::write(dir.join("sources.list"), format!("deb [signed-by={root}/key.gpg] file:{root}/repo old main\n")).unwrap();
    let update = |options: &str| {
        let script = format!(
            "rm -rf lists cache; mkdir -p lists/partial cache/archives/partial
             apt-get -q --error-on=any -o Dir::Etc::SourceList=$PWD/sources.list -o Dir::Etc::SourceParts=/dev/null \
                 -o Dir::State::Lists=$PWD/lists -o Dir::Cache=$PWD/cache -o APT::Sandbox::User=root \
                 -o APT::Architecture=amd64 {options} update"
        );
        shell(dir, &script)
    };
    let ours = format!("-o Apt::Key::gpgvcommand={}", gpgv.display());
    let (accepted, text) = update(&ours);
    assert!(accepted, "{text}");
    // apt 3 asks sqv, to which a key counts that was valid when it signed.
    if !Path::new("/usr/bin/sqv").exists() {
        let (accepted, text) = update("");
        assert!(!accepted && text.contains("EXPKEYSIG"), "{text}");
    }
    // The wrapper says what gpgv says, through whatever file descriptor it is told to.
    for fd in ["1", "3", "12"] {
        let (ok, text) = shell(
            dir,
            &format!(
                "bash -c '{} --status-fd {fd} --keyring $PWD/key.gpg repo/dists/old/InRelease {fd}>&1'",
                gpgv.display()
            ),
        );
        assert!(ok && text.contains("[GNUPG:] GOODSIG") && text.contains("[GNUPG:] VALIDSIG"), "{fd}: {text}");
        assert!(!text.contains("KEYEXPIRED"), "{fd}: {text}");
    }

    let release = dir.join("repo/dists/old/InRelease");
    let signed = fs::read_to_string(&release).unwrap();
    fs::write(&release, signed.replace("Codename: old", "Codename: new")).unwrap();
    let (accepted, text) = update(&ours);
    assert!(!accepted && text.contains("BADSIG"), "a changed file must be refused: {text}");
    fs::write(&release, &signed).unwrap();
    assert!(update(&ours).0);
    // A key that is not trusted, expired or not.
    let other = shell(
        dir,
        "gpg --batch -q --faked-system-time 20200101T000000 --passphrase '' --quick-generate-key Other rsa2048 sign 1y
         gpg --batch -q --faked-system-time 20200101T000000 --export Other > key.gpg; gpgconf --kill all",
    );
    assert!(other.0, "{}", other.1);
    let (accepted, text) = update(&ours);
    assert!(!accepted && text.contains("NO_PUBKEY"), "{text}");
}

#[test]
fn a_mirror_that_cannot_be_reached_is_named() {
    require_root();
    let _alone = alone();
    let workdir = Workdir::named("stretch");
    workdir.ok(&["init", "-f", "-e", "stretch"]);
    let before = host_state();
    let out = workdir.command(&["build"]).env("OARDOCKER_MIRROR", "http://127.0.0.1:9/debian").output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert_eq!(text.matches("Error:").count(), 1, "one error only: {text}");
    for expected in [
        "cannot bootstrap debian:stretch from http://127.0.0.1:9/debian",
        "hint: can this machine reach http://127.0.0.1:9/debian? OARDOCKER_MIRROR names another one",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    assert_same_state(&before, &host_state());
}
