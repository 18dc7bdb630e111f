//! Running a process on a host of the cluster: as whom, where, with which variables.

use super::containers;
use super::files::Files;
use crate::engine::io::{Chunk, Session, Stdin};
use crate::engine::{ContainerInfo, Engine, ProcessSpec, State};
use crate::error::{Error, Result};
use crate::host::{Accounts, IDS};
use crate::rooted::Root;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

/// Where programs are, in the order of a Debian root's PATH.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a user wants to run.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Login name or number.
    pub user: String,
    /// Directory; `~` is the user's home.
    pub workdir: String,
    /// Program and arguments.
    pub args: Vec<String>,
    /// Columns and rows of its terminal, if it has one.
    pub terminal: Option<(u16, u16)>,
    /// Variables of the host's image, as in `PATH=/bin`.
    pub image_env: Vec<String>,
    /// Variables of the cluster and of the caller's terminal.
    pub envs: Vec<(String, String)>,
}

/// Finds a running host.
pub async fn host(engine: &dyn Engine, files: &Files, env_id: &str, name: &str) -> Result<ContainerInfo> {
    let mut known = containers(engine, env_id).await?;
    if known.is_empty() {
        super::require_its_engine(engine, files)?;
        return Err(Error::new("the cluster is not running").hint("run `oardocker start` first"));
    }
    let names = known.keys().cloned().collect::<Vec<_>>().join(", ");
    let found = known.remove(name).ok_or_else(|| {
        Error::new(format!("there is no host {name} in this cluster")).hint(format!("hosts: {names}"))
    })?;
    if found.state != State::Running {
        return Err(Error::new(format!("{name} does not run")).hint(format!("run `oardocker reset {name}`")));
    }
    Ok(found)
}

/// Turns a wish into a process of this host.
pub fn process(container: &ContainerInfo, wish: &Wish) -> Result<ProcessSpec> {
    let root = Root::open(Path::new(&format!("/proc/{}/root", container.pid)))?;
    let accounts = Accounts::read(&root)?;
    let user = accounts.user(&wish.user)?;
    if container.ids().is_some() && user.uid.max(user.gid) >= IDS {
        return Err(Error::new(format!(
            "{} has the number {}, and hosts with ids of their own have them up to {}",
            user.name,
            user.uid.max(user.gid),
            IDS - 1
        ))
        .hint("start the cluster with the host's: oardocker start --userns=off"));
    }
    let cwd = match wish.workdir.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{}{rest}", user.home),
        _ => wish.workdir.clone(),
    };
    if !cwd.starts_with('/') || !root.is_dir(Path::new(&cwd)) {
        return Err(Error::new(format!("there is no directory {cwd} on this host"))
            .hint("name another one with --workdir DIRECTORY"));
    }
    let shell = accounts.shell(&user).unwrap_or("/bin/sh");
    let own = [("HOME", user.home.as_str()), ("USER", &user.name), ("LOGNAME", &user.name), ("SHELL", shell)];
    let mut env = BTreeMap::from([("PATH", PATH)]);
    env.extend(wish.image_env.iter().filter_map(|e| e.split_once('=')));
    env.extend(own);
    env.extend(wish.envs.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    check_program(&root, &cwd, env["PATH"], &wish.args)?;
    let env = env.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
    Ok(ProcessSpec {
        args: wish.args.clone(),
        env,
        cwd,
        uid: user.uid,
        gid: user.gid,
        // A host with ids of its own has no others, and files of theirs are nobody's.
        groups: user.groups.into_iter().filter(|group| container.ids().is_none() || *group < IDS).collect(),
        terminal: wish.terminal,
    })
}

/// Where a Debian root has descriptions of terminals.
const TERMINFO: [&str; 3] = ["/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo"];

/// The name of a terminal that programs of this host know: that of the user's, or of one that is most like it.
pub fn terminal(container: &ContainerInfo, wanted: &str) -> Result<String> {
    let root = Root::open(Path::new(&format!("/proc/{}/root", container.pid)))?;
    let known = |name: &str| {
        let Some(first) = name.chars().next().filter(|_| !name.contains('/')) else { return false };
        TERMINFO.iter().any(|dir| root.is_file(&Path::new(dir).join(first.to_string()).join(name)))
    };
    let others = ["xterm-256color", "xterm"];
    let found = [wanted].into_iter().chain(others).find(|name| known(name));
    // A host that knows none has no programs that look there.
    Ok(found.unwrap_or(wanted).to_owned())
}

/// Says before anything is run that it is not there, or no program: each engine has a long story of its own about that.
fn check_program(root: &Root, cwd: &str, path: &str, args: &[String]) -> Result<()> {
    let program = args.first().map_or("", |a| a);
    let places: Vec<PathBuf> = if program.contains('/') {
        vec![Path::new(cwd).join(program)]
    } else {
        path.split(':').map(|dir| Path::new(cwd).join(dir).join(program)).collect()
    };
    let found: Vec<u32> = places.iter().filter_map(|path| root.mode(path)).collect();
    let runs = |mode: &u32| mode & nix::libc::S_IFMT == nix::libc::S_IFREG && mode & 0o111 != 0;
    if found.iter().any(runs) {
        Ok(())
    } else if found.is_empty() {
        let error = Error::new(format!("{program}: command not found")).code(127);
        let hint =
            || format!("several words are run as they are; for the shell, quote them as one: '{}'", args.join(" "));
        Err(if args.len() > 1 { error.hint(hint()) } else { error })
    } else {
        Err(Error::new(format!("{program}: permission denied")).code(126))
    }
}

/// How much a program of ours on a host may say, in bytes, and how long it may take: the host may have another one in its place.
const MOST: usize = 1 << 20;
const LONGEST: Duration = Duration::from_secs(180);

/// Runs something as root and collects exit code, output and errors.
pub async fn capture(engine: &dyn Engine, id: &str, args: &[&str]) -> Result<(u32, String, String)> {
    capture_within(LONGEST, engine, id, args).await
}

/// The same, for no longer than this.
pub async fn capture_within(
    longest: Duration,
    engine: &dyn Engine,
    id: &str,
    args: &[&str],
) -> Result<(u32, String, String)> {
    captured(longest, engine, id, &of_ours(args), None).await
}

/// As [`capture`], of a program that reads this.
pub async fn capture_fed(engine: &dyn Engine, id: &str, args: &[&str], input: &[u8]) -> Result<(u32, String, String)> {
    let (sender, receiver) = mpsc::channel(1);
    sender.send(input.to_vec()).await.map_err(|_| Error::new("nobody reads"))?;
    drop(sender);
    captured(LONGEST, engine, id, &of_ours(args), Some(Stdin::Keys(receiver))).await
}

/// A program of ours, as root.
fn of_ours(args: &[&str]) -> ProcessSpec {
    ProcessSpec {
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        env: vec![format!("PATH={PATH}"), "HOME=/root".into(), "LC_ALL=C.UTF-8".into()],
        cwd: "/".into(),
        ..ProcessSpec::default()
    }
}

async fn captured(
    longest: Duration,
    engine: &dyn Engine,
    id: &str,
    process: &ProcessSpec,
    stdin: Option<Stdin>,
) -> Result<(u32, String, String)> {
    let (sender, mut chunks) = mpsc::channel(16);
    let collect = async {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        while let Some(chunk) = chunks.recv().await {
            // Of the rest nothing is kept, so that the program does not wait for us.
            match chunk {
                Chunk::Out(bytes) if out.len() < MOST => out.extend(bytes),
                Chunk::Err(bytes) if err.len() < MOST => err.extend(bytes),
                _ => {}
            }
        }
        (String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&err).into_owned())
    };
    let running =
        async { tokio::join!(engine.exec(id, process, Session { stdin, ..Session::output_only(sender) }), collect) };
    let (code, (out, err)) = tokio::time::timeout(longest, running)
        .await
        .map_err(|_| Error::new(format!("{} does not end within {} s in {id}", process.args[0], longest.as_secs())))?;
    Ok((code?, out, err))
}

/// What a host has said, line by line, without what would mean something to a terminal: the host need not be a friend.
pub fn plain_lines(text: &str) -> Vec<String> {
    let plain = |line: &str| line.chars().filter(|c| !c.is_control()).take(500).collect::<String>();
    text.lines().map(plain).filter(|l| !l.trim().is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn programs_are_looked_for_inside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        symlink("usr/bin", dir.path().join("bin")).unwrap();
        for (name, mode) in [("tool", 0o755), ("text", 0o644)] {
            let path = dir.path().join("usr/bin").join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        for (program, code) in
            [("tool", 0), ("/bin/tool", 0), ("./tool", 0), ("text", 126), ("/usr/bin", 126), ("none", 127), ("", 126)]
        {
            let outcome = check_program(&root, "/usr/bin", PATH, &[program.to_owned()]);
            assert_eq!(outcome.err().map_or(0, |e| e.exit_code()), code, "{program:?}");
        }
    }
}
