//! Images of our own on disk, for engines that have no place for half-built ones: layers, unpacked and as blobs, and names.
//!
//! ```text
//! <data dir>/store/lock                  shared while something is half done, exclusive while the unused is removed
//!                 /blobs/<digest>        compressed layers
//!                 /chains/<chain id>/fs  what the topmost layer of a chain changes, in overlay form
//!                                  /parent  the chain id below; absent for the first
//!                 /images/<hash of the name>  one image: name, labels, configuration, layers
//!                 /steps/<key>/upper work     a build step's changes
//! ```
//! Steps are run by the host's OCI runtime itself. Everything enters its place by rename, and is on the disk by then: what is there
//! is whole, also after a power cut, and what cannot be read is an error and not nothing.

use super::step::{Maker, Steps};
use super::{DockerConfig, Image, ImageRecord, Images, Layer, StepRoot, StepSpec, oci, sha256};
use crate::error::{Doing as _, Error, Result};
use crate::host::{self, Machine, private_dir};
use async_trait::async_trait;
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;

/// The runtimes that can run steps, best first: crun refuses hybrid hosts.
const RUNTIMES: [&str; 2] = ["runc", "crun"];

/// One image on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    name: String,
    id: String,
    /// Seconds since 1970.
    created: u64,
    labels: BTreeMap<String, String>,
    config: ImageConfiguration,
    #[serde(default)]
    docker: DockerConfig,
    layers: Vec<Layer>,
}

/// The store; its lock is shared with other oardockers until it is released.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    /// Of the OCI runtime.
    runtime_root: PathBuf,
    steps: Steps,
    held: Mutex<Option<host::Lock>>,
}

/// `sha256:<hex>` without its prefix: a file name.
fn digits(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

impl Store {
    /// The store of this host.
    pub(super) fn open(machine: &Machine) -> Self {
        let (dir, runtime_root) = (machine.data_dir().join("store"), machine.runtime_dir().join("runtime"));
        Self { dir, runtime_root, steps: Steps::new(machine), held: Mutex::new(None) }
    }

    fn sub(&self, kind: &str, name: &str) -> PathBuf {
        self.dir.join(kind).join(name)
    }

    /// Where a layer's blob is.
    pub(super) fn blob(&self, layer: &Layer) -> PathBuf {
        self.sub("blobs", digits(&layer.digest))
    }

    fn image_file(&self, name: &str) -> PathBuf {
        self.sub("images", digits(&sha256(name.as_bytes())))
    }

    fn make(&self, kind: &str) -> Result<()> {
        let dir = self.dir.join(kind);
        fs::create_dir_all(&dir).doing(|| format!("cannot create {}", dir.display()))
    }

    /// The file whose lock is shared by those who have something half done.
    fn lock_file(&self) -> Result<File> {
        // What images hold, set-uid programs among it, is for root alone.
        private_dir(&self.dir)?;
        let path = self.dir.join("lock");
        let opened = fs::OpenOptions::new().append(true).create(true).open(&path);
        opened.doing(|| format!("cannot lock {}", path.display()))
    }

    /// Keeps what is half done from being removed as unused.
    pub(super) fn hold(&self) -> Result<()> {
        let mut held = self.held.lock().expect("no panics under this lock");
        if held.is_none() {
            *held = Some(host::share(self.lock_file()?).doing(|| "cannot lock the images".into())?);
        }
        Ok(())
    }

    /// Nothing is half done any more.
    fn let_go(&self) {
        self.held.lock().expect("no panics under this lock").take();
    }

    fn stored(&self) -> Result<Vec<Stored>> {
        let mut all = Vec::new();
        for path in entries(&self.dir.join("images"))? {
            // What begins with a dot is being written.
            if path.file_name().is_some_and(|name| !name.as_bytes().starts_with(b".")) {
                all.extend(read(&path)?);
            }
        }
        Ok(all)
    }

    fn remove_unused(&self) -> Result<()> {
        let (mut chains, mut blobs) = (BTreeSet::new(), BTreeSet::new());
        for stored in self.stored()? {
            for (i, layer) in stored.layers.iter().enumerate() {
                chains.extend(super::chain_id(stored.layers[..=i].iter().map(|l| &l.diff_id)));
                blobs.insert(layer.digest.clone());
            }
        }
        let (chains, blobs): (BTreeSet<&str>, BTreeSet<&str>) =
            (chains.iter().map(|c| digits(c)).collect(), blobs.iter().map(|b| digits(b)).collect());
        let unused = |kind: &str, used: &BTreeSet<&str>| -> Result<Vec<PathBuf>> {
            let is_used = |path: &PathBuf| path.file_name().and_then(|n| n.to_str()).is_some_and(|n| used.contains(n));
            Ok(entries(&self.dir.join(kind))?.into_iter().filter(|path| !is_used(path)).collect())
        };
        let mut errors = Vec::new();
        for dir in unused("chains", &chains)? {
            // Without its name first: one that is removed in part, by a process that is killed, must not pass for whole.
            let gone = self.dir.join("chains").join(format!(".gone-{:016x}", rand::random::<u64>()));
            let renamed = fs::rename(&dir, &gone).doing(|| format!("cannot remove {}", dir.display()));
            errors.extend(renamed.and_then(|()| remove_dir(&gone)).err());
        }
        for file in unused("blobs", &blobs)? {
            errors.extend(remove_file(&file).err());
        }
        Error::all(errors)
    }

    /// Directories of a chain, the topmost first, as overlay wants them.
    fn directories(&self, chain_id: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut next = Some(chain_id.to_owned());
        while let Some(chain) = next {
            let dir = self.sub("chains", digits(&chain));
            if !dir.is_dir() {
                return Err(Error::new(format!("the layers {chain} are gone")).hint("build again"));
            }
            found.push(dir.join("fs"));
            let parent = dir.join("parent");
            next = match fs::read_to_string(&parent) {
                Ok(parent) if self.has(&parent) => Some(parent),
                Ok(parent) => {
                    return Err(Error::new(format!("the layers {parent} below {chain} are gone")).hint("build again"));
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
                Err(e) => return Err(e).doing(|| format!("cannot read {}", parent.display())),
            };
        }
        Ok(found)
    }

    fn mount_step(&self, key: &str, parent: Option<&str>) -> Result<StepRoot> {
        let dir = self.sub("steps", key);
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        for dir in [&upper, &work] {
            fs::create_dir_all(dir).doing(|| format!("cannot create {}", dir.display()))?;
        }
        match parent {
            None => self.steps.mount_bind(&upper, key)?,
            Some(chain) => {
                let text = |path: &PathBuf| path.to_string_lossy().into_owned();
                let lower = self.directories(chain)?.iter().map(text).collect::<Vec<_>>().join(":");
                let options = [("lowerdir", lower), ("upperdir", text(&upper)), ("workdir", text(&work))];
                self.steps.mount_overlay(&options.map(|(name, value)| format!("{name}={value}")), key)?;
            }
        }
        Ok(StepRoot { key: key.into(), root: self.steps.root(key), changes: upper, parent: parent.map(Into::into) })
    }

    fn has(&self, chain_id: &str) -> bool {
        !digits(chain_id).is_empty() && self.sub("chains", digits(chain_id)).join("fs").is_dir()
    }

    /// Stores a blob, checked on the way.
    fn copy_in(&self, layer: &Layer, from: &Path) -> Result<()> {
        self.hold()?;
        self.make("blobs")?;
        let doing = || format!("cannot store layer {}", layer.digest);
        let to = self.blob(layer);
        // Also in place of one that is there: what it has become on the disk is not known, and what is written here is.
        let mut part = tempfile::Builder::new().prefix(".").tempfile_in(self.dir.join("blobs")).doing(doing)?;
        let mut hash = Sha256::new();
        let mut source = File::open(from).doing(doing)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = std::io::Read::read(&mut source, &mut buffer).doing(doing)?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
            std::io::Write::write_all(&mut part, &buffer[..n]).doing(doing)?;
        }
        let found = format!("sha256:{}", hex::encode(hash.finalize()));
        if found != layer.digest {
            return Err(Error::new(format!("its content has digest {found}"))).doing(doing);
        }
        part.as_file().sync_all().doing(doing)?;
        part.persist(&to).map_err(|e| e.error).doing(doing)?;
        sync_dir(&self.dir.join("blobs")).doing(doing)
    }

    /// Removes a step in which nothing runs.
    fn discard(&self, key: &str) -> Result<()> {
        self.steps.unmount(key)?;
        remove_dir(&self.sub("steps", key))?;
        self.steps.forget(key)
    }

    /// Throws a step away, with what still runs in it.
    async fn throw_away(&self, key: &str) -> Result<()> {
        self.delete_container(key).await?;
        self.discard(key)
    }

    /// Ends and removes a step's container, if there is one.
    async fn delete_container(&self, id: &str) -> Result<()> {
        if !self.runtime_root.join(id).exists() {
            return Ok(());
        }
        let doing = || format!("cannot remove container {id}");
        let mut command = tokio::process::Command::new(runtime()?);
        command.arg("--root").arg(&self.runtime_root).args(["delete", "--force", id]);
        let out = command.output().await.doing(doing)?;
        if out.status.success() || !self.runtime_root.join(id).exists() {
            return Ok(());
        }
        Err(Error::new(String::from_utf8_lossy(&out.stderr).trim().to_owned())).doing(doing)
    }
}

#[async_trait]
impl Images for Store {
    async fn images(&self) -> Result<Vec<ImageRecord>> {
        let record = |s: Stored| ImageRecord {
            name: s.name,
            id: s.id,
            created: UNIX_EPOCH + Duration::from_secs(s.created),
            labels: s.labels,
        };
        Ok(self.stored()?.into_iter().map(record).collect())
    }

    async fn image(&self, name: &str) -> Result<Option<Image>> {
        Ok(read(&self.image_file(name))?.map(|s| Image { config: s.config, docker: s.docker, layers: s.layers }))
    }

    async fn put_image(&self, name: &str, image: &Image, labels: &BTreeMap<String, String>) -> Result<String> {
        self.hold()?;
        self.make("images")?;
        let doing = || format!("cannot store image {name}");
        let (id, _) = image.configuration().doing(doing)?;
        let stored = Stored {
            name: name.into(),
            id: id.clone(),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            labels: labels.clone(),
            config: image.config.clone(),
            docker: image.docker.clone(),
            layers: image.layers.clone(),
        };
        let mut file = tempfile::Builder::new().prefix(".").tempfile_in(self.dir.join("images")).doing(doing)?;
        serde_json::to_writer(&mut file, &stored).doing(doing)?;
        // Its layers are on the disk: a name comes after what it names.
        file.as_file().sync_all().doing(doing)?;
        file.persist(self.image_file(name)).map_err(|e| e.error).doing(doing)?;
        sync_dir(&self.dir.join("images")).doing(doing)?;
        Ok(id)
    }

    /// Forgets names, and removes what nothing refers to any more unless another oardocker is at work.
    async fn remove_images(&self, names: &[String]) -> Result<()> {
        let mut errors = Vec::new();
        for name in names {
            errors.extend(remove_file(&self.image_file(name)).err());
        }
        self.let_go();
        if let Ok(_alone) = host::try_lock(self.lock_file()?).doing(|| "cannot lock the images".into())? {
            errors.extend(self.remove_unused().err());
        }
        Error::all(errors)
    }

    async fn has_chain(&self, chain_id: &str) -> Result<bool> {
        // Whoever asks goes on to use it.
        self.hold()?;
        Ok(self.has(chain_id))
    }

    async fn put_layer(&self, layer: &Layer, file: &Path) -> Result<()> {
        tokio::task::block_in_place(|| self.copy_in(layer, file))
    }

    async fn begin_step(&self, parent: Option<&str>) -> Result<StepRoot> {
        self.recover().await?;
        self.hold()?;
        let key = Maker::Store.new_key();
        self.steps.hold(&key)?;
        let begun = self.mount_step(&key, parent);
        if begun.is_err() {
            let _ = self.discard(&key);
        }
        begun
    }

    async fn run_step(&self, step: &StepRoot, spec: &StepSpec, output: mpsc::Sender<Vec<u8>>) -> Result<u32> {
        let doing = || format!("cannot run a step in container {}", step.key);
        let runtime = runtime()?;
        let bundle = self.steps.dir(&step.key).join("bundle");
        fs::create_dir_all(&bundle).doing(doing)?;
        fs::write(bundle.join("config.json"), oci::step(spec, &step.root).to_string()).doing(doing)?;
        let mut child = tokio::process::Command::new(runtime)
            .arg("--root")
            .arg(&self.runtime_root)
            .arg("run")
            .arg("--bundle")
            .arg(&bundle)
            .arg(&step.key)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A signal for us is ours to pass on: the step is undone.
            .process_group(0)
            // A step that is not wanted any more is thrown away, with what its runtime has begun.
            .kill_on_drop(true)
            .spawn()
            .doing(doing)?;
        let streams = (child.stdout.take(), child.stderr.take());
        tokio::join!(forward(streams.0, output.clone()), forward(streams.1, output));
        let status = child.wait().await.doing(doing)?;
        self.delete_container(&step.key).await?;
        // After a signal as a shell has it.
        let signal = std::os::unix::process::ExitStatusExt::signal(&status).map(|s| 128 + s);
        Ok(status.code().or(signal).and_then(|c| u32::try_from(c).ok()).unwrap_or(1))
    }

    async fn commit_step(&self, step: StepRoot, layer: &Layer) -> Result<String> {
        let chain = super::chain_id(step.parent.iter().chain([&layer.diff_id])).expect("one layer at least");
        let doing = || format!("cannot keep layer {}", layer.diff_id);
        self.steps.unmount(&step.key)?;
        self.make("chains")?;
        // Complete before it gets its name; another build may have made the very same at the same time.
        let new = self.sub("steps", &step.key).join("chain");
        fs::create_dir(&new).doing(doing)?;
        if let Some(parent) = &step.parent {
            fs::write(new.join("parent"), parent).doing(doing)?;
        }
        fs::rename(&step.changes, new.join("fs")).doing(doing)?;
        // The step's changes have been written by programs that sync nothing.
        let opened = File::open(&new).doing(doing)?;
        rustix::fs::syncfs(&opened).map_err(std::io::Error::from).doing(doing)?;
        match fs::rename(&new, self.sub("chains", digits(&chain))) {
            Err(e) if !self.has(&chain) => return Err(e).doing(doing),
            _ => {}
        }
        sync_dir(&self.dir.join("chains")).doing(doing)?;
        self.discard(&step.key)?;
        Ok(chain)
    }

    async fn abort_step(&self, step: StepRoot) -> Result<()> {
        self.throw_away(&step.key).await
    }

    async fn recover(&self) -> Result<()> {
        for key in self.steps.abandoned(Maker::Store) {
            self.throw_away(&key).await?;
        }
        // After a reboot nothing of the runtime directory tells of them.
        for dir in entries(&self.dir.join("steps"))? {
            if dir.file_name().is_some_and(|key| !self.steps.dir(&key.to_string_lossy()).exists()) {
                remove_dir(&dir)?;
            }
        }
        Ok(())
    }

    async fn release(&self) -> Result<()> {
        self.let_go();
        Ok(())
    }
}

/// What is in a directory; one that is not there is empty.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let doing = || format!("cannot read {}", dir.display());
    match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        found => found.doing(doing)?.map(|entry| Ok(entry.doing(doing)?.path())).collect(),
    }
}

/// Has the names in a directory on the disk.
fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

fn runtime() -> Result<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &&str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    RUNTIMES.into_iter().find(there).ok_or_else(|| {
        Error::new("build steps need an OCI runtime, and neither runc nor crun is installed")
            .hint("install one: apt install runc")
    })
}

async fn forward(stream: Option<impl AsyncRead + Unpin>, to: mpsc::Sender<Vec<u8>>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        if to.send(buffer[..n].to_vec()).await.is_err() {
            return;
        }
    }
}

fn read(path: &Path) -> Result<Option<Stored>> {
    let doing = || format!("cannot read {}", path.display());
    match fs::read(path) {
        // Taking it for none would have its layers removed as unused.
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .doing(doing)
            .map_err(|e| e.hint(format!("the image is damaged; build again without it: rm {}", path.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).doing(doing),
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).doing(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).doing(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Compression;

    fn layer(text: &str) -> Layer {
        let size = text.len() as u64;
        Layer {
            diff_id: sha256(format!("diff {text}").as_bytes()),
            digest: sha256(text.as_bytes()),
            size,
            compression: Compression::Plain,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_no_name_needs_is_removed() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Store::open(&Machine::below(tmp.path()));
        let (kept, gone) = (layer("kept"), layer("gone"));
        for layer in [&kept, &gone] {
            let file = tmp.path().join("blob");
            fs::write(&file, if *layer == kept { "kept" } else { "gone" }).unwrap();
            store.put_layer(layer, &file).await.unwrap();
            fs::create_dir_all(store.sub("chains", digits(&layer.diff_id)).join("fs")).unwrap();
        }
        let wrong = tmp.path().join("wrong");
        fs::write(&wrong, "wrong").unwrap();
        assert!(store.put_layer(&layer("right"), &wrong).await.is_err(), "a blob must have its digest");
        let image = |l: &Layer| Image::new(ImageConfiguration::default(), vec![l.clone()]);
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let id = store.put_image("one/a:latest", &image(&kept), &labels).await.unwrap();
        store.put_image("two", &image(&gone), &labels).await.unwrap();
        store.remove_images(&["two".to_owned(), "none".to_owned()]).await.unwrap();
        let records = store.images().await.unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!((&records[0].name, &records[0].id, &records[0].labels), (&"one/a:latest".to_owned(), &id, &labels));
        assert!(store.has(&kept.diff_id) && !store.has(&gone.diff_id));
        assert!(store.blob(&kept).exists() && !store.blob(&gone).exists());
        assert_eq!(store.image("one/a:latest").await.unwrap().unwrap().layers, [kept]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn layers_are_never_there_in_part() {
        const FILES: usize = 3000;
        let tmp = tempfile::tempdir().unwrap();
        let store = Store::open(&Machine::below(tmp.path()));
        let chain = layer("gone").diff_id;
        let files = store.sub("chains", digits(&chain)).join("fs");
        fs::create_dir_all(&files).unwrap();
        (0..FILES).for_each(|n| drop(File::create(files.join(n.to_string())).unwrap()));
        // What a removal left that was killed.
        fs::create_dir_all(store.dir.join("chains/.gone-1/fs")).unwrap();
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                while store.has(&chain) {
                    let count = fs::read_dir(&files).map_or(0, Iterator::count);
                    assert!(count == FILES || !store.has(&chain), "{count} of {FILES} are there");
                }
            });
            store.remove_unused().unwrap();
            watch.join().unwrap();
        });
        assert_eq!(entries(&store.dir.join("chains")).unwrap(), Vec::<PathBuf>::new());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_cannot_be_read_is_not_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Store::open(&Machine::below(tmp.path()));
        let kept = layer("kept");
        let file = tmp.path().join("blob");
        fs::write(&file, "kept").unwrap();
        store.put_layer(&kept, &file).await.unwrap();
        let chain = store.sub("chains", digits(&kept.diff_id));
        fs::create_dir_all(chain.join("fs")).unwrap();
        let image = Image::new(ImageConfiguration::default(), vec![kept.clone()]);
        store.put_image("a", &image, &BTreeMap::new()).await.unwrap();
        // A blob is what it says, not what is as long.
        fs::write(store.blob(&kept), "lost").unwrap();
        store.put_layer(&kept, &file).await.unwrap();
        assert_eq!(fs::read(store.blob(&kept)).unwrap(), b"kept");
        // A name that cannot be read keeps its layers, and is told.
        let whole = fs::read(store.image_file("a")).unwrap();
        fs::write(store.image_file("a"), &whole[..whole.len() / 2]).unwrap();
        assert!(store.images().await.is_err() && store.image("a").await.is_err());
        let error = store.remove_images(&[]).await.unwrap_err();
        assert!(error.hints()[0].contains("the image is damaged"), "{error}");
        assert!(store.blob(&kept).exists() && store.has(&kept.diff_id));
        // A stack of layers does not end where it cannot be read, or where a layer is gone.
        assert_eq!(store.directories(&kept.diff_id).unwrap().len(), 1);
        fs::create_dir(chain.join("parent")).unwrap();
        assert!(store.directories(&kept.diff_id).unwrap_err().to_string().contains("cannot read"));
        fs::remove_dir(chain.join("parent")).unwrap();
        for parent in ["", "sha256:00"] {
            fs::write(chain.join("parent"), parent).unwrap();
            assert!(store.directories(&kept.diff_id).unwrap_err().to_string().contains("are gone"), "{parent:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn another_one_at_work_keeps_everything() {
        let tmp = tempfile::tempdir().unwrap();
        let store = || Store::open(&Machine::below(tmp.path()));
        let (mine, other) = (store(), store());
        let file = tmp.path().join("blob");
        fs::write(&file, "x").unwrap();
        other.put_layer(&layer("x"), &file).await.unwrap();
        mine.remove_images(&[]).await.unwrap();
        assert!(other.blob(&layer("x")).exists(), "it has no name yet");
        other.let_go();
        mine.remove_images(&[]).await.unwrap();
        assert!(!other.blob(&layer("x")).exists());
    }
}
