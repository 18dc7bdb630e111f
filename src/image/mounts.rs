//! `RUN --mount`: makes what is mounted into a step, and takes away what is left of it.

use super::build::Builder;
use super::caches;
use super::copy::{self, Plan, Source, Supply};
use super::dockerfile::mount::{Kind, Mount as Wanted};
use super::evaluate::{Around, Running};
use super::pattern::{self, cleaned};
use super::tree::Tree;
use crate::engine::{Image, Mount, StepRoot};
use crate::error::{Doing as _, Error, Result};
use crate::host;
use crate::rooted::Root;
use rustix::fs::{AtFlags, Mode, Timestamps};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::AbortOnDropHandle;

/// What was made for one step.
#[derive(Default)]
pub(super) struct Mounted {
    pub(super) mounts: Vec<Mount>,
    /// Variables.
    pub(super) env: Vec<String>,
    /// Trees that are shown and thrown away.
    steps: Vec<StepRoot>,
    /// Those of caches.
    locks: Vec<host::Lock>,
    /// Caches that this step has already: it does not wait for itself.
    caches: BTreeMap<String, PathBuf>,
    agents: Vec<AbortOnDropHandle<()>>,
    /// Whether the caller's secrets go to files here.
    private: Option<PathBuf>,
    stubs: Vec<Stub>,
}

/// A place in the tree that the runtime makes to mount something on.
struct Stub {
    /// Parents of what is missing, with their times.
    parent: (OwnedFd, Timestamps),
    /// From the innermost to the outermost.
    made: Vec<PathBuf>,
}

impl Builder {
    /// Makes what a RUN wants mounted. Whatever comes of it, [`Self::unmount`] has to be called.
    pub(super) async fn mount(
        &self,
        mounted: &mut Mounted,
        step: &StepRoot,
        run: &Running,
        workdir: &str,
        around: &Around<'_>,
    ) -> Result<()> {
        let root = Root::open(&step.root)?;
        for (_, inside) in self.uplink.files() {
            mounted.stubs.extend(stub(&root, Path::new(&inside))?);
        }
        let private = step.root.parent().unwrap_or(&step.root).join("mounts");
        if let Some((name, content)) = &run.script {
            let file = new_file(&private, mounted, content.as_bytes(), (0o755, 0, 0))?;
            mounted.mounts.push(Mount::bind(file.to_string_lossy(), name, true));
        }
        self.take_caches(mounted, run, workdir).await?;
        // Outer ones first, whatever their order in the line.
        let mut all: Vec<(String, &Wanted)> =
            run.mounts.iter().enumerate().map(|(number, wanted)| (target(wanted, workdir, number), wanted)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        for (target, wanted) in all {
            let doing = || format!("cannot mount {}", described(wanted));
            if target == "/" {
                return Err(Error::new("nothing can be mounted on /")).doing(doing);
            }
            let made = match wanted.kind {
                Kind::Bind => Some(self.bind(mounted, wanted, &target, around).await.doing(doing)?),
                Kind::Cache => Some(self.cache(mounted, wanted, &target, around).await.doing(doing)?),
                Kind::Tmpfs => Some(tmpfs(wanted, &target)),
                Kind::Secret => self.secret(mounted, wanted, &target, &private).doing(doing)?,
                Kind::Ssh => self.agent(mounted, wanted, &target, &private).doing(doing)?,
            };
            if let Some(made) = made {
                mounted.stubs.extend(stub(&root, Path::new(&made.target))?);
                mounted.mounts.push(made);
            }
        }
        Ok(())
    }

    /// The caches of a step: each once, and in one order for all steps, so that none waits for itself or for one that waits for it.
    async fn take_caches(&self, mounted: &mut Mounted, run: &Running, workdir: &str) -> Result<()> {
        let mut wanted = BTreeMap::new();
        for mount in run.mounts.iter().filter(|mount| mount.kind == Kind::Cache) {
            let sharing = wanted.entry(cache_id(mount, workdir)).or_insert(mount.sharing);
            *sharing = (*sharing).max(mount.sharing);
        }
        for (id, sharing) in wanted {
            let (dir, lock) = caches::take(&self.caches, &id, sharing, &self.cancel).await?;
            mounted.locks.push(lock);
            mounted.caches.insert(id, dir);
        }
        Ok(())
    }

    /// Takes away what was made.
    pub(super) async fn unmount(&self, mounted: Mounted) -> Result<()> {
        let mut errors: Vec<Error> = mounted.stubs.into_iter().rev().filter_map(|stub| stub.remove().err()).collect();
        for step in mounted.steps {
            errors.extend(self.images.abort_step(step).await.err());
        }
        if let Some(dir) = mounted.private {
            errors.extend(host::remove_dir(&dir).err());
        }
        Error::all(errors)
    }

    /// A tree of its own, which nobody keeps: of an image, or a copy of what the context shows.
    async fn shown(&self, mounted: &mut Mounted, wanted: &Wanted, around: &Around<'_>) -> Result<PathBuf> {
        let source = wanted.source.as_deref().unwrap_or("/");
        let missing = |name: &String| Error::new(format!("there is no stage or image {name}"));
        let of = |name: &String| around.images.get(name).ok_or_else(|| missing(name));
        let image = wanted.from.as_ref().map(of).transpose()?;
        let step = self.images.begin_step(image.and_then(Image::chain_id).as_deref()).await?;
        let root = step.root.clone();
        mounted.steps.push(step);
        if image.is_some() {
            let (path, _) = Tree::image(Root::open(&root)?).look(&cleaned(source), source)?;
            return Ok(root.join(path));
        }
        let (context, source, limit) = (around.context.clone(), source.to_owned(), self.options.unpack_limit());
        let copied = tokio::task::spawn_blocking(move || {
            let (path, stat) = context.look(&cleaned(&source), &source)?;
            let is_dir = super::tree::kind(&stat) == rustix::fs::FileType::Directory;
            let name = path.file_name().unwrap_or_default().to_owned();
            let literal = pattern::escaped(&path.to_string_lossy());
            let plan = Plan { sources: vec![Source::Path(literal)], dest: "/shown/".into(), ..Plan::default() };
            copy::apply(&plan, &Supply { tree: &context, fetched: &[], limit }, &root)?;
            Ok(if is_dir { root.join("shown") } else { root.join("shown").join(name) })
        });
        copied.await.doing(|| "copy".into())?
    }

    async fn bind(&self, mounted: &mut Mounted, wanted: &Wanted, target: &str, around: &Around<'_>) -> Result<Mount> {
        let source = self.shown(mounted, wanted, around).await?;
        Ok(Mount::bind(source.to_string_lossy(), target, wanted.read_only))
    }

    async fn cache(&self, mounted: &mut Mounted, wanted: &Wanted, target: &str, around: &Around<'_>) -> Result<Mount> {
        let id = wanted.id.as_deref().unwrap_or(target);
        let dir = mounted.caches.get(id).cloned().ok_or_else(|| Error::new("its cache is not there"))?;
        if fs::symlink_metadata(&dir).is_err() {
            let mut new = dir.clone().into_os_string();
            new.push(format!(".{:08x}.new", rand::random::<u32>()));
            let new = PathBuf::from(new);
            fs::create_dir(&new).doing(|| format!("cannot create {}", new.display()))?;
            if wanted.from.is_some() {
                let tree = Tree::image(Root::open(&self.shown(mounted, wanted, around).await?)?);
                let plan = Plan { sources: vec![Source::Path("/".into())], dest: "/".into(), ..Plan::default() };
                copy::apply(&plan, &Supply { tree: &tree, fetched: &[], limit: self.options.unpack_limit() }, &new)?;
            }
            let doing = || format!("cannot set owner and mode of {}", new.display());
            std::os::unix::fs::chown(&new, wanted.uid.or(Some(0)), wanted.gid.or(Some(0))).doing(doing)?;
            fs::set_permissions(&new, fs::Permissions::from_mode(wanted.mode.unwrap_or(0o755))).doing(doing)?;
            // Another step may have been first.
            if let Err(e) = fs::rename(&new, &dir) {
                host::remove_dir(&new)?;
                fs::metadata(&dir).map_err(|_| e).doing(|| format!("cannot create {}", dir.display()))?;
            }
        }
        let mut mount = Mount::bind(dir.to_string_lossy(), target, wanted.read_only);
        mount.options.extend(["nosuid".to_owned(), "nodev".to_owned()]);
        Ok(mount)
    }

    fn secret(&self, mounted: &mut Mounted, wanted: &Wanted, target: &str, private: &Path) -> Result<Option<Mount>> {
        let named = wanted.id.as_deref().or(wanted.source.as_deref());
        let id = named.unwrap_or_else(|| target.rsplit('/').next().unwrap_or_default());
        let Some(bytes) = self.options.secrets.get(id) else {
            return if wanted.required {
                Err(Error::new(format!("the build has no secret {id:?}"))
                    .hint(format!("give it: oardocker build --secret id={id},src=FILE")))
            } else {
                Ok(None)
            };
        };
        if let Some(name) = &wanted.env {
            let value = std::str::from_utf8(bytes).map_err(|_| Error::new(format!("the secret {id:?} is no text")))?;
            let name = if name.is_empty() { id } else { name };
            mounted.env.push(format!("{name}={value}"));
            if wanted.target.is_none() {
                return Ok(None);
            }
        }
        let access = (wanted.mode.unwrap_or(0o400), wanted.uid.unwrap_or(0), wanted.gid.unwrap_or(0));
        let file = new_file(private, mounted, bytes, access)?;
        Ok(Some(Mount::bind(file.to_string_lossy(), target, true)))
    }

    /// A socket that passes on to the caller's agent.
    fn agent(&self, mounted: &mut Mounted, wanted: &Wanted, target: &str, private: &Path) -> Result<Option<Mount>> {
        let id = wanted.id.as_deref().unwrap_or("default");
        let Some(theirs) = self.options.agents.get(id).cloned() else {
            return if wanted.required {
                Err(Error::new(format!("the build has no ssh agent {id:?}"))
                    .hint("give it: oardocker build --ssh default (where SSH_AUTH_SOCK is set)"))
            } else {
                Ok(None)
            };
        };
        let place = new_file(private, mounted, b"", (0o600, 0, 0))?;
        let doing = || format!("cannot listen at {}", place.display());
        fs::remove_file(&place).doing(doing)?;
        let listener = UnixListener::bind(&place).doing(doing)?;
        std::os::unix::fs::chown(&place, wanted.uid.or(Some(0)), wanted.gid.or(Some(0))).doing(doing)?;
        fs::set_permissions(&place, fs::Permissions::from_mode(wanted.mode.unwrap_or(0o600))).doing(doing)?;
        mounted.agents.push(AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok((mut inside, _)) = listener.accept().await {
                let theirs = theirs.clone();
                tokio::spawn(async move {
                    let mut outside = UnixStream::connect(theirs).await?;
                    tokio::io::copy_bidirectional(&mut inside, &mut outside).await
                });
            }
        })));
        mounted.env.push(format!("SSH_AUTH_SOCK={target}"));
        Ok(Some(Mount::bind(place.to_string_lossy(), target, false)))
    }
}

fn described(wanted: &Wanted) -> String {
    let part = |name: &str, value: &Option<String>| value.as_ref().map(|v| format!("{name}={v}"));
    let parts = [
        part("id", &wanted.id),
        part("from", &wanted.from),
        part("source", &wanted.source),
        part("target", &wanted.target),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(",")
}

/// Where it is in the step; a secret and an agent have places of their own.
fn target(wanted: &Wanted, workdir: &str, number: usize) -> String {
    let id = wanted.id.as_deref().or(wanted.source.as_deref()).unwrap_or("default");
    let default = match wanted.kind {
        Kind::Secret => format!("/run/secrets/{}", id.rsplit('/').next().unwrap_or(id)),
        _ => format!("/run/oardocker/ssh_agent.{number}"),
    };
    let target = wanted.target.as_deref().unwrap_or(&default);
    let whole = Path::new(workdir).join(target);
    format!("/{}", cleaned(&whole.to_string_lossy()).display())
}

fn cache_id(wanted: &Wanted, workdir: &str) -> String {
    wanted.id.clone().unwrap_or_else(|| target(wanted, workdir, 0))
}

fn tmpfs(wanted: &Wanted, target: &str) -> Mount {
    let mut options = ["nosuid", "nodev", "mode=1777"].map(String::from).to_vec();
    options.extend(wanted.size.map(|bytes| format!("size={bytes}")));
    options.extend(wanted.read_only.then(|| "ro".to_owned()));
    Mount { target: target.into(), kind: "tmpfs".into(), source: "tmpfs".into(), options }
}

/// A file beside the step's tree, where only root looks. It goes with the step.
fn new_file(private: &Path, mounted: &mut Mounted, bytes: &[u8], (mode, uid, gid): (u32, u32, u32)) -> Result<PathBuf> {
    host::private_dir(private)?;
    mounted.private = Some(private.into());
    let path = private.join(format!("{:08x}", rand::random::<u32>()));
    host::write_file(&path, "", 0o600)?;
    let doing = || format!("cannot write {}", path.display());
    fs::write(&path, bytes).doing(doing)?;
    std::os::unix::fs::chown(&path, Some(uid), Some(gid)).doing(doing)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).doing(doing)?;
    Ok(path)
}

/// What the runtime will have to make for a mount; none where it is there.
fn stub(root: &Root, target: &Path) -> Result<Option<Stub>> {
    let doing = || format!("cannot look at {}", target.display());
    let path = root.resolved(target).doing(doing)?;
    let missing: Vec<PathBuf> = path
        .ancestors()
        .take_while(|part| !part.as_os_str().is_empty() && root.entry(part).is_err())
        .map(Path::to_owned)
        .collect();
    let Some(outermost) = missing.last() else { return Ok(None) };
    let (parent, stat) =
        root.handle(outermost.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("/"))).doing(doing)?;
    let time = |seconds, nanoseconds| rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    let outer = outermost.parent().unwrap_or(Path::new("")).to_owned();
    let made = missing.iter().map(|p| p.strip_prefix(&outer).unwrap_or(p).to_owned()).collect();
    Ok(Some(Stub { parent: (parent, times), made }))
}

impl Stub {
    /// Removes what is empty. What the step itself has put there stays.
    fn remove(self) -> Result<()> {
        let (parent, times) = self.parent;
        let mut all = true;
        for path in &self.made {
            all &= gone(&parent, path).doing(|| format!("cannot remove {}", path.display()))?;
        }
        if all {
            rustix::fs::utimensat(&parent, ".", &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(std::io::Error::from)
                .doing(|| "cannot set the time of a directory".into())?;
        }
        Ok(())
    }
}

fn gone(parent: &OwnedFd, path: &Path) -> std::io::Result<bool> {
    use rustix::io::Errno;
    let inside = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
    let above = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = match rustix::fs::openat2(parent, above, flags | rustix::fs::OFlags::DIRECTORY, Mode::empty(), inside) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(true),
        dir => dir?,
    };
    let name = path.file_name().unwrap_or_default();
    let stat = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(true),
        stat => stat?,
    };
    let flags = match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::Directory => AtFlags::REMOVEDIR,
        rustix::fs::FileType::RegularFile if stat.st_size == 0 => AtFlags::empty(),
        _ => return Ok(false),
    };
    match rustix::fs::unlinkat(&dir, name, flags) {
        Ok(()) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(e) => Err(e.into()),
    }
}
